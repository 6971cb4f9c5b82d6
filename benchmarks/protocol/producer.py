"""What a method of the benchmark is, and how its vectors are scored.

Apart from the methods themselves: a new method leaves the cached results of all others valid.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onevec.poolers import POOLERS
from onevec.probes.probes import run_probes
from onevec.ragged import Ragged
from onevec.tokens.batches import iter_batches

if TYPE_CHECKING:
    from onevec.probes.outcomes import Outcome
    from onevec.tokens.batches import Tokens
    from protocol.tasks import Unit

DIM = 64
_BATCH_VALUES = 2**21  # of one batch: 8 MiB in fp32


def read(tokens: Tokens) -> Iterator[Ragged]:
    """Go through a source in order, batch by batch."""
    for _, batch in iter_batches(tokens, max(1, _BATCH_VALUES // tokens.dim)):
        yield batch


def pooled(name: str, tokens: Tokens) -> np.ndarray:
    """Plain pooling in fp32."""
    pooler = POOLERS[name]().build(tokens.dim)
    return np.concatenate([pooler(batch).float().numpy() for batch in read(tokens)])


def nothing() -> np.ndarray:
    return np.empty((0, 0), np.float32)


@dataclass
class Result:
    """Vectors of one method on one unit.

    Attributes
    ----------
    seconds : float
        What fitting took, in seconds of one core, so that a busy machine does not matter;
        transforming is not in it.
    note : dict
        What else the table wants to know, such as a verdict.
    known : dict, optional
        Outcomes by target and probe, of a method that has no vectors but predictions.
    """

    name: str
    train: np.ndarray = field(default_factory=nothing)
    test: np.ndarray = field(default_factory=nothing)
    seconds: float = 0.0
    note: dict[str, Any] = field(default_factory=dict)
    known: dict[str, dict[str, Outcome]] | None = None

    @property
    def dim(self) -> int | None:
        return None if self.known else int(self.test.shape[1])


@dataclass
class Context:
    """Token vectors of a unit, and pooled features that several methods share."""

    unit: Unit
    encoder: str
    train: Tokens
    test: Tokens
    budget: float = 60.0  # seconds of one core that each peer may train
    pooled: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)  # of pooling the train part, in seconds

    def pool(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Plain pooling of both parts."""
        if name not in self.pooled:
            began = time.process_time()
            train = pooled(name, self.train)
            self.cost[name] = time.process_time() - began
            self.pooled[name] = train, pooled(name, self.test)
        return self.pooled[name]


@dataclass(frozen=True)
class Producer:
    """A method, or several from one fit.

    Attributes
    ----------
    family : {"plain", "trivial", "onevec", "peer", "text peer", "bound"}
    seeds : callable
        How many fits a row gets.
    rows : tuple of str, optional
        The rows it can run on; all of them when not given.
    """

    name: str
    family: str
    run: Callable[[Context, int], Iterator[Result]]
    seeds: Callable[[str], int] = lambda row: 1
    rows: tuple[str, ...] | None = None

    def applies(self, row: str) -> bool:
        return self.rows is None or row in self.rows

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules whose code decides its results: its own, and this one, which scores."""
        run = self.run.func if isinstance(self.run, functools.partial) else self.run
        return run.__module__, __name__


def score(result: Result, unit: Unit) -> dict[str, dict[str, Outcome]]:
    """Every probe of every target."""
    if result.known is not None:
        return result.known
    return {
        target.name: run_probes(
            result.train[target.train],
            target.y_train,
            result.test if target.kind == "similarity" else result.test[target.test],
            target.y_test,
            target.kind,
            pairs=target.test if target.kind == "similarity" else None,
        )
        for target in unit.targets
    }
