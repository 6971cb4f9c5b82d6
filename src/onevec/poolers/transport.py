"""Poolers that compare the tokens of a sequence, as a distribution, with a reference."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.fitting import (
    generator,
    kmeans_codebook,
    quantisation_scale,
    sample_tokens,
    squared_distances,
)
from onevec.poolers.order import bin_weights
from onevec.poolers.segments import RaggedSegments, Segments
from onevec.ragged import Ragged


def sinkhorn_plan(
    tokens: Segments, score: Float[Tensor, "tokens references"], iterations: int
) -> Float[Tensor, "tokens references"]:
    """Entropic transport plan between each sequence's tokens and the references.

    Both sides have equal weights: the result has rows that sum to about ``1 / n`` and columns
    that sum, within each sequence, to ``1 / references`` (the last half-step makes these exact).
    All in the log domain. ``score`` is ``-cost / ε``.
    """
    references = score.shape[1]
    log_token = -tokens.expand(tokens.count.log())
    column = score.new_zeros((len(tokens.lengths), references))
    row = torch.zeros_like(log_token)
    for _ in range(iterations):
        shifted = score + tokens.expand(column)
        row = log_token - shifted.logsumexp(1, keepdim=True)
        column = -math.log(references) - tokens.logsumexp(score + row)
    return (score + row + tokens.expand(column)).exp()


class OptimalTransport(Pooler):
    """Optimal-transport pooling to learned references: (seqs, references dim).

    ``√p sum_i P_ik h_i`` for each of ``p`` references ``z_k``, with P the entropic transport
    plan between the tokens (weight 1/n each) and the references (weight 1/p each) at cost
    ``|h_i - z_k|²``. The references are k-means centres of the sample's tokens. Tokens are
    centred on the sample's mean first. The feature map of the paper is the identity here.

    Parameters
    ----------
    references : int
        How many references.
    epsilon : float
        Entropic regularisation, in units of the mean squared distance between a token and its
        nearest reference. Small: nearly a hard matching; large: every block is the mean.
    iterations : int
        Sinkhorn iterations.

    References
    ----------
    Mialon, Chen, d'Aspremont and Mairal (2021), "A trainable optimal transport embedding for
    feature aggregation".
    """

    option_names = ("references", "epsilon", "iterations")
    centre: Tensor
    book: Tensor
    scale: Tensor

    def __init__(self, references: int = 8, epsilon: float = 0.5, iterations: int = 10):
        super().__init__()
        if references < 1 or not epsilon > 0 or iterations < 1:
            raise InputError(
                f"OptimalTransport got references={references}, epsilon={epsilon}, "
                f"iterations={iterations}: all must be above 0"
            )
        self.references, self.epsilon = int(references), float(epsilon)
        self.iterations = int(iterations)

    def _build(self, dim: int) -> int:
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self._hold("book", torch.zeros(self.references, dim))
        return self.references * dim

    def _hold(self, name: str, values: Tensor) -> None:
        """Keep what the trained kin of this pooler has as a parameter."""
        self.register_buffer(name, values)

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        centre = tokens.mean(0)
        book = kmeans_codebook(tokens - centre, self.references, random_state)
        self.centre.copy_(centre)
        self.book.copy_(book)
        self.scale.copy_(quantisation_scale(tokens - centre, book))

    def _pool(self, tokens: Segments) -> Tensor:
        return self._transport(tokens, self.book)

    def _transport(self, tokens: Segments, book: Tensor) -> Float[Tensor, "seqs dim_out"]:
        centred = tokens.values - self.centre
        score = -squared_distances(centred, book) / (self.scale * self.epsilon)
        plan = sinkhorn_plan(tokens, score, self.iterations)
        return tokens.outer(plan, centred).flatten(1) * self.references**0.5


def sliced_quantiles(
    tokens: Segments, slices: Float[Tensor, "dim slices"], points: int
) -> Float[Tensor, "seqs points slices"]:
    """Quantile function of each projection, averaged over ``points`` equal parts of [0, 1].

    This is the piecewise constant function nearest to the quantile function in 2-Wasserstein
    distance. It is defined for every n, and ``X‖X`` has the same as ``X``.
    """
    return tokens.outer(bin_weights(tokens, points), tokens.sort(tokens.values @ slices))


class SlicedWasserstein(Pooler):
    """Sliced-Wasserstein embedding with fixed random slices: (seqs, points slices).

    For random unit directions θ the quantile function of ``θᵀh`` over the sequence minus that
    of the sample's tokens, each averaged over ``points`` equal parts of [0, 1] and divided by
    ``√(points slices)``: Euclidean distances between results approximate sliced 2-Wasserstein
    distances between the token distributions.

    References
    ----------
    Naderializadeh, Comer, Andrews, Hoffmann and Kolouri (2021), "Pooling by sliced-Wasserstein
    embedding" (there the quantiles are interpolated at points).
    """

    option_names = ("slices", "points")
    directions: Tensor
    reference: Tensor

    def __init__(self, slices: int = 64, points: int = 8):
        super().__init__()
        if slices < 1 or points < 1:
            raise InputError(
                f"SlicedWasserstein got slices={slices}, points={points}: pass 1 or more of each"
            )
        self.slices, self.points = int(slices), int(points)

    def _build(self, dim: int) -> int:
        self._hold("directions", torch.zeros(dim, self.slices))
        self._hold("reference", torch.zeros(self.points, self.slices))
        return self.points * self.slices

    def _hold(self, name: str, values: Tensor) -> None:
        """Keep what the trained kin of this pooler has as parameters."""
        self.register_buffer(name, values)

    def _learn(self, sample: Ragged, random_state: int) -> None:
        draw = torch.randn(sample.dim, self.slices, generator=generator(random_state))
        directions = (draw / draw.norm(dim=0)).to(sample.values.device)
        tokens = sample_tokens(sample, random_state)
        whole = RaggedSegments(tokens, torch.tensor([len(tokens)], device=tokens.device))
        self.directions.copy_(directions)
        self.reference.copy_(sliced_quantiles(whole, directions, self.points)[0])

    def _pool(self, tokens: Segments) -> Tensor:
        return self._slice(tokens, self.directions, self.reference)

    def _slice(
        self, tokens: Segments, directions: Tensor, reference: Tensor
    ) -> Float[Tensor, "seqs dim_out"]:
        found = sliced_quantiles(tokens, directions, self.points)
        return ((found - reference) * tokens.present.unsqueeze(2)).flatten(1) / self.dim_out**0.5
