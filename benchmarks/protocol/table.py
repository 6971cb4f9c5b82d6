"""From fits to figures: cells, macro averages, paired intervals over the native mean.

A *task* is one target of one unit under one encoder. Macro: tasks of one group inside a row are
averaged first, then the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocol import encoders

REFERENCE = "mean"  # native: every gain is over it


@dataclass(frozen=True)
class Task:
    """One target of one unit under one encoder."""

    row: str
    unit: str
    encoder: str
    target: str
    kind: str
    counted: bool

    @property
    def group(self) -> str:
        return encoders.group(self.encoder)

    @property
    def label(self) -> str:
        """The target less the part of the test set that it is scored on."""
        return self.target.removesuffix(" test").removesuffix(" hard")

    @property
    def name(self) -> str:
        return f"{self.unit}, {self.encoder}, {self.target}"


@dataclass
class Cell:
    """A method on a task: its fits, and their bootstrap resamples, averaged."""

    fits: list[dict[str, Any]] = field(default_factory=list)
    resamples: list[np.ndarray] = field(default_factory=list)

    @property
    def score(self) -> float:
        return float(np.mean([np.mean(list(fit["probes"].values())) for fit in self.fits]))

    def probe(self, name: str) -> float:
        return float(np.mean([fit["probes"][name] for fit in self.fits]))

    @property
    def resampled(self) -> np.ndarray:
        return np.mean(self.resamples, axis=0)


class Table:
    """All cells, by task and method."""

    def __init__(self) -> None:
        self.cells: dict[Task, dict[str, Cell]] = {}
        self.families: dict[str, str] = {}

    def add(
        self, task: Task, method: str, family: str, fit: dict[str, Any], resampled: np.ndarray
    ) -> None:
        cell = self.cells.setdefault(task, {}).setdefault(method, Cell())
        self.families[method] = family
        cell.fits.append(fit)
        cell.resamples.append(resampled)

    def tasks(self, group: str, *methods: str) -> list[Task]:
        """Counted tasks of a group on which all these methods ran."""
        return [
            task
            for task, cells in self.cells.items()
            if task.counted and task.group == group and all(method in cells for method in methods)
        ]

    def gain(self, task: Task, method: str) -> tuple[float, float, float]:
        """Gain over the mean with its 95 % interval."""
        ours, mean = self.cells[task][method], self.cells[task][REFERENCE]
        low, high = np.quantile(ours.resampled - mean.resampled, [0.025, 0.975])
        return ours.score - mean.score, float(low), float(high)

    def macro(self, method: str, group: str) -> dict[str, Any] | None:
        """Macro score, and gain over the mean with its interval; None where no task has both."""
        tasks = self.tasks(group, method, REFERENCE)
        if not tasks:
            return None
        cells = {task: (self.cells[task][method], self.cells[task][REFERENCE]) for task in tasks}
        gain = macro((t, ours.score - mean.score) for t, (ours, mean) in cells.items())
        drawn = macro((t, ours.resampled - mean.resampled) for t, (ours, mean) in cells.items())
        return {
            "score": round(macro((t, ours.score) for t, (ours, _) in cells.items()), 2),
            "gain": round(gain, 2),
            "interval": [round(float(end), 2) for end in np.quantile(drawn, [0.025, 0.975])],
            "rows": len({task.row for task in tasks}),
            "tasks": len(tasks),
        }


def macro(pairs: Iterable[tuple[Task, Any]]) -> Any:
    """Average within each row (parts of a test set, then labels, sets, encoders), then rows."""
    level = [((t.row, t.encoder, t.unit, t.label, t.target), value) for t, value in pairs]
    while level[0][0]:
        groups: dict[tuple[str, ...], list[Any]] = {}
        for path, value in level:
            groups.setdefault(path[:-1], []).append(value)
        level = [(path, np.mean(values, axis=0)) for path, values in groups.items()]
    return level[0][1] if np.ndim(level[0][1]) else float(level[0][1])
