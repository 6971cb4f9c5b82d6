"""Everything a report shows, as one dict of plain values and PNG pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onevec.errors import InputError
from onevec.estimator import OneVec
from onevec.judge.verdict import KEPT
from onevec.report.picture import new_figure, png, points_figure
from onevec.tokens.store import TokenStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:  # slow to import, or of an extra
    Figure = Any

METHOD_NAMES = {
    "mean": "mean",
    "mean_pca": "mean + PCA",
    "mean_whitened": "mean + whitening",
    "onevec": "onevec",
}

_OURS, _OTHER = "#d9480f", "#1c7ed6"


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
    pictures: dict[str, Figure] = {}
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
        "kept": model.verdict_.choice == KEPT,
        "dim": model.vector_.dim_out,
        "whole": model.vector_.width,
        "parts": shown_parts(model.parts_),
        "evaluation": {METHOD_NAMES.get(k, k): dict(v) for k, v in (evaluation or {}).items()},
        "facts": {
            "dimensions of the vector": model.vector_.dim_out,
            "dimensions of a token": model.n_features_in_,
            "effort": model.effort,
            "encoder fingerprint": (model.fingerprint_ or "")[:16] or "none: ready arrays",
            **(facts or {}),
        },
        "pictures": {name: png(figure) for name, figure in pictures.items()},
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


def shown_parts(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `OneVec.parts_` as a person reads it: name, layer, columns, weight, share, about.

    The share is that of the part's cosine in the dot product of two vectors.
    """
    total = sum(part["weight"] ** 2 for part in parts)
    return [
        {
            "name": part["name"],
            "layer": "–" if part["layer"] < 0 else part["layer"],  # unknown of bare arrays
            "columns": f"{part['first']} to {part['last'] - 1}",
            "weight": part["weight"],
            "share": part["weight"] ** 2 / total,
            "about": part["about"],
        }
        for part in parts
    ]


def _gain_figure(evaluation: Mapping[str, Mapping[str, Any]]) -> Figure:
    names = [name for name in evaluation if "gain" in evaluation[name]]
    figure, (axis,) = new_figure(6.5, 0.9 + 0.4 * len(names))
    for place, name in enumerate(reversed(names)):
        entry = evaluation[name]
        low, high = entry["interval"]
        colour = _OURS if name == "onevec" else _OTHER
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        axis.plot(entry["gain"], place, "o", color=colour)
    axis.axvline(0, color="#495057", linewidth=0.8)
    axis.set_ylim(-0.5, len(names) - 0.5)
    axis.set_yticks(range(len(names)), [METHOD_NAMES.get(n, n) for n in reversed(names)])
    axis.set_xlabel("points over the mean (average of kNN and 10-shot), 95 % interval")
    return figure


def _length_figure(lengths: np.ndarray) -> Figure:
    figure, (axis,) = new_figure(6.5, 2.4)
    axis.hist(
        lengths, bins=np.geomspace(max(1, lengths.min()), lengths.max() + 1, 40), color=_OTHER
    )
    axis.set_xscale("log")
    ticks = [n * 10**power for power in range(8) for n in (1, 2, 5)]
    ticks = [tick for tick in ticks if lengths.min() <= tick <= lengths.max()]
    axis.minorticks_off()
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xlabel("tokens")
    axis.set_ylabel("sequences")
    return figure
