"""Learned poolers learn to aggregate frozen token vectors, without labels.

A step pools piece by piece, takes the loss of the whole batch on the vectors, and hands the
gradient back piece by piece (Gao, Zhang, Han and Callan 2021, "Scaling deep contrastive learning
batch size under memory limited setup"): a batch may be larger than memory would allow, and several
processes (`torchrun`) share the pooling while the loss stays that of the whole batch.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np

from onevec.errors import InputError
from onevec.objectives import Objective
from onevec.tokens.batches import Tokens
from onevec.train import checkpoint
from onevec.train.batch import BatchMaker, training_rows
from onevec.train.exam import Exam
from onevec.train.head import TrainableHead, gradients
from onevec.train.loop import TIME_OVER, OnStep, Task, run_steps
from onevec.train.monitor import Monitor
from onevec.train.optimizer import ScheduledAdamW
from onevec.train.score import HeldOutScore
from onevec.train.settings import STEPS, Trained, Training
from onevec.train.state import Run
from onevec.train.world import World
from onevec.vector.held_out import Prepared
from onevec.vector.reduction import Recipe
from onevec.views import VIEWS, Reencoded, Views, fixed_size

_LEAST_HELD_OUT = 10


def train(
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
    on_step: OnStep | None = None,
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
    rows = training_rows(tokens, prepared)
    views = _views(training, objective, tokens)
    judged = prepared.half(0)  # the other half is for the verdict
    short = _check_enough(tokens, rows, views, judged)
    world = World(training.device)
    with prepared.blocks.on(world.device):
        head = TrainableHead(prepared, recipe, dim).to(world.device)
        batches = BatchMaker(
            tokens, rows, prepared, views, objective, teachers=teachers, random_state=random_state
        )
        objective.fit(
            batches.sample, head.dim, statistics=batches.statistics_width, random_state=random_state
        )
        objective.to(world.device).train()
        trained = [*head.parameters(), *objective.parameters()]
        optimizer = ScheduledAdamW(
            [(trained, training.learning_rate)], weight_decay=training.weight_decay
        )
        run = Run(head, head.poolers, objective, optimizer, Trained(left_out=short))
        exam = Exam.set(tokens, judged, random_state, {})
        task = _PoolerTask(
            head,
            objective,
            batches,
            training,
            monitor=Monitor(tokens, exam.rows, views.size, random_state),
            score=HeldOutScore(exam, prepared, recipe, dim),
            world=world,
            began=began,
        )
        identity = _identity(task, [len(tokens), steps, dim, random_state])
        step = run_steps(
            task,
            run,
            done=run.resume(training.checkpoint, identity, world),
            steps=steps,
            evaluations=training.evaluations,
            patience=training.patience,
            save=lambda step: run.save(training.checkpoint, identity, step, world),
            on_step=on_step,
        )
        run.conclude(step, time.perf_counter() - began)
        world.wait()
        ended = run.told.stopped != TIME_OVER  # else the checkpoint stays
        if training.checkpoint is not None and world.rank == 0 and ended:
            Path(training.checkpoint).unlink(missing_ok=True)
    return run.told


class _PoolerTask(Task):
    """Poolers and a linear map, trained on views of frozen tokens."""

    def __init__(
        self,
        head: TrainableHead,
        objective: Objective,
        batches: BatchMaker,
        training: Training,
        *,
        monitor: Monitor,
        score: HeldOutScore,
        world: World,
        began: float,
    ):
        self.head, self.objective, self.batches = head, objective, batches
        self.training, self.monitor, self.held_out = training, monitor, score
        self.world, self.began = world, began

    def gradients(self, step: int) -> dict[str, float]:
        """Pool the views of the step's sequences."""
        pair, context = self.batches.step(step, self.training.batch, self.world.device)
        if len(context.groups) < 2:  # too few of them are long enough
            return {}
        return gradients(
            self.head,
            self.objective,
            pair,
            context,
            piece_tokens=self.training.piece_tokens,
            precision=self.training.precision,
            world=self.world,
        )

    def look(self) -> dict[str, float]:
        """Look at held-out sequences."""
        return self.monitor.look(self.head)

    def score(self) -> float:
        """Score the poolers as the final vector has them."""
        return self.held_out()

    def late(self) -> bool:
        """Whether the seconds are over, in any process."""
        limit = self.training.max_seconds
        return self.world.any(limit is not None and time.perf_counter() - self.began > limit)


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


def _identity(task: _PoolerTask, numbers: list[int]) -> str:
    """What a checkpoint must share with the run that goes on from it: settings, start and data."""
    apart = ("views", "teachers", "checkpoint", "progress", "max_seconds", "device")
    settings = {k: v for k, v in vars(task.training).items() if k not in apart}
    poolers = {
        name: [type(pooler).__name__, pooler.options]
        for name, pooler in task.head.blocks.poolers.items()
    }
    objective = [type(task.objective).__name__, task.objective.options]
    pair, context = task.batches.step(0, task.training.batch, task.world.device)
    states = {**task.head.state_dict(), **task.objective.state_dict()}
    tensors = *states.values(), *(view.values for view in pair), *context.teachers
    return checkpoint.identity([poolers, objective, settings, numbers], tensors)
