"""The fitted vector: parts side by side, projected where fewer dimensions are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import clone
from torch import Tensor, nn
from torch.nn.functional import normalize

from onevec.project import PCA, Moments, load_projection, projection_state
from onevec.project.base import Linear
from onevec.project.rows import SHORTEST
from onevec.vector.blocks import Features, under
from onevec.vector.nuisance import nuisance_directions
from onevec.vector.parts import PARTS, Part, part_of, width_of
from onevec.vector.reduction import MEAN, Maps, Recipe, Reduction, ReductionModule, applied

Pooled = Mapping[int, Features]  # by hidden state
# Of the tokens' spread: what differs by less differs by rounding, in half precision too, such as
# mean and deviation of series that were standardised one by one. Chance alone makes the means of
# sequences of a million tokens differ as much.
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class FittedPart:
    """A part of one hidden state, fitted.

    Attributes
    ----------
    name : str
        That of the part; of a further hidden state with its number, ``"mean@6"``.
    layer : int
        The hidden state it reads.
    part : Part
        What it is; ``weight`` is the part's times the hidden state's.
    reduction : Reduction or None
        None where the features go on as they are.
    centre : ndarray of float64, shape (width,)
        Mean over the fitting data of what ``reduction`` gives.
    blind : ndarray of float64, shape (width, directions), or None
        Directions that are taken out because a nuisance shows in them.
    length : float or None
        What every sequence is divided by; None is its own length.
    """

    name: str
    layer: int
    part: Part
    reduction: Reduction | None
    centre: Float[np.ndarray, " width"]
    blind: Float[np.ndarray, "width directions"] | None = None
    length: float | None = None

    @classmethod
    def fit(
        cls,
        name: str,
        layer: int,
        part: Part,
        features: Features,
        *,
        token_dim: int,
        spreads: Mapping[str, float] | None = None,
        per_sequence: bool = True,
        cache: dict[Any, Any] | None = None,
        nuisance: Float[np.ndarray, "seqs columns"] | None = None,
    ) -> FittedPart:
        """Fit to block features of the sequences.

        ``per_sequence`` scales every sequence to length 1; otherwise all are divided by the root
        mean square length, which is an affine map. ``spreads`` are `Blocks.spreads`: blocks that
        differ by less than a thousandth of the tokens' spread hold rounding noise, which must not
        be scaled to length 1. A mean of that kind is divided by the spread.
        """
        width, reduction, blind = width_of(part, token_dim), None, None
        spreads = {} if spreads is None else spreads
        (block, *others) = part.recipe.blocks
        silent = [
            each
            for each in part.recipe.blocks
            if each in spreads and _distance(features[each]) <= _NEGLIGIBLE * spreads[each]
        ]
        if width is None:
            assert not others, "features that stay as they are come from one block"
            found = features[block].astype(np.float64)
            if nuisance is not None:
                blind = nuisance_directions(found, nuisance)
            made = cls(name, layer, part, None, found.mean(0), blind)
            if silent:
                return replace(made, length=spreads[block] or 1.0)
        else:
            reduction = Reduction(part.recipe).fit(features, width, cache, nuisance, silent)
            reduction = reduction.turned(_rotation(reduction.last.matrix_))
            made = cls(name, layer, part, reduction, np.zeros(reduction.dim_out))  # centred by it
        if per_sequence:
            return made
        plain = replace(made, part=replace(part, weight=1.0), length=1.0)
        found = plain.transform(features).astype(np.float64)
        return replace(made, length=float(np.sqrt((found**2).sum(1).mean())) or 1.0)

    @classmethod
    def as_it_is(
        cls, block: str, layer: int, reduction: Reduction | None, width: int
    ) -> FittedPart:
        """Return what a block or a reduction gives, neither centred nor scaled."""
        recipe = reduction.recipe if reduction else Recipe((block,), 0.0, 0.0)
        about = recipe.name if reduction else PARTS[MEAN].about
        part = Part(recipe, None if reduction is None else width, about)
        return cls(block, layer, part, reduction, np.zeros(width), length=1.0)

    @property
    def width(self) -> int:
        """Columns of the part."""
        return len(self.centre)

    @property
    def clear(self) -> Float[np.ndarray, "width width"]:
        """The matrix that takes out the blind directions."""
        unchanged = np.eye(self.width)
        return unchanged if self.blind is None else unchanged - self.blind @ self.blind.T

    def transform(self, features: Features) -> Float[np.ndarray, "seqs width"]:
        """Return the part's columns in fp32, its weight in them."""
        names = self.part.recipe.blocks
        return applied(PartModule(self), {name: features[name] for name in names})

    @property
    def block(self) -> str:
        """The first of its blocks: the only one, where its features stay as they are."""
        return self.part.recipe.blocks[0]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `from_state` needs: a JSON part and the arrays."""
        config: dict[str, Any] = {
            "name": self.name,
            "layer": self.layer,
            "width": self.width,
            "length": self.length,
            "part": asdict(self.part),
            "reduction": None,
        }
        arrays = {"centre": self.centre}
        if self.blind is not None:
            arrays["blind"] = self.blind
        if self.reduction is not None:
            config["reduction"], held = self.reduction.state()
            arrays |= {f"reduction/{key}": value for key, value in held.items()}
        return config, arrays

    @classmethod
    def from_state(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> FittedPart:
        """Rebuild from `state`."""
        reduction = None
        if config["reduction"] is not None:
            reduction = Reduction.from_state(config["reduction"], under(arrays, "reduction/"))
        return cls(
            config["name"],
            config["layer"],
            part_of(config["part"]),
            reduction,
            arrays["centre"],
            arrays.get("blind"),
            config["length"],
        )


def _distance(block: Float[np.ndarray, "seqs dims"]) -> float:
    """Root mean square distance of the rows from their mean."""
    return float(np.sqrt(block.var(axis=0, dtype=np.float64).sum()))


def _rotation(matrix: Float[np.ndarray, "dim width"]) -> Float[np.ndarray, "width kept"]:
    """Return a seeded random rotation of the directions that are not null; the others go.

    Dot products and distances stay. But in principal axes the last columns are noise, and what
    scales each column to variance 1, such as `StandardScaler`, would blow it up; rotated, all
    columns have about the same variance, and the scaler changes little (+0.6 points became +10.6
    on TREC, -1.4 became +6.0 on mouse receptors: benchmarks/LOG.md, 2026-12-01).
    """
    kept = max(1, int(matrix.any(0).sum()))
    drawn = np.random.default_rng(0).standard_normal((kept, kept))
    q, r = np.linalg.qr(drawn)
    return np.eye(matrix.shape[1], kept) @ (q * np.sign(np.diag(r)))


class PartModule(Maps):
    """A `FittedPart` as a torch module: block features, as tensors, to its columns."""

    def __init__(self, part: FittedPart):
        super().__init__()
        self.block, self.weight, self.length = part.block, part.part.weight, part.length
        self.reduced = None if part.reduction is None else ReductionModule(part.reduction)
        self.hold("centre", part.centre)
        self.cleared = part.blind is not None
        if self.cleared:
            self.hold("clear", part.clear)

    def forward(self, features: Mapping[str, Tensor]) -> Float[Tensor, "seqs width"]:
        """Return the part's columns, its weight in them."""
        found = features[self.block] if self.reduced is None else self.reduced(features)
        centre = self.held("centre")
        found = found.to(centre.dtype) - centre
        found = found @ self.held("clear") if self.cleared else found
        if self.length is None:
            return self.weight * normalize(found, dim=1, eps=SHORTEST)
        return self.weight / self.length * found


class Vector:
    """Parts side by side, then perhaps a projection to fewer dimensions.

    Attributes
    ----------
    parts : list of FittedPart
        In the order of their columns.
    shorter : Linear or None
        Projection of the whole, where fewer dimensions were asked for.
    """

    def __init__(self, parts: Sequence[FittedPart], shorter: Linear | None = None):
        self.parts, self.shorter = list(parts), shorter

    @classmethod
    def fit(
        cls,
        asked: Sequence[tuple[str, int, Part]],
        pooled: Pooled,
        *,
        token_dim: int,
        spreads: Mapping[int, Mapping[str, float]] | None = None,
        dim: int | None = None,
        reducer: Linear | None = None,
        per_sequence: bool = True,
        nuisance: Float[np.ndarray, "seqs columns"] | None = None,
    ) -> Vector:
        """Fit every part, given by name, hidden state and what it is, to pooled features.

        ``spreads`` are `Blocks.spreads` by hidden state, see `FittedPart.fit`.
        """
        caches: dict[int, dict[Any, Any]] = {layer: {} for layer in pooled}
        parts = [
            FittedPart.fit(
                *(name, layer, part, pooled[layer]),
                token_dim=token_dim,
                spreads=spreads[layer] if spreads else None,
                per_sequence=per_sequence,
                cache=caches[layer],
                nuisance=nuisance,
            )
            for name, layer, part in asked
        ]
        return cls(parts).shortened(pooled, dim, reducer)

    @classmethod
    def mean(
        cls,
        layer: int,
        features: Features,
        nuisance: Float[np.ndarray, "seqs columns"] | None = None,
    ) -> Vector:
        """Return the native mean, exactly; in which directions nuisance shows is taken out."""
        means = features[MEAN]
        part = FittedPart.as_it_is(MEAN, layer, None, means.shape[1])
        if nuisance is not None:
            part = replace(part, blind=nuisance_directions(means.astype(np.float64), nuisance))
        return cls([part])

    @classmethod
    def alone(
        cls, recipe: Recipe, layer: int, features: Features, dim: int, **options: Any
    ) -> Vector:
        """Fit one recipe and take what it gives as it is; ``options`` are `Reduction.fit`'s."""
        reduction = Reduction(recipe).fit(features, dim, **options)
        name = "|".join(recipe.blocks)
        return cls([FittedPart.as_it_is(name, layer, reduction, reduction.dim_out)])

    def shortened(self, pooled: Pooled, dim: int | None, reducer: Linear | None = None) -> Vector:
        """Return the whole projected to ``dim`` dimensions, if it has more."""
        if dim is None or dim >= self.dim_out:
            return self
        return self.projected(pooled, dim, reducer)

    def projected(self, pooled: Pooled, dim: int, reducer: Linear | None = None) -> Vector:
        """Return the whole projected to at most ``dim`` dimensions, by default by PCA."""
        moments = Moments.of([self.transform(pooled)])
        shorter: Any = clone(PCA() if reducer is None else reducer)
        shorter.set_params(n_components=min(dim, moments.dim)).fit_moments(moments)
        return Vector(self.parts, shorter)

    @property
    def width(self) -> int:
        """Dimensions of all parts together."""
        return sum(part.width for part in self.parts)

    @property
    def dim_out(self) -> int:
        """Dimensions of the vector."""
        return self.width if self.shorter is None else self.shorter.matrix_.shape[1]

    @property
    def blocks(self) -> dict[int, list[str]]:
        """Names of the blocks that are pooled from tokens, by hidden state."""
        found: dict[int, list[str]] = {}
        for each in self.parts:
            held = found.setdefault(each.layer, [])
            if each.part.reads == "tokens":
                held += [name for name in each.part.recipe.blocks if name not in held]
        return found

    @property
    def cls_layers(self) -> set[int]:
        """Hidden states whose classification token is read."""
        return {each.layer for each in self.parts if each.part.reads == "cls"}

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Name, hidden state, first and last column (exclusive) and weight of each part."""
        ends = np.cumsum([part.width for part in self.parts]).tolist()
        return [
            {
                "name": each.name,
                "layer": each.layer,
                "first": end - each.width,
                "last": end,
                "weight": each.part.weight,
                "about": each.part.about,
            }
            for each, end in zip(self.parts, ends, strict=True)
        ]

    def transform(self, pooled: Pooled) -> Float[np.ndarray, "seqs dim"]:
        """Return one fp32 vector per sequence."""
        whole = np.hstack([part.transform(pooled[part.layer]) for part in self.parts])
        return whole if self.shorter is None else self.shorter.transform(whole)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `from_state` needs: a JSON part and the arrays."""
        config: dict[str, Any] = {"parts": [], "shorter": None}
        arrays: dict[str, np.ndarray] = {}
        for number, part in enumerate(self.parts):
            entry, held = part.state()
            config["parts"].append(entry)
            arrays |= {f"{number}/{key}": value for key, value in held.items()}
        if self.shorter is not None:
            kind, params, held = projection_state(self.shorter)
            config["shorter"] = [kind, params]
            arrays |= {f"shorter/{key}": value for key, value in held.items()}
        return config, arrays

    @classmethod
    def from_state(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Vector:
        """Rebuild from `state`."""
        parts = [
            FittedPart.from_state(entry, under(arrays, f"{number}/"))
            for number, entry in enumerate(config["parts"])
        ]
        shorter = None
        if config["shorter"] is not None:
            kind, params = config["shorter"]
            shorter = load_projection(kind, params, under(arrays, "shorter/"))
            assert isinstance(shorter, Linear), "a vector is shortened by a linear map"
        return cls(parts, shorter)


class VectorModule(Maps):
    """A `Vector` as a torch module: block features of each hidden state to the vector."""

    def __init__(self, vector: Vector):
        super().__init__()
        self.layers = [part.layer for part in vector.parts]
        self.parts = nn.ModuleList(PartModule(part) for part in vector.parts)
        self.shortened = vector.shorter is not None
        if vector.shorter is not None:
            self.hold("mean", vector.shorter.mean_)
            self.hold("matrix", vector.shorter.matrix_)

    def forward(self, pooled: Mapping[int, Mapping[str, Tensor]]) -> Float[Tensor, "seqs dim"]:
        """Put the parts side by side, and shorten the whole."""
        sides = [part(pooled[at]) for at, part in zip(self.layers, self.parts, strict=True)]
        whole = torch.cat(sides, dim=1)
        return (whole - self.held("mean")) @ self.held("matrix") if self.shortened else whole
