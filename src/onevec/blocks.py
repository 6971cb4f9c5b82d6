"""Blocks: what poolers say about sequences, side by side, behind one token scaler."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.nuisance import nuisance_of
from onevec.poolers import Pooler
from onevec.poolers.fitting import principal_axes
from onevec.poolers.spec import is_own, kind_of, pooler_of
from onevec.ragged import Ragged
from onevec.segment import segment_mean
from onevec.tokens.batches import Tokens, cut_by_budget, sample_sequences
from onevec.views import halves

Features = dict[str, Float[np.ndarray, "seqs dim_out"]]

CLIP = 6.0  # standard deviations: outlier tokens must not own the second moments
_TOKEN_WIDTH = 128  # wider tokens are rotated to this many leading axes, or blocks grow too wide
# Token values of one batch, 8 MiB in fp32: of larger arrays the system clears every page anew,
# which takes longer than what is done with them (benchmarks/LOG.md).
_VALUE_BUDGET = 2**21
_SAMPLE_VALUES = 2**24  # at most this many token values in the sample: 64 MiB in fp32
# Per effort: sequences the linear maps are fitted to, tokens the poolers are fitted to, sequences
# the judge holds out.
EFFORTS = {
    "quick": (5_000, 100_000, 1_000),
    "standard": (20_000, 200_000, 1_500),
    "thorough": (50_000, 500_000, 3_000),
}
# A feature that varies less within sequences, as a part of its whole spread, belongs to sequences
# and not to tokens: the mean tells all of it. Persistent noise would own the other statistics.
_STEADY = 0.01
_LARGEST = 1e18
_ROUNDING = 1e-6  # what varies less, as a part of its size, does not vary
# What lies this many times the range of 98 % of the values from their middle, such as a sentinel
# of -9999, must not own a fit.
_FAR = 10.0
_QUANTILE_VALUES = 2**21  # so many values tell where they lie
_RAW = ("mean",)  # pools the tokens as they are: the mean must be exactly the mean
# As they are, but for outliers and persistent noise.
_CLIPPED = ("raw_mean", "raw_std", "raw_max", "raw_min")


class Blocks:
    """Fitted poolers behind one token scaler: sequences to a dict of block features.

    The mean sees the tokens as they are. Other raw blocks see them centred and clipped, each
    feature in its own unit; the rest standardised and clipped and, of wide tokens, their leading
    axes.
    """

    def __init__(self, dim: int, poolers: Mapping[str, Pooler]):
        self.dim = dim
        self.poolers = dict(poolers)
        self.shift = torch.zeros(dim)
        self.scale = torch.ones(dim)
        self.axes = torch.eye(dim)
        self.spread = 0.0  # root mean square distance of tokens from their mean; not saved
        self.device = torch.device("cpu")

    @classmethod
    def fit(
        cls, sample: Ragged, specs: Mapping[str, tuple[str, dict[str, Any]]], random_state: int
    ) -> Blocks:
        """Fit the scaler and each pooler on a sample of sequences."""
        blocks = cls(sample.dim, {})
        values = tamed(sample.values.float())
        largest = float(values.abs().max())
        if largest > _LARGEST:
            raise InputError(
                f"token values reach {largest:.0e}, and beyond {_LARGEST:.0e} fp32 does not hold "
                "their squares: divide all of them by one number"
            )
        sample = sample.with_values(values)
        spread, blocks.shift = torch.std_mean(values, 0, correction=0)
        blocks.spread = float(spread.double().square().sum().sqrt())
        least = _ROUNDING * torch.maximum(spread.max(), blocks.shift.abs())
        blocks.scale = torch.where(spread > least, spread, torch.inf)
        varies = _spread_within(sample) > _STEADY * spread
        if bool(varies.any()):
            blocks.scale = torch.where(varies, blocks.scale, torch.inf)
        if sample.dim > _TOKEN_WIDTH:
            scaled = blocks._shown(values, ("scaled",))["scaled"]
            _, blocks.axes = principal_axes(scaled, _TOKEN_WIDTH, whiten=False)
        blocks.poolers = {name: pooler_of(*spec) for name, spec in specs.items()}
        seen = blocks._seen(sample, specs)
        for name, pooler in blocks.poolers.items():
            pooler.fit(seen[blocks.view(name)], random_state=random_state)
        return blocks

    def _shown(self, values: Tensor, views: Container[str]) -> dict[str, Tensor]:
        return show(values, views, self.shift, self.scale, self.axes)

    def scaled(self, batch: Ragged) -> Ragged:
        """Return what most blocks see."""
        return batch.with_values(self._shown(batch.values, ("scaled",))["scaled"])

    def view(self, name: str) -> str:
        """Which tokens a block sees: raw (other layers have other scales), clipped or scaled."""
        if name in _RAW or "layers" in self.poolers[name].needs:
            return "raw"
        return "clipped" if name in _CLIPPED else "scaled"

    def pool(self, batch: Ragged, names: Sequence[str]) -> dict[str, Tensor]:
        """Pool one batch with the named blocks, on their device."""
        return self._pool(self._seen(batch, names), names)

    def _pool(self, seen: Mapping[str, Ragged], names: Sequence[str]) -> dict[str, Tensor]:
        seen = {view: part.to(self.device) for view, part in seen.items()}
        return {name: self.poolers[name](seen[self.view(name)]) for name in names}

    def _seen(self, batch: Ragged, names: Iterable[str]) -> dict[str, Ragged]:
        """Return what the named blocks see, by their views."""
        views = {self.view(name) for name in names}
        shown = self._shown(batch.values, views)
        return {view: batch.with_values(values) for view, values in shown.items()}

    @torch.inference_mode()
    def __call__(self, batch: Ragged, names: Sequence[str]) -> Features:
        """Pool one batch with the named blocks."""
        return _features(self.pool(batch, names))

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Pool on a device for a while."""
        for pooler in self.poolers.values():
            pooler.to(device)
        self.device = device
        try:
            yield
        finally:
            for pooler in self.poolers.values():
                pooler.cpu()
            self.device = torch.device("cpu")

    def only(self, names: Sequence[str]) -> Blocks:
        """Return the same with these poolers alone."""
        return self.with_poolers({name: self.poolers[name] for name in names})

    def with_poolers(self, poolers: Mapping[str, Pooler]) -> Blocks:
        """Return the same with other poolers, fitted to what these see."""
        part = Blocks(self.dim, poolers)
        part.shift, part.scale, part.axes = self.shift, self.scale, self.axes
        part.spread, part.device = self.spread, self.device
        return part

    def merged(self, other: Blocks) -> Blocks:
        """Return the same with the other's poolers too."""
        return self.with_poolers({**other.poolers, **self.poolers})

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `from_state` needs: a JSON part and the arrays."""
        config: dict[str, Any] = {}
        arrays = {name: getattr(self, name).numpy() for name in ("shift", "scale", "axes")}
        for name, pooler in self.poolers.items():
            held = {key: value.numpy() for key, value in pooler.state_dict().items()}
            config[name] = [kind_of(pooler), pooler.options]
            if is_own(pooler):
                _rebuilt(*config[name], pooler.dim_in, pooler.state_dict())
            arrays |= {f"{name}.{key}": value for key, value in held.items()}
        return config, arrays

    @classmethod
    def from_state(
        cls, dim: int, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Blocks:
        """Rebuild from `state`."""
        blocks = cls(dim, {})
        for name in ("shift", "scale", "axes"):
            setattr(blocks, name, torch.from_numpy(arrays[name]))
        for name, (kind, options) in config.items():
            held = {k: torch.from_numpy(v) for k, v in under(arrays, f"{name}.").items()}
            blocks.poolers[name] = pooler_of(kind, options)  # tells the view
            width = blocks.axes.shape[1] if blocks.view(name) == "scaled" else dim
            blocks.poolers[name] = _rebuilt(kind, options, width, held)
        return blocks

    def of(
        self, tokens: Tokens, rows: np.ndarray | None = None, names: Sequence[str] | None = None
    ) -> Features:
        """Pool the given rows (default all) of a source, a token budget at a time."""
        names = list(names or self.poolers)
        count = len(tokens) if rows is None else len(rows)
        out = {name: np.empty((count, self.poolers[name].dim_out), np.float32) for name in names}
        done = 0
        for batch in read(tokens, rows):
            for name, block in self(batch, names).items():
                out[name][done : done + len(batch)] = block
            done += len(batch)
        return out

    @torch.inference_mode()
    def with_halves(
        self, tokens: Tokens, rows: np.ndarray
    ) -> tuple[Features, tuple[Features, Features]]:
        """Pool sequences and their first and second halves, for which tokens are shown once."""
        names = list(self.poolers)
        parts: tuple[list[Features], ...] = ([], [], [])
        for batch in read(tokens, rows):
            seen = self._seen(batch, names)
            cut = {view: halves(part) for view, part in seen.items()}
            first, second = ({view: both[side] for view, both in cut.items()} for side in (0, 1))
            for part, some in zip(parts, (seen, first, second), strict=True):
                part.append(_features(self._pool(some, names)))
        whole, first_half, second_half = (joined(part) for part in parts)
        return whole, (first_half, second_half)


def _rebuilt(
    kind: str, options: Mapping[str, Any], width: int, state: Mapping[str, Tensor]
) -> Pooler:
    """Make a fitted pooler from what is saved of it."""
    pooler = pooler_of(kind, options).build(width)
    try:
        pooler.load_state_dict(state)
    except RuntimeError as error:
        if not is_own(pooler):
            raise
        raise InputError(
            f"the pooler {kind} does not take the state of the fitted one "
            f"({' '.join(str(error).split())}): its _build must make every buffer and parameter, "
            "of sizes that follow from the options, as it did at the fit"
        ) from None
    return pooler


def _features(found: Mapping[str, Tensor]) -> Features:
    return {name: block.cpu().numpy() for name, block in found.items()}


def under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def unsteady(features: Features, blocks: Blocks) -> Features:
    """Leave out of the mean what never varies within a sequence.

    Both halves have it, so it would find the other half for nothing; no other block sees it.
    """
    steady = torch.isinf(blocks.scale).numpy()
    if "mean" not in features or not steady.any():
        return features
    return features | {"mean": np.where(steady, np.float32(0), features["mean"])}


def joined(parts: Sequence[Features]) -> Features:
    """Put parts of the features one after the other, and empty them: nothing is held twice."""
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in [*parts[0]]}


def show(
    values: Float[Tensor, "*tokens dim"],
    views: Container[str],
    shift: Float[Tensor, " dim"],
    scale: Float[Tensor, " dim"],
    axes: Float[Tensor, "dim width"],
) -> dict[str, Float[Tensor, "*tokens width"]]:
    """Return what blocks see of tokens, by their views: see `Blocks.view`.

    What is constant has an infinite ``scale``, and is 0 in both views that know it.
    """
    shown = {"raw": values} if "raw" in views else {}
    if not ("clipped" in views or "scaled" in views):
        return shown
    apart = values.float() - shift
    if "clipped" in views:
        reach = torch.where(scale.isfinite(), CLIP * scale, 0.0)
        shown["clipped"] = torch.clamp(apart, -reach, reach)
    if "scaled" in views:  # in place: half of the time of such a step went into clearing pages
        scaled = apart.div_(scale).clamp_(-CLIP, CLIP)
        shown["scaled"] = scaled if axes.shape[0] == axes.shape[1] else scaled @ axes
    return shown


def tamed(values: Float[Tensor, "rows dims"]) -> Float[Tensor, "rows dims"]:
    """Put the middle of its dimension for what lies absurdly far out; almost always nothing."""
    some, share = values, max(1, values.numel() // _QUANTILE_VALUES)
    if share > 1:  # at random: sequences of one length have a period
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
        some = values[order[: -(-len(values) // share)].to(values.device)]
    low, middle, high = torch.quantile(some, torch.tensor([0.01, 0.5, 0.99]).to(some), dim=0)
    reach = torch.where(high > low, _FAR * (high - low), torch.inf)
    return torch.where((values - middle).abs() > reach, middle, values)


def _spread_within(sample: Ragged) -> Tensor:
    """Standard deviation of each feature around the means of its sequences, two tokens or more."""
    several = sample[torch.nonzero(sample.lengths > 1)[:, 0].numpy()]
    if not len(several):
        return torch.full((sample.dim,), torch.inf)
    means = segment_mean(several.values, several.lengths)
    apart = several.values.float() - means.repeat_interleave(several.lengths, 0)
    return apart.square().mean(0).sqrt()


def read(tokens: Tokens, rows: np.ndarray | None = None) -> Iterator[Ragged]:
    """Go through rows of a source in order, a token budget at a time."""
    rows = np.arange(len(tokens)) if rows is None else rows
    lengths = tokens.lengths.cpu().numpy()[rows]
    for first, last in cut_by_budget(lengths, max(1, _VALUE_BUDGET // tokens.dim)):
        yield tokens[rows[first:last]]


@dataclass(frozen=True)
class Prepared:
    """Block features, to fit to and to judge on.

    Attributes
    ----------
    rows : (seqs,) int array
        The sequences in it; the last ``held_out`` of them are for the judge, so that both parts
        of the features are views.
    features : dict of str to (seqs, dim_out) array
        Pooled by every block.
    nuisance : (seqs, columns) array or None
        What must not be read from the vectors, see `onevec.nuisance`.
    halves : two dicts as ``features``, or None
        Of the first and the second halves of the held-out sequences, where they were pooled along.
    """

    blocks: Blocks
    rows: np.ndarray
    held_out: int
    features: Features
    nuisance: np.ndarray | None = None
    halves: tuple[Features, Features] | None = None

    @property
    def count(self) -> int:
        """How many rows are fitted: the held-out ones come after them."""
        return len(self.rows) - self.held_out

    @property
    def fitted(self) -> Features:
        """Features of the rows that are not held out."""
        count = self.count
        return {name: block[:count] for name, block in self.features.items()}

    @property
    def fitted_nuisance(self) -> np.ndarray | None:
        """Nuisance of the rows that are not held out."""
        return None if self.nuisance is None else self.nuisance[: self.count]

    def only(self, names: Sequence[str]) -> Prepared:
        """The same with these blocks alone."""
        kept = {name: self.features[name] for name in names}
        return replace(self, blocks=self.blocks.only(names), features=kept)

    def closed(self) -> Prepared:
        """The same with the closed-form blocks alone."""
        poolers = self.blocks.poolers.items()
        return self.only([name for name, pooler in poolers if not pooler.learned])

    def half(self, which: int) -> Prepared:
        """The same with every second of the held-out rows: one half selects, the other judges."""
        count = self.count
        places = np.r_[np.arange(count), np.arange(count + which, len(self.rows), 2)]
        kept = {name: block[places] for name, block in self.features.items()}
        return replace(
            self,
            rows=self.rows[places],
            held_out=len(places) - count,
            features=kept,
            nuisance=None if self.nuisance is None else self.nuisance[places],
            halves=None,
        )

    def renewed(self, tokens: Tokens, names: Sequence[str]) -> Prepared:
        """The same with the features of these blocks pooled anew."""
        features = self.features | self.blocks.of(tokens, self.rows, names)
        return replace(self, features=features, halves=None)

    def held_out_rows(self, tokens: Tokens) -> np.ndarray:
        """Places in ``rows`` of the held-out sequences that can be halved."""
        lengths = tokens.lengths.cpu().numpy()[self.rows]
        return self.count + np.flatnonzero(lengths[self.count :] >= 2)

    def held_out_halves(self, held: np.ndarray) -> tuple[Features, Features] | None:
        """Features of the halves of rows of `held_out_rows`, see `unsteady`; None without them."""
        if self.halves is None:
            return None
        first, second = (
            unsteady({n: block[held - self.count] for n, block in half.items()}, self.blocks)
            for half in self.halves
        )
        return first, second


def prepare(
    tokens: Tokens,
    specs: Mapping[str, tuple[str, dict[str, Any]]],
    effort: str,
    random_state: int,
    nuisance: Sequence[str] = (),
    *,
    halved: bool = False,
) -> Prepared:
    """Fit the blocks to a sample of the tokens and pool a sample of the sequences.

    Nothing is fitted to the sequences that are held out. With ``halved`` their halves are pooled
    along.
    """
    sequences, most_tokens, held_out = EFFORTS[effort]
    rows = np.random.default_rng(random_state).permutation(len(tokens))[:sequences]
    held_out = min(held_out, len(rows) // 3)
    rows = np.concatenate([np.sort(part) for part in np.split(rows, [len(rows) - held_out])])
    known = np.setdiff1d(np.arange(len(tokens)), rows[len(rows) - held_out :])
    sample = sample_sequences(
        tokens, min(most_tokens, max(1, _SAMPLE_VALUES // tokens.dim)), random_state, known
    )[1]
    blocks = Blocks.fit(sample, specs, random_state)
    both = None
    if halved and held_out:
        known, last = np.split(rows, [len(rows) - held_out])
        whole, both = blocks.with_halves(tokens, last)
        features = joined([blocks.of(tokens, known), whole])
    else:
        features = blocks.of(tokens, rows)
    if "mean" in features:
        features["mean"] = _means_within_reach(features["mean"], rows)
    unwanted = nuisance_of(tokens, nuisance, rows) if nuisance else None
    return Prepared(blocks, rows, held_out, features, unwanted, both)


def _means_within_reach(means: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Tame the means of sequences that lie absurdly far out, and say so: see `tamed`."""
    near = tamed(torch.from_numpy(means)).numpy()
    far = rows[(near != means).any(1)]
    if len(far):
        warnings.warn(
            f"the means of {len(far):,} of {len(rows):,} sequences lie absurdly far out, of row "
            f"{far.min()} first: the fit looks past that; look for sentinels such as -9999",
            stacklevel=2,
        )
    return near
