"""What the default vector was worth on measured encoders and tasks, whose labels are known.

The table beside this file is made of benchmarks/results/wide.json by `benchmarks/wide.py --table`.
`estimate` looks up what the rows most like the user's data gained. How far such an estimate is
right for an encoder that is not in the table, `benchmarks/wide.py --calibration` measures: every
encoder is estimated from the rows of the others.
"""

from __future__ import annotations

import json
from collections import Counter
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
# Coefficient of variation of the tokens' norms. That of 15 trained encoders is 0.0026 and more:
# their layer norms have learned gains. Random weights give 0.00002, one-hot events 0.
_ONE_LENGTH = 5e-4
COVERED = 0.9  # share of the measured rows, by weight, between the ends of the range
_FEWEST = 5  # rows from which anything is estimated
# Of the figures of `describe` the intraclass correlation alone told more than nothing of the gain
# of an encoder that was left out (root mean square error 3.1 instead of 3.3 points; with length,
# dimension or norms beside it 3.2 to 3.4: benchmarks/LOG.md). Bandwidth in standard deviations.
_BANDWIDTH = 1.0
_BEYOND = 0.2  # from the nearest row: about the largest gap between two rows of the table


@dataclass(frozen=True)
class Estimate:
    """What data of the same kind gained over the native mean, the most similar weighted most.

    Attributes
    ----------
    gain : float
        Weighted average, in points of the mean of kNN, 10-shot, full and retrieval probes.
    low, high : float
        Weighted quantiles: a share of `COVERED` of the rows lies between them.
    chance : float
        Weighted share of the rows that gained anything.
    rows, encoders : int
        How many were measured.
    icc : float
        Intraclass correlation of the user's tokens, by which rows are weighted.
    average_icc : float
        That of the rows.
    beyond : bool
        Whether the user's tokens are more alike within a sequence, or less, than any measured ones.
    """

    gain: float
    low: float
    high: float
    chance: float
    rows: int
    encoders: int
    icc: float
    average_icc: float
    beyond: bool


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


def kind_of(data: Mapping[str, float], frames: bool) -> str:
    """Return which rows data are compared with.

    Parameters
    ----------
    data : mapping
        What `describe` says of them.
    frames : bool
        Whether they are frames of a signal, see `onevec.vector.parts.ready_frames`.

    Returns
    -------
    {"encoder", "frames", "one length"}
        "one length": all token vectors are equally long, as one-hot events are, and the states of
        an encoder with random weights. Of five rows of the latter two lost 4 and 7 points.
    """
    if frames:
        return "frames"
    return "one length" if data["norm_cv"] < _ONE_LENGTH else "encoder"


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """Return the measured rows and what made them."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {"made_by": {}, "rows": []}


def estimate(
    kind: str, data: Mapping[str, float], rows: Sequence[Mapping[str, Any]] | None = None
) -> Estimate | None:
    """Return what rows of a kind gained.

    A row counts by a Gaussian kernel in the intraclass correlation of its tokens. The n rows of an
    encoder, which resemble one another, count ``sqrt(n)`` together.

    Parameters
    ----------
    kind : {"encoder", "frames", "one length"}
        See `kind_of`.
    data : mapping
        What `describe` says of the data.
    rows : sequence of mapping, optional
        Measured rows: ``kind``, ``encoder``, ``task``, ``gain``, and what `describe` says; by
        default those of the table. None is returned where too few are of the kind.
    """
    known = [row for row in (table()["rows"] if rows is None else rows) if row["kind"] == kind]
    if len(known) < _FEWEST:
        return None
    sizes = Counter(row["encoder"] for row in known)
    gains = np.array([row["gain"] for row in known])
    icc = np.array([row["icc"] for row in known])
    spread = float(icc.std()) or 1.0
    apart = (icc - data["icc"]) / (_BANDWIDTH * spread)
    apart -= np.sign(apart) * np.abs(apart).min()  # beyond all rows, the last ones count
    weight = np.exp(-(apart**2) / 2) / np.sqrt([sizes[row["encoder"]] for row in known])
    weight /= weight.sum()
    low, high = _quantiles(gains, weight, (1 - COVERED) / 2, (1 + COVERED) / 2)
    return Estimate(
        gain=float(weight @ gains),
        low=low,
        high=high,
        chance=min(1.0, float(weight @ (gains > 0))),
        rows=len(known),
        encoders=len(sizes),
        icc=float(data["icc"]),
        average_icc=float(icc.mean()),
        beyond=bool(np.abs(icc - data["icc"]).min() > _BEYOND),
    )


def _quantiles(values: np.ndarray, weight: np.ndarray, *shares: float) -> list[float]:
    """Return weighted quantiles: each value stands in the middle of its share of the weight."""
    order = np.argsort(values)
    middle = np.cumsum(weight[order]) - weight[order] / 2
    return [float(each) for each in np.interp(shares, middle, values[order])]
