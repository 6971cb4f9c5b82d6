"""From cells to figures: macro averages, paired intervals, and the goals Q1 to Q6.

A *task* is one target of one unit under one encoder. Macro: tasks of one group inside a row are
averaged first, then the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from onevec.judge.verdict import SURE
from onevec.reduction import MEAN_PCA
from protocol import encoders
from protocol.encoders import FRAMES, RAW, TUNED

OURS = "onevec_quick"  # `OneVec(dim=64).fit(tokens)`, nothing else set
TRIVIAL = ("mean_pca", "mean_half_whitened", "mean_whitened", "rich_whitened", "borep")
SATURATED = 97.0


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
    def column(self) -> tuple[str, str]:
        return self.unit, self.encoder

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

    def probe(self, name: str) -> float | None:
        values = [fit["probes"][name] for fit in self.fits if name in fit["probes"]]
        return float(np.mean(values)) if values else None

    @property
    def resampled(self) -> np.ndarray:
        return np.mean(self.resamples, axis=0)


class Table:
    """All cells, by task and method, and what the verdict says of the candidates."""

    def __init__(self) -> None:
        self.cells: dict[Task, dict[str, Cell]] = {}
        self.families: dict[str, str] = {}
        self.judged: dict[tuple[str, str], dict[str, Any]] = {}  # by column

    def add(
        self, task: Task, method: str, family: str, fit: dict[str, Any], resampled: np.ndarray
    ) -> None:
        cell = self.cells.setdefault(task, {}).setdefault(method, Cell())
        self.families[method] = family
        cell.fits.append(fit)
        cell.resamples.append(resampled)

    def tasks(self, group: str | None = None, *methods: str) -> list[Task]:
        """Counted tasks of a group (default all) on which all these methods ran."""
        return [
            task
            for task, cells in self.cells.items()
            if task.counted
            and (group is None or task.group == group)
            and all(method in cells for method in methods)
        ]

    def methods(self, family: str) -> list[str]:
        return [name for name, its in self.families.items() if its == family]

    def score(self, task: Task, method: str) -> float:
        return self.cells[task][method].score

    def gain(self, task: Task, method: str, base: str) -> tuple[float, float, float]:
        """Gain over another method with its 95 % interval."""
        ours, theirs = self.cells[task][method], self.cells[task][base]
        low, high = np.quantile(ours.resampled - theirs.resampled, [0.025, 0.975])
        return ours.score - theirs.score, float(low), float(high)

    def macro(self, method: str, base: str, group: str) -> dict[str, Any] | None:
        """Macro gain over another method with its interval; None where no task has both."""
        tasks = self.tasks(group, method, base)
        if not tasks:
            return None
        gains = by_row((t, self.score(t, method) - self.score(t, base)) for t in tasks)
        drawn = by_row(
            (t, self.cells[t][method].resampled - self.cells[t][base].resampled) for t in tasks
        )
        low, high = np.quantile(np.mean(list(drawn.values()), axis=0), [0.025, 0.975])
        return {
            "value": round(_mean_of_rows(gains), 2),
            "interval": [round(float(low), 2), round(float(high), 2)],
            "rows": len(gains),
            "tasks": len(tasks),
        }

    def macro_score(self, method: str, group: str) -> float | None:
        tasks = self.tasks(group, method)
        found = by_row((task, self.score(task, method)) for task in tasks)
        return _mean_of_rows(found) if found else None


def by_row(pairs: Iterable[tuple[Task, Any]]) -> dict[str, Any]:
    """Average within each row: parts of a test set, then labels, sets, encoders."""
    level = [((t.row, t.encoder, t.unit, t.label, t.target), value) for t, value in pairs]
    while level and len(level[0][0]) > 1:
        groups: dict[tuple[str, ...], list[Any]] = {}
        for path, value in level:
            groups.setdefault(path[:-1], []).append(value)
        level = [(path, np.mean(values, axis=0)) for path, values in groups.items()]
    return {path[0]: value for path, value in level}


def _mean_of_rows(rows: dict[str, Any]) -> float:
    return float(np.mean(list(rows.values())))


def goals(table: Table, whole: bool = True) -> dict[str, dict[str, Any]]:
    """Q1 to Q6 with value, goal and whether it is met.

    ``met`` is None where cells are not there yet, or the table is not the whole benchmark.
    """
    found = {
        "Q1": _gain_over_mean(table),
        "Q2": _gain_over_trivial(table),
        "Q3": _harm(table),
        "Q4": _share_of_supervised(table),
        "Q5": _peers(table),
        "Q6": _verdict(table),
    }
    return found if whole else {name: goal | {"met": None} for name, goal in found.items()}


def _entry(
    what: str,
    *figures: tuple[float | None, float, float],
    detail: dict[str, Any],
    at_most: Sequence[int] = (),
) -> dict[str, Any]:
    """One goal of (value, floor, goal) triples; those numbered in ``at_most`` are upper limits."""
    values, floors, wanted = zip(*figures, strict=True)
    met = None
    if None not in values:
        met = all(
            value <= goal if place in at_most else value >= goal
            for place, (value, goal) in enumerate(zip(values, wanted, strict=True))
        )
    return {
        "what": what,
        "value": [None if value is None else round(value, 2) for value in values],
        "floor": list(floors),
        "goal": list(wanted),
        "met": met,
        "detail": detail,
    }


def _gain_over_mean(table: Table) -> dict[str, Any]:
    raw, frames = (table.macro(OURS, "mean", group) for group in (RAW, FRAMES))
    return _entry(
        "macro gain over the native mean: raw encoders; raw frames",
        (raw and raw["value"], 8, 20),
        (frames and frames["value"], 15, 35),
        detail={
            "raw encoders": raw,
            "raw frames": frames,
            "raw encoders, over the centred mean": table.macro(OURS, "mean_centred", RAW),
            "tuned encoder": table.macro(OURS, "mean", TUNED),
        },
    )


def _gain_over_trivial(table: Table) -> dict[str, Any]:
    scores = {name: table.macro_score(name, RAW) for name in TRIVIAL}
    known = {name: value for name, value in scores.items() if value is not None}
    strongest = max(known, key=lambda name: known[name]) if known else None
    gain = strongest and table.macro(OURS, strongest, RAW)
    not_lost = [
        table.gain(task, OURS, name)[2] >= 0
        for name in known
        for task in table.tasks(RAW, OURS, name)
    ]
    return _entry(
        "macro gain over the strongest trivial baseline; % of tasks x trivial baselines "
        "not significantly lost",
        (gain and gain["value"], 3, 6),
        (_percent(not_lost), 85, 95),
        detail={"strongest": strongest, "gain": gain, "macro scores": known},
    )


def _harm(table: Table) -> dict[str, Any]:
    found = []
    for task in table.tasks(None, OURS, "mean"):
        gain, _, high = table.gain(task, OURS, "mean")
        found.append((gain, high, task.name))
    harmed = sorted(
        (round(gain, 2), name) for gain, high, name in found if gain < -0.5 and high < 0
    )
    worst = min(found, default=(None, None, None))
    return _entry(
        "tasks of all groups surely worse than the mean by more than 0.5; worst estimate",
        (len(harmed) if found else None, 3, 0),
        (worst[0], -3, -0.5),
        at_most=(0,),
        detail={"harmed": harmed, "worst": worst[2], "tasks": len(found)},
    )


def _share_of_supervised(table: Table) -> dict[str, Any]:
    gains, gaps, shares = 0.0, 0.0, []
    for task in table.tasks(RAW, OURS, "mean", "attention_probe"):
        ours, mean, best = (
            table.cells[task][name].probe("full") for name in (OURS, "mean", "attention_probe")
        )
        if ours is None or mean is None or best is None or best - mean < 2:
            continue
        share = float(np.clip((ours - mean) / (best - mean), -1, 1))
        shares.append((round(share, 2), task.name))
        gains += share * (best - mean)
        gaps += best - mean
    return _entry(
        "% of the supervised attention probe's gain over the mean (full probe)",
        (100 * gains / gaps if gaps else None, 30, 60),
        detail={"tasks": sorted(shares)},
    )


def _peers(table: Table) -> dict[str, Any]:
    ahead, losses, wins = {}, [], []
    peers = table.methods("peer")
    for peer in peers:
        macro = table.macro(OURS, peer, RAW)
        if macro is None:
            continue
        ahead[peer] = macro["value"]
        for task in table.tasks(RAW, OURS, peer):
            cells = table.cells[task]
            _, low, high = table.gain(task, OURS, peer)
            losses.append(high < 0)
            if max(cells[name].score for name in (OURS, *peers) if name in cells) < SATURATED:
                wins.append(low > 0)
    return _entry(
        "least macro gain over a peer; % significant losses; % significant wins on "
        "unsaturated tasks",
        (min(ahead.values(), default=None), 0, 3),
        (_percent(losses), 5, 0),
        (_percent(wins), 50, 80),
        at_most=(1,),
        detail={
            "ahead of": dict(sorted(ahead.items(), key=lambda entry: entry[1])),
            "pairs": len(losses),
            "pairs if every peer ran": len(peers) * len(table.tasks(RAW, OURS)),
        },
    )


def _verdict(table: Table) -> dict[str, Any]:
    taus, regrets = [], []
    taken, claims = [], []  # whether wrongly; a claim says "beats", not only "probably beats"
    candidates = table.methods("candidate")
    mean = f"candidate: {MEAN_PCA.name}"
    columns: dict[tuple[str, str], list[Task]] = {}
    for task in table.tasks(RAW, *candidates[:1]):
        columns.setdefault(task.column, []).append(task)
    for tasks in columns.values():
        cells = table.cells[tasks[0]]
        names = [name for name in candidates if name in cells]
        note = table.judged.get(tasks[0].column)
        if note is None or not {note["choice"], mean} <= cells.keys():
            continue
        known = {name: note["says"][name] for name in names if name in note["says"]}
        says = {name: entry["expected_gain"] for name, entry in known.items()}
        scores = {
            name: float(np.mean([table.score(task, name) for task in tasks])) for name in names
        }
        if len(says) > 2:
            tau = kendalltau([says[name] for name in says], [scores[name] for name in says])
            taus.append((tasks[0], 0.0 if np.isnan(tau.statistic) else float(tau.statistic)))
        chosen = note["choice"]
        regrets.append((tasks[0], max(scores.values()) - scores[chosen]))
        if note["beats_mean"]:
            taken.append(scores[chosen] <= scores[mean])
            if known[chosen]["probability"] >= SURE:
                claims.append(taken[-1])
    judged = bool(taus and regrets)
    return _entry(
        "verdict over the fixed candidate list: Kendall's tau with the labelled score; "
        "regret in points; % false claims to beat the mean",
        (_mean_of_rows(by_row(taus)) if judged else None, 0.45, 0.7),
        (_mean_of_rows(by_row(regrets)) if judged else None, 2, 1),
        ((_percent(claims) or 0.0) if judged else None, 5, 2),
        at_most=(1, 2),
        detail={
            "false claims": int(np.sum(claims)),
            "claims": len(claims),
            "taken over the mean, not better": int(np.sum(taken)),
            "taken over the mean": len(taken),
            "columns": len(columns),
        },
    )


def _percent(holds: Sequence[bool]) -> float | None:
    return 100 * float(np.mean(holds)) if holds else None
