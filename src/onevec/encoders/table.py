"""The tables of what an encoder is pretrained and fine-tuned for: one line each.

An idea has one name in both, and in `onevec.objectives.OBJECTIVES`, the table of learned poolers.
"""

from __future__ import annotations

from onevec.encoders.pairs import CropPairs, DropoutPairs, HalvesOrder, NextHalf
from onevec.encoders.terms import (
    MaskedModelling,
    NextToken,
    PredictiveCoding,
    PretrainingObjective,
    ReplacedTokens,
)
from onevec.encoders.tuning.base import FinetuningObjective
from onevec.encoders.tuning.contrast import ApartSpans, CropContrast, Predictive, SimCSE
from onevec.encoders.tuning.rebuild import ContinuedMaskedModelling, DecodeWhole

PRETRAINING: dict[str, type[PretrainingObjective]] = {
    "masked": MaskedModelling,
    "replaced_tokens": ReplacedTokens,
    "crops": CropPairs,
    "simcse": DropoutPairs,
    "next_sequence": NextHalf,
    "sequence_order": HalvesOrder,
    "next_token": NextToken,
    "cpc": PredictiveCoding,
}

FINETUNING: dict[str, type[FinetuningObjective]] = {
    "crops": CropContrast,
    "masked": ContinuedMaskedModelling,
    "simcse": SimCSE,
    "spans": ApartSpans,
    "cpc": Predictive,
    "denoising": DecodeWhole,
}
