"""The benchmark end to end on shipped data, small: run, resume, baselines, check, tables."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import quality
from onevec import Ragged, encode
from protocol import baselines, encoders, methods, producer, ready_made, report, runner, tasks


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A quick run of one row with baselines, and where its results are."""
    room = tmp_path_factory.mktemp("quality")
    patch = pytest.MonkeyPatch()
    patch.setattr(runner, "RESULTS", room / "cached")
    patch.setattr(report, "RESULTS", room)
    patch.setattr(tasks, "QUICK_SIZES", (300, 200))
    patch.setattr(quality, "QUICK_ROWS", ("gesture",))
    patch.setattr(quality, "QUICK_BASELINES", ("plain", "trivial", "bert_whitening"))
    run(patch, "--baselines")
    run(patch)
    yield room
    patch.undo()


def run(patch, *more):
    patch.setattr(sys, "argv", ["quality.py", "--quick", "--jobs", "1", *more])
    quality.main()


def test_writes_cells_goals_tables_and_a_figure(room):
    result = json.loads((room / "quick.json").read_text())
    (task,) = result["tasks"]
    assert (task["unit"], task["encoder"]) == ("gesture", "frames")
    assert list(task["methods"]) == ["mean", "onevec", "onevec_64"]
    ours, mean = task["methods"]["onevec"], task["methods"]["mean"]
    assert set(ours["probes"]) == {"shot10", "knn", "full", "retrieval"}
    assert ours["score"] == pytest.approx(np.mean(list(ours["probes"].values())), abs=0.02)
    assert ours["gain"] == pytest.approx(ours["score"] - mean["score"], abs=0.02)
    assert ours["interval"][0] <= ours["gain"] <= ours["interval"][1]
    assert mean["dim"] == 16
    assert result["macro"]["onevec"]["raw frames"]["gain"] == pytest.approx(ours["gain"], abs=0.02)
    assert set(result["made_by"]) >= {"onevec", "commit", "machine", "versions", "seeds", "date"}
    assert not result["errors"]
    page = (room / "quick.md").read_text()
    assert "| Q1 |" in page
    assert "gesture, frames, gesture" in page
    assert "BERT-whitening" in page  # of the baselines
    assert (room / "quick-gain.svg").read_text().count("gesture") >= 1


def test_what_was_computed_is_cached(room, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in (room / "cached").iterdir()}
    run(monkeypatch, "--methods", "mean,onevec")
    assert "2 fits, 2 of them cached" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (room / "cached").iterdir()} == before
    found = json.loads((room / "quick.json").read_text())["tasks"][0]["methods"]
    assert "onevec_64" in found  # parts merge


def test_baselines_are_made_once_for_a_version_of_the_protocol(room, monkeypatch):
    path = room / "quick-baselines-v1.json"
    held = json.loads(path.read_text())["tasks"][0]["methods"]
    assert {"mean", "max_pca", "mean_whitened", "bert_whitening"} <= set(held)
    with pytest.raises(SystemExit, match="is read, not made again"):
        run(monkeypatch, "--baselines")


def test_check_reports_how_far_cells_lie_from_the_files(room, monkeypatch, capsys):
    run(monkeypatch, "--check")
    assert capsys.readouterr().out.count("same: ") == 3
    kept = {}
    for path in (room / "quick.json", room / "quick-baselines-v1.json"):
        kept[path] = path.read_text()
        result = json.loads(kept[path])
        result["made_by"]["commit"] = "another"
        for cell in result["tasks"][0]["methods"].values():
            cell["score"] += 5
        path.write_text(json.dumps(result))
    run(monkeypatch, "--check")  # a report: no error
    printed = capsys.readouterr().out
    assert printed.count("differs: ") == 3
    assert "at another" in printed and "(5.00)" in printed
    for path, text in kept.items():
        path.write_text(text)
    with pytest.raises(SystemExit, match="no cell can be recomputed"):
        monkeypatch.setattr(report, "RESULTS", room / "nowhere")
        run(monkeypatch, "--check")


def test_a_method_that_cannot_run_is_reported(room, monkeypatch, capsys):
    def broken(context, seed):
        raise RuntimeError("no such thing")
        yield

    made = methods.producers()
    broken.__module__ = "protocol.baselines"
    made["onevec"] = producer.Producer("onevec", "onevec", broken)
    monkeypatch.setattr(methods, "producers", lambda: made)
    monkeypatch.setattr(runner, "RESULTS", room / "broken")
    run(monkeypatch, "--methods", "onevec", "--out", str(room / "b.json"))
    assert json.loads((room / "b.json").read_text())["errors"] == [
        {"where": "gesture frames", "method": "onevec", "error": "RuntimeError: no such thing"}
    ]
    assert "onevec on gesture frames: RuntimeError" in (room / "b.md").read_text()


def test_only_a_peers_own_refusal_is_final(room, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    job = runner.Job("gesture", "gesture", "frames", "no-such-producer", 0, "key")
    for error, settled in (
        (None, True),
        ("PeerError: it overflows", True),
        ("OSError: full", False),
    ):
        meta = {"error": error, "rows": []}
        np.savez(job.path, meta=np.array(json.dumps(meta)))
        assert runner.settled(job) is settled


def test_minilm_columns_are_its_third_and_its_last_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "CACHE", tmp_path)
    rows = [
        ("how do I get my card", "a", True),
        ("my card is lost", "b", True),
        ("where", "a", False),
    ]
    unit = tasks.text_unit("banking77", rows)
    third, last = (encoders.tokens(unit, name, Path())[0] for name in ready_made.MINILM_LAYERS)
    whole = encode(unit.train, ready_made.minilm(), progress=False)
    assert third.fingerprint.endswith("@layer3")
    assert last.fingerprint.endswith("@layer6")
    np.testing.assert_allclose(last[0].numpy(), whole[0].numpy(), atol=1e-2)
    assert len(list((tmp_path / "tokens").iterdir())) == 2  # train and test, both layers in each


def test_recorded_dimensions_are_the_true_ones():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(5, 3)) @ rng.normal(size=(3, 8)) for _ in range(40)]
    basis = rng.normal(size=(3, 8))
    tokens = Ragged.from_list([rng.normal(size=(5, 3)) @ basis for _ in tokens])
    context = producer.Context(None, "frames", tokens, tokens)
    dims = {result.name: result.dim for result in baselines.trivial(context, 0)}
    assert dims["mean_pca"] == dims["mean_whitened"] == 3


def test_the_baselines_file_is_of_this_version_and_covers_every_row():
    found = report.read(encoders.ROOT / "benchmarks/results" / report.baselines_file().name)
    assert found["protocol"] == report.PROTOCOL
    assert {task["row"] for task in found["tasks"]} == set(tasks.ROWS)
    families = {cell["family"] for task in found["tasks"] for cell in task["methods"].values()}
    assert families == {"plain", "trivial", "peer", "text peer", "bound"}
    assert set(found["encoders"]) == set(encoders.PRETRAINED)


def test_wrong_names_are_refused(monkeypatch):
    monkeypatch.delenv("ONEVEC_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["quality.py"])
    with pytest.raises(SystemExit, match="no data: pass --data DIR"):
        quality.main()
    monkeypatch.setattr(sys, "argv", ["quality.py", "--quick", "--tasks", "no-such"])
    with pytest.raises(SystemExit, match="no task 'no-such': choose from"):
        quality.main()


def test_the_chemical_language_model_is_loaded_rightly():
    import os

    data = Path(os.environ.get("ONEVEC_DATA", "")) / "encoders/lstm_chem"
    if not data.is_dir():
        pytest.skip("encoders/lstm_chem is not here: set ONEVEC_DATA")
    model = ready_made.LSTMChem(data)
    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"]
    assert model.next_symbol_accuracy(smiles) > 0.5
    assert model.symbols("ClC[se]1") == [model.table[s] for s in ("Cl", "C", "[", "se", "]", "1")]
    alone, together = model(smiles[:1])[0], model(smiles)[0]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert len(alone) == len(model.symbols(smiles[0]))
