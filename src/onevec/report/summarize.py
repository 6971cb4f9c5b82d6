"""Everything a report shows, as one dict of plain values and PNG pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onevec.errors import MissingExtraError
from onevec.judge.probes import normalise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onevec.estimator import OneVec

_MOST_POINTS = 1_200
METHOD_NAMES = {
    "mean": "mean",
    "mean_pca": "mean + PCA",
    "mean_whitened": "mean + whitening",
    "onevec": "onevec",
}


def summarize(
    model: OneVec,
    *,
    title: str,
    lengths: Sequence[int] | np.ndarray | None = None,
    evaluation: Mapping[str, Mapping[str, Any]] | None = None,
    maps: Mapping[str, np.ndarray] | None = None,
    labels: Sequence[str] | None = None,
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
    labels : sequence of str, optional
        Colours of the maps.
    facts : mapping, optional
        Further lines, such as the encoder's accuracy.
    """
    pictures = {"The candidates, scored without labels": _candidate_figure(model)}
    if evaluation:
        pictures["Gain over the mean, with labels used for scoring only"] = _gain_figure(evaluation)
    if maps and labels is not None:
        pictures["The vectors in two dimensions (t-SNE)"] = _map_figure(maps, labels)
    if lengths is not None:
        pictures["Tokens per sequence"] = _length_figure(np.asarray(lengths))
    return {
        "title": title,
        "verdict": model.verdict_.as_dict(),
        "evaluation": {METHOD_NAMES.get(k, k): dict(v) for k, v in (evaluation or {}).items()},
        "facts": {
            "token dimensions": model.n_features_in_,
            "dimensions asked for": model.dim,
            "effort": model.effort,
            "encoder fingerprint": (model.fingerprint_ or "none (ready arrays)")[:16],
            **(facts or {}),
        },
        "pictures": {name: _png(figure) for name, figure in pictures.items() if figure},
    }


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> str:
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=130)
    return base64.b64encode(raw.getvalue()).decode()


def _candidate_figure(model: OneVec) -> Figure | None:
    rows = model.verdict_.candidates
    if not rows:
        return None
    figure, axes = _figure(9, 0.8 + 0.42 * len(rows), 2)
    order = rows[::-1]
    place = np.arange(len(order))
    titles = {
        "pseudo_labels": "pseudo-labels of the other half",
        "predictability": "its statistics (R²)",
    }
    for axis, (score, title) in zip(axes, titles.items(), strict=True):
        chosen = [row["name"] == model.verdict_.choice for row in order]
        axis.errorbar(
            [row[f"{score}_gain"] for row in order],
            place,
            xerr=[2 * row[f"{score}_error"] for row in order],
            fmt="none",
            ecolor="#9aa5b1",
        )
        axis.scatter(
            [row[f"{score}_gain"] for row in order],
            place,
            color=["#d9480f" if c else "#1c7ed6" for c in chosen],
            zorder=3,
        )
        axis.axvline(0, color="#495057", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("gain over the mean, ± 2 standard errors", fontsize=9)
        axis.set_yticks(place, [row["name"].replace(", ", ",\n") for row in order], fontsize=8)
    axes[1].set_yticklabels([])
    return figure


def _gain_figure(evaluation: Mapping[str, Mapping[str, Any]]) -> Figure:
    names = [name for name in evaluation if "gain" in evaluation[name]]
    figure, (axis,) = _figure(6.5, 0.9 + 0.4 * len(names))
    for place, name in enumerate(reversed(names)):
        entry = evaluation[name]
        low, high = entry["interval"]
        colour = "#d9480f" if name == "onevec" else "#1c7ed6"
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        axis.plot(entry["gain"], place, "o", color=colour)
    axis.axvline(0, color="#495057", linewidth=0.8)
    axis.set_yticks(range(len(names)), [METHOD_NAMES.get(n, n) for n in reversed(names)])
    axis.set_xlabel("points over the mean (average of kNN and 10-shot), 95 % interval")
    return figure


def _map_figure(maps: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    from sklearn.manifold import TSNE

    figure, axes = _figure(10.5, 4.6, len(maps))
    rows = np.random.default_rng(0).permutation(len(labels))[:_MOST_POINTS]
    kinds = np.asarray(labels)[rows]
    for axis, (name, vectors) in zip(axes, maps.items(), strict=True):
        perplexity = min(30.0, max(2.0, len(rows) / 4))
        spread = TSNE(perplexity=perplexity, init="pca", random_state=0)
        at = spread.fit_transform(normalise(np.asarray(vectors, np.float64)[rows]))
        for number, kind in enumerate(np.unique(kinds)):
            mine = kinds == kind
            colour = f"C{number % 10}"
            axis.scatter(*at[mine].T, s=6, color=colour, label=str(kind), linewidths=0)
        axis.set_title(METHOD_NAMES.get(name, name))
        axis.set_xticks([])
        axis.set_yticks([])
    if len(np.unique(kinds)) <= 15:
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside right center",
            fontsize=8,
            markerscale=2,
        )
    return figure


def _length_figure(lengths: np.ndarray) -> Figure:
    figure, (axis,) = _figure(6.5, 2.4)
    axis.hist(
        lengths, bins=np.geomspace(max(1, lengths.min()), lengths.max() + 1, 40), color="#1c7ed6"
    )
    axis.set_xscale("log")
    axis.set_xlabel("tokens")
    axis.set_ylabel("sequences")
    return figure
