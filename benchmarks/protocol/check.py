"""How far a few cells of the results files lie from what the present code makes of them: a report.

A file speaks of the version that made it, so a difference is news, not an error.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protocol import encoders, made_by, methods, runner, tasks
from protocol.producer import Context, score

CELLS = 3
METHODS = (*methods.OURS, "mean_whitened", "rich_whitened", "mean_half_whitened")
CLOSED_FORM, STOCHASTIC = 0.1, 1.0  # points that are no news


def check(results: Sequence[dict[str, Any]], settings: runner.Settings) -> None:
    """Recompute cells of some results files, and print how far they lie from them."""
    cells = choose(results, settings)
    if not cells:
        raise SystemExit(f"no cell can be recomputed with {settings.data}")
    for task, name, made in cells:
        held = task["methods"][name]
        found = recompute(task, name, settings)
        off = abs(found - held["score"])
        near = off <= (STOCHASTIC if "fits" in held else CLOSED_FORM)
        print(
            f"{'same' if near else 'differs'}: {name} on {task['name']}: {held['score']:.2f} "
            f"by onevec {made['onevec']} at {made['commit'][:12]}, {found:.2f} now ({off:.2f})",
            flush=True,
        )


def choose(
    results: Sequence[dict[str, Any]], settings: runner.Settings
) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Other cells for each commit, among what needs no encoder but the committed ones."""
    open_to_all = (*encoders.MAY_SHIP, "frames", *encoders.MINILM_LAYERS)
    commit = made_by.made_by()["commit"]
    cells = [
        (task, name, result["made_by"])
        for result in results
        for task in result["tasks"]
        for name in METHODS
        if name in task["methods"]
        and task["encoder"] in open_to_all
        and task["row"] != "newsgroups20"  # half an hour of encoding
        and _is_here(task, settings)
    ]

    def drawn(cell: tuple[dict[str, Any], str, dict[str, Any]]) -> str:
        return hashlib.sha256(f"{commit} {cell[0]['name']} {cell[1]}".encode()).hexdigest()

    return sorted(cells, key=drawn)[:CELLS]


def _is_here(task: dict[str, Any], settings: runner.Settings) -> bool:
    try:
        return any(unit.id == task["unit"] for unit in runner.units(task["row"], settings))
    except (tasks.MissingDataError, OSError):
        return False


def recompute(task: dict[str, Any], name: str, settings: runner.Settings) -> float:
    """Encode, fit and score a cell anew, all of its seeds; nothing cached is read."""
    unit = next(u for u in runner.units(task["row"], settings) if u.id == task["unit"])
    producer = methods.producers()[name if name in methods.OURS else "trivial"]
    scores = []
    cache = encoders.CACHE
    with tempfile.TemporaryDirectory() as folder:
        encoders.CACHE = Path(folder)
        try:
            held = encoders.tokens(unit, task["encoder"], settings.data)
        finally:
            encoders.CACHE = cache
        context = Context(unit, task["encoder"], *held)
        for seed in range(len(task["methods"][name].get("fits", [0]))):
            for result in producer.run(context, seed):
                if result.name == name:
                    probes = score(result, unit)[task["target"]]
                    scores.append(np.mean([probe.score() for probe in probes.values()]))
    return float(np.mean(scores))
