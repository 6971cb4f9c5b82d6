"""Poolers: from sequences of token vectors to one vector each.

Read ``base.py`` for the contract and ``table.py`` for what there is.
"""

from onevec.poolers.base import Pooler
from onevec.poolers.concat import Concat, make_pooler
from onevec.poolers.table import POOLERS

__all__ = ["POOLERS", "Concat", "Pooler", "make_pooler"]
