"""Scores without labels of every candidate, beside those of the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from onevec.blocks import Prepared
from onevec.judge.exam import Exam, unsteady
from onevec.judge.unlabelled import uniformity
from onevec.reduction import Candidate, Reduction
from onevec.tokens.batches import Tokens


def compare(
    tokens: Tokens,
    prepared: Prepared,
    options: Sequence[Candidate],
    *,
    dim: int,
    random_state: int,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], np.ndarray]:
    """Score candidates, the mean first among them, without labels.

    Returns
    -------
    rows : list of dict
        Of each candidate: ``predictability``, ``pseudo_labels`` (see `Evidence`)
        and ``retrieval`` (`matched_retrieval`), each with ``_gain`` over the mean and its standard
        ``_error``; ``uniformity`` and ``uniformity_gain``; ``z``, what the first two say in
        standard errors, and ``retrieval_z``.
    vectors : dict of str to (seqs, dim) array
        Of the held-out sequences, by candidate.
    lengths : (seqs,) array
        Of the held-out sequences.
    """
    cache: dict[Any, Any] = {}
    exam = Exam.set(tokens, prepared, random_state, cache)
    halves = exam.answers(prepared.blocks)
    prepared = replace(prepared, features=unsteady(prepared.features, prepared.blocks))
    whole = {name: block[exam.held] for name, block in prepared.features.items()}
    rows, vectors = [], {}
    scored: list[dict[str, np.ndarray]] = []
    for option in options:
        reduction = Reduction(option).fit(prepared.fitted, dim, cache, prepared.fitted_nuisance)
        both = [reduction.transform(half) for half in halves]
        scored.append(asdict(exam.evidence(both)) | {"retrieval": exam.retrieval(both)})
        vectors[option.name] = reduction.transform(whole)
        row = {"name": option.name, "uniformity": uniformity(vectors[option.name])}
        row["uniformity_gain"] = rows[0]["uniformity"] - row["uniformity"] if rows else 0.0
        for score, values in scored[-1].items():
            gains = values - scored[0][score]
            row[score] = float(values.mean())
            row[f"{score}_gain"] = float(gains.mean())
            row[f"{score}_error"] = float(gains.std(ddof=1) / math.sqrt(len(gains)))
        row["z"] = joint_z(row)
        row["retrieval_z"] = in_errors(row, "retrieval")
        rows.append(row)
    return rows, vectors, exam.lengths


def joint_z(row: Mapping[str, Any]) -> float:
    """Average the two z-scores of halves, which is safe however they correlate.

    Pseudo-labels count twice: they tell better what labels will say (benchmarks/LOG.md).
    """
    return (2 * in_errors(row, "pseudo_labels") + in_errors(row, "predictability")) / 3


def in_errors(row: Mapping[str, Any], score: str) -> float:
    """Return the gain of a score in standard errors."""
    error = row[f"{score}_error"]
    return row[f"{score}_gain"] / error if error > 0 else 0.0
