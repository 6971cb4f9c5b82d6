"""Reductions over the segments of a ragged array.

Every function takes ``values`` (tokens, ...) and ``lengths`` (seqs,), accumulates in fp32
(fp64 stays fp64), is differentiable, and is defined on empty segments: 0, with a gradient of 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

Values = Float[Tensor, "tokens *dims"]
Lengths = Int[Tensor, " seqs"]
Reduced = Float[Tensor, "seqs *dims"]


def accumulate_dtype(values: Tensor) -> Tensor:
    """Return ``values`` in the dtype sums are made in: fp32 for 16-bit floats."""
    return values if values.dtype == torch.float64 else values.float()


def segment_rows(lengths: Lengths) -> Int[Tensor, " tokens"]:
    """Return for each token the number of its segment."""
    return torch.repeat_interleave(lengths)


def _reduce(values: Values, lengths: Lengths, how: str) -> Reduced:
    values = accumulate_dtype(values)
    if values.shape[0] == 0:  # segment_reduce refuses an axis without entries
        return values.new_zeros((lengths.shape[0], *values.shape[1:]))
    return torch.segment_reduce(values, how, lengths=lengths, axis=0, initial=0.0, unsafe=True)


def segment_sum(values: Values, lengths: Lengths) -> Reduced:
    """Sum of each segment."""
    return _reduce(values, lengths, "sum")


def segment_mean(values: Values, lengths: Lengths) -> Reduced:
    """Mean of each segment: ``sum(mask * h) / sum(mask)``."""
    total = segment_sum(values, lengths)
    count = lengths.clamp(min=1).to(total.dtype)
    return total / count.view(-1, *[1] * (total.ndim - 1))


def _extreme(values: Values, lengths: Lengths, how: str) -> Reduced:
    values = accumulate_dtype(values)
    rows = segment_rows(lengths).view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    out = values.new_zeros((lengths.shape[0], *values.shape[1:]))
    return out.scatter_reduce(0, rows, values, how, include_self=False)


def segment_max(values: Values, lengths: Lengths) -> Reduced:
    """Maximum of each segment, per dimension."""
    return _extreme(values, lengths, "amax")


def segment_min(values: Values, lengths: Lengths) -> Reduced:
    """Minimum of each segment, per dimension."""
    return _extreme(values, lengths, "amin")


def segment_expand(reduced: Reduced, lengths: Lengths) -> Values:
    """Give every token the value of its segment."""
    return torch.repeat_interleave(reduced, lengths, dim=0)


def segment_moment(values: Values, lengths: Lengths, order: int) -> Reduced:
    """Central moment ``mean((h - mean(h)) ** order)`` of each segment (biased, two passes)."""
    values = accumulate_dtype(values)
    centred = values - segment_expand(segment_mean(values, lengths), lengths)
    return segment_mean(centred**order, lengths)


def segment_std(values: Values, lengths: Lengths, eps: float = 1e-12) -> Reduced:
    """Return the biased standard deviation of each segment; 0 (gradient 0) where constant."""
    variance = segment_moment(values, lengths, 2)
    safe = variance > eps
    return torch.where(safe, variance.where(safe, torch.ones_like(variance)).sqrt(), 0.0)


def segment_softmax(scores: Values, lengths: Lengths) -> Values:
    """Softmax over the tokens of each segment."""
    scores = accumulate_dtype(scores)
    weights = (scores - segment_expand(segment_max(scores, lengths).detach(), lengths)).exp()
    return weights / segment_expand(segment_sum(weights, lengths), lengths)


def segment_logsumexp(values: Values, lengths: Lengths) -> Reduced:
    """``log(sum(exp(h)))`` of each segment; 0 where empty."""
    values = accumulate_dtype(values)
    peak = segment_max(values, lengths).detach()
    total = segment_sum((values - segment_expand(peak, lengths)).exp(), lengths)
    return total.where(total > 0, torch.ones_like(total)).log() + peak


def segment_sort(values: Values, lengths: Lengths) -> Values:
    """Sort every dimension within each segment, ascending."""
    values = accumulate_dtype(values)
    rows = segment_rows(lengths).view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    by_value = values.argsort(dim=0, stable=True)
    by_row = rows.gather(0, by_value).argsort(dim=0, stable=True)
    return values.gather(0, by_value.gather(0, by_row))


def segment_quantile(
    values: Values, lengths: Lengths, levels: Float[Tensor, " levels"]
) -> Float[Tensor, "seqs levels *dims"]:
    """Quantiles of each segment by linear interpolation between order statistics.

    Position ``level * (n - 1)``, which is NumPy's default. Empty segments give 0.
    """
    ordered = segment_sort(values, lengths)
    levels = levels.to(ordered)
    if ordered.shape[0] == 0:
        return ordered.new_zeros((lengths.shape[0], len(levels), *ordered.shape[1:]))
    start = lengths.cumsum(0) - lengths
    place = levels * (lengths - 1).clamp(min=0).to(ordered).unsqueeze(1)  # (seqs, levels)
    low = place.floor().to(torch.int64)
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    high = torch.minimum(low + 1, last)
    weight = (place - low).view(*place.shape, *[1] * (ordered.ndim - 1))
    at = (start.unsqueeze(1)).clamp(max=ordered.shape[0] - 1)
    limit = ordered.shape[0] - 1
    lower = ordered[(at + low).clamp(max=limit)]
    upper = ordered[(at + high).clamp(max=limit)]
    present = (lengths > 0).view(-1, *[1] * ordered.ndim)
    return torch.where(present, torch.lerp(lower, upper, weight), 0.0)
