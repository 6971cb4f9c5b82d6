"""The state of a run: what it has told, its best, and the file from which it goes on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from onevec.objectives import Objective
from onevec.train import checkpoint
from onevec.train.head import Head, World
from onevec.train.settings import Trained


class Run:
    """A run between its steps.

    Attributes
    ----------
    told : Trained
        What is said of it.
    best : dict of str to Tensor
        State of the poolers at the best score so far.
    """

    def __init__(
        self, head: Head, objective: Objective, optimizer: torch.optim.Optimizer, told: Trained
    ):
        self.head, self.objective, self.optimizer, self.told = head, objective, optimizer, told
        self.best = self._poolers()

    def _poolers(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.head.poolers.state_dict().items()}

    def note(self, step: int, terms: dict[str, float], seen: dict[str, float]) -> None:
        """Write down what was seen at a step."""
        self.told.history.append({"step": step, **seen, "terms": terms})

    def rate(self, step: int, score: float) -> None:
        """Keep the state if none before scored higher."""
        told = self.told
        told.history[-1]["score"] = score
        if len(told.history) == 1:
            told.start_score = told.score = score
        elif score > told.score:
            told.score, told.best_step, self.best = score, step, self._poolers()

    def impatient(self, patience: int) -> str:
        """Say so when the score has not risen for ``patience`` evaluations."""
        told = self.told
        since = sum(entry["step"] > told.best_step for entry in told.history)
        return f"{since} evaluations in a row brought no better score" if since >= patience else ""

    def conclude(self, steps: int, seconds: float) -> None:
        """Put the poolers back to their best state, and say what was done in one sentence."""
        self.head.poolers.load_state_dict(self.best)
        told = self.told
        told.steps, told.seconds = steps, round(seconds, 1)
        stopped = f"; stopped because {told.stopped}" if told.stopped else ""
        if told.best_step:
            digits = 3 if abs(told.score - told.start_score) >= 0.001 else 6
            told.sentence = (
                f"Training raised the held-out score from {told.start_score:.{digits}f} to "
                f"{told.score:.{digits}f} (step {told.best_step} of {steps}{stopped})."
            )
        else:
            told.sentence = (
                f"Training did not help: no state scored above the start, which is kept "
                f"({told.start_score:.3f}, {steps} steps{stopped})."
            )
        if told.left_out:
            told.sentence += f" {told.left_out} sequences were too short for two views."

    # --- the file ---

    def save(self, path: str | Path | None, identity: str, step: int, world: World) -> None:
        """Write everything that the next step depends on; the file appears whole."""
        if path is None or world.rank > 0:
            return
        about = {"identity": identity, "step": step, "told": asdict(self.told)}
        parts = {
            "head": self.head.state_dict(),
            "objective": self.objective.state_dict(),
            "best": self.best,
            **checkpoint.optimizer_parts(self.optimizer),
        }
        checkpoint.write(path, parts, about)

    def resume(self, path: str | Path | None, identity: str, world: World) -> int | None:
        """Take the state of a file over; return its step, None if there is no file.

        The first process reads it for all.
        """
        file = None if path is None or world.rank > 0 else Path(path)
        content = world.share(file.read_bytes() if file and file.exists() else b"")
        if not content:
            return None
        parts, about = checkpoint.read(path, content, identity)
        self.head.load_state_dict(parts["head"])
        self.objective.load_state_dict(parts.get("objective", {}))
        self.best = parts["best"]
        checkpoint.restore_optimizer(self.optimizer, parts)
        self.told.__dict__.update(about["told"])
        return about["step"]
