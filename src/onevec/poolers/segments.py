"""What a pooler sees of a batch: tokens, and what can be done over those of each sequence.

The maths of a pooler is written once against `Segments`. `RaggedSegments` runs it on sequences
laid end to end, which is how models are fitted and used; `PaddedSegments` on a rectangle, which is
how a graph of fixed operations (ONNX) runs it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from onevec.segment import (
    BLOCK_TOKENS,
    accumulate_dtype,
    safe_sqrt,
    segment_blocks,
    segment_centre,
    segment_logsumexp,
    segment_max,
    segment_mean,
    segment_min,
    segment_outer,
    segment_positions,
    segment_rows,
    segment_softmax,
    segment_sort,
    segment_sum,
)

Values = Float[Tensor, "tokens *dims"]
Reduced = Float[Tensor, "seqs *dims"]
Function = Callable[[Tensor, Tensor], Tensor]

_PAIRS = 4_194_304  # of tokens that are compared at once, unless a single sequence has more


_SegmentsT = TypeVar("_SegmentsT", bound="Segments")


class Segments(ABC):
    """Tokens of several sequences, in a layout that a pooler does not know.

    What belongs to tokens has the tokens on its first axis, so that functions of single tokens
    are the usual ones. Places that are no token (padding) may hold anything: no reduction sees
    them. A sequence without a token reduces to 0.

    Attributes
    ----------
    values : Tensor, shape (tokens, dim)
        The token vectors.
    lengths : Tensor of int64, shape (seqs,)
        How many tokens each sequence has.
    fields : mapping of str to Tensor, shape (tokens, ...)
        What else is known of the tokens, such as ``ids``.
    """

    values: Float[Tensor, "tokens dim"]
    lengths: Int[Tensor, " seqs"]
    fields: Mapping[str, Tensor]

    @abstractmethod
    def with_values(self: _SegmentsT, values: Float[Tensor, "tokens dim"]) -> _SegmentsT:
        """Return the same sequences with other token vectors."""

    @property
    @abstractmethod
    def positions(self) -> Int[Tensor, " tokens"]:
        """For each token its place in its sequence, from 0."""

    @property
    def count(self) -> Float[Tensor, "seqs 1"]:
        """Tokens of each sequence, 1 where there is none: what sums are divided by."""
        return self.lengths.clamp(min=1).float().unsqueeze(1)

    @property
    def present(self) -> Bool[Tensor, "seqs 1"]:
        """Which sequences hold a token."""
        return (self.lengths > 0).unsqueeze(1)

    @abstractmethod
    def expand(self, reduced: Reduced) -> Values:
        """Give every token what its sequence has."""

    @abstractmethod
    def sum(self, values: Values) -> Reduced:
        """Sum over the tokens of each sequence."""

    @abstractmethod
    def mean(self, values: Values) -> Reduced:
        """Mean over the tokens of each sequence."""

    @abstractmethod
    def max(self, values: Values) -> Reduced:
        """Maximum over the tokens of each sequence."""

    @abstractmethod
    def min(self, values: Values) -> Reduced:
        """Minimum over the tokens of each sequence."""

    @abstractmethod
    def logsumexp(self, values: Values) -> Reduced:
        """``log(sum(exp(h)))`` over the tokens of each sequence."""

    @abstractmethod
    def softmax(self, scores: Values) -> Values:
        """Softmax over the tokens of each sequence."""

    @abstractmethod
    def centre(self, values: Values) -> Values:
        """Subtract the mean of each sequence; exactly 0 where it is constant."""

    def std(self, values: Values) -> Reduced:
        """Biased standard deviation; 0, with a gradient of 0, where a sequence is constant."""
        return safe_sqrt(self.mean(self.centre(values) ** 2))

    @abstractmethod
    def outer(
        self, weights: Float[Tensor, "tokens weights"], values: Float[Tensor, "tokens dim"]
    ) -> Float[Tensor, "seqs weights dim"]:
        """``sum_i weights_i values_i^T`` of each sequence: several weighted sums at once."""

    @abstractmethod
    def sort(self, values: Values) -> Values:
        """Sort every dimension within each sequence, ascending."""

    @abstractmethod
    def pick(
        self, values: Float[Tensor, "tokens dim"], places: Int[Tensor, "seqs picked"]
    ) -> Float[Tensor, "seqs picked dim"]:
        """Pick tokens of each sequence by their places in it, which must be there."""

    @abstractmethod
    def shifted(self, values: Float[Tensor, "tokens dim"], by: int) -> Float[Tensor, "tokens dim"]:
        """Put at each token what stands ``by`` places on (back, if below 0); 0 beyond the ends."""

    @abstractmethod
    def pairs(
        self, values: Float[Tensor, "tokens dim"], lag: int
    ) -> tuple[Segments, Float[Tensor, "pairs dim"], Float[Tensor, "pairs dim"]]:
        """Return the tokens that have another ``lag`` places on: as segments, first, second."""

    @abstractmethod
    def map(
        self, function: Function, values: Float[Tensor, "tokens dim"], pairwise: bool = False
    ) -> Float[Tensor, "tokens width"]:
        """Apply a function of padded sequences, from (seqs, longest, dim) and a mask.

        Parameters
        ----------
        function : callable
            To (seqs, longest, width). Tokens come first, and what it gives at padding is dropped.
        pairwise : bool
            Whether its memory grows with the square of the longest sequence.
        """


class RaggedSegments(Segments):
    """Sequences laid end to end, as `Ragged` holds them."""

    def __init__(self, values: Tensor, lengths: Tensor, fields: Mapping[str, Tensor] | None = None):
        self.values, self.lengths, self.fields = values, lengths, fields or {}

    def with_values(self, values: Tensor) -> RaggedSegments:
        """Return the same sequences with other token vectors."""
        return RaggedSegments(values, self.lengths, self.fields)

    @cached_property
    def _rows(self) -> Tensor:
        return segment_rows(self.lengths)

    @cached_property
    def positions(self) -> Tensor:
        """For each token its place in its sequence, from 0."""
        return segment_positions(self.lengths)

    def expand(self, reduced: Tensor) -> Tensor:
        """Give every token what its sequence has."""
        return reduced.index_select(0, self._rows)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the tokens of each sequence."""
        return segment_sum(values, self.lengths)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the tokens of each sequence."""
        return segment_mean(values, self.lengths)

    def max(self, values: Tensor) -> Tensor:
        """Maximum over the tokens of each sequence."""
        return segment_max(values, self.lengths)

    def min(self, values: Tensor) -> Tensor:
        """Minimum over the tokens of each sequence."""
        return segment_min(values, self.lengths)

    def logsumexp(self, values: Tensor) -> Tensor:
        """``log(sum(exp(h)))`` over the tokens of each sequence."""
        return segment_logsumexp(values, self.lengths)

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax over the tokens of each sequence."""
        return segment_softmax(scores, self.lengths)

    def centre(self, values: Tensor) -> Tensor:
        """Subtract the mean of each sequence; exactly 0 where it is constant."""
        return segment_centre(values, self.lengths)

    def outer(self, weights: Tensor, values: Tensor) -> Tensor:
        """``sum_i weights_i values_i^T`` of each sequence: several weighted sums at once."""
        return segment_outer(weights, values, self.lengths)

    def sort(self, values: Tensor) -> Tensor:
        """Sort every dimension within each sequence, ascending."""
        return segment_sort(values, self.lengths)

    def pick(self, values: Tensor, places: Tensor) -> Tensor:
        """Pick tokens of each sequence by their places in it, which must be there."""
        if not len(values):
            return values.new_zeros((*places.shape, values.shape[1]))
        start = (self.lengths.cumsum(0) - self.lengths).unsqueeze(1)
        where = (start + places).clamp(max=len(values) - 1)
        picked = values.index_select(0, where.flatten()).unflatten(0, places.shape)
        return picked * self.present.unsqueeze(2)

    @cached_property
    def _last(self) -> Tensor:
        """For each token the place of its sequence's last token."""
        return self.expand(self.lengths) - 1

    def shifted(self, values: Tensor, by: int) -> Tensor:
        """Put at each token what stands ``by`` places on (back, if below 0); 0 beyond the ends."""
        place, here = self.positions + by, torch.arange(len(values), device=values.device)
        inside = (place >= 0) & (place <= self._last)
        return values.index_select(0, (here + by).where(inside, here)) * inside.unsqueeze(1)

    def pairs(self, values: Tensor, lag: int) -> tuple[RaggedSegments, Tensor, Tensor]:
        """Return the tokens that have another ``lag`` places on: as segments, first, second."""
        left = (self.positions <= self._last - lag).nonzero().flatten()
        first, second = values.index_select(0, left), values.index_select(0, left + lag)
        return RaggedSegments(first, (self.lengths - lag).clamp(min=0)), first, second

    def map(self, function: Function, values: Tensor, pairwise: bool = False) -> Tensor:
        """Apply a function of padded sequences, those of similar length together."""
        budget = _PAIRS // max(1, int(self.lengths.max())) if pairwise else BLOCK_TOKENS
        parts, places = [], []
        for block in segment_blocks(self.lengths, budget):
            parts.append(function(block.take(values), block.mask)[block.mask])
            places.append(block.tokens[block.mask])
        if not parts:  # no token at all: one made-up sequence tells the width
            nothing = values.new_zeros((1, 1, values.shape[1]))
            return function(nothing, torch.ones_like(nothing[..., 0], dtype=torch.bool))[0, :0]
        return torch.cat(parts).index_select(0, torch.cat(places).argsort())


class PaddedSegments(Segments):
    """A batch of sequences as a rectangle: tokens first, then padding.

    What belongs to tokens has the rectangle's places, row by row, on its first axis.

    Parameters
    ----------
    values : Tensor, shape (seqs * longest, dim)
        fp32, finite also at padding.
    mask : Tensor of bool, shape (seqs, longest)
        True where there is a token.
    fields : mapping of str to Tensor, shape (seqs * longest, ...)
    """

    def __init__(self, values: Tensor, mask: Tensor, fields: Mapping[str, Tensor] | None = None):
        self.values, self.mask, self.fields = values, mask, fields or {}
        self.lengths = mask.long().sum(1)

    def with_values(self, values: Tensor) -> PaddedSegments:
        """Return the same sequences with other token vectors."""
        return PaddedSegments(values, self.mask, self.fields)

    @property
    def positions(self) -> Tensor:
        """For each place its place in its sequence, from 0."""
        return torch.arange(self.mask.shape[1], device=self.mask.device).repeat(len(self.mask))

    def _rectangle(self, values: Tensor, padding: float | None = None) -> Tensor:
        """Return (seqs, longest, ...), padding set to a number."""
        values = accumulate_dtype(values).unflatten(0, self.mask.shape)
        if padding is None:
            return values
        mask = self.mask.view(*self.mask.shape, *[1] * (values.ndim - 2))
        return values.masked_fill(~mask, padding)

    def _where_present(self, reduced: Tensor) -> Tensor:
        empty = ~self.mask.any(1).view(-1, *[1] * (reduced.ndim - 1))
        return reduced.masked_fill(empty, 0.0)

    def expand(self, reduced: Tensor) -> Tensor:
        """Give every place what its sequence has."""
        shape = (*self.mask.shape, *reduced.shape[1:])
        return reduced.unsqueeze(1).expand(shape).flatten(0, 1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the tokens of each sequence."""
        return self._rectangle(values, 0.0).sum(1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the tokens of each sequence."""
        total = self.sum(values)
        return total / self.count.view(-1, *[1] * (total.ndim - 1))

    def max(self, values: Tensor) -> Tensor:
        """Maximum over the tokens of each sequence."""
        return self._where_present(self._rectangle(values, -math.inf).amax(1))

    def min(self, values: Tensor) -> Tensor:
        """Minimum over the tokens of each sequence."""
        return self._where_present(self._rectangle(values, math.inf).amin(1))

    def logsumexp(self, values: Tensor) -> Tensor:
        """``log(sum(exp(h)))`` over the tokens of each sequence."""
        peak = self.max(values)
        total = self.sum((values - self.expand(peak)).exp())
        return total.where(total > 0, torch.ones_like(total)).log() + peak

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax over the tokens of each sequence."""
        weights = (scores - self.expand(self.max(scores))).exp()
        return weights / self.expand(self.sum(weights))

    def centre(self, values: Tensor) -> Tensor:
        """Subtract the mean of each sequence; exactly 0 where it is constant."""
        shifted = values - self.expand(self._rectangle(values)[:, 0])
        return shifted - self.expand(self.mean(shifted))

    def outer(self, weights: Tensor, values: Tensor) -> Tensor:
        """``sum_i weights_i values_i^T`` of each sequence: several weighted sums at once."""
        left = self._rectangle(weights, 0.0).transpose(1, 2)
        return left @ self._rectangle(values, 0.0)

    def sort(self, values: Tensor) -> Tensor:
        """Sort every dimension within each sequence, ascending; padding stays last."""
        return self._rectangle(values, math.inf).sort(dim=1).values.flatten(0, 1)

    def pick(self, values: Tensor, places: Tensor) -> Tensor:
        """Pick tokens of each sequence by their places in it, which must be there."""
        index = places.unsqueeze(2).expand(-1, -1, values.shape[1])
        return self._rectangle(values, 0.0).gather(1, index)

    def shifted(self, values: Tensor, by: int) -> Tensor:
        """Put at each token what stands ``by`` places on (back, if below 0); 0 beyond the ends."""
        held, longest = self._rectangle(values, 0.0), self.mask.shape[1]
        if by >= 0:
            return pad(held, (0, 0, 0, by))[:, by:].flatten(0, 1)
        return pad(held, (0, 0, -by, 0))[:, :longest].flatten(0, 1)

    def pairs(self, values: Tensor, lag: int) -> tuple[PaddedSegments, Tensor, Tensor]:
        """Return the tokens that have another ``lag`` places on: as segments, first, second."""
        there = torch.ones_like(values[:, :1])
        later = self.shifted(there, lag).unflatten(0, self.mask.shape)[..., 0]
        both = PaddedSegments(values, self.mask & (later > 0))
        return both, values, self.shifted(values, lag)

    def map(self, function: Function, values: Tensor, pairwise: bool = False) -> Tensor:
        """Apply a function of padded sequences to the rectangle."""
        return function(self._rectangle(values), self.mask).flatten(0, 1)
