"""Blocks: what poolers say about sequences, side by side, behind one token scaler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers import Pooler
from onevec.poolers.spec import is_own, kind_of, pooler_of
from onevec.ragged import Ragged
from onevec.tokens.batches import Tokens, cut_by_budget
from onevec.vector.scaler import TokenScaler, tamed_sample
from onevec.views import halves

Features = dict[str, Float[np.ndarray, "seqs dim_out"]]

# Token values of one batch, 8 MiB in fp32: of larger arrays the system clears every page anew,
# which takes longer than what is done with them (benchmarks/LOG.md).
_VALUE_BUDGET = 2**21
_RAW = ("mean",)  # pools the tokens as they are: the mean must be exactly the mean
# As they are, but for outliers and persistent noise.
_CLIPPED = ("raw_mean", "raw_std", "raw_max", "raw_min")


class Blocks:
    """Fitted poolers behind one token scaler: sequences to a dict of block features.

    The mean sees the tokens as they are. Other raw blocks see them clipped, the rest scaled; see
    `TokenScaler`.
    """

    def __init__(self, scaler: TokenScaler, poolers: Mapping[str, Pooler]):
        self.scaler = scaler
        self.poolers = dict(poolers)
        self.device = torch.device("cpu")

    @classmethod
    def fit(
        cls, sample: Ragged, specs: Mapping[str, tuple[str, dict[str, Any]]], random_state: int
    ) -> Blocks:
        """Fit the scaler and each pooler on a sample of sequences."""
        sample = tamed_sample(sample)
        poolers = {name: pooler_of(*spec) for name, spec in specs.items()}
        blocks = cls(TokenScaler.fit(sample), poolers)
        seen = blocks._seen(sample, specs)
        for name, pooler in blocks.poolers.items():
            pooler.fit(seen[blocks.view(name)], random_state=random_state)
        return blocks

    def scaled(self, batch: Ragged) -> Ragged:
        """Return what most blocks see."""
        return batch.with_values(self.scaler(batch.values, ("scaled",))["scaled"])

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
        part = Blocks(self.scaler, poolers)
        part.device = self.device
        return part

    def merged(self, other: Blocks) -> Blocks:
        """Return the same with the other's poolers too."""
        return self.with_poolers({**other.poolers, **self.poolers})

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `from_state` needs: a JSON part and the arrays."""
        config: dict[str, Any] = {}
        arrays = {name: value.numpy() for name, value in self.scaler.state_dict().items()}
        for name, pooler in self.poolers.items():
            held = {key: value.numpy() for key, value in pooler.state_dict().items()}
            kind, options = kind_of(pooler), pooler.options
            config[name] = [kind, options]
            if is_own(pooler):  # or its model could not be opened again
                _rebuilt(kind, options, pooler.dim_in, pooler.state_dict())
            arrays |= {f"{name}.{key}": value for key, value in held.items()}
        return config, arrays

    @classmethod
    def from_state(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Blocks:
        """Rebuild from `state`."""
        shift, scale, axes = (torch.from_numpy(arrays[name]) for name in ("shift", "scale", "axes"))
        blocks = cls(TokenScaler(shift, scale, axes), {})
        for name, (kind, options) in config.items():
            held = {k: torch.from_numpy(v) for k, v in under(arrays, f"{name}.").items()}
            blocks.poolers[name] = pooler_of(kind, options)  # tells the view
            width = blocks.scaler.width(blocks.view(name))
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


def joined(parts: Sequence[Features]) -> Features:
    """Put parts of the features one after the other, and empty them: nothing is held twice."""
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in [*parts[0]]}


def read(tokens: Tokens, rows: np.ndarray | None = None) -> Iterator[Ragged]:
    """Go through rows of a source in order, a token budget at a time."""
    rows = np.arange(len(tokens)) if rows is None else rows
    lengths = tokens.lengths.cpu().numpy()[rows]
    for first, last in cut_by_budget(lengths, max(1, _VALUE_BUDGET // tokens.dim)):
        yield tokens[rows[first:last]]
