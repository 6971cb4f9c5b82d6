"""Encoders of dense frames (audio, pen strokes, time series) that `onevec pretrain` makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.ragged import _as_matrix
from onevec.tokens.frozen import FrozenEncoder, Options, Piece, States, hash_weights, kept_states
from onevec.tokens.huggingface import AutoEncoder

FRAMES = "frames.safetensors"  # beside the backbone's weights: how frames enter it
_FAR = 10.0  # standard deviations; what lies farther is an artefact


class FrameInput(nn.Module):
    """Standardise frames and bring them to the width of the backbone.

    Attributes
    ----------
    shift, scale : (dim_in,) tensors
        Mean and standard deviation of the training frames.
    codebook : (codes, dim_in) tensor or None
        Standardised codewords. With them a frame is a token: the number of its nearest codeword,
        whose embedding is looked up (Baevski, Schneider and Auli 2020, "vq-wav2vec"). Without,
        frames are mapped linearly.
    """

    shift: Tensor
    scale: Tensor
    codebook: Tensor | None

    def __init__(
        self,
        shift: Float[Tensor, " dim_in"],
        scale: Float[Tensor, " dim_in"],
        dim: int,
        codebook: Float[Tensor, "codes dim_in"] | None = None,
    ):
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("codebook", codebook)
        if codebook is None:
            self.linear = nn.Linear(len(shift), dim)
        else:
            self.table = nn.Embedding(len(codebook), dim)
            nn.init.normal_(self.table.weight, std=0.02)

    def standardise(self, frames: Float[Tensor, "*n dim_in"]) -> Float[Tensor, "*n dim_in"]:
        """Return frames of zero mean and unit variance per dimension, clipped."""
        return ((frames - self.shift) / self.scale).clamp(-_FAR, _FAR)

    def forward(self, frames: Float[Tensor, "*n dim_in"]) -> Float[Tensor, "*n dim"]:
        """Return what the backbone reads as embeddings."""
        standard = self.standardise(frames)
        if self.codebook is None:
            return self.linear(standard)
        return self.table(torch.cdist(standard, self.codebook).argmin(-1))

    @classmethod
    def load(cls, folder: Path) -> FrameInput:
        """Read what pretraining saved."""
        from safetensors.torch import load_file

        held = load_file(folder / FRAMES)
        codebook = held.get("codebook")
        dim = len(held["linear.bias"]) if codebook is None else held["table.weight"].shape[1]
        part = cls(held["shift"], held["scale"], dim, codebook)
        part.load_state_dict(held)
        return part


class FrameEncoder(FrozenEncoder):
    """A transformers backbone with `FrameInput` before it: (n, dim_in) arrays in."""

    limit: int

    def __init__(self, name: str, options: Options):
        self.name = name
        self.options = options
        self._auto = AutoEncoder(name, options)
        self.depth = self._auto.depth
        self.input = FrameInput.load(Path(name)).eval().requires_grad_(False)
        self.limit = options.max_length or self._auto.config.max_position_embeddings
        parts = nn.ModuleDict({"frames": self.input, "model": self._auto.model})
        self.fingerprint = hash_weights(parts, None)
        self._auto.to_device()
        self.input.to(options.device)

    def cut(self, sequences: Sequence[Any], start: int) -> list[Piece]:
        """Check arrays; cut or window what is too long."""
        dim = len(self.input.shift)
        pieces = []
        for row, sequence in enumerate(sequences):
            frames = _as_matrix(sequence, start + row).float()
            count = len(frames)
            if frames.shape[1] != dim or not count or not bool(frames.isfinite().all()):
                raise InputError(
                    f"sequence {start + row} (shape {tuple(frames.shape)}) cannot be read by "
                    f"{self.name}: it takes finite (n, {dim}) frames with n of at least 1"
                )
            pieces.extend(
                Piece(row, frames[a:b], b - a, (first - a, last - a))
                for a, b, first, last in self.windows(count, self.limit)
            )
        return pieces

    def run(self, pieces: list[Piece], layers: Sequence[int]) -> list[dict[int, States]]:
        """Pad on the right, run, cut out what is kept."""
        frames = nn.utils.rnn.pad_sequence([piece.inputs for piece in pieces], batch_first=True)
        lengths = torch.tensor([piece.length for piece in pieces])
        with torch.inference_mode():
            embedded = self.input(frames.to(self.options.device))
        attention = (torch.arange(frames.shape[1]) < lengths[:, None]).to(torch.int64)
        features = {"inputs_embeds": embedded, "attention_mask": attention}
        return kept_states(self._auto.hidden(features, layers), pieces)
