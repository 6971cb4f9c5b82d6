"""A fitted model as one torch module: scaler, poolers, reduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from onevec.blocks import show
from onevec.errors import InputError
from onevec.poolers import POOLERS
from onevec.project.base import Linear
from onevec.ragged import Ragged
from onevec.reduction import SHORTEST, Reduction

if TYPE_CHECKING:
    from onevec.estimator import OneVec

TOLERANCE = 1e-4  # largest difference of an export, in units of the vectors' root mean square norm

Affine = tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]


def affine_of(reduction: Reduction) -> Affine:
    """Return a reduction as ``v = sum_b (f_b - centre_b) matrix_b + bias``, in fp64.

    One that scales blocks to length 1 has no such form.

    Returns
    -------
    blocks : dict of str to (centre, matrix)
        Of shapes (width,) and (width, dim).
    bias : ndarray, shape (dim,)
    """
    assert not reduction.candidate.unit, "a length is no affine function"
    stages = {name: _linear(projection) for name, projection in reduction.inner.items()}
    if reduction.outer is None:
        ((name, only),) = stages.items()
        return {name: (only.mean_, only.matrix_)}, np.zeros(only.matrix_.shape[1])
    outer, blocks, first = _linear(reduction.outer), {}, 0
    for name, inner in stages.items():
        rows = slice(first, first := first + inner.matrix_.shape[1])
        matrix = inner.matrix_ @ outer.matrix_[rows] / reduction.energy[name]
        blocks[name] = (inner.mean_, matrix)
    return blocks, -outer.mean_ @ outer.matrix_


def kind_of(pooler: nn.Module) -> str:
    """Return the name of a pooler in the table of poolers."""
    return next(name for name, kind in POOLERS.items() if type(pooler) is kind)


def _linear(projection: object) -> Linear:
    assert isinstance(projection, Linear), "reductions are made of PCA and whitening"
    return projection


class Reduced(nn.Module):
    """A reduction: block features to the vector in fp32."""

    centre: Tensor
    matrix: Tensor
    bias: Tensor

    def __init__(self, reduction: Reduction):
        super().__init__()
        self.names = list(reduction.candidate.blocks)
        self.unit = reduction.candidate.unit
        self.parts = nn.ModuleList(Reduced(part) for part in reduction.parts)
        self.sizes = reduction.sizes or [1.0] * len(self.names)
        for number, inner in enumerate(reduction.inner.values() if self.unit else ()):
            self._hold(f"centre{number}", _linear(inner).mean_)
            self._hold(f"matrix{number}", _linear(inner).matrix_)
        if self.unit:
            outer = _linear(reduction.outer)
            centre, matrix, bias = outer.mean_, outer.matrix_, np.zeros(outer.matrix_.shape[1])
        else:
            blocks, bias = affine_of(reduction)
            centre = np.concatenate([blocks[name][0] for name in self.names])
            matrix = np.vstack([blocks[name][1] for name in self.names])
        self._hold("centre", centre)
        self._hold("matrix", matrix)
        self._hold("bias", bias)

    def _hold(self, name: str, array: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(array.astype(np.float32)))

    def forward(self, features: Mapping[str, Tensor]) -> Float[Tensor, "seqs dim"]:
        """Reduce block features to the vector."""
        sides = [part(features) for part in self.parts] or [
            self._reduced(number, features[name]) for number, name in enumerate(self.names)
        ]
        if self.unit:
            sides = [
                size * normalize(side, dim=1, eps=SHORTEST)
                for size, side in zip(self.sizes, sides, strict=True)
            ]
        return (torch.cat(sides, dim=1) - self.centre) @ self.matrix + self.bias

    def _reduced(self, number: int, block: Tensor) -> Tensor:
        """Reduce one block; where none is scaled, the last stage does it along the way."""
        if not self.unit:
            return block
        centre, matrix = getattr(self, f"centre{number}"), getattr(self, f"matrix{number}")
        return (block - centre) @ matrix


class Head(nn.Module):
    """Token vectors to the final vector in fp32: what `OneVec.transform` does, without its checks.

    Parameters
    ----------
    model : OneVec
        Fitted. Its poolers are shared, not copied.
    """

    shift: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(self, model: OneVec):
        super().__init__()
        self.names = list(model.reduction_.candidate.blocks)
        found = model.blocks_.poolers
        needs = [name for name in self.names if "layers" in found[name].needs]
        if needs:
            raise InputError(
                f"the pooler {needs[0]!r} mixes several layers, which an export cannot hand to it: "
                "fit with another pooler"
            )
        self.poolers = nn.ModuleDict({name: found[name] for name in self.names})
        self.reduce = Reduced(model.reduction_)
        self.requires_grad_(False)
        self.views = {name: model.blocks_.view(name) for name in self.names}
        for name in ("shift", "scale", "axes"):
            self.register_buffer(name, getattr(model.blocks_, name).clone())

    def seen(self, values: Float[Tensor, "*tokens dim"]) -> dict[str, Tensor]:
        """Return what the blocks see, by their views."""
        return show(values, self.views.values(), self.shift, self.scale, self.axes)

    def forward(self, tokens: Ragged) -> Float[Tensor, "seqs dim"]:
        """Pool sequences, an empty one to the features zero, and reduce."""
        values = self.seen(tokens.values.float())
        seen = {view: tokens.with_values(shown) for view, shown in values.items()}
        return self.reduce(
            {name: pooler(seen[self.views[name]]) for name, pooler in self.poolers.items()}
        )


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference in units of the root mean square norm of ``wanted``."""
    wanted = wanted.astype(np.float64)
    norm = np.sqrt((wanted**2).sum(1).mean()) or 1.0
    return float(np.abs(found - wanted).max() / norm)
