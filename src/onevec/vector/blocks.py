"""Blocks: what poolers say about sequences, side by side, behind one token scaler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers import Pooler
from onevec.poolers.spec import Pair, is_own, kind_of, pooler_of
from onevec.ragged import Ragged
from onevec.tokens.batches import Tokens, cut_by_budget
from onevec.vector.scaler import TokenScaler, tamed_sample
from onevec.views import halves

# Blocks differ in width, and parts of a corpus in their number of sequences: names unchecked.
Features = dict[str, Float[np.ndarray, "_seqs _dim_out"]]

# Token values of one batch, 8 MiB in fp32: of larger arrays the system clears every page anew,
# which takes longer than what is done with them (benchmarks/LOG.md).
_VALUE_BUDGET = 2**21


class BlockSpec(NamedTuple):
    """What a block is made of, before it is fitted.

    Attributes
    ----------
    kind, options
        Of its pooler, see `onevec.poolers.spec.pooler_of`.
    view : {"raw", "clipped", "scaled"}
        What it sees of the tokens, see `TokenScaler`.
    """

    kind: str
    options: dict[str, Any]
    view: str = "scaled"

    @classmethod
    def of(cls, kind: str, options: dict[str, Any]) -> BlockSpec:
        """Return the block of a pooler that a user names.

        The mean must be exactly the mean, and layers that are mixed have scales of their own:
        both see the tokens as they are.
        """
        raw = kind == "mean" or "layers" in pooler_of(kind, options).needs
        return cls(kind, options, "raw" if raw else "scaled")

    @property
    def pair(self) -> Pair:
        """Kind and options."""
        return self.kind, self.options


class Blocks:
    """Fitted poolers behind one token scaler: sequences to a dict of block features.

    Attributes
    ----------
    poolers : dict of str to Pooler
    views : dict of str to str
        What each block sees of the tokens, see `BlockSpec`.
    """

    def __init__(
        self, scaler: TokenScaler, poolers: Mapping[str, Pooler], views: Mapping[str, str]
    ):
        self.scaler = scaler
        self.poolers = dict(poolers)
        self.views = {name: views[name] for name in poolers}
        self.device = torch.device("cpu")

    @classmethod
    def fit(cls, sample: Ragged, specs: Mapping[str, BlockSpec], random_state: int) -> Blocks:
        """Fit the scaler and each pooler on a sample of sequences."""
        sample = tamed_sample(sample)
        poolers = {name: pooler_of(*spec.pair) for name, spec in specs.items()}
        views = {name: spec.view for name, spec in specs.items()}
        blocks = cls(TokenScaler.fit(sample), poolers, views)
        seen = blocks._seen(sample, specs)
        for name, pooler in blocks.poolers.items():
            pooler.fit(seen[blocks.views[name]], random_state=random_state)
        return blocks

    @property
    def spreads(self) -> dict[str, float]:
        """The tokens' spread, of the blocks whose features are in units of the tokens."""
        unscaled = (name for name, view in self.views.items() if view != "scaled")
        return dict.fromkeys(unscaled, self.scaler.spread)

    def scaled(self, batch: Ragged) -> Ragged:
        """Return what most blocks see."""
        return batch.with_values(self.scaler(batch.values, ("scaled",))["scaled"])

    def pool(self, batch: Ragged, names: Sequence[str]) -> dict[str, Tensor]:
        """Pool one batch with the named blocks, on their device."""
        return self._pool(self._seen(batch, names), names)

    def _pool(self, seen: Mapping[str, Ragged], names: Sequence[str]) -> dict[str, Tensor]:
        seen = {view: part.to(self.device) for view, part in seen.items()}
        return {name: self.poolers[name](seen[self.views[name]]) for name in names}

    def _seen(self, batch: Ragged, names: Iterable[str]) -> dict[str, Ragged]:
        """Return what the named blocks see, by their views."""
        views = {self.views[name] for name in names}
        shown = self.scaler(batch.values, views)
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
        part = Blocks(self.scaler, poolers, self.views)
        part.device = self.device
        return part

    def merged(self, other: Blocks) -> Blocks:
        """Return the same with the other's poolers too."""
        poolers = {**other.poolers, **self.poolers}
        return Blocks(self.scaler, poolers, {**other.views, **self.views})

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `from_state` needs: a JSON part and the arrays."""
        config: dict[str, Any] = {}
        arrays = {name: value.numpy() for name, value in self.scaler.state_dict().items()}
        for name, pooler in self.poolers.items():
            held = {key: value.numpy() for key, value in pooler.state_dict().items()}
            kind, options = kind_of(pooler), pooler.options
            config[name] = [kind, options, self.views[name]]
            if is_own(pooler):  # or its model could not be opened again
                _rebuilt(kind, options, pooler.dim_in, pooler.state_dict())
            arrays |= {f"{name}.{key}": value for key, value in held.items()}
        return config, arrays

    @classmethod
    def from_state(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Blocks:
        """Rebuild from `state`."""
        shift, scale, axes = (torch.from_numpy(arrays[name]) for name in ("shift", "scale", "axes"))
        scaler = TokenScaler(shift, scale, axes)
        poolers: dict[str, Pooler] = {}
        for name, (kind, options, view) in config.items():
            held = {k: torch.from_numpy(v) for k, v in under(arrays, f"{name}.").items()}
            poolers[name] = _rebuilt(kind, options, scaler.width(view), held)
        return cls(scaler, poolers, {name: view for name, (_, _, view) in config.items()})

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


def joined(parts: Sequence[Features]) -> Features:
    """Put parts of the features one after the other, and empty them: nothing is held twice."""
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in [*parts[0]]}


def read(tokens: Tokens, rows: np.ndarray | None = None) -> Iterator[Ragged]:
    """Go through rows of a source in order, a token budget at a time."""
    rows = np.arange(len(tokens)) if rows is None else rows
    lengths = tokens.lengths.cpu().numpy()[rows]
    for first, last in cut_by_budget(lengths, max(1, _VALUE_BUDGET // tokens.dim)):
        yield tokens[rows[first:last]]
