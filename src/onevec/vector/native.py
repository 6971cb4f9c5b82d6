"""What sentence-transformers can express with modules of its own.

By names alone, so that `OneVec` can restrict its parts; `onevec.export.native` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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

    ``unit`` says whether anything is scaled to length 1 for each sequence.
    """
    if unit:
        return (
            "the parts of this vector are scaled to length 1 one by one, and "
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
