"""What text and frames have in common for the objectives: batches in, a vector per token out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from onevec.encoders.batches import FlatTokens, Window

States = Float[Tensor, "seqs width dim"]
Mask = Bool[Tensor, "seqs width"]


@dataclass(frozen=True)
class PaddedBatch:
    """Windows, framed and padded on the right.

    Attributes
    ----------
    inputs : Tensor, shape (seqs, width) of ids or (seqs, width, dim) of frames
    attention : Tensor of bool, shape (seqs, width)
        What is no padding.
    content : Tensor of bool, shape (seqs, width)
        What is neither padding nor a special token.
    targets : Tensor of int64, shape (seqs, width)
        Ids, or clusters of frames.
    rows : Tensor of int64, shape (seqs,)
        Of the corpus.
    """

    inputs: Tensor
    attention: Mask
    content: Mask
    targets: Int[Tensor, "seqs width"]
    rows: Int[Tensor, " seqs"]


class Body(nn.Module, ABC):
    """The network that is trained, whatever its input.

    Attributes
    ----------
    dim : int
        Of a token's vector.
    guesses : int
        Distinct targets: size of the vocabulary, or number of clusters.
    """

    dim: int
    guesses: int

    @abstractmethod
    def embed(self, inputs: Tensor, hidden: Mask | None = None) -> States:
        """Return what enters the transformer; hidden tokens all look the same."""

    @abstractmethod
    def run(self, embedded: States, attention: Mask) -> States:
        """Return the transformer's last states."""

    @abstractmethod
    def guess(self, states: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens guesses"]:
        """Return logits of the targets."""

    def forward(self, inputs: Tensor, attention: Mask, hidden: Mask | None = None) -> States:
        """Return a vector per token."""
        return self.run(self.embed(inputs, hidden), attention)


class Material(ABC):
    """A corpus as numbers, and the body that reads them.

    Attributes
    ----------
    kind : {"text", "frames"}
    framing : int
        Special tokens around a window.
    train, held_out : FlatTokens
    body : Body
    about : dict
        What the manifest says of vocabulary or clusters.
    """

    kind: str
    framing: int
    train: FlatTokens
    held_out: FlatTokens
    body: Body
    about: dict[str, Any]

    @abstractmethod
    def collate(self, windows: Sequence[Window]) -> PaddedBatch:
        """Frame and pad windows."""

    @abstractmethod
    def pick(
        self, content: Mask, rate: float, generator: torch.Generator
    ) -> tuple[Mask, Float[Tensor, "seqs width"]]:
        """Pick about ``rate`` of the content, at least one; with a fate in [0, 1) for each."""

    @abstractmethod
    def noise(self, batch: PaddedBatch, generator: torch.Generator) -> Tensor:
        """Return inputs drawn at random, of the shape of the batch's."""

    @abstractmethod
    def save(self, folder: Path, dtype: torch.dtype, head: bool) -> None:
        """Write a Hugging Face folder, with the head that guesses if it was trained."""


def corrupt(
    batch: PaddedBatch, material: Material, rate: float, generator: torch.Generator
) -> tuple[Tensor, Mask, Mask]:
    """Return inputs, which of them to hide, and which to ask for (Devlin et al. 2019).

    Of those asked for, 80 % are hidden, 10 % replaced at random, 10 % as they are.
    """
    picked, fate = material.pick(batch.content, rate, generator)
    noisy = (picked & (fate >= 0.9)).reshape(*picked.shape, *[1] * (batch.inputs.ndim - 2))
    inputs = torch.where(noisy, material.noise(batch, generator), batch.inputs)
    return inputs, picked & (fate < 0.8), picked


def mean_of(states: States, content: Mask) -> Float[Tensor, "seqs dim"]:
    """Return the mean over a sequence's own tokens."""
    weights = content.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def pad(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """Stack sequences of unequal length, padded on the right."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
