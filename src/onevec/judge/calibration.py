"""What the scores without labels were worth on data whose labels are known.

The table beside this file is made by `benchmarks/judge.py` from the train parts of the
benchmark's data sets, groups held out. A candidate's gain over the mean is taken to be normal,

    gain = intercept[candidate] + sum of weight[measure] x measure + noise,

where the intercept says how the candidate did elsewhere, and the measures what the data say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Of a candidate against the mean: how much evenlier its vectors lie; how much more rarely a half is
# less like its other half than a half of another sequence; how much more often pseudo-labels are
# guessed. The last two as logarithms of ratios, a little added to either side of each. Scaled so
# that 1 is a usual value, and cut off where more means nothing more. A mean that finds clusters
# lies unevenly, too, and must not be left for a candidate that has lost them (benchmarks/LOG.md).
_CUTS = {"uniformity": (-0.2, 3.0), "retrieval": (-2.0, 1.5), "pseudo_labels": (-4.0, 2.0)}
MEASURES = tuple(_CUTS)
_ADDED = {"retrieval": 0.01, "pseudo_labels": 0.02}
_EVENER, _FOUND = 0.1, 4.0  # the second in standard errors
_CLEARLY = 0.03  # of each measure: below that the order of the candidates knows better
FILE = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Calibration:
    """A fitted table.

    Attributes
    ----------
    intercepts : dict of str to float
        Mean gain of a candidate, by its name, in points, before the measures speak.
    other : float
        That of a candidate which is not in the table.
    weights : dict of str to float
        Points of gain for one unit of each measure.
    spread : float
        Standard deviation of what the table does not explain, in points.
    """

    intercepts: Mapping[str, float]
    other: float
    weights: Mapping[str, float]
    spread: float

    def expect(self, name: str, measures: Mapping[str, float]) -> tuple[float, float]:
        """Return a candidate's expected gain over the mean in points, and the chance of any."""
        gain = self.intercepts.get(name, self.other)
        gain += sum(weight * measures[measure] for measure, weight in self.weights.items())
        return gain, 0.5 * (1 + math.erf(gain / self.spread / math.sqrt(2)))


def measures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Scale what a candidate's row of the verdict says, for `Calibration.expect`."""
    missed = 1 - row["retrieval"], 1 - row["retrieval"] + row["retrieval_gain"]
    guessed = row["pseudo_labels"], row["pseudo_labels"] - row["pseudo_labels_gain"]
    found = {
        "uniformity": row["uniformity_gain"],
        "retrieval": -_log_ratio(*missed, _ADDED["retrieval"]),
        "pseudo_labels": 4 * _log_ratio(*guessed, _ADDED["pseudo_labels"]),
    }
    return {name: float(np.clip(value, *_CUTS[name])) for name, value in found.items()}


def _log_ratio(ours: float, means: float, added: float) -> float:
    return math.log((ours + added) / (means + added))


def speaks(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the data themselves say anything for one of the candidates.

    What it gained elsewhere is no reason: on pure noise it is all there is. Nor is evenness alone:
    noise whose features differ in scale lies more evenly once they are whitened. It counts where
    any candidate tells halves apart, be it that those of one sequence are surely unlike.
    """
    evener = row["uniformity_gain"] >= _EVENER
    return row["retrieval_z"] >= _FOUND or (
        evener and any(abs(each["found_z"]) >= _FOUND for each in rows)
    )


def beside_the_mean(row: Mapping[str, Any]) -> bool:
    """Whether something tells sequences apart that is not in their means."""
    return row["spread_z"] >= _FOUND


def outdone(row: Mapping[str, Any], by: Mapping[str, Any]) -> bool:
    """Whether another candidate has every measure clearly better."""
    ours, theirs = measures_of(row), measures_of(by)
    return all(theirs[name] >= ours[name] + _CLEARLY for name in ours)


_current: list[Calibration] = []


def calibration() -> Calibration:
    """Return the table in use."""
    if not _current:
        _current.append(Calibration(**json.loads(FILE.read_text())["table"]))
    return _current[-1]


@contextmanager
def use(other: Calibration) -> Iterator[None]:
    """Judge by another table for a while, such as one that has not seen a data set."""
    _current.append(other)
    try:
        yield
    finally:
        _current.remove(other)
