"""Data as people have them: odd encodings, separators, ids, tables and objects."""

import gzip

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from onevec import encode
from onevec.encoders.corpus import assemble
from onevec.errors import InputError
from onevec.tokens.adapters import kind_of
from onevec.tokens.readers import open_source


def read(data, **options):
    sequences, ids = [], []
    for chunk in open_source(data, **options).chunks:
        sequences += list(chunk.sequences)
        ids += chunk.ids
    return sequences, ids


def arrays(count=3, dim=2, offset=0.0):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(9, dim)) + offset).astype(np.float32) for _ in range(count)]


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["a.txt", "a.log", "a.csv", "a.tsv", "a.jsonl", "a.fasta"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.filterwarnings("ignore:.*are no UTF-8")
def test_encodings(tmp_path, name, encoding, zipped):
    words = ["Zürich, hier", "déjà vu à Orléans, où êtes-vous allés"]
    text = {
        "a.csv": 'text\n"Zürich, hier"\n"déjà vu à Orléans, où êtes-vous allés"\n',
        "a.tsv": "text\tn\nZürich, hier\t1\ndéjà vu à Orléans, où êtes-vous allés\t2\n",
        "a.jsonl": "".join(f'{{"text": "{word}"}}\n' for word in words),
        "a.fasta": "".join(f">{number}\n{word}\n" for number, word in enumerate(words)),
    }.get(name, "".join(f"{word}\n" for word in words))
    held = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(held) if zipped else held)  # by content, not name
    assert read(tmp_path / name)[0] == words


def test_recoded_lines_are_told(tmp_path):
    text = "déjà vu à Orléans, où êtes-vous allés\nplain\nZürich, après midi, à côté du château\n"
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    with pytest.warns(UserWarning, match=r"2 lines of .*a.txt are no UTF-8 and were read as cp125"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_separators_are_detected(tmp_path, name, sign):
    (tmp_path / name).write_text(f"id{sign}sequence\na{sign}ACGU\nb{sign}GG\n")
    assert read(tmp_path / name) == (["ACGU", "GG"], ["a", "b"])


def test_headers_of_fasta_end_at_any_blank(tmp_path):
    (tmp_path / "a.fasta").write_text(">a\tfirst one\nAC\n>b  second\nGG\n")
    chunk = next(open_source(tmp_path / "a.fasta").chunks)
    assert chunk.ids == ["a", "b"] and chunk.metadata["description"] == ["first one", "second"]


def test_text_beside_a_table_keeps_its_lines(tmp_path):
    (tmp_path / "a.log").write_text("one two\nthree four\n")
    (tmp_path / "b.csv").write_text("id,msg\n1,five six\n2,seven eight\n")
    assert assemble(str(tmp_path), column="msg").manifest["counts"]["kept"] == 4


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [["5", "6", "7"], [5, 6, 7], np.array([5, 6, 7]), torch.tensor([5, 6, 7]), [5.0, 6.0, 7.0],
     [b"5", b"6", b"7"], pa.array([5, 6, 7]), pd.Series([5, 6, 7])],
    ids=lambda ids: type(ids).__name__,
)  # fmt: skip
def test_ids_are_text(ids):
    assert read(["AC", "GG", "UU"], ids=ids)[1] == ["5", "6", "7"]


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT])
def test_missing_ids_are_refused(missing):
    with pytest.raises(InputError, match="row 1 has no id"):
        read(["AC", "GG"], ids=["a", missing])
    with pytest.raises(InputError, match="row 1 has no id"):
        read(pd.DataFrame({"id": [1.0, None], "sequence": ["AC", "GG"]}))


# --- tables and objects -------------------------------------------------------------------------


@pytest.mark.parametrize("form", [pd.DataFrame, pl.DataFrame, pa.table, datasets.Dataset.from_dict])
def test_tables_of_every_library(form):
    columns = {"id": ["a", "b"], "sequence": ["AC", "GG"]}
    assert read(form(columns)) == (["AC", "GG"], ["a", "b"])
    store_of = {"y": [1, 2, 3]}
    assert read_metadata(form(store_of)) == [1, 2, 3]


def read_metadata(metadata):
    column = next(open_source(arrays(), metadata=metadata).chunks).metadata["y"]
    return column.to_pylist() if isinstance(column, pa.Array) else list(column)


def test_records_are_metadata():
    assert read_metadata([{"y": 1}, {"y": 2}, {"y": 3, "z": 4}]) == [1, 2, 3]
    with pytest.raises(InputError, match="got metadata of type int"):
        read(["AC"], metadata=3)


@pytest.mark.parametrize("form", [pd.Series, pl.Series, pa.array, lambda x: pa.chunked_array([x])])
def test_columns_of_every_library(form):
    assert read(form(["AC", "GG"]))[0] == ["AC", "GG"]


def test_columns_of_datasets():
    made = datasets.Dataset.from_dict({"sequence": ["AC", "GG"]})
    assert read(made["sequence"])[0] == read(made.to_iterable_dataset()["sequence"])[0]
    assert read(made.select([1, 0])["sequence"])[0] == ["GG", "AC"]


def test_frames_that_are_not_computed_yet():
    relation = duckdb.sql("select 'a' as id, 'AC' as sequence union all select 'b', 'GG'")
    lazy = pl.LazyFrame({"id": ["a", "b"], "sequence": ["AC", "GG"]})
    for data in (relation, lazy):
        sequences, ids = read(data)
        assert sorted(zip(ids, sequences, strict=True)) == [("a", "AC"), ("b", "GG")]
    indexed = pd.DataFrame({"sequence": ["AC", "GG"]}, index=["x", "y"])
    assert next(open_source(indexed).chunks).metadata == {}


def test_features_of_datasets():
    matrices = [np.arange(6, dtype=np.float32).reshape(3, 2), np.ones((1, 2), np.float32)]
    kinds = {
        "Array2D": datasets.Array2D((None, 2), "float32"),
        "Sequence": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
        "List": datasets.List(datasets.List(datasets.Value("float32"), length=2)),
    }
    for feature in kinds.values():
        features = datasets.Features({"x": feature, "n": datasets.Value("int64")})
        made = datasets.Dataset.from_dict({"x": matrices, "n": [1, 2]}, features=features)
        for form in (made, made.with_format("numpy"), made.to_iterable_dataset()):
            for found, wanted in zip(read(form)[0], matrices, strict=True):
                np.testing.assert_array_equal(np.stack(found), wanted)


def test_transforms_of_datasets_are_applied():
    made = datasets.Dataset.from_dict({"text": ["ac", "gg"], "id": ["a", "b"]})
    loud = made.with_transform(lambda rows: {**rows, "text": [t.upper() for t in rows["text"]]})
    assert read(loud) == (["AC", "GG"], ["a", "b"])
    streamed = made.to_iterable_dataset().map(lambda row: {"text": row["text"].upper()})
    assert read(streamed)[0] == read(streamed["text"])[0] == ["AC", "GG"]
    assert read(made.select([1]).rename_column("text", "words"))[0] == ["gg"]


def test_lists_of_records_are_tables():
    records = [{"id": "a", "protein": "AC", "y": 1}, {"id": "b", "protein": "GG"}]
    assert read(records) == (["AC", "GG"], ["a", "b"])
    assert read(records, column="protein", id_column="protein")[1] == ["AC", "GG"]


def test_text_that_tables_hold_as_bytes():
    table = pa.table({"sequence": pa.array([b"AC", b"GG"], pa.binary())})
    assert read(table)[0] == ["AC", "GG"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x,x,sequence\n1,2,AC\n")
    table = pa.table([["1"], ["2"], ["AC"]], names=["x", "x", "sequence"])
    for data in (tmp_path / "a.csv", table):
        with pytest.raises(InputError, match="has 2 columns named 'x': rename all but one"):
            read(data)


def test_dictionaries_of_text_are_text():
    smiles = pa.array(["CC", "CO"]).dictionary_encode()
    assert read(pa.table({"n": [1, 2], "smi": smiles}))[0] == ["CC", "CO"]
    assert read(pd.DataFrame({"n": [1, 2], "smi": pd.Categorical(["CC", "CO"])}))[0] == ["CC", "CO"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([(np.zeros(9), 16_000)], "a tuple of ndarray and int, which make no array"),
        ([[[1.0, 2.0], [3.0]]], "a list of list, which make no array"),
        ([("a", np.zeros((3, 2)))], "a tuple of str and ndarray"),
        ([["A", "C"]], "a list of 2 texts: pass one text per sequence"),
    ],
)
def test_lists_that_are_no_array_are_one_sentence(data, words):
    with pytest.raises(InputError, match=words):
        kind_of(data)


# --- precision ----------------------------------------------------------------------------------


def test_ready_arrays_keep_their_precision(tmp_path):
    far = arrays(offset=20_000.0)
    for out in (None, tmp_path / "s"):
        kept = encode(far, out=out, progress=False)
        kept = kept if out is None else kept[:]
        np.testing.assert_array_equal(kept.values.numpy(), np.concatenate(far))
    with pytest.raises(InputError, match="float16 does not hold dimension 0 of the sequences"):
        encode(far, dtype="float16", progress=False)
    assert encode(arrays(), dtype="float16", progress=False).values.dtype == torch.float16


# --- what is named or packed otherwise ----------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": "a", "sequence": "AC"}, {"id": "b", "sequence": "GG"}]',
        '[\n {"id": "a", "sequence": "AC"},\n {"id": "b", "sequence": "GG"}\n]',
        '{"id": "a", "sequence": "AC"}\n{"id": "b", "sequence": "GG"}\n',
    ],
)
def test_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert read(tmp_path / "a.json") == (["AC", "GG"], ["a", "b"])
    (tmp_path / "b.json").write_text("[1, 2")
    with pytest.raises(InputError, match=r"cannot read .*b.json as JSON"):
        read(tmp_path / "b.json")


def test_columns_in_capitals(tmp_path):
    (tmp_path / "a.csv").write_text("id,Note,Sequence\na,x,AC\nb,y,GG\n")
    assert read(tmp_path / "a.csv") == (["AC", "GG"], ["a", "b"])


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.pkl", "pickle can run code"), ("a.xlsx", "save the sheet as .csv"), ("a.zip", "unpack it"),
     ("a.fasta.bz2", "pack it with gzip")],
)  # fmt: skip
def test_what_is_not_read_says_what_to_do(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=rf"is not read: .*{words}"):
        read(tmp_path / name)


def test_encoders_of_another_kind_are_one_sentence(wav2vec, vit, bert):
    from PIL import Image

    image = Image.new("RGB", (32, 32))
    for data, encoder, words in (
        (["ACGU"], wav2vec, "got text for .*, which reads recordings"),
        ([image], wav2vec, "got images for .*, which reads recordings"),
        ([image], bert, "got images for .*, which reads text"),
        (
            [{"array": np.zeros(9), "sampling_rate": 9}],
            vit,
            "got recordings for .*, which reads images",
        ),
    ):
        with pytest.raises(InputError, match=words):
            encode(data, str(encoder), progress=False)
