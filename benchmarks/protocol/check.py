"""Recompute three cells of quality.json, chosen by its commit."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from protocol import encoders, methods, runner, tasks
from protocol.producer import Context, score

TOLERANCE = {"plain": 0.1, "trivial": 0.1, "candidate": 0.1, "onevec": 1.0}
_METHODS = ("mean", "mean_whitened", "rich_whitened", "mean_half_whitened", "onevec_quick")
CELLS = 3


def check(path: Path, settings: runner.Settings) -> None:
    """Fail if the file is of another state of src/, or a cell comes out differently."""
    if not path.is_file():
        raise SystemExit(f"there is no {path}: run benchmarks/quality.py first")
    result = json.loads(path.read_text())
    state = result["state"]
    for name, folder in (("src_sha256", "src/onevec"), ("protocol_sha256", "benchmarks/protocol")):
        if state[name] != encoders.code_hash((folder,)):
            raise SystemExit(
                f"{path.name} was made at another state of {folder}/ (commit "
                f"{state['commit'][:12]}): run benchmarks/quality.py again"
            )
    settings = runner.Settings(settings.data, state["quick"], state["peer_budget_seconds"])
    wrong = 0
    for task, name in choose(result, settings):
        told = task["methods"][name]
        with tempfile.TemporaryDirectory() as folder:
            encoders.CACHE = Path(folder)
            found = recompute(task, name, settings)
        off = abs(found - told["score"])
        fine = off <= TOLERANCE[told["family"]]
        wrong += not fine
        word = "same" if fine else "DIFFERS"
        print(f"{word}: {name} on {task['name']}: {told['score']:.2f} in the file, {found:.2f} now")
    if wrong:
        raise SystemExit(f"{wrong} of {CELLS} cells differ from {path.name}")


def choose(result: dict[str, Any], settings: runner.Settings) -> list[tuple[dict[str, Any], str]]:
    """Pick cells by commit and content, among what needs no encoder but the committed ones."""
    commit = runner.state()["commit"]
    open_to_all = (*encoders.MAY_SHIP, "frames", *encoders.MINILM_LAYERS)
    cells = sorted(
        (
            (task, name)
            for task in result["tasks"]
            for name in _METHODS
            if name in task["methods"]
            and task["encoder"] in open_to_all
            and task["row"] != "newsgroups20"  # half an hour of encoding
            and _is_here(task, settings)
        ),
        key=lambda cell: hashlib.sha256(
            f"{commit} {result['macro']} {cell[0]['name']} {cell[1]}".encode()
        ).hexdigest(),
    )
    if len(cells) < CELLS:
        raise SystemExit(f"only {len(cells)} cells can be recomputed with {settings.data}")
    return cells[:CELLS]


def _is_here(task: dict[str, Any], settings: runner.Settings) -> bool:
    try:
        return any(unit.id == task["unit"] for unit in runner.units(task["row"], settings))
    except (tasks.MissingDataError, OSError):
        return False


def recompute(task: dict[str, Any], name: str, settings: runner.Settings) -> float:
    """Encode, fit and score a cell anew, all of its seeds; nothing kept is read."""
    unit = next(u for u in runner.units(task["row"], settings) if u.id == task["unit"])
    held = encoders.tokens(unit, task["encoder"], settings.data)
    context = Context(unit, task["encoder"], *held)
    family = task["methods"][name]["family"]
    producer = methods.producers()[name if family == "onevec" else family]
    fits = len(task["methods"][name].get("fits", [0]))
    scores = []
    for seed in range(fits):
        for result in producer.run(context, seed):
            if result.name == name:
                probes = score(result, unit)[task["target"]]
                scores.append(np.mean([probe.score() for probe in probes.values()]))
    return float(np.mean(scores))
