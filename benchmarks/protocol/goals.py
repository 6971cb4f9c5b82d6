"""The goals that these rows can show: gain (Q1, Q2), harm (Q3), peers (Q5).

Baselines are read from a file that has no resamples, so a gain over one of them is the difference
of two gains over the mean. Its interval adds both widths as if they were independent: too wide
where both methods win and lose on the same items, hence careful in what it calls sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocol.encoders import FRAMES, RAW, SMALL
from protocol.producer import DIM
from protocol.table import Task, macro

WHOLE, SHORT = "onevec", f"onevec_{DIM}"
HARM = -0.5  # points
SATURATED = 97.0

Methods = dict[str, dict[str, Any]]


def task_of(entry: dict[str, Any]) -> Task:
    return Task(*(entry[name] for name in ("row", "unit", "encoder", "target", "kind", "counted")))


def goals(result: dict[str, Any], whole: bool = True) -> dict[str, dict[str, Any]]:
    """Q1, Q2, Q3 and Q5 with value, goal and whether it is met.

    ``met`` is None where cells are not there yet, or the table is not the whole benchmark.
    """
    tasks = {task_of(entry): entry["methods"] for entry in result["tasks"] if entry["counted"]}
    found = {
        "Q1": _gain(result["macro"]),
        "Q2": _gain_at_64(result["macro"], tasks),
        "Q3": _harm(tasks),
        "Q5": _peers(tasks),
    }
    return found if whole else {name: goal | {"met": None} for name, goal in found.items()}


def _entry(
    what: str,
    *figures: tuple[float | None, float],
    at_most: Sequence[int] = (),
    detail: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One goal of (value, goal) pairs; those numbered in ``at_most`` are upper limits."""
    values, wanted = zip(*figures, strict=True)
    met = None
    if None not in values:
        met = all(
            value <= goal if place in at_most else value >= goal
            for place, (value, goal) in enumerate(zip(values, wanted, strict=True))
        )
    shown = [None if value is None else round(value, 2) for value in values]
    return {"what": what, "value": shown, "goal": list(wanted), "met": met, "detail": detail or {}}


def _gain(found: dict[str, Any]) -> dict[str, Any]:
    return _entry(
        "macro gain over the native mean: small encoders; raw frames",
        *zip(_over_mean(found, WHOLE), (10, 34), strict=True),
    )


def _over_mean(found: dict[str, Any], method: str) -> list[float | None]:
    return [found.get(method, {}).get(group, {}).get("gain") for group in (SMALL, FRAMES)]


def _gain_at_64(found: dict[str, Any], tasks: dict[Task, Methods]) -> dict[str, Any]:
    raw = {task: rows for task, rows in tasks.items() if task.group in RAW and SHORT in rows}
    trivial: dict[str, list[Task]] = {}
    for task, rows in raw.items():
        for name, row in rows.items():
            if row["family"] == "trivial":
                trivial.setdefault(name, []).append(task)
    scores = {n: macro((t, raw[t][n]["score"]) for t in its) for n, its in trivial.items()}
    strongest = max(scores, key=lambda name: scores[name], default=None)
    gain = strongest and macro(
        (t, raw[t][SHORT]["score"] - raw[t][strongest]["score"]) for t in trivial[strongest]
    )
    return _entry(
        f"the same at {DIM}; over the strongest trivial baseline, raw encoders",
        *zip([*_over_mean(found, SHORT), gain], (6, 28, 4), strict=True),
        detail={"strongest": strongest},
    )


def _harm(tasks: dict[Task, Methods]) -> dict[str, Any]:
    harmed: dict[str, list[str]] = {}
    known = {}
    for method in (WHOLE, SHORT):
        gains = {task.name: rows[method] for task, rows in tasks.items() if method in rows}
        known[method] = gains
        harmed[method] = [
            name for name, row in gains.items() if row["gain"] < HARM and row["interval"][1] < 0
        ]
    whole, short = known[WHOLE], known[SHORT]
    return _entry(
        "tasks of all groups surely worse than the mean by more than 0.5; worst estimate; "
        f"% of tasks at {DIM}",
        (len(harmed[WHOLE]) if whole else None, 0),
        (min((row["gain"] for row in whole.values()), default=None), HARM),
        (100 * len(harmed[SHORT]) / len(short) if short else None, 5),
        at_most=(0, 2),
        detail=harmed,
    )


def _peers(tasks: dict[Task, Methods]) -> dict[str, Any]:
    gains: dict[str, list[tuple[Task, float]]] = {}
    losses, wins = [], []
    for task, rows in tasks.items():
        if task.group not in RAW or SHORT not in rows:
            continue
        peers = [name for name, row in rows.items() if row["family"] == "peer"]
        best = max(row["score"] for name, row in rows.items() if name in (SHORT, *peers))
        for peer in peers:
            gain, low, high = difference(rows[SHORT], rows[peer])
            gains.setdefault(peer, []).append((task, gain))
            losses.append(high < 0)
            if best < SATURATED:
                wins.append(low > 0)
    ahead = {peer: round(macro(its), 2) for peer, its in gains.items()}
    return _entry(
        f"at {DIM}, raw encoders: least macro gain over a peer; % significant losses; "
        "% significant wins on unsaturated tasks",
        (min(ahead.values(), default=None), 4),
        (_percent(losses), 0),
        (_percent(wins), 80),
        at_most=(1,),
        detail={"ahead of": dict(sorted(ahead.items(), key=lambda entry: entry[1]))},
    )


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float, float]:
    """Gain of one method over another, with a careful 95 % interval."""
    gain = ours["score"] - theirs["score"]
    below, above = (
        [abs(row["interval"][end] - row["gain"]) for row in (ours, theirs)] for end in (0, 1)
    )
    low = np.hypot(below[0], above[1])
    high = np.hypot(above[0], below[1])
    return gain, gain - float(low), gain + float(high)


def _percent(holds: Sequence[bool]) -> float | None:
    return 100 * float(np.mean(holds)) if holds else None
