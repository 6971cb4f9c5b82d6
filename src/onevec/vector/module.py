"""A fitted model as one torch module: scalers, poolers, parts side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.poolers import Pooler
from onevec.poolers.segments import Segments
from onevec.ragged import Ragged
from onevec.vector.blocks import Blocks
from onevec.vector.fitted import FittedPart, Vector, VectorModule

TOLERANCE = 1e-4  # largest difference of an export, in units of the vectors' root mean square norm

Affine = tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]


def affine_of(vector: Vector) -> Affine:
    """Return a vector as ``v = sum_b (f_b - centre_b) matrix_b + bias``, in fp64.

    One in which anything is scaled to length 1 for each sequence has no such form.

    Returns
    -------
    blocks : dict of str to (centre, matrix)
        Of shapes (width,) and (width, dim).
    bias : ndarray, shape (dim,)
    """
    blocks: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    bias = np.zeros(vector.width)
    for part, place in zip(vector.parts, vector.columns, strict=True):
        assert part.length is not None, "a length is no affine function"
        stages, offset = _stages(part)
        scale = part.part.weight / part.length
        columns = slice(place["first"], place["last"])
        bias[columns] += scale * offset
        for name, (centre, matrix) in stages.items():
            first = blocks.get(name)
            known = (centre, np.zeros((len(centre), vector.width))) if first is None else first
            known[1][:, columns] += scale * matrix
            bias[columns] += scale * (known[0] - centre) @ matrix
            blocks[name] = known
    if vector.shorter is None:
        return blocks, bias
    mean, matrix = vector.shorter.mean_, vector.shorter.matrix_
    return {name: (c, m @ matrix) for name, (c, m) in blocks.items()}, (bias - mean) @ matrix


def _stages(part: FittedPart) -> Affine:
    """Return what a part is before it is scaled, as `affine_of` does."""
    width, clear = part.width, part.clear
    if part.reduction is None:
        return {part.block: (part.centre, clear)}, np.zeros(width)
    reduction = part.reduction
    assert not reduction.recipe.unit, "a length is no affine function"
    if reduction.outer is None:
        ((name, only),) = reduction.inner.items()
        return {name: (only.mean_, only.matrix_ @ clear)}, -part.centre @ clear
    outer, blocks, first = reduction.outer, {}, 0
    for name, inner in reduction.inner.items():
        rows = slice(first, first := first + inner.matrix_.shape[1])
        matrix = inner.matrix_ @ outer.matrix_[rows] / reduction.energy[name]
        blocks[name] = (inner.mean_, matrix @ clear)
    return blocks, (-outer.mean_ @ outer.matrix_ - part.centre) @ clear


class LayerModule(nn.Module):
    """The scaler of one hidden state, and the poolers that the vector reads of it."""

    def __init__(self, blocks: Blocks, names: list[str]):
        super().__init__()
        self.poolers = nn.ModuleDict({name: blocks.poolers[name] for name in names})
        self.views = {name: blocks.views[name] for name in names}
        self.scaler = blocks.scaler

    def each(self) -> Iterator[Pooler]:
        """The poolers."""
        for pooler in self.poolers.values():
            assert isinstance(pooler, Pooler)
            yield pooler

    def seen(self, values: Float[Tensor, "*tokens dim"]) -> dict[str, Tensor]:
        """Return what the blocks see, by their views."""
        return self.scaler(values, self.views.values())

    def forward(self, tokens: Ragged) -> dict[str, Tensor]:
        """Pool sequences by every pooler; an empty one to the features zero."""
        values = self.seen(tokens.values.float())
        seen = {view: tokens.with_values(shown) for view, shown in values.items()}
        return {name: pooler(seen[self.views[name]]) for name, pooler in self.poolers.items()}

    def pool(self, tokens: Segments) -> dict[str, Tensor]:
        """Pool sequences of any layout, as a graph does it."""
        values = self.seen(tokens.values)
        seen = {view: tokens.with_values(shown) for view, shown in values.items()}
        named = zip(self.poolers, self.each(), strict=True)
        return {name: pooler.pool(seen[self.views[name]]) for name, pooler in named}


def check_poolers(blocks: Mapping[int, Blocks]) -> None:
    """Raise `InputError` where a pooler reads what an export cannot hand to it."""
    for held in blocks.values():
        for name, pooler in held.poolers.items():
            fields = [field for field in pooler.needs if field != "ids"]
            if fields:
                raise InputError(
                    f"the pooler {name!r} reads the token field {fields[0]!r}, which an export "
                    "cannot hand to it: fit with another pooler"
                )


class TokensToVector(nn.Module):
    """Token vectors to the final vector in fp32: what `OneVec.transform` does, without its checks.

    Parameters
    ----------
    vector : Vector
        Fitted.
    blocks : mapping of int to Blocks
        By hidden state. Their poolers are shared, not copied.

    Attributes
    ----------
    layers : list of int
        The hidden states that are read.
    cls_layers : list of int
        Those whose classification token is read.
    """

    def __init__(self, vector: Vector, blocks: Mapping[int, Blocks]):
        super().__init__()
        self.layers, self.cls_layers = list(vector.blocks), sorted(vector.cls_layers)
        check_poolers(blocks)
        self.pools = nn.ModuleList(
            LayerModule(blocks[layer], names) for layer, names in vector.blocks.items()
        )
        self.reduce = VectorModule(vector).float()
        self.requires_grad_(False)

    def each_layer(self) -> Iterator[LayerModule]:
        """What pools each hidden state."""
        for pool in self.pools:
            assert isinstance(pool, LayerModule)
            yield pool

    @property
    def needs_ids(self) -> bool:
        """Whether a pooler weights vocabulary entries."""
        return any("ids" in pooler.needs for pool in self.each_layer() for pooler in pool.each())

    def forward(
        self,
        tokens: Ragged | Mapping[int, Ragged],
        cls: Mapping[int, Float[Tensor, "seqs dim"]] | None = None,
    ) -> Float[Tensor, "seqs dim"]:
        """Pool sequences and reduce.

        Parameters
        ----------
        tokens : Ragged, or mapping of int to Ragged
            Of the one hidden state that is read, or of each.
        cls : mapping of int to Tensor, optional
            States of the classification token, where a part reads them.
        """
        held = tokens if isinstance(tokens, Mapping) else {self.layers[0]: tokens}
        pooled = {
            at: pool(held[at]) for at, pool in zip(self.layers, self.each_layer(), strict=True)
        }
        return self.reduce(with_cls(pooled, self.cls_layers, cls))


def with_cls(
    pooled: Mapping[int, dict[str, Tensor]],
    layers: list[int],
    cls: Mapping[int, Tensor] | None,
) -> Mapping[int, dict[str, Tensor]]:
    """Add the states of the classification token to the features of the layers that read them."""
    for layer in layers:
        assert cls is not None, "a part reads the classification token"
        pooled[layer]["cls"] = cls[layer].float()
    return pooled


def layer_words(layers: Sequence[int]) -> int | list[int]:
    """One layer's number, or several."""
    return layers[0] if len(layers) == 1 else list(layers)


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference in units of the root mean square norm of ``wanted``."""
    wanted = wanted.astype(np.float64)
    norm = np.sqrt((wanted**2).sum(1).mean()) or 1.0
    return float(np.abs(found - wanted).max() / norm)
