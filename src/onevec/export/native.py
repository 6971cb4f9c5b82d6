"""Poolers as modules that sentence-transformers itself brings, exact in fp32.

Each builder writes its pooler as functions of single tokens, the mean (or maximum) of those, and
functions of these. What makes this possible:

* ``Hardtanh`` clips at ±1, as the token scaler does at ±6.
* ``hardswish(u) = (u² + 3u) / 6`` for ``|u| <= 3``: squares, hence products, second moments and
  covariances.
* ``GLU`` multiplies with a sigmoid: gated attention. And ``sigmoid(s - C)`` is ``exp(s - C)`` up
  to a factor of ``1 + exp(s - C)``: softmax attention, whose normaliser is pooled in a constant
  column so large that dividing by the length of the vector is dividing by it.
* `WordWeights` weights tokens by their ids and leaves special tokens out with weight 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from torch import Tensor, nn

from onevec.estimator import OneVec
from onevec.export.program import Columns, Program, stacked
from onevec.poolers.attention import Attention
from onevec.poolers.covariance import Covariance
from onevec.poolers.random_features import RandomProjection
from onevec.poolers.sets import DeepSets
from onevec.poolers.spec import kind_of
from onevec.poolers.weighting import IDF, SIF
from onevec.vector.module import affine_of
from onevec.vector.scaler import CLIP

_MARGIN = 14.0  # exp(-14) = 8e-7: how far a sigmoid may be from the exponential
_LARGEST = 70.0  # exp(70) times a constant is still a number in fp32
_USUAL = 16.0  # standard deviations that a sum of two whitened directions seldom goes beyond
_STEEP = 1e6
_CONSTANT = 1_000.0  # the constant column of attention over the longest token: error 1 / 2 10^6

Finish = Callable[[Columns, Program], Columns]


def _as_is(pooled: Columns, sequences: Program) -> Columns:
    return pooled


@dataclass(frozen=True)
class PoolPlan:
    """What a block needs of the chain.

    Attributes
    ----------
    columns : Columns
        Functions of tokens, of which the mean, or maximum, is taken.
    finish : callable
        From those means and the program of sequences to the block's features.
    maximum : bool
        Take the maximum, not the mean.
    weights : tuple of (vocabulary + 1,) arrays
        Weights by token id, the last entry for all further ids. Several follow each other, and
        the mean divides by the sum of the last.
    normalise : bool
        Whether what was pooled is divided by its length.
    """

    columns: Columns
    finish: Finish = _as_is
    maximum: bool = False
    weights: tuple[np.ndarray, ...] = ()
    normalise: bool = False


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _mean(pooler: Any, x: Columns, tokens: Program) -> PoolPlan:
    return PoolPlan(x)


def _maximum(columns: Columns, tokens: Program, bound: np.ndarray) -> PoolPlan:
    """Shift above 0: tokens that are left out have weight 0, and 0 must not be the maximum."""
    width = len(bound)
    shifted = tokens.add(nn.Identity, columns.map(np.eye(width), bound + 1))
    return PoolPlan(shifted, lambda pooled, _: pooled.map(np.eye(width), -bound - 1), maximum=True)


def _max(pooler: Any, x: Columns, tokens: Program) -> PoolPlan:
    return _maximum(x, tokens, x.bound(1))


def _min(pooler: Any, x: Columns, tokens: Program) -> PoolPlan:
    turned = -np.eye(len(x.bias))
    part = _maximum(x.map(turned), tokens, x.bound(1))
    return PoolPlan(
        part.columns, lambda pooled, to: part.finish(pooled, to).map(turned), maximum=True
    )


def _random_projection(pooler: RandomProjection, x: Columns, tokens: Program) -> PoolPlan:
    features = x.map(_array(pooler.matrix).T)
    bound = features.bound(1)
    if pooler.nonlinearity != "none":
        kind = {"relu": nn.ReLU, "tanh": nn.Tanh}[pooler.nonlinearity]
        features = tokens.add(kind, features)
    return PoolPlan(features) if pooler.reduce == "mean" else _maximum(features, tokens, bound)


def _idf(pooler: IDF, x: Columns, tokens: Program) -> PoolPlan:
    return PoolPlan(x, weights=(_array(pooler.weight),))


def _sif(pooler: SIF, x: Columns, tokens: Program) -> PoolPlan:
    # A second time with weight 1, so that the sum is divided by the number of tokens.
    weight = _array(pooler.weight)
    return PoolPlan(x, weights=(weight, np.ones_like(weight)))


def _squares(w: Columns, bound: np.ndarray, program: Program) -> Columns:
    """Return the squares of functions that are within ``±bound``.

    ``hardswish(u) - u / 2 = u² / 6`` rounds to a part of the largest u there can be, far above
    what there is. So all within ``±_USUAL`` is squared on its own, and what goes beyond, r, adds
    ``r² + 2 _USUAL |r|``, with ``|r| = hardswish(r) + hardswish(-r)`` of a large multiple.
    """
    one = np.eye(len(bound))
    unit = 2.999 / np.maximum(bound, 1.0)[:, None]
    usual = program.add(nn.Hardtanh, w.map(one / _USUAL)).map(2.999 * one)
    rest = w.plus(usual.map(-_USUAL / 2.999 * one))
    inputs = [usual, rest.map(unit * one), rest.map(_STEEP * one), rest.map(-_STEEP * one)]
    halves = [part.map(-0.5 * one) for part in inputs[:2]]
    nothing = [part.map(0 * one) for part in inputs[2:]]
    made = program.add(nn.Hardswish, stacked(inputs), added=stacked(halves + nothing))
    beyond = 2 * _USUAL / _STEEP * one
    return made.map(np.hstack([6 * (_USUAL / 2.999) ** 2 * one, 6 / unit**2 * one, beyond, beyond]))


def _covariance(pooler: Covariance, x: Columns, tokens: Program) -> PoolPlan:
    basis = _array(pooler.basis)
    rank = basis.shape[1]
    far = x.map(basis.T, -_array(pooler.mean) @ basis)
    row, column = np.triu_indices(rank)
    pairs = np.maximum(np.eye(rank)[row], np.eye(rank)[column])  # z_a, or z_a + z_b
    bound = far.map(pairs).bound(1)
    z = tokens.add(nn.Identity, far)  # columns of its own: sums of two of them round little
    count, ends = len(row), row == column
    # From squares to products: ab = ((a + b)² - a² - b²) / 2, times √2 as in `upper_triangle`.
    own = np.eye(count)[ends]
    products = np.where(ends[:, None], np.eye(count), np.eye(count) - own[row] - own[column])
    products *= np.where(ends, 1.0, 2**-0.5)[:, None]
    moments = _squares(z.map(pairs), bound, tokens).map(products)

    def finish(pooled: Columns, sequences: Program) -> Columns:
        if pooler.centre == "sample":
            return pooled[:count]
        both = sequences.add(nn.Identity, pooled)
        means = _squares(both[count:].map(pairs), bound, sequences)
        return both[:count].plus(means.map(-products))

    return PoolPlan(stacked([moments, z]), finish)


def _attention(pooler: Attention, x: Columns, tokens: Program) -> PoolPlan:
    standard = _standard(pooler, x)
    scorer = pooler.scorer
    hidden = tokens.add(nn.Tanh, _dense(scorer.hidden, standard))
    if scorer.gate is not None:
        hidden = tokens.add(nn.GLU, hidden, _dense(scorer.gate, standard))
    weight = _array(scorer.weight.weight)
    shift = np.abs(weight).sum() + _MARGIN  # above every score
    constant = _CONSTANT * float(np.linalg.norm(x.bound(1))) or 1.0
    width = len(x.bias)
    values = stacked([x, Columns(x.places[:0], np.zeros((1, 0)), np.array([constant]))])
    values = values.map(np.exp(min(shift, _LARGEST)) * np.eye(width + 1))
    gates = hidden.map(np.repeat(weight, width + 1, axis=0), -shift)
    # What was pooled, over its length: the constant column is then 1 up to 1 / 2 10^6.
    back = constant * np.eye(width, width + 1)
    pooled = tokens.add(nn.GLU, values, gates)
    return PoolPlan(pooled, lambda found, _: found.map(back), normalise=True)


def _deep_sets(pooler: DeepSets, x: Columns, tokens: Program) -> PoolPlan:
    return PoolPlan(
        _step(pooler, pooler.before, x, tokens),
        lambda pooled, sequences: _step(pooler, pooler.after, pooled, sequences),
    )


def _step(pooler: DeepSets, layers: Any, x: Columns, program: Program) -> Columns:
    hidden = program.add(nn.GELU, _dense(layers[0], _standard(pooler, x)))
    return x.plus(hidden.map(_array(pooler.spread)[:, None] * _array(layers[2].weight)))


def _standard(pooler: Attention | DeepSets, x: Columns) -> Columns:
    spread = _array(pooler.spread)
    return x.map(np.diag(1 / spread), -_array(pooler.centre) / spread)


def _dense(layer: nn.Linear, x: Columns) -> Columns:
    return x.map(_array(layer.weight), _array(layer.bias))


NATIVE: dict[str, Callable[[Any, Columns, Program], PoolPlan]] = {
    "mean": _mean,
    "max": _max,
    "min": _min,
    "covariance": _covariance,
    "random_projection": _random_projection,
    "deep_sets": _deep_sets,
    "sif": _sif,
    "idf": _idf,
    "attention": _attention,
    "gated_attention": _attention,
}


@dataclass(frozen=True)
class Chain:
    """What becomes modules: tokens, weights, pooling, normalisation, sequences, the last map.

    Attributes
    ----------
    tokens, sequences : list of (activation, weights)
        One `Dense` each, see `Program.layers`.
    modes : tuple of str
        Of `Pooling`.
    weights : tuple of arrays
        See `PoolPlan`.
    width : int
        Columns of a token that are pooled.
    matrix, bias : arrays
        The last `Dense`.
    """

    tokens: list[tuple[type[nn.Module], dict[str, np.ndarray]]]
    weights: tuple[np.ndarray, ...]
    modes: tuple[str, ...]
    width: int
    normalise: bool
    sequences: list[tuple[type[nn.Module], dict[str, np.ndarray]]]
    matrix: np.ndarray
    bias: np.ndarray


def native_chain(model: OneVec) -> Chain:
    """Write a model, whose poolers are all native, as a chain."""
    (layer,) = model.layers_
    blocks = model.blocks_[layer]
    tokens = Program(blocks.scaler.width("raw"))
    raw = Columns.of(np.arange(blocks.scaler.width("raw")))
    names = model.vector_.blocks[layer]
    views = {"raw": raw}
    if not all(blocks.views[name] == "raw" for name in names):
        scale = _array(blocks.scaler.scale)
        unit = 1 / (CLIP * scale)
        within = tokens.add(
            nn.Hardtanh, raw.map(np.diag(unit), -_array(blocks.scaler.shift) * unit)
        )
        views["scaled"] = within.map(CLIP * _array(blocks.scaler.axes).T)
        views["clipped"] = within.map(np.diag(np.where(np.isfinite(scale), CLIP * scale, 0.0)))
    parts = {}
    for name in names:
        pooler = blocks.poolers[name]
        parts[name] = NATIVE[kind_of(pooler)](pooler, views[blocks.views[name]], tokens)
    read = np.concatenate([part.columns.places for part in parts.values()])
    layers, places = tokens.layers(read)
    modes = tuple(
        mode
        for mode, maximum in (("mean", False), ("max", True))
        if any(part.maximum == maximum for part in parts.values())
    )
    sequences = Program(len(modes) * len(places))
    affine, bias = affine_of(model.vector_)
    found = []
    for name, part in parts.items():
        first = len(places) * modes.index("max" if part.maximum else "mean")
        where = np.searchsorted(places, part.columns.places) + first
        pooled = Columns(where, part.columns.matrix, part.columns.bias)
        centre, matrix = affine[name]
        found.append(part.finish(pooled, sequences).map(matrix.T, -centre @ matrix))
    vector = reduce(Columns.plus, found)
    after, left = sequences.layers(vector.places)
    only = next(iter(parts.values()))
    return Chain(
        layers,
        only.weights,
        modes,
        len(places),
        only.normalise,
        after,
        vector.over(left),
        vector.bias + bias,
    )
