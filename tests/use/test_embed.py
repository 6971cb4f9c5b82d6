"""From raw sequences to a file of vectors: the same as step by step, in bounded memory, resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from onevec import OneVec, OnevecError, TokenStore, embed, encode, load
from onevec.use import parts
from onevec.use.formats import FORMATS, read_vectors
from onevec.vector import held_out
from tests.tokens.conftest import ALPHABET, bert  # noqa: F401  (a fixture)

QUICK = {"dim": 4, "pooler": "mean|std"}
CLOSE = {"atol": 1e-6, "rtol": 0}


@pytest.fixture(autouse=True)
def one_thread():
    """A killed run and the one that goes on have to add up in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_up(count):
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(ALPHABET), size=n)) for n in rng.integers(4, 30, size=count)]


@pytest.fixture
def table(tmp_path):
    """A CSV of 150 sequences with names, and a column that is called as one of a store."""
    lines = ["name,sequence,values,vector"]
    lines += [f"s{row},{text},v{row},w" for row, text in enumerate(made_up(150))]
    (tmp_path / "seqs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "seqs.csv"


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks and parts of a few sequences, and a sample of 40."""
    monkeypatch.setattr(parts, "_ROWS", 16)
    monkeypatch.setitem(held_out.EFFORTS, "quick", (40, 100_000, 10))
    return {"batch_tokens": 10}


COLUMNS = {"column": "sequence", "id_column": "name", "progress": False}


def test_it_is_encode_fit_and_transform(bert, table, tmp_path):  # noqa: F811
    made = embed(table, bert, out=tmp_path / "v.parquet", **COLUMNS)
    store = encode(table, bert, out=tmp_path / "store", **COLUMNS)
    model = OneVec().fit(store)
    wanted = model.transform(store)
    found = read_vectors(made.out)
    np.testing.assert_allclose(found.vectors, wanted, **CLOSE)
    assert found.ids == [f"s{row}" for row in range(150)]
    assert found.metadata.column_names == ["values_", "metadata_vector"]
    assert (made.shape, made.sample) == (wanted.shape, 150)
    assert made.model.verdict_ == model.verdict_
    again = load(made.model_path)
    np.testing.assert_allclose(again.transform(store), wanted, **CLOSE)
    assert made.model_path == tmp_path / "v-model"
    assert made.report is not None
    assert model.verdict_.sentence[:40] in made.report.read_text()
    there = {"seqs.csv", "store", "v.parquet", "v-model", "v-report.html"}
    assert {path.name for path in tmp_path.iterdir()} == there


def test_a_store_is_kept_where_that_is_asked_for(bert, table, tmp_path):  # noqa: F811
    told = OneVec(**QUICK)
    made = embed(table, bert, out=tmp_path / "v.npy", model=told, store=tmp_path / "s", **COLUMNS)
    assert not hasattr(told, "vector_")
    store = TokenStore(tmp_path / "s")
    assert len(store) == 150
    wanted = OneVec(**QUICK).fit(store).transform(store)
    np.testing.assert_allclose(np.load(made.out), wanted, **CLOSE)
    other = embed(store, out=tmp_path / "w.npy", model=OneVec(**QUICK))
    np.testing.assert_allclose(np.load(other.out), wanted, **CLOSE)
    applied = embed(tmp_path / "s", out=tmp_path / "x.npy", model=other.model_path)
    np.testing.assert_allclose(np.load(applied.out), wanted, **CLOSE)
    assert (applied.model_path, applied.report, applied.sample) == (None, None, None)


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_holds_the_same(bert, table, tmp_path, small_steps, ending):  # noqa: F811
    options = COLUMNS | small_steps
    made = embed(table, bert, out=tmp_path / f"v{ending}", model=OneVec(**QUICK), **options)
    texts = made_up(150)
    found = read_vectors(made.out)
    wanted = made.model.transform(texts)
    np.testing.assert_allclose(found.vectors, wanted, atol=3e-3)  # other batches round otherwise
    assert made.sample == made.model.data_["sequences"] == 40
    if ending != ".npy":
        assert found.ids == [f"s{row}" for row in range(150)]
        assert found.metadata["values_"].to_pylist() == [f"v{row}" for row in range(150)]
        assert found.made_by


def test_a_sequence_is_encoded_once_and_sources_are_read_ahead_by_little(tmp_path, small_steps):
    texts, seen, taken = made_up(300), [], []

    def encoder(sequences):
        seen.extend(sequences)
        return [np.outer(np.arange(1, 4), np.frombuffer(each.encode(), np.uint8)[:4] / 90)
                for each in sequences]  # fmt: skip

    embed(texts, encoder, out=tmp_path / "a.npy", model=OneVec(**QUICK), **small_steps)
    assert sorted(seen) == sorted(texts)
    seen.clear()
    model = load(tmp_path / "a-model")
    ahead = []

    def source():
        for text in texts:
            ahead.append(len(taken) - len(seen))
            taken.append(text)
            yield text

    made = embed(source(), encoder, out=tmp_path / "b.npy", model=model, **small_steps)
    assert seen == texts or sorted(seen) == sorted(texts)
    assert max(ahead) <= 10  # of 300
    np.testing.assert_allclose(np.load(made.out), np.load(tmp_path / "a.npy"), **CLOSE)
    # An iterator is fitted to its first sequences.
    said = []
    seen.clear()
    settings = {"model": OneVec(**QUICK), **small_steps}
    made = embed(iter(texts), encoder, out=tmp_path / "c.npy", say=said.append, **settings)
    assert sorted(seen) == sorted(texts)
    assert made.sample == 40
    assert "the first, as the input can be read only once" in said[0]
    np.testing.assert_allclose(np.load(made.out), made.model.transform(texts), atol=1e-3)


KILLED = """
import os, signal, sys, torch
from onevec import OneVec, embed
from onevec.use import parts
from onevec.vector import held_out

torch.set_num_threads(1)
parts._ROWS = 16
held_out.EFFORTS["quick"] = (40, 100_000, 10)
moment, table, bert, out = sys.argv[1:]
if moment == "sample":
    owner, name, calls = OneVec, "fit", 1
elif moment == "parts":
    owner, name, calls = parts.Parts, "append", 20
else:
    import onevec.use.embed as owner
    name, calls = "save_vectors", 1
real = getattr(owner, name)

def killed(*args, **options):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)

setattr(owner, name, killed)
embed(table, bert, out=out, model=OneVec(dim=4, pooler="mean|std"), column="sequence",
      id_column="name", progress=False, batch_tokens=10)
"""


@pytest.mark.parametrize(
    "moment",
    [
        "parts",
        pytest.param("sample", marks=pytest.mark.slow),
        pytest.param("end", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(bert, table, tmp_path, small_steps, moment):  # noqa: F811
    settings = {"model": OneVec(**QUICK), **COLUMNS, **small_steps}
    whole = embed(table, bert, out=tmp_path / "whole.parquet", **settings)
    out = tmp_path / "v.parquet"
    words = [sys.executable, "-c", KILLED, moment, str(table), str(bert), str(out)]
    killed = subprocess.run(words, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    room = tmp_path / "v.parquet.parts"
    there = len(list(room.glob("part-*.arrow")))
    assert (there > 0) == (moment != "sample")
    said = []
    with pytest.raises(OnevecError, match="run that was stopped, whose options is"):
        embed(table, bert, out=out, **settings, max_length=50)
    made = embed(table, bert, out=out, say=said.append, **settings)
    assert any("vectors are there" in line for line in said) == (moment != "sample")
    assert out.read_bytes() == whole.out.read_bytes()
    weights = "model.safetensors"
    assert (made.model_path / weights).read_bytes() == (whole.model_path / weights).read_bytes()
    assert not room.exists()


def stopped(monkeypatch, owner, name, calls):
    """Stop a run at one of the calls of a function, as Ctrl-C does."""
    real, left = getattr(owner, name), [calls]

    def function(*args, **options):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(owner, name, function)


def test_what_is_written_is_not_encoded_again(tmp_path, small_steps, monkeypatch):
    texts, seen = made_up(200), []

    def encoder(sequences):
        seen.extend(sequences)
        return [np.ones((2, 3)) * len(each) * np.arange(1, 4) for each in sequences]

    settings = {"model": OneVec(dim=2, pooler="mean"), **small_steps}
    out = tmp_path / "v.npy"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, parts.Parts, "append", 60)
        embed(texts, encoder, out=out, **settings)
    first = len(seen)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, parts.Parts, "append", 40)
        embed(texts, encoder, out=out, **settings)
    embed(texts, encoder, out=out, **settings)
    assert first < 200
    assert set(seen) == set(texts)
    assert len(seen) <= 200 + 2 * 24  # at most a part comes again, each time
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, parts.Parts, "append", 60)
        embed(texts, encoder, out=tmp_path / "w.npy", model=tmp_path / "v-model", **small_steps)
    changed = ["AAA", *texts[1:]]
    with pytest.raises(OnevecError, match="are not those of the first sequences of this input"):
        embed(changed, encoder, out=tmp_path / "w.npy", model=tmp_path / "v-model", **small_steps)
    made = embed(changed, encoder, out=tmp_path / "w.npy", model=made_model(tmp_path),
                 overwrite=True, max_length=9, **small_steps)  # fmt: skip
    assert made.shape == (200, 2)


def made_model(folder: Path) -> OneVec:
    return load(folder / "v-model")


def test_mistakes_are_told_before_any_work_and_leave_nothing(bert, table, tmp_path):  # noqa: F811
    (tmp_path / "taken-model").mkdir()
    there = sorted(path.name for path in tmp_path.iterdir())
    store = {"store": tmp_path / "s"}
    calls = [
        ({"out": tmp_path / "v.txt"}, "must end in"),
        ({"out": table}, "must end in"),
        ({"out": tmp_path / "taken.npy"}, "taken-model exists"),
        ({"out": tmp_path / "v.npy", "dtype": "int8"}, "needs a token store"),
        ({"out": tmp_path / "v.npy", "report": tmp_path / "r.txt"}, r"must end in \.html"),
        ({"out": tmp_path / "v.npy", "column": "protein"}, "no column 'protein'"),
        ({"out": tmp_path / "v.npy", "column": "protein"} | store, "no column 'protein'"),
        ({"out": tmp_path / "v.npy", "model": tmp_path / "none"}, "holds no config.json"),
        ({"out": tmp_path / "v.npy", "model": OneVec(dim=0)}, "dim=0"),
    ]
    for given, words in calls:
        with pytest.raises(OnevecError, match=words):
            embed(table, bert, **{"progress": False, **given})
        assert sorted(path.name for path in tmp_path.iterdir()) == there, words
    with pytest.raises(OnevecError, match="name one, such as"):
        embed(table, out=tmp_path / "v.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == there


def test_parquet_is_made_of_pieces(bert, table, tmp_path, small_steps, monkeypatch):  # noqa: F811
    monkeypatch.setattr(parts, "_GROUP", 50)
    made = embed(table, bert, out=tmp_path / "v.parquet", model=OneVec(**QUICK), **COLUMNS,
                 **small_steps)  # fmt: skip
    file = pq.ParquetFile(made.out)
    assert file.num_row_groups > 1
    assert file.metadata.num_rows == 150
