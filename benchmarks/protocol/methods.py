"""What is compared: every method turns the same stored tokens into vectors, without labels.

Those that share features (the candidate list) come from one producer, so that tokens are read
once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from onevec import OneVec
from onevec.blocks import prepare, read
from onevec.judge.verdict import judge
from onevec.poolers import POOLERS
from onevec.recipe import BLOCKS, candidates
from onevec.reduction import Candidate, Reduction
from onevec.tokens.batches import Tokens
from protocol import bounds, learned, peers
from protocol.producer import DIM, Context, Producer, Result
from protocol.tasks import TEXT

SEEDS = 3
SIX_ROWS = ("ncrna13", "omniglot", "fsdd", "chess", "gesture", "banking77")  # peers: three seeds
NATIVE = ("mean", "first", "last", "max", "position_weighted")


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
            plan = Candidate((name,), 0.0, 0.0)
            yield candidate_result(f"{name}_pca", plan, {name: (train, test)}, cost=cost)


def trivial(context: Context, seed: int) -> Iterator[Result]:
    """Mean with PCA or whitening, mean‖std‖max‖min whitened: what one line of code gives."""
    features = {"mean": context.pool("mean")}
    cost = context.cost["mean"]
    for name, power in (("mean_pca", 0.0), ("mean_half_whitened", 0.5), ("mean_whitened", 1.0)):
        yield candidate_result(name, Candidate(("mean",), 0.0, power), features, cost=cost)
    sides = [context.pool(name) for name in ("mean", "std", "max", "min")]
    cost = sum(context.cost[name] for name in ("mean", "std", "max", "min"))
    stacked = {"rich": tuple(np.hstack([side[part] for side in sides]) for part in (0, 1))}
    yield candidate_result("rich_whitened", Candidate(("rich",), 0.0, 1.0), stacked, cost=cost)


def candidate_result(
    name: str,
    candidate: Candidate,
    features: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    cache: dict[Any, Any] | None = None,
    dim: int = DIM,
    cost: float = 0.0,
) -> Result:
    """Fit a candidate's reduction to the train features; ``cost`` is what these took."""
    known = {block: features[block][0] for block in candidate.blocks}
    if len(known) == 1:  # what the data offer: directions without variance are rounding noise
        dim = min(dim, rank(next(iter(known.values()))))
    began = time.process_time()
    reduction = Reduction(candidate).fit(known, dim, cache)
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


def onevec(context: Context, seed: int, effort: str) -> Iterator[Result]:
    """`OneVec(dim=64, effort=…).fit(tokens)`: nothing else set."""
    model = OneVec(dim=DIM, effort=effort, random_state=seed)
    began = time.process_time()
    model.fit(context.train)
    seconds = time.process_time() - began
    verdict = model.verdict_
    note = {
        "choice": verdict.choice,
        "beats_mean": verdict.beats_mean,
        "probability": verdict.probability,
    }
    yield Result(
        f"onevec_{effort}",
        model.transform(context.train),
        model.transform(context.test),
        seconds,
        note,
    )


# The fixed candidate list of Q4's and Q6's oracle: 9 feature sets x whitening power 0, 1/2, 1,
# plus every default candidate of the recipe.
FEATURE_SETS = (
    ("mean",),
    ("quantiles",),
    ("covariance",),
    ("vlad",),
    ("dct",),
    ("mean", "std"),
    ("mean", "std", "max", "min"),
    ("dct", "std"),
    ("mean", "std", "quantiles", "covariance", "vlad", "dct", "lagged"),
)
FIXED = [Candidate(blocks, power, power) for blocks in FEATURE_SETS for power in (0.0, 0.5, 1.0)]
EXTRA_BLOCKS = {"max": ("max", {}), "min": ("min", {})}


def candidate_list() -> list[Candidate]:
    """The recipe's in their order, whose first is the mean, then the others; none twice.

    The judge takes the first that surely beats the mean, so the order is part of the verdict.
    """
    listed: dict[str, Candidate] = {}
    for option in (*candidates("thorough"), *FIXED):
        listed.setdefault(option.name, option)
    return list(listed.values())


def candidate_sweep(context: Context, seed: int) -> Iterator[Result]:
    """Every candidate's vectors, and what the verdict says of each.

    Fitted to the same rows as the judge's features; the judge's own reductions leave its held-out
    rows out.
    """
    options = candidate_list()
    began = time.process_time()
    found = prepare(context.train, BLOCKS | EXTRA_BLOCKS, "quick", seed)
    _, verdict = judge(context.train, found, options, dim=DIM, random_state=seed)
    seconds = time.process_time() - began
    says = {entry["name"]: entry for entry in verdict.candidates}
    test = found.blocks.of(context.test)
    back = np.argsort(found.rows)
    features = {name: (block[back], test[name]) for name, block in found.features.items()}
    cache: dict[Any, Any] = {}
    for option in options:
        result = candidate_result(f"candidate: {option.name}", option, features, cache=cache)
        result.seconds += seconds / len(options)
        result.note = {"says": says.get(option.name), "chosen": option.name == verdict.choice}
        result.note["beats_mean"] = verdict.beats_mean
        yield result


def dimensions(context: Context, seed: int) -> Iterator[Result]:
    """OneVec, mean + PCA and mean + whitening at other dimensions than 64."""
    features = {"mean": context.pool("mean")}
    for dim in (16, 32, 128, 256):
        began = time.process_time()
        model = OneVec(dim=dim, random_state=seed).fit(context.train)
        seconds = time.process_time() - began
        vectors = (model.transform(part) for part in (context.train, context.test))
        yield Result(f"onevec_quick at {dim}", *vectors, seconds)
        for name, power in (("mean_pca", 0.0), ("mean_whitened", 1.0)):
            plan, cost = Candidate(("mean",), 0.0, power), context.cost["mean"]
            yield candidate_result(f"{name} at {dim}", plan, features, dim=dim, cost=cost)


_BLOCKS = ("base", "codebook", "covariance", "fitting", "order", "statistics", "weighting")
_CORE = (
    *(f"src/onevec/poolers/{name}.py" for name in _BLOCKS),
    *("src/onevec/project", "src/onevec/recipe.py", "benchmarks/protocol/methods.py"),
)
_JUDGE = tuple(f"src/onevec/judge/{name}.py" for name in ("exam", "unlabelled", "verdict"))
_OURS = (*_CORE, *_JUDGE, "src/onevec/estimator.py")
_PEERS = ("benchmarks/protocol/peers.py",)
_BOUND = ("benchmarks/protocol/bounds.py",)


def producers() -> dict[str, Producer]:
    """Everything that can be run."""

    def often(row: str) -> int:
        return SEEDS

    def where_it_matters(row: str) -> int:
        return SEEDS if row in SIX_ROWS else 1

    listed = [
        Producer("plain", "plain", plain, _CORE),
        Producer("trivial", "trivial", trivial, _CORE),
        Producer("borep", "trivial", borep, _CORE, often),
        Producer("candidates", "candidate", candidate_sweep, _OURS),
        Producer("attention_probe", "bound", bounds.attention_probe, _BOUND),
        Producer("dimensions", "dimension", dimensions, _OURS, rows=SIX_ROWS),
    ]
    for effort in ("quick", "standard", "thorough"):
        run = functools.partial(onevec, effort=effort)
        listed.append(Producer(f"onevec_{effort}", "onevec", run, _OURS, often))
    for name, entry in peers.PEERS.items():
        run = functools.partial(peers.run, name=name)
        seeds = where_it_matters if entry.stochastic else (lambda row: 1)
        listed.append(Producer(name, "peer", run, _PEERS, seeds))
    for name in peers.TEXT_PEERS:
        run = functools.partial(peers.run_on_text, name=name)
        listed.append(Producer(name, "text peer", run, _PEERS, rows=TEXT))
    listed += learned.producers()
    return {producer.name: producer for producer in listed}
