"""Every input format, and what is said about bad ones."""

import gzip
import io
import json

import numpy as np
import pandas
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from onevec import encode
from onevec.errors import InputError, StoreError
from onevec.ragged import Ragged
from onevec.tokens.readers import open_source

ROWS = 600  # more than are read at a time
SEQUENCES = ["ACDE"[: 1 + row % 4] for row in range(ROWS)]
IDS = [f"p{row:03}" for row in range(ROWS)]
LABELS = [row % 7 for row in range(ROWS)]
TABLE = pa.table({"id": IDS, "protein": SEQUENCES, "label": LABELS})


def letters(sequences):
    """One number per letter: an encoder that shows which sequence it read."""
    return [np.array([[float(ord(c))] for c in s], dtype=np.float32) for s in sequences]


def write_fasta(path, zipped=False):
    lines = [
        f">{i} label {k}\n{s[:2]}\n{s[2:]}\n"
        for i, s, k in zip(IDS, SEQUENCES, LABELS, strict=True)
    ]
    text = "\n".join(lines)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())


def write_jsonl(path, zipped=False):
    text = "\n".join(json.dumps(row) for row in TABLE.to_pylist()) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())


def write_text(path, zipped=False):
    text = "\n".join(SEQUENCES)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())


def write_stream(path):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, TABLE.schema) as stream:
        stream.write_table(TABLE)


def write_csv(path, delimiter=","):
    csv.write_csv(TABLE, path, csv.WriteOptions(delimiter=delimiter))


def write_zipped_csv(path):
    buffer = io.BytesIO()
    csv.write_csv(TABLE, buffer)
    path.write_bytes(gzip.compress(buffer.getvalue()))


FILES = {
    "a.parquet": lambda path: parquet.write_table(TABLE, path, row_group_size=100),
    "a.arrow": lambda path: feather.write_feather(TABLE, path, compression="uncompressed"),
    "stream.arrow": write_stream,
    "a.csv": write_csv,
    "a.tsv": lambda path: write_csv(path, "\t"),
    "a.csv.gz": write_zipped_csv,
    "a.jsonl": write_jsonl,
    "a.jsonl.gz": lambda path: write_jsonl(path, True),
    "a.fasta": write_fasta,
    "a.fa.gz": lambda path: write_fasta(path, True),
    "a.txt": write_text,
    "a.txt.gz": lambda path: write_text(path, True),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    FILES[name](tmp_path / name)
    store = encode(tmp_path / name, letters, out=tmp_path / "s", batch_tokens=97)
    assert store.column("sequence").to_pylist() == SEQUENCES
    assert store.lengths.tolist() == [len(s) for s in SEQUENCES]
    assert "".join(chr(int(v)) for v in store[:].values) == "".join(SEQUENCES)
    if "txt" in name:
        assert store.columns == ["id", "sequence"]
        return
    assert store.ids == IDS
    if "fa" in name:
        assert store.column("description").to_pylist() == [f"label {k}" for k in LABELS]
    else:
        csv = "csv" in name or "tsv" in name  # whose columns are text
        assert store.column("label").to_pylist() == [str(k) if csv else k for k in LABELS]
        assert store.columns == ["id", "sequence", "label"]


def test_objects_with_columns(tmp_path):
    from datasets import Dataset, DatasetDict

    data = [TABLE, TABLE.to_pandas(), Dataset(TABLE), Dataset(TABLE).to_iterable_dataset()]
    for number, table in enumerate(data):
        store = encode(table, letters, out=tmp_path / str(number))
        assert store.ids == IDS
        assert store.column("label").to_pylist() == LABELS
    column = encode(TABLE.to_pandas()["protein"], letters)
    assert column.lengths.tolist() == [len(s) for s in SEQUENCES]
    with pytest.raises(InputError, match="splits train, test: pass one of them"):
        encode(DatasetDict(train=Dataset(TABLE), test=Dataset(TABLE)), letters)


def test_which_column(tmp_path):
    two = TABLE.append_column("note", [["x"] * ROWS])
    with pytest.raises(
        InputError, match=r"name it with column= .* it has id, protein, label, note"
    ):
        encode(two, letters)
    with pytest.raises(InputError, match="has no column 'seq': it has id, protein, label, note"):
        encode(two, letters, column="seq")
    with pytest.raises(InputError, match="has no column 'name'"):
        encode(two, letters, column="protein", id_column="name")
    with pytest.raises(InputError, match="'label' holds int64, not sequences"):
        encode(two, letters, column="label")
    store = encode(two, letters, column="protein", id_column="note", out=tmp_path / "s")
    assert store.ids == ["x"] * ROWS
    assert store.column("id_").to_pylist() == IDS  # not lost
    with pytest.raises(InputError, match="which has no columns"):
        encode(SEQUENCES, letters, column="protein")
    missing = pa.table({"text": ["a", None]})
    with pytest.raises(InputError, match="row 1 has no value in column 'text'"):
        encode(missing, letters)


def test_csv_keeps_ids_as_they_are(tmp_path):
    (tmp_path / "a.csv").write_text("id,text,label\n007,1 2,0\n010,3,1\n")
    store = encode(tmp_path / "a.csv", letters, column="text", out=tmp_path / "s")
    assert store.ids == ["007", "010"]
    assert store.column("sequence").to_pylist() == ["1 2", "3"]
    assert store.column("label").to_pylist() == ["0", "1"]


def test_csv_values_that_change_their_kind_late(tmp_path):
    rows = [f"ACGU,{n},\n" for n in range(200_000)]  # more than one block
    rows[-1] = "ACGU,X1,yes\n"
    (tmp_path / "a.csv").write_text("sequence,code,note\n" + "".join(rows))
    store = encode(tmp_path / "a.csv", letters, column="sequence", out=tmp_path / "s")
    assert store.column("code").to_pylist()[-2:] == ["199998", "X1"]
    assert store.column("note").to_pylist()[-2:] == ["", "yes"]


def test_ids_and_metadata(tmp_path):
    for number, metadata in enumerate(
        [{"label": LABELS}, pandas.DataFrame({"label": LABELS}), pa.table({"label": LABELS})]
    ):
        store = encode(SEQUENCES, letters, ids=IDS, metadata=metadata, out=tmp_path / str(number))
        assert store.ids == IDS
        assert store.column("label").to_pylist() == LABELS
    with pytest.raises(InputError, match="'label' has 3 entries for 600"):
        encode(SEQUENCES, letters, metadata={"label": [1, 2, 3]})
    for ids in (IDS[:10], [*IDS, "more"]):
        with pytest.raises(InputError, match="column 'id' has"):
            encode(iter(SEQUENCES), letters, ids=ids)


def vectors(dim=3):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((int(n), dim)).astype(np.float32) for n in rng.integers(1, 6, 20)]


def test_ready_vectors(tmp_path):
    arrays = vectors()
    whole = Ragged.from_list(arrays)
    np.savez(tmp_path / "many.npz", **{f"s{row}": array for row, array in enumerate(arrays)})
    np.savez(tmp_path / "flat.npz", values=whole.values.numpy(), lengths=whole.lengths.numpy())
    nested = pa.table({"tokens": [array.tolist() for array in arrays]})
    parquet.write_table(nested, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(array.tolist()) for array in arrays))
    forms = [arrays, whole, iter(arrays), tmp_path / "many.npz", tmp_path / "flat.npz", nested]
    forms += [tmp_path / "a.parquet", tmp_path / "a.jsonl", [array.tolist() for array in arrays]]
    for number, form in enumerate(forms):
        store = encode(form, out=tmp_path / str(number), dtype="float32")
        assert np.array_equal(store[:].values.numpy(), whole.values.numpy())
        assert store.lengths.tolist() == whole.lengths.tolist()
        assert store.fingerprint is None
    assert encode(tmp_path / "many.npz", out=tmp_path / "x").ids[:2] == ["s0", "s1"]
    np.save(tmp_path / "a.npy", np.stack([array[:1] for array in arrays]))
    assert encode(tmp_path / "a.npy").lengths.tolist() == [1] * 20
    assert encode(arrays).values.dtype.itemsize == 4
    assert encode(arrays, dtype="float16").values.dtype.itemsize == 2


def test_bad_vectors_are_named_by_their_row(tmp_path):
    arrays = [*vectors(dim=40_000), np.full((2, 40_000), np.nan)]  # more than one chunk
    for out in (None, tmp_path / "s"):
        with pytest.raises(InputError, match="sequence 20 holds NaN or infinity"):
            encode(arrays, out=out)
        assert not (tmp_path / "s").exists()
    with pytest.raises(InputError, match="which looks like labels"):
        encode(np.zeros(5))
    with pytest.raises(InputError, match="no token vectors and no encoder"):
        encode([1, 2, 3])
    with pytest.raises(InputError, match="leave layers out"):
        encode(vectors(), layers=3)
    with pytest.raises(InputError, match="needs a store"):
        encode(vectors(), dtype="int8")
    with pytest.raises(InputError, match="got dtype='float64'"):
        encode(vectors(), dtype="float64")
    for bad in (None, 3, {"a": 1}, b"ACD"):
        with pytest.raises(InputError, match="as sequences"):
            encode(bad, letters)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 no", "cannot read .* as Parquet"),
        ("a.arrow", b"ARROW1 no", "cannot read .* as Arrow"),
        ("a.csv", b"id,text\n1,a\n2,b,c\n", "cannot read .* as CSV"),
        ("a.csv", b"", "cannot read .* as CSV"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2 of .* is no JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"b": 1}', "row 1 has no 'text'"),
        ("a.txt", b"\xff\xfe\x00", "cannot read .* as text"),
        ("a.txt", b"", "got no sequences"),
        ("a.fasta", b"ACD\n", "does not start with '>'"),
        ("a.fasta", b">a\n>b\nAC\n", "record 'a' is empty"),
        ("a.npy", b"no", "cannot read .* as NumPy"),
        ("a.npz", b"no", "cannot read .* as NumPy"),
        ("a.docx", b"no", "cannot tell the format"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        encode(tmp_path / name, letters, out=tmp_path / "s")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        encode(tmp_path / "none.csv", letters)
    with pytest.raises(InputError, match="a single sequence goes into a list"):
        encode("ACDEFG", letters)
    with pytest.raises(InputError, match="is a folder"):
        encode(tmp_path, letters)
    store = encode(vectors(), out=tmp_path / "s")
    for again in (store, store.path):
        with pytest.raises(InputError, match="encoded already"):
            encode(again, letters)
    objects = np.array([np.zeros((2, 3)), np.zeros((1, 3))], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    with pytest.raises(InputError, match="holds Python objects, which are not loaded"):
        encode(tmp_path / "o.npy")


def test_a_file_cut_in_the_middle_leaves_nothing(tmp_path):
    lines = "\n".join(json.dumps({"text": "ACDE"}) for _ in range(2_000)) + "\n{"
    (tmp_path / "a.jsonl").write_text(lines)
    with pytest.raises(InputError, match="line 2001"):
        encode(tmp_path / "a.jsonl", letters, out=tmp_path / "s", batch_tokens=16)
    assert not (tmp_path / "s").exists()


def test_resume_with_another_input_is_refused(tmp_path):
    from onevec.tokens.store import TokenStoreWriter

    settings = encode(SEQUENCES, letters, out=tmp_path / "t").info
    writer = TokenStoreWriter(
        tmp_path / "s",
        shard_bytes=1,
        encoder=settings["encoder"],
        settings=settings["settings"],
    )
    writer.append(letters(SEQUENCES[:50]), ids=IDS[:50], sequences=SEQUENCES[:50])
    with pytest.raises(StoreError, match="first 50 sequences are not those of"):
        encode(SEQUENCES, letters, ids=IDS[1:] + IDS[:1], out=tmp_path / "s", resume=True)
    with pytest.raises(StoreError, match="first 50 sequences are not those of"):
        encode(SEQUENCES[::-1], letters, ids=IDS, out=tmp_path / "s", resume=True)
    with pytest.raises(StoreError, match="it holds 50 sequences, this input only 9"):
        encode(SEQUENCES[:9], letters, ids=IDS[:9], out=tmp_path / "s", resume=True)
    store = encode(SEQUENCES, letters, ids=IDS, out=tmp_path / "s", resume=True)
    assert store.ids == IDS
    with pytest.raises(StoreError, match="this input has more"):
        more = [*IDS, "more"]
        encode([*SEQUENCES, "A"], letters, ids=more, out=tmp_path / "s", resume=True)
    assert encode(SEQUENCES, letters, ids=IDS, out=tmp_path / "s", resume=True).ids == IDS
    assert "".join(chr(int(v)) for v in store[:].values) == "".join(SEQUENCES)


def test_source_knows_its_size(tmp_path):
    parquet.write_table(TABLE, tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").total == ROWS
    assert open_source(SEQUENCES).total == ROWS
    assert open_source(iter(SEQUENCES)).total is None
