"""Segment reductions against NumPy, one sequence at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from onevec import segment

REDUCTIONS = {
    "segment_sum": lambda x: x.sum(0),
    "segment_mean": lambda x: x.mean(0),
    "segment_max": lambda x: x.max(0),
    "segment_min": lambda x: x.min(0),
    "segment_logsumexp": lambda x: np.log(np.exp(x).sum(0)),
}
TOKENWISE = {
    "segment_softmax": lambda x: np.exp(x) / np.exp(x).sum(0),
    "segment_sort": lambda x: np.sort(x, axis=0),
    "segment_centre": lambda x: x - x.mean(0),
}

few = settings(max_examples=25, deadline=None, derandomize=True)
some_lengths = st.lists(st.integers(0, 9), min_size=1, max_size=8)
BORDERS = [[0], [0, 0], [0, 3], [3, 0], [2, 0, 0, 3], [0, 1, 0, 5, 0], [1], [1, 1, 1], [40, 1, 300]]


def draw(lengths, dims=(3,), seed=0, dtype=torch.float64):
    values = np.random.default_rng(seed).normal(size=(sum(lengths), *dims))
    return torch.from_numpy(values).to(dtype), torch.tensor(lengths)


def by_loop(values, lengths, reduce, empty):
    parts = torch.split(values, lengths.tolist())
    return np.stack([reduce(part.numpy()) if len(part) else empty for part in parts])


@pytest.mark.parametrize("name", REDUCTIONS)
@given(lengths=some_lengths, dims=st.sampled_from([(), (1,), (3,), (2, 3)]), seed=st.integers(0, 9))
@few
def test_reductions_match_numpy(name, lengths, dims, seed):
    values, counts = draw(lengths, dims, seed)
    expected = by_loop(values, counts, REDUCTIONS[name], np.zeros(dims))
    found = getattr(segment, name)(values, counts)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", TOKENWISE)
@given(lengths=some_lengths, dims=st.sampled_from([(), (1,), (3,), (2, 3)]), seed=st.integers(0, 9))
@few
def test_tokenwise_functions_match_numpy(name, lengths, dims, seed):
    values, counts = draw(lengths, dims, seed)
    parts = [part.numpy() for part in torch.split(values, lengths)]
    expected = np.concatenate([TOKENWISE[name](part) if len(part) else part for part in parts])
    np.testing.assert_allclose(getattr(segment, name)(values, counts).numpy(), expected, atol=1e-12)


@given(lengths=some_lengths, seed=st.integers(0, 9))
@few
def test_outer_matches_numpy(lengths, seed):
    values, counts = draw(lengths, (3,), seed)
    weights, _ = draw(lengths, (2,), seed + 100)
    expected = by_loop(
        torch.cat([weights, values], dim=1),
        counts,
        lambda x: x[:, :2].T @ x[:, 2:],
        np.zeros((2, 3)),
    )
    found = segment.segment_outer(weights, values, counts)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=30), budget=st.integers(1, 200))
@few
def test_blocks_cover_each_token_once_within_the_budget(lengths, budget):
    counts = torch.tensor(lengths)
    seen, rows = [], []
    for block in segment.segment_blocks(counts, budget):
        longest = block.mask.shape[1]
        assert block.mask.numel() <= budget or len(block.rows) == 1
        assert longest <= max(int(counts[block.rows].min()) * 1.25, counts[block.rows].min() + 1)
        assert_close(block.mask.sum(1), counts[block.rows])
        seen.append(block.tokens[block.mask])
        rows.append(block.rows)
    tokens = torch.cat(seen) if seen else torch.empty(0, dtype=torch.int64)
    assert_close(tokens.sort().values, torch.arange(sum(lengths)))
    assert sum(map(len, rows)) == sum(count > 0 for count in lengths)


def call(name, values, lengths):
    function = getattr(segment, name)
    if name == "segment_outer":
        return function(values, values, lengths)
    return function(values, lengths)


ALL = [*REDUCTIONS, *TOKENWISE, "segment_outer"]


@pytest.mark.parametrize("lengths", BORDERS, ids=str)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("constant", [False, True])
def test_values_and_gradients_are_finite(name, lengths, constant):
    values, counts = draw(lengths, dtype=torch.float32)
    if constant:
        values = torch.full_like(values, 0.1)
    values.requires_grad_()
    out = call(name, values, counts)
    assert out.isfinite().all()
    if out.shape[0] == len(counts) and name not in TOKENWISE:
        assert (out[counts == 0] == 0).all()
    (out.square().sum() + values.sum()).backward()  # without tokens, out has no graph
    assert values.grad.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_gradients_match_finite_differences(name):
    values, counts = draw([3, 0, 1, 5], dims=(2,))
    torch.autograd.gradcheck(
        lambda x: call(name, x, counts), (values.requires_grad_(),), check_undefined_grad=False
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_dtypes(name, dtype):
    """16-bit values are summed in fp32: the same as converting first."""
    values, counts = draw([700, 0, 3], dtype=dtype)
    out = call(name, values, counts)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(out, call(name, segment.accumulate_dtype(values), counts), atol=0, rtol=0)


def test_long_half_precision_sums_do_not_saturate():
    values = torch.ones(100_000, 1, dtype=torch.float16)
    assert segment.segment_sum(values, torch.tensor([100_000])).item() == 100_000


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3)])
def test_sums_are_those_of_segment_reduce_to_the_last_bit(shape):
    generator = torch.Generator().manual_seed(len(shape))
    lengths = torch.randint(0, 400, (60,), generator=generator)
    values = 1e3 * torch.randn(int(lengths.sum()), *shape, generator=generator)
    wanted = torch.segment_reduce(values, "sum", lengths=lengths, axis=0, initial=0.0)
    assert torch.equal(segment.segment_sum(values, lengths), wanted)


def test_positions_rows_and_expand():
    lengths = torch.tensor([2, 0, 3])
    assert segment.segment_positions(lengths).tolist() == [0, 1, 0, 1, 2]
    assert segment.segment_rows(lengths).tolist() == [0, 0, 2, 2, 2]
    assert segment.segment_expand(torch.tensor([5.0, 6.0, 7.0]), lengths).tolist() == [
        5,
        5,
        7,
        7,
        7,
    ]
