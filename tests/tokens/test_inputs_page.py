"""Every line of docs/inputs.md, on small files that the real libraries write."""

import gzip
import json
import re
from pathlib import Path

import datasets
import duckdb
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import save_file
from typer.testing import CliRunner

from onevec import OneVec, encode
from onevec.cli import app
from onevec.ragged import Ragged
from onevec.tokens.store import TokenStore

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"
LINES = re.findall(r"^\| .* \| `(.+)` \|$", PAGE.read_text(), re.M)
FRAME = pd.DataFrame({"accession": ["a", "b", "c"], "protein": ["MKTA", "GW", "LLVVLL"]})
SIZES = [4, 2, 6]
# What is told of what the files hold on purpose.
EXPECTED = (
    "ignore:.* has sequences:UserWarning",
    "ignore:.* recordings of several channels:UserWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
)


def arrays():
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=(n, 4)).astype("f4") for name, n in zip("abc", SIZES, strict=True)
    }


def tone(seconds, rate):
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype("f4")


def write_text(place):
    text = ">a\nMK TA*\n>b\ng-w\n>c\nLLVVLL\n"
    (place / "proteins.fasta.gz").write_bytes(gzip.compress(text.encode()))
    (place / "alignment.a3m").write_text(">a\nMKTA--\n>b\n-gW--\n>c\nLLVVLL\n")
    (place / "reads.fastq").write_text("@a\nMKTA\n+\nIIII\n@b\nGW\n+\nII\n@c\nLLVVLL\n+\nIIIIII\n")
    FRAME.assign(note="x").to_csv(place / "table.csv", index=False)
    table = pa.table({"id": FRAME["accession"], "sequence": FRAME["protein"]})
    parquet.write_table(table, place / "table.parquet")
    (place / "parts").mkdir()
    for row in range(3):
        parquet.write_table(table.slice(row, 1), place / "parts" / f"part-{row}.parquet")
    (place / "table.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    (place / "lines.txt").write_text("\n".join(FRAME["protein"]))
    datasets.Dataset(table).save_to_disk(place / "saved-dataset")


def write_media(place):
    (place / "recordings" / "dogs").mkdir(parents=True)
    soundfile.write(place / "recordings" / "a.wav", tone(0.2, 16_000), 16_000)
    soundfile.write(place / "recordings" / "dogs" / "b.flac", tone(0.3, 44_100), 44_100)
    both = np.stack([tone(0.4, 8_000)] * 2, 1)
    soundfile.write(place / "recordings" / "dogs" / "c.ogg", both, 8_000)
    soundfile.write(place / "bark.wav", tone(0.2, 22_050), 22_050)
    (place / "clips.csv").write_text("path,label\nrecordings/a.wav,x\nbark.wav,y\n")
    (place / "photos" / "cats").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    for name in ("a.png", "b.jpg", "cats/c.webp"):
        Image.fromarray(pixels).save(place / "photos" / name)


def write_numbers(place):
    rows = ["1\t0.5\t1.5\t2.5", "2\t0.5\t1.5\t2.5\t3.5", "1\t0.5\t1.5"]
    text = "\n".join(rows)
    (place / "X_TRAIN.tsv").write_text(text)
    (place / "series.csv").write_text("0.5,1.5\n2.5,3.5,4.5\n5.5,6.5\n")
    (place / "X_TRAIN.ts").write_text(
        "@classLabel true a b\n@data\n1,2,3:4,5,6:a\n7,8:9,1:b\n1,2:3,4:a\n"
    )


def write_vectors(place):
    held = arrays()
    with h5py.File(place / "embeddings.h5", "w") as file:
        for number, (name, array) in enumerate(held.items()):
            file.create_dataset(str(number), data=array).attrs["original_id"] = name
    (place / "esm-output").mkdir()
    (place / "arrays").mkdir()
    for name, array in held.items():
        states = {6: torch.from_numpy(array), 12: torch.from_numpy(array)}
        torch.save({"label": name, "representations": states}, place / "esm-output" / f"{name}.pt")
        np.save(place / "arrays" / f"{name}.npy", array)
    tensors = {name: torch.from_numpy(array) for name, array in held.items()}
    torch.save(tensors, place / "tensors.pt")
    save_file(held, place / "tensors.safetensors")
    np.savez(place / "arrays.npz", **held)
    np.savez(place / "layered.npz", **{name: np.stack([each, each]) for name, each in held.items()})
    np.save(place / "stack.npy", np.ones((3, 5, 4), np.float32))


@pytest.fixture(scope="module")
def place(bert, vit, wav2vec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for name, encoder in (("text", bert), ("image", vit), ("audio", wav2vec)):
        (folder / f"{name}-encoder").symlink_to(encoder)
    for write in (write_text, write_media, write_numbers, write_vectors):
        write(folder)
    return folder


@pytest.mark.filterwarnings(*EXPECTED)
@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("onevec ")])
def test_commands(line, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    words = line.removeprefix("onevec ").split()
    words[words.index("store")] = str(tmp_path / "store")
    run = CliRunner().invoke(app, words, catch_exceptions=False)
    assert run.exit_code == 0, run.output
    store = TokenStore(tmp_path / "store")
    assert len(store) == {"bark.wav": 1, "clips.csv": 2}.get(words[1], 3)
    if words[1] in ("proteins.fasta.gz", "alignment.a3m", "table.csv", "reads.fastq"):
        assert store.ids == list("abc") and store.lengths.tolist() == SIZES
    if words[1] == "recordings":
        assert store.ids == ["a.wav", "dogs/b.flac", "dogs/c.ogg"]
    if words[1] in ("embeddings.h5", "tensors.pt", "arrays.npz", "esm-output"):
        np.testing.assert_array_equal(
            store[:].values.numpy(), np.concatenate(list(arrays().values()))
        )


@pytest.mark.filterwarnings(*EXPECTED)
@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith("onevec ")])
def test_python(line, place, monkeypatch):
    monkeypatch.chdir(place)
    rng = np.random.default_rng(0)
    paths = ["recordings/a.wav", "bark.wav"]
    dataset = datasets.Dataset.from_dict({"audio": paths}).cast_column("audio", datasets.Audio())
    names = {
        "encode": encode, "OneVec": OneVec, "duckdb": duckdb, "frame": FRAME,
        "texts": list(FRAME["protein"]), "samples": tone(0.2, 8_000),
        "images": [Image.new("RGB", (32, 32))], "dataset": dataset,
        "arrays": [rng.normal(size=(5, 4)) for _ in range(30)],
    }  # fmt: skip
    found = eval(line, names)
    assert (isinstance(found, Ragged) and len(found)) or found.shape[0] == 30


def test_the_page_is_linked_and_has_lines():
    assert len(LINES) > 30
    assert "docs/inputs.md" in (PAGE.parents[1] / "README.md").read_text()
