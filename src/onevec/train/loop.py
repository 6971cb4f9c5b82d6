"""The one training loop: poolers learn to aggregate frozen token vectors, without labels.

Read `train` from top to bottom. Every step draws its sequences and views from seed and step
alone, so a run that was killed goes on exactly. A step pools piece by piece, takes the loss of
the whole batch on the vectors, and hands the gradient back piece by piece (Gao, Zhang, Han and
Callan 2021, "Scaling deep contrastive learning batch size under memory limited setup"): a batch
may be larger than memory would allow, and several processes (`torchrun`) share the pooling while
the loss stays that of the whole batch. What is kept is the state with the best score on held-out
sequences, which may be the start.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.judge.monitor import Monitor
from onevec.objectives import Objective
from onevec.tokens.batches import Tokens
from onevec.train.exam import Exam
from onevec.train.head import Head, World, gradients
from onevec.train.offer import Offer, draw_rows, training_rows
from onevec.train.score import HeldOutScore
from onevec.train.settings import STEPS, Trained, Training
from onevec.train.state import Run
from onevec.vector.held_out import Prepared
from onevec.vector.reduction import Recipe
from onevec.views import VIEWS, Reencoded, Views, fixed_size

_LEAST_HELD_OUT = 10


def train(  # noqa: PLR0915 - the one loop, to be read from top to bottom
    tokens: Tokens,
    prepared: Prepared,
    recipe: Recipe,
    objective: Objective,
    training: Training,
    *,
    dim: int,
    effort: str,
    random_state: int,
    teachers: tuple[Tokens, ...] = (),
    on_step: Callable[[int, int, float], None] | None = None,
) -> Trained:
    """Train the learned poolers of ``prepared.blocks`` in place.

    Parameters
    ----------
    tokens : Ragged or TokenStore
        The sequences; those that ``prepared`` holds out are never trained on.
    prepared : Prepared
        Fitted blocks and their features at the start; the features are not renewed.
    recipe : Recipe
        The blocks that make the vector.
    objective : Objective
        What is minimised, on vectors of ``dim`` dimensions.
    training : Training
        The settings.
    teachers : tuple of Tokens
        The same sequences by other layers or encoders, for distillation.
    on_step : callable, optional
        Called as ``on_step(step, steps, loss)``.

    Raises
    ------
    InputError
        If too few sequences are long enough, or views and objective do not fit.
    """
    began = time.perf_counter()
    steps = training.steps or STEPS[effort]
    every = max(1, steps // training.evaluations)
    rows = training_rows(tokens, prepared)
    views = _views(training, objective, tokens)
    judged = prepared.half(0)  # the other half is for the verdict
    short = _check_enough(tokens, rows, views, judged)
    world = World(training.device)
    with prepared.blocks.on(world.device):
        head = Head(prepared, recipe, dim).to(world.device)
        exam = Exam.set(tokens, judged, random_state, {})
        monitor = Monitor(tokens, exam.rows, views.size, random_state)
        offer = Offer(
            tokens, rows, prepared, views, objective, teachers=teachers, random_state=random_state
        )
        objective.fit(
            offer.sample, head.dim, statistics=offer.statistics_width, random_state=random_state
        )
        objective.to(world.device).train()
        optimizer = torch.optim.AdamW(_groups(head, objective, training.weight_decay))
        score = HeldOutScore(exam, prepared, recipe, dim)
        run = Run(head, objective, optimizer, Trained(left_out=short))
        pair, context = offer.batch(
            draw_rows(rows, training.batch, 0, random_state), 0, world.device
        )
        start = (*(view.values for view in pair), *context.teachers)
        identity = _identity(run, start, training, [len(tokens), steps, dim, random_state])
        done = run.resume(training.checkpoint, identity, world)
        stopped, terms = run.told.stopped, {}
        step = first = done or 0
        for step in range(first, steps + 1):
            if step != done and (step % every == 0 or step == steps):
                run.note(step, terms, monitor.look(head))
                stopped = Monitor.alarm(run.told.history)
                if not stopped:  # a state that it warns of is not kept
                    run.rate(step, score())
                    stopped = run.impatient(training.patience) if step < steps else ""
                run.told.stopped = stopped
                run.save(training.checkpoint, identity, step, world)
            if step == steps or stopped or world.any(_late(began, training)):
                break
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * _schedule(step, steps)
            picked = draw_rows(rows, training.batch, step, random_state)
            pair, context = offer.batch(picked, step, world.device)
            if len(context.groups) < 2:  # too few of them are long enough
                continue
            optimizer.zero_grad()
            terms = gradients(
                head,
                objective,
                pair,
                context,
                piece_tokens=training.piece_tokens,
                precision=training.precision,
                world=world,
            )
            if not math.isfinite(terms["total"]):
                stopped = f"the loss is {terms['total']} at step {step}"
                break
            nn.utils.clip_grad_norm_([*head.parameters(), *objective.parameters()], 1.0)
            optimizer.step()
            if on_step:
                on_step(step + 1, steps, terms["total"])
        unfinished = step < steps and not stopped  # out of time: the checkpoint stays
        run.told.stopped = "its time was over" if unfinished else stopped
        run.conclude(step, time.perf_counter() - began)
        world.wait()
        if training.checkpoint is not None and world.rank == 0 and not unfinished:
            Path(training.checkpoint).unlink(missing_ok=True)
    return run.told


def _check_enough(tokens: Tokens, rows: np.ndarray, views: Views, judged: Prepared) -> int:
    """Return how many sequences are too short for views, if what is left is enough."""
    short = int((~views.usable(tokens.lengths.numpy()[rows], rows)).sum())
    if len(rows) - short < 2:
        raise InputError(
            f"{len(rows) - short} of {len(rows)} sequences are long enough for two views: pass a "
            "smaller view_size or gap, other views, or a closed-form pooler"
        )
    held_out = len(judged.held_out_rows(tokens))
    if held_out < _LEAST_HELD_OUT:
        raise InputError(
            f"got {len(tokens)} sequences, of which {held_out} of two or more tokens could be held "
            f"out to tell whether training helps, and that takes {_LEAST_HELD_OUT}: pass about "
            f"{6 * _LEAST_HELD_OUT} sequences, or a closed-form pooler"
        )
    return short


def _views(training: Training, objective: Objective, tokens: Tokens) -> Views:
    """Make the views of the settings, and check that they suit the objective."""
    given = training.views
    if not isinstance(given, Views):
        name = given if given != "auto" else "prefixes" if objective.future else "spans"
        size, gap = fixed_size(tokens.lengths.numpy(), training.view_size, training.gap)
        given = VIEWS[name](size, gap)
    given.check(len(tokens), tokens.dim)
    if objective.ordered and not given.ordered:
        raise InputError(
            f"the objective asks which tokens come later, and views {type(given).__name__} have "
            f"no order: choose from {', '.join(n for n, v in VIEWS.items() if v.ordered)}"
        )
    if objective.future and not training.causal and not isinstance(given, Reencoded):
        warnings.warn(
            "predicting tokens that follow is trivial if they were seen already, as in a "
            'bidirectional encoder: pass training={"causal": True} if yours is causal, else '
            "choose another objective",
            UserWarning,
            stacklevel=4,
        )
    return given


def _groups(head: Head, objective: Objective, decay: float) -> list[dict[str, Any]]:
    """Weight decay for the matrices alone."""
    found = [p for part in (head, objective) for p in part.parameters() if p.requires_grad]
    return [
        {"params": [p for p in found if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in found if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _schedule(step: int, steps: int) -> float:
    """A tenth of the steps warms up, then a cosine falls to 0."""
    warm = (step + 1) / max(1.0, steps / 10)
    return min(warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _late(began: float, training: Training) -> bool:
    limit = training.max_seconds
    return limit is not None and time.perf_counter() - began > limit


def _identity(run: Run, start: tuple[Tensor, ...], training: Training, numbers: list[int]) -> str:
    """What a checkpoint must share with the run that goes on from it: settings, start and data."""
    apart = ("views", "teachers", "checkpoint", "progress", "max_seconds", "device")
    settings = {k: v for k, v in vars(training).items() if k not in apart}
    poolers = {
        name: [type(pooler).__name__, pooler.options]
        for name, pooler in run.head.blocks.poolers.items()
    }
    objective = [type(run.objective).__name__, run.objective.options]
    digest = hashlib.sha256(json.dumps([poolers, objective, settings, numbers]).encode())
    states = {**run.head.state_dict(), **run.objective.state_dict()}
    for tensor in (*states.values(), *start):
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
