"""Poolers: from sequences of token vectors to one vector each.

Read ``base.py`` for the contract, ``segments.py`` for what a pooler is written with, and
``leaves.py`` and ``combine.py`` for what there is.
"""

from onevec.poolers.base import Pooler
from onevec.poolers.combine import POOLERS, Concat, make_pooler

__all__ = ["POOLERS", "Concat", "Pooler", "make_pooler"]
