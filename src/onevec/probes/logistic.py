"""Logistic regression, many problems at once: a probe's draws, folds and scalings.

A probe is some hundred regressions on a few rows each, or thirty on a few thousand. Both run
through the same batched solvers, in the principal axes of each problem's rows: there the Hessian
is close to diagonal, whatever the scales of the dimensions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROOM = 200_000  # logits solved together: with their gradient they fit a processor's cache
_STEPS = 1_000
_HISTORY = 10
_EVERY = 5  # steps between two looks at who has converged
_TINY = 1e-30  # keeps 0 / 0 out


def fit_logistic(
    X: Float[Tensor, "problems rows dim"],
    codes: Int[Tensor, "problems rows"],
    strengths: Float[Tensor, "path problems"],
    classes: int,
    *,
    tol: float,
    start: Float[Tensor, "problems classes dim1"] | None = None,
) -> Float[Tensor, "path problems classes dim1"]:
    r"""Fit L2-regularised multinomial logistic regressions with scikit-learn's objective.

    Each problem minimises over the weights ``W`` and the unpenalised intercept ``b``::

        C * sum_i -log softmax(W x_i + b)[code_i]  +  |W|^2 / 2

    Two classes have one weight vector ``w``, as in scikit-learn; it comes back as ``-w / 2`` and
    ``w / 2``. Of more classes, one that has no row in a problem takes no part in it: its intercept
    is minus infinity.

    Parameters
    ----------
    X : tensor, shape (problems, rows, dim)
        Its precision is the solver's.
    codes : integer tensor, shape (problems, rows)
        Classes 0 .. ``classes`` - 1; -1 marks a row that only fills the batch.
    strengths : tensor, shape (path, problems)
        ``C``: solved one after the other, each from the solution before it, so that they should
        ascend.
    tol : float
        A problem has converged when five steps together lower its objective by less than this
        share (two classes: when the next step promises less).
    start : tensor, optional
        Where the path starts, in the form of the result.

    Returns
    -------
    tensor, shape (path, problems, classes, dim + 1)
        Weights, the intercept last.

    Notes
    -----
    More than two classes: L-BFGS (Liu and Nocedal 1989) in coordinates in which the Hessian at
    equal probabilities, which is Böhning's (1992) bound up to a factor, is about the identity.
    Two classes: Newton's method, that is iteratively reweighted least squares. Both backtrack
    until the objective falls.
    Rows fewer than dimensions are first rotated into the space they span, which the solution
    never leaves.
    """
    size = X.shape[1] * max(classes, min(X.shape[1:]))
    step = max(1, _ROOM // size)
    parts = []
    for first in range(0, len(X), step):
        some = slice(first, first + step)
        batch = _Batch(X[some], codes[some], classes, None if start is None else start[some])
        parts.append(torch.stack([batch.solve(C, tol) for C in strengths[:, some]]))
    return torch.cat(parts, 1)


class _Batch:
    """Problems in their principal axes, with a column of ones for the intercept."""

    def __init__(self, X: Tensor, codes: Tensor, classes: int, start: Tensor | None):
        self.filled = (codes >= 0).to(X.dtype)[:, None]
        self.centre = self.filled @ X / self.filled.sum(2, keepdim=True)
        X = (X - self.centre) * self.filled.transpose(1, 2)
        self.axes = _principal_axes(X)
        self.Z = torch.cat([X @ self.axes, self.filled.transpose(1, 2)], 2)
        self.codes = codes.clamp(min=0)[:, None]
        counts = X.new_zeros(len(X), classes, 1)
        counts.scatter_add_(1, self.codes.transpose(1, 2), self.filled.transpose(1, 2))
        self.absent = torch.where(counts > 0, 0.0, -torch.inf).to(X.dtype)
        self.W = X.new_zeros(len(X), classes, self.Z.shape[2])
        if start is not None:
            weights, intercept = start[..., :-1], start[..., -1:]
            intercept = intercept + weights @ self.centre.transpose(1, 2)
            self.W[..., :-1] = weights @ self.axes
            self.W[..., -1:] = intercept.nan_to_num(neginf=0.0)

    def solve(self, C: Float[Tensor, " problems"], tol: float) -> Tensor:
        """Go on from the last solution; return the new one in the axes of the input."""
        penalty = (1 / C)[:, None, None].repeat(1, 1, self.Z.shape[2]).to(self.Z)
        penalty[..., -1] = 0
        if self.W.shape[1] == 2:
            sign = 2.0 * self.codes - 1
            w = _newton(self.Z, sign * self.filled, penalty, self.W[:, 1:] - self.W[:, :1], tol)
            self.W, absent = torch.cat([-w / 2, w / 2], 1), 0.0
        else:
            problem = _Multinomial(self.Z, self.codes, self.filled, penalty, self.absent)
            self.W, absent = _minimise(problem, self.W, tol), self.absent
        weights = self.W[..., :-1] @ self.axes.transpose(1, 2)
        intercept = self.W[..., -1:] + absent - weights @ self.centre.transpose(1, 2)
        return torch.cat([weights, intercept], 2)


def _principal_axes(X: Float[Tensor, "problems rows dim"]) -> Float[Tensor, "problems dim rank"]:
    """Orthonormal axes of the rows' space along which they are uncorrelated."""
    if X.shape[1] >= X.shape[2]:
        return torch.linalg.eigh(X.transpose(1, 2) @ X)[1]
    basis = torch.linalg.qr(X.transpose(1, 2))[0]  # eigh of the rows' products would lose digits
    X = X @ basis
    return basis @ torch.linalg.eigh(X.transpose(1, 2) @ X)[1]


class _Multinomial:
    """Objective and gradient at ``scale * U``; a batch from which problems can leave."""

    def __init__(self, Z: Tensor, codes: Tensor, filled: Tensor, penalty: Tensor, absent: Tensor):
        self.Z, self.codes, self.filled = Z, codes, filled
        self.penalty, self.absent = penalty, absent
        self.scale = ((Z * Z).sum(1, keepdim=True) / absent.shape[1] + penalty).rsqrt()

    def __call__(self, U: Tensor) -> tuple[Float[Tensor, " problems"], Tensor]:
        W = self.scale * U
        # Classes before rows: few classes would leave the processor's vectors half empty.
        p = torch.log_softmax(W @ self.Z.transpose(1, 2) + self.absent, 1)
        cost = _dot(self.penalty * W, W) / 2 - _dot(p.gather(1, self.codes), self.filled)
        p.exp_().scatter_add_(1, self.codes, -self.filled)
        return cost, self.scale * torch.baddbmm(self.penalty * W, p, self.Z)

    def keep(self, some: Tensor) -> None:
        for name in ("Z", "codes", "filled", "penalty", "absent", "scale"):
            setattr(self, name, getattr(self, name)[some])


def _minimise(problem: _Multinomial, W: Tensor, tol: float) -> Tensor:
    """L-BFGS; a problem that has converged leaves the batch."""
    U = W / problem.scale
    out, left = torch.empty_like(W), torch.arange(len(W))
    cost, gradient = problem(U)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    before = cost
    for step in range(1, _STEPS + 1):
        direction = _two_loops(gradient, history)
        slope, length = _dot(gradient, direction), torch.ones_like(cost)
        while True:
            trial = U + _up(length) * direction
            after, bent = problem(trial)
            high = _too_high(after, cost, length * slope) & (length > 1e-4)
            if not high.any():
                break
            length = torch.where(high, length / 2, length)
        moved, turned = trial - U, bent - gradient
        curved = _dot(moved, turned)
        # A pair without curvature is rounding: weight 0 takes it out of the history.
        weight = torch.where(curved > _TINY, 1 / curved.clamp(min=_TINY), 0.0)
        history = [*history[-_HISTORY + 1 :], (moved, turned, weight)]
        U, cost, gradient = trial, after, bent
        if step % _EVERY and step < _STEPS:
            continue
        done = (before - cost <= tol * cost) | (step == _STEPS)
        before = cost
        if done.any():
            out[left[done]] = (problem.scale * U)[done]
            some = ~done
            if not some.any():
                break
            problem.keep(some)
            left, U, cost, gradient, before = (t[some] for t in (left, U, cost, gradient, before))
            history = [(a[some], b[some], c[some]) for a, b, c in history]
    return out


def _two_loops(gradient: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The L-BFGS direction."""
    q, shares = -gradient, []
    for moved, turned, weight in reversed(history):
        shares.append(weight * _dot(moved, q))
        q = q - _up(shares[-1]) * turned
    if history:
        moved, turned, weight = history[-1]
        bend = weight * _dot(turned, turned)
        q = q / _up(torch.where(bend > 0, bend, 1.0))
    for (moved, turned, weight), share in zip(history, reversed(shares), strict=True):
        q = q + _up(share - weight * _dot(turned, q)) * moved
    return q


def _newton(
    Z: Float[Tensor, "problems rows rank1"],
    sign: Float[Tensor, "problems 1 rows"],
    penalty: Float[Tensor, "problems 1 rank1"],
    w: Float[Tensor, "problems 1 rank1"],
    tol: float,
) -> Tensor:
    """Two classes; ``sign`` is 1, -1, or 0 for a row that only fills the batch."""
    used = sign.abs()

    def cost_of(w: Tensor, z: Tensor) -> Float[Tensor, " problems"]:
        loss = torch.nn.functional.softplus(-sign * z)
        return _dot(loss, used) + _dot(penalty * w, w) / 2

    z = w @ Z.transpose(1, 2)
    cost = cost_of(w, z)
    for _ in range(_STEPS):
        gradient = torch.baddbmm(penalty * w, -sign * torch.sigmoid(-sign * z), Z)
        curvature = torch.sigmoid(z) * torch.sigmoid(-z)
        hessian = (curvature.transpose(1, 2) * Z).transpose(1, 2) @ Z
        hessian.diagonal(dim1=1, dim2=2).add_(penalty[:, 0])
        # With a unit diagonal, axes of very different scale do not cost digits.
        unit = hessian.diagonal(dim1=1, dim2=2).clamp(min=_TINY).rsqrt()[:, None]
        hessian = unit * hessian * unit.transpose(1, 2)
        hessian.diagonal(dim1=1, dim2=2).add_(1e-6)
        direction = -unit * torch.linalg.solve(hessian, unit * gradient, left=False)
        slope, length = _dot(gradient, direction), torch.ones_like(cost)
        change = direction @ Z.transpose(1, 2)
        while True:
            trial, moved = w + _up(length) * direction, z + _up(length) * change
            after = cost_of(trial, moved)
            high = _too_high(after, cost, length * slope) & (length > 1e-4)
            if not high.any():
                break
            length = torch.where(high, length / 2, length)
        # Half the slope is what the step promises. Rows of one class have no minimum: their cost
        # only falls, and a millionth of a nat per row is the end of it.
        done = -slope / 2 <= tol * (cost + 1e-6 * used.sum((1, 2)))
        w, z, cost = trial, moved, after
        if done.all():
            break
    return w


def _too_high(after: Tensor, before: Tensor, promised: Tensor) -> Tensor:
    """Armijo's rule; near the minimum two costs differ by less than their rounding."""
    return ~(after <= before + 1e-4 * promised + 1e-6 * before)


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, " problems"]:
    return (a * b).sum((1, 2))


def _up(numbers: Float[Tensor, " problems"]) -> Float[Tensor, "problems 1 1"]:
    return numbers[:, None, None]
