"""Pictures of a report: figures of matplotlib, to PNG."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onevec.errors import MissingExtraError
from onevec.use.explore import place

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:  # slow to import, or of an extra
    Figure = Any

_MOST_POINTS = 1_200
_KINDS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "#1b5e20", "#e6b800", "#7a1f5c")
_GREY, _BLUE = "#adb5bd", "#1c7ed6"


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """Make a figure of some inches and the axes in its one row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Figure) -> str:
    """Return a figure as base64."""
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=130)
    return base64.b64encode(raw.getvalue()).decode()


def points_figure(
    maps: Mapping[str, np.ndarray], colours: Sequence[Any] | None, random_state: int = 0
) -> Figure:
    """Draw the vectors of some methods side by side in the plane; see `onevec.use.explore.place`.

    Parameters
    ----------
    maps : mapping of name to vectors, each of shape (rows, dim)
        Of at most 1,200 seeded rows, the same of all.
    colours : sequence, optional
        One value per row. Above twelve different numbers a scale is drawn; else the twelve most
        frequent values have a colour each. None, NaN and empty text are grey.
    """
    figure, axes = new_figure(5.4 * len(maps) - 0.2, 4.6, len(maps))
    count = len(next(iter(maps.values())))
    rows = np.random.default_rng(random_state).permutation(count)[:_MOST_POINTS]
    values = None if colours is None else [colours[row] for row in rows]
    drawn = None
    for axis, (name, vectors) in zip(axes, maps.items(), strict=True):
        at, _ = place(np.asarray(vectors)[rows], random_state=random_state)
        drawn = _scatter(axis, at, values)
        axis.set_title(name)
        axis.set(xticks=[], yticks=[])
        axis.spines[["left", "bottom"]].set_visible(False)
    if drawn is not None:
        figure.colorbar(drawn, ax=axes, shrink=0.8)
    elif values is not None:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=8, markerscale=2)
    return figure


def _scatter(axis: Any, at: np.ndarray, values: list[Any] | None) -> Any:
    """Draw points; return what a colour scale is made of, if there is one."""
    style = {"s": 7, "linewidths": 0}
    if values is None:
        axis.scatter(*at.T, color=_BLUE, alpha=0.6, **style)
        return None
    known = np.array([not _missing(value) for value in values])
    axis.scatter(*at[~known].T, color=_GREY, label="none" if (~known).any() else None, **style)
    there = [value for value in values if not _missing(value)]
    counts = Counter(there)
    numbers = all(isinstance(v, int | float | np.number) and v is not True for v in there)
    if numbers and len(counts) > len(_KINDS):
        numeric = np.array(there, np.float64)
        return axis.scatter(*at[known].T, c=numeric, cmap="viridis", **style)
    kinds = [kind for kind, _ in counts.most_common(len(_KINDS))]
    for kind, colour in zip(sorted(kinds, key=str), _KINDS, strict=False):
        mine = np.array([value == kind for value in values])
        axis.scatter(*at[mine].T, color=colour, label=_short(kind), **style)
    rest = known & ~np.array([value in kinds for value in values])
    if rest.any():
        others = f"{len(counts) - len(kinds)} others"
        axis.scatter(*at[rest].T, color=_GREY, alpha=0.5, label=others, **style)
    return None


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _short(kind: Any) -> str:
    text = str(kind).lstrip("_")  # matplotlib hides names that begin so
    return text if len(text) <= 30 else f"{text[:29]}…"
