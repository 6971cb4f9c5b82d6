"""Objectives on tokens: rebuild what was left out, guess what is hidden."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onevec.encoders.tuning.base import FinetuningObjective, RawBatch
from onevec.encoders.tuning.heads import Decoder, checkpoint_head
from onevec.encoders.tuning.settings import Finetuning
from onevec.encoders.tuning.student import Student, seed_dropout
from onevec.encoders.tuning.trainee import TextTrainee
from onevec.encoders.tuning.views import drop_tokens, window
from onevec.errors import InputError
from onevec.ragged import Ragged


class DecodeWhole(FinetuningObjective):
    """Rebuild the input from the vector of what is left of it (TSDAE).

    A transformer decoder of its own reads the vector and the tokens before, and guesses the next
    one; its input and output are the encoder's own token embeddings, so that any encoder will do.
    Wang, Reimers and Gurevych (2021).

    Parameters
    ----------
    drop : float
        Share of the tokens that is left out.
    layers : int
        Of the decoder.
    """

    option_names = ("drop", "layers")
    least = 2

    def __init__(self, drop: float = 0.6, layers: int = 1):
        super().__init__()
        if not 0 < drop < 1 or layers < 1:
            raise InputError(
                f"denoising got drop={drop}, layers={layers}: drop lies between 0 and 1, layers is "
                "at least 1"
            )
        self.drop, self.layers = float(drop), int(layers)

    def build(self, student: Student, sample: Ragged, settings: Finetuning) -> None:
        """Make the decoder."""
        self.longest = settings.max_length
        width = student.trainee.embed(sample[:1]).shape[1]
        self.decoder = Decoder(student.dim, width, self.layers, self.longest)
        self.guess = student.trainee.guesser(width)
        self.to(student.device)

    def gradients(self, student: Student, batch: RawBatch, weight: float) -> dict[str, float]:
        """Piece by piece: the loss is a mean over tokens."""
        generator = batch.generator
        whole = window(batch.raw[self.usable(batch.raw)], self.longest, generator)
        if not len(whole):
            return {}
        noised = drop_tokens(whole, self.drop, generator)
        # The decoder's softmax over the vocabulary is what memory must hold.
        total, count = 0.0, len(whole.values)
        with student.trainee.one_lookup(whole):
            for place, rows in enumerate(student.groups(whole.lengths)):
                seed_dropout(student.device, batch.seed, 7, place)
                clean = whole[rows]
                vectors, _ = student.encode(noised[rows])
                with student.mixed():
                    states = self.decoder(vectors, student.trainee.embed(clean), clean.lengths)
                    loss = self.guess(states, clean.values).sum() / count
                (weight * loss).backward()
                total += float(loss.detach())
        return {"loss": total, "total": total}


class ContinuedMaskedModelling(FinetuningObjective):
    """Continued masked modelling: guess hidden tokens from those around them.

    With the checkpoint's own head where it has one, which is saved too, else tied to the token
    embeddings; frames by regression. Devlin et al. (2019).

    Parameters
    ----------
    rate : float
        Share of the tokens that is asked for.
    """

    option_names = ("rate",)

    def __init__(self, rate: float = 0.15):
        super().__init__()
        if not 0 < rate < 1:
            raise InputError(f"masked got rate={rate}: it lies between 0 and 1")
        self.rate = float(rate)

    def build(self, student: Student, sample: Ragged, settings: Finetuning) -> None:
        """Take the checkpoint's head, or make one."""
        self.longest = settings.max_length
        trainee = student.trainee
        trainee.hide(sample, self.rate, torch.Generator())  # explains a missing mask token
        made = checkpoint_head(trainee) if isinstance(trainee, TextTrainee) else None
        self.guess = made or trainee.guesser(trainee.embed(sample[:1]).shape[1])
        self.to(student.device)

    def gradients(self, student: Student, batch: RawBatch, weight: float) -> dict[str, float]:
        """Piece by piece: the loss is a mean over the hidden tokens."""
        generator = batch.generator
        whole = window(batch.raw, self.longest, generator)
        shown, picked = student.trainee.hide(whole, self.rate, generator)
        total, count = 0.0, int(picked.sum())
        marked = Ragged(picked[:, None].float(), whole.lengths)
        with student.trainee.one_lookup(whole, shown):
            for place, rows in enumerate(student.groups(whole.lengths)):
                asked = marked[rows].values[:, 0] > 0
                if not bool(asked.any()):
                    continue
                seed_dropout(student.device, batch.seed, 8, place)
                with student.mixed():
                    states = student.trainee(shown[rows]).values
                    if student.trainee.specials:
                        states = _content(states, whole[rows].lengths, student.trainee)
                    chosen = states[asked.to(states.device)]
                    loss = self.guess(chosen, whole[rows].values[asked]).sum() / count
                (weight * loss).backward()
                total += float(loss.detach())
        return {"loss": total, "total": total}


def _content(states: Tensor, lengths: Tensor, trainee: Any) -> Tensor:
    """Take the special tokens off."""
    before, after = len(trainee.head), len(trainee.tail)
    framed = Ragged(states[:, :1], (lengths + before + after).to(states.device))
    end = torch.repeat_interleave(framed.lengths, framed.lengths) - after
    return states[(framed.positions >= before) & (framed.positions < end)]
