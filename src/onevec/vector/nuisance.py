"""Nuisance: what is known of a sequence and should not be read from its vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from onevec.errors import InputError
from onevec.tokens.batches import Tokens
from onevec.tokens.store import TokenStore

LENGTH = "length"  # always known, without a column
_LEAST_PER_LEVEL = 5  # sequences; rarer levels are put together
_MOST_LEVELS = 100
_SHUFFLES, _CLEARLY = 10, 1.5


def nuisance_of(
    tokens: Tokens, names: Sequence[str], rows: np.ndarray
) -> Float[np.ndarray, "rows columns"]:
    """Return nuisance columns as numbers: standardised, one for each level of what names groups.

    Whole numbers name groups where there are few of them, each often: what they are codes of has no
    order, and what has one is told as well. What is the same in all rows is left out.

    Raises
    ------
    InputError
        If the tokens have no such column, it has missing values, or it names sequences rather
        than groups of them.
    """
    parts = [_length(tokens, rows) if n == LENGTH else _column(tokens, n, rows) for n in names]
    matrix = np.hstack(parts)
    matrix = matrix / np.maximum(np.abs(matrix).max(0), 1e-300)  # squares of 1e200 overflow
    matrix = matrix - matrix.mean(0)
    spread = matrix.std(0)
    return matrix[:, spread > 0] / spread[spread > 0]


def _length(tokens: Tokens, rows: np.ndarray) -> np.ndarray:
    n = tokens.lengths.cpu().numpy()[rows].astype(np.float64)
    return np.stack([np.log(n), np.log(n) ** 2, n**-0.5], axis=1)


def _column(tokens: Tokens, name: str, rows: np.ndarray) -> np.ndarray:
    if not isinstance(tokens, TokenStore):
        raise InputError(
            f"got nuisance={name!r} with bare arrays, which have no columns: encode into a store "
            f'with a column {name!r}, or use "{LENGTH}"'
        )
    column = tokens.column(name)
    if column.null_count:
        raise InputError(
            f"the nuisance column {name!r} has {column.null_count:,} missing values: fill them, "
            "or leave these sequences out"
        )
    values = column.take(pa.array(rows))
    whole = pa.types.is_integer(values.type)
    if whole or pa.types.is_floating(values.type):
        entries = values.to_numpy(zero_copy_only=False).astype(np.float64)
        if not np.isfinite(entries).all():
            raise InputError(f"the nuisance column {name!r} holds numbers that are not finite")
    else:
        entries = np.array([str(value) for value in values.to_pylist()])
    levels, which, count = np.unique(entries, return_inverse=True, return_counts=True)
    common = np.flatnonzero(count >= _LEAST_PER_LEVEL)
    groups = whole and len(common) == len(levels) <= _MOST_LEVELS
    if entries.dtype.kind == "f" and not groups:
        return entries[:, None]
    if not len(common) or len(common) > _MOST_LEVELS:
        raise InputError(
            f"the nuisance column {name!r} has {len(levels):,} values among {len(rows):,} "
            f"sequences: name one with at most {_MOST_LEVELS} groups, each of {_LEAST_PER_LEVEL} "
            "sequences or more"
        )
    return (which[:, None] == common).astype(np.float64)


def nuisance_directions(
    block: Float[np.ndarray, "rows dims"], nuisance: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "dims directions"]:
    """Return an orthonormal basis of the directions in which a linear model of nuisance shows.

    A direction shows it if clearly more of its variance is explained than of any direction when
    the rows of the nuisance are shuffled. As many columns as rows explain everything: nothing is
    known then.
    """
    if not nuisance.shape[1] or nuisance.shape[1] + 1 >= len(nuisance):
        return np.zeros((block.shape[1], 0))
    centred = block - block.mean(0)
    rng = np.random.default_rng(0)
    chance = [_shares(centred, rng.permutation(nuisance))[1].max() for _ in range(_SHUFFLES)]
    axes, shares = _shares(centred, nuisance)
    return axes[shares > min(_CLEARLY * max(chance), 0.9)].T


def _shares(centred: np.ndarray, nuisance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes of what nuisance explains, and which part of the variance along each it explains."""
    explained = nuisance @ np.linalg.lstsq(nuisance, centred, rcond=None)[0]
    axes = np.linalg.svd(explained, full_matrices=False)[2][: nuisance.shape[1]]
    whole = ((centred @ axes.T) ** 2).sum(0)
    return axes, ((explained @ axes.T) ** 2).sum(0) / np.where(whole > 0, whole, 1.0)
