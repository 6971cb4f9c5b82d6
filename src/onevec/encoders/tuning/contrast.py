"""Two views of the input, each encoded alone, and an objective on their vectors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onevec.encoders.tuning.base import FinetuningObjective, RawBatch
from onevec.encoders.tuning.layers import ensure_dropout
from onevec.encoders.tuning.settings import Finetuning
from onevec.encoders.tuning.student import Student, descend
from onevec.encoders.tuning.views import ShareCrops, Twice
from onevec.errors import InputError
from onevec.objectives import Context, make_objective
from onevec.ragged import Ragged
from onevec.views import Prefixes, Spans, Views, take_spans

_INFO_NCE = {"info_nce": (1.0, {"temperature": 0.05})}


class _Contrast(FinetuningObjective):
    """Two views of the input, each encoded alone, and an objective on their vectors."""

    option_names = ("objective",)
    views: Views

    def __init__(self, objective: str | Mapping[str, Any] | None = None):
        super().__init__()
        self.objective = objective or _INFO_NCE
        self.inner = make_objective(self.objective)
        if self.inner.needs:
            raise InputError(
                f"the objective {self.objective!r} reads {self.inner.needs[0]}, which are not "
                "there when an encoder is fine-tuned: choose another, such as info_nce"
            )

    @abstractmethod
    def _make_views(self, student: Student, sample: Ragged, longest: int) -> Views:
        """Make the views for sequences like those of the sample."""

    def build(self, student: Student, sample: Ragged, settings: Finetuning) -> None:
        """Fit the objective to the tokens of the untrained encoder."""
        self.views = self._make_views(student, sample, settings.max_length)
        self.least = self.views.least
        if self.inner.ordered and not self.views.ordered:
            raise InputError(
                f"the objective {self.objective!r} asks which tokens come later, and these views "
                "have no order: use cpc or spans"
            )
        tokens = student.tokens(sample).to(student.device)
        self.inner.fit(tokens, student.dim, random_state=settings.random_state)

    def gradients(self, student: Student, batch: RawBatch, weight: float) -> dict[str, float]:
        """Gradients of a batch of any size, see `descend`."""
        told: dict[str, float] = {}
        generator = batch.generator
        pair = self.views(batch.raw, np.arange(len(batch.raw)), generator)
        if len(pair.rows) < 2:
            return told
        lengths = batch.raw.lengths[pair.rows]
        groups = batch.groups[pair.rows].to(student.device)

        def loss(vectors: tuple[Tensor, ...], tokens: tuple[Ragged, ...]) -> Tensor:
            # Of the whole sequences an objective may know the lengths.
            whole = Ragged(torch.empty(int(lengths.sum()), 0), lengths).to(student.device)
            context = Context(tokens, whole, groups, generator)
            terms = self.inner(vectors, context)
            total = self.inner.total(terms)
            told.update({name: float(term.detach()) for name, term in terms.items()})
            told["total"] = float(total.detach())
            return weight * total

        descend(student, (pair.first, pair.second), loss, batch.seed)
        return told


class SimCSE(_Contrast):
    """The same input twice under the encoder's own dropout (Gao et al. 2021)."""

    def _make_views(self, student: Student, sample: Ragged, longest: int) -> Views:
        return Twice(longest)

    def build(self, student: Student, sample: Ragged, settings: Finetuning) -> None:
        """Switch dropout on where it is off."""
        if not ensure_dropout(student.trainee.backbone, settings.dropout):
            raise InputError(
                f"{student.trainee.name} has no dropout, on which simcse lives: choose crops"
            )
        super().build(student, sample, settings)


class CropContrast(_Contrast):
    """Two contiguous crops of the input, drawn alone; they may overlap.

    Giorgi et al. (2021), DeCLUTR; González-Márquez et al. (2025) on crops against dropout.

    Parameters
    ----------
    share : (float, float)
        Least and greatest share of the sequence in a crop.
    objective : str or mapping
        As `make_objective` reads it; default InfoNCE with temperature 0.05.
    """

    option_names = ("share", "objective")

    def __init__(
        self,
        share: tuple[float, float] = (0.4, 0.8),
        objective: str | Mapping[str, Any] | None = None,
    ):
        super().__init__(objective)
        low, high = share
        if not 0 < low <= high < 1:
            raise InputError(f"crops got share={share!r}: two numbers between 0 and 1, in order")
        self.share = float(low), float(high)

    def _make_views(self, student: Student, sample: Ragged, longest: int) -> Views:
        return ShareCrops(self.share, longest)


class ApartSpans(_Contrast):
    """Two spans of one size that lie apart, so that nothing but the sequence joins them.

    Babaev et al. (2022), CoLES, with disjoint slices.

    Parameters
    ----------
    size : int, optional
        Tokens of a span; default: as many as nine in ten sequences have room for twice.
    objective : str or mapping
        As `make_objective` reads it; default InfoNCE with temperature 0.05.
    """

    option_names = ("size", "objective")

    def __init__(self, size: int | None = None, objective: str | Mapping[str, Any] | None = None):
        super().__init__(objective)
        self.size = size

    def _make_views(self, student: Student, sample: Ragged, longest: int) -> Views:
        return Spans(_span_size(sample, self.size, longest), 0)


class Predictive(_Contrast):
    """From the vector of a prefix to the tokens that follow, each encoded alone (CPC).

    Nothing leaks, whether the encoder is causal or not. Van den Oord et al. (2018).

    Parameters
    ----------
    size : int, optional
        Tokens that follow, of which ``steps`` are predicted.
    steps : int
        How many tokens are predicted.
    """

    option_names = ("size", "steps")

    def __init__(self, size: int | None = None, steps: int = 4):
        super().__init__({"cpc": (1.0, {"steps": steps})})
        self.size, self.steps = size, steps

    def _make_views(self, student: Student, sample: Ragged, longest: int) -> Views:
        return _CutPrefixes(_span_size(sample, self.size, longest), longest)


class _CutPrefixes(Prefixes):
    """Prefixes of which the last ``longest`` tokens are read."""

    def __init__(self, size: int, longest: int):
        super().__init__(size, 0)
        self.longest = longest

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        first, future = super()._draw(tokens, rows, generator)
        sizes = first.lengths.clamp(max=self.longest)
        return take_spans(first, first.lengths - sizes, sizes), future


def _span_size(sample: Ragged, size: int | None, longest: int) -> int:
    """Tokens of a span: given, or half of what nine in ten sequences have, to 64 at most."""
    room = int(np.quantile(sample.lengths.numpy(), 0.1))
    return min(size or min(max(1, room // 2), 64), longest)
