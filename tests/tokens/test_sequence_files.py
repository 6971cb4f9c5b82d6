"""FASTA and FASTQ as they occur, series of numbers, capitals, and what is guessed and told."""

import gzip
import logging

import numpy as np
import pytest

from onevec.errors import InputError
from onevec.tokens.lines import Broken
from onevec.tokens.readers import open_source


def read(data, **options):
    sequences, ids, metadata = [], [], {}
    for chunk in open_source(data, **options).chunks:
        sequences += list(chunk.sequences)
        ids += chunk.ids
        for name, column in chunk.metadata.items():
            metadata.setdefault(name, []).extend(column)
    return sequences, ids, metadata


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "onevec")
    return lambda: " / ".join(record.getMessage() for record in caplog.records)


# --- FASTA --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "wanted", "words"),
    [
        ("ACGU ACGU\n  GG\tCC", "ACGUACGUGGCC", "1 with blanks or tabs inside"),
        ("AC--GU..A~", "ACGUA", "1 with gaps"),
        ("MKTA*", "MKTA", r"1 with a stop \(\*\) at the end"),
        ("MK*TA", "MK*TA", None),
        ("acguACGU", "acguACGU", None),
        ("((..))", "((..))", None),  # no residues: as it is
        ("MK TA*", "MKTA", "1 with blanks or tabs inside.*; 1 with a stop"),
    ],
)
def test_fasta_is_cleaned_and_told(tmp_path, body, wanted, words):
    (tmp_path / "a.fasta").write_text(f">a first\n{body}\n>b\nGG\n")
    if words is None:
        found = read(tmp_path / "a.fasta")
    else:
        with pytest.warns(UserWarning, match=words):
            found = read(tmp_path / "a.fasta")
    assert found[:2] == ([wanted, "GG"], ["a", "b"])


def test_alignments(tmp_path):
    text = "#10\t1\n>101\nMK-TA\n>hit\t99\t0.8\nMKxxTA\n"  # as ColabFold writes it
    (tmp_path / "a.a3m").write_text(text)
    with pytest.warns(UserWarning, match="1 with gaps.*1 with insertions in lower case"):
        assert read(tmp_path / "a.a3m")[:2] == (["MKTA", "MKXXTA"], ["101", "hit"])


def test_names_are_made_where_there_are_none(tmp_path):
    (tmp_path / "a.fa").write_text(">\nAC\n>b\nGG\n")
    with pytest.warns(UserWarning, match="1 without a name, which are named by their number"):
        assert read(tmp_path / "a.fa")[1] == ["0", "b"]


def test_capitals(tmp_path, told):
    (tmp_path / "a.fasta").write_text(">a\nacgu\n")
    assert read(tmp_path / "a.fasta")[0] == ["acgu"]
    assert "1 sequences with lower-case letters, which stay as they are (upper=True" in told()
    assert read(tmp_path / "a.fasta", upper=True)[0] == ["ACGU"]
    assert read(["acgu"], upper=True)[0] == ["ACGU"]


def test_several_fasta_in_a_folder(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.fasta").write_text(">a\nAC\n")
    (tmp_path / "f" / "b.fa.gz").write_bytes(gzip.compress(b">b\nGG\n"))
    assert read(tmp_path / "f")[:2] == (["AC", "GG"], ["a", "b"])
    (tmp_path / "f" / "c.csv").write_text("text\nAC\n")
    with pytest.raises(InputError, match=r"holds files that end in .csv, .fa, .fasta: pass one of"):
        read(tmp_path / "f")


# --- FASTQ --------------------------------------------------------------------------------------

READS = "@r1 lane 1\nACGU\n+\nIIII\n@r2\nGG\n+r2\n@I\n"


@pytest.mark.parametrize("name", ["a.fastq", "a.fq", "a.fastq.gz"])
def test_fastq(tmp_path, name, told):
    data = READS.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    sequences, ids, metadata = read(tmp_path / name)
    assert (sequences, ids) == (["ACGU", "GG"], ["r1", "r2"])
    assert metadata["description"] == ["lane 1", ""]
    assert "the qualities of the reads" in told()


def test_broken_fastq(tmp_path):
    (tmp_path / "a.fastq").write_text(READS + "@r3\nACGU\n+\nII\n@r4\nCC\n+\nII\n@r5\nC")
    with pytest.raises(InputError, match=r"read 3 of .* is no FASTQ record \('@r3'"):
        read(tmp_path / "a.fastq")
    broken = Broken()
    assert read(tmp_path / "a.fastq", broken=broken)[1] == ["r1", "r2", "r4"]
    assert broken.counts["no FASTQ record"] >= 2


# --- series of numbers --------------------------------------------------------------------------


def column(*values):
    return np.array(values, np.float32)[:, None]


def check(found, wanted):
    for array, each in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(array, each)


def test_ucr(tmp_path, told):
    (tmp_path / "X_TRAIN.tsv").write_text("1\t0.5\t-1.5\t2\n2\t3\t4\tNaN\n")
    found, ids, metadata = read(tmp_path / "X_TRAIN.tsv")
    check(found, [column(0.5, -1.5, 2), column(3, 4)])
    assert metadata == {"label": [1, 2]} and ids == ["0", "1"]
    assert "has no header: each row is read as a series of numbers, its first number" in told()


def test_csv_without_a_header(tmp_path):
    (tmp_path / "a.csv").write_text("0.5,1.5,2.5\n3,4,5\n")
    found, _, metadata = read(tmp_path / "a.csv")
    check(found, [column(0.5, 1.5, 2.5), column(3, 4, 5)])
    assert metadata == {}
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"1;0.5;1.5\n2;2.5;3.5\n"))
    found, _, metadata = read(tmp_path / "b.csv.gz")
    check(found, [column(0.5, 1.5), column(2.5, 3.5)])
    assert metadata == {"label": [1, 2]}
    (tmp_path / "c.csv").write_text("0.5,1.5\n3,x\n")
    with pytest.raises(InputError, match=r"line 2 of .* holds 'x' among numbers"):
        read(tmp_path / "c.csv")


TS = """# about
@problemName x
@timeStamps false
@classLabel true a b
@data
1,2,3:4,5,6:a
7,8,?:9,1,?:b
"""


def test_ts(tmp_path):
    (tmp_path / "a.ts").write_text(TS)
    with pytest.warns(UserWarning, match="1 series of .* end in missing values"):
        found, _, metadata = read(tmp_path / "a.ts")
    check(found, [np.array([[1, 4], [2, 5], [3, 6]]), np.array([[7, 9], [8, 1]])])
    assert metadata == {"label": ["a", "b"]}
    (tmp_path / "a.ts").write_text("@timeStamps true\n@data\n(1,2)\n")
    with pytest.raises(InputError, match="has time stamps, which are not read"):
        read(tmp_path / "a.ts")
    (tmp_path / "a.ts").write_text("@data\n1,2:3\n")
    with pytest.raises(InputError, match=r"series 0 of .* every channel needs as many values"):
        read(tmp_path / "a.ts")
    (tmp_path / "a.ts").write_text("export const x = 1\n")
    with pytest.raises(InputError, match="has no line @data"):
        read(tmp_path / "a.ts")


# --- what is guessed ----------------------------------------------------------------------------


def test_guesses_are_told(tmp_path, told):
    (tmp_path / "a.csv").write_text("accession,protein,length\n1,AC,2\n2,GG,2\n")
    sequences, ids, _ = read(tmp_path / "a.csv")
    assert sequences == ["AC", "GG"] and ids == ["0", "1"]
    assert "are read from the column 'protein'" in told()
    assert "the ids are the numbers of the rows: id_column= (--id-column) takes them from" in told()
    assert "'accession'" in told()


def test_nothing_is_told_where_nothing_is_guessed(tmp_path, told):
    (tmp_path / "a.csv").write_text("id,protein\n1,AC\n2,GG\n")
    read(tmp_path / "a.csv", column="protein")
    assert told() == ""
