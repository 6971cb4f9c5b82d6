"""Padded batches: sequences as a rectangle, as a graph of fixed operations needs them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from onevec.segment import safe_sqrt

Batch = Float[Tensor, "seqs longest *dims"]
Pooled = Float[Tensor, "seqs *dims"]
LOW = -1e30  # far below every score, and finite


@dataclass(frozen=True)
class Padded:
    """A batch of sequences as a rectangle: tokens first, then padding.

    Attributes
    ----------
    values : Tensor, shape (seqs, longest, dim)
        fp32, finite also at padding.
    mask : Tensor of bool, shape (seqs, longest)
        True where there is a token.
    ids : Tensor, shape (seqs, longest), or None
        Vocabulary entries.
    """

    values: Batch
    mask: Bool[Tensor, "seqs longest"]
    ids: Int[Tensor, "seqs longest"] | None = None

    @property
    def lengths(self) -> Float[Tensor, " seqs"]:
        """Tokens of each sequence."""
        return self.mask.float().sum(1)

    @property
    def position(self) -> Float[Tensor, " longest"]:
        """0, 1, 2 …"""
        return torch.arange(self.mask.shape[1], device=self.mask.device).float()

    def with_values(self, values: Batch) -> Padded:
        """Return the same sequences with other token vectors."""
        return Padded(values, self.mask, self.ids)

    def kept(self, values: Batch) -> Batch:
        """Set padding to 0."""
        return values * self.mask.unsqueeze(-1)

    def sum(self, values: Batch) -> Pooled:
        """Sum over the tokens."""
        return self.kept(values).sum(1)

    def mean(self, values: Batch) -> Pooled:
        """Mean over the tokens; 0 where there is none."""
        return self.sum(values) / self.lengths.clamp(min=1).unsqueeze(1)

    def maximum(self, values: Batch) -> Pooled:
        """Maximum over the tokens; 0 where there is none."""
        peak = values.masked_fill(~self.mask.unsqueeze(-1), -math.inf).amax(1)
        return peak.masked_fill(~self.mask.any(1, keepdim=True), 0.0)

    def outer(self, weights: Batch, values: Batch) -> Float[Tensor, "seqs weights dim"]:
        """``sum_i weights_i values_i^T``."""
        return self.kept(weights).transpose(1, 2) @ values

    def centre(self, values: Batch) -> Batch:
        """Subtract the mean; exactly 0 where all tokens are equal."""
        shifted = values - values[:, 0].unsqueeze(1)
        return shifted - self.mean(shifted).unsqueeze(1)

    def std(self, values: Batch) -> Pooled:
        """Biased standard deviation."""
        return safe_sqrt(self.mean(self.centre(values) ** 2))

    def softmax(self, scores: Batch) -> Batch:
        """Softmax over the tokens; padding gets 0."""
        return self.kept(scores.masked_fill(~self.mask.unsqueeze(-1), LOW).softmax(1))

    def weighted(self, weights: Float[Tensor, "seqs longest"]) -> Pooled:
        """``sum(w h) / sum(w)``."""
        total = self.sum(weights.unsqueeze(-1))
        summed = self.sum(self.values * weights.unsqueeze(-1))
        return summed / total.where(total > 0, torch.ones_like(total))

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function of tokens (tokens, dim) -> (tokens, width)."""
        found = function(self.values.flatten(0, 1))
        return found.unflatten(0, self.mask.shape)

    def shifted(self, values: Batch, lag: int) -> Batch:
        """Put at each place what stands ``lag`` places on (back, if below 0), 0 beyond the ends."""
        values, longest = self.kept(values), self.mask.shape[1]
        if lag >= 0:
            return pad(values, (0, 0, 0, lag))[:, lag:]
        return pad(values, (0, 0, -lag, 0))[:, :longest]

    def pairs(self, lag: int) -> Padded:
        """Return the tokens that have another ``lag`` places on."""
        later = self.shifted(torch.ones_like(self.values[..., :1]), lag)[..., 0]
        return Padded(self.values, self.mask & (later > 0))
