"""Poolers in which one learned score says how much each token counts."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.learned import LearnedPooler, Scorer
from onevec.poolers.segments import Segments
from onevec.segment import safe_sqrt


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

    def _pool(self, tokens: Segments) -> Tensor:
        weights = tokens.softmax(self.scorer(self._standard(tokens.values)))
        return tokens.sum(tokens.values * weights.unsqueeze(1))


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
    tokens: Segments, weights: Float[Tensor, " tokens"]
) -> Float[Tensor, "seqs two_dim"]:
    """``μ = sum(a h)`` and ``sqrt(sum(a (h - μ)²))`` for weights that sum to 1.

    Both are made from tokens around their plain mean: a constant sequence has a standard
    deviation of exactly 0, and its gradient is 0 too.
    """
    weights = weights.unsqueeze(1)
    centred = tokens.centre(tokens.values)
    shift = tokens.sum(centred * weights)
    squares = (centred - tokens.expand(shift)) ** 2
    std = safe_sqrt(tokens.sum(squares * weights))
    return torch.cat([tokens.mean(tokens.values) + shift, std], dim=1)


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

    def _pool(self, tokens: Segments) -> Tensor:
        scores = self.scorer(self._standard(tokens.values))
        return weighted_statistics(tokens, tokens.softmax(scores))
