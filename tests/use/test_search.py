"""Search: exact against a plain sort, the graph, changes, SQL filters, files."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onevec.errors import InputError, MissingExtraError, StoreError
from onevec.use import exact, index
from onevec.use.database import DTYPES
from onevec.use.exact import METRICS, Rows, exact_top, scores_of
from onevec.use.folder import is_index
from onevec.use.formats import Vectors
from onevec.use.graph import Graph
from onevec.use.index import KINDS
from onevec.use.search import Index

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
    assert share > (0.999 if kind == "exact" else 0.9)
    assert abs(built[kind].recall() - share) < 0.06
    if kind == "exact":
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
    opened.add(X[7:8], ["7"])  # what was opened is changed in its own folder
    opened.save(tmp_path / "i", overwrite=True)
    assert Index.open(tmp_path / "i").search(X[7], 1).ids[0, 0] == "7"
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


@pytest.mark.parametrize("kind", KINDS)
def test_filters_give_what_a_search_in_the_part_gives(kind, clustered, built, monkeypatch):
    X, _ = clustered
    odd = np.arange(1, 3_000, 2)
    wanted = odd[plain_sort(X[odd], X[:30], 5, "cosine")[0]].astype(str)
    found = built[kind].search(X[:30], 5, "parity = 'odd'")
    np.testing.assert_array_equal(found.ids, wanted)  # a small part is searched exactly
    monkeypatch.setattr(index, "SMALL", (0, 0.0))
    through = built[kind].search(X[:30], 5, "parity = 'odd'")
    assert set(through.metadata["parity"].to_pylist()) == {"odd"}
    share = shared(through.ids, wanted)
    assert share > 0.9
    few = built[kind].search(X[:3], 5, "number in (3, 2000, 2999)")
    assert [sorted(row) for row in few.ids.tolist()] == [["2000", "2999", "3"]] * 3
    assert built[kind].search(X[:3], 5, "number > 5000").ids.shape == (3, 0)


def test_the_graph_follows_what_changes(clustered, monkeypatch):
    X, _ = clustered
    monkeypatch.setattr(index, "FEW", 500)
    made = Index.build(X[:400], kind="hnsw")
    made.search(X[0])
    assert made._graph is None  # searched exactly so far
    made.add(X[400:600])
    assert made.search(X[500], 1).ids[0, 0] == "500"
    first = made._graph
    assert len(first) == 600
    made.add(X[600:])
    made.delete(range(500))
    assert made.search(X[1_500], 1).ids[0, 0] == "1500"
    assert made._graph is first and len(first) == 3_000
    made.delete(range(500, 1_000))  # so many that it is made anew
    assert made.search(X[1_500], 1).ids[0, 0] == "1500"
    assert len(made._graph) == len(made) == 2_000
    made.delete(range(1_000, 3_000))
    assert len(made) == 0
    assert made.search(X[:2], 3).ids.shape == (2, 0)
    assert made.add(X[:3], list("abc")) == 0
    assert made.search(X[1], 1).ids[0, 0] == "b"


def test_many_small_additions_leave_few_pieces(clustered, tmp_path, monkeypatch):
    from onevec.use import database

    monkeypatch.setattr(database, "_MOST_FRAGMENTS", 4)
    X, _ = clustered
    Index.build(X[:2]).save(tmp_path / "i")
    for row in range(2, 12):
        Index.open(tmp_path / "i").add(X[row : row + 1])
    made = Index.open(tmp_path / "i")
    assert made.table.stats()["fragment_stats"]["num_fragments"] <= 4
    assert made.ids == [*map(str, range(12))]
    np.testing.assert_array_equal(made.vectors, X[:12])


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
    error = {"float32": 1e-7, "float16": 1e-3}[dtype]
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
        ("family = 'RNase'", [0, 2]),
        ("family='RNase' AND length>=30", [2]),
        ("length < 30 OR family = 'heat shock'", [0, 1]),
        ("NOT (family = 'RNase') AND length > 0", [1]),
        ("family IN ('RNase', 'kinase')", [0, 2]),
        ("score <= 0.5 AND NOT reviewed", [1]),
        ("length != 12", [1, 2]),
        ("length IS NULL", [3]),
        ("family LIKE 'RN%' -- of RNA", [0, 2]),
        ("id = 'b'", [1]),
        ("`long name` > 2", [2, 3]),
    ],
)  # fmt: skip
def test_what_a_filter_lets_through(where, rows):
    metadata = {
        "family": ["RNase", "heat shock", "RNase", None],
        "length": [12, 40, 30, None],
        "score": [0.1, 0.5, 0.9, 0.0],
        "reviewed": [True, False, True, None],
        "long name": [1, 2, 3, 4],
    }
    found = Index.build(np.ones((4, 2)), list("abcd"), metadata).search(np.ones(2), 9, where)
    assert found.ids[0].tolist() == ["abcd"[row] for row in rows]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("", "Expected: an expression"),
        ("length", "does not return a boolean"),
        ("length >", "Expected: an expression"),
        ("length > 3 length", "Expected: \\)"),
        ("length > 3; DROP TABLE x", "Expected: \\)"),
        ("(length > 3", "Expected: \\)"),
        ("length = 'three'", "could not convert to literal of type 'Int64'"),
        ("length / 0 > 1", "Divide by zero"),
        ("weight {3} = 3", "Expected: \\)"),
        ("weight = 3", "No field named weight.*the columns are id, length$"),
        (3, "pass SQL as text"),
        ("(" * 3_000, "recursion limit"),
    ],
)
def test_what_is_no_filter(where, words):
    table = Index.build(np.ones((2, 2)), metadata={"length": [1, 2]})
    with pytest.raises(InputError, match=words) as caught:
        table.search(np.ones(2), 1, where)
    assert "\n" not in str(caught.value)
    assert ".rs:" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_filter_on_codes():
    kinds = pa.array(["a", "b", None]).dictionary_encode()
    made = Index.build(np.eye(3), list("xyz"), {"kind": kinds})
    made.add(np.ones((1, 3)), ["w"], {"kind": pa.array(["c"]).dictionary_encode()})
    assert made.search(np.ones(3), 9, "kind IN ('b', 'c')").ids.tolist() == [["w", "y"]]


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
        (lambda: made.add(X[:1], ["x"], {"n": ["text"]}), InputError, "column 'n' does not fit"),
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
        (dict(kind="tree"), "kind='tree': choose one of exact, hnsw"),
        (dict(metric="l1"), "metric='l1': choose one of cosine"),
        (dict(kind="ivf_pq"), "kind='ivf_pq': choose one of exact, hnsw"),
        (dict(dtype="int8"), "dtype='int8': choose one of float32"),
        (dict(kind="hnsw", options={"ef": 3}), "takes links, ef_construction, ef_search"),
        (dict(kind="hnsw", options={"links": 0}), "links=0"),
        (dict(options={"links": 3}), "an exact index has none"),
        (dict(metadata={"onevec_row": range(1_200)}), "'onevec_row', which is taken"),
        (dict(metadata={"a.b": range(1_200)}), "does not take the metadata .*cannot contain"),
        (dict(ids=["a"] * 1_200), "'a' comes twice"),
    ],
)
def test_what_is_no_index(arguments, words, clustered):
    with pytest.raises(InputError, match=words):
        Index.build(clustered[0][:1_200], **arguments)


@pytest.mark.parametrize(("package", "kind"), [("faiss", "hnsw"), ("lancedb", "exact")])
def test_a_missing_package_is_one_sentence(package, kind, clustered, monkeypatch, tmp_path):
    Index.build(clustered[0][:5]).save(tmp_path / "i")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"onevec\[search\]"):
        Index.build(clustered[0], kind=kind)
    if package == "faiss":
        assert len(Index.build(clustered[0])) == 3_000
    else:
        with pytest.raises(MissingExtraError, match=r"onevec\[search\]"):
            Index.open(tmp_path / "i")


def damaged(path, copy, name, damage):
    """Copy a folder with one file gone, cut in half or with one bit flipped."""
    shutil.copytree(path, copy)
    content = bytearray((copy / name).read_bytes())
    if damage == "gone":
        (copy / name).unlink()
    elif damage == "cut":
        (copy / name).write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_damage_is_noticed_or_mended(damage, clustered, tmp_path):
    X = clustered[0][:1_500]
    made = Index.build(X, kind="hnsw", metadata={"n": range(1_500)})
    whole = made.save(tmp_path / "whole")
    data = next(whole.glob("vectors.lance/data/*.lance")).relative_to(whole)
    names = ["vector-index.json"]
    if damage != "flipped":  # LanceDB keeps no checksum of its numbers
        names.append(str(data))
    for name in names:
        copy = damaged(whole, tmp_path / name.replace("/", "-"), name, damage)
        with pytest.raises(StoreError, match=r"no vector index|damaged or half copied") as why:
            Index.open(copy).search(X[:1])
        assert "\n" not in str(why.value) and ".rs:" not in str(why.value)
    mended = damaged(whole, tmp_path / "graph", "hnsw.faiss", damage)
    found = Index.open(mended).search(X[:9], 3).ids
    np.testing.assert_array_equal(found, made.search(X[:9], 3).ids)
    assert Index.open(mended)._saved_graph() is not None
    shutil.rmtree(whole / "vectors.lance")
    with pytest.raises(StoreError, match=r"it has no vectors.lance.*damaged or half copied"):
        Index.open(whole)


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
    for version, words in ((9, "has version 9"), (1, "anew with  onevec index VECTORS --out .*/i")):
        (tmp_path / "i/vector-index.json").write_text(json.dumps({**info, "version": version}))
        with pytest.raises(StoreError, match=words):
            Index.open(tmp_path / "i")
    made.save(tmp_path / "i", overwrite=True)  # as the sentence says
    assert len(Index.open(tmp_path / "i")) == 5


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


def test_an_interrupted_graph_is_made_again(clustered, monkeypatch):
    X = clustered[0]
    made = Index.build(X[:1_200], kind="hnsw")
    made.search(X[:1])
    made.add(X[1_200:1_210])

    def fail(*words):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Graph, "add", fail)
        with pytest.raises(MemoryError):
            made.search(X[7])
    assert made.search(X[1_205], 1).ids.tolist() == [["1205"]]
    assert len(made._graph) == 1_210


def test_rows_of_unequal_length_are_one_sentence(clustered):
    with pytest.raises(InputError, match="the queries are no array"):
        Index.build(clustered[0][:5]).search([[1.0] * DIM, [1.0]])


@pytest.mark.parametrize("options", [{"links": 1}, {"links": 10**20}, {"ef_search": 2**31}])
def test_options_that_faiss_dies_of(options, clustered):
    with pytest.raises(InputError, match="it must be a whole number from"):
        Index.build(clustered[0][:5], kind="hnsw", options=options)


def test_a_wide_search_through_the_graph_is_not_narrowed(clustered):
    made = Index.build(clustered[0], kind="hnsw", options={"ef_search": 9_000})
    asked = []
    graph = made._graph_of(made._rows)._index
    search = graph.search
    graph.search = lambda *words, params: asked.append(params) or search(*words, params=params)
    made.search(clustered[0][:2])
    assert asked[0].efSearch == 9_000


def test_a_killed_addition_loses_nothing(clustered, tmp_path):
    """The process ends itself at several places of a change; the index is the old or the new."""
    X = clustered[0]
    Index.build(X[:1_200], kind="hnsw", metadata={"n": range(1_200)}).save(tmp_path / "whole")
    np.save(tmp_path / "more.npy", X[1_200:1_300])
    script = """
import os, sys
import numpy as np
from onevec.use import database, folder, index
place, path, more = sys.argv[1:]
def end(*words, **more):
    os._exit(9)
module, name = {
    "before": (database, "commit"), "numbers": (folder, "write_facts"),
    "graph": (index, "_write_graph"),
}[place]
made = index.Index.open(path)
setattr(module, name, end)
made.add(np.load(more), [f"x{n}" for n in range(100)], delete=["7"])
made.facts()
"""
    (tmp_path / "end.py").write_text(script)
    for place, added in (("before", False), ("numbers", False), ("graph", True)):
        copy = tmp_path / place
        shutil.copytree(tmp_path / "whole", copy)
        words = [sys.executable, tmp_path / "end.py", place, copy, tmp_path / "more.npy"]
        assert subprocess.run(words, check=False).returncode == 9
        found = Index.open(copy)
        assert len(found) == (1_299 if added else 1_200)
        assert (found.search(X[7], 1).ids[0, 0] == "7") is not added
        assert (found.search(X[1_250], 1).ids[0, 0] == "x50") is added
        found.add(X[1_300:1_301])
        assert found.search(X[1_300], 1).ids[0, 0] == "1200"
        assert found.recall() > 0.9


def test_a_change_is_one_commit_that_can_be_taken_back(clustered, tmp_path):
    X = clustered[0]
    Index.build(X[:50], metadata={"n": range(50)}, made_by="a" * 64).save(tmp_path / "i")
    made = Index.open(tmp_path / "i")
    before = made.table.version
    made.add(-X[:2], ["3", "x"], {"n": [9, 9]}, replace=True, delete=["4", "5"])
    assert made.table.version == before + 1
    assert made.ids == [*map(str, range(3)), *map(str, range(6, 50)), "3", "x"]
    made.table.restore(before)
    assert made.ids == [*map(str, range(50))]
    assert made.search(X[4], 1).ids[0, 0] == "4"
    again = Index.open(tmp_path / "i")
    assert (again.made_by, again.ids) == ("a" * 64, made.ids)


def test_two_that_change_one_index_see_each_other(clustered, tmp_path):
    X = clustered[0]
    Index.build(X[:5]).save(tmp_path / "i")
    one, other = Index.open(tmp_path / "i"), Index.open(tmp_path / "i")
    one.add(X[5:7])
    other.add(X[7:9])
    assert other.ids == [*map(str, range(9))]
    with pytest.raises(InputError, match="'8'"):
        one.add(X[:1], ["8"])


def test_a_folder_that_may_only_be_read_is_searched(clustered, tmp_path, monkeypatch):
    X = clustered[0][:1_200]
    path = Index.build(X, kind="hnsw").save(tmp_path / "i")
    (path / "hnsw.faiss").unlink()

    def refuse(*words, **more):
        raise PermissionError("read only")

    monkeypatch.setattr(index, "_write_graph", refuse)
    assert Index.open(path).search(X[7], 1).ids[0, 0] == "7"
    assert Index.open(path).facts()["count"] == 1_200


def test_rows_that_another_client_wrote_are_named(clustered, tmp_path):
    path = Index.build(clustered[0][:5]).save(tmp_path / "i")
    made = Index.open(path)
    made.table.add([{"id": "x", "vector": [0.0] * DIM}])
    with pytest.raises(StoreError, match="1 rows that onevec did not write"):
        made.search(clustered[0][0])


def test_metadata_of_many_types_comes_back(tmp_path):
    metadata = pa.table({
        "list": [[1], None, [2, 3]],
        "struct": [{"a": 1}] * 3,
        "time": pa.array([1, 2, 3], pa.timestamp("us")),
        "none": pa.nulls(3),
        "nan": [float("nan"), 1.0, None],
    })  # fmt: skip
    path = Index.build(np.eye(3), metadata=metadata).save(tmp_path / "a b#c%20ü")
    opened = Index.open(path)
    assert opened.metadata.drop_columns(["nan"]).equals(metadata.drop_columns(["nan"]))
    assert opened.add(np.ones((1, 3)), metadata={"list": [[7]]}) == 0
    assert opened.metadata["list"].to_pylist()[-1] == [7]


def test_names_of_all_kinds(clustered):
    X = clustered[0]
    made = Index.build(X[:2], ids=["7", "9" * 18])
    made.add(X[2:3])
    made.add(X[3:4])
    assert made.ids[2:] == [str(10**18), str(10**18 + 1)]
    assert made.delete(np.int64(7)) == 1
    with pytest.raises(InputError, match="without an id"):
        Index.build(X[:2], ids=[None, "a"])
