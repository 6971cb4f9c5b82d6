"""Whitening of what varies inside a sequence, so that what differs between sequences stands out."""

from __future__ import annotations

from typing import Any

import numpy as np

from onevec.errors import InputError
from onevec.project.base import Linear, check_components, check_number
from onevec.project.linear import shrinkage_weight
from onevec.project.moments import CHUNK_VALUES, Moments, principal_axes


class GroupedMoments:
    """Moments of all rows, and the scatter of the rows around the mean of their group.

    A group (the views of one sequence) lies within one batch: equal ids in two batches are two
    groups. Like `Moments` they add up.

    Parameters
    ----------
    dim : int
        Width of the vectors.

    Attributes
    ----------
    total : Moments
        Moments of all rows, of order 2.
    groups : int
        Groups seen.
    within : ndarray of float64, shape (dim, dim)
        ``sum_g sum_{x in g} (x - mean_g) (x - mean_g)^T``.
    """

    __slots__ = ("groups", "total", "within")

    def __init__(self, dim: int):
        self.total = Moments(dim)
        self.groups = 0
        self.within = np.zeros((dim, dim))

    order = 2
    dim = property(lambda self: self.total.dim)
    count = property(lambda self: self.total.count)

    def update(self, batch: Any, groups: Any = None) -> GroupedMoments:
        """Add rows, shape (rows, dim), with their group ids, shape (rows,), in place.

        Without ``groups`` every row is a group of its own.
        """
        batch = np.asarray(batch)
        ids = _check_groups(groups, len(batch))
        self.total.update(batch)
        if ids is None:
            self.groups += len(batch)
            return self
        _, ids = np.unique(ids, return_inverse=True)
        by_group = np.argsort(ids, kind="stable")
        ids = ids[by_group]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        self.groups += len(starts)
        sizes = np.diff(starts, append=len(ids))
        # A row stands for the origin of its group: no digits are lost to a large mean.
        origin = batch[by_group[starts]].astype(np.float64)
        rows = max(1, CHUNK_VALUES // self.dim)
        sums = np.zeros_like(origin)
        for start in range(0, len(ids), rows):
            part = slice(start, start + rows)
            local = batch[by_group[part]] - origin[ids[part]]
            first = np.flatnonzero(np.diff(ids[part], prepend=-1))
            sums[ids[part][first]] += np.add.reduceat(local, first, axis=0)
        means = origin + sums / sizes[:, None]
        for start in range(0, len(ids), rows):
            part = slice(start, start + rows)
            local = batch[by_group[part]] - means[ids[part]]
            self.within += local.T @ local
        return self

    def merge(self, other: GroupedMoments) -> GroupedMoments:
        """Return new moments of the groups of both; neither is changed."""
        joined = GroupedMoments(self.dim)
        joined.total = self.total.merge(other.total)
        joined.groups = self.groups + other.groups
        joined.within = self.within + other.within
        return joined

    def __repr__(self) -> str:
        return f"GroupedMoments({self.count} rows in {self.groups} groups, dim {self.dim})"


class WithinWhitening(Linear):
    r"""Whiten the covariance inside groups; keep the axes along which groups differ (WCCN, LDA).

    With ``W`` the pooled covariance of rows around the mean of their group (divisor
    ``n - groups``), shrunk by the weight ``w``, and ``B`` the covariance of the group means
    (divisor ``groups - 1``, weighted by size)::

        W' = (1 - w) W + w tr(W) / dim I
        y  = Q^T W' ^ (-power / 2) (x - mean)

    where ``Q`` holds the leading eigenvectors of ``B`` in the whitened space. All components
    kept, ``Q`` is a rotation and this is within-class covariance normalisation; with fewer
    components and ``power=1`` it is linear discriminant analysis with the group as class. With
    the views of one sequence as a group no label is needed.

    Parameters
    ----------
    n_components : int, optional
        Leading directions of the covariance between groups to keep; None keeps all.
    power : float, default 1.0
        From 0 (no whitening, only the axes of ``B``) to 1 (whitening of ``W``).
    shrinkage : float or "auto", default "auto"
        Weight ``w``; "auto" takes `oas_shrinkage` with ``n - groups`` rows.
    eps : float, default 1e-10
        Directions whose variance over all rows is at most ``eps`` times the largest give 0. The
        variance within is taken to be at least ``eps`` times its largest.

    Attributes
    ----------
    mean_, matrix_, inverse_ : ndarray of float64
        See `Linear`.
    between_variance_ : ndarray of float64, shape (n_components,)
        Variance of the group means along each output axis, largest first.
    shrinkage_ : float
        The weight used.

    Notes
    -----
    Without ``groups`` each row is a group of its own and says nothing about the variance inside.
    ``W`` is then taken to be the mean variance times the identity: the result is PCA, scaled.

    References
    ----------
    Hatch, Kajarekar and Stolcke 2006, "Within-class covariance normalization for SVM-based
    speaker recognition".
    """

    order = 2
    least_rows = 2

    def __init__(
        self,
        n_components: int | None = None,
        power: float = 1.0,
        shrinkage: float | str = "auto",
        eps: float = 1e-10,
    ):
        self.n_components = n_components
        self.power = power
        self.shrinkage = shrinkage
        self.eps = eps

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> WithinWhitening:
        """Fit to all rows of ``X``, shape (rows, dim), with ``groups``, shape (rows,).

        ``y`` is ignored. ``groups`` are ids of any kind; None makes each row its own group.
        """
        self._forget()
        X = self._check(X, reset=True)
        self.moments_ = GroupedMoments(X.shape[1]).update(X, groups)
        return self._conclude()

    def partial_fit(self, X: Any, y: Any = None, groups: Any = None) -> WithinWhitening:
        """Add rows to what was fitted before; a group must lie within one call."""
        first = self._is_first()
        X = self._check(X, reset=first)
        new = GroupedMoments(X.shape[1]).update(X, groups)
        self.moments_ = new if first else self.moments_.merge(new)
        return self._conclude() if self.moments_.groups > 1 else self

    def fit_moments(self, moments: GroupedMoments | Moments) -> WithinWhitening:
        """Fit from gathered moments alone; plain `Moments` count each row as a group."""
        if isinstance(moments, Moments) and moments.order == 2:
            grouped = GroupedMoments(moments.dim)
            grouped.total, grouped.groups = moments, moments.count
            moments = grouped
        return self._fit_gathered(moments)

    def _solve(self, moments: GroupedMoments) -> int:  # type: ignore[override]
        dim = moments.dim
        kept = check_components(self, dim)
        power = check_number(self, "power", 0.0, 2.0)
        eps = check_number(self, "eps", 0.0, 1.0)
        if moments.groups < 2:
            raise InputError(
                f"WithinWhitening got {moments.groups} group: it needs at least 2 groups to tell "
                "the variance within from that between; pass the vectors of more sequences"
            )
        total = moments.total.covariance()
        variances, axes = principal_axes(total, dim)
        axes = axes[:, variances > eps * variances[0]]
        rank = axes.shape[1]
        freedom = moments.count - moments.groups
        level = np.trace(total) / dim
        within, weight = np.eye(dim) * level, 1.0
        if freedom and np.trace(moments.within) > 0:
            within = moments.within / freedom
            weight = shrinkage_weight(self, within, freedom)
            level = np.trace(within) / dim
        self.shrinkage_ = weight
        inside = (1 - weight) * (axes.T @ within @ axes) + weight * level * np.eye(rank)
        between = (moments.total.scatter - moments.within) / (moments.groups - 1)

        self.mean_ = moments.total.mean
        self.matrix_, self.inverse_ = np.zeros((dim, kept)), np.zeros((kept, dim))
        self.between_variance_ = np.zeros(kept)
        if rank:
            spread, turn = principal_axes(inside, rank)
            scale = np.maximum(spread, eps * spread[0]) ** (power / 2)
            whiten = axes @ (turn / scale)
            found = min(kept, rank)
            self.between_variance_[:found], final = principal_axes(
                whiten.T @ between @ whiten, found
            )
            self.matrix_[:, :found] = whiten @ final
            self.inverse_[:found] = final.T @ (axes @ (turn * scale)).T
        return kept


def _check_groups(groups: Any, count: int) -> np.ndarray | None:
    if groups is None:
        return None
    ids = np.asarray(groups)
    if ids.shape != (count,):
        raise InputError(
            f"got groups of shape {ids.shape} for {count} rows: groups holds one id per row; "
            "pass the number of the sequence that each row comes from"
        )
    return ids
