"""onevec as its users call it: nothing is set but, for the short vector, its dimensions.

In a module of its own, so that the cached results of onevec depend on the code of no other method.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from onevec import OneVec
from protocol.producer import Result

if TYPE_CHECKING:
    from protocol.producer import Context


def onevec(context: Context, seed: int, dim: int | None = None) -> Iterator[Result]:
    """`OneVec().fit(tokens)`, or `OneVec(dim=dim)`."""
    model = OneVec(random_state=seed) if dim is None else OneVec(dim=dim, random_state=seed)
    began = time.process_time()
    model.fit(context.train)
    seconds = time.process_time() - began
    vectors = (model.transform(part) for part in (context.train, context.test))
    yield Result("onevec" if dim is None else f"onevec_{dim}", *vectors, seconds)
