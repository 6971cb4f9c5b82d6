"""Objectives that tell each sequence from the others of the batch."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.objectives.base import Context, Objective, Vectors
from onevec.objectives.common import (
    Groups,
    Rows,
    check_positive,
    contrast,
    length_buckets,
    mean_over_pairs,
    mean_where,
    over_blocks,
    shared_by,
    unit_rows,
)

LARGEST_SCALE = 100.0  # of a learned temperature, as in CLIP


def info_nce(
    first: Rows, second: Rows, groups: Groups, buckets: Groups | None = None
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of scores ``first · second``; negatives are the other view's rows."""
    own = torch.arange(len(first), device=first.device)
    there = contrast(first, second, own, groups, buckets)
    return (there + contrast(second, first, own, groups, buckets)) / 2


def nt_xent(
    first: Rows, second: Rows, groups: Groups, buckets: Groups | None = None
) -> Float[Tensor, ""]:
    """InfoNCE of scores ``first · second`` with the negatives of both views."""
    both = torch.cat([first, second])
    other_view = torch.arange(len(both), device=both.device).roll(len(first))
    buckets = None if buckets is None else buckets.repeat(2)
    return contrast(both, both, other_view, groups.repeat(2), buckets)


class _Softmax(Objective):
    """Cosine similarities, a temperature, and negatives to choose."""

    option_names = ("temperature", "learned", "length_matched")
    log_scale: nn.Parameter

    def __init__(
        self, temperature: float = 0.1, learned: bool = False, length_matched: bool = False
    ):
        super().__init__()
        check_positive(type(self).__name__, temperature=temperature)
        if learned and temperature < 1 / LARGEST_SCALE:
            raise InputError(
                f"{type(self).__name__} got learned=True and temperature={temperature}: a learned "
                f"temperature is held at {1 / LARGEST_SCALE} or above; start there"
            )
        self.temperature, self.learned = float(temperature), bool(learned)
        self.length_matched = bool(length_matched)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        if self.learned:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(self.temperature)))

    def _scale(self) -> Tensor | float:
        if not self.learned:
            return 1 / self.temperature
        with torch.no_grad():  # the parameter itself: beyond the limit it would get no gradient
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        return self.log_scale.exp()

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        root = self._scale() ** 0.5  # on both sides of the product
        groups = context.groups.to(outputs[0].device)
        buckets = None
        if self.length_matched:
            buckets = length_buckets(context.whole.lengths.to(groups.device))
        units = tuple(unit_rows(vectors) * root for vectors in outputs)
        loss = mean_over_pairs(units, lambda a, b: self._pair(a, b, groups, buckets))
        return {"loss": loss}

    @abstractmethod
    def _pair(self, first: Rows, second: Rows, groups: Groups, buckets: Groups | None) -> Tensor:
        """Return the loss of two views whose products are the scores."""


class InfoNCE(_Softmax):
    """Pick the sequence's other view among the other views of the batch (InfoNCE).

    Cross entropy over cosine similarities divided by a temperature, from the first view to the
    second and back. Rows of the same group are neither positive nor negative. Rows without a
    negative contribute nothing. With more than two views: the mean over all pairs.

    Parameters
    ----------
    temperature : float
        What the cosines are divided by.
    learned : bool
        Learn the temperature from there on (held at 0.01 or above).
    length_matched : bool
        Negatives only of about the same length (of the whole sequence, within a factor of √2), so
        that length does not tell sequences apart.

    References
    ----------
    van den Oord, Li and Vinyals (2018), "Representation learning with contrastive predictive
    coding"; Radford et al. (2021), "Learning transferable visual models from natural language
    supervision" (both directions, learned temperature).
    """

    def _pair(self, first: Rows, second: Rows, groups: Groups, buckets: Groups | None) -> Tensor:
        return info_nce(first, second, groups, buckets)


class NTXent(_Softmax):
    """Pick the sequence's other view among both views of the whole batch (NT-Xent).

    As `InfoNCE`, but each of the 2N vectors has 2N - 2 negatives: those of both views.

    Parameters
    ----------
    temperature : float
        What the cosines are divided by.
    learned : bool
        Learn the temperature from there on (held at 0.01 or above).
    length_matched : bool
        Negatives only of about the same length (of the whole sequence, within a factor of √2).

    References
    ----------
    Chen, Kornblith, Norouzi and Hinton (2020), "A simple framework for contrastive learning of
    visual representations".
    """

    def _pair(self, first: Rows, second: Rows, groups: Groups, buckets: Groups | None) -> Tensor:
        return nt_xent(first, second, groups, buckets)


def shorten(vectors: Rows, radius: float) -> Rows:
    """Scale the rows longer than ``radius`` to that length."""
    return vectors * (radius / vectors.norm(dim=1, keepdim=True).clamp(min=radius))


def spectral(first: Rows, second: Rows, groups: Groups) -> Float[Tensor, ""]:
    """``-2 mean_i a_i·b_i + mean_{i,j negative} (a_i·b_j)²``, over rows that have a negative."""

    def block(rows: slice, first: Tensor, second: Tensor) -> Tensor:
        negative = groups[rows].unsqueeze(1) != groups
        return ((first[rows] @ second.T) ** 2 * negative).sum(1)

    negatives = len(groups) - shared_by(groups)
    square = over_blocks(block, (first, second), len(second)).sum() / negatives.sum().clamp(min=1)
    return square - 2 * mean_where((first * second).sum(1), negatives > 0)


class Spectral(Objective):
    """Spectral contrastive loss: a low-rank factorisation of which views belong together.

    ``-2 E[f(x)·f(x⁺)] + E[(f(x)·f(x'))²]``. Vectors longer than ``radius`` are scaled to it, as
    the authors do, because the loss knows no other bound. Rows of the same group are no
    negatives; rows without a negative contribute nothing.

    Parameters
    ----------
    radius : float
        Greatest length of a vector (√μ in the authors' notation).

    References
    ----------
    HaoChen, Wei, Gaidon and Ma (2021), "Provable guarantees for self-supervised deep learning
    with spectral contrastive loss".
    """

    option_names = ("radius",)

    def __init__(self, radius: float = 1.0):
        super().__init__()
        check_positive("Spectral", radius=radius)
        self.radius = float(radius)

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        groups = context.groups.to(outputs[0].device)
        short = tuple(shorten(vectors, self.radius) for vectors in outputs)
        return {"loss": mean_over_pairs(short, lambda a, b: spectral(a, b, groups))}


def alignment(first: Rows, second: Rows, alpha: float) -> Float[Tensor, ""]:
    """``mean_i |a_i - b_i|^α``; a gradient of 0 where both are equal."""
    square = ((first - second) ** 2).sum(1)
    apart = square > 1e-24
    power = square.where(apart, torch.ones_like(square)) ** (alpha / 2)
    return power.where(apart, torch.zeros_like(power)).mean()


def uniformity(vectors: Rows, groups: Groups, sharpness: float) -> Float[Tensor, ""]:
    """``log mean_{i,j} exp(-t |z_i - z_j|²)`` over pairs of unlike groups; 0 if there is none."""

    def block(rows: slice, vectors: Tensor) -> Tensor:
        squares = (vectors**2).sum(1)
        distance = squares[rows].unsqueeze(1) + squares - 2 * vectors[rows] @ vectors.T
        apart = groups[rows].unsqueeze(1) != groups
        return ((-sharpness * distance.clamp(min=0)).exp() * apart).sum(1)

    pairs = (len(groups) - shared_by(groups)).sum()
    total = over_blocks(block, (vectors,), len(vectors)).sum()
    return torch.where(pairs > 0, total / pairs.clamp(min=1), 1.0 + total).log()


class AlignUniform(Objective):
    """Views of a sequence close to each other, sequences spread evenly over the sphere.

    Terms ``alignment``: ``E|z - z⁺|^α``, and ``uniformity``: ``log E exp(-t |z - z'|²)``, the
    mean over the views, of vectors scaled to length 1. Rows of the same group need no distance.

    Parameters
    ----------
    alpha : float
        Power of the distance between views.
    sharpness : float
        ``t``, at most 20.
    balance : float
        Weight of the uniformity in the total; the alignment's is 1.

    References
    ----------
    Wang and Isola (2020), "Understanding contrastive representation learning through alignment
    and uniformity on the hypersphere".
    """

    option_names = ("alpha", "sharpness", "balance")

    def __init__(self, alpha: float = 2.0, sharpness: float = 2.0, balance: float = 1.0):
        super().__init__()
        check_positive("AlignUniform", alpha=alpha, sharpness=sharpness, balance=balance)
        if sharpness > 20:  # distances reach 4: beyond, fp32 could not hold the exponential
            raise InputError(f"AlignUniform got sharpness={sharpness}: pass at most 20")
        self.alpha, self.sharpness = float(alpha), float(sharpness)
        self.balance = float(balance)

    def weight(self, term: str) -> float:
        """Return the weight of a term in the total."""
        return self.balance if term == "uniformity" else 1.0

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        groups = context.groups.to(outputs[0].device)
        units = tuple(unit_rows(vectors) for vectors in outputs)
        spread = torch.stack([uniformity(rows, groups, self.sharpness) for rows in units])
        return {
            "alignment": mean_over_pairs(units, lambda a, b: alignment(a, b, self.alpha)),
            "uniformity": spread.mean(),
        }
