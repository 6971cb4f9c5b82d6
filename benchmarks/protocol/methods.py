"""What is compared: every method turns the same stored tokens into vectors, without labels.

A `Producer` gives one or several named vectors per fit. Those that share features (the candidate
list) come from one producer, so that tokens are read once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onevec import OneVec
from onevec.judge.outcomes import Outcome
from onevec.judge.probes import run_probes
from onevec.judge.verdict import judge
from onevec.poolers import POOLERS
from onevec.recipe import BLOCKS, Blocks, Candidate, Reduction, candidates, read
from onevec.tokens.batches import Tokens, sample_sequences
from protocol.encoders import MINILM_LAYERS
from protocol.tasks import TEXT, Target, Unit

DIM = 64
SEEDS = 3
SIX_ROWS = ("ncrna13", "omniglot", "fsdd", "chess", "gesture", "banking77")  # peers: three seeds
NATIVE = ("mean", "first", "last", "max", "position_weighted")


def nothing() -> np.ndarray:
    return np.empty((0, 0), np.float32)


@dataclass
class Result:
    """Vectors of one method on one unit.

    Attributes
    ----------
    seconds : float
        What fitting took, in seconds of one core, so that a busy machine does not matter;
        transforming is not in it.
    note : dict
        What else the table wants to know, such as a verdict.
    known : dict, optional
        Outcomes by target and probe, of a method that has no vectors but predictions.
    """

    name: str
    train: np.ndarray = field(default_factory=nothing)
    test: np.ndarray = field(default_factory=nothing)
    seconds: float = 0.0
    note: dict[str, Any] = field(default_factory=dict)
    known: dict[str, dict[str, Outcome]] | None = None

    @property
    def dim(self) -> int | None:
        return None if self.known else int(self.test.shape[1])


@dataclass
class Context:
    """Token vectors of a unit, and pooled features that several methods share."""

    unit: Unit
    encoder: str
    train: Tokens
    test: Tokens
    budget: float = 60.0  # seconds of one core that each peer may train
    pooled: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)  # of pooling the train part, in seconds

    def pool(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Plain pooling of both parts in fp32."""
        if name not in self.pooled:
            pooler = POOLERS[name]().build(self.train.dim)

            def run(part: Tokens) -> np.ndarray:
                return np.concatenate([pooler(batch).float().numpy() for batch in read(part)])

            began = time.process_time()
            train = run(self.train)
            self.cost[name] = time.process_time() - began
            self.pooled[name] = train, run(self.test)
        return self.pooled[name]


@dataclass(frozen=True)
class Producer:
    """A method, or several from one fit.

    Attributes
    ----------
    family : str
        plain, trivial, candidate, onevec, peer, text peer, bound or dimension.
    code : tuple of str
        Files and folders that decide its result; a change there makes old results stale.
    seeds : callable
        How many fits a row gets.
    rows : tuple of str, optional
        The rows it can run on; all of them when not given.
    """

    name: str
    family: str
    run: Callable[[Context, int], Iterator[Result]]
    code: tuple[str, ...]
    seeds: Callable[[str], int] = lambda row: 1
    rows: tuple[str, ...] | None = None

    def applies(self, row: str) -> bool:
        return self.rows is None or row in self.rows


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
        import torch

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
_SEQUENCES, _TOKENS, _HELD_OUT = 5_000, 100_000, 1_000


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
    tokens = context.train
    specs = BLOCKS | EXTRA_BLOCKS
    began = time.process_time()
    most = min(_TOKENS, max(1, 2**24 // tokens.dim))
    blocks = Blocks.fit(sample_sequences(tokens, most, seed)[1], specs, seed)
    rows = np.random.default_rng(seed).permutation(len(tokens))[:_SEQUENCES]
    held_out = min(_HELD_OUT, len(rows) // 3)
    rows = np.concatenate([np.sort(part) for part in np.split(rows, [len(rows) - held_out])])
    train = blocks.of(tokens, rows)
    _, verdict = judge(
        tokens, rows, train, blocks, options, dim=DIM, held_out=held_out, random_state=seed
    )
    seconds = time.process_time() - began
    says = {entry["name"]: entry for entry in verdict.candidates}
    test = blocks.of(context.test)
    back = np.argsort(rows)
    features = {name: (train[name][back], test[name]) for name in train}
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


def attention_probe(context: Context, seed: int) -> Iterator[Result]:
    """Supervised upper bound: reads all labels, and is reported apart."""
    from protocol.bounds import supervised

    for target in context.unit.targets:
        if target.kind == "similarity":
            continue
        began = time.process_time()
        predicted = supervised(
            context.train, context.test, target, seed=seed, budget=context.budget
        )
        seconds = time.process_time() - began
        outcome = predictions_outcome(predicted, target)
        note = {"stopped_by_the_clock": seconds > context.budget}
        known = {target.name: {"full": outcome}}
        yield Result("attention_probe", seconds=seconds, note=note, known=known)


def predictions_outcome(predicted: np.ndarray, target: Target) -> Outcome:
    """What `run_probes` would keep of these predictions."""
    truth = target.y_test
    if target.kind == "classes":
        hits = (predicted == truth).astype(np.uint8)
        return Outcome("balanced", hits[None], np.unique(truth, return_inverse=True)[1])
    metric = "auroc" if target.kind == "binary" else "r2"
    return Outcome(metric, predicted[None].astype(np.float32), truth)


def peer(context: Context, seed: int, name: str) -> Iterator[Result]:
    from protocol.peers import PEERS

    ready = PEERS[name].ready()
    began = time.process_time()
    fitted = ready.fit(context.train, dim=DIM, seed=seed, budget=context.budget)
    seconds = time.process_time() - began
    yield Result(name, fitted.transform(context.train), fitted.transform(context.test), seconds)


def text_peer(context: Context, seed: int, name: str) -> Iterator[Result]:
    """Encoder unfrozen, from the raw text: reported apart."""
    from protocol.peers import TEXT_PEERS

    layer = MINILM_LAYERS[context.encoder]
    layers = None if layer == max(MINILM_LAYERS.values()) else layer  # the last: all of them
    ready = TEXT_PEERS[name].ready()
    began = time.process_time()
    fitted = ready.fit(context.unit.train, layers=layers, seed=seed, budget=context.budget)
    seconds = time.process_time() - began
    yield Result(name, fitted.encode(context.unit.train), fitted.encode(context.unit.test), seconds)


def score(result: Result, unit: Unit, seed: int) -> dict[str, dict[str, Outcome]]:
    """Every probe of every target."""
    if result.known is not None:
        return result.known
    return {
        target.name: run_probes(
            result.train[target.train],
            target.y_train,
            result.test if target.kind == "similarity" else result.test[target.test],
            target.y_test,
            target.kind,
            pairs=target.test if target.kind == "similarity" else None,
        )
        for target in unit.targets
    }


_CORE = ("src/onevec/poolers", "src/onevec/project", "src/onevec/recipe.py")
_OURS = (*_CORE, "src/onevec/estimator.py", "src/onevec/judge")
_PEERS = ("benchmarks/protocol/peers.py",)
_BOUND = ("benchmarks/protocol/bounds.py",)


def producers() -> dict[str, Producer]:
    """Everything that can be run."""
    from protocol.peers import PEERS, TEXT_PEERS

    def often(row: str) -> int:
        return SEEDS

    def where_it_matters(row: str) -> int:
        return SEEDS if row in SIX_ROWS else 1

    listed = [
        Producer("plain", "plain", plain, _CORE),
        Producer("trivial", "trivial", trivial, _CORE),
        Producer("borep", "trivial", borep, _CORE, often),
        Producer("candidates", "candidate", candidate_sweep, _OURS),
        Producer("attention_probe", "bound", attention_probe, _BOUND),
        Producer("dimensions", "dimension", dimensions, _OURS, rows=SIX_ROWS),
    ]
    for effort in ("quick", "standard", "thorough"):
        run = functools.partial(onevec, effort=effort)
        listed.append(Producer(f"onevec_{effort}", "onevec", run, _OURS, often))
    for name, entry in PEERS.items():
        run = functools.partial(peer, name=name)
        seeds = where_it_matters if entry.stochastic else (lambda row: 1)
        listed.append(Producer(name, "peer", run, _PEERS, seeds))
    for name in TEXT_PEERS:
        run = functools.partial(text_peer, name=name)
        listed.append(Producer(name, "text peer", run, _PEERS, rows=TEXT))
    return {producer.name: producer for producer in listed}
