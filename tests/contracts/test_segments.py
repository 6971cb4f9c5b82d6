"""What can be done over the tokens of sequences, in both layouts, against NumPy."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from onevec.poolers.order import bin_weights
from onevec.poolers.segments import PaddedSegments, RaggedSegments
from onevec.poolers.statistics import quantiles


def products(pairs, left, right):
    return pairs.sum(left * right)


# From the tokens of a sequence to what a pooler may ask of them; 0 where there is no token.
REDUCED = {
    "sum": (lambda t: t.sum(t.values), lambda x: x.sum(0)),
    "mean": (lambda t: t.mean(t.values), lambda x: x.mean(0)),
    "max": (lambda t: t.max(t.values), lambda x: x.max(0)),
    "min": (lambda t: t.min(t.values), lambda x: x.min(0)),
    "std": (lambda t: t.std(t.values), lambda x: x.std(0)),
    "logsumexp": (lambda t: t.logsumexp(t.values), lambda x: np.log(np.exp(x).sum(0))),
    "outer": (lambda t: t.outer(t.values[:, :2], t.values), lambda x: x[:, :2].T @ x),
    "pick": (
        lambda t: t.pick(t.values, (t.lengths - 1).clamp(min=0).unsqueeze(1))[:, 0],
        lambda x: x[-1],
    ),
    "quantiles": (
        lambda t: quantiles(t, [0.0, 0.3, 1.0]),
        lambda x: np.quantile(x, [0.0, 0.3, 1.0], axis=0),
    ),
    "pairs": (
        lambda t: products(*t.pairs(t.values, 2)),
        lambda x: (x[2:] * x[:-2]).sum(0),
    ),
    "bins": (
        lambda t: t.sum(bin_weights(t, 3)),
        lambda x: np.ones(3),
    ),
}
TOKENWISE = {
    "softmax": (lambda t: t.softmax(t.values), lambda x: np.exp(x) / np.exp(x).sum(0)),
    "centre": (lambda t: t.centre(t.values), lambda x: x - x.mean(0)),
    "sort": (lambda t: t.sort(t.values), lambda x: np.sort(x, axis=0)),
    "expand": (lambda t: t.expand(t.mean(t.values)), lambda x: x * 0 + x.mean(0)),
    "later": (
        lambda t: t.shifted(t.values, 2),
        lambda x: np.concatenate([x[2:], x[:2] * 0])[: len(x)],
    ),
    "earlier": (
        lambda t: t.shifted(t.values, -1),
        lambda x: np.concatenate([x[:1] * 0, x[:-1]]),
    ),
    "positions": (
        lambda t: t.positions.float().unsqueeze(1),
        lambda x: np.arange(len(x))[:, None],
    ),
    "map": (
        lambda t: t.map(lambda x, mask: (x * mask.unsqueeze(2)).cumsum(1), t.values),
        lambda x: x.cumsum(0),
    ),
    "pairwise map": (
        lambda t: t.map(
            lambda x, mask: (x @ x.transpose(1, 2) * mask.unsqueeze(1)).sum(2, keepdim=True),
            t.values,
            pairwise=True,
        ),
        lambda x: (x @ x.T).sum(1, keepdims=True),
    ),
}
BORDERS = [[0, 3], [3, 0], [2, 0, 0, 3], [0, 1, 0, 5, 0], [1], [1, 1, 1], [40, 1, 3]]


def draw(lengths):
    values = np.random.default_rng(0).normal(size=(sum(lengths), 3)).astype(np.float32)
    return torch.from_numpy(values), torch.tensor(lengths)


def padded(values, lengths, longest):
    """A rectangle whose padding is far from every token."""
    mask = torch.arange(longest) < lengths.unsqueeze(1)
    held = torch.full((*mask.shape, values.shape[1]), 1e3)
    held[mask] = values
    return PaddedSegments(held.flatten(0, 1), mask)


def both(lengths):
    values, counts = draw(lengths)
    return RaggedSegments(values, counts), padded(values, counts, max(lengths) + 3)


@pytest.mark.parametrize("lengths", BORDERS, ids=str)
@pytest.mark.parametrize("name", REDUCED)
def test_reductions(name, lengths):
    found_of, wanted_of = REDUCED[name]
    parts = [part.double().numpy() for part in torch.split(draw(lengths)[0], lengths)]
    (some, *_) = (wanted_of(part) for part in parts if len(part))
    wanted = np.stack([wanted_of(part) if len(part) else some * 0 for part in parts])
    for tokens in both(lengths):
        np.testing.assert_allclose(found_of(tokens).numpy(), wanted, atol=2e-5)


@pytest.mark.parametrize("lengths", BORDERS, ids=str)
@pytest.mark.parametrize("name", TOKENWISE)
def test_functions_of_tokens(name, lengths):
    found_of, wanted_of = TOKENWISE[name]
    parts = [part.double().numpy() for part in torch.split(draw(lengths)[0], lengths)]
    wanted = np.concatenate([wanted_of(part) for part in parts if len(part)])
    ragged, rectangle = both(lengths)
    found = found_of(rectangle).unflatten(0, rectangle.mask.shape)[rectangle.mask]
    for each in (found_of(ragged), found):
        np.testing.assert_allclose(each.numpy(), wanted, atol=2e-5)


def test_lengths_counts_and_presence():
    for tokens in both([2, 0, 3]):
        assert tokens.lengths.tolist() == [2, 0, 3]
        assert tokens.count.flatten().tolist() == [2, 1, 3]
        assert tokens.present.flatten().tolist() == [True, False, True]


def test_std_of_a_constant_is_exactly_zero_at_any_offset():
    values, lengths = torch.full((1000, 1), 12345.678), torch.tensor([1000])
    spread = values + torch.linspace(0, 1, 1000).unsqueeze(1)
    for layout in (RaggedSegments, lambda v, n: padded(v, n, 1003)):
        assert layout(values, lengths).std(layout(values, lengths).values).item() == 0
        found = layout(spread, lengths)
        expected = spread.double().std(correction=0).float().view(1, 1)
        assert_close(found.std(found.values), expected, atol=0, rtol=1e-4)


@pytest.mark.parametrize("lengths", BORDERS, ids=str)
def test_gradients_are_finite(lengths):
    for name in REDUCED:
        values, counts = draw(lengths)
        tokens = RaggedSegments(values.requires_grad_(), counts)
        (REDUCED[name][0](tokens).square().sum() + 0 * values.sum()).backward()
        assert values.grad is not None and values.grad.isfinite().all(), name


def test_bins_are_shares_of_time():
    tokens = RaggedSegments(torch.zeros(5, 1), torch.tensor([2, 3]))
    wanted = [[1, 0.5, 0], [0, 0.5, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert_close(bin_weights(tokens, 3), torch.tensor(wanted), atol=1e-6, rtol=0)
