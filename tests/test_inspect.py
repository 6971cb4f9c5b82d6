"""`onevec inspect` says what anything holds that onevec reads or writes."""

import json

import h5py
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from onevec import OneVec, encode
from onevec.cli import app
from onevec.errors import StoreError
from onevec.report.describe import describe, for_people
from onevec.tokens.store import TokenStore
from onevec.use.formats import Vectors, save_vectors
from tests.tokens.conftest import bert, vit, wav2vec  # noqa: F401


def test_files_of_sequences(tmp_path):
    (tmp_path / "a.fasta").write_text(">p1 x\nMKTAYI\n>p2\nGG\n")
    facts = describe(tmp_path / "a.fasta")
    assert facts["kind"] == "text sequences" and facts["sequences"] == 2
    assert facts["ids"] == "p1, p2" and facts["first"] == "MKTAYI"
    assert facts["characters"] == "2 to 6, half of them up to 4"
    (tmp_path / "b.csv").write_text("a,b\nx,y\n")
    facts = describe(tmp_path / "b.csv")
    assert facts["columns"] == {"a": "text", "b": "text"} and "name it with" in facts["problem"]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": "AC"}) for _ in range(3_000)))
    assert describe(tmp_path / "c.jsonl")["sequences"] == "more than 1,000"
    soundfile.write(tmp_path / "d.wav", np.zeros(4_000), 8_000)
    facts = describe(tmp_path / "d.wav")
    assert (facts["kind"], facts["rates"]) == ("recordings", [8_000])
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["x"], file["y"] = np.ones((5, 3), "f4"), np.ones((2, 3), "f4")
    facts = describe(tmp_path / "e.h5")
    assert (facts["kind"], facts["sequences"], facts["dim"]) == ("token vectors", 2, 3)


@pytest.mark.parametrize("ending", [".npy", ".parquet", ".arrow", ".safetensors"])
def test_files_of_vectors(tmp_path, ending):
    vectors = Vectors.of(np.ones((3, 4)), None if ending == ".npy" else ["a", "b", "c"])
    facts = describe(save_vectors(vectors, tmp_path / f"v{ending}"))
    assert (facts["kind"], facts["rows"], facts["dim"]) == ("vectors", 3, 4)
    assert facts["ids"] == ("the numbers of the rows" if ending == ".npy" else "a, b, c")


def test_encoders_of_others(bert, vit, wav2vec, tmp_path):  # noqa: F811
    facts = describe(bert)
    assert (facts["kind"], facts["reads"], facts["dim"], facts["layers"]) == (
        "encoder",
        "text",
        16,
        3,
    )
    assert facts["architecture"] == "BertForMaskedLM"
    model = torch.nn.Module.named_parameters
    from transformers import BertForMaskedLM

    loaded = BertForMaskedLM.from_pretrained(bert)
    held = {id(p): p.numel() for _, p in model(loaded)}
    assert facts["parameters"] == sum(held.values())
    assert describe(vit)["reads"] == "images"
    assert describe(wav2vec)["reads"] == "recordings, at 16,000 Hz"


def test_a_part_that_is_damaged_is_named_and_the_rest_is_told(bert, tmp_path):  # noqa: F811
    folder = tmp_path / "encoder"
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pretrain.json").write_text("{no")
    (folder / "model.safetensors").write_bytes(b"no")
    facts = describe(folder)
    assert facts["kind"] == "encoder" and facts["dim"] == 16
    assert "pretrain.json cannot be read" in facts["problem"]
    assert "model.safetensors cannot be read" in facts["problem"]
    (folder / "modules.json").write_text("{no")
    with pytest.raises(StoreError, match="cannot be described"):
        describe(folder)


def test_stores_and_models(tmp_path):
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(9, 4)) for _ in range(40)]
    encode(tokens, out=tmp_path / "s", progress=False)
    OneVec().fit(TokenStore(tmp_path / "s")).save(tmp_path / "m")
    assert describe(tmp_path / "s")["checksums"] == "verified"
    assert describe(tmp_path / "m")["kind"] == "onevec model"


def test_what_is_none_is_one_sentence(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    for path in (tmp_path / "a.docx", tmp_path):
        with pytest.raises(StoreError, match="holds no token store, model, index, encoder"):
            describe(path)
    (tmp_path / "page.html").write_text("<p>")
    assert describe(tmp_path / "page.html")["kind"] == "HTML page"


def test_people_read_numbers_and_lists(tmp_path):
    facts = {"kind": "x", "bytes": 1_310_000, "rows": 12_345, "cls": True, "layers": [1, 2],
             "made_by": None, "share": 0.123456, "outputs": {"a": 1}}  # fmt: skip
    lines = dict(line.split("  ", 1) for line in for_people(facts).splitlines())
    assert {name: line.strip() for name, line in lines.items()} == {
        "kind": "x", "bytes": "1.31 MB", "rows": "12,345", "cls": "yes", "layers": "1, 2",
        "made by": "unknown", "share": "0.1235", "outputs": "a: 1",
    }  # fmt: skip
    (tmp_path / "a.txt").write_text("one two\n")
    run = CliRunner().invoke(app, ["inspect", str(tmp_path / "a.txt")])
    assert run.exit_code == 0 and "text sequences" in run.stdout
    run = CliRunner().invoke(app, ["inspect", str(tmp_path / "a.txt"), "--json"])
    assert json.loads(run.stdout)["sequences"] == 1
