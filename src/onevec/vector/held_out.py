"""What a vector is fitted to and what is held out to judge it: pooled once, here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from onevec.project import Linear
from onevec.tokens.batches import Tokens, sample_sequences
from onevec.vector.blocks import Blocks, BlockSpec, Features, joined, read
from onevec.vector.fitted import Vector
from onevec.vector.nuisance import nuisance_of
from onevec.vector.parts import PARTS, Part
from onevec.vector.reduction import MEAN
from onevec.vector.scaler import tamed
from onevec.views import halves

_SAMPLE_VALUES = 2**24  # at most this many token values in the sample: 64 MiB in fp32
# Per effort: sequences the linear maps are fitted to, tokens the poolers are fitted to, sequences
# the judge holds out.
EFFORTS = {
    "quick": (5_000, 100_000, 1_000),
    "standard": (20_000, 200_000, 1_500),
    "thorough": (50_000, 500_000, 3_000),
}


@dataclass(frozen=True)
class Prepared:
    """BlockSpec features, to fit to and to judge on.

    Attributes
    ----------
    rows : (seqs,) int array
        The sequences in it; the last ``held_out`` of them are for the judge, so that both parts
        of the features are views.
    features : dict of str to (seqs, dim_out) array
        Pooled by every block.
    nuisance : (seqs, columns) array or None
        What must not be read from the vectors, see `onevec.vector.nuisance`.
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
    specs: Mapping[str, BlockSpec],
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


def unsteady(features: Features, blocks: Blocks) -> Features:
    """Leave out of the mean what never varies within a sequence.

    Both halves have it, so it would find the other half for nothing; no other block sees it.
    """
    steady = blocks.scaler.steady.numpy()
    if "mean" not in features or not steady.any():
        return features
    return features | {"mean": np.where(steady, np.float32(0), features["mean"])}


def half_features(tokens: Tokens, rows: np.ndarray, blocks: Blocks) -> tuple[Features, Features]:
    """Pool the first and the second half of each sequence by every block."""
    names = list(blocks.poolers)
    parts: tuple[list[Features], list[Features]] = ([], [])
    for batch in read(tokens, rows):
        for half, part in zip(halves(batch), parts, strict=True):
            part.append(blocks(half, names))
    first, second = (unsteady(joined(part), blocks) for part in parts)
    return first, second


@dataclass(frozen=True)
class HeldOutVectors:
    """Vectors of sequences that nothing was fitted to; see `onevec.judge.evidence.findings_of`."""

    lengths: np.ndarray
    vectors: np.ndarray
    means: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]
    mean_halves: tuple[np.ndarray, np.ndarray]
    leading: np.ndarray | None


def held_out_vectors(
    layers: Mapping[int, Tokens],
    found: Mapping[int, Prepared],
    asked: Sequence[tuple[str, int, Part]],
    *,
    least: int,
    dim: int | None,
    reducer: Linear,
    **given: Any,
) -> HeldOutVectors | None:
    """Fit the parts to the other sequences, and return the vectors of those that are held out.

    Classification tokens have no halves: their parts are left out. What never varies within a
    sequence is left out of the mean, see `unsteady`.

    Parameters
    ----------
    layers, found : mapping of hidden state to tokens, and to their features
        The main one first.
    asked : sequence of (name, hidden state, Part)
        The parts.
    least : int
        From how many held-out sequences on.
    dim : int or None
        How many dimensions are asked for.
    reducer : Linear
        What makes them, see `Vector.projected`.
    **given
        Of `Vector.fit`.

    Returns
    -------
    HeldOutVectors or None
        None where fewer can be halved, or no part reads tokens.
    """
    main, tokens = next(iter(layers.items()))
    prepared = found[main]
    held = prepared.held_out_rows(tokens)
    asked = [each for each in asked if each[2].reads == "tokens"]
    if len(held) < least or prepared.halves is None or not asked:
        return None

    def of(rows: np.ndarray) -> dict[int, Features]:
        """Features of some rows by hidden state."""
        return {
            layer: unsteady({n: b[rows] for n, b in each.features.items()}, each.blocks)
            for layer, each in found.items()
        }

    known, unseen = of(np.arange(prepared.count)), of(held)
    cut = {layer: each.held_out_halves(held) for layer, each in found.items()}
    first, second = ({at: both[side] for at, both in cut.items() if both} for side in (0, 1))
    vector = Vector.fit(asked, known, nuisance=prepared.fitted_nuisance, **given)
    means = Vector.fit([(MEAN, main, PARTS[MEAN])], known, **given)
    return HeldOutVectors(
        tokens.lengths.cpu().numpy()[prepared.rows[held]],
        vector.transform(unseen),
        means.transform(unseen),
        (vector.transform(first), vector.transform(second)),
        (means.transform(first), means.transform(second)),
        None if dim is None else vector.projected(known, dim, reducer).transform(unseen),
    )
