"""The fixed candidate list of Q4's and Q6's oracle, and what labels say of it.

9 feature sets x whitening power 0, 1/2, 1, plus every default candidate of the recipe. What the
judge says of the list stands apart (`protocol.methods`), so that a change of the judge leaves the
labelled scores valid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onevec.blocks import prepare
from onevec.recipe import BLOCKS, candidates
from onevec.reduction import Candidate
from protocol.baselines import candidate_result
from protocol.producer import Context, Result

FEATURE_SETS = (
    ("mean",),
    ("quantiles",),
    ("covariance",),
    ("vlad",),
    ("dct",),
    ("mean", "std"),
    ("mean", "std", "max", "min"),
    ("dct", "std"),
    ("mean", "std", "quantiles", "covariance", "vlad", "dct", "lagged"),
)
FIXED = [Candidate(blocks, power, power) for blocks in FEATURE_SETS for power in (0.0, 0.5, 1.0)]
# The blocks of these sets, as they were when the list was fixed.
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("mean", {}),
    "std": ("std", {}),
    "max": ("max", {}),
    "min": ("min", {}),
    "quantiles": ("quantiles", {"levels": (0.1, 0.5, 0.9)}),
    "covariance": ("covariance", {"rank": 24}),
    "vlad": ("vlad", {"codes": 16}),
    "dct": ("dct", {"count": 8}),
    "lagged": ("lagged_covariance", {"rank": 16}),
}


def candidate_list() -> list[Candidate]:
    """The recipe's, whose first is the mean, then the others; none twice."""
    listed: dict[str, Candidate] = {}
    for option in (*candidates(), *FIXED):
        listed.setdefault(option.name, option)
    return list(listed.values())


def name_of(option: Candidate) -> str:
    return f"candidate: {option.name}"


def fixed(context: Context, seed: int) -> Iterator[Result]:
    """The vectors of every fixed candidate."""
    yield from _sweep(context, seed, FIXED, SPECS)


def defaults(context: Context, seed: int) -> Iterator[Result]:
    """The vectors of the recipe's candidates that are not in the fixed list."""
    known = {option.name for option in FIXED}
    yield from _sweep(context, seed, [o for o in candidate_list() if o.name not in known], BLOCKS)


def _sweep(
    context: Context,
    seed: int,
    options: Sequence[Candidate],
    specs: dict[str, tuple[str, dict[str, Any]]],
) -> Iterator[Result]:
    read = {block for option in options for block in option.blocks}
    began = time.process_time()
    specs = {name: spec for name, spec in specs.items() if name in read}
    found = prepare(context.train, specs, "quick", seed)
    seconds = time.process_time() - began
    test = found.blocks.of(context.test)
    back = np.argsort(found.rows)
    features = {name: (block[back], test[name]) for name, block in found.features.items()}
    cache: dict[Any, Any] = {}
    for option in options:
        result = candidate_result(name_of(option), option, features, cache=cache)
        result.seconds += seconds / len(options)
        yield result
