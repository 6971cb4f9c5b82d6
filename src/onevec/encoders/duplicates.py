"""Copies in a corpus: exact ones by hash, near ones by MinHash and locality-sensitive hashing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt

from onevec.errors import MissingExtraError

Hashes = UInt[np.ndarray, "seqs 2"]
_PERMUTATIONS = 128  # the estimate of a similarity of 0.8 is off by 0.035
_FRAME_BITS = 16
_FRAME_SHINGLE = 3
_LEAST_SHINGLE = 5
_MOST_SHINGLE = 32


def digest(content: bytes) -> bytes:
    """Return 16 bytes that tell sequences apart."""
    return hashlib.blake2b(content, digest_size=16).digest()


def copies(hashes: Hashes) -> Bool[np.ndarray, " seqs"]:
    """Return which sequences occurred before."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: the first stays first
    again = (hashes[order[1:]] == hashes[order[:-1]]).all(1)
    found = np.zeros(len(hashes), dtype=bool)
    found[order[1:][again]] = True
    return found


def shingle_width(codes: Sequence[Int[np.ndarray, " tokens"]]) -> int:
    """Return how many symbols a shingle takes for chance not to make sequences alike.

    So many that a sequence of the sample's mean length, drawn symbol by symbol, would hold a
    given shingle with a probability of a thousandth: 5 for text and proteins, 11 for DNA of 2,000
    bases.
    """
    symbols = np.concatenate(codes)
    share = np.unique(symbols, return_counts=True)[1] / len(symbols)
    bits = float(-(share * np.log2(share)).sum())
    wanted = math.log2(1_000 * max(1.0, len(symbols) / len(codes)))
    return int(np.clip(math.ceil(wanted / max(bits, 1e-3)), _LEAST_SHINGLE, _MOST_SHINGLE))


def text_codes(text: str) -> Int[np.ndarray, " tokens"]:
    """Return the code points of a text."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)


class FrameCodes:
    """Frames as numbers: the signs of 16 random projections (Charikar 2002)."""

    def __init__(self, dim: int, centre: np.ndarray):
        self.planes = np.random.default_rng(0).normal(size=(dim, _FRAME_BITS))
        self.centre = centre

    def __call__(self, frames: np.ndarray) -> Int[np.ndarray, " tokens"]:
        """Return a number from 0 to 65,535 per frame."""
        signs = (frames - self.centre) @ self.planes > 0
        return signs @ (1 << np.arange(_FRAME_BITS))


def shingles(codes: Int[np.ndarray, " tokens"], width: int) -> UInt[np.ndarray, " shingles"]:
    """Return the distinct hashes (32 bits) of all runs of ``width`` symbols."""
    width = min(width, len(codes))
    total = np.zeros(len(codes) - width + 1, dtype=np.uint64)
    symbols = codes.astype(np.uint64) + np.uint64(1)
    for place in range(width):
        total ^= total >> np.uint64(32)
        total = (total + symbols[place : place + len(total)]) * np.uint64(0x9E3779B97F4A7C15)
    return np.unique(total >> np.uint64(32))


def near_copies(
    sequences: Iterable[Int[np.ndarray, " tokens"]], threshold: float, width: int
) -> Iterable[bool]:
    """Say of each sequence in turn whether one before it, that was none itself, is nearly it.

    Similarity is the Jaccard index of shingles, estimated by 128 minima (Broder 1997, "On the
    resemblance and containment of documents"; Leskovec, Rajaraman and Ullman 2014, chapter 3, for
    the search). Takes about 5 kB of memory per sequence that stays.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise MissingExtraError("datasketch", "hf") from error
    blank = MinHash(num_perm=_PERMUTATIONS, hashfunc=int)
    # It finds candidates, of which the estimate decides; above 0.98 it cannot be built.
    index = MinHashLSH(threshold=min(threshold, 0.98), num_perm=_PERMUTATIONS)
    kept: dict[Any, MinHash] = {}
    for row, codes in enumerate(sequences):
        sketch = blank.copy()
        found = shingles(codes, width)
        for first in range(0, len(found), 65_536):  # bounds the memory of a long sequence
            sketch.update_batch(found[first : first + 65_536].tolist())
        near = any(sketch.jaccard(kept[other]) >= threshold for other in index.query(sketch))
        if not near:
            index.insert(row, sketch)
            kept[row] = sketch
        yield near
