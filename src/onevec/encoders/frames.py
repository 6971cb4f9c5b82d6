"""Masked frame modelling: guess the cluster of hidden frames from those around them.

Targets are k-means clusters of the standardised frames, as in the first pass of HuBERT (Hsu et
al. 2021). Whole spans are hidden, since neighbouring frames often overlap and would give a single
one away (wav2vec 2.0, Baevski et al. 2020).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from onevec.encoders.settings import IGNORE, Recipe, backbone
from onevec.errors import InputError, MissingExtraError
from onevec.ragged import Ragged
from onevec.tokens.frames import FRAMES, FrameInput

_CLUSTERS = 256
_PER_CLUSTER = 20  # frames that a cluster needs on average
_SAMPLE = 50_000  # frames that k-means sees
_SPAN = 5  # frames hidden together


class MaskedFrames:
    """Frames with their clusters, a ModernBERT on dense input, and the masking between them."""

    kind = "masked frame model"
    framing = 0

    def __init__(self, corpus: Sequence[Any], recipe: Recipe):
        tokens = Ragged.from_list(list(corpus)).check()
        if len(tokens) < 2:
            raise InputError(
                f"got {len(tokens)} sequences: pretraining needs at least 2, and some hundred to "
                "be of use"
            )
        values = tokens.values.float()
        scale = values.std(0, correction=0)
        shift, scale = values.mean(0), torch.where(scale > 0, scale, 1.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            entry = FrameInput(shift, scale, recipe.dim)
            clusters = _clusters(entry.standardise(values), recipe.seed)
            count = int(clusters.max()) + 1
            self.model = _Model(entry, recipe, count)
        self.recipe = recipe
        self.skipped = 0
        self.fingerprint = frames_fingerprint(tokens)
        self.about = {"frame_dim": tokens.dim, "clusters": count}
        # A frame and its target travel together: the target is the last column.
        joined = torch.cat([values, clusters[:, None].float()], 1)
        self.sequences = list(joined.split(tokens.lengths.tolist()))

    def mask(
        self, batch: Sequence[Float[Tensor, "tokens dim"]], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Pad, and hide spans: 80 % of them blank, 10 % other frames, 10 % as they are."""
        padded = nn.utils.rnn.pad_sequence(list(batch), batch_first=True)
        frames, clusters = padded[..., :-1], padded[..., -1].long()
        lengths = torch.tensor([len(sequence) for sequence in batch])
        attention = torch.arange(padded.shape[1]) < lengths[:, None]
        picked, fate = draw_spans(attention, self.recipe.mask, generator)
        real = frames[attention]
        other = real[torch.randint(len(real), attention.shape, generator=generator)]
        frames = torch.where((picked & (fate >= 0.9))[..., None], other, frames)
        return {
            "frames": frames,
            "hidden": picked & (fate < 0.8),
            "attention_mask": attention,
            "labels": clusters.where(picked, torch.tensor(IGNORE)),
        }

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the backbone as a Hugging Face folder, and how frames enter it beside it."""
        from safetensors.torch import save_file

        nn.Module.to(self.model.backbone, dtype)
        self.model.backbone.save_pretrained(folder)
        save_file(self.model.entry.state_dict(), folder / FRAMES)


class _Model(nn.Module):
    def __init__(self, entry: FrameInput, recipe: Recipe, clusters: int):
        super().__init__()
        try:
            from transformers import ModernBertModel
        except ImportError as error:
            raise MissingExtraError("transformers", "hf") from error
        no_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
        self.entry = entry
        self.blank = nn.Parameter(torch.randn(recipe.dim) * 0.02)
        # Its table of token embeddings has one row, which nothing reads.
        self.backbone = ModernBertModel(backbone(recipe, 1, {"pad_token_id": 0, **no_ids}))
        self.head = nn.Linear(recipe.dim, clusters)

    def forward(
        self,
        frames: Float[Tensor, "seqs width dim"],
        hidden: Bool[Tensor, "seqs width"],
        attention_mask: Bool[Tensor, "seqs width"],
        labels: Int[Tensor, "seqs width"],
    ) -> SimpleNamespace:
        embedded = torch.where(hidden[..., None], self.blank, self.entry(frames))
        states = self.backbone(
            inputs_embeds=embedded, attention_mask=attention_mask
        ).last_hidden_state
        logits = self.head(states)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return SimpleNamespace(logits=logits, loss=loss)


def draw_spans(
    attention: Bool[Tensor, "seqs width"], rate: float, generator: torch.Generator
) -> tuple[Bool[Tensor, "seqs width"], Float[Tensor, "seqs width"]]:
    """Pick about ``rate`` of the real positions in spans; a span has one fate in [0, 1)."""
    seqs, width = attention.shape
    # A position is picked when any of the _SPAN starts that reach it is drawn.
    starts = torch.rand((seqs, width + _SPAN - 1), generator=generator)
    drawn = starts < 1 - (1 - rate) ** (1 / _SPAN)
    fates = torch.rand((seqs, width + _SPAN - 1), generator=generator)
    picked = drawn.unfold(1, _SPAN, 1).any(-1) & attention
    fate = fates.masked_fill(~drawn, 1.0).unfold(1, _SPAN, 1).amin(-1)
    if not bool(picked.any()):  # a tiny batch may draw none, and a mean over none is NaN
        picked[0, 0] = True
        fate[0, 0] = 0.0
    return picked, fate


def frames_fingerprint(tokens: Ragged) -> str:
    """SHA-256 of lengths and values in fp32: the manifest's ``corpus_sha256``."""
    digest = hashlib.sha256(tokens.lengths.long().numpy().tobytes())
    digest.update(tokens.values.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _clusters(values: Float[Tensor, "tokens dim"], seed: int) -> Int[Tensor, " tokens"]:
    from sklearn.cluster import MiniBatchKMeans

    rows = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[:_SAMPLE]
    sample = values[rows].numpy()
    distinct = len(np.unique(sample, axis=0))
    if distinct < 2:
        raise InputError("all frames are equal: there is nothing to learn from them")
    count = min(_CLUSTERS, max(2, len(values) // _PER_CLUSTER), distinct)
    options: dict[str, Any] = {"random_state": seed, "batch_size": 4_096, "n_init": 3}
    kmeans = MiniBatchKMeans(count, **options).fit(sample)
    found = torch.from_numpy(kmeans.predict(values.numpy())).long()
    return found.unique(return_inverse=True)[1]  # without empty clusters
