"""What must not be read from the vector is not, and what has nothing to do with it stays."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from typer.testing import CliRunner

from onevec import OneVec, load
from onevec.cli import app
from onevec.errors import InputError
from onevec.judge.halves import length_readability
from onevec.tokens.store import TokenStore
from onevec.tokens.writer import TokenStoreWriter
from onevec.vector.nuisance import nuisance_directions, nuisance_of

N = 400


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sequences of two kinds, recorded in four sessions that shift every token."""
    rng = np.random.default_rng(0)
    kind, session = rng.integers(0, 2, N), rng.integers(0, 4, N)
    shift, content = rng.normal(size=(4, 12)) * 1.5, rng.normal(size=(2, 12)) * 0.7
    tokens = [
        rng.normal(size=(rng.integers(6, 20), 12)) + shift[s] + content[k]
        for k, s in zip(kind, session, strict=True)
    ]
    columns = {"session": [f"s{s}" for s in session], "id_like": [f"x{i}" for i in range(N)]}
    columns["warmth"] = rng.normal(size=N).tolist()
    columns["huge"] = [value * 1e300 for value in columns["warmth"]]
    columns["code"] = session.tolist()
    columns["year"] = rng.integers(1900, 2100, N).tolist()
    columns["gaps"] = [None, *["a"] * (N - 1)]
    path = tmp_path_factory.mktemp("store") / "tokens"
    with TokenStoreWriter(path) as writer:
        writer.append(tokens, metadata=columns)
    return TokenStore(path), kind, session


def read(vectors, labels):
    model = LogisticRegression(max_iter=500)
    return cross_val_score(model, vectors, labels, cv=3).mean()


def test_the_session_is_gone_and_the_kind_is_not(made):
    store, kind, session = made
    plain = OneVec(dim=12, pooler="mean|std").fit(store).transform(store)
    clean = OneVec(dim=12, pooler="mean|std", nuisance=["session"]).fit(store).transform(store)
    assert read(plain, session) > 0.9
    assert read(clean, session) < 0.35
    assert read(clean, kind) > 0.85


def test_codes_of_sessions_are_sessions(made):
    store, _, _ = made
    clean = OneVec(dim=12, pooler="mean|std", nuisance=["code"]).fit(store).transform(store)
    named = OneVec(dim=12, pooler="mean|std", nuisance=["session"]).fit(store).transform(store)
    np.testing.assert_allclose(clean, named, atol=1e-5)
    assert nuisance_of(store, ["code"], np.arange(N)).shape == (N, 4)
    assert nuisance_of(store, ["year"], np.arange(N)).shape == (N, 1)  # rare ones: a number


def test_huge_numbers_are_numbers(made):
    store, _, _ = made
    found = nuisance_of(store, ["huge"], np.arange(N))
    np.testing.assert_allclose(found, nuisance_of(store, ["warmth"], np.arange(N)))


def test_what_so_few_sequences_say_takes_nothing_out():
    rng = np.random.default_rng(1)
    tokens = [rng.normal(size=(n, 6)) for n in (3, 7, 4, 9)]
    found = OneVec(dim=2, pooler="mean|std", nuisance=["length"]).fit(tokens).transform(tokens)
    assert np.abs(found).max() > 0.1


def test_length_is_known_without_a_column():
    rng = np.random.default_rng(1)
    tokens = [rng.normal(size=(n, 6)) + n / 10 for n in rng.integers(3, 40, size=N)]
    lengths = np.array([len(each) for each in tokens])
    found = OneVec(dim=6, pooler="mean|std", nuisance=["length"]).fit(tokens).transform(tokens)
    plain = OneVec(dim=6, pooler="mean|std").fit(tokens).transform(tokens)
    assert length_readability(plain, lengths, 0) > 0.6
    assert length_readability(found, lengths, 0) < 0.2


def test_nothing_to_do_with_it_changes_nothing(made):
    store, _, _ = made
    plain = OneVec(dim=8, pooler="mean|std").fit(store).transform(store)
    same = OneVec(dim=8, pooler="mean|std", nuisance=["warmth"]).fit(store).transform(store)
    np.testing.assert_array_equal(plain, same)


def test_saved_and_transformed_without_the_column(made, tmp_path):
    store, _, _ = made
    model = OneVec(dim=8, nuisance=["session", "length"]).fit(store)
    model.save(tmp_path / "m")
    bare = [each.numpy() for each in store[np.arange(20)]]
    wanted = model.transform(store)[:20]
    np.testing.assert_allclose(load(tmp_path / "m").transform(bare), wanted, atol=1e-5)


def test_directions_are_those_of_the_group_means():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 300)
    block = rng.normal(size=(300, 9))
    block[:, 2] += 4 * (group == 1)
    block[:, 5] += 4 * (group == 2)
    levels = (group[:, None] == np.arange(3)).astype(float)
    axes = nuisance_directions(block, levels - levels.mean(0))
    assert axes.shape == (9, 2)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    assert (axes[[2, 5]] ** 2).sum() > 1.8


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["id_like"], "400 values among 400 sequences"),
        (["gaps"], "1 missing values"),
        (["no_such"], "no column 'no_such'"),
        ("session", r"must be a list, \['session'\]"),
    ],
)
def test_what_cannot_be_nuisance_is_refused(made, names, message):
    with pytest.raises(InputError, match=message):
        OneVec(dim=4, nuisance=names).fit(made[0])


def test_bare_arrays_have_no_columns(easy_tokens):
    with pytest.raises(InputError, match="bare arrays, which have no columns"):
        OneVec(dim=4, nuisance=["session"]).fit(easy_tokens[0])


def test_numbers_and_levels(made):
    store, _, session = made
    rows = np.arange(0, N, 3)
    found = nuisance_of(store, ["session", "warmth", "length"], rows)
    assert found.shape == (len(rows), 4 + 1 + 3)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(found.std(0), 1)
    assert len(np.unique(found[session[rows] == 2, :4], axis=0)) == 1


def test_the_command_takes_it(made, tmp_path):
    out = tmp_path / "model"
    words = ["fit", str(made[0].path), "--out", str(out), "--dim", "8"]
    result = CliRunner().invoke(app, [*words, "--nuisance", "session", "--nuisance", "length"])
    assert result.exit_code == 0, result.output
    assert load(out).nuisance == ["session", "length"]


def test_what_does_not_vary_shows_nowhere():
    tokens = [np.random.default_rng(i).normal(size=(9, 6)) for i in range(N)]
    plain, told = (OneVec(dim=4, nuisance=n).fit(tokens) for n in (None, ["length"]))
    np.testing.assert_array_equal(plain.transform(tokens), told.transform(tokens))
