"""Selectors against brute force, their guarantees, borders, and files of vectors."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onevec.errors import InputError
from onevec.use import greedy
from onevec.use.rows import read
from onevec.use.select import SELECTORS, select
from tests.test_cli import run

GREEDY = [name for name, each in SELECTORS.items() if each.greedy]


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def pool_of(n=40, dim=5, labelled=0, seed=0, **settings):
    rng = np.random.default_rng(seed)
    weights = settings.pop("weights", np.ones(n))
    return greedy.Pool(
        unit(rng.normal(size=(n, dim))), unit(rng.normal(size=(max(labelled, 1), dim)))[:labelled],
        weights, **settings,
    )  # fmt: skip


def squared(A, B):
    return ((A[:, None].astype(float) - B[None].astype(float)) ** 2).sum(2)


def plain_greedy(size, count, value):
    """The greedy algorithm word by word: try every row at every step."""
    chosen, gains, now = [], [], value([])
    for _ in range(count):
        tried = {row: value([*chosen, row]) for row in range(size) if row not in chosen}
        row = max(tried, key=tried.get)
        chosen.append(row)
        gains.append(tried[row] - now)
        now = tried[row]
    return chosen, gains


# --- parity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_lazy_facility_location_is_plain_greedy(seed, labelled):
    weights = np.random.default_rng(seed).uniform(0.5, 2, size=40)
    pool = pool_of(labelled=labelled, seed=seed, weights=weights)

    def value(chosen):
        centres = np.concatenate([pool.labelled, pool.X[chosen]])
        if not len(centres):
            return 0.0
        similarity = 1 - squared(pool.X, centres).min(1) / 4
        return float((similarity * weights).sum() / weights.sum())

    rows, gains = greedy.facility_location(pool, 12)
    expected, expected_gains = plain_greedy(40, 12, value)
    assert rows.tolist() == expected
    np.testing.assert_allclose(gains, expected_gains, atol=1e-5)


@pytest.mark.parametrize("labelled", [0, 3])
def test_lazy_coverage_is_plain_greedy_and_facility_location_fills_up(labelled):
    # Distinct weights leave no ties.
    weights = np.random.default_rng(1).uniform(0.5, 2, size=40)
    pool = pool_of(labelled=labelled, weights=weights, reach=0.5)

    def value(chosen):
        centres = np.concatenate([pool.labelled, pool.X[chosen]])
        inside = (squared(pool.X, centres) <= 0.5).any(1) if len(centres) else np.zeros(40, bool)
        return float(weights[inside].sum() / weights.sum())

    rows, gains = greedy.max_coverage(pool, 40)
    useful = int((gains > 0).sum())
    expected, expected_gains = plain_greedy(40, useful, value)
    assert 5 < useful < 40
    assert rows[:useful].tolist() == expected
    np.testing.assert_allclose(gains[:useful], expected_gains, atol=1e-5)
    assert value(rows[:useful].tolist()) == pytest.approx(1)
    assert sorted(rows) == list(range(40))


@pytest.mark.parametrize("labelled", [0, 3])
def test_determinantal_is_naive_determinant_maximisation(labelled):
    weights = np.random.default_rng(2).uniform(0.5, 2, size=30)
    pool = pool_of(30, labelled=labelled, weights=weights, width=0.7)
    X = np.concatenate([pool.labelled, pool.X])
    quality = np.concatenate([np.ones(labelled), weights / weights.mean()])
    kernel = np.exp(-squared(X, X) / 0.7) * np.outer(quality, quality) + 1e-6 * np.eye(len(X))

    def value(chosen):
        rows = [*range(labelled), *(labelled + row for row in chosen)]
        return float(np.linalg.slogdet(kernel[np.ix_(rows, rows)])[1]) if rows else 0.0

    rows, gains = greedy.determinantal(pool, 10)
    expected, expected_gains = plain_greedy(30, 10, value)
    assert rows.tolist() == expected
    np.testing.assert_allclose(gains, expected_gains, atol=1e-4)


POINTS = arrays(
    np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.floats(-4, 4, width=16)
)


@settings(max_examples=60, deadline=None)
@given(POINTS, st.integers(1, 3))
def test_k_center_is_within_twice_the_best_radius(X, count):
    pool = greedy.Pool(X.astype(np.float32), np.empty((0, 2), np.float32), np.ones(len(X)))
    rows, _ = greedy.k_center(pool, count)

    def radius(chosen):
        return np.sqrt(squared(X, X[list(chosen)]).min(1).max())

    best = min(radius(chosen) for chosen in itertools.combinations(range(len(X)), count))
    assert len(set(rows.tolist())) == count
    assert radius(rows) <= 2 * best + 1e-2


def test_k_center_goes_farthest_from_what_is_labelled():
    X = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], float)
    assert select(X, 1, "k_center", labelled=[0]).rows.tolist() == [3]
    assert select(X, 2, "k_center", labelled=np.array([[-2.0, 0]])).rows.tolist() == [0, 2]
    heavy = np.array([1, 1, 10, 1.0])
    assert select(X, 1, "k_center", labelled=[0], weights=heavy).rows.tolist() == [2]


# --- every method ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def groups():
    """Six groups of very unequal size."""
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(6, 12))
    own = np.repeat(np.arange(6), [600, 200, 100, 50, 30, 20])
    return centres[own] + rng.normal(size=(1000, 12)), own


@pytest.mark.parametrize("method", SELECTORS)
def test_borders(method, groups):
    X = groups[0][:50]
    found = select(X, 7, method)
    assert len(set(found.rows.tolist())) == 7 == len(found.gains)
    assert np.isfinite(found.gains).all()
    assert -1 <= found.coverage <= 1
    assert 0 <= found.radius <= 2
    again = select(X, 7, method)
    np.testing.assert_array_equal(again.rows, found.rows)
    assert sorted(select(X, 99, method).rows) == list(range(50))
    assert select(X, 99, method).coverage == pytest.approx(1, abs=1e-5)
    assert len(select(X, 1, method).rows) == 1
    assert select(X[:1], 1, method).rows.tolist() == [0]


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_vectors(method, value):
    found = select(np.full((30, 4), value), 5, method)
    assert len(set(found.rows.tolist())) == 5
    assert np.isfinite(found.gains).all()
    assert found.radius == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("method", SELECTORS)
def test_labelled_rows_are_not_chosen_again(method, groups):
    X = groups[0]
    known = np.arange(0, 1000, 3)
    rows = select(X, 40, method, labelled=known).rows
    assert not set(rows.tolist()) & set(known.tolist())
    assert len(select(X, 2000, method, labelled=known).rows) == 1000 - len(known)


@pytest.mark.parametrize("method", GREEDY)
def test_small_groups_are_found_where_random_choice_misses_them(method, groups):
    X, own = groups
    chosen = own[select(X, 12, method).rows]
    assert len(np.unique(chosen)) == 6
    largest = own[select(X, 12, method, labelled=np.flatnonzero(own == 0)).rows]
    assert (largest == 0).sum() == 0
    assert len(np.unique(largest)) >= 4


@pytest.mark.parametrize("method", ["facility_location", "determinantal", "max_coverage"])
def test_exact_duplicates_are_not_chosen_while_others_are_left(method):
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(12, 6)), 4, axis=0)
    rows = select(X, 12, method).rows
    assert sorted(row // 4 for row in rows) == list(range(12))


def test_greedy_choices_are_nested(groups):
    for method in ("facility_location", "determinantal", "k_center"):
        many, few = (select(groups[0], count, method).rows for count in (30, 10))
        if method == "determinantal":
            assert many[:10].tolist() == few.tolist()
        else:
            np.testing.assert_array_equal(many[:10], few)


def test_facility_location_covers_best_and_k_center_has_the_least_radius(groups):
    found = {method: select(groups[0], 25, method) for method in SELECTORS}
    assert max(found, key=lambda m: found[m].coverage) == "facility_location"
    assert min(found, key=lambda m: found[m].radius) == "k_center"
    total = found["facility_location"].gains.sum()
    assert total == pytest.approx((1 + found["facility_location"].coverage) / 2, abs=1e-4)


def test_density_balanced_gives_equal_seats(groups):
    X, own = groups
    found = select(X, 60, "density_balanced", random_state=1)
    random = select(X, 60, "random", random_state=1)
    share = np.bincount(own[found.rows], minlength=6) / 60
    assert share.max() < 0.4 < 0.5 < (own[random.rows] == 0).mean()
    assert found.gains.sum() == pytest.approx(1000)
    assert found.gains[own[found.rows] == 0].min() > found.gains[own[found.rows] == 5].max()


def test_weights_steer(groups):
    X, own = groups
    weights = np.where(own == 5, 50.0, 1.0)
    for method in ("random", "facility_location", "density_balanced"):
        plain = (own[select(X, 30, method).rows] == 5).sum()
        assert (own[select(X, 30, method, weights=weights).rows] == 5).sum() > plain, method


def test_deduplicate_keeps_one_of_each():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 16))
    near = base[:100] + 0.02 * rng.normal(size=(100, 16))
    X = np.concatenate([base, base[:50], near])
    found = select(X, method="deduplicate", threshold=0.99)
    assert sorted(found.rows) == list(range(300))
    like = np.r_[:300, :50, :100]  # which of the 300 a row is, or is near to
    assert sorted(like[select(X, 300, "deduplicate").rows]) == list(range(300))
    heavy = np.ones(450)
    heavy[300:350] = 2.0
    kept = select(X, method="deduplicate", threshold=0.99, weights=heavy).rows
    assert set(range(300, 350)) <= set(kept.tolist())
    assert not set(range(50)) & set(kept.tolist())
    kept = select(X, method="deduplicate", threshold=0.99, labelled=base[:100]).rows
    assert sorted(kept) == list(range(100, 300))
    assert len(select(X, 10, "deduplicate", threshold=0.99).rows) == 10


@pytest.mark.parametrize("method", GREEDY)
def test_parts_are_nearly_as_good_as_the_whole(method, groups, monkeypatch):
    import dataclasses

    whole = select(groups[0], 20, method)
    small = dataclasses.replace(SELECTORS[method], most=240)
    monkeypatch.setitem(SELECTORS, method, small)
    parts = select(groups[0], 20, method)
    assert len(set(parts.rows.tolist())) == 20
    assert parts.coverage > whole.coverage - 0.02
    assert parts.radius < whole.radius + 0.25
    # More than half of what is merged: each part gives its share.
    assert len(set(select(groups[0], 500, method).rows.tolist())) == 500


# --- scale ---------------------------------------------------------------------------------------

SCRIPT = """
import json, resource, sys, time
import numpy as np
from onevec.use.select import select
path, methods = sys.argv[1], sys.argv[2:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
out = {}
for method in methods:
    start = time.process_time()
    found = select(path, 100, method)
    out[method] = [len(set(found.rows.tolist())), time.process_time() - start]
out["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
print(json.dumps(out))
"""


@pytest.mark.slow
def test_two_hundred_thousand_vectors_from_a_file(tmp_path):
    X = np.random.default_rng(0).normal(size=(200_000, 16)).astype(np.float32)
    np.save(tmp_path / "v.npy", X)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "v.npy"), *SELECTORS],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result.pop("mib") < 600  # 160,000 MiB would be the matrix of all by all
    for method, (chosen, seconds) in result.items():
        assert chosen == 100
        assert seconds < 60, method


# --- input ---------------------------------------------------------------------------------------


def test_broken_rules_are_one_sentence(groups, tmp_path):
    X = groups[0][:20]
    bad = X.copy()
    bad[7, 3] = np.nan
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    cases = {
        "row 7 of the vectors holds NaN": lambda: select(bad, 3),
        "there is no method 'best'": lambda: select(X, 3, "best"),
        "count=0": lambda: select(X, 0),
        "count=None": lambda: select(X),
        "count=2.5": lambda: select(X, 2.5),
        "needs a count or a threshold": lambda: select(X, method="deduplicate"),
        "threshold=0.9 with method='k_center'": lambda: select(X, 3, "k_center", threshold=0.9),
        "threshold=2": lambda: select(X, 3, "deduplicate", threshold=2),
        "nothing left to choose": lambda: select(X, 3, labelled=range(20)),
        "random_state=-1": lambda: select(X, 3, random_state=-1),
        "labelled holds row 20": lambda: select(X, 3, labelled=[20]),
        "labelled holds row -1": lambda: select(X, 3, labelled=[-1]),
        "labelled vectors have 3 dimensions": lambda: select(X, 3, labelled=np.ones((2, 3))),
        "got labelled of shape": lambda: select(X, 3, labelled=[0.5]),
        "one finite number above 0": lambda: select(X, 3, weights=np.zeros(20)),
        "got weights of shape (3,)": lambda: select(X, 3, weights=np.ones(3)),
        "got vectors of shape (0, 4)": lambda: select(np.empty((0, 4)), 3),
        "got vectors of shape (20,)": lambda: select(np.arange(20), 3),
        "there is no file": lambda: select(tmp_path / "none.npy", 3),
        "cannot read": lambda: select(tmp_path / "broken.parquet", 3),
        "must end in .npy or .parquet": lambda: select(__file__, 3),
        "of which determinantal takes": lambda: select(
            X, 3, "determinantal", labelled=np.ones((5000, 12))
        ),
    }
    for words, call in cases.items():
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value)


@pytest.fixture(scope="module")
def files(tmp_path_factory, groups):
    room = tmp_path_factory.mktemp("select")
    X = groups[0][:200].astype(np.float32)
    np.save(room / "v.npy", X)
    column = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    ids = [f"s{row}" for row in range(len(X))]
    pq.write_table(pa.table({"id": ids, "vector": column}), room / "v.parquet")
    (room / "known.txt").write_text("s0\ns1\n\ns2\n")
    return room, X


def test_files_hold_what_arrays_hold(files):
    room, X = files
    expected = select(X, 9).rows
    for name in ("v.npy", "v.parquet"):
        np.testing.assert_array_equal(select(room / name, 9).rows, expected)
    assert read(room / "v.parquet")[1][:2] == ["s0", "s1"]
    assert read(room / "v.npy")[1] is None


def test_the_command(files, tmp_path):
    room, X = files
    out = tmp_path / "chosen.parquet"
    code, said, error = run("select", room / "v.parquet", "--count", 9, "--out", out)
    assert code == 0, error
    assert "9 of 200 vectors" in said
    assert "at random" in said
    table = pq.read_table(out)
    assert table.column_names == ["rank", "row", "id", "gain"]
    expected = select(X, 9).rows
    assert table["row"].to_pylist() == expected.tolist()
    assert table["id"].to_pylist() == [f"s{row}" for row in expected]
    known = ("--labelled", room / "known.txt", "--method", "k_center")
    code, said, error = run(
        "select", room / "v.parquet", "--count", 4, *known, "--out", tmp_path / "c.txt", "--json"
    )
    assert code == 0, error
    expected = select(X, 4, "k_center", labelled=[0, 1, 2]).rows
    assert (tmp_path / "c.txt").read_text().split() == [f"s{row}" for row in expected]
    assert json.loads(said)["method"] == "k_center"
    np.save(tmp_path / "more.npy", X[:3])
    code, _, error = run(
        "select", room / "v.npy", "--count", 4, "--labelled", tmp_path / "more.npy",
        "--out", tmp_path / "c.csv",
    )  # fmt: skip
    assert code == 0, error
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines[0] == '"rank","row","gain"'
    assert len(lines) == 5
    code, said, error = run(
        "select", room / "v.npy", "--method", "deduplicate", "--threshold", 0.9,
        "--out", tmp_path / "d.txt",
    )  # fmt: skip
    assert code == 0, error
    kept = [int(line) for line in (tmp_path / "d.txt").read_text().split()]
    assert kept == select(X, method="deduplicate", threshold=0.9).rows.tolist()


def test_bad_calls_of_the_command(files, tmp_path):
    room, _ = files
    (tmp_path / "stranger.txt").write_text("s0\nnobody\n")
    (tmp_path / "word.txt").write_text("first\n")
    vectors, out = room / "v.parquet", tmp_path / "c.csv"
    calls = {
        ("select", vectors, "--count", 3, "--out", tmp_path / "c.xlsx"): "must end in",
        ("select", vectors, "--count", 3, "--out", room / "v.npy"): "must end in",
        ("select", vectors, "--count", 3, "--out", room / "known.txt"): "exists",
        ("select", vectors, "--out", out): "count=None",
        ("select", vectors, "--count", 3, "--method", "best", "--out", out): "no method 'best'",
        ("select", tmp_path / "no.npy", "--count", 3, "--out", out): "there is no file",
        ("select", vectors, "--count", 3, "--labelled", tmp_path / "stranger.txt", "--out", out):
            "'nobody'",
        ("select", room / "v.npy", "--count", 3, "--labelled", tmp_path / "word.txt", "--out",
         out): "row numbers",
        ("select", vectors, "--count", 3, "--labelled", tmp_path / "no.txt", "--out", out):
            "no.txt",
    }  # fmt: skip
    for call, words in calls.items():
        code, _, error = run(*call)
        assert code == 2, call
        assert words in error, (call, error)
    assert not out.exists()


def test_help_teaches_and_names_every_method():
    code, out, _ = run("select", "--help")
    assert code == 0
    assert "Example:" in out
    assert all(method in out for method in SELECTORS)
    assert "Example:" in run("explore", "--help")[1]


def test_what_is_labelled_may_be_utf8_with_a_mark_and_ids_may_recur(files, tmp_path):
    X = files[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(X[:9].ravel()), X.shape[1])
    ids = [*"abcdefgh", "a"]
    pq.write_table(pa.table({"id": ids, "vector": column}), tmp_path / "v.parquet")
    (tmp_path / "known.txt").write_bytes("\ufeffa\n".encode())
    options = ("--labelled", tmp_path / "known.txt", "--count", 7, "--out", tmp_path / "o.txt")
    code, _, error = run("select", tmp_path / "v.parquet", *options)
    assert code == 0, error
    assert sorted((tmp_path / "o.txt").read_text().split()) == list("bcdefgh")
    (tmp_path / "known.txt").write_bytes(b"\xff\xfe\x00")
    code, _, error = run("select", tmp_path / "v.parquet", *options, "--overwrite")
    assert (code, "UTF-8" in error) == (2, True), error


def test_row_numbers_that_are_not_there(files, tmp_path):
    room, _ = files
    for number in ("99999999999999999999", "200"):
        (tmp_path / "known.txt").write_text(f"3\n{number}\n")
        code, _, error = run(
            "select", room / "v.npy", "--labelled", tmp_path / "known.txt", "--count", 3,
            "--out", tmp_path / "o.txt",
        )  # fmt: skip
        assert (code, f"names the row {number}, the vectors have rows 0 to 199" in error) == (2, 1)
