import html
import json

import pytest

from onevec.demo.walk import encoder_folder, load_proteins, run_demo
from onevec.errors import MissingExtraError

ROW = {"dim", "knn", "shot10", "gain", "interval"}


def test_the_shipped_data_is_clean():
    parts = load_proteins()
    assert set(parts) == {"val", "test"}
    assert not set(parts["val"]["sequence"]) & set(parts["test"]["sequence"])
    for part in parts.values():
        assert len(set(part["sequence"])) == len(part["sequence"]) > 1_000
        assert len(set(part["location"])) == 10


def test_the_shipped_encoder_never_saw_test_and_is_small():
    with encoder_folder() as folder:
        made = json.loads((folder / "pretrain.json").read_text())
        size = sum(path.stat().st_size for path in folder.iterdir())
    assert made["sequences"] + made["held_out_sequences"] == len(load_proteins()["val"]["sequence"])
    assert made["settings"]["precision"] == "fp32"
    assert made["masked_accuracy"] > 1.3 * made["unigram_accuracy"]
    assert size < 3e6


def test_without_the_extras_it_says_so(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else real(name)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'onevec\[hf,report\]'"):
        run_demo(None, print)


@pytest.mark.slow
def test_the_whole_walk(tmp_path):
    said = []
    result = run_demo(tmp_path / "report.html", said.append)
    assert [part["name"] for part in result["parts"]] == ["mean", "rich", "plain"]
    assert result["dim"] == result["parts"][-1]["last"]
    assert set(result["mean"]) == {"dim", "knn", "shot10"}
    for name in ("mean_pca", "mean_whitened", "onevec"):
        assert set(result[name]) == ROW
    assert result["onevec"]["dim"] == result["dim"]
    assert result["mean_pca"]["dim"] == result["mean"]["dim"] < result["dim"]
    assert len(said) >= 5
    page = html.unescape((tmp_path / "report.html").read_text())
    assert result["verdict"]["sentence"] in page
    assert "<h2>The parts</h2>" in page
    assert page.count("data:image/png;base64,") == 3
