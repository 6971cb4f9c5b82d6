"""Everything a report shows, as one dict of plain values and PNG pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onevec.errors import InputError
from onevec.judge.verdict import LIKELY
from onevec.report.picture import new_figure, png, points_figure
from onevec.tokens.store import TokenStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onevec.estimator import OneVec

METHOD_NAMES = {
    "mean": "mean",
    "mean_pca": "mean + PCA",
    "mean_whitened": "mean + whitening",
    "onevec": "onevec",
}

_CHOSEN, _OTHER = "#d9480f", "#1c7ed6"


def summarize(
    model: OneVec,
    *,
    title: str,
    lengths: Sequence[int] | np.ndarray | None = None,
    evaluation: Mapping[str, Mapping[str, Any]] | None = None,
    maps: Mapping[str, np.ndarray] | None = None,
    labels: Sequence[Any] | None = None,
    colour: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Gather what `onevec.report.html.render` shows.

    Parameters
    ----------
    model : OneVec
        Fitted.
    title : str
        Headline.
    lengths : sequence of int, optional
        Tokens per sequence, for a histogram.
    evaluation : mapping, optional
        What `onevec.evaluate` returned.
    maps : mapping of method to vectors, optional
        Drawn side by side in two dimensions (t-SNE).
    labels : sequence, optional
        Colours of the maps: names, or numbers.
    colour : str, optional
        What the labels are, for the heading.
    facts : mapping, optional
        Further lines, such as the encoder's accuracy.
    """
    pictures = {"The candidates, judged without labels": _candidate_figure(model)}
    if evaluation:
        pictures["Gain over the mean, with labels used for scoring only"] = _gain_figure(evaluation)
    if maps:
        by = f", coloured by {colour}" if colour else ""
        named = {METHOD_NAMES.get(name, name): vectors for name, vectors in maps.items()}
        pictures[f"The vectors in two dimensions (t-SNE){by}"] = points_figure(named, labels)
    if lengths is not None:
        pictures["Tokens per sequence"] = _length_figure(np.asarray(lengths))
    return {
        "title": title,
        "verdict": model.verdict_.as_dict(),
        "sure": model.verdict_.sure,
        "evaluation": {METHOD_NAMES.get(k, k): dict(v) for k, v in (evaluation or {}).items()},
        "facts": {
            "token dimensions": model.n_features_in_,
            "dimensions asked for": model.dim,
            "effort": model.effort,
            "encoder fingerprint": (model.fingerprint_ or "none (ready arrays)")[:16],
            **(facts or {}),
        },
        "pictures": {name: png(figure) for name, figure in pictures.items() if figure},
    }


def summarize_store(
    model: OneVec, store: TokenStore, *, title: str, colour: str | None = None
) -> dict[str, Any]:
    """Gather what a report shows, with the vectors of a store in two dimensions.

    Parameters
    ----------
    store : TokenStore
        Its sequences are drawn as the mean and as the model place them.
    colour : str, optional
        Metadata column of the store that colours the points; nothing is fitted to it.
    """
    labels = None
    if colour is not None:
        labels = store.column(colour).to_pylist()
        if any(isinstance(value, list | dict) for value in labels):
            raise InputError(f"column {colour!r} holds lists: choose one with one value per row")
    return summarize(
        model,
        title=title,
        lengths=store.lengths.numpy(),
        maps={"mean": model.transform_baselines(store)["mean"], "onevec": model.transform(store)},
        labels=labels,
        colour=colour,
        facts={"drawn": f"{store.path.name}, {len(store):,} sequences"},
    )


def _candidate_figure(model: OneVec) -> Figure | None:
    rows = model.verdict_.candidates
    if not any(row.get("told", True) for row in rows):
        return None
    figure, (gains, chances) = new_figure(9, 0.8 + 0.42 * len(rows), 2)
    order = rows[:0:-1]  # all but the mean, the first on top
    place = np.arange(len(order))
    low, high = model.verdict_.interval or (0.0, 0.0)
    colours = [_CHOSEN if row["name"] == model.verdict_.choice else _OTHER for row in order]
    silent: dict[str, Any] = {"expected_gain": math.nan, "probability": 0.0}  # nothing is claimed
    order = [row if row.get("told", True) else row | silent for row in order]
    expected = [row["expected_gain"] for row in order]
    gains.errorbar(expected, place, xerr=(high - low) / 2, fmt="none", ecolor="#9aa5b1")
    gains.scatter(expected, place, color=colours, zorder=3)
    gains.axvline(0, color="#495057", linewidth=0.8)
    gains.set_title("expected gain over the mean", fontsize=10)
    gains.set_xlabel("points, 90 % interval", fontsize=9)
    gains.set_yticks(place, [row["name"].replace(", ", ",\n") for row in order], fontsize=8)
    chances.barh(place, [row["probability"] for row in order], color=colours, height=0.5)
    chances.axvline(LIKELY, color="#495057", linewidth=0.8, linestyle="--")
    chances.set_xlim(0, 1)
    chances.set_title("probability to beat the mean", fontsize=10)
    chances.set_xlabel(f"taken from {LIKELY:.2f} on", fontsize=9)
    chances.set_yticks(place, [""] * len(order))
    return figure


def _gain_figure(evaluation: Mapping[str, Mapping[str, Any]]) -> Figure:
    names = [name for name in evaluation if "gain" in evaluation[name]]
    figure, (axis,) = new_figure(6.5, 0.9 + 0.4 * len(names))
    for place, name in enumerate(reversed(names)):
        entry = evaluation[name]
        low, high = entry["interval"]
        colour = _CHOSEN if name == "onevec" else _OTHER
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        axis.plot(entry["gain"], place, "o", color=colour)
    axis.axvline(0, color="#495057", linewidth=0.8)
    axis.set_yticks(range(len(names)), [METHOD_NAMES.get(n, n) for n in reversed(names)])
    axis.set_xlabel("points over the mean (average of kNN and 10-shot), 95 % interval")
    return figure


def _length_figure(lengths: np.ndarray) -> Figure:
    figure, (axis,) = new_figure(6.5, 2.4)
    axis.hist(
        lengths, bins=np.geomspace(max(1, lengths.min()), lengths.max() + 1, 40), color=_OTHER
    )
    axis.set_xscale("log")
    axis.set_xlabel("tokens")
    axis.set_ylabel("sequences")
    return figure
