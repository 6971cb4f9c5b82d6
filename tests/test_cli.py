"""The command line end to end, on small real files, as a person would call it."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from onevec.cli import app
from onevec.tokens.store import TokenStore

COMMANDS = (
    "embed",
    "encode",
    "pretrain",
    "fit",
    "transform",
    "evaluate",
    "report",
    "inspect",
    "demo",
    "select",
    "explore",
)


def run(*words):
    """Call the command line as `main` does: (exit code, stdout, one-sentence error)."""
    from onevec.errors import OnevecError

    result = CliRunner().invoke(app, [str(word) for word in words])
    error = result.exception
    if error is None or isinstance(error, SystemExit):
        return result.exit_code, result.stdout, result.stderr
    assert isinstance(error, OnevecError | OSError), repr(error)
    return 2, result.stdout, str(error)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A CSV of two kinds of made-up sequences, and the whole chain run on it."""
    room = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    lines = ["name,family,sequence"]
    for row in range(160):
        family = "ab"[row % 2]
        letters = rng.choice(
            list("ACGU"), p=[0.4, 0.1, 0.1, 0.4] if row % 2 else [0.25] * 4, size=30
        )
        lines.append(f"s{row},{family},{''.join(letters)}")
    (room / "rna.csv").write_text("\n".join(lines) + "\n")
    steps = [
        ("pretrain", room / "rna.csv", "--column", "sequence", "--out", room / "encoder",
         "--steps", 20, "--tokenizer", "character"),
        ("encode", room / "rna.csv", "--encoder", room / "encoder", "--column", "sequence",
         "--id-column", "name", "--out", room / "store"),
        ("fit", room / "store", "--out", room / "model", "--dim", 8),
        ("transform", room / "model", room / "store", "--out", room / "vectors.parquet"),
        ("report", room / "model", "--out", room / "report.html"),
    ]  # fmt: skip
    said = []
    for step in steps:
        code, out, error = run(*step)
        assert code == 0, (step, out, error)
        said.append(out)
    return room, said


def test_the_chain(room):
    folder, said = room
    assert "masked accuracy" in said[0]
    assert "160 sequences" in said[1]
    assert said[2].startswith("The vector holds the mean")
    for part in ("mean", "rich", "plain"):
        assert f"\n{part} " in said[2]
    assert "reduced to 8 dimensions by PCA" in said[2]
    assert "160 vectors of 8 dimensions" in said[3]
    table = pq.read_table(folder / "vectors.parquet")
    assert table.column_names == ["id", "vector", "family"]
    assert table["id"][0].as_py() == "s0"
    assert "<h2>The parts</h2>" in (folder / "report.html").read_text()


def test_embed_is_one_command(room, tmp_path):
    folder, said = room
    data = (folder / "rna.csv", "--column", "sequence", "--id-column", "name")
    out = tmp_path / "v.parquet"
    code, shown, error = run("embed", *data, "--encoder", folder / "encoder", "--out", out,
                             "--dim", 8)  # fmt: skip
    assert code == 0, error
    assert shown.startswith(said[2].strip())  # verdict and parts, as `fit` shows them
    assert f"{tmp_path / 'v-model'}: the model" in shown
    assert f"{tmp_path / 'v-report.html'}: the report" in shown
    assert "all 160 sequences" in error
    wanted, found = pq.read_table(folder / "vectors.parquet"), pq.read_table(out)
    assert found.column_names == wanted.column_names
    gap = np.stack(found["vector"].to_pylist()) - np.stack(wanted["vector"].to_pylist())
    assert np.abs(gap).max() < 1e-6
    # The model knows its encoder; both commands apply it.
    others = ("embed", *data, "--model", tmp_path / "v-model"), (
        "transform", tmp_path / "v-model", *data)  # fmt: skip
    for number, words in enumerate(others):
        place = tmp_path / f"{number}.npy"
        code, shown, error = run(*words, "--out", place, "--json")
        assert code == 0, error
        assert json.loads(shown) == {"out": str(place), "shape": [160, 8]}
        assert np.abs(np.load(place) - np.stack(found["vector"].to_pylist())).max() < 1e-6
    code, shown, error = run("evaluate", tmp_path / "v-model", *data, "--labels", "family")
    assert code == 0, error
    assert "95 % interval" in shown
    for words, told in (
        (("--model", tmp_path / "v-model", "--dim", 4), "got --dim with --model"),
        (("--model", tmp_path / "v-model", "--model-out", "m"), "got model_out with a fitted"),
        ((), "raw text without an encoder"),
    ):
        code, _, error = run("embed", *data, "--out", tmp_path / "w.npy", *words)
        assert code == 2
        assert told in error
        assert not list(tmp_path.glob("w*"))


def test_arrays_are_transformed(room, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "t.npy", rng.normal(size=(50, 6, 5)))
    code, _, error = run("embed", tmp_path / "t.npy", "--out", tmp_path / "v.npy", "--effort",
                         "quick")  # fmt: skip
    assert code == 0, error
    code, _, error = run("transform", tmp_path / "v-model", tmp_path / "t.npy", "--out",
                         tmp_path / "w.npy")  # fmt: skip
    assert code == 0, error
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), np.load(tmp_path / "w.npy"))


def test_json_everywhere(room):
    folder, _ = room
    code, out, _ = run("inspect", folder / "store", "--json")
    assert code == 0
    assert json.loads(out)["columns"] == ["id", "family"] or "family" in json.loads(out)["columns"]
    code, out, _ = run("inspect", folder / "model", "--json")
    facts = json.loads(out)
    assert facts["kind"] == "onevec model"
    assert [part["name"] for part in facts["parts"]] == ["mean", "rich", "plain"]
    assert (facts["dim"], facts["parts"][0]["last"]) == (8, facts["token_dim"])
    code, out, _ = run("inspect", folder / "model")
    assert "holds" in out and "the mean of the tokens" in out
    code, out, _ = run("inspect", folder / "encoder", "--json")
    assert json.loads(out)["kind"] == "encoder"
    code, out, _ = run(
        "evaluate", folder / "model", folder / "store", "--labels", "family", "--json"
    )
    assert code == 0
    table = json.loads(out)
    assert list(table) == ["mean", "mean_pca", "mean_whitened", "onevec"]
    assert (
        table["onevec"]["interval"][0] <= table["onevec"]["gain"] <= table["onevec"]["interval"][1]
    )
    code, out, _ = run("evaluate", folder / "model", folder / "store", "--labels", "family")
    assert "95 % interval" in out
    code, out, _ = run(
        "transform", folder / "model", folder / "store", "--out", folder / "v.npy", "--json"
    )
    assert np.load(folder / "v.npy").shape == tuple(json.loads(out)["shape"])


def test_bad_calls_are_one_sentence_and_leave_nothing(room, tmp_path):
    folder, _ = room
    (folder / "mine.html").write_text("my own page")
    calls = {
        ("fit", tmp_path / "none", "--out", tmp_path / "m"): "no token store",
        ("fit", folder / "store", "--out", folder / "model"): "exists",
        ("fit", folder / "store", "--out", tmp_path / "m", "--dim", 0): "dim=0",
        ("fit", folder / "store", "--out", tmp_path / "m", "--parts", "mean,poor"): "part 'poor'",
        ("fit", folder / "store", "--out", tmp_path / "m", "--parts", "mean=much"): "NAME=WEIGHT",
        ("fit", folder / "store", "--out", tmp_path / "m", "--layers", "middle,9"): "layer 9",
        ("transform", tmp_path, folder / "store", "--out", tmp_path / "v.npy"): "config.json",
        ("transform", folder / "model", folder / "store", "--out", tmp_path / "v.txt"): ".npy",
        ("evaluate", folder / "model", folder / "store", "--labels", "kind"): "no column 'kind'",
        ("inspect", tmp_path): "no token store",
        ("encode", tmp_path / "a.csv", "--out", tmp_path / "s"): "a.csv",
        ("encode", folder / "rna.csv", "--out", tmp_path / "s", "--encoder", "no/such"): "no/such",
        ("encode", folder / "rna.csv", "--out", tmp_path / "s", "--encoder", folder / "encoder",
         "--column", "protein"): "protein",
        ("pretrain", folder / "rna.csv", "--out", tmp_path / "e", "--column", "sequence",
         "--precision", "fp8"): "fp8",
        ("pretrain", folder / "rna.csv", "--out", tmp_path / "e", "--column", "sequence",
         "--threads", 0): "threads=0",
        ("pretrain", folder / "rna.csv", "--out", folder / "store", "--column", "sequence",
         "--overwrite"): "it is no encoder of pretrain",
        ("fit", folder / "store", "--out", folder / "store", "--overwrite"): "it is no onevec",
        ("fit", folder / "store", "--out", folder / "rna.csv/m"): "a file, not a folder",
        ("transform", folder / "model", folder / "store", "--out", folder / "rna.csv/v.npy"):
            "a file, not a folder",
        ("report", folder / "model", "--out", folder / "rna.csv"): "must end in .html",
        ("report", folder / "model", "--out", folder / "mine.html"): "no report of onevec",
        ("encode", "", "--out", tmp_path / "s"): "empty sequences",
        ("encode", folder / "rna.csv", "--out", tmp_path / "s", "--encoder", ""): "empty encoder",
    }  # fmt: skip
    for call, words in calls.items():
        code, _, error = run(*call)
        assert code == 2, call
        assert words in error, (call, error)
        assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_poolers_that_learn(room, tmp_path):
    folder, _ = room
    code, out, error = run(
        "fit", folder / "store", "--out", tmp_path / "m", "--dim", 8, "--pooler", "attention|std",
        "--objective", "vicreg=0.5,info_nce", "--steps", 3, "--checkpoint", tmp_path / "state",
    )  # fmt: skip
    assert code == 0, error
    assert "Training " in out
    assert not (tmp_path / "state").exists()
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["training"]["steps"] == 3
    assert "vicreg.variance" in config["training"]["history"][-1]["terms"]
    for words, say in (
        (("--objective", "info_nce"), "has nothing to learn"),
        (("--pooler", "attention", "--objective", "vicreg=much"), "the weight 'much'"),
        (("--pooler", "attention", "--steps", 0), "steps=0"),
    ):
        pooler = () if "--pooler" in words else ("--pooler", "mean|std")
        code, _, error = run("fit", folder / "store", "--out", tmp_path / "n", *pooler, *words)
        assert code == 2
        assert say in error
        assert not (tmp_path / "n").exists()


def test_several_layers_are_stored_and_mixed(room, tmp_path):
    folder, _ = room
    store, layers = tmp_path / "s", ("--layers", "middle,last")
    data = (folder / "rna.csv", "--column", "sequence", "--encoder", folder / "encoder")
    code, said, error = run("encode", *data, "--out", store, *layers, "--json")
    assert code == 0, error
    facts, opened = json.loads(said), TokenStore(store)
    assert len(opened.layers) == 2
    assert facts["layers"] == opened.layers
    assert facts["cls"] is True
    assert facts["bytes"] == sum(file.stat().st_size for file in store.glob("*.arrow"))
    code, said, _ = run("encode", *data, "--out", store, *layers, "--dtype", "int8", "--overwrite")
    assert "with CLS: " in said
    assert "in int8" in said
    assert "a layer; float16 would take" in said
    code, said, _ = run("inspect", store, "--json")
    facts = json.loads(said)
    assert facts["cls"] is True
    assert facts["bytes"] == TokenStore(store).bytes
    code, _, error = run("encode", *data, "--out", tmp_path / "t", "--layers", "first")
    assert code == 2
    assert "got layers='first': pass" in error
    options = ("--pooler", "layer_mix", "--steps", 2, "--dim", 4)
    code, _, error = run("fit", store, "--out", tmp_path / "m", *options)
    assert code == 0, error
    options = ("--layers", "last,middle=0.5", "--parts", "mean,rich=0.6,cls", "--json")
    code, said, error = run("fit", store, "--out", tmp_path / "n", *options)
    assert code == 0, error
    made = json.loads(said)
    last, middle = opened.layers[1], opened.layers[0]
    weights = [(part["name"], part["layer"], part["weight"]) for part in made["parts"]]
    inner = [("mean", 0.5), ("rich", 0.3), ("cls", 0.5)]
    assert weights == [("mean", last, 1), ("rich", last, 0.6), ("cls", last, 1)] + [
        (f"{name}@{middle}", middle, weight) for name, weight in inner
    ]
    assert made["dim"] == made["parts"][-1]["last"]


def test_rows_without_a_label_are_left_out(room, tmp_path):
    folder, _ = room
    lines = (folder / "rna.csv").read_text().splitlines()
    lines[5:15] = [",".join([n, "", s]) for n, _, s in (line.split(",") for line in lines[5:15])]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    columns = ("--column", "sequence", "--id-column", "name")
    store = tmp_path / "s"
    run("encode", tmp_path / "a.csv", "--encoder", folder / "encoder", "--out", store, *columns)
    with pytest.warns(UserWarning, match="10 of 160 rows have no label in column 'family'"):
        code, out, error = run("evaluate", folder / "model", store, "--labels", "family")
    assert code == 0, error
    assert "onevec" in out
    code, _, error = run("evaluate", folder / "model", store, "--labels", "token_id")
    assert code == 2
    assert "holds lists" in error


def test_help_teaches():
    for command in COMMANDS:
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"onevec {command}" in out
        assert "Example:" in out


def test_main_exits_with_two_and_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "onevec.cli", "inspect", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("onevec: ")
