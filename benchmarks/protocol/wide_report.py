"""Tables of the wide vector, and what of its goals is reached; every number is from wide.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from protocol.made_by import line
from protocol.published import STACKS
from protocol.wide import GROUPS, frame_rows
from protocol.wide_probes import PROBES, PROTOCOL

DEFAULT, TWO, MEAN = "default", "two layers", "mean"
STS_LAST = "minilm, stsb, last layer"
TYPED = PROBES[1:]
AVERAGE, AVERAGE_TWO, WORST = 4.5, 6.8, -0.5  # points over the native mean
FRAMES_BEFORE = 20.7  # the default of 0.1.0, 64 dimensions, on the same rows of frames
LEAST = -1.0  # on every row, by each probe
DESCRIPTORS = {
    "dim": "dim",
    "sequences": "sequences",
    "length": "tokens each",
    "icc": "ICC",
    "norm_cv": "CV of norms",
    "rank": "effective rank",
}


def gain(row: Mapping[str, Any], method: str, probe: str = PROTOCOL) -> float | None:
    """Gain over the native mean; None where a method or a probe does not apply."""
    found = row["columns"].get(method, {}).get(probe)
    return None if found is None else found["gain"]


def gains(
    rows: Sequence[Mapping[str, Any]], method: str, probe: str = PROTOCOL
) -> dict[str, float]:
    """Gains by the rows' names, where there are any."""
    found = {row["name"]: gain(row, method, probe) for row in rows}
    return {name: value for name, value in found.items() if value is not None}


def of_group(made: Mapping[str, Any], group: str) -> list[dict[str, Any]]:
    return [row for row in made["rows"] if row["group"] == group]


# --- what is reached ----------------------------------------------------------------------------


def goals(made: Mapping[str, Any]) -> Iterator[tuple[str, bool | None, str]]:
    """Goals of issue 30: what is asked, whether it is reached (None: not measured), what was found.

    A goal over a group is only judged where none of its rows is left out; a row that falls below
    a floor is told in any case.
    """
    stacks, frames = of_group(made, "published"), of_group(made, "frames")
    for method, asked in ((DEFAULT, AVERAGE), (TWO, AVERAGE_TWO)):
        found = gains(stacks, method)
        title = f"published encoders, {method}"
        whole = len(found) >= len(STACKS)
        yield _average(f"{title}: average of at least {asked:+.1f}", found, asked, whole)
        yield _floor(f"{title}: no row below {WORST:+.1f}", found, WORST, whole)
    found = gains(frames, DEFAULT)
    whole = len(found) >= len(list(frame_rows()))
    title = f"raw frames, default: average not behind {FRAMES_BEFORE:+.1f}"
    yield _average(title, found, FRAMES_BEFORE, whole)
    found = {k: v for k, v in gains(of_group(made, "sts"), DEFAULT).items() if k == STS_LAST}
    yield _floor(f"STS-B, last layer, default: at least {WORST:+.1f}", found, WORST, bool(found))
    whole = not made["left_out"]
    for probe in PROBES:
        found = gains(made["rows"], DEFAULT, probe)
        title = f"every row, default, {probe} probe: at least {LEAST:+.1f}"
        yield _floor(title, found, LEAST, whole and bool(found))


def _average(
    title: str, found: Mapping[str, float], asked: float, whole: bool
) -> tuple[str, bool | None, str]:
    if not found:
        return title, None, "no row"
    value = float(np.mean(list(found.values())))
    rows = f"{len(found)} row" + "s" * (len(found) > 1)
    words = f"{value:+.2f} over {rows}" + ("" if whole else ", some left out")
    return title, value >= asked if whole else None, words


def _floor(
    title: str, found: Mapping[str, float], asked: float, whole: bool
) -> tuple[str, bool | None, str]:
    if not found:
        return title, None, "no row"
    below = sorted((value, name) for name, value in found.items() if value < asked)
    if below:
        words = f"{len(below)} of {len(found)} below: "
        return title, False, words + "; ".join(f"{name} {value:+.2f}" for value, name in below)
    name = min(found, key=lambda name: found[name])
    words = f"worst {found[name]:+.2f} ({name}) of {len(found)}"
    return title, True if whole else None, words + ("" if whole else ", some left out")


def summary(made: Mapping[str, Any]) -> str:
    """One line a goal."""
    word = {True: "reached", False: "missed", None: "not measured"}
    return "\n".join(f"- {title}: **{word[done]}** ({words})" for title, done, words in goals(made))


# --- tables -------------------------------------------------------------------------------------


def markdown(made: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        "# The wide vector against the native mean",
        f"Made by `python benchmarks/wide.py`: {line(made['made_by'])}.",
        "The score of a row is the mean of the protocol's probes (kNN, 10-shot, full, retrieval, "
        "or what applies) × 100; a column shows points over the native mean of the last layer "
        "(of the layer that is named). The last two columns are what the default gains by "
        "`StandardScaler` + `LogisticRegression(C=1)` and by `LogisticRegression(C=1)` on the "
        "vectors as they come, both with 10 labels a class, five draws. A gain whose 95 % "
        "interval (test items and draws, paired) holds 0 stands in brackets.",
        "## What is reached",
        summary(made),
        "## Columns",
        settings(made),
    ]
    if made["left_out"]:
        lines = [f"- {name}: {reason}" for name, reason in made["left_out"].items()]
        parts += ["## Left out", "\n".join(lines)]
    for group, title in GROUPS.items():
        rows = of_group(made, group)
        if rows:
            parts += [f"## {title[0].upper()}{title[1:]}", table(rows, made)]
    parts += ["## What is known of the tokens without labels", described(made["rows"])]
    return "\n\n".join(parts) + "\n"


def settings(made: Mapping[str, Any]) -> str:
    """What the columns are."""

    def words(how: Any) -> str:
        if isinstance(how, str):
            return how
        return f"`OneVec({', '.join(f'{name}={value!r}' for name, value in how.items())})`"

    return "\n".join(f"- {name}: {words(how)}" for name, how in made["methods"].items())


def table(rows: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> str:
    """A group's rows, then the average and the worst of each column."""
    methods = [name for name in made["methods"] if name != MEAN and gains(rows, name)]
    typed = [probe for probe in TYPED if gains(rows, DEFAULT, probe)]
    columns = [*((name, PROTOCOL) for name in methods), *((DEFAULT, probe) for probe in typed)]
    head = ["encoder, task", "mean", *methods, *(f"default, {probe}" for probe in typed)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        score = row["columns"][MEAN][PROTOCOL]["score"]
        cells = [cell(row, *column) for column in columns]
        lines.append([row["name"], f"{score:.1f}", *cells])
    if len(rows) > 1:
        found = [list(gains(rows, *column).values()) for column in columns]
        means = [row["columns"][MEAN][PROTOCOL]["score"] for row in rows]
        averages = [f"{np.mean(values):+.1f}" for values in found]
        lines.append(["*average*", f"{np.mean(means):.1f}", *averages])
        lines.append(["*worst*", "", *(f"{min(values):+.1f}" for values in found)])
    return markdown_table(lines)


def cell(row: Mapping[str, Any], method: str, probe: str) -> str:
    found = row["columns"].get(method, {}).get(probe)
    if found is None:
        return "–"
    low, high = found["interval"]
    text = f"{found['gain']:+.1f}"
    return f"({text})" if low <= 0 <= high else text


def described(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a verdict may know of each row's training tokens; targets of one unit share it."""
    head = ["encoder, task", "kind", *DESCRIPTORS.values()]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        found = row["descriptors"]
        lines.append(
            [
                row["name"],
                found["kind"],
                *(f"{found[name]:.0f}" for name in ("dim", "sequences", "length")),
                *(f"{found[name]:.3f}" for name in ("icc", "norm_cv")),
                f"{found['rank']:.0f}",
            ]
        )
    return markdown_table(lines)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
