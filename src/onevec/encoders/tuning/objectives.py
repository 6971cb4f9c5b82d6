"""What an encoder is fine-tuned for, without labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from onevec.encoders.tuning.heads import Decoder, checkpoint_head
from onevec.encoders.tuning.layers import ensure_dropout
from onevec.encoders.tuning.student import Student, descend, draw_seed
from onevec.encoders.tuning.trainee import TextTrainee
from onevec.encoders.tuning.views import ShareCrops, Twice, drop_tokens, window
from onevec.errors import InputError, make_named
from onevec.objectives import Context, make_objective
from onevec.objectives.mixture import _read_weights, _weight_and_options
from onevec.ragged import Ragged
from onevec.views import Prefixes, Spans, Views, take_spans

_CONTRAST = {"info_nce": (1.0, {"temperature": 0.05})}


@dataclass(frozen=True)
class Batch:
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


class Aim(nn.Module, ABC):
    """Something to fine-tune for: adds its gradients and names its terms.

    Its parameters (decoders, heads) are trained with the encoder and dropped at the end. The
    constructor keeps each option under the option's name, and `option_names` lists them.

    Attributes
    ----------
    least : int
        Tokens that a sequence needs; shorter ones are left out.
    """

    option_names: tuple[str, ...] = ()
    least: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor's keyword arguments."""
        return {name: getattr(self, name) for name in self.option_names}

    @abstractmethod
    def build(self, student: Student, sample: Ragged, settings: Any) -> None:
        """Make parameters for an encoder; ``sample`` holds raw sequences."""

    @abstractmethod
    def gradients(self, student: Student, batch: Batch, weight: float) -> dict[str, float]:
        """Add the gradients of ``weight`` times the loss; return the named terms."""

    def usable(self, raw: Ragged) -> Tensor:
        """Rows that are long enough."""
        return (raw.lengths >= self.least).nonzero().flatten()


class _Contrast(Aim):
    """Two views of the input, each encoded alone, and an objective on their vectors."""

    option_names = ("objective",)
    views: Views

    def __init__(self, objective: str | Mapping[str, Any] | None = None):
        super().__init__()
        self.objective = objective or _CONTRAST
        self.inner = make_objective(self.objective)
        if self.inner.needs:
            raise InputError(
                f"the objective {self.objective!r} reads {self.inner.needs[0]}, which are not "
                "there when an encoder is fine-tuned: choose another, such as info_nce"
            )

    @abstractmethod
    def _make_views(self, student: Student, sample: Ragged, longest: int) -> Views:
        """Make the views for sequences like those of the sample."""

    def build(self, student: Student, sample: Ragged, settings: Any) -> None:
        """Fit the objective to the tokens of the untrained encoder."""
        self.views = self._make_views(student, sample, settings.max_length)
        self.least = self.views.least
        if self.inner.ordered and not self.views.ordered:
            raise InputError(
                f"the objective {self.objective!r} asks which tokens come later, and these views "
                "have no order: use cpc or spans"
            )
        tokens = student.tokens(sample).to(student.device)
        self.inner.fit(tokens, student.dim, random_state=settings.seed)

    def gradients(self, student: Student, batch: Batch, weight: float) -> dict[str, float]:
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

    def build(self, student: Student, sample: Ragged, settings: Any) -> None:
        """Switch dropout on where it is off."""
        if not ensure_dropout(student.trainee.backbone, settings.dropout):
            raise InputError(
                f"{student.trainee.name} has no dropout, on which simcse lives: choose crops"
            )
        super().build(student, sample, settings)


class Crops(_Contrast):
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


class Denoise(Aim):
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
                f"denoise got drop={drop}, layers={layers}: drop lies between 0 and 1, layers is "
                "at least 1"
            )
        self.drop, self.layers = float(drop), int(layers)

    def build(self, student: Student, sample: Ragged, settings: Any) -> None:
        """Make the decoder."""
        self.longest = settings.max_length
        width = student.trainee.embed(sample[:1]).shape[1]
        self.decoder = Decoder(student.dim, width, self.layers, self.longest)
        self.guess = student.trainee.guesser(width)
        self.to(student.device)

    def gradients(self, student: Student, batch: Batch, weight: float) -> dict[str, float]:
        """Piece by piece: the loss is a mean over tokens."""
        generator = batch.generator
        whole = window(batch.raw[self.usable(batch.raw)], self.longest, generator)
        if not len(whole):
            return {}
        noised = drop_tokens(whole, self.drop, generator)
        # The decoder's softmax over the vocabulary is what memory must hold.
        total, count = 0.0, len(whole.values)
        for place, rows in enumerate(student.groups(whole.lengths)):
            torch.manual_seed(draw_seed(batch.seed, 7, place))
            clean = whole[rows]
            vectors, _ = student.encode(noised[rows])
            with student.mixed():
                states = self.decoder(vectors, student.trainee.embed(clean), clean.lengths)
                loss = self.guess(states, clean.values).sum() / count
            (weight * loss).backward()
            total += float(loss.detach())
        return {"loss": total, "total": total}


class Masked(Aim):
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

    def build(self, student: Student, sample: Ragged, settings: Any) -> None:
        """Take the checkpoint's head, or make one."""
        self.longest = settings.max_length
        trainee = student.trainee
        trainee.hide(sample, self.rate, torch.Generator())  # explains a missing mask token
        made = checkpoint_head(trainee) if isinstance(trainee, TextTrainee) else None
        self.guess = made or trainee.guesser(trainee.embed(sample[:1]).shape[1])
        self.to(student.device)

    def gradients(self, student: Student, batch: Batch, weight: float) -> dict[str, float]:
        """Piece by piece: the loss is a mean over the hidden tokens."""
        generator = batch.generator
        whole = window(batch.raw, self.longest, generator)
        shown, picked = student.trainee.hide(whole, self.rate, generator)
        total, count = 0.0, int(picked.sum())
        marked = Ragged(picked[:, None].float(), whole.lengths)
        for place, rows in enumerate(student.groups(whole.lengths)):
            asked = marked[rows].values[:, 0] > 0
            if not bool(asked.any()):
                continue
            torch.manual_seed(draw_seed(batch.seed, 8, place))
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


FINETUNING: dict[str, type[Aim]] = {
    "simcse": SimCSE,
    "crops": Crops,
    "spans": ApartSpans,
    "cpc": Predictive,
    "denoise": Denoise,
    "masked": Masked,
}


class Aims(nn.Module):
    """Several aims at once, with their weights.

    Parameters
    ----------
    spec : str, or mapping of name to weight or (weight, options)
        Entries of `FINETUNING`, such as ``"crops=1,masked=0.5"``.
    """

    def __init__(self, spec: str | Mapping[str, Any]):
        super().__init__()
        parts = _read_weights(spec) if isinstance(spec, str) else spec
        if not isinstance(parts, Mapping) or not parts:
            raise InputError(
                f'got objective={spec!r}: pass a name, "crops=1,masked=0.5", or a mapping of names '
                "to weights"
            )
        found = {name: _weight_and_options(name, part) for name, part in parts.items()}
        self.weights = {name: weight for name, (weight, _) in found.items()}
        self.members: dict[str, Aim] = {
            name: make_named("objective", name, FINETUNING, options)
            for name, (_, options) in found.items()
        }
        self.parts = nn.ModuleDict(self.members)

    @property
    def options(self) -> dict[str, Any]:
        """Return weights and options, ready for JSON."""
        return {name: [self.weights[name], aim.options] for name, aim in self.members.items()}

    def build(self, student: Student, sample: Ragged, settings: Any) -> None:
        """Build every aim; each as it would be alone."""
        for aim in self.members.values():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                aim.build(student, sample, settings)

    def gradients(self, student: Student, batch: Batch) -> dict[str, float]:
        """Add every aim's gradients; return the named terms and their weighted ``total``."""
        told, total = {}, 0.0
        for number, (name, aim) in enumerate(self.members.items()):
            part = Batch(batch.raw, batch.groups, draw_seed(batch.seed, number))
            terms = aim.gradients(student, part, self.weights[name])
            total += self.weights[name] * terms.pop("total", 0.0)
            told |= {f"{name}.{term}": value for term, value in terms.items()}
        return told | {"total": total}

    def least(self) -> int:
        """Tokens that a sequence needs to be of use to any aim."""
        return min(aim.least for aim in self.members.values())
