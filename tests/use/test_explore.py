"""Points for embedding-atlas, and the picture of a report."""

import json
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onevec import OneVec, TokenStore, encode
from onevec.errors import InputError, StoreError
from onevec.use.explore import PLACED, explore, neighbours, place
from onevec.use.rows import Source
from tests.test_cli import run


def three_groups(n=300, dim=10):
    rng = np.random.default_rng(0)
    own = rng.integers(3, size=n)
    return (6 * np.eye(3, dim)[own] + rng.normal(size=(n, dim))).astype(np.float32), own


def share_of_own(places, own):
    """How often the nearest point in the plane is of the same group."""
    away = ((places[:, None] - places) ** 2).sum(2)
    np.fill_diagonal(away, np.inf)
    return (own[away.argmin(1)] == own).mean()


def test_like_vectors_lie_together_and_the_seed_decides():
    X, own = three_groups()
    places, method = place(X)
    assert method == "t-SNE"
    assert share_of_own(places, own) > 0.95
    np.testing.assert_array_equal(place(X)[0], places)


def test_rows_beyond_the_sample_are_placed_by_their_neighbours():
    X, own = three_groups(600)
    places, method = place(X, most=150)
    assert method == "t-SNE of 150 rows, others by their neighbours"
    assert share_of_own(places, own) > 0.95
    assert PLACED >= 1000


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_few_rows(n, dim):
    places, _ = place(np.random.default_rng(n).normal(size=(n, dim)))
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()


def test_constant_vectors():
    places, method = place(np.full((40, 3), 2.0))
    assert method == "PCA"
    assert np.isfinite(places).all()


def test_neighbours_are_the_exact_ones():
    X, _ = three_groups(200)
    source = Source(X)
    near, likeness = neighbours(source, source.take(np.arange(200)), 4)
    U = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_array_equal(near, np.argsort(-(U @ U.T), axis=1)[:, :4])
    np.testing.assert_allclose(likeness[:, 0], 1, atol=1e-6)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    room = tmp_path_factory.mktemp("explore")
    X, own = three_groups(80)
    rng = np.random.default_rng(1)
    tokens = [x + rng.normal(size=(6, 10)).astype(np.float32) for x in X]
    ids = [f"s{row}" for row in range(80)]
    metadata = {"kind": [f"k{k}" for k in own], "x": rng.normal(size=80), "size": own * 1.5}
    store = encode(tokens, out=room / "store", ids=ids, metadata=metadata, progress=False)
    OneVec(dim=4, pooler="mean").fit(store).save(room / "model")
    code, _, error = run("transform", room / "model", room / "store", "--out", room / "v.parquet")
    assert code == 0, error
    return room


def test_the_command_writes_what_embedding_atlas_reads(room, tmp_path):
    out = tmp_path / "my points.parquet"
    code, said, error = run(
        "explore", room / "v.parquet", "--store", room / "store", "--out", out, "--neighbours", 5
    )
    assert code == 0, error
    words = shlex.split(said.splitlines()[-1])
    assert words == [
        "embedding-atlas", str(out), "--x", "x", "--y", "y", "--neighbors", "neighbors",
    ]  # fmt: skip
    table = pq.read_table(out)
    assert table.column_names == ["id", "x", "y", "neighbors", "kind", "x_", "size"]
    kind = table.schema.field("neighbors").type
    assert {f.name: f.type for f in kind} == {
        "ids": pa.list_(pa.int64()), "distances": pa.list_(pa.float32()),
    }  # fmt: skip
    vectors = np.stack(pq.read_table(room / "v.parquet")["vector"].to_numpy())
    U = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = U @ U.T
    np.fill_diagonal(cosine, -2)
    for row, entry in enumerate(table["neighbors"].to_pylist()):
        assert entry["ids"] == np.argsort(-cosine[row])[:5].tolist()
        np.testing.assert_allclose(
            entry["distances"], 1 - np.sort(cosine[row])[::-1][:5], atol=1e-5
        )


def test_rows_are_matched_by_id(room, tmp_path):
    table = pq.read_table(room / "v.parquet")
    order = np.random.default_rng(0).permutation(80)[:50]
    pq.write_table(table.take(order), tmp_path / "v.parquet")
    explore(tmp_path / "v.parquet", tmp_path / "p.parquet", store=room / "store", count=0)
    points = pq.read_table(tmp_path / "p.parquet")
    assert "neighbors" not in points.column_names
    assert points["id"].to_pylist() == [f"s{row}" for row in order]
    kinds = TokenStore(room / "store").column("kind").to_pylist()
    assert points["kind"].to_pylist() == [kinds[row] for row in order]


def test_text_of_the_store_is_named_in_the_command(tmp_path):
    def letters(texts):
        return [np.eye(26, dtype=np.float32)[[ord(c) - 97 for c in text]] for text in texts]

    texts = ["abc", "abd", "xyz", "xyw", "mno", "mnp"]
    store = encode(texts, letters, out=tmp_path / "s", progress=False)
    np.save(tmp_path / "v.npy", OneVec(dim=2, pooler="mean").fit_transform(store))
    facts = explore(tmp_path / "v.npy", tmp_path / "p.parquet", store=tmp_path / "s")
    assert facts["command"].endswith("--text sequence")
    assert pq.read_table(tmp_path / "p.parquet")["sequence"].to_pylist() == texts


def test_duplicates_never_are_their_own_neighbour(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((40, 3), np.float32))
    explore(tmp_path / "v.npy", tmp_path / "p.parquet", count=4)
    for row, entry in enumerate(pq.read_table(tmp_path / "p.parquet")["neighbors"].to_pylist()):
        assert len(entry["ids"]) == 4
        assert row not in entry["ids"]


def test_bad_calls(room, tmp_path):
    np.save(tmp_path / "v.npy", np.ones((7, 3)))
    np.save(tmp_path / "nan.npy", np.full((7, 3), np.nan))
    strangers = pa.table({"id": ["q"], "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})
    pq.write_table(strangers, tmp_path / "q.parquet")
    out = tmp_path / "p.parquet"
    calls = {
        ("explore", room / "v.parquet", "--out", tmp_path / "p.csv"): "must end in .parquet",
        ("explore", room / "v.parquet", "--out", room / "v.parquet"): "exists",
        ("explore", room / "v.parquet", "--out", out, "--neighbours", -1): "at least 0",
        ("explore", tmp_path / "no.npy", "--out", out): "there is no file",
        ("explore", tmp_path / "nan.npy", "--out", out): "NaN",
        ("explore", tmp_path / "v.npy", "--store", room / "store", "--out", out):
            "80 sequences for 7 vectors",
        ("explore", tmp_path / "q.parquet", "--store", room / "store", "--out", out):
            "no sequence 'q'",
    }  # fmt: skip
    for call, words in calls.items():
        code, _, error = run(*call)
        assert code == 2, call
        assert words in error, (call, error)
    assert not out.exists()
    with pytest.raises(StoreError):
        explore(tmp_path / "v.npy", out, store=tmp_path)
    with pytest.raises(InputError, match="at least 0"):
        explore(tmp_path / "v.npy", out, count=1.5)


# --- the picture of a report --------------------------------------------------------------------


@pytest.mark.parametrize("colour", [None, "kind", "size"])
def test_the_report_shows_the_vectors_of_a_store(room, tmp_path, colour):
    out = tmp_path / "r.html"
    words = ("report", room / "model", "--store", room / "store", "--out", out)
    code, _, error = run(*words, *(("--colour", colour) if colour else ()))
    assert code == 0, error
    page = out.read_text()
    assert page.count("data:image/png;base64,") == 2  # the points, and the lengths
    assert "in two dimensions (t-SNE)" in page
    assert (f"coloured by {colour}" in page) == bool(colour)


def test_bad_calls_of_the_report(room, tmp_path):
    out = tmp_path / "r.html"
    calls = {
        ("report", room / "model", "--colour", "kind", "--out", out): "--store",
        ("report", room / "model", "--store", tmp_path, "--out", out): "no token store",
        ("report", room / "model", "--store", room / "store", "--colour", "shade", "--out", out):
            "no column 'shade'",
    }  # fmt: skip
    for call, words in calls.items():
        code, _, error = run(*call)
        assert code == 2, call
        assert words in error, (call, error)
    assert not out.exists()


def test_a_picture_without_any_matplotlib_says_so(monkeypatch):
    import sys

    from onevec.errors import MissingExtraError
    from onevec.report.picture import points_figure

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"onevec\[report\]"):
        points_figure({"onevec": np.eye(6)}, None)


@pytest.mark.parametrize(
    "colours",
    [
        None,
        [f"class {k % 30}" for k in range(60)],
        ["a", None] * 30,
        list(np.linspace(0, 1, 60)),
        [1.0, float("nan")] * 30,
        [0, 1] * 30,
    ],
)
def test_every_kind_of_colour(colours):
    from onevec.report.picture import points_figure

    rng = np.random.default_rng(0)
    figure = points_figure({"mean": rng.normal(size=(60, 4)), "onevec": np.ones((60, 4))}, colours)
    assert len(figure.axes) == (3 if colours and len(set(colours)) == 60 else 2)
    assert json.dumps([axis.get_title() for axis in figure.axes[:2]]) == '["mean", "onevec"]'


def test_equal_names_are_matched_by_their_order(room, tmp_path):
    store = encode(
        [np.full((3, 2), float(row)) for row in range(6)],
        out=tmp_path / "s", ids=list("aabbcc"), metadata={"n": list(range(6))}, progress=False,
    )  # fmt: skip
    vectors = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    for name, rows in (("v", [*range(6)]), ("w", [*range(1, 6)])):
        some = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel()), 2)
        ids = [store.ids[row] for row in rows]
        pq.write_table(pa.table({"id": ids, "vector": some}), tmp_path / f"{name}.parquet")
    explore(tmp_path / "v.parquet", tmp_path / "p.parquet", store=tmp_path / "s", count=0)
    assert pq.read_table(tmp_path / "p.parquet")["n"].to_pylist() == [*range(6)]
    with pytest.raises(InputError, match="ids that several sequences share"):
        explore(tmp_path / "w.parquet", tmp_path / "q.parquet", store=tmp_path / "s", count=0)
    pq.write_table(pa.table({"vector": pa.array(vectors.tolist())}), tmp_path / "u.parquet")
    explore(tmp_path / "u.parquet", tmp_path / "u2.parquet", store=tmp_path / "s", count=0)
    assert pq.read_table(tmp_path / "u2.parquet")["n"].to_pylist() == [*range(6)]
