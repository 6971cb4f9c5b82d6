"""Raw sequences: told from token vectors, and a bounded sample of them encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from onevec.ragged import Ragged
from onevec.tokens.adapters import kind_of
from onevec.tokens.chunks import Chunk, sized
from onevec.tokens.encoding import Encoding, Known
from onevec.tokens.frames import FRAMES
from onevec.tokens.layout import is_store
from onevec.tokens.readers import READY, open_source
from onevec.tokens.store import TokenStore


def is_raw(X: Any, encoder: Any, framed: bool = False) -> bool:
    """Whether an input has to be read, and encoded where there is an encoder.

    Stores, mappings of hidden states and, unless the encoder itself reads arrays, ``(n, dim)``
    arrays are token vectors. A file of arrays is read without an encoder, too; ``framed`` says
    that everything is cut to frames.
    """
    if isinstance(X, TokenStore | Mapping):
        return False
    if isinstance(X, str | Path):
        return _is_raw_place(Path(X), encoder is not None or framed)
    if encoder is None:
        return framed
    if isinstance(X, Ragged):
        return reads_arrays(encoder)
    if isinstance(X, list | tuple | np.ndarray) and len(X):
        return kind_of(X) != "tokens" or reads_arrays(encoder)
    return not isinstance(X, list | tuple)  # an empty list is explained where arrays are


def _is_raw_place(path: Path, encoded: bool) -> bool:
    if encoded:
        return path.is_file() or (path.is_dir() and not is_store(path))
    if path.is_dir() and not is_store(path) and not (path / "config.json").is_file():
        return any(each.suffix.lower() in READY for each in path.iterdir())
    return path.is_file() and path.suffix.lower() in READY


def reads_arrays(encoder: Any) -> bool:
    """Whether ``(n, dim)`` arrays are input of an encoder: a function, or one of dense frames."""
    if isinstance(encoder, str | Path):
        return (Path(encoder) / FRAMES).is_file()
    return callable(encoder) and not type(encoder).__module__.startswith("sentence_transformers")


def encoder_for(X: Any, encoder: Any, **columns: Any) -> Any:
    """Return the encoder, or None for arrays, or a file of them, that are token vectors already."""
    if encoder is None or reads_arrays(encoder):
        return encoder
    if isinstance(X, list | tuple) and X:
        return None if kind_of(X[:1]) == "tokens" else encoder
    if not isinstance(X, str | Path):
        return encoder
    first = next(open_source(X, **columns).chunks, None)
    ready = first is not None and len(first) and kind_of(first.sequences) == "tokens"
    return None if ready else encoder


def encode_sample(
    sequences: Any,
    encoding: Encoding,
    most: int,
    random_state: int,
    *,
    out: Path,
    resume: bool = False,
    **columns: Any,
) -> tuple[Known, int | None]:
    """Encode a random sample of an input into a store.

    Parameters
    ----------
    sequences : as of `onevec.encode`
        Read twice: to count the rows, and to take the sample. An iterator can be read only once,
        so its first ``most`` sequences are the sample, and they are put back in front of
        ``encoding``.
    encoding : Encoding
        The input, opened.
    most : int
        Sequences of the sample; all where there are no more.
    random_state : int
        Seed.
    out : path
        Folder of the store.
    resume : bool
        Go on with a store that a killed run left.
    **columns
        ``column``, ``id_column``, ``ids`` and ``metadata`` of `onevec.encode`.

    Returns
    -------
    known : Known
        Rows of the sample and their store.
    total : int or None
        How many rows the input has; None where it cannot be known.
    """
    if isinstance(sequences, Iterator):
        head = list(_first(encoding, most))
        rows, total = np.arange(sum(map(len, head))), encoding.total
        picked: Iterator[Chunk] = iter(head)
        encoding.chunks = chain(head, encoding.chunks)
    else:
        total = encoding.total
        if total is None:
            total = sum(len(chunk) for chunk in open_source(sequences, **columns).chunks)
        rng = np.random.default_rng(random_state)
        rows = np.sort(rng.choice(total, min(most, total), replace=False, shuffle=False))
        picked = _picked(open_source(sequences, **columns).chunks, rows)
    chunks = sized(picked, encoding.budget)
    store = replace(encoding, chunks=chunks, total=len(rows)).write(out, resume=resume)
    return Known(rows, store), total


def _first(encoding: Encoding, most: int) -> Iterator[Chunk]:
    """Take the first rows out of an input; what lies behind them in their chunk goes back."""
    for chunk in encoding.chunks:
        yield chunk[: min(most, len(chunk))]
        if len(chunk) > most:
            encoding.chunks = chain([chunk[most : len(chunk)]], encoding.chunks)
        most -= len(chunk)
        if most <= 0:
            return


def _picked(chunks: Iterator[Chunk], rows: np.ndarray) -> Iterator[Chunk]:
    first = 0
    for chunk in chunks:
        last = int(np.searchsorted(rows, chunk.start + len(chunk)))
        if last > first:
            yield chunk.pick(rows[first:last] - chunk.start)
        first = last
        if first == len(rows):
            return
