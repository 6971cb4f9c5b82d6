"""What a step works on: sequences, their views, and what objectives want to know of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError
from onevec.objectives import Context, Objective
from onevec.ragged import Ragged
from onevec.segment import segment_mean, segment_sum
from onevec.tokens.batches import Tokens
from onevec.vector.blocks import Features, read
from onevec.vector.held_out import Prepared
from onevec.vector.parts import RICH
from onevec.vector.reduction import MEAN, Recipe, Reduction
from onevec.views import Views

_SAMPLE = 2_000  # sequences that objectives and statistics learn from
_SAMPLE_VALUES = 2**24  # and at most so many token values: 64 MiB in fp32
_TEACHER_WIDTH = 64
_STATISTICS_WIDTH = 16  # whitened directions of each block that make up the rich statistics


def training_rows(tokens: Tokens, prepared: Prepared) -> Int[np.ndarray, " rows"]:
    """Every sequence that is not held out."""
    return np.setdiff1d(np.arange(len(tokens)), prepared.rows[prepared.count :])


def draw_seed(*numbers: int, bits: Literal[32, 63] = 32) -> int:
    """Make one seed of several numbers; one of 63 bits fills what `torch.manual_seed` takes."""
    words = np.random.SeedSequence(numbers).generate_state(
        1, np.uint64 if bits == 63 else np.uint32
    )
    return int(words[0]) >> (bits == 63)


def draw_rows(
    rows: Int[np.ndarray, " rows"], batch: int, step: int, random_state: int
) -> Int[np.ndarray, " batch"]:
    """Sequences of a step: pass after pass in a new order; from step and seed alone."""
    batch = min(batch, len(rows))
    turn, place = divmod(step, len(rows) // batch)
    order = np.random.default_rng([random_state, 1, turn]).permutation(rows)
    return np.sort(order[place * batch : (place + 1) * batch])


class BatchMaker:
    """Makes the batch of a step: views and the objectives' `Context`.

    Sequences are read a token budget at a time and cut to their views at once: memory follows the
    views, not the sequences, unless an objective reads whole ones.

    Attributes
    ----------
    sample : Ragged
        Token vectors as poolers see them, for objectives to learn from.
    """

    def __init__(
        self,
        tokens: Tokens,
        rows: Int[np.ndarray, " rows"],
        prepared: Prepared,
        views: Views,
        objective: Objective,
        *,
        teachers: tuple[Tokens, ...],
        random_state: int,
    ):
        self.tokens, self.rows, self.views = tokens, rows, views
        self.random_state = random_state
        self.needs = objective.needs
        self.blocks = prepared.blocks
        self.closed = prepared.closed().blocks
        lengths = tokens.lengths.numpy()
        usable = rows[views.usable(lengths[rows], rows)]
        picked = np.random.default_rng([random_state, 3]).permutation(usable)[:_SAMPLE]
        within = np.cumsum(lengths[picked]) * tokens.dim <= _SAMPLE_VALUES
        picked = np.sort(picked[: max(2, int(within.sum()))])
        self.sample = Ragged.concat([self.blocks.scaled(part) for part in read(tokens, picked)])
        self.statistics: list[Reduction] = []
        self.teachers: list[tuple[Tokens | None, Reduction]] = []
        if "statistics" in self.needs:
            first = self._cut(picked, self._generator(0)).first
            known = self._features(first)
            self.statistics = [
                Reduction(Recipe((name,), 0.0, 1.0)).fit(known, _STATISTICS_WIDTH) for name in known
            ]
        if "teachers" in self.needs:
            self._fit_teachers(teachers, prepared, picked)

    @property
    def statistics_width(self) -> int:
        """Dimensions of the rich statistics."""
        return sum(each.dim_out for each in self.statistics)

    def _fit_teachers(
        self, teachers: tuple[Tokens, ...], prepared: Prepared, picked: np.ndarray
    ) -> None:
        """Fit a reduction to each teacher; without any, the closed-form recipe teaches."""
        if not teachers:
            self.teachers = [(None, Reduction(RICH).fit(prepared.fitted, _TEACHER_WIDTH))]
        for teacher in teachers:
            if len(teacher) != len(self.tokens):
                raise InputError(
                    f"got a teacher of {len(teacher)} sequences for {len(self.tokens)}: it must "
                    "hold the same sequences in the same order"
                )
            mean = Recipe((MEAN,), 0.0, 0.5)
            known = {"mean": _means(teacher, picked)}
            self.teachers.append((teacher, Reduction(mean).fit(known, _TEACHER_WIDTH)))

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(draw_seed(self.random_state, 2, step))

    def step(
        self, step: int, batch: int, device: torch.device
    ) -> tuple[tuple[Ragged, Ragged], Context]:
        """Draw the sequences of a step and their views; those that are too short are left out."""
        rows = draw_rows(self.rows, batch, step, self.random_state)
        generator = self._generator(step)
        drawn = self._cut(rows, generator)
        views = drawn.first, drawn.second
        context = Context(
            views=tuple(self.blocks.scaled(view).to(device) for view in views),
            whole=drawn.whole.to(device),
            groups=torch.unique(drawn.marks, dim=0, return_inverse=True)[1].to(device),
            generator=generator,
            statistics=tuple(self._statistics(view).to(device) for view in views)
            if "statistics" in self.needs
            else (),
            teachers=tuple(self._teacher_vectors(drawn.rows, device)) if len(drawn.rows) else (),
        )
        return views, context

    def _cut(self, rows: Int[np.ndarray, " batch"], generator: torch.Generator) -> _Drawn:
        """Read sequences and cut them to their views, a token budget at a time."""
        parts, done = [], 0
        for raw in read(self.tokens, rows):
            here = rows[done : done + len(raw)]
            done += len(raw)
            pair = self.views(raw, here, generator)
            kept = raw[pair.rows]
            if "whole" in self.needs:
                whole = self.blocks.scaled(kept)
            else:  # its lengths alone
                whole = Ragged(torch.empty(len(kept.values), 0), kept.lengths)
            parts.append(
                _Drawn(pair.first, pair.second, whole, marks_of(kept), here[pair.rows.numpy()])
            )
        return _Drawn(
            Ragged.concat([part.first for part in parts]),
            Ragged.concat([part.second for part in parts]),
            Ragged.concat([part.whole for part in parts]),
            torch.cat([part.marks for part in parts]),
            np.concatenate([part.rows for part in parts]),
        )

    def _features(self, tokens: Ragged) -> Features:
        return self.closed(tokens, list(self.closed.poolers))

    def _statistics(self, view: Ragged) -> Float[Tensor, "seqs statistics"]:
        features = self._features(view)
        return torch.from_numpy(np.hstack([each.transform(features) for each in self.statistics]))

    def _teacher_vectors(self, rows: np.ndarray, device: torch.device) -> Iterator[Tensor]:
        for teacher, reduction in self.teachers:
            if teacher is None:
                features = self.closed.of(self.tokens, rows, list(reduction.recipe.blocks))
            else:
                features = {"mean": _means(teacher, rows)}
            yield torch.from_numpy(reduction.transform(features)).to(device)


@dataclass(frozen=True)
class _Drawn:
    """Views of those sequences of a batch that have some, with what tells duplicates."""

    first: Ragged
    second: Ragged
    whole: Ragged
    marks: Float[Tensor, "seqs marks"]
    rows: Int[np.ndarray, " seqs"]


def _means(tokens: Tokens, rows: np.ndarray) -> Float[np.ndarray, "seqs dim"]:
    parts = [segment_mean(part.values, part.lengths) for part in read(tokens, rows)]
    return torch.cat(parts).numpy()


def marks_of(tokens: Ragged) -> Float[Tensor, "seqs marks"]:
    """Numbers that exact duplicates share: length and two random projections of the token sum.

    Equal sequences give equal sums to the last bit, others do not in practice.
    """
    total = segment_sum(tokens.values, tokens.lengths).double()
    weights = torch.randn(tokens.dim, 2, generator=torch.Generator().manual_seed(0)).double()
    return torch.cat([tokens.lengths[:, None].double(), total @ weights], dim=1)
