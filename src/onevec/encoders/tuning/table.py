"""The table of what an encoder is fine-tuned for, and several at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from onevec.encoders.tuning.base import Aim, Batch
from onevec.encoders.tuning.contrast import ApartSpans, Crops, Predictive, SimCSE
from onevec.encoders.tuning.rebuild import Denoise, Masked
from onevec.encoders.tuning.student import Student, draw_seed
from onevec.errors import make_named
from onevec.objectives.mixture import read_parts
from onevec.ragged import Ragged

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
        rule = 'pass a name, "crops=1,masked=0.5", or a mapping of names to weights'
        found = read_parts(spec, "objective", rule)
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
