"""Objectives: what a learned pooler is trained for, without labels."""

from onevec.objectives.base import Context, Loss, Objective, Vectors
from onevec.objectives.mixture import Mixture, WeightedSum, make_objective
from onevec.objectives.table import OBJECTIVES

__all__ = [
    "OBJECTIVES",
    "Context",
    "Loss",
    "Mixture",
    "Objective",
    "Vectors",
    "WeightedSum",
    "make_objective",
]
