"""Learned poolers and objectives on frozen tokens, to be measured against the closed-form recipe.

Three ways to stand: *alone*, *beside* the blocks of the recipe as one more block, and as a
*residual* head on these blocks, evened as the recipe does. All are trained by the defaults,
without labels; each is there untrained too, so that it shows what training alone is worth.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import replace

from onevec.blocks import Prepared, prepare
from onevec.objectives import OBJECTIVES, make_objective
from onevec.poolers import POOLERS
from onevec.recipe import BLOCKS, HEAD, LEARNED, RICH
from onevec.reduction import Candidate, Reduction
from onevec.train import Trained, Training, train
from protocol.producer import DIM, Context, Producer, Result

COLUMNS = (  # raw encoders of six kinds of sequences
    ("ncrna13", "ncrna13"),
    ("deeploc", "proteins"),
    ("molecules/esol", "smiles"),
    ("adfa", "adfa"),
    ("chess", "chess"),
    ("omniglot", "omniglot"),
    ("fsdd/digit", "fsdd"),
)
BESIDE = ("query_attention", "convolution", "recurrent")
TRIED = ("info_nce", "held_out_statistics")  # with every pooler
UNTRAINED = "untrained"
CODE = (
    *(f"src/onevec/{name}" for name in ("poolers", "project", "judge", "train")),
    *(f"src/onevec/{name}.py" for name in ("nuisance", "blocks", "reduction", "recipe")),
    *("src/onevec/objectives", "src/onevec/views.py", "benchmarks/protocol/learned.py"),
)


def fit(context: Context, seed: int, pooler: str, way: str, objective: str) -> Iterator[Result]:
    """Train one pooler for one objective, and reduce it as the recipe does."""
    closed, spent = _closed(context, seed)
    began = time.process_time()
    spec = HEAD if way == "residual" else (pooler, {})
    added = prepare(context.train, {pooler: spec}, "quick", seed)
    prepared = replace(
        closed,
        blocks=closed.blocks.merged(added.blocks),
        features=closed.features | added.features,
    )
    blocks = (*RICH.blocks, pooler) if way == "beside" else (pooler,)
    # Trained along is an affine map, which blocks of length 1 would not give.
    trained_as = Candidate(blocks, 0.5, 0.5)
    final = replace(RICH, blocks=blocks)
    if way == "residual":
        trained_as = final = LEARNED
    told = Trained()
    if objective != UNTRAINED:
        told = train(
            context.train,
            prepared,
            trained_as,
            make_objective(objective),
            Training(causal=True),  # whether it is, is not asked: the table shows what comes of it
            dim=DIM,
            effort="quick",
            random_state=seed,
        )
        prepared = prepared.renewed(context.train, [pooler])
    reduction = Reduction(final).fit(prepared.features, DIM)
    seconds = spent + time.process_time() - began
    used = prepared.blocks.only(blocks)
    train_part, test_part = (
        reduction.transform(used.of(part)) for part in (context.train, context.test)
    )
    note = {
        "sentence": told.sentence,
        "best_step": told.best_step,
        "score": told.score,
        "start_score": told.start_score,
    }
    yield Result(name_of(pooler, way, objective), train_part, test_part, seconds, note)


_CLOSED: list[tuple[Context, int, Prepared, float]] = []


def _closed(context: Context, seed: int) -> tuple[Prepared, float]:
    """The recipe's blocks, fitted and pooled once for all heads of a column, and their seconds."""
    if not _CLOSED or _CLOSED[0][0] is not context or _CLOSED[0][1] != seed:
        began = time.process_time()
        prepared = prepare(context.train, BLOCKS, "quick", seed)
        _CLOSED[:] = [(context, seed, prepared, time.process_time() - began)]
    return _CLOSED[0][2:]


def name_of(pooler: str, way: str, objective: str) -> str:
    return f"learned: {pooler} {way}, {objective}"


def producers() -> list[Producer]:
    """Every objective with the residual head, every pooler with two objectives, some beside."""
    tried = [("residual", "residual", objective) for objective in (*OBJECTIVES, UNTRAINED)]
    for pooler in POOLERS:
        # Layers to mix are not in these stores.
        if POOLERS[pooler]().learned and pooler not in ("residual", "layer_mix"):
            tried += [(pooler, "alone", objective) for objective in (*TRIED, UNTRAINED)]
    tried += [(name, "beside", objective) for name in BESIDE for objective in (*TRIED, UNTRAINED)]
    return [
        Producer(
            name_of(pooler, way, objective),
            "learned",
            functools.partial(fit, pooler=pooler, way=way, objective=objective),
            CODE,
            rows=tuple({unit.split("/")[0] for unit, _ in COLUMNS}),
        )
        for pooler, way, objective in tried
    ]
