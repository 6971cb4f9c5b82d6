"""Poolers: from sequences of token vectors to one vector each.

Read ``base.py`` for the contract, ``segments.py`` for what a pooler is written with, and
``leaves.py`` and ``combine.py`` for what there is. ``spec.py`` reads how poolers are asked for.
"""

from onevec.poolers.base import Pooler
from onevec.poolers.combine import POOLERS, Concat, make_pooler
from onevec.poolers.segments import Segments

__all__ = ["POOLERS", "Concat", "Pooler", "Segments", "make_pooler"]
