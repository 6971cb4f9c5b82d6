"""Functions of tokens written as chains of `Dense` modules, and what to pool of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import nn

OPEN = 40.0  # sigmoid(40) is 1 in fp32: a gate through which a column passes unchanged


@dataclass(frozen=True)
class Columns:
    """Affine functions of columns of a program: ``y = matrix c[places] + bias``.

    Attributes
    ----------
    places : (n,) int array
        Which columns.
    matrix : (width, n) array
    bias : (width,) array
    """

    places: np.ndarray
    matrix: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, places: np.ndarray) -> Columns:
        """The columns themselves."""
        return cls(places, np.eye(len(places)), np.zeros(len(places)))

    def map(self, matrix: np.ndarray, bias: np.ndarray | float = 0.0) -> Columns:
        """Return ``matrix y + bias``."""
        return Columns(self.places, matrix @ self.matrix, matrix @ self.bias + bias)

    def __getitem__(self, rows: slice | np.ndarray) -> Columns:
        """Return some of the functions."""
        return Columns(self.places, self.matrix[rows], self.bias[rows])

    def linear(self) -> Columns:
        """Return the functions without their bias."""
        return Columns(self.places, self.matrix, np.zeros_like(self.bias))

    def plus(self, other: Columns) -> Columns:
        """Return the sum with functions of other columns, or of the same."""
        return Columns(
            np.concatenate([self.places, other.places]),
            np.hstack([self.matrix, other.matrix]),
            self.bias + other.bias,
        )

    def over(self, places: np.ndarray) -> np.ndarray:
        """Return the matrix over other columns (ascending), those of these functions among them."""
        matrix = np.zeros((len(places), len(self.bias)))
        np.add.at(matrix, np.searchsorted(places, self.places), self.matrix.T)
        return matrix.T

    def bound(self, size: float) -> np.ndarray:
        """Return the largest value of each function where every column is within ``±size``."""
        return np.abs(self.matrix).sum(1) * size + np.abs(self.bias)


def stacked(parts: list[Columns]) -> Columns:
    """Put functions of different columns below each other."""
    places = np.unique(np.concatenate([part.places for part in parts]))
    matrix = np.vstack([part.over(places) for part in parts])
    return Columns(places, matrix, np.concatenate([part.bias for part in parts]))


@dataclass(frozen=True)
class _Step:
    activation: type[nn.Module]
    inputs: Columns
    gates: Columns | None
    added: Columns | None
    outputs: np.ndarray


@dataclass
class Program:
    """Columns made from columns, step by step; a step becomes one `Dense` with an activation.

    Columns that a later step reads are carried along by the residual connection of `Dense`
    (beside a GLU, which halves the width, through an open gate). Both are exact.

    Parameters
    ----------
    width : int
        Columns there are at the start, places 0 to ``width - 1``.
    """

    width: int
    steps: list[_Step] = field(default_factory=list)

    def add(
        self,
        activation: type[nn.Module],
        inputs: Columns,
        gates: Columns | None = None,
        added: Columns | None = None,
    ) -> Columns:
        """Add the columns ``activation(inputs) + added``, or with GLU ``inputs * sigmoid(gates)``.

        The activation must be 0 at 0. The bias of ``added`` has no place in a `Dense`: it is 0.
        """
        assert added is None or not added.bias.any(), "a residual connection has no bias"
        outputs = np.arange(len(inputs.bias)) + self.width
        self.width += len(outputs)
        self.steps.append(_Step(activation, inputs, gates, added, outputs))
        return Columns.of(outputs)

    def layers(
        self, wanted: np.ndarray
    ) -> tuple[list[tuple[type[nn.Module], dict[str, np.ndarray]]], np.ndarray]:
        """Return for each step its activation and the weights of its `Dense`, and what they leave.

        What they leave are places of columns, ascending, with all of ``wanted`` among them.
        """
        places, found = np.arange(self.width - sum(len(s.outputs) for s in self.steps)), []
        for number, step in enumerate(self.steps):
            later = [wanted, *(place for s in self.steps[number + 1 :] for place in _read(s))]
            carried = np.intersect1d(places, np.concatenate(later))
            residual = len(carried) or step.added is not None
            if residual and len(carried) + len(step.outputs) == len(places):
                # `Dense` adds its whole input where the widths are equal: carry one column more.
                carried = np.union1d(carried, np.setdiff1d(places, carried)[:1])
            found.append((step.activation, _weights(step, places, carried)))
            places = np.concatenate([carried, step.outputs])
        return found, places


def _read(step: _Step) -> list[np.ndarray]:
    return [part.places for part in (step.inputs, step.gates, step.added) if part is not None]


def _weights(step: _Step, places: np.ndarray, carried: np.ndarray) -> dict[str, np.ndarray]:
    """Return weight and bias, and the residual's weight where columns are carried by it."""
    kept = (places == carried[:, None]).astype(np.float64)
    weight, bias = step.inputs.over(places), step.inputs.bias
    none = np.zeros_like(kept)
    if step.gates is not None:
        gates = np.vstack([none, step.gates.over(places)])
        opened = np.concatenate([np.full(len(kept), OPEN), step.gates.bias])
        return {
            "weight": np.vstack([kept, weight, gates]),
            "bias": np.concatenate([np.zeros(len(kept)), bias, opened]),
        }
    found = {
        "weight": np.vstack([none, weight]),
        "bias": np.concatenate([np.zeros(len(kept)), bias]),
    }
    if len(kept) or step.added is not None:
        added = np.zeros_like(weight) if step.added is None else step.added.over(places)
        found["residual"] = np.vstack([kept, added])
    return found
