"""The exam: what the vector of one half of a held-out sequence must know of its other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onevec.judge.halves import (
    Evidence,
    cluster_panel,
    gather_evidence,
    without_length,
)
from onevec.tokens.batches import Tokens
from onevec.vector.blocks import Features
from onevec.vector.held_out import Prepared, half_features, unsteady
from onevec.vector.parts import ASKING
from onevec.vector.reduction import Recipe, Reduction

_TARGET_WIDTH = 16


@dataclass(frozen=True)
class Exam:
    """Held-out sequences of two or more tokens, and the questions about their halves.

    Whatever is judged is asked the same.

    Attributes
    ----------
    rows : ndarray
        The held-out sequences.
    held : ndarray
        Their places among the prepared rows.
    lengths : ndarray
        Their lengths.
    halves : tuple of dict
        Block features of the first and of the second halves.
    questions : tuple of (targets, panel)
        About the second halves (for vectors of the first), and about the first.
    """

    tokens: Tokens
    rows: np.ndarray
    held: np.ndarray
    lengths: np.ndarray
    halves: tuple[Features, Features]
    questions: tuple[tuple[Features, Sequence[np.ndarray]], ...]
    random_state: int

    @classmethod
    def set(
        cls, tokens: Tokens, prepared: Prepared, random_state: int, cache: dict[Any, Any]
    ) -> Exam:
        """Let `ASKING` ask; ``cache`` keeps reductions, see `Reduction.fit`."""
        prepared = prepared.only([name for name in prepared.features if name in ASKING])
        held = prepared.held_out_rows(tokens)
        rows = prepared.rows[held]
        lengths = tokens.lengths.cpu().numpy()[rows]
        both = prepared.held_out_halves(held) or half_features(tokens, rows, prepared.blocks)
        prepared = replace(prepared, features=unsteady(prepared.features, prepared.blocks))
        questions = []
        for hidden in reversed(both):
            targets = _targets(prepared, hidden, lengths, cache)
            questions.append((targets, cluster_panel(targets, random_state)))
        return cls(tokens, rows, held, lengths, both, tuple(questions), random_state)

    def evidence(self, vectors: Sequence[np.ndarray]) -> Evidence:
        """Score what the vectors of both halves know."""
        return Evidence.mean(
            [
                gather_evidence(seen, targets, panel, self.random_state)
                for seen, (targets, panel) in zip(vectors, self.questions, strict=True)
            ]
        )


def _targets(
    prepared: Prepared, hidden: Features, lengths: np.ndarray, cache: dict[Any, Any]
) -> Features:
    """Whitened leading directions of every block of the hidden halves, less what length says."""
    known, nuisance, out = prepared.fitted, prepared.fitted_nuisance, {}
    for name in known:
        reduction = Reduction(Recipe((name,), 0.0, 1.0))
        target = reduction.fit(known, _TARGET_WIDTH, cache, nuisance).transform(hidden)
        out[name] = without_length(target, lengths)
    return out
