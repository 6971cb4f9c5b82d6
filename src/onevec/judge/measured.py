"""What the default vector was worth on measured encoders and tasks, whose labels are known.

The table beside this file is made of benchmarks/results/wide.json by `benchmarks/wide.py --table`.
A range of measured gains is no model: if the new data are like any one of those measured, their
gain lies in the range with the probability that `gain_range` says (order statistics: Wilks 1941,
"Determination of sample sizes for setting tolerance limits").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onevec.ragged import Ragged
from onevec.segment import segment_mean

FILE = Path(__file__).with_name("measured.json")
COVERED = 0.9  # of measured rows, where there are enough of them; fewer cover less
_FEWEST = 5  # rows from which a range is said
# What tells which measured row is nearest, on scales on which rows lie about as far apart.
_SCALES = {
    "dim": math.log,
    "length": math.log,
    "icc": float,
    "norm_cv": lambda v: math.log(v + 0.01),
}


@dataclass(frozen=True)
class Range:
    """Gains over the native mean that were measured on data of the same kind.

    Attributes
    ----------
    gain : float
        Their average, in points of the mean of kNN, 10-shot, full and retrieval probes.
    low, high : float
        The range that holds a share of ``covered`` of further rows like them.
    covered : float
        That share.
    rows, encoders : int
        How many were measured; each encoder's rows count as much as one another's.
    left_out : str
        The encoder nearest to the data, which does not count: nothing is judged by itself.
    """

    gain: float
    low: float
    high: float
    covered: float
    rows: int
    encoders: int
    left_out: str


def describe(sample: Ragged) -> dict[str, float]:
    """Return what is known of token vectors without labels.

    Parameters
    ----------
    sample : Ragged
        Some of the sequences.

    Returns
    -------
    dict
        ``dim``; ``length``, the mean number of tokens; ``icc``, the intraclass correlation of
        tokens (one-way random effects, Donner 1986, averaged over the features that vary);
        ``norm_cv``, the coefficient of variation of the tokens' norms.
    """
    values, n = sample.values.double(), sample.lengths.double()
    norms = values.norm(dim=1)
    groups, count = len(n), float(n.sum())
    found = {
        "dim": float(sample.dim),
        "length": count / groups,
        "icc": 0.0,
        "norm_cv": float(norms.std(correction=0) / norms.mean().clamp(min=1e-300)),
    }
    if not 1 < groups < count:
        return found
    means = segment_mean(values, sample.lengths)
    inside = (values - means.repeat_interleave(sample.lengths, 0)).square().sum(0)
    inside = inside / (count - groups)
    between = (n[:, None] * (means - values.mean(0)).square()).sum(0) / (groups - 1)
    size = (count - float((n**2).sum()) / count) / (groups - 1)
    total = between + (size - 1) * inside
    varies = (between + inside > 0) & (total > 0)
    if bool(varies.any()):
        found["icc"] = float(((between - inside) / torch.where(varies, total, 1.0))[varies].mean())
    return found


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """Return the measured rows and what made them."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {"made_by": {}, "rows": []}


def gain_range(
    kind: str, data: Mapping[str, float], rows: Sequence[Mapping[str, Any]] | None = None
) -> Range | None:
    """Return what rows of a kind gained, the encoder nearest to the data left out.

    Parameters
    ----------
    kind : {"encoder", "frames"}
        States of an encoder, or ready frames.
    data : mapping
        What `describe` says of the data.
    rows : sequence of mapping, optional
        Measured rows: ``kind``, ``encoder``, ``task``, ``gain``, and what `describe` says; by
        default those of the table. None is returned where too few are of the kind.
    """
    known = [row for row in (table()["rows"] if rows is None else rows) if row["kind"] == kind]
    if not known:
        return None
    nearest = min(known, key=lambda row: _distance(row, data, known))["encoder"]
    left = [row for row in known if row["encoder"] != nearest]
    if len(left) < _FEWEST:
        return None
    gains = np.sort([row["gain"] for row in left])
    drop = int((1 - COVERED) * (len(gains) + 1) / 2 + 1e-9)  # so many beyond either end
    drop = max(drop, 1)
    return Range(
        gain=float(gains.mean()),
        low=float(gains[drop - 1]),
        high=float(gains[-drop]),
        covered=(len(gains) + 1 - 2 * drop) / (len(gains) + 1),
        rows=len(gains),
        encoders=len({row["encoder"] for row in left}),
        left_out=nearest,
    )


def _distance(
    row: Mapping[str, Any], data: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
) -> float:
    total = 0.0
    for name, scale in _SCALES.items():
        spread = float(np.std([scale(each[name]) for each in rows])) or 1.0
        total += ((scale(row[name]) - scale(data[name])) / spread) ** 2
    return total
