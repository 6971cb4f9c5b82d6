"""What a step works on: sequences, their views, and what objectives want to know of them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError
from onevec.objectives import Context, Objective
from onevec.ragged import Ragged
from onevec.recipe import KEEP_MEAN, Candidate, Prepared, Reduction, candidates
from onevec.segment import segment_sum
from onevec.tokens.batches import Tokens
from onevec.views import Views

_SAMPLE = 2_000  # sequences that objectives and statistics learn from
_STATISTICS_WIDTH = 16  # whitened directions of each block that make up the rich statistics


def training_rows(tokens: Tokens, prepared: Prepared) -> Int[np.ndarray, " rows"]:
    """Every sequence that is not held out."""
    held = prepared.rows[len(prepared.rows) - prepared.held_out :]
    return np.setdiff1d(np.arange(len(tokens)), held)


def draw_rows(
    rows: Int[np.ndarray, " rows"], batch: int, step: int, random_state: int
) -> Int[np.ndarray, " batch"]:
    """Sequences of a step: pass after pass in a new order; from step and seed alone."""
    batch = min(batch, len(rows))
    turn, place = divmod(step, len(rows) // batch)
    order = np.random.default_rng([random_state, 1, turn]).permutation(rows)
    return np.sort(order[place * batch : (place + 1) * batch])


class Offer:
    """Makes the batch of a step: views and the objectives' `Context`."""

    def __init__(
        self,
        tokens: Tokens,
        prepared: Prepared,
        views: Views,
        objective: Objective,
        *,
        teachers: tuple[Tokens, ...],
        random_state: int,
    ):
        self.tokens, self.views, self.random_state = tokens, views, random_state
        self.needs = objective.needs
        self.blocks = prepared.blocks
        closed = [name for name, pooler in self.blocks.poolers.items() if not pooler.learned]
        self.closed = self.blocks.only(closed)
        picked = np.sort(prepared.rows[: len(prepared.rows) - prepared.held_out][:_SAMPLE])
        raw = tokens[picked]
        self.sample: Ragged = self.blocks.scaled(raw)
        self.statistics: list[Reduction] = []
        self.teachers: list[tuple[Tokens | None, Reduction]] = []
        if "statistics" in self.needs:
            pair = views(raw, picked, self._generator(0))
            known = self.closed(pair.first, closed)
            self.statistics = [
                Reduction(Candidate((name,), 0.0, 1.0)).fit(known, _STATISTICS_WIDTH)
                for name in closed
            ]
        if "teachers" in self.needs:
            self._engage(teachers, prepared, picked)

    @property
    def statistics_width(self) -> int:
        """Dimensions of the rich statistics."""
        return sum(each.dim_out for each in self.statistics)

    def _engage(self, teachers: tuple[Tokens, ...], prepared: Prepared, picked: np.ndarray) -> None:
        """Fit a reduction to each teacher; without any, the closed-form recipe teaches."""
        if not teachers:
            recipe = candidates("quick")[1]
            self.teachers = [(None, Reduction(recipe).fit(prepared.fitted, 64))]
        for teacher in teachers:
            if len(teacher) != len(self.tokens):
                raise InputError(
                    f"got a teacher of {len(teacher)} sequences for {len(self.tokens)}: it must "
                    "hold the same sequences in the same order"
                )
            mean = Candidate(KEEP_MEAN.blocks, 0.0, 0.5)
            known = {"mean": _means(teacher[picked])}
            self.teachers.append((teacher, Reduction(mean).fit(known, 64)))

    def _generator(self, step: int) -> torch.Generator:
        seed = np.random.SeedSequence([self.random_state, 2, step]).generate_state(1)[0]
        return torch.Generator().manual_seed(int(seed))

    def batch(
        self, rows: Int[np.ndarray, " batch"], step: int, device: torch.device
    ) -> tuple[tuple[Ragged, Ragged], Context]:
        """Draw the views of some sequences; those that are too short are left out."""
        generator = self._generator(step)
        raw = self.tokens[rows]
        pair = self.views(raw, rows, generator)
        whole = raw[pair.rows] if len(pair.rows) < len(raw) else raw
        views = pair.first, pair.second
        kept = rows[pair.rows.numpy()]
        context = Context(
            views=tuple(self.blocks.scaled(view).to(device) for view in views),
            whole=(self.blocks.scaled(whole) if "whole" in self.needs else whole).to(device),
            groups=same_sequence(whole).to(device),
            generator=generator,
            statistics=tuple(self._statistics(view).to(device) for view in views)
            if "statistics" in self.needs
            else (),
            teachers=tuple(self._teach(whole, kept, device)) if self.teachers else (),
        )
        return views, context

    def _statistics(self, view: Ragged) -> Float[Tensor, "seqs statistics"]:
        features = self.closed(view, list(self.closed.poolers))
        return torch.from_numpy(np.hstack([each.transform(features) for each in self.statistics]))

    def _teach(self, whole: Ragged, rows: np.ndarray, device: torch.device) -> list[Tensor]:
        found = []
        for teacher, reduction in self.teachers:
            if teacher is None:
                features = self.closed(whole, list(self.closed.poolers))
            else:
                features = {"mean": _means(teacher[rows])}
            found.append(torch.from_numpy(reduction.transform(features)).to(device))
        return found


def _means(tokens: Ragged) -> Float[np.ndarray, "seqs dim"]:
    total = segment_sum(tokens.values, tokens.lengths)
    return (total / tokens.lengths.clamp(min=1)[:, None]).numpy()


def same_sequence(tokens: Ragged) -> Int[Tensor, " seqs"]:
    """Number the sequences so that exact duplicates share a number.

    By length and two random projections of the token sum: equal sequences give equal sums to the
    last bit, others do not in practice.
    """
    total = segment_sum(tokens.values, tokens.lengths).double()
    weights = torch.randn(tokens.dim, 2, generator=torch.Generator().manual_seed(0)).double()
    marks = torch.cat([tokens.lengths[:, None].double(), total @ weights], dim=1)
    return torch.unique(marks, dim=0, return_inverse=True)[1]
