"""A candidate: some blocks, reduced to one short vector.

Each block is whitened to a power and scaled, and the blocks side by side are rotated to their
principal axes; or several candidates are joined to one. Every candidate has the same number of
dimensions, so that a comparison between them is fair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_TIMES = 2  # dimensions of a blend's parts, in dimensions of the result


@dataclass(frozen=True)
class Candidate:
    """Which blocks, how much each is whitened, and how much the result.

    Attributes
    ----------
    blocks : tuple of str
        Their names.
    block_power, power : float
        0 is PCA, 1 is whitening, 1/2 is half-way: eigenvalues to the power -1/4.
    unit : bool
        Scale every block of every sequence to length 1 after its whitening, so that no outlier
        and no block speaks louder than another; otherwise the blocks have equal energy on
        average.
    shrinkage : float, optional
        Of the last whitening: weight of the mean variance, 0 to 1. Much of it flattens the few
        directions that stand out and leaves the others as they are. Chosen by
        `onevec.project.oas_shrinkage` where it is None.
    parts : tuple of (Candidate, float)
        What a blend is made of, and by which weight, see `blend`; empty otherwise.
    label : str
        Its name where words for all its settings would be too many.
    """

    blocks: tuple[str, ...]
    block_power: float
    power: float
    unit: bool = False
    shrinkage: float | None = None
    parts: tuple[tuple[Candidate, float], ...] = ()
    label: str = ""

    @classmethod
    def blend(cls, parts: Mapping[Candidate, float], label: str) -> Candidate:
        """Join candidates: each at twice the dimension and of length 1, side by side, then PCA.

        So the similarity of two sequences is the weighted average of what the parts say.
        """
        blocks = tuple(dict.fromkeys(block for part in parts for block in part.blocks))
        return cls(blocks, 0.0, 0.0, unit=True, parts=tuple(parts.items()), label=label)

    @property
    def name(self) -> str:
        """Say it in words."""
        if self.label:
            return self.label
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


MEAN_PCA = Candidate((MEAN,), 0.0, 0.0)
# Raw encoders put most of the mean's variance into a few directions, which PCA leaves as they are.
EVENED_MEAN = Candidate((MEAN,), 0.0, 1.0, shrinkage=0.9)


class Reduction:
    """A candidate fitted to features: block features to the final vector.

    Attributes
    ----------
    inner : dict of str to Projection
        One per block; none of a blend.
    parts : list of Reduction
        Of a blend.
    outer : Projection or None
        None where one stage is all.
    """

    def __init__(self, candidate: Candidate):
        self.candidate = candidate
        self.parts = [Reduction(part) for part, _ in candidate.parts]
        self.inner: dict[str, Projection] = {}
        self.energy: dict[str, float] = {}
        self.outer: Projection | None = None

    def fit(
        self,
        features: Features,
        dim: int,
        cache: dict[Any, Any] | None = None,
        nuisance: Float[np.ndarray, "seqs columns"] | None = None,
    ) -> Reduction:
        """Fit to block features of the sequences, from their first two moments.

        ``cache`` keeps moments and reduced blocks between candidates on the same features. In
        which directions ``nuisance`` shows is taken out of every block.
        """
        self._fit(features, dim, {} if cache is None else cache, nuisance)
        return self

    def _fit(
        self,
        features: Features,
        dim: int,
        cache: dict[Any, Any],
        nuisance: Float[np.ndarray, "seqs columns"] | None,
    ) -> Float[np.ndarray, "seqs dim"]:
        """Fit, and return the vectors of what it is fitted to."""
        if self.parts:
            parts = [part._fit(features, _TIMES * dim, cache, nuisance) for part in self.parts]
            return self._turn(self._weighted(parts), dim)
        two, unit = self.candidate.two_stages, self.candidate.unit
        sides: list[np.ndarray] = []
        for name in self.candidate.blocks:
            block = features[name]
            width = min(_BLOCK_WIDTH if two else dim, block.shape[1])
            how = (self.candidate.block_power, None) if two else self.last
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
                reduced = projection.transform(block)
                energy = float(np.sqrt((reduced**2).sum(1).mean())) or 1.0
                cache[name, width, how] = projection, energy, reduced
            self.inner[name], self.energy[name], reduced = cache[name, width, how]
            if not two:
                return reduced.astype(np.float32)
            sides.append(_of_length_1(reduced) if unit else reduced / self.energy[name])
        return self._turn(sides, dim)

    def _turn(self, sides: Sequence[np.ndarray], dim: int) -> Float[np.ndarray, "seqs dim"]:
        """Fit the last of two stages to what stands side by side."""
        side = np.hstack(sides)
        self.outer = _projection(min(dim, side.shape[1]), *self.last, Moments.of([side]))
        return self.outer.transform(side).astype(np.float32)

    @property
    def sizes(self) -> list[float]:
        """Lengths of a blend's parts: a weight is one of squares."""
        return [weight**0.5 for _, weight in self.candidate.parts]

    def _weighted(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Scale the vectors of a blend's parts."""
        return [size * _of_length_1(part) for size, part in zip(self.sizes, parts, strict=True)]

    def _sides(self, features: Features) -> list[np.ndarray]:
        """Return what the last of two stages reads."""
        if self.parts:
            return self._weighted([part.transform(features) for part in self.parts])
        blocks = {name: each.transform(features[name]) for name, each in self.inner.items()}
        if self.candidate.unit:
            return [_of_length_1(block) for block in blocks.values()]
        return [block / self.energy[name] for name, block in blocks.items()]

    @property
    def last(self) -> tuple[float, float | None]:
        """Power and shrinkage of the last stage."""
        return self.candidate.power, self.candidate.shrinkage

    @property
    def dim_out(self) -> int:
        """Dimensions of the vector."""
        last = self.outer or next(iter(self.inner.values()))
        return len(last.get_feature_names_out())

    def transform(self, features: Features) -> Float[np.ndarray, "seqs dim"]:
        """Reduce block features to vectors in fp32."""
        if self.outer is None:
            name = self.candidate.blocks[0]
            return self.inner[name].transform(features[name]).astype(np.float32)
        return self.outer.transform(np.hstack(self._sides(features))).astype(np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `from_state` needs: a JSON part and the arrays."""
        config: dict[str, Any] = {
            "blocks": list(self.candidate.blocks),
            "block_power": self.candidate.block_power,
            "power": self.candidate.power,
            "unit": self.candidate.unit,
            "shrinkage": self.candidate.shrinkage,
            "energy": self.energy,
            "projections": {},
        }
        arrays: dict[str, np.ndarray] = {}
        stages = dict(self.inner) | ({"outer": self.outer} if self.outer else {})
        for stage, projection in stages.items():
            kind, params, held = projection_state(projection)
            config["projections"][stage] = [kind, params]
            arrays |= {f"{stage}.{key}": value for key, value in held.items()}
        if self.parts:
            weights = [weight for _, weight in self.candidate.parts]
            config |= {"label": self.candidate.label, "weights": weights, "parts": []}
        for number, part in enumerate(self.parts):
            entry, held = part.state()
            config["parts"].append(entry)
            arrays |= {f"part{number}.{key}": value for key, value in held.items()}
        return config, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Reduction:
        """Rebuild from `state`."""
        powers = config["block_power"], config["power"]
        # Models saved before there were such have neither.
        later = config.get("unit", False), config.get("shrinkage")
        parts = [
            cls.from_state(entry, under(arrays, f"part{number}."))
            for number, entry in enumerate(config.get("parts", []))
        ]
        made_of = [(p.candidate, w) for p, w in zip(parts, config.get("weights", []), strict=True)]
        last = tuple(made_of), config.get("label", "")
        reduction = cls(Candidate(tuple(config["blocks"]), *powers, *later, *last))
        reduction.parts = parts
        reduction.energy = dict(config["energy"])
        for stage, (kind, params) in config["projections"].items():
            projection = load_projection(kind, params, under(arrays, f"{stage}."))
            if stage == "outer":
                reduction.outer = projection
            else:
                reduction.inner[stage] = projection
        return reduction


def _take_out(projection: Linear, block: np.ndarray, nuisance: np.ndarray) -> None:
    """Make a projection blind in the directions in which nuisance shows; its width stays."""
    axes = nuisance_directions(projection.transform(block), nuisance)
    projection.matrix_ = projection.matrix_ - (projection.matrix_ @ axes) @ axes.T


def _of_length_1(block: Float[np.ndarray, "seqs dims"]) -> Float[np.ndarray, "seqs dims"]:
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
