"""Objectives: what a learned pooler is trained for, without labels."""

from onevec.objectives.base import Context, Objective, Vectors
from onevec.objectives.mixture import Mixture, make_objective
from onevec.objectives.table import OBJECTIVES

__all__ = ["OBJECTIVES", "Context", "Mixture", "Objective", "Vectors", "make_objective"]
