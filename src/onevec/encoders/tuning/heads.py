"""What stands on an encoder while it is fine-tuned: a decoder, a masked-modelling head."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from onevec.encoders.tuning.trainee import TextTrainee
from onevec.tokens.huggingface import quiet


def sinusoids(count: int, width: int) -> Float[Tensor, "count width"]:
    """Positions as sines and cosines (Vaswani et al. 2017)."""
    rate = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2) / width)
    angle = torch.arange(count)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]


class Decoder(nn.Module):
    """A causal transformer that reads one vector, and what came before: states for what comes.

    Parameters
    ----------
    dim : int
        Dimensions of the vector.
    width : int
        Of what it reads, and of its states.
    layers : int
        How many.
    longest : int
        Most positions.
    """

    positions: Tensor

    def __init__(self, dim: int, width: int, layers: int, longest: int):
        super().__init__()
        heads = max(k for k in range(1, max(1, width // 32) + 1) if width % k == 0)
        layer = nn.TransformerDecoderLayer(
            width, heads, 2 * width, dropout=0.1, activation="gelu", batch_first=True
        )
        self.body = nn.TransformerDecoder(layer, layers)
        self.memory = nn.Linear(dim, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.scale = nn.LayerNorm(width)
        self.register_buffer("positions", sinusoids(longest, width), persistent=False)

    def forward(
        self,
        vectors: Float[Tensor, "seqs dim"],
        read: Float[Tensor, "tokens width"],
        lengths: Int[Tensor, " seqs"],
    ) -> Float[Tensor, "tokens width"]:
        """Return for each token the state that guesses it from the vector and what came before."""
        lengths = lengths.to(read.device)
        rows = list(torch.split(read, lengths.tolist()))
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, :-1]
        first = self.start.expand(len(rows), 1, -1).to(padded.dtype)
        known = torch.cat([first, padded], 1)
        known = self.scale(known + self.positions[: known.shape[1]])
        width = known.shape[1]
        later = torch.ones(width, width, dtype=torch.bool, device=read.device).triu(1)
        # Padding stands behind all that is asked for: the causal mask hides it.
        states = self.body(known, self.memory(vectors)[:, None], tgt_mask=later)
        return states[torch.arange(width, device=read.device) < lengths[:, None]]


class _Given(nn.Module):
    """Stands where the backbone was: returns the states it is told."""

    states: Tensor

    def forward(self, *_: Any, **__: Any) -> Any:
        return _States(last_hidden_state=self.states)


class _States(SimpleNamespace):
    """An output that is read by name or by place."""

    hidden_states = None
    attentions = None

    def __getitem__(self, place: int) -> Tensor:
        return (self.last_hidden_state,)[place]


class CheckpointHead(nn.Module):
    """The masked-modelling head that a checkpoint has, on states that are given to it."""

    def __init__(self, model: Any, prefix: str):
        super().__init__()
        self.model = model
        self.given = _Given()
        setattr(model, prefix, self.given)

    def forward(self, states: Float[Tensor, "tokens width"], raw: Tensor) -> Tensor:
        """Cross entropy over the whole vocabulary."""
        self.given.states = states[None]
        logits = self.model(input_ids=raw[:, 0].long()[None].to(states.device)).logits[0]
        target = raw[:, 0].long().to(logits.device)
        return nn.functional.cross_entropy(logits.float(), target, reduction="none")


def checkpoint_head(trainee: TextTrainee) -> CheckpointHead | None:
    """Open the head of a checkpoint, tied to the weights in training; None if it has none."""
    from transformers import AutoModelForMaskedLM

    if not Path(trainee.name).is_dir() or trainee.sentence_transformer:
        return None
    try:
        with quiet():
            model, report = AutoModelForMaskedLM.from_pretrained(
                trainee.name, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (ValueError, OSError):  # an architecture without such a head
        return None
    prefix = model.base_model_prefix
    inside = prefix + "."
    if any(not key.startswith(inside) for key in report["missing_keys"]):
        return None
    setattr(model, prefix, trainee.backbone)
    model.tie_weights()
    trainee.masked_model = [model]
    return CheckpointHead(model, prefix)
