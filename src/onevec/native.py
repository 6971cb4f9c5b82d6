"""What sentence-transformers can express with modules of its own.

By names alone, so that `OneVec` can restrict its candidates; `onevec.export.native` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onevec.recipe import EXTREMES
from onevec.reduction import EVENED_MEAN, MEAN, MEAN_PCA, Candidate

NATIVE_POOLERS = (
    "mean",
    "max",
    "min",
    "covariance",
    "random_projection",
    "deep_sets",
    "sif",
    "idf",
    "attention",
    "gated_attention",
)
ALONE = ("sif", "idf", "attention", "gated_attention")  # they weight all that is pooled


def why_not_native(poolers: Iterable[tuple[str, Mapping[str, Any]]], unit: bool = False) -> str:
    """Return why poolers, given by name and options, have no native chain; "" if they have one.

    ``unit`` is that of the candidate.
    """
    if unit:
        return (
            "the blocks of this candidate are scaled to length 1 one by one, and "
            "sentence-transformers' modules scale whole vectors only"
        )
    poolers = list(poolers)
    for name, options in poolers:
        if name not in NATIVE_POOLERS:
            return f"the pooler {name!r} has no counterpart among sentence-transformers' modules"
        if name in ALONE and len(poolers) > 1:
            return (
                f"the pooler {name!r} weights tokens, and sentence-transformers' modules have "
                "place for one weighting of all that is pooled"
            )
        if options.get("signed_root"):
            return f"the pooler {name!r} takes roots, which sentence-transformers' modules do not"
    return ""


def native_candidates() -> list[Candidate]:
    """List the candidates that are native, as `onevec.recipe.candidates` does.

    Second moments beside the mean take the place of the rich blocks; roots there are none.
    """
    moments = Candidate((MEAN, "covariance"), 0.25, 0.0)
    return [MEAN_PCA, moments, EXTREMES, EVENED_MEAN]
