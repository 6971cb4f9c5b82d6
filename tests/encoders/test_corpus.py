"""Hostile corpora pass, and every row that was read is accounted for."""

import gzip
import hashlib
import json
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onevec import OnevecError
from onevec.encoders.corpus import assemble, sequences_of
from onevec.encoders.duplicates import near_copies, shingle_width, shingles, text_codes
from onevec.encoders.frames import frames_fingerprint, frames_in_order_fingerprint
from onevec.encoders.text import corpus_fingerprint
from onevec.ragged import Ragged

LOST = ("broken", "filtered", "empty", "too_short", "duplicates", "near_duplicates", "kept")


def all_of(corpus):
    counts = corpus.manifest["counts"]
    assert counts["read"] == sum(counts[name] for name in LOST)
    assert counts["pieces"] == len(corpus.train) + len(corpus.held_out)
    return list(corpus.in_order())


def why(corpus, place=0):
    entry = corpus.manifest["files"][place]
    return {reason: found["count"] for reason, found in entry.get("why", {}).items()}


FRENCH = "un café très agréable à l'hôtel, déjà réservé\noù êtes-vous passé hier ?\n"


def test_mixed_encodings_are_read_line_by_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(
        b"\xef\xbb\xbfwith a mark\n"
        + FRENCH.encode("cp1252")
        + "naïve — utf-8\n".encode()
        + b"\n  \n\x00\x01binary\nlast, without an end"
    )
    with pytest.warns(UserWarning, match=r"1 of 8 lines or rows .* \(1 binary\)"):
        corpus = assemble(path)
    assert all_of(corpus) == [
        "with a mark", *FRENCH.splitlines(), "naïve — utf-8", "last, without an end",
    ]  # fmt: skip
    (entry,) = corpus.manifest["files"]
    assert entry["encoding"] == "cp1252"
    assert entry["recoded_lines"] == 2
    assert entry["why"]["binary"]["first"] == 7
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert corpus.manifest["counts"]["empty"] == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1251", "shift_jis"])
def test_whole_files_in_other_encodings(tmp_path, encoding):
    lines = {
        "cp1251": ["съешь же ещё этих мягких булок", "да выпей чаю, пожалуйста"],
        "shift_jis": ["これは日本語のテストです", "文字コードを調べます"],
    }.get(encoding, ["first line of plain words", "and a second one: ça va", "third"])
    (tmp_path / "a.txt").write_bytes(("\n".join(lines) + "\n").encode(encoding))
    assert all_of(assemble(tmp_path / "a.txt")) == lines


def test_undecodable_lines_are_counted(tmp_path):
    noise = np.random.default_rng(0).integers(128, 256, 4_000).astype(np.uint8).tobytes()
    (tmp_path / "a.txt").write_bytes(b"good\n" + noise.replace(b"\n", b"") + b"\nbetter\n")
    with pytest.warns(UserWarning, match="1 not decodable"):
        corpus = assemble(tmp_path / "a.txt")
    assert all_of(corpus) == ["good", "better"]


def test_broken_csv_rows(tmp_path):
    (tmp_path / "a.csv").write_text(
        'id,text,split\n1,hello world,a\n2,"never closed,a\n3,fine here,a\n4,too,many,cols\n'
        '5,"two\nlines, ""quoted""",a\n\n6,plain,b\n7,short\n8,x"y,a\n',
        encoding="utf-8",
    )
    with pytest.warns(UserWarning, match="could not be read"):
        corpus = assemble(tmp_path / "a.csv", column="text")
    assert all_of(corpus) == ["hello world", "fine here", 'two\nlines, "quoted"', "plain", 'x"y']
    assert why(corpus) == {"broken quotation": 1, "wrong number of columns": 2}
    assert corpus.manifest["files"][0]["why"]["broken quotation"]["first"] == 3
    assert corpus.manifest["files"][0]["why"]["wrong number of columns"]["first"] == 5
    with pytest.warns(UserWarning):
        picked = assemble(tmp_path / "a.csv", column="text", where="split=a")
    assert len(all_of(picked)) == 4
    assert picked.manifest["counts"]["filtered"] == 1


def test_broken_json_lines(tmp_path):
    rows = ['{"text": "one"}', "{bad", '{"text": null}', '{"text": 5}', '{"text": "\\ud800"}', "",
            '{"other": 1}', '"bare"', '{"text": "two"}']  # fmt: skip
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write("\n".join(rows))
    with pytest.warns(UserWarning, match="6 of 8"):
        corpus = assemble(tmp_path / "a.jsonl.gz")
    assert all_of(corpus) == ["one", "two"]
    assert why(corpus) == {
        "no JSON": 1, "no value": 2, "not text": 1, "not valid Unicode": 1,
        "an object among bare values, or the other way round": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a.csv.gz", "a.txt.gz", "a.jsonl.gz", "a.fasta.gz"])
@pytest.mark.parametrize("harm", ["flipped", "cut"])
def test_damaged_gzip_is_one_sentence(tmp_path, name, harm):
    text = "text\n" + "".join(f'"{number * 7919 % 10007}"\n' for number in range(20_000))
    held = bytearray(gzip.compress(text.encode()))
    if harm == "flipped":
        for place in range(100, len(held) - 50, 997):
            held[place] ^= 0xFF
    held = held[: len(held) // 2] if harm == "cut" else held
    (tmp_path / name).write_bytes(bytes(held))
    with warnings.catch_warnings(), pytest.raises(OnevecError, match=f"cannot read .*{name}"):
        warnings.simplefilter("ignore")
        assemble(tmp_path / name)


def test_nearly_the_same_can_mean_very_nearly():
    rows = ["".join(np.random.default_rng(row).choice(list("abcd"), 300)) for row in range(8)]
    corpus = assemble([*rows, rows[0] + "a"], near_duplicates=0.985)
    assert corpus.manifest["counts"]["kept"] in (8, 9)  # the similarity is an estimate


def test_broken_fasta_and_tables(tmp_path):
    (tmp_path / "a.fasta").write_text("junk\n>a\nAC\nGT\n>empty\n>b x\nGGGG\n", encoding="utf-8")
    pq.write_table(pa.table({"sequence": ["TT", None, "AAA", ""]}), tmp_path / "b.parquet")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "notes.md").write_text("not a corpus", encoding="utf-8")
    with pytest.warns(UserWarning, match="1 before the first header, 1 no value"):
        corpus = assemble(tmp_path)
    assert all_of(corpus) == ["ACGT", "GGGG", "TT", "AAA"]
    assert [entry["source"].rsplit("/")[-1] for entry in corpus.manifest["files"]] == [
        "a.fasta", "b.parquet", "empty.csv",
    ]  # fmt: skip
    assert corpus.manifest["counts"]["empty"] == 2


def test_many_sources_each_file_once(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.txt").write_text(f"{name} one\nshared\n", encoding="utf-8")
    frame = pd.DataFrame({"text": ["from pandas", "shared"]})
    corpus = assemble(tmp_path / "in", str(tmp_path / "**/*.txt"), frame, ["a list"])
    assert all_of(corpus) == ["a one", "shared", "b one", "from pandas", "a list"]
    assert corpus.manifest["counts"]["duplicates"] == 2
    assert [e["source"] for e in corpus.manifest["files"]][-2:] == ["DataFrame", "list"]
    json.dumps(corpus.manifest)


def test_long_sequences_are_cut_and_stay_on_one_side():
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["open", "read", "close"], 30)) for _ in range(40)]
    whole = " ".join(rng.choice(["map", "poll"], 20_000))
    corpus = assemble([*words, whole, "ab"], longest=400, shortest=3, held_out=0.4)
    counts = corpus.manifest["counts"]
    assert counts["cut"] == 1
    assert counts["too_short"] == 1
    pieces = all_of(corpus)
    assert max(map(len, pieces)) <= 400
    assert "".join(pieces[40:]) == whole
    assert {piece for text in pieces[40:] for piece in text.split()} == {"map", "poll"}
    assert not set(corpus.train["row"][:]) & set(corpus.held_out["row"][:])


def test_the_split_is_stable():
    texts = [f"sequence number {i}" for i in range(300)]
    parts = [set(assemble(rows, held_out=0.2).held_out["sequence"][:])
             for rows in (texts, texts[::-1], [*texts, *texts[:50], "one more"])]  # fmt: skip
    assert parts[0] == parts[1]
    assert len(parts[0]) == 60
    assert len(parts[0] ^ parts[2]) <= 1
    other = assemble(texts, held_out=0.2, random_state=1)
    assert len(parts[0] & set(other.held_out["sequence"][:])) < 30
    assert len(assemble([f"{i}" for i in range(20_000)]).held_out) == 500


def test_a_lost_line_joins_no_records_and_moves_no_number(tmp_path):
    lost = b"\0\0\n"
    (tmp_path / "a.fasta").write_bytes(
        b">a\nACGT\n" + lost + b"GGGG\n>b\nTT\n" + lost + b">c\nCC\nCA\n>d\nAA\n"
    )
    (tmp_path / "a.jsonl").write_bytes(b'"one"\n' + lost + b'no json\n"two"\n')
    (tmp_path / "a.csv").write_bytes(
        b'id,text\n1,"one\n' + lost + b'more"\n2,two\n' + lost + b"3,three\n4\n"
    )
    with pytest.warns(UserWarning, match="could not be read"):
        found = {kind: assemble(tmp_path / f"a.{kind}") for kind in ("fasta", "jsonl", "csv")}
    assert all_of(found["fasta"]) == ["CCCA", "AA"]  # the lost line may have been a header
    assert why(found["fasta"]) == {"binary": 2, "record with a lost line": 2}
    assert all_of(found["jsonl"]) == ["one", "two"]
    assert found["jsonl"].manifest["files"][0]["why"]["no JSON"]["first"] == 3
    assert all_of(found["csv"]) == ["two", "three"]
    assert why(found["csv"]) == {
        "binary": 2, "record with a lost line": 1, "wrong number of columns": 1,
    }  # fmt: skip
    assert found["csv"].manifest["files"][0]["why"]["wrong number of columns"]["first"] == 8


def test_a_stray_quotation_costs_its_lines_alone(tmp_path):
    rows = [f"{row},good {row}" for row in range(6)]
    rows[1], rows[4] = '1,"stray', '4,other" stray'
    (tmp_path / "a.csv").write_text("\n".join(["id,text", *rows]) + "\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="2 of 6 lines"):
        corpus = assemble(tmp_path / "a.csv")
    assert all_of(corpus) == ["good 0", "good 2", "good 3", "good 5"]
    assert sum(why(corpus).values()) == 2


def test_an_odd_row_costs_itself_wherever_it_stands(tmp_path):
    records = [{"text": 5}, {"text": "abc"}, {"text": [[1, 2], [3]]}, {"text": "def"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    with pytest.warns(UserWarning, match="1 not one array, 1 neither text nor frames"):
        corpus = assemble(tmp_path / "a.jsonl", column="text")
    assert all_of(corpus) == ["abc", "def"]
    assert why(corpus) == {"neither text nor frames": 1, "not one array": 1}
    waves = [[["a", "b"]], *np.random.default_rng(0).normal(size=(3, 4, 2)).tolist()]
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, waves)), encoding="utf-8")
    with pytest.warns(UserWarning, match="1 not numbers"):
        corpus = assemble(tmp_path / "w.jsonl")
    assert len(all_of(corpus)) == 3


def test_near_duplicates_of_text_and_frames():
    rng = np.random.default_rng(0)
    bases = ["".join(rng.choice(list("ACGT"), n)) for n in rng.integers(100, 500, 60)]
    near = [base[:50] + "N" + base[51:] for base in bases[:20]]
    corpus = assemble([*bases, *near, bases[0]], near_duplicates=0.7)
    counts = corpus.manifest["counts"]
    assert counts["duplicates"] == 1
    assert counts["near_duplicates"] == 20
    assert set(all_of(corpus)) == set(bases)
    assert assemble([*bases, *near]).manifest["counts"]["kept"] == 80
    frames = [rng.normal(size=(40, 8)) for _ in range(30)]
    noisy = [each + 1e-4 * rng.normal(size=each.shape) for each in frames[:10]]
    dense = assemble([*frames, *noisy], near_duplicates=0.7)
    assert dense.manifest["counts"]["near_duplicates"] == 10
    assert dense.dense


def test_shingles_estimate_the_jaccard_index():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 20, 4_000)
    for share in (0.5, 0.9, 1.0):
        other = np.concatenate([one[: int(4_000 * share)], rng.integers(20, 40, 4_000)])
        a, b = (set(shingles(each, 5).tolist()) for each in (one, other))
        exact = [{tuple(each[i : i + 5]) for i in range(len(each) - 4)} for each in (one, other)]
        jaccard = len(exact[0] & exact[1]) / len(exact[0] | exact[1])
        assert len(a & b) / len(a | b) == pytest.approx(jaccard, abs=1e-3)
        found = list(near_copies([one, other], 0.6 * share, 5))
        assert found == [False, jaccard > 0.6 * share]


def test_shingles_are_wide_enough_for_the_alphabet():
    rng = np.random.default_rng(0)
    dna = [text_codes("".join(rng.choice(list("ACGT"), 2_000))) for _ in range(20)]
    assert shingle_width(dna) == 11
    text = b"the quick brown fox jumps over the lazy dog and naps"
    assert shingle_width([np.frombuffer(text, np.uint8)]) == 5
    assert shingle_width([np.zeros(100, np.int64)]) == 32
    assert not any(near_copies(dna, 0.5, 11))


def test_frames(tmp_path, waves):
    np.savez(tmp_path / "w.npz", **{str(i): wave for i, wave in enumerate(waves[:5])})
    bad = [np.full((3, 4), np.nan), np.ones((2, 5)), np.zeros((0, 4)), "text"]
    with pytest.warns(UserWarning, match="1 not finite, 1 not of 4 dimensions, 1 not frames"):
        corpus = assemble(tmp_path / "w.npz", bad, longest=20)
    assert corpus.manifest["counts"]["empty"] == 1
    kept = all_of(corpus)
    assert max(map(len, kept)) == 20
    np.testing.assert_array_equal(np.concatenate(kept), np.concatenate(waves[:5]))


def test_fingerprints_are_of_the_sequences_in_their_order(waves):
    texts = [f"text {i}" for i in range(50)]
    assert corpus_fingerprint(assemble(texts, held_out=0.3).in_order()) == corpus_fingerprint(texts)
    distinct = list({wave.tobytes(): wave for wave in waves}.values())
    dense = assemble(distinct, held_out=0.3)
    assert frames_in_order_fingerprint(dense) == frames_fingerprint(Ragged.from_list(distinct))


@given(
    st.lists(st.text(alphabet="ab \né", max_size=12), min_size=2, max_size=40),
    st.integers(1, 4),
    st.integers(4, 9),
)
@settings(max_examples=25, deadline=None)
def test_nothing_is_lost_without_a_count(texts, shortest, longest):
    usable = {t for t in texts if t.strip() and len(t) >= shortest}
    if len(usable) < 2:
        with pytest.raises(OnevecError, match="at least 2"):
            assemble(texts, shortest=shortest, longest=longest)
        return
    corpus = assemble(texts, shortest=shortest, longest=longest)
    pieces = all_of(corpus)
    assert corpus.manifest["counts"]["kept"] == len(usable)
    assert sum(len(p.replace(" ", "").replace("\n", "")) for p in pieces) == sum(
        len(t.replace(" ", "").replace("\n", "")) for t in usable
    )


def test_a_file_is_not_held_in_memory(tmp_path):
    line = "x" * 2_000
    with (tmp_path / "a.txt").open("w", encoding="utf-8") as file:
        file.writelines(f"{i} {line}\n" for i in range(20_000))
    tracemalloc.start()
    corpus = assemble(tmp_path / "a.txt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert corpus.manifest["counts"]["kept"] == 20_000
    assert peak < 20e6  # of 40 MB


def test_the_folder_goes_with_the_corpus():
    corpus = assemble(["ab", "cd"])
    folder = corpus.folder
    assert folder.is_dir()
    del corpus
    assert not folder.exists()


@pytest.mark.parametrize(
    ("sources", "options", "words"),
    [((), {}, "no corpus"), ((["ab", "ac"],), {"held_out": 1}, "held_out=1"),
     ((["ab", "ac"],), {"near_duplicates": 2}, "near_duplicates=2"),
     ((["ab", "ac"],), {"shortest": 0}, "shortest=0"),
     ((["ab", "ac"],), {"shortest": 5, "longest": 3}, "longest=3"),
     ((["ab"],), {}, "got 1 sequences"), ((["ab", "ab"],), {}, "besides its copies"),
     (("none.txt",), {}, "no file none.txt"), (("none/*.txt",), {}, "holds no file"),
     (([{"a": 1}],), {}, "cannot tell which column"),
     ((["ab", "ac"],), {"column": "x"}, "no columns")],
)  # fmt: skip
def test_bad_calls_are_one_sentence_and_leave_nothing(
    tmp_path, monkeypatch, sources, options, words
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OnevecError, match=words) as error:
        assemble(*sources, **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_is_not_there(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("split,sequence\na,xy\nb,zz\na,xy\na,yx\n", encoding="utf-8")
    assert all_of(assemble(path, column="sequence", where="split=a")) == ["xy", "yx"]
    for options, words in (
        ({"where": "part=a"}, "no column 'part'"),
        ({"where": "split"}, "COLUMN=VALUE"),
        ({"column": "seq"}, "no column 'seq'"),
    ):
        with pytest.raises(OnevecError, match=words):
            assemble(path, **options)


def test_sequences_come_back_as_they_were(waves):
    corpus = assemble(waves[:10], held_out=0.2)
    for frames in sequences_of(corpus.train):
        assert frames.dtype == np.float32
        assert any(np.array_equal(frames, wave) for wave in waves)
