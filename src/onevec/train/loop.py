"""The one loop of learned poolers and of fine-tuning. Read `run_steps` from top to bottom.

Every step draws from seed and step alone, so a run that was killed goes on exactly. What is kept
is the state with the best score on held-out sequences, which may be the start. (Pretraining has a
loop of its own, `onevec.encoders.loop`: it starts from nothing, so it keeps the last state.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from onevec.train.monitor import Monitor
from onevec.train.optimizer import schedule
from onevec.train.state import Run

TIME_OVER = "its time was over"
WARM_UP = 0.1  # of the run
OnStep = Callable[[int, int, float], None]


class Task(ABC):
    """What the loop trains: it sets gradients, and tells how good it is."""

    @abstractmethod
    def gradients(self, step: int) -> dict[str, float]:
        """Set the gradients of a step; return the named terms and their ``total``.

        Nothing where the batch has nothing to learn from.
        """

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """Return what `Monitor.look` sees, and what else belongs into the history."""

    @abstractmethod
    def score(self) -> float:
        """Return the held-out score: the higher, the better."""

    def costs(self) -> dict[str, float]:
        """Return what the run has cost so far, for the history."""
        return {}

    def progress(self, step: int, steps: int) -> tuple[float, float]:
        """Return the shares of the run and of its warm-up that are over, see `schedule`."""
        return step / steps, (step + 1) / max(1.0, WARM_UP * steps)

    def late(self) -> bool:
        """Whether to stop before the end and leave the rest to a later run."""
        return False


def run_steps(
    task: Task,
    run: Run,
    *,
    done: int | None,
    steps: int,
    evaluations: int,
    patience: int | None,
    save: Callable[[int], None],
    on_step: OnStep | None,
) -> int:
    """Train; the state with the best score is in the run. Return the step that was reached.

    Parameters
    ----------
    done : int or None
        The step of the checkpoint that the run goes on from.
    evaluations : int
        How often the held-out score is taken.
    patience : int or None
        Stop after so many evaluations without a better score; None never stops.
    save : callable
        Called with the step after each evaluation.
    on_step : callable or None
        Called as ``on_step(step, steps, loss)``.
    """
    every = max(1, steps // evaluations)
    stopped, terms = run.told.stopped, {}
    step = done or 0
    for step in range(done or 0, steps + 1):
        gone, warm = task.progress(step, steps)
        last = gone >= 1
        if step != done and (step % every == 0 or last):
            run.note(step, terms, task.look())
            stopped = Monitor.alarm(run.told.history)
            if not stopped:  # a state that it warns of is not kept
                run.rate(step, task.score())
                stopped = "" if last or patience is None else run.impatient(patience)
            run.told.stopped = stopped
            run.told.history[-1] |= task.costs()
            save(step)
        if last or stopped or task.late():
            break
        found = task.gradients(step)
        if not found:
            continue
        terms = found
        if not math.isfinite(terms["total"]):
            stopped = f"the loss is {terms['total']} at step {step}"
            break
        run.optimizer.descend(schedule(gone, warm))
        if on_step:
            on_step(step + 1, steps, terms["total"])
    run.told.stopped = stopped or (TIME_OVER if step < steps else "")
    return step
