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
from onevec.recipe import SPREAD
from onevec.reduction import Candidate, Reduction
from onevec.tokens.batches import Tokens


def compare(
    tokens: Tokens,
    folds: Sequence[Prepared],
    options: Sequence[Candidate],
    *,
    dim: int,
    random_state: int,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], np.ndarray]:
    """Score candidates, the mean first among them, without labels.

    ``folds`` hold out different sequences of the same ``tokens``; usually it is one.

    Returns
    -------
    rows : list of dict
        Of each candidate: whether it is a ``blend``; ``predictability``, ``pseudo_labels`` (see
        `Evidence`) and ``retrieval`` (`matched_retrieval`), each with ``_gain`` over the mean and
        its standard ``_error``; ``uniformity`` and ``uniformity_gain``; ``z``, what the first two
        say in standard errors, and ``retrieval_z``; ``found_z``, by how many standard errors more
        than half of the halves are found, and ``spread_z``, the same of `SPREAD` alone, one value
        for all rows (0 without its block).
    vectors : dict of str to (seqs, dim) array
        Of the first fold's held-out sequences, by candidate.
    lengths : (seqs,) array
        Of the same sequences.
    """
    parts = [_scores(tokens, fold, options, dim, random_state) for fold in folds]
    rows: list[dict[str, Any]] = []
    means: dict[str, np.ndarray] = {}
    spread_z = _above_chance(np.concatenate([spread for *_, spread in parts]))
    for place, option in enumerate(options):
        scored = [part[place] for part, *_ in parts]
        values = {name: np.concatenate([each[name] for each in scored]) for name in scored[0]}
        means = means or values
        evenness = [uniformity(vectors[option.name]) for _, vectors, *_ in parts]
        row: dict[str, Any] = {"name": option.name, "blend": bool(option.parts)}
        row |= {"uniformity": float(np.mean(evenness)), "spread_z": spread_z}
        row["uniformity_gain"] = rows[0]["uniformity"] - row["uniformity"] if rows else 0.0
        for score, ours in values.items():
            gains = ours - means[score]
            row[score] = float(ours.mean())
            row[f"{score}_gain"] = float(gains.mean())
            row[f"{score}_error"] = float(gains.std(ddof=1) / math.sqrt(len(gains)))
        row["found_z"] = _above_chance(values["retrieval"])
        row["z"] = joint_z(row)
        row["retrieval_z"] = in_errors(row, "retrieval")
        rows.append(row)
    _, vectors, lengths, _ = parts[0]
    return rows, vectors, lengths


def _scores(
    tokens: Tokens,
    prepared: Prepared,
    options: Sequence[Candidate],
    dim: int,
    random_state: int,
) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Scores of each held-out sequence by candidate, vectors, lengths, halves found by spread."""
    cache: dict[Any, Any] = {}
    exam = Exam.set(tokens, prepared, random_state, cache)
    halves = exam.answers(prepared.blocks)
    prepared = replace(prepared, features=unsteady(prepared.features, prepared.blocks))
    whole = {name: block[exam.held] for name, block in prepared.features.items()}

    def reduced(option: Candidate) -> tuple[Reduction, list[np.ndarray]]:
        found = Reduction(option).fit(prepared.fitted, dim, cache, prepared.fitted_nuisance)
        return found, [found.transform(half) for half in halves]

    known = set(SPREAD.blocks) <= set(prepared.features)
    spread = exam.retrieval(reduced(SPREAD)[1]) if known else np.empty(0)
    scored, vectors = [], {}
    for option in options:
        reduction, both = reduced(option)
        scored.append(asdict(exam.evidence(both)) | {"retrieval": exam.retrieval(both)})
        vectors[option.name] = reduction.transform(whole)
    return scored, vectors, exam.lengths, spread


def _above_chance(found: np.ndarray) -> float:
    """By how many standard errors more than half of the halves are found."""
    if len(found) < 2:
        return 0.0
    error = max(found.std(ddof=1) / math.sqrt(len(found)), 1 / len(found))  # where all are found
    return float((found.mean() - 0.5) / error)


def joint_z(row: Mapping[str, Any]) -> float:
    """Average the two z-scores of halves, which is safe however they correlate.

    Pseudo-labels count twice: they tell better what labels will say (benchmarks/LOG.md).
    """
    return (2 * in_errors(row, "pseudo_labels") + in_errors(row, "predictability")) / 3


def in_errors(row: Mapping[str, Any], score: str) -> float:
    """Return the gain of a score in standard errors."""
    error = row[f"{score}_error"]
    return row[f"{score}_gain"] / error if error > 0 else 0.0
