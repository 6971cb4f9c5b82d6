"""Baselines: closed forms that one line of code gives, and random features."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from onevec.poolers import POOLERS
from onevec.vector.reduction import Recipe, Reduction
from protocol.producer import DIM, Result, read

if TYPE_CHECKING:
    from onevec.tokens.batches import Tokens
    from protocol.producer import Context

NATIVE = ("mean", "first", "last", "max", "position_weighted")


def mean(context: Context, seed: int) -> Iterator[Result]:
    """The native mean alone: what every gain is over."""
    yield Result("mean", *context.pool("mean"), context.cost["mean"])


def plain(context: Context, seed: int) -> Iterator[Result]:
    """Mean, centred mean, first, last, max, position-weighted: native, then PCA to 64."""
    for name in NATIVE:
        train, test = context.pool(name)
        cost = context.cost[name]
        yield Result(name, train, test, cost)
        if name == "mean":  # with PCA it is a trivial baseline
            shift = train.mean(0)
            yield Result("mean_centred", train - shift, test - shift, cost)
        else:
            plan = Recipe((name,), 0.0, 0.0)
            yield candidate_result(f"{name}_pca", plan, {name: (train, test)}, cost=cost)


def trivial(context: Context, seed: int) -> Iterator[Result]:
    """Mean with PCA or whitening, mean‖std‖max‖min whitened: what one line of code gives."""
    features = {"mean": context.pool("mean")}
    cost = context.cost["mean"]
    for name, power in (("mean_pca", 0.0), ("mean_half_whitened", 0.5), ("mean_whitened", 1.0)):
        yield candidate_result(name, Recipe(("mean",), 0.0, power), features, cost=cost)
    sides = [context.pool(name) for name in ("mean", "std", "max", "min")]
    cost = sum(context.cost[name] for name in ("mean", "std", "max", "min"))
    stacked = {"rich": tuple(np.hstack([side[part] for side in sides]) for part in (0, 1))}
    yield candidate_result("rich_whitened", Recipe(("rich",), 0.0, 1.0), stacked, cost=cost)


def candidate_result(
    name: str,
    candidate: Recipe,
    features: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    dim: int = DIM,
    cost: float = 0.0,
) -> Result:
    """Fit a candidate's reduction to the train features; ``cost`` is what these took."""
    known = {block: features[block][0] for block in candidate.blocks}
    if len(known) == 1:  # what the data offer: directions without variance are rounding noise
        dim = min(dim, rank(next(iter(known.values()))))
    began = time.process_time()
    reduction = Reduction(candidate).fit(known, dim)
    seconds = time.process_time() - began + cost
    scored = {block: features[block][1] for block in candidate.blocks}
    return Result(name, reduction.transform(known), reduction.transform(scored), seconds)


def rank(features: np.ndarray) -> int:
    """Directions in which the train part varies."""
    X = features.astype(np.float64)
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(X.T)))
    return max(1, int((variances > 1e-10 * variances.max()).sum()))


def borep(context: Context, seed: int) -> Iterator[Result]:
    """Bag of random embedding projections, max-pooled (Wieting and Kiela 2019)."""
    dim = context.train.dim
    bound = dim**-0.5
    weights = np.random.default_rng(seed).uniform(-bound, bound, (dim, DIM)).astype(np.float32)
    pooler = POOLERS["max"]().build(DIM)

    def pooled(part: Tokens) -> np.ndarray:
        w = torch.from_numpy(weights)
        return np.concatenate(
            [pooler(b.with_values(b.values.float() @ w)).numpy() for b in read(part)]
        )

    began = time.process_time()
    train = pooled(context.train)
    yield Result("borep", train, pooled(context.test), time.process_time() - began)
