"""The table of objectives of learned poolers: one line each.

An idea has one name here and in the tables of `onevec.encoders.table`: "masked" hides tokens
whether a pooler, a fresh encoder or a given one learns from it.
"""

from __future__ import annotations

from onevec.objectives.assignment import Distillation, Prototypes
from onevec.objectives.base import Objective
from onevec.objectives.contrastive import AlignUniform, InfoNCE, NTXent, Spectral
from onevec.objectives.decorrelation import BarlowTwins, VICReg
from onevec.objectives.predictive import CPC, HeldOutStatistics, MaskedTokens
from onevec.objectives.reconstruction import Autoencoder, Denoising
from onevec.objectives.succession import NextSequence, SequenceOrder

OBJECTIVES: dict[str, type[Objective]] = {
    "info_nce": InfoNCE,
    "nt_xent": NTXent,
    "spectral": Spectral,
    "align_uniform": AlignUniform,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "cpc": CPC,
    "held_out_statistics": HeldOutStatistics,
    "masked": MaskedTokens,
    "next_sequence": NextSequence,
    "sequence_order": SequenceOrder,
    "autoencoder": Autoencoder,
    "denoising": Denoising,
    "prototypes": Prototypes,
    "distillation": Distillation,
}
