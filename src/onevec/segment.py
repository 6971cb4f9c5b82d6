"""Reductions over the segments of a ragged array.

Every function takes ``values`` (tokens, ...) and ``lengths`` (seqs,), accumulates in fp32
(fp64 stays fp64), is differentiable, and is defined on empty segments: 0, with a gradient of 0.

Where an operation needs a rectangle (sorting, products per segment), segments of similar length
are padded together, so that the memory stays bounded and no result depends on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Values = Float[Tensor, "tokens *dims"]
Lengths = Int[Tensor, " seqs"]
Reduced = Float[Tensor, "seqs *dims"]

BLOCK_TOKENS = 65_536


def accumulate_dtype(values: Tensor) -> Tensor:
    """Return ``values`` in the dtype sums are made in: fp32 for 16-bit floats."""
    return values if values.dtype == torch.float64 else values.float()


def segment_rows(lengths: Lengths) -> Int[Tensor, " tokens"]:
    """Return for each token the number of its segment."""
    return torch.repeat_interleave(lengths)


def segment_positions(lengths: Lengths) -> Int[Tensor, " tokens"]:
    """Return for each token its place in its segment, from 0."""
    start = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return torch.arange(len(start), device=start.device) - start


def segment_sum(values: Values, lengths: Lengths) -> Reduced:
    """Sum of each segment."""
    values = accumulate_dtype(values)
    # On a CPU index_add is three to six times faster and gives the same bits; on a GPU the order
    # of its additions is left to chance. (And segment_reduce refuses an axis without entries.)
    if values.device.type == "cpu" or not len(values):
        out = values.new_zeros((lengths.shape[0], *values.shape[1:]))
        return out.index_add(0, segment_rows(lengths), values)
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, initial=0.0, unsafe=True)


def _per_row(lengths: Lengths, like: Tensor) -> Tensor:
    """Return the token counts, at least 1, in the shape that divides ``like`` (seqs, ...)."""
    return lengths.clamp(min=1).to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def segment_mean(values: Values, lengths: Lengths) -> Reduced:
    """Mean of each segment: ``sum(mask * h) / sum(mask)``."""
    total = segment_sum(values, lengths)
    return total / _per_row(lengths, total)


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
    return reduced.index_select(0, segment_rows(lengths))


def segment_centre(values: Values, lengths: Lengths) -> Values:
    """Return ``h - mean(h)`` of each segment; exactly 0 where the segment is constant.

    The first token is taken off before the mean is made: rounding then follows the spread of the
    values and not their size. (As a constant shift cancels, no gradient flows through it.)
    """
    values = accumulate_dtype(values)
    if values.shape[0] == 0:
        return values
    first = (lengths.cumsum(0) - lengths).clamp(max=values.shape[0] - 1)
    # In place where no gradient is in the way: clearing the pages of a large new tensor takes long.
    shifted = segment_expand(values.detach().index_select(0, first), lengths).neg_().add_(values)
    return shifted - segment_expand(segment_mean(shifted, lengths), lengths)


def safe_sqrt(values: Tensor, eps: float = 1e-24) -> Tensor:
    """Square root; 0 with a gradient of 0 where ``values <= eps``."""
    safe = values > eps
    return torch.where(safe, values.where(safe, torch.ones_like(values)).sqrt(), 0.0)


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


@dataclass(frozen=True)
class Block:
    """Segments of similar length, as a rectangle.

    Attributes
    ----------
    rows : Tensor, shape (block,)
        Which segments.
    tokens : Tensor, shape (block, longest)
        Which tokens; padding points to the segment's own first token.
    mask : Tensor of bool, shape (block, longest)
        True where there is a token.
    """

    rows: Int[Tensor, " block"]
    tokens: Int[Tensor, "block longest"]
    mask: Bool[Tensor, "block longest"]

    def take(self, values: Values) -> Float[Tensor, "block longest *dims"]:
        """Pick this block's rectangle from ``values`` (padding: copies of the first token)."""
        picked = values.index_select(0, self.tokens.flatten())
        return picked.view(*self.tokens.shape, *values.shape[1:])


def segment_blocks(lengths: Lengths, budget: int = BLOCK_TOKENS) -> Iterator[Block]:
    """Group the segments that are not empty by length.

    A block's longest segment is at most a quarter (or one token) longer than its shortest, and
    the block holds at most ``budget`` places unless a single segment is longer.
    """
    order = lengths.argsort(stable=True)
    sizes = lengths[order].cpu().numpy()
    starts = lengths.cumsum(0) - lengths
    at = int(np.searchsorted(sizes, 1))
    while at < len(sizes):
        limit = max(int(sizes[at]) * 5 // 4, int(sizes[at]) + 1)
        end = int(np.searchsorted(sizes, limit, side="right"))
        end = min(end, at + max(1, budget // limit))
        rows = order[at:end]
        place = torch.arange(int(sizes[end - 1]), device=lengths.device)
        mask = place < lengths[rows].unsqueeze(1)
        yield Block(rows, starts[rows].unsqueeze(1) + place * mask, mask)
        at = end


def _scatter_blocks(parts: list[Tensor], rows: list[Tensor], seqs: int) -> Tensor:
    """Put the results of blocks, one entry per segment, back in order; 0 where there is none."""
    found = torch.cat(parts)
    return found.new_zeros((seqs, *found.shape[1:])).index_copy(0, torch.cat(rows), found)


def segment_outer(
    weights: Float[Tensor, "tokens weights"],
    values: Float[Tensor, "tokens dim"],
    lengths: Lengths,
) -> Float[Tensor, "seqs weights dim"]:
    """``sum_i weights[i] values[i]^T`` of each segment: several weighted sums at once."""
    weights, values = accumulate_dtype(weights), accumulate_dtype(values)
    parts, rows = [], []
    for block in segment_blocks(lengths):
        left = block.take(weights) * block.mask.unsqueeze(-1)
        parts.append(left.transpose(1, 2) @ block.take(values))
        rows.append(block.rows)
    if not parts:
        return values.new_zeros((lengths.shape[0], weights.shape[1], values.shape[1]))
    return _scatter_blocks(parts, rows, lengths.shape[0])


def _sort_last(values: Tensor) -> Tensor:
    """Sort along the last axis; NumPy's vectorised sort is many times faster than torch's."""
    if values.device.type == "cpu" and not (torch.is_grad_enabled() and values.requires_grad):
        return torch.from_numpy(np.sort(values.detach().contiguous().numpy(), axis=-1))
    return values.sort(dim=-1).values


def segment_sort(values: Values, lengths: Lengths) -> Values:
    """Sort every dimension within each segment, ascending."""
    values = accumulate_dtype(values)
    flat = values.reshape(values.shape[0], math.prod(values.shape[1:]))
    parts, places = [], []
    for block in segment_blocks(lengths, max(1, BLOCK_TOKENS * 64 // max(1, flat.shape[1]))):
        # Padding is infinite, so it comes last.
        padded = block.take(flat).masked_fill(~block.mask.unsqueeze(-1), float("inf"))
        ordered = _sort_last(padded.transpose(1, 2).contiguous())
        parts.append(ordered.transpose(1, 2)[block.mask])
        places.append(block.tokens[block.mask])
    if not parts:
        return values
    return torch.cat(parts).index_select(0, torch.cat(places).argsort()).view_as(values)
