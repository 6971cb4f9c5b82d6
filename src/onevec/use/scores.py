"""Labelled scores of a fitted model beside those of the mean."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onevec.errors import InputError
from onevec.estimator import OneVec, load
from onevec.probes import probes
from onevec.tokens.layout import is_store
from onevec.tokens.store import TokenStore
from onevec.use.search import encoded
from onevec.use.vectors import every_method

Scores = dict[str, dict[str, Any]]


def evaluate(
    model: OneVec | str | Path,
    data: Any,
    labels: str | Sequence[Any] | np.ndarray,
    *,
    test: Any = None,
    test_labels: Sequence[Any] | np.ndarray | None = None,
    encoder: Any = None,
    random_state: int = 0,
    **encoding: Any,
) -> Scores:
    """Score a model and the mean's variants with labels, which only the probes are fitted to.

    Rows without a label are left out, and classes with fewer than 3 rows in the fitted part: both
    with a warning that counts them.

    Parameters
    ----------
    model : OneVec or path
        Fitted, or the folder of one.
    data : TokenStore, path, or what `OneVec.transform` takes
        The sequences whose labels are the probes' memory.
    labels : str or sequence
        A metadata column of ``data`` (and ``test``), or one label per sequence.
    test : as ``data``, optional
        The sequences to score; by default a seeded half of ``data``.
    test_labels : sequence, optional
        Those of ``test`` where ``labels`` is no column.
    encoder : optional
        Of raw sequences; by default that of the fit.
    random_state : int
        Seed of the halves and of the probes.
    **encoding
        Further arguments of `onevec.encode` for raw sequences.

    Returns
    -------
    dict
        For each of ``mean``, ``mean_pca``, ``mean_whitened`` and ``onevec``: ``dim``, ``knn`` and
        ``shot10`` (balanced accuracy x 100) and, but for the mean, ``gain`` and ``interval``.

    Examples
    --------
    ::

        onevec.evaluate("model", "train-store", "family", test="test-store")
        onevec.evaluate(model, texts, kinds)
    """
    fitted = load(model) if isinstance(model, str | Path) else model
    known, methods = _labelled(fitted, data, labels, encoder, encoding)
    if test is not None:
        given = labels if test_labels is None else test_labels
        scored_labels, scored = _labelled(fitted, test, given, encoder, encoding)
        pairs = {name: (vectors, scored[name]) for name, vectors in methods.items()}
        return probes.evaluate(pairs, known, scored_labels, random_state=random_state)
    if test_labels is not None:
        raise InputError("got test_labels without test: pass both")
    if len(known) < 2:
        raise InputError(
            f"got {len(known)} row with a label: half of the rows are scored by the other half; "
            "pass more, or test (--test)"
        )
    order = np.random.default_rng(random_state).permutation(len(known))
    left, right = order[: len(order) // 2], order[len(order) // 2 :]
    pairs = {name: (vectors[left], vectors[right]) for name, vectors in methods.items()}
    return probes.evaluate(pairs, known[left], known[right], random_state=random_state)


def _labelled(
    fitted: OneVec, data: Any, labels: Any, encoder: Any, encoding: dict[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the labels and the vectors of every method, of the rows that have a label."""
    if isinstance(data, str | Path) and is_store(Path(data)):
        data = TokenStore(data)
    if isinstance(data, TokenStore):
        return _labelled_rows(fitted, data, labels)
    with encoded(data, fitted, encoder, **encoding) as store:
        return _labelled_rows(fitted, store, labels)


def _labelled_rows(
    fitted: OneVec, store: TokenStore, labels: Any
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if isinstance(labels, str):
        values, where = store.column(labels).to_pylist(), f"column {labels!r}"
    else:
        values, where = np.asarray(labels).tolist(), "what was passed as labels"
    if any(isinstance(value, list | dict) for value in values):
        raise InputError(f"{where} holds lists: choose a column with one label per row")
    if len(values) != len(store):
        raise InputError(f"got {len(values)} labels for {len(store)} sequences: pass one for each")
    has = np.array([value not in (None, "") and str(value) != "nan" for value in values])
    if not has.any():
        raise InputError(f"{where} holds no label: choose another column")
    if not has.all():
        warnings.warn(
            f"{(~has).sum()} of {len(has)} rows have no label in {where}: they are left out",
            stacklevel=2,
        )
    known = np.array([str(value) for value, there in zip(values, has, strict=True) if there])
    return known, {name: rows[has] for name, rows in every_method(fitted, store).items()}
