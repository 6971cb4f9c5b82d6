"""Search: exact against a plain sort, each kind of FAISS, changes, filters, files."""

import json
import shutil
import sys

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onevec.errors import InputError, MissingExtraError, StoreError
from onevec.use import exact, index
from onevec.use.exact import METRICS, Rows, exact_top, scores_of
from onevec.use.filters import matching
from onevec.use.folder import is_index
from onevec.use.formats import Vectors
from onevec.use.search import Index
from onevec.use.stored import DTYPES
from onevec.use.structures import KINDS, STRUCTURES

DIM = 24


def plain_sort(X, Q, k, metric):
    """The reference: all scores in fp64, a stable sort."""
    X, Q = X.astype(np.float64), Q.astype(np.float64)
    if metric == "euclidean":
        scores = -np.sqrt(((Q[:, None] - X[None]) ** 2).sum(2))
    else:
        scores = (Q[:, None] * X[None]).sum(2)
    if metric == "cosine":
        norms = np.linalg.norm(Q, axis=1)[:, None] * np.linalg.norm(X, axis=1)[None]
        scores /= np.where(norms > 0, norms, 1)
    scores = scores.astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


small = st.integers(-3, 3).map(float)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(METRICS))
def test_exact_is_a_plain_sort_ties_included(data, metric):
    rows, queries, dim = (data.draw(st.integers(1, n)) for n in (90, 4, 5))
    X = data.draw(hnp.arrays(np.float32, (rows, dim), elements=small))
    Q = data.draw(hnp.arrays(np.float32, (queries, dim), elements=small))
    k = data.draw(st.integers(1, 12))
    kept = data.draw(hnp.arrays(bool, rows))
    allowed = np.flatnonzero(kept)
    blocks = exact._ROWS, exact._SLACK
    exact._ROWS, exact._SLACK = 7, 3  # many blocks, little slack: ties cross all borders
    try:
        found, scores = exact_top(Rows(X), Q, k, metric)
        some, _ = exact_top(Rows(X), Q, k, metric, allowed) if kept.any() else (None, None)
    finally:
        exact._ROWS, exact._SLACK = blocks
    order, wanted = plain_sort(X, Q, k, metric)
    np.testing.assert_array_equal(scores, wanted)
    np.testing.assert_array_equal(found, order)
    if some is not None:
        np.testing.assert_array_equal(some, allowed[plain_sort(X[allowed], Q, k, metric)[0]])


@pytest.mark.parametrize("metric", METRICS)
def test_exact_on_numbers_of_all_sizes(metric):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(3_000, 8)) * 10.0 ** rng.integers(-18, 18, size=(3_000, 1))).astype("f4")
    X[100:200] = X[300]
    X[5], X[7] = 0, 3e38  # squares beyond fp32
    Q = np.concatenate([X[[5, 7, 300, 900]], rng.normal(size=(3, 8)).astype("f4")])
    found, scores = exact_top(Rows(X), Q, 20, metric)
    order, wanted = plain_sort_finite(X, Q, 20, metric)
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)
    assert (found == order).mean() > 0.95  # the rest differ in the last digit of their score


def plain_sort_finite(*arguments):
    with np.errstate(over="ignore"):
        return plain_sort(*arguments)


def shared(ids, wanted):
    """Share of the wanted ids that were found."""
    both = zip(ids, wanted, strict=True)
    return np.mean([len(set(found) & set(row)) / len(row) for found, row in both])


@pytest.fixture(scope="module")
def clustered():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, DIM))
    X = (centres[rng.integers(60, size=3_000)] + 0.5 * rng.normal(size=(3_000, DIM))).astype("f4")
    return X, {"number": np.arange(3_000), "parity": ["even", "odd"] * 1_500}


@pytest.fixture(scope="module")
def built(clustered):
    return {kind: Index.build(clustered[0], metadata=clustered[1], kind=kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_high_and_is_that_of_a_plain_sort(kind, clustered, built):
    X, _ = clustered
    found = built[kind].search(X[:50] + 0.01, 10)
    order, scores = plain_sort(X, X[:50] + np.float32(0.01), 10, "cosine")
    share = shared(found.ids, order.astype(str))
    assert share > (0.999 if kind in ("exact", "flat") else 0.9)
    assert abs(built[kind].recall() - share) < 0.06
    if kind in ("exact", "flat"):
        np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
    assert found.metadata["number"].to_pylist() == found.ids.ravel().astype(int).tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_by_every_metric(kind, metric, clustered):
    X = clustered[0][:1_200]
    found = Index.build(X, kind=kind, metric=metric).search(X[:30], 5)
    order, scores = plain_sort(X, X[:30], 5, metric)
    share = shared(found.ids, order.astype(str))
    assert share > 0.8
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert found.scores[:, 0] == pytest.approx(scores[:, 0], rel=0.1, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_add_delete_replace_save_open(kind, clustered, tmp_path):
    X, metadata = clustered
    first = {name: values[:2_000] for name, values in metadata.items()}
    made = Index.build(X[:2_000], metadata=first, kind=kind)
    assert made.add(X[2_000:], metadata={"number": np.arange(2_000, 3_000)}) == 0
    assert made.metadata["parity"][2_500].as_py() is None
    assert made.delete([7, "8"]) == 2
    assert made.add(-X[:1], ["2999"], {"number": [1], "fresh": ["x"]}, replace=True) == 1
    assert len(made) == 2_998
    found = made.search(np.concatenate([X[7:9], X[2_500:2_501], -X[:1]]), 3)
    assert not {"7", "8"} & set(found.ids.ravel())
    assert [found.ids[2, 0], found.ids[3, 0]] == ["2500", "2999"]
    made.save(tmp_path / "i")
    opened = Index.open(tmp_path / "i")
    again = opened.search(X[:40], 7)
    np.testing.assert_array_equal(again.ids, made.search(X[:40], 7).ids)
    assert opened.ids == made.ids
    assert opened.facts() == made.facts()
    assert opened.metadata.equals(made.metadata)
    opened.add(X[7:8], ["7"])  # what was opened may be changed, and replace its own folder
    opened.save(tmp_path / "i", overwrite=True)
    assert Index.open(tmp_path / "i").search(X[7], 1).ids[0, 0] == "7"
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


@pytest.mark.parametrize("kind", KINDS)
def test_filters_give_what_a_search_in_the_part_gives(kind, clustered, built, monkeypatch):
    X, _ = clustered
    odd = np.arange(1, 3_000, 2)
    wanted = odd[plain_sort(X[odd], X[:30], 5, "cosine")[0]].astype(str)
    found = built[kind].search(X[:30], 5, "parity = odd")
    np.testing.assert_array_equal(found.ids, wanted)  # a small part is searched exactly
    monkeypatch.setattr(index, "SMALL", (0, 0.0))
    through = built[kind].search(X[:30], 5, pc.field("parity") == "odd")
    assert set(through.metadata["parity"].to_pylist()) == {"odd"}
    share = shared(through.ids, wanted)
    assert share > 0.9
    few = built[kind].search(X[:3], 5, "number in (3, 2000, 2999)")
    assert [sorted(row) for row in few.ids.tolist()] == [["2000", "2999", "3"]] * 3
    assert built[kind].search(X[:3], 5, "number > 5000").ids.shape == (3, 0)


def test_deleted_rows_are_cleared_away_and_structures_renewed(clustered, monkeypatch):
    X, _ = clustered
    monkeypatch.setattr(index, "FEW", 500)
    made = Index.build(X[:400], kind="hnsw")
    assert made._structure is None  # searched exactly so far
    made.add(X[400:600])
    assert made._fitted == 600
    made.add(X[600:])
    assert made._fitted == 3_000
    made.delete(range(1_000))
    assert len(made._stored) == len(made) == 2_000
    assert made.search(X[1_500], 1).ids[0, 0] == "1500"
    made.delete(range(1_000, 3_000))
    assert len(made) == 0
    assert made.search(X[:2], 3).ids.shape == (2, 0)
    assert made.add(X[:3], list("abc")) == 0
    assert made.search(X[1], 1).ids[0, 0] == "b"


def test_an_emptied_index_is_saved(clustered, tmp_path):
    made = Index.build(clustered[0][:3])
    made.delete(iter("012"))
    made.save(tmp_path / "i")
    opened = Index.open(tmp_path / "i")
    assert len(opened) == 0
    opened.add(clustered[0][:2], ["a", "b"])
    assert opened.search(clustered[0][:1], 5).ids.shape == (1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_in_fewer_bytes(dtype, clustered, tmp_path):
    X = clustered[0][:500]
    made = Index.build(X[:100], dtype=dtype)
    for first in range(100, 500, 50):
        made.add(X[first : first + 50] * (1 + first))  # larger ones later
    scale = np.ones(500)
    scale[100:] += np.repeat(np.arange(100, 500, 50), 50)
    error = {"float32": 1e-7, "float16": 1e-3, "int8": 0.5 / 127}[dtype]
    largest = np.abs(X).max(axis=1, keepdims=True)
    assert (np.abs(made.vectors / scale[:, None] - X) <= 1.01 * error * largest).all()
    found = made.search(X[:50], 1)
    assert (found.ids[:, 0] == np.arange(50).astype(str)).all()
    made.save(tmp_path / "i")
    np.testing.assert_array_equal(Index.open(tmp_path / "i").vectors, made.vectors)


def test_ties_go_to_what_came_first():
    made = Index.build(np.ones((200, 3)))
    assert made.search(np.ones(3), 4).ids.tolist() == [["0", "1", "2", "3"]]
    made.delete(["1"])
    assert made.search(np.zeros((1, 3)), 3).scores.tolist() == [[0, 0, 0]]
    assert made.search(np.zeros((1, 3)), 3).ids.tolist() == [["0", "2", "3"]]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("family = RNase", [0, 2]),
        ("family==RNase & length>=30", [2]),
        ("length < 30 | family = 'heat shock'", [0, 1]),
        ("!(family = RNase) & length > 0", [1]),
        ("family in (RNase, kinase)", [0, 2]),
        ("score <= 0.5 & !reviewed = true", [1]),
        ("length != 12", [1, 2]),
        ("length > 11.5 & length < 1e2", [0, 1, 2]),
        ('id = "b"', [1]),
        ("family = a | family = RNase & length = 12", [0]),
    ],
)  # fmt: skip
def test_what_a_filter_lets_through(where, rows):
    metadata = {
        "family": ["RNase", "heat shock", "RNase", None],
        "length": [12, 40, 30, None],
        "score": [0.1, 0.5, 0.9, 0.0],
        "reviewed": [True, False, True, None],
    }
    found = Index.build(np.ones((4, 2)), list("abcd"), metadata).search(np.ones(2), 9, where)
    assert found.ids[0].tolist() == ["abcd"[row] for row in rows]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("", "a column is needed"),
        ("length", "a comparison is needed after 'length'"),
        ("length >", "the end where a value"),
        ("length > & 3", "& where a value"),
        ("length > 3 length", "'length' stands where & or |"),
        ("(length > 3", "a \\) is missing"),
        ("length in 3", "a \\( is needed"),
        ("length in (3", "missing after 'in"),
        ("length = three", "holds int64, with 'three'"),
        ("weight = 3", "names a column 'weight': there are id, length"),
        ("length = 'three", "nothing can be read from"),
        (pc.field("weight") == 3, "cannot be applied"),
        (3, "cannot be applied"),
    ],
)
def test_what_is_no_filter(where, words):
    table = Index.build(np.ones((2, 2)), metadata={"length": [1, 2]})
    with pytest.raises(InputError, match=words) as caught:
        table.search(np.ones(2), 1, where)
    assert "\n" not in str(caught.value)


def test_a_filter_on_codes():
    import pyarrow as pa

    table = pa.table({"kind": pa.array(["a", "b", None]).dictionary_encode()})
    assert matching(table, "kind = b").tolist() == [False, True, False]


def test_bad_calls_change_nothing(clustered):
    X, _ = clustered
    made = Index.build(X[:50], metadata={"n": range(50)}, made_by="a" * 64)
    before = made.facts(), made.ids
    nan = X[:2].copy()
    nan[1, 0] = np.nan
    calls = [
        (lambda: made.add(X[:2, :5], ["x", "y"]), InputError, "5 dimensions, the index holds 24"),
        (lambda: made.add(None), InputError, "dtype object and shape"),
        (lambda: made.add(nan, ["x", "y"]), InputError, "row 1 of the vectors holds NaN"),
        (lambda: made.add(X[:2], ["x", "x"]), InputError, "'x' comes twice"),
        (lambda: made.add(X[:2], ["x", "3"]), InputError, "1 of 2 ids .* is '3': pass replace"),
        (lambda: made.add(X[:1], ["x"], {"n": ["text"]}), InputError, "does not fit that of"),
        (lambda: made.add(Vectors.of(X[:1], ["x"], made_by="b" * 64)), StoreError,
         "made by model bbbbbbbbbbbb, the index by aaaaaaaaaaaa"),
        (lambda: made.delete(["3", "x", "y"]), InputError, "2 of 3 ids are not .* first is 'x'"),
        (lambda: made.search(X[:2], 0), InputError, "k=0"),
        (lambda: made.search(X[:2], True), InputError, "k=True"),
        (lambda: made.search(X[:2, :3]), InputError, "3 dimensions"),
        (lambda: made.search(nan), InputError, "row 1 of the queries holds NaN"),
        (lambda: made.search(Vectors.of(X[:1], made_by="b" * 64)), StoreError, "made by model bbb"),
    ]  # fmt: skip
    for call, kind, words in calls:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert (made.facts(), made.ids) == before
    assert made.search(Vectors.of(X[:1], made_by="a" * 64), 1).ids[0, 0] == "0"
    half = Index.build(X[:50], dtype="float16")
    with pytest.raises(InputError, match="65,504, the largest of float16"):
        half.add(1e5 + X[:1], ["x"])
    assert len(half) == 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(kind="tree"), "kind='tree': choose one of exact, flat"),
        (dict(metric="l1"), "metric='l1': choose one of cosine"),
        (dict(dtype="int4"), "dtype='int4': choose one of float32"),
        (dict(kind="hnsw", options={"ef": 3}), "takes links, ef_construction, ef_search"),
        (dict(kind="hnsw", options={"links": 0}), "links=0"),
        (dict(options={"links": 3}), "an exact index has none"),
        (dict(kind="ivf_pq", options={"parts": 7}), "must divide the 24"),
        (dict(ids=["a"] * 1_200), "'a' comes twice"),
    ],
)
def test_what_is_no_index(arguments, words, clustered):
    with pytest.raises(InputError, match=words):
        Index.build(clustered[0][:1_200], **arguments)


def test_faiss_missing_is_one_sentence(clustered, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"onevec\[search\]"):
        Index.build(clustered[0], kind="flat")
    assert len(Index.build(clustered[0])) == 3_000


@pytest.mark.parametrize("kind", ["exact", "ivf_pq"])
def test_every_damage_is_noticed(kind, clustered, tmp_path):
    Index.build(clustered[0][:1_500], kind=kind, metadata={"n": range(1_500)}, dtype="int8").save(
        tmp_path / "whole"
    )
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert ("faiss.index" in names) == (kind == "ivf_pq")
    for name in names:
        for damage in ("gone", "cut", "flipped"):
            copy = tmp_path / f"{name}-{damage}"
            shutil.copytree(tmp_path / "whole", copy)
            content = bytearray((copy / name).read_bytes())
            if damage == "gone":
                (copy / name).unlink()
            elif damage == "cut":
                (copy / name).write_bytes(content[: len(content) // 2])
            else:
                content[len(content) // 2] ^= 1
                (copy / name).write_bytes(content)
            with pytest.raises(StoreError, match=r"no vector index|damaged or half copied") as why:
                Index.open(copy)
            assert "\n" not in str(why.value)


def test_other_formats_and_folders(clustered, tmp_path):
    made = Index.build(clustered[0][:5])
    made.save(tmp_path / "i")
    with pytest.raises(InputError, match="exists"):
        made.save(tmp_path / "i")
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="it is no vector index"):
        made.save(tmp_path / "mine", overwrite=True)
    with pytest.raises(StoreError, match="is no vector index"):
        Index.open(tmp_path / "mine")
    assert not is_index(tmp_path / "mine")
    info = json.loads((tmp_path / "i/vector-index.json").read_text())
    (tmp_path / "i/vector-index.json").write_text(json.dumps({**info, "version": 9}))
    with pytest.raises(StoreError, match="has version 9"):
        Index.open(tmp_path / "i")


def test_the_table_of_kinds_is_whole():
    assert set(KINDS) == {"exact", *STRUCTURES}
    for made in STRUCTURES.values():
        assert all(name in vars(made) for name in made.option_names)


def test_scores_are_those_of_the_formulas():
    a, b = np.float32([[3, 4]]), np.float32([[4, 3]])
    assert scores_of(a, b, "dot")[0] == 24
    assert scores_of(a, b, "cosine")[0] == np.float32(0.96)
    assert scores_of(a, b, "euclidean")[0] == -np.sqrt(np.float32(2))


def test_vectors_without_names_get_numbers_that_nobody_had(clustered, tmp_path):
    X = clustered[0][:40]
    np.save(tmp_path / "v.npy", X[:10])
    made = Index.build(X[:10])
    made.delete(["8", "9"])
    made.save(tmp_path / "i")
    again = Index.open(tmp_path / "i")
    assert again.add(tmp_path / "v.npy") == 0
    assert again.ids == [*map(str, range(8)), *map(str, range(10, 20))]
    again.add(X[20:22], ids=["b", "500"])
    again.add(X[22:23])
    assert again.ids[-1] == "501"
    with pytest.raises(InputError, match="only an id tells which"):
        again.add(X[:3], replace=True)
    np.testing.assert_array_equal(again.read(np.array([0])), X[:1])


def test_an_error_of_the_structure_leaves_the_index_as_it_was(clustered, monkeypatch):
    X = clustered[0]
    made = Index.build(X[:1_200], kind="hnsw")
    broken = [(made._structure, "add", lambda: made.add(X[1_200:1_210]))]
    monkeypatch.setattr(index, "GROWTH", 1)
    broken += [(STRUCTURES["hnsw"], "fit", lambda: made.add(X[1_200:1_210]))]
    broken += [(STRUCTURES["hnsw"], "fit", lambda: made.delete(made.ids[:100]))]

    def fail(*words):
        raise MemoryError("no room")

    for place, name, call in broken:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            patch.setattr(index, "DEAD", 0.05)
            with pytest.raises(MemoryError):
                call()
        assert len(made) == 1_200
        assert made.search(X[7], 1).ids.tolist() == [["7"]]
    made.add(X[1_200:1_210])
    assert len(made) == 1_210 and made._structure is not None
    assert made.search(X[1_205], 1).ids.tolist() == [["1205"]]


def test_options_are_checked_however_few_vectors_there_are(clustered):
    with pytest.raises(InputError, match="must divide the 24 dimensions"):
        Index.build(clustered[0][:5], kind="ivf_pq", options={"parts": 7})


def test_rows_of_unequal_length_are_one_sentence(clustered):
    with pytest.raises(InputError, match="the queries are no array"):
        Index.build(clustered[0][:5]).search([[1.0] * DIM, [1.0]])


@pytest.mark.parametrize("options", [{"links": 1}, {"links": 10**20}, {"ef_search": 2**31}])
def test_options_that_faiss_dies_of(options, clustered):
    with pytest.raises(InputError, match="it must be a whole number from"):
        Index.build(clustered[0][:5], kind="hnsw", options=options)


def test_a_wide_search_through_the_graph_is_not_narrowed(clustered):
    made = Index.build(clustered[0], kind="hnsw", options={"ef_search": 9_000})
    import faiss

    assert made._structure._parameters(faiss, {}, 10, 1.0).efSearch == 9_000


def test_an_interrupted_addition_to_int8_can_be_made_again(clustered, monkeypatch):
    from onevec.use import stored

    made = Index.build(clustered[0][:20], dtype="int8")
    roomier, calls = stored._roomier, []

    def second_fails(array, room):
        calls.append(room)
        if len(calls) == 2:
            raise MemoryError
        return roomier(array, room)

    with monkeypatch.context() as patch:
        patch.setattr(stored, "_roomier", second_fails)
        with pytest.raises(MemoryError):
            made.add(clustered[0][20:50])
    made.add(clustered[0][20:50])
    assert made.ids == [*map(str, range(50))]
    assert made.search(clustered[0][33], 1).ids.tolist() == [["33"]]


def test_names_of_all_kinds(clustered):
    X = clustered[0]
    made = Index.build(X[:2], ids=["7", "9" * 18])
    made.add(X[2:3])
    made.add(X[3:4])
    assert made.ids[2:] == [str(10**18), str(10**18 + 1)]
    assert made.delete(np.int64(7)) == 1
    with pytest.raises(InputError, match="without an id"):
        Index.build(X[:2], ids=[None, "a"])
    with pytest.raises(InputError, match="too many parentheses"):
        made.search(X[0], where="(" * 3_000)
