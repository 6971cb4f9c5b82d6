"""Poolers in which one learned score says how much each token counts."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.learned import LearnedPooler, Scorer, attention_pool
from onevec.ragged import Ragged
from onevec.segment import (
    safe_sqrt,
    segment_centre,
    segment_expand,
    segment_mean,
    segment_softmax,
    segment_sum,
)

Values = Float[Tensor, "tokens dim"]
Lengths = Int[Tensor, " seqs"]


class _Scored(LearnedPooler):
    """A pooler with one scorer over standardised tokens."""

    option_names = ("hidden",)
    gated: ClassVar[bool] = False

    def __init__(self, hidden: int = 64):
        super().__init__()
        if hidden < 1:
            raise InputError(f"{type(self).__name__} got hidden={hidden}: pass 1 or more")
        self.hidden = int(hidden)

    def _make(self, dim: int) -> int:
        self.scorer = Scorer(dim, self.hidden, gated=self.gated)
        return dim

    def _pool(self, tokens: Ragged) -> Tensor:
        scores = self.scorer(self._standard(tokens.values))
        return attention_pool(tokens.values, scores, tokens.lengths)


class Attention(_Scored):
    """Attention pooling: (seqs, dim). Starts as the mean.

    ``sum_i a_i h_i`` with ``a = softmax_i(wᵀ tanh(V x_i + b))``, x the standardised token.

    Parameters
    ----------
    hidden : int
        Rows of V.

    References
    ----------
    Ilse, Tomczak and Welling (2018), "Attention-based deep multiple instance learning".
    """


class GatedAttention(_Scored):
    """Gated attention pooling: (seqs, dim). Starts as the mean.

    ``sum_i a_i h_i`` with ``a = softmax_i(wᵀ (tanh(V x_i + b) ⊙ σ(U x_i + c)))``, x the
    standardised token.

    Parameters
    ----------
    hidden : int
        Rows of V and of U.

    References
    ----------
    Ilse, Tomczak and Welling (2018), "Attention-based deep multiple instance learning".
    """

    gated = True


def weighted_statistics(
    values: Values, weights: Float[Tensor, " tokens"], lengths: Lengths
) -> Float[Tensor, "seqs two_dim"]:
    """``μ = sum(a h)`` and ``sqrt(sum(a (h - μ)²))`` for weights that sum to 1.

    Both are made from tokens around their plain mean: a constant sequence has a standard
    deviation of exactly 0, and its gradient is 0 too.
    """
    weights = weights.unsqueeze(1)
    centred = segment_centre(values, lengths)
    shift = segment_sum(centred * weights, lengths)
    squares = (centred - segment_expand(shift, lengths)) ** 2
    std = safe_sqrt(segment_sum(squares * weights, lengths))
    return torch.cat([segment_mean(values, lengths) + shift, std], dim=1)


class AttentiveStatistics(_Scored):
    """Attentive statistics pooling, weighted mean ‖ weighted std: (seqs, 2 dim).

    One set of weights ``a = softmax_i(wᵀ tanh(V x_i + b))``, x the standardised token, for the
    mean and for the standard deviation around it. Starts as mean ‖ std.

    Parameters
    ----------
    hidden : int
        Rows of V.

    References
    ----------
    Okabe, Koshinaka and Shinoda (2018), "Attentive statistics pooling for deep speaker
    embedding".
    """

    starts_as = "mean|std"

    def _make(self, dim: int) -> int:
        return 2 * super()._make(dim)

    def _pool(self, tokens: Ragged) -> Tensor:
        scores = self.scorer(self._standard(tokens.values))
        weights = segment_softmax(scores, tokens.lengths)
        return weighted_statistics(tokens.values, weights, tokens.lengths)
