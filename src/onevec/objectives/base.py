"""What every objective promises: from the vectors of two views to named terms of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.ragged import Ragged

Vectors = tuple[Float[Tensor, "seqs dim"], ...]


@dataclass(frozen=True)
class Context:
    """What a batch offers besides the vectors; nothing in it carries a gradient.

    Row i of everything belongs to the same sequence.

    Attributes
    ----------
    views : tuple of Ragged
        The token vectors that the vectors were pooled from, one entry per view.
    whole : Ragged
        The whole sequences. Their lengths are always right; their token vectors are prepared as
        the views' only for an objective that needs "whole".
    groups : Tensor of int64, shape (seqs,)
        Rows with the same number are the same sequence (exact duplicates): no negatives of each
        other.
    statistics : tuple of Tensor, shape (seqs, statistics), optional
        Whitened rich statistics of each view's tokens, one entry per view.
    teachers : tuple of Tensor, shape (seqs, teacher dim), optional
        Vectors of the whole sequences by other layers or encoders.
    generator : torch.Generator
        Every draw of an objective comes from it. It may live on another device than the tensors.
    """

    views: tuple[Ragged, ...]
    whole: Ragged
    groups: Int[Tensor, " seqs"]
    generator: torch.Generator
    statistics: tuple[Float[Tensor, "seqs statistics"], ...] = ()
    teachers: tuple[Float[Tensor, "seqs teacher"], ...] = ()


class Loss(nn.Module):
    """Named terms to minimise, each with a weight.

    The objectives of learned poolers, of pretraining and of fine-tuning are losses, and so is a
    `onevec.objectives.Mixture` of them. The constructor keeps each option under the option's
    name, and `option_names` lists them.

    Attributes
    ----------
    option_names : tuple of str
        The constructor's keyword arguments.
    """

    option_names: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor's keyword arguments (those that fitting settles, too)."""
        return {name: getattr(self, name) for name in self.option_names}

    def weight(self, term: str) -> float:
        """Return the weight of a term in the `total`."""
        return 1.0

    def total(self, terms: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Return the loss to minimise: the weighted sum of the terms."""
        return torch.stack([self.weight(name) * term for name, term in terms.items()]).sum()


_ObjectiveT = TypeVar("_ObjectiveT", bound="Objective")


class Objective(Loss, ABC):
    """A map from the vectors of a batch to named terms, each a scalar to minimise.

    An objective is built in two steps: ``Objective(**options)``, then ``fit(sample, dim)``, which
    learns what it needs (a codebook, a scale) from a sample of token vectors and makes parameters
    for vectors of ``dim`` dimensions. ``build(token_dim, dim)`` alone makes one of the right
    shape, for loading a ``state_dict`` into.

    The trainer calls ``terms = objective(outputs, context)``, logs them, and minimises
    ``objective.total(terms)``.

    ``forward`` sees the whole batch at once and never pools: the trainer pools piece by piece and
    takes the gradient with respect to the vectors, so that the batch can be larger than memory
    would allow. Every vector gets a gradient, of zeros where the objective does not read it. A
    batch of one sequence is no error. The order of the rows changes nothing but which random
    draw meets which row.

    A subclass writes `_terms` and, where it has parameters or learns something, `_build` and
    `_learn`.

    Attributes
    ----------
    ordered : bool
        Whether the first view must lie before the second in the sequence.
    future : bool
        Whether it predicts tokens that follow, which is trivial when the token vectors already
        saw them (bidirectional encoders).
    needs : tuple of str
        Which optional parts of the `Context` it reads: "statistics", "teachers", "whole".
    least_views : int
        How many views it takes at least.
    token_dim, dim : int
        Dimensions of token vectors and of vectors; 0 until `fit` or `build`.
    """

    ordered: bool = False
    future: bool = False
    needs: tuple[str, ...] = ()
    least_views: int = 2
    token_dim: int = 0
    dim: int = 0

    def build(self: _ObjectiveT, token_dim: int, dim: int, *, statistics: int = 0) -> _ObjectiveT:
        """Make parameters and buffers for tokens of ``token_dim`` and vectors of ``dim``.

        ``statistics`` is the width of `Context.statistics`, for objectives that need them; once
        given it is among the options.
        """
        self.token_dim, self.dim = token_dim, dim
        self._build(token_dim, dim, statistics)
        return self

    def fit(
        self: _ObjectiveT, sample: Ragged, dim: int, *, statistics: int = 0, random_state: int = 0
    ) -> _ObjectiveT:
        """Build, and learn from a sample of token vectors; move to the sample's device."""
        if sample.values.shape[0] == 0:
            raise InputError(
                f"{type(self).__name__} was given a sample without a single token: "
                "fit on at least one sequence that is not empty"
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(random_state)  # other devices keep their state
            self.build(sample.dim, dim, statistics=statistics)
        with torch.no_grad():
            self._learn(sample.with_values(sample.values.detach()), random_state)
        return self.to(sample.values.device)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        """Register parameters and buffers of the right shapes; most objectives have none."""

    def _learn(self, sample: Ragged, random_state: int) -> None:
        """Fill buffers from the sample; nothing to do unless a subclass says so."""

    @abstractmethod
    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        """Return the named terms; the vectors are fp32."""

    def forward(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        """Return the named terms, fp32 scalars, before any weight; see `total`.

        Raises
        ------
        InputError
            If the objective is not built, there are too few views or no rows, the vectors have
            another dimension, or the context lacks a part that `needs` names.
        """
        self._check(outputs, context)
        with torch.autocast(outputs[0].device.type, enabled=False):
            terms = self._terms(tuple(vectors.float() for vectors in outputs), context)
        # Zero, but with a gradient (of zeros) for every vector: also where a batch is too small
        # for any term, or a view is not read, the trainer's backward pass finds its way.
        nothing = torch.stack([vectors[:0].sum().float() for vectors in outputs]).sum()
        return {name: term + nothing for name, term in terms.items()}

    def _check(self, outputs: Vectors, context: Context) -> None:
        name = type(self).__name__
        if not self.dim:
            raise InputError(
                f"{name} is not fitted: call fit(sample, dim), or build(token_dim, dim) and then "
                "load_state_dict(...)"
            )
        if min(len(outputs), len(context.views)) < self.least_views:
            raise InputError(
                f"{name} got {len(outputs)} vectors per sequence and {len(context.views)} views: "
                f"it takes at least {self.least_views} of each"
            )
        rows = len(context.groups)
        for vectors in outputs:
            if vectors.shape != (rows, self.dim) or rows == 0:
                raise InputError(
                    f"{name} got vectors of shape {tuple(vectors.shape)} for {rows} sequences: it "
                    f"was built for (seqs, {self.dim}) with at least one sequence"
                )
        for part in self.needs:
            if not getattr(context, part):
                raise InputError(
                    f"{name} reads the context's {part}, and there are none: pass them or choose "
                    "another objective"
                )
