"""What is compared: every method turns the same stored tokens into vectors, without labels."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

from onevec import OneVec
from onevec.blocks import prepare_folds
from onevec.judge.verdict import judge
from onevec.recipe import BLOCKS
from onevec.reduction import Candidate
from protocol import ablation, baselines, bounds, learned, peers, sweep
from protocol.baselines import candidate_result
from protocol.producer import DIM, Context, Producer, Result
from protocol.tasks import TEXT
from protocol.unseen import unseen

SEEDS = 3
SIX_ROWS = ("ncrna13", "omniglot", "fsdd", "chess", "gesture", "banking77")  # peers: three seeds


def onevec(context: Context, seed: int, effort: str) -> Iterator[Result]:
    """`OneVec(dim=64, effort=…).fit(tokens)`: nothing else set, the row's own data unseen."""
    model = OneVec(dim=DIM, effort=effort, random_state=seed)
    began = time.process_time()
    with unseen(context.unit.row):
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


def judgement(context: Context, seed: int) -> Iterator[Result]:
    """What the verdict says of every candidate of the fixed list; no vectors."""
    options = sweep.candidate_list()
    began = time.process_time()
    folds = prepare_folds(context.train, BLOCKS | sweep.SPECS, "quick", seed)
    with unseen(context.unit.row):
        _, verdict = judge(context.train, folds, options, dim=DIM, random_state=seed)
    note = {
        "says": {sweep.name_of(o): e for o, e in zip(options, verdict.candidates, strict=False)},
        "choice": f"candidate: {verdict.choice}",
        "beats_mean": verdict.beats_mean,
    }
    yield Result("judgement", seconds=time.process_time() - began, note=note, known={})


def dimensions(context: Context, seed: int) -> Iterator[Result]:
    """OneVec at other dimensions than 64 and at that of its choice; mean + PCA, + whitening."""
    features = {"mean": context.pool("mean")}
    for dim in (16, 32, 128, 256, "auto"):
        began = time.process_time()
        with unseen(context.unit.row):
            model = OneVec(dim=dim, random_state=seed).fit(context.train)
        seconds = time.process_time() - began
        vectors = (model.transform(part) for part in (context.train, context.test))
        yield Result(f"onevec_quick at {dim}", *vectors, seconds)
        if dim == "auto":
            continue
        for name, power in (("mean_pca", 0.0), ("mean_whitened", 1.0)):
            plan, cost = Candidate(("mean",), 0.0, power), context.cost["mean"]
            yield candidate_result(f"{name} at {dim}", plan, features, dim=dim, cost=cost)


_BLOCKS = ("base", "codebook", "covariance", "fitting", "order", "statistics", "weighting")
_CORE = (
    *(f"src/onevec/poolers/{name}.py" for name in _BLOCKS),
    *("src/onevec/project", "src/onevec/blocks.py", "src/onevec/reduction.py"),
    "src/onevec/nuisance.py",
)
_BASELINES = (*_CORE, "benchmarks/protocol/baselines.py")
SWEPT = (*_BASELINES, "benchmarks/protocol/sweep.py")
RECIPE = (
    "src/onevec/recipe.py",
    *(f"src/onevec/poolers/{name}.py" for name in ("kernel_transport", "transport")),
)
_JUDGE = tuple(
    f"src/onevec/judge/{name}"
    for name in ("exam.py", "unlabelled.py", "compare.py", "calibration.py", "calibration.json")
)
_VERDICT = (
    *(*_CORE, *RECIPE, *_JUDGE, "src/onevec/judge/verdict.py"),
    *("benchmarks/protocol/calibrations.json", "benchmarks/protocol/unseen.py"),
)
_OURS = (*_VERDICT, "src/onevec/estimator.py", "benchmarks/protocol/methods.py")
_DIMENSIONS = (*_OURS, "src/onevec/judge/dimension.py")
_PEERS = ("benchmarks/protocol/peers.py",)
_BOUND = ("benchmarks/protocol/bounds.py",)


def producers() -> dict[str, Producer]:
    """Everything that can be run."""

    def often(row: str) -> int:
        return SEEDS

    def where_it_matters(row: str) -> int:
        return SEEDS if row in SIX_ROWS else 1

    listed = [
        Producer("plain", "plain", baselines.plain, _BASELINES),
        Producer("trivial", "trivial", baselines.trivial, _BASELINES),
        Producer("borep", "trivial", baselines.borep, _BASELINES, often),
        Producer("candidates", "candidate", sweep.fixed, SWEPT),
        Producer("defaults", "candidate", sweep.defaults, (*SWEPT, *RECIPE)),
        Producer("judgement", "judgement", judgement, (*_OURS, *SWEPT)),
        Producer("attention_probe", "bound", bounds.attention_probe, _BOUND),
        Producer("dimensions", "dimension", dimensions, _DIMENSIONS, rows=SIX_ROWS),
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
    listed += ablation.producers(_OURS, (*SWEPT, *RECIPE))
    listed += learned.producers()
    return {producer.name: producer for producer in listed}
