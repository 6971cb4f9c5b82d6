"""What every objective promises: from the vectors of two views to named terms of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

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
        The whole sequences.
    groups : Tensor of int64, shape (seqs,)
        Rows with the same number are the same sequence (exact duplicates): no negatives of each
        other.
    statistics : tuple of Tensor, shape (seqs, statistics), optional
        Whitened rich statistics of each view's tokens.
    teachers : tuple of Tensor, shape (seqs, teacher dim), optional
        Vectors of the whole sequences by other layers or encoders.
    generator : torch.Generator
        Every draw of an objective comes from it.
    """

    views: tuple[Ragged, ...]
    whole: Ragged
    groups: Int[Tensor, " seqs"]
    generator: torch.Generator
    statistics: tuple[Float[Tensor, "seqs statistics"], ...] = ()
    teachers: tuple[Float[Tensor, "seqs teacher"], ...] = ()


class Objective(nn.Module, ABC):
    """A map from the vectors of a batch to named terms, each a scalar to minimise.

    An objective is built in two steps: ``Objective(**options)``, then ``fit(sample, dim)``, which
    learns what it needs (a codebook, a scale) from a sample of token vectors and makes parameters
    for vectors of ``dim`` dimensions. ``build(token_dim, dim)`` alone makes one of the right
    shape, for loading a ``state_dict`` into.

    ``forward`` sees the whole batch at once and never pools: the trainer pools piece by piece and
    takes the gradient with respect to the vectors, so that the batch can be larger than memory
    would allow. A batch of one sequence is no error.

    Attributes
    ----------
    ordered : bool
        Whether the first view must lie before the second in the sequence.
    future : bool
        Whether it predicts tokens that follow, which is trivial when the token vectors already
        saw them (bidirectional encoders).
    needs : tuple of str
        Which optional parts of the `Context` it reads: "statistics", "teachers".
    option_names : tuple of str
        The constructor's keyword arguments.
    """

    ordered: ClassVar[bool] = False
    future: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()
    option_names: ClassVar[tuple[str, ...]] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor's keyword arguments."""
        return {name: getattr(self, name) for name in self.option_names}

    def build(self, token_dim: int, dim: int) -> Self:
        """Make parameters and buffers for tokens of ``token_dim`` and vectors of ``dim``."""
        return self

    def fit(self, sample: Ragged, dim: int, *, random_state: int = 0) -> Self:
        """Build, and learn from a sample of token vectors."""
        if sample.values.shape[0] == 0:
            raise InputError(f"{type(self).__name__} was given a sample without a single token")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            self.build(sample.dim, dim)
        with torch.no_grad():
            self._learn(sample, random_state)
        return self

    def _learn(self, sample: Ragged, random_state: int) -> None:
        """Fill buffers from the sample; nothing to do unless a subclass says so."""

    @abstractmethod
    def forward(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        """Return the named terms; their weighted sum is the objective's own loss."""
