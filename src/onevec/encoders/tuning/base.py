"""What fine-tuning is for: the contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from onevec.encoders.tuning.settings import Finetuning
from onevec.encoders.tuning.student import Student
from onevec.objectives.base import Loss
from onevec.ragged import Ragged


@dataclass(frozen=True)
class RawBatch:
    """The raw sequences of a step.

    Attributes
    ----------
    groups : Tensor of int64
        Equal for exact duplicates.
    seed : int
        Every draw comes from it.
    """

    raw: Ragged
    groups: Int[Tensor, " seqs"]
    seed: int

    @property
    def generator(self) -> torch.Generator:
        """A fresh generator of the step's draws."""
        return torch.Generator().manual_seed(self.seed)


class FinetuningObjective(Loss, ABC):
    """Something to fine-tune for: adds its gradients and names its terms.

    Its parameters (decoders, heads) are trained with the encoder and dropped at the end.

    Attributes
    ----------
    least : int
        Tokens that a sequence needs; shorter ones are left out.
    """

    least: int = 1

    @abstractmethod
    def build(self, student: Student, sample: Ragged, settings: Finetuning) -> None:
        """Make parameters for an encoder; ``sample`` holds raw sequences."""

    @abstractmethod
    def gradients(self, student: Student, batch: RawBatch, weight: float) -> dict[str, float]:
        """Add the gradients of ``weight`` times the loss; return the named terms."""

    def usable(self, raw: Ragged) -> Tensor:
        """Rows that are long enough."""
        return (raw.lengths >= self.least).nonzero().flatten()
