"""A recipe: some blocks of pooled features, whitened and reduced to one short vector.

Each block is whitened to a power and scaled, and the blocks side by side are rotated to their
principal axes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from onevec.project import PCA, Moments, Projection, Whitening, load_projection, projection_state
from onevec.project.base import Linear
from onevec.project.rows import SHORTEST, normalise
from onevec.vector.blocks import Features, under
from onevec.vector.nuisance import nuisance_directions

MEAN = "mean"
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
            sides.append(normalise(reduced) if unit else reduced / self.energy[name])
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
        return applied(ReductionModule(self), features)

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


class Maps(nn.Module):
    """Holds arrays in fp64, in which `transform` computes; an export makes them fp32."""

    def hold(self, name: str, array: np.ndarray) -> None:
        """Keep an array as a buffer."""
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array, np.float64)))

    def held(self, name: str) -> Tensor:
        """Return a buffer."""
        return self.get_buffer(name)


class ReductionModule(Maps):
    """A `Reduction` as a torch module: block features, as tensors, to its vector."""

    def __init__(self, reduction: Reduction):
        super().__init__()
        self.names, self.unit = list(reduction.recipe.blocks), reduction.recipe.unit
        self.two_stages = reduction.outer is not None
        for number, name in enumerate(self.names):
            inner = reduction.inner[name]
            scale = reduction.energy[name] if self.two_stages and not self.unit else 1.0
            self.hold(f"centre{number}", inner.mean_)
            self.hold(f"matrix{number}", inner.matrix_ / scale)
        if reduction.outer is not None:
            self.hold("centre", reduction.outer.mean_)
            self.hold("matrix", reduction.outer.matrix_)

    def forward(self, features: Mapping[str, Tensor]) -> Float[Tensor, "seqs dim"]:
        """Reduce each block, put them side by side, and reduce the whole."""
        sides = []
        for number, name in enumerate(self.names):
            side = self._mapped(features[name], str(number))
            sides.append(normalize(side, dim=1, eps=SHORTEST) if self.unit else side)
        return self._mapped(torch.cat(sides, dim=1), "") if self.two_stages else sides[0]

    def _mapped(self, found: Tensor, stage: str) -> Tensor:
        """Apply a stage; every stage gives fp32, as `Linear.transform` does."""
        centre = self.held(f"centre{stage}")
        return ((found.to(centre.dtype) - centre) @ self.held(f"matrix{stage}")).float()


_ROWS_AT_ONCE = 4_096  # in fp64, features of so many sequences take some 100 MB


@torch.inference_mode()
def applied(module: nn.Module, features: Features) -> Float[np.ndarray, "seqs dim"]:
    """Return in fp32 what a module makes of features, some sequences at a time."""
    blocks = {name: torch.from_numpy(block) for name, block in features.items()}
    count = len(next(iter(features.values())))
    parts = []
    for first in range(0, max(count, 1), _ROWS_AT_ONCE):
        some = {name: block[first : first + _ROWS_AT_ONCE] for name, block in blocks.items()}
        parts.append(module(some).float().numpy())
    return np.concatenate(parts)


def _take_out(projection: Linear, block: np.ndarray, nuisance: np.ndarray) -> None:
    """Make a projection blind in the directions in which nuisance shows; its width stays."""
    axes = nuisance_directions(projection.transform(block), nuisance)
    projection.matrix_ = projection.matrix_ - (projection.matrix_ @ axes) @ axes.T


def _projection(width: int, power: float, shrinkage: float | None, moments: Moments) -> Linear:
    if power == 0:
        return PCA(n_components=width).fit_moments(moments)
    weight = "auto" if shrinkage is None else shrinkage
    found = Whitening(n_components=width, power=power, shrinkage=weight).fit_moments(moments)
    # Shrinkage keeps directions in which nothing varies, and what they give is rounding noise.
    null = found.explained_variance_ <= found.eps * found.explained_variance_[0]
    found.matrix_ = np.where(null, 0.0, found.matrix_)
    return found
