"""A recipe: some blocks of pooled features, whitened and reduced to one short vector.

Each block is whitened to a power and scaled, and the blocks side by side are rotated to their
principal axes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from onevec.blocks import Features, under
from onevec.nuisance import nuisance_directions
from onevec.project import PCA, Moments, Projection, Whitening, load_projection, projection_state
from onevec.project.base import Linear

MEAN = "mean"
SHORTEST = 1e-12  # what is shorter is not scaled to length 1
_BLOCK_WIDTH = 192  # of each whitened block this many leading directions go on


@dataclass(frozen=True)
class Recipe:
    """Which blocks, how much each is whitened, and how much the result.

    Attributes
    ----------
    blocks : tuple of str
        Their names.
    block_power, power : float
        0 is PCA, 1 is whitening, 1/2 is half-way: eigenvalues to the power -1/4.
    unit : bool
        Scale every block of every sequence to length 1 after its whitening, so that no outlier
        and no block dominates; otherwise the blocks have equal energy on average.
    shrinkage : float, optional
        Of the last whitening: weight of the mean variance, 0 to 1. Much of it flattens the few
        directions that stand out and leaves the others as they are. Chosen by
        `onevec.project.oas_shrinkage` where it is None.
    """

    blocks: tuple[str, ...]
    block_power: float
    power: float
    unit: bool = False
    shrinkage: float | None = None

    @property
    def name(self) -> str:
        """Say it in words."""
        words = {0.0: "PCA", 0.25: "quarter-whitened", 0.5: "half-whitened", 1.0: "whitened"}
        inner = words.get(self.block_power, f"power {self.block_power}")
        outer = words.get(self.power, f"power {self.power}")
        if self.shrinkage is not None:
            outer += f" with shrinkage {self.shrinkage}"
        if not self.two_stages:
            return f"{self.blocks[0]}, {outer}"
        how = inner if inner == outer else f"blocks {inner}, then {outer}"
        if self.unit:
            how = f"blocks {inner} and of length 1, then {outer}"
        return f"{' + '.join(self.blocks)}, {how}"

    @property
    def two_stages(self) -> bool:
        """Whether the blocks are reduced first and then, side by side, once more."""
        return self.unit or len(self.blocks) > 1


MEAN_PCA = Recipe((MEAN,), 0.0, 0.0)


class Reduction:
    """A recipe fitted to features: block features to a vector.

    Attributes
    ----------
    inner : dict of str to Linear
        One per block.
    energy : dict of str to float
        Root mean square length of each reduced block.
    outer : Linear or None
        None where one stage is all.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.inner: dict[str, Linear] = {}
        self.energy: dict[str, float] = {}
        self.outer: Linear | None = None

    def fit(
        self,
        features: Features,
        dim: int,
        cache: dict[Any, Any] | None = None,
        nuisance: Float[np.ndarray, "seqs columns"] | None = None,
        silent: Container[str] = (),
    ) -> Reduction:
        """Fit to block features of the sequences, from their first two moments.

        ``cache`` keeps moments and reduced blocks between recipes on the same features. In
        which directions ``nuisance`` shows is taken out of every block. Blocks that are
        ``silent`` hold rounding noise alone, and become 0.
        """
        cache = {} if cache is None else cache
        two, unit = self.recipe.two_stages, self.recipe.unit
        sides: list[np.ndarray] = []
        for name in self.recipe.blocks:
            block = features[name]
            width = min(_BLOCK_WIDTH if two else dim, block.shape[1])
            how = (self.recipe.block_power, None) if two else self._last
            if (name, width, how) not in cache:
                if name not in cache:
                    moments = cache[name] = Moments.of([block])
                    moments.principal_axes(min(max(dim, _BLOCK_WIDTH), moments.dim))
                projection = _projection(width, *how, cache[name])
                if two:  # or their number would tell in the last stage's shrinkage
                    varying = max(1, int(projection.matrix_.any(0).sum()))
                    if varying < width:
                        projection = _projection(varying, *how, cache[name])
                if nuisance is not None:
                    _take_out(projection, block, nuisance)
                if name in silent:
                    projection.matrix_ = np.zeros_like(projection.matrix_)
                reduced = projection.transform(block)
                energy = float(np.sqrt((reduced**2).sum(1).mean())) or 1.0
                cache[name, width, how] = projection, energy, reduced
            self.inner[name], self.energy[name], reduced = cache[name, width, how]
            sides.append(of_length_1(reduced) if unit else reduced / self.energy[name])
        if two:
            side = np.hstack(sides)
            self.outer = _projection(min(dim, side.shape[1]), *self._last, Moments.of([side]))
        return self

    @property
    def last(self) -> Linear:
        """The last stage."""
        return self.outer if self.outer is not None else next(iter(self.inner.values()))

    @property
    def _last(self) -> tuple[float, float | None]:
        """Power and shrinkage of the last stage."""
        return self.recipe.power, self.recipe.shrinkage

    @property
    def dim_out(self) -> int:
        """Dimensions of the vector."""
        return self.last.matrix_.shape[1]

    def transform(self, features: Features) -> Float[np.ndarray, "seqs dim"]:
        """Reduce block features to vectors in fp32."""
        if self.outer is None:
            name = self.recipe.blocks[0]
            return self.inner[name].transform(features[name]).astype(np.float32)
        blocks = {name: each.transform(features[name]) for name, each in self.inner.items()}
        sides = [
            of_length_1(block) if self.recipe.unit else block / self.energy[name]
            for name, block in blocks.items()
        ]
        return self.outer.transform(np.hstack(sides)).astype(np.float32)

    def turned(self, rotation: Float[np.ndarray, "dim width"]) -> Reduction:
        """Return the same with its vectors multiplied by a matrix of orthonormal columns."""
        other = Reduction(self.recipe)
        other.inner, other.energy, other.outer = dict(self.inner), self.energy, self.outer
        matrix = self.last.matrix_ @ rotation
        last = PCA(rotation.shape[1]).load_state(
            {
                "widths": np.array(matrix.shape),
                "mean_": self.last.mean_,
                "matrix_": matrix,
                "inverse_": rotation.T @ self.last.inverse_,
            }
        )
        if self.outer is None:
            other.inner[self.recipe.blocks[0]] = last
        else:
            other.outer = last
        return other

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `from_state` needs: a JSON part and the arrays."""
        config: dict[str, Any] = {
            "recipe": asdict(self.recipe),
            "energy": self.energy,
            "projections": {},
        }
        arrays: dict[str, np.ndarray] = {}
        stages: dict[str, Projection] = dict(self.inner)
        if self.outer is not None:
            stages["outer"] = self.outer
        for stage, projection in stages.items():
            kind, params, held = projection_state(projection)
            config["projections"][stage] = [kind, params]
            arrays |= {f"{stage}.{key}": value for key, value in held.items()}
        return config, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Reduction:
        """Rebuild from `state`."""
        recipe = config["recipe"]
        reduction = cls(Recipe(**{**recipe, "blocks": tuple(recipe["blocks"])}))
        reduction.energy = dict(config["energy"])
        for stage, (kind, params) in config["projections"].items():
            projection = load_projection(kind, params, under(arrays, f"{stage}."))
            assert isinstance(projection, Linear), "reductions are made of PCA and whitening"
            if stage == "outer":
                reduction.outer = projection
            else:
                reduction.inner[stage] = projection
        return reduction


def _take_out(projection: Linear, block: np.ndarray, nuisance: np.ndarray) -> None:
    """Make a projection blind in the directions in which nuisance shows; its width stays."""
    axes = nuisance_directions(projection.transform(block), nuisance)
    projection.matrix_ = projection.matrix_ - (projection.matrix_ @ axes) @ axes.T


def of_length_1(block: Float[np.ndarray, "seqs dims"]) -> Float[np.ndarray, "seqs dims"]:
    """Scale each row to length 1; what is 0 stays 0."""
    return block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), SHORTEST)


def _projection(width: int, power: float, shrinkage: float | None, moments: Moments) -> Linear:
    if power == 0:
        return PCA(n_components=width).fit_moments(moments)
    weight = "auto" if shrinkage is None else shrinkage
    found = Whitening(n_components=width, power=power, shrinkage=weight).fit_moments(moments)
    # Shrinkage keeps directions in which nothing varies, and what they give is rounding noise.
    null = found.explained_variance_ <= found.eps * found.explained_variance_[0]
    found.matrix_ = np.where(null, 0.0, found.matrix_)
    return found
