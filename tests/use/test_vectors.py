"""Vectors on disk: four formats, the model's mark, and every refusal."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from onevec import OneVec, encode, load
from onevec.errors import InputError
from onevec.use.formats import (
    FORMATS,
    TABLES,
    Vectors,
    check_file,
    read_vectors,
    save_table,
    save_vectors,
)
from onevec.use.vectors import model_fingerprint, vectors_of, write_vectors


@pytest.fixture
def some():
    rng = np.random.default_rng(0)
    metadata = {"family": ["a", None, "ü"], "length": [3, 5, 8], "tags": [["x"], [], None]}
    return Vectors.of(rng.normal(size=(3, 5)), ["p1", "p2", "p 3"], metadata, made_by="f" * 64)


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_written_is_read(some, ending, tmp_path):
    path = save_vectors(some, tmp_path / f"v{ending}")
    found = read_vectors(path)
    np.testing.assert_array_equal(found.vectors, some.vectors)
    assert found.vectors.dtype == np.float32
    if ending == ".npy":
        assert (found.ids, found.metadata.num_columns, found.made_by) == (["0", "1", "2"], 0, None)
    else:
        assert (found.ids, found.made_by) == (some.ids, some.made_by)
        assert found.metadata.to_pydict() == some.metadata.to_pydict()
    with pytest.raises(InputError, match="exists"):
        save_vectors(some, path)
    save_vectors(some, path, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == [f"v{ending}"]


def test_parquet_is_one_that_others_read(some, tmp_path):
    table = parquet.read_table(save_vectors(some, tmp_path / "v.parquet"))
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 5)
    assert table.column_names == ["id", "vector", "family", "length", "tags"]
    assert table.schema.metadata[b"onevec.made_by"] == b"f" * 64


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float16()), None])
def test_tables_of_others(kind, tmp_path):
    rows = np.arange(6, dtype=np.float16).reshape(3, 2)
    column = pa.array(list(rows), kind) if kind else pa.array(rows.astype(int).tolist())
    table = pa.table({"embedding": column, "query": ["a", "b", "c"]})
    parquet.write_table(table, tmp_path / "v.parquet")
    found = read_vectors(tmp_path / "v.parquet")
    np.testing.assert_array_equal(found.vectors, rows)
    assert found.metadata.column_names == ["query"]


def test_safetensors_of_others(tmp_path):
    from safetensors.numpy import save_file

    save_file({"embeddings": np.ones((2, 3), np.float16)}, tmp_path / "v.safetensors")
    assert read_vectors(tmp_path / "v.safetensors").ids == ["0", "1"]
    two = {"a": np.ones((2, 3)), "b": np.ones((2, 3))}
    save_file(two, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="one tensor, or one named 'vectors'"):
        read_vectors(tmp_path / "w.safetensors")


def bad_files(room):
    def table(name, **columns):
        parquet.write_table(pa.table(columns), room / name)
        return room / name

    for name, array in {
        "nan": np.array([[1, np.nan]]), "inf": np.array([[1.0, 2.0], [1e300, 1]]),
        "flat": np.ones(4), "deep": np.ones((2, 2, 2)), "text": np.array([["a"]]),
        "rows": np.ones((0, 4)), "dims": np.ones((4, 0)),
    }.items():  # fmt: skip
        np.save(room / f"{name}.npy", array)
    np.save(room / "objects.npy", np.array([[{}]]), allow_pickle=True)
    (room / "broken.npy").write_bytes((room / "flat.npy").read_bytes()[:40])
    for ending in FORMATS:
        (room / f"noise{ending}").write_bytes(b"\x80 nothing of the kind " * 9)
    return {
        room / "none.npy": "there is no file",
        room / "v.csv": "must end in .npy or .parquet",
        room / "nan.npy": "row 0 of the vectors of .*nan.npy holds NaN",
        room / "inf.npy": "row 1 .* holds NaN or infinity",
        room / "flat.npy": r"shape \(4,\)",
        room / "deep.npy": "pass numbers of shape",
        room / "text.npy": "dtype <U1",
        room / "rows.npy": "both at least 1",
        room / "dims.npy": "both at least 1",
        room / "objects.npy": "cannot read .* as NumPy",
        room / "broken.npy": "cannot read .* as NumPy",
        **{room / f"noise{ending}": f"as {kind.name}" for ending, kind in FORMATS.items()},
        table("none.parquet", id=["a"]): "one column of vectors",
        table("two.parquet", a=[[1.0]], b=[[2.0]]): "one column of vectors",
        table("ragged.parquet", vector=[[1.0], [1.0, 2.0]]): "unequal length",
        table("hole.parquet", vector=[[1.0, None]]): "missing values",
        table("null.parquet", vector=[[1.0], None]): "missing values",
        table("zero.parquet", vector=pa.array([], pa.list_(pa.float32()))): "holds no rows",
        table("anonymous.parquet", vector=[[1.0], [2.0]], id=["a", None]): "without an id",
    }  # fmt: skip


def test_every_bad_file_is_one_sentence(tmp_path):
    for path, words in bad_files(tmp_path).items():
        with pytest.raises(InputError, match=words) as caught:
            read_vectors(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(data=[[1, 2], [3]]), "no array|dtype object"),
        (dict(data=[[True]]), "dtype bool"),
        (dict(data=np.ones((2, 2)), ids=["a"]), "got 1 ids for 2"),
        (dict(data=np.ones((2, 2)), metadata={"a": [1]}), "1 rows of metadata for 2"),
        (dict(data=np.ones((2, 2)), metadata={"a": [1, "b"]}), "no table"),
        (dict(data=np.ones((2, 2)), metadata={"vector": [1, 2]}), "'vector', which is taken"),
    ],
)
def test_what_is_no_vectors(given, words):
    with pytest.raises(InputError, match=words):
        Vectors.of(**given)


def test_targets_are_checked_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.npy or"):
        check_file(tmp_path / "v.txt", False)
    (tmp_path / "v.npy").mkdir()
    with pytest.raises(InputError, match="is not replaced"):
        check_file(tmp_path / "v.npy", True)


@pytest.mark.parametrize("ending", TABLES)
def test_tables_of_results(ending, tmp_path):
    table = pa.table({"id": ["a", 'b"'], "score": [0.5, 1.0]})
    path = save_table(table, tmp_path / f"t{ending}")
    if ending == ".jsonl":
        assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", 'b"']
    elif ending == ".csv":
        assert path.read_text().splitlines()[1] == '"a",0.5'
    else:
        read = parquet.read_table if ending == ".parquet" else pa.ipc.open_file
        found = read(path)
        assert (found if ending == ".parquet" else found.read_all()).equals(table)
    with pytest.raises(InputError, match="must end in"):
        save_table(table, tmp_path / "t.txt")


def test_csv_cannot_hold_lists_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"write \.parquet"):
        save_table(pa.table({"a": [[1]]}), tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_model_that_made_them(tmp_path):
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, 6)) for n in rng.integers(3, 9, size=80)]
    store = encode(
        tokens, out=tmp_path / "store", metadata={"vector": range(80), "kind": ["a"] * 80}
    )
    model = OneVec(dim=4).fit(store)
    mark = model_fingerprint(model)
    model.save(tmp_path / "model")
    assert (
        model_fingerprint(tmp_path / "model") == mark == model_fingerprint(load(tmp_path / "model"))
    )
    assert model_fingerprint(OneVec(dim=4).fit(store)) == mark
    assert model_fingerprint(OneVec(dim=3).fit(store)) != mark
    assert model_fingerprint(OneVec(dim=4).fit(tokens[:70])) != mark
    assert write_vectors(model, tmp_path / "store", tmp_path / "v.parquet") == [80, 4]
    found = read_vectors(tmp_path / "v.parquet")
    assert found.made_by == mark
    assert sorted(found.metadata.column_names) == ["kind", "metadata_vector"]
    np.testing.assert_array_equal(found.vectors, vectors_of(model, store).vectors)
