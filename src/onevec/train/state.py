"""The state of a run: what it has told, its best, and the file from which it goes on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from onevec.train import checkpoint
from onevec.train.optimizer import ScheduledAdamW
from onevec.train.settings import Trained
from onevec.train.world import World


class Run:
    """A run between its steps.

    Parameters
    ----------
    model : nn.Module
        What is trained, besides the objective.
    kept : nn.Module
        What of it outlives the training: the model itself, or a part of it.

    Attributes
    ----------
    told : Trained
        What is said of the run.
    best : dict of str to Tensor
        State of ``kept`` at the best score so far.
    """

    def __init__(
        self,
        model: nn.Module,
        kept: nn.Module,
        objective: nn.Module,
        optimizer: ScheduledAdamW,
        told: Trained,
    ):
        self.model, self.kept, self.objective = model, kept, objective
        self.optimizer, self.told = optimizer, told
        self.best = self.state()

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the state of what is kept."""
        return {k: v.detach().clone() for k, v in self.kept.state_dict().items()}

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
            told.score, told.best_step, self.best = score, step, self.state()

    def impatient(self, patience: int) -> str:
        """Say so when the score has not risen for ``patience`` evaluations."""
        told = self.told
        since = sum(entry["step"] > told.best_step for entry in told.history)
        return f"{since} evaluations in a row brought no better score" if since >= patience else ""

    def conclude(self, steps: int, seconds: float) -> None:
        """Go back to the best state, and say what was done in one sentence."""
        self.kept.load_state_dict(self.best)
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
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "best": self.best,
            **checkpoint.optimizer_parts(self.optimizer),
        }
        checkpoint.write(path, parts, about)

    def resume(self, path: str | Path | None, identity: str, world: World) -> int | None:
        """Take the state of a file over; return its step, None if there is no file."""
        found = checkpoint.read(path, identity, world)
        if found is None:
            return None
        parts, about = found
        self.model.load_state_dict(parts["model"])
        self.objective.load_state_dict(parts.get("objective", {}))
        self.best = parts["best"]
        checkpoint.restore_optimizer(self.optimizer, parts)
        self.told.__dict__.update(about["told"])
        return about["step"]
