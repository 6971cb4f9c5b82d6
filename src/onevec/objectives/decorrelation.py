"""Objectives without negatives: views agree, dimensions do not repeat each other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.objectives.base import Context, Objective, Vectors
from onevec.objectives.common import Rows, check_positive, mean_over_pairs


def standardise(vectors: Rows, tiny: float = 1e-12) -> Rows:
    """Give each dimension mean 0 and (biased) variance 1 over the batch; 0 where constant."""
    size = vectors.detach().abs().amax(0)
    present = size > tiny
    # No multiple of a dimension matters: this keeps squares from under- and overflow.
    scaled = torch.where(present, vectors / size.where(present, torch.ones_like(size)), 0.0)
    centred = scaled - scaled.mean(0)
    variance = (centred**2).mean(0)
    varies = variance > 1e-10  # what rounding leaves of a constant dimension is no variance
    safe = variance.where(varies, torch.ones_like(variance))
    return torch.where(varies, centred * safe.rsqrt(), 0.0)


def off_diagonal(square: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
    """Return the matrix with zeros on its diagonal."""
    return square - torch.diag(square.diagonal())


def cross_correlation_terms(first: Rows, second: Rows) -> Float[Tensor, " 2"]:
    """``sum_k (1 - C_kk)²`` and ``sum_{k≠l} C_kl²`` of the views' cross-correlation ``C``."""
    correlation = standardise(first).T @ standardise(second) / len(first)
    invariance = ((1 - correlation.diagonal()) ** 2).sum()
    return torch.stack([invariance, (off_diagonal(correlation) ** 2).sum()])


class BarlowTwins(Objective):
    """Cross-correlation of the views' dimensions near the identity.

    Terms ``invariance``: ``sum_k (1 - C_kk)²``, and ``redundancy``: ``sum_{k≠l} C_kl²``; C over
    the batch. A dimension that is constant in the batch has correlation 0. Needs batches well
    above the number of dimensions. With more than two views: the mean over all pairs.

    Parameters
    ----------
    redundancy : float
        Weight of the redundancy in the total (λ); the invariance's is 1.

    References
    ----------
    Zbontar, Jing, Misra, LeCun and Deny (2021), "Barlow twins: self-supervised learning via
    redundancy reduction".
    """

    option_names = ("redundancy",)

    def __init__(self, redundancy: float = 0.005):
        super().__init__()
        check_positive("BarlowTwins", redundancy=redundancy)
        self.redundancy = float(redundancy)

    def weight(self, term: str) -> float:
        """Return the weight of a term in the total."""
        return self.redundancy if term == "redundancy" else 1.0

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        invariance, redundancy = mean_over_pairs(outputs, cross_correlation_terms)
        return {"invariance": invariance, "redundancy": redundancy}


def spread_terms(vectors: Rows, floor: float = 1e-4) -> Float[Tensor, " 2"]:
    """Return the hinge on each dimension's deviation and the squared covariances, per dimension.

    ``(1/d) sum_k max(0, 1 - sqrt(Var_k + floor))`` and ``(1/d) sum_{k≠l} Cov_kl²``, both with
    N - 1 in the denominator (a single row has no variance).
    """
    centred = vectors - vectors.mean(0)
    covariance = centred.T @ centred / max(1, len(vectors) - 1)
    hinge = (1 - (covariance.diagonal() + floor).sqrt()).clamp(min=0).mean()
    return torch.stack([hinge, (off_diagonal(covariance) ** 2).sum() / vectors.shape[1]])


def vicreg_terms(first: Rows, second: Rows) -> Float[Tensor, " 3"]:
    """Invariance (mean over rows and dimensions); variance and covariance, summed over views."""
    invariance = ((first - second) ** 2).mean()
    return torch.cat([invariance.view(1), spread_terms(first) + spread_terms(second)])


class VICReg(Objective):
    """Variance, invariance, covariance: agree, keep every dimension alive, do not repeat.

    Terms ``invariance``: mean squared difference of the views; ``variance``: how far each
    dimension's standard deviation falls short of 1; ``covariance``: squared covariances between
    dimensions, divided by their number; the latter two summed over both views (the paper's
    algorithm 1). The vectors are not normalised. With more than two views: the mean over all
    pairs.

    Parameters
    ----------
    invariance, variance, covariance : float
        Weights in the total.

    References
    ----------
    Bardes, Ponce and LeCun (2022), "VICReg: variance-invariance-covariance regularization for
    self-supervised learning".
    """

    option_names = ("invariance", "variance", "covariance")

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0):
        super().__init__()
        check_positive("VICReg", invariance=invariance, variance=variance, covariance=covariance)
        self.invariance, self.variance = float(invariance), float(variance)
        self.covariance = float(covariance)

    def weight(self, term: str) -> float:
        """Return the weight of a term in the total."""
        return self.options[term]

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        found = mean_over_pairs(outputs, vicreg_terms)
        return dict(zip(self.option_names, found, strict=True))
