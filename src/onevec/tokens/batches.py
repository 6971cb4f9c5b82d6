"""From whatever a user holds to sequences of token vectors, and through them batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from onevec.errors import InputError
from onevec.ragged import Ragged
from onevec.tokens.store import TokenStore

Tokens = Ragged | TokenStore
_FEWEST_DRAWN, _SHORTEST_SPAN = 32, 64  # sequences of a sample; tokens of a long one
_STRETCH = 32  # batches whose rows are sorted together: keeps reads of a store local


def as_tokens(X: Any) -> Tokens:
    """Take token vectors in any form that onevec accepts, and check them.

    Parameters
    ----------
    X : Ragged, TokenStore, path, list of (n, dim) arrays, or (seqs, n, dim) array
        A path names the folder of a store.

    Raises
    ------
    InputError
        For anything else (labels, raw text, a table, ready vectors), and for empty or
        non-finite sequences.
    StoreError
        If the path holds no complete store.
    """
    if isinstance(X, TokenStore):
        return X
    if isinstance(X, Ragged):
        return X.check()
    if isinstance(X, str | Path):
        return _from_path(Path(X))
    if isinstance(X, torch.Tensor | np.ndarray):
        return _from_array(X)
    if isinstance(X, list | tuple):
        if any(isinstance(entry, str) for entry in X):
            raise InputError(
                "got a list of strings where token vectors are needed: name the encoder that reads "
                "them, OneVec(encoder=...), or encode them first, onevec.encode(sequences, encoder)"
            )
        if X and all(
            isinstance(k, float | int | np.generic | torch.Tensor) and np.ndim(k) == 0
            for k in X[:10]
        ):
            raise InputError(
                f"got a list of {type(X[0]).__name__}, which looks like labels: pass token "
                "vectors, one (n, dim) array per sequence"
            )
        return Ragged.from_list(X)
    kind = type(X).__name__
    if kind in ("DataFrame", "Table", "Dataset", "DatasetDict", "Series"):
        raise InputError(
            f"got a {kind} where token vectors are needed: name the encoder that reads its column, "
            "OneVec(encoder=...), or encode it first, onevec.encode(table, encoder, column=...)"
        )
    raise InputError(
        f"got a {kind} where token vectors are needed: pass a list of (n, dim) arrays, a Ragged, "
        "or a TokenStore (or its folder)"
    )


def _from_path(path: Path) -> Tokens:
    if path.is_file():
        raise InputError(
            f"{path} is a file, not the folder of a token store: name the encoder that reads it, "
            "OneVec(encoder=...) or `onevec embed`, or make a store of it with `onevec encode`"
        )
    return TokenStore(path)


def _from_array(X: torch.Tensor | np.ndarray) -> Ragged:
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
        return as_tokens(X.tolist())  # type: ignore[return-value]
    if isinstance(X, np.ndarray) and X.dtype.kind not in "fiu":
        raise InputError(
            f"got an array of dtype {X.dtype} where token vectors are needed: they are numbers; "
            "name the encoder of raw sequences, OneVec(encoder=...), or encode them first"
        )
    if X.ndim != 3:
        what = "labels" if X.ndim < 2 else "ready vectors, or the tokens of one sequence"
        raise InputError(
            f"got an array of shape {tuple(X.shape)}, which looks like {what}: pass one (n, dim) "
            "array per sequence, or one (seqs, n, dim) array"
        )
    tensor = X.detach() if isinstance(X, torch.Tensor) else torch.from_numpy(X.copy())
    if not tensor.is_floating_point():
        tensor = tensor.float()
    seqs, n, dim = tensor.shape
    lengths = torch.full((seqs,), n, dtype=torch.int64)
    return Ragged(tensor.reshape(seqs * n, dim), lengths).check()


def iter_batches(
    tokens: Tokens, token_budget: int = 65_536, bucket: bool = False
) -> Iterator[tuple[Int[np.ndarray, " rows"], Ragged]]:
    """Go through all sequences once, in batches of at most ``token_budget`` tokens.

    Parameters
    ----------
    tokens : Ragged or TokenStore
        The sequences.
    token_budget : int
        Most tokens of a batch; a longer sequence is a batch of its own.
    bucket : bool
        Put sequences of like length together (for poolers that pad inside). Rows are then
        sorted by length within stretches of neighbouring rows, not in order.

    Yields
    ------
    rows : ndarray of int64
        Which sequences these are.
    batch : Ragged
        Their token vectors.
    """
    lengths = tokens.lengths.cpu().numpy()
    if not bucket:
        for first, last in cut_by_budget(lengths, token_budget):
            yield np.arange(first, last), tokens[first:last]
        return
    for start, stop in cut_by_budget(lengths, _STRETCH * token_budget):
        order = start + np.argsort(lengths[start:stop], kind="stable")
        for first, last in cut_by_budget(lengths[order], token_budget):
            rows = np.sort(order[first:last])
            yield rows, tokens[rows]


def cut_by_budget(
    lengths: Int[np.ndarray, " seqs"], token_budget: int
) -> Iterator[tuple[int, int]]:
    """Cut a row of sequences into stretches of at most ``token_budget`` tokens, or one row."""
    if token_budget < 1:
        raise InputError(f"got token_budget={token_budget}: it must be at least 1")
    ends = np.cumsum(lengths)
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + token_budget, side="right"))
        last = max(last, first + 1)
        yield first, last
        first = last


def sample_sequences(
    tokens: Tokens,
    max_tokens: int = 200_000,
    random_state: int = 0,
    among: Int[np.ndarray, " rows"] | None = None,
) -> tuple[Int[np.ndarray, " rows"], Ragged]:
    """Draw sequences at random until there are about ``max_tokens`` tokens.

    They are whole, unless they are so long that a few would speak for all: where fewer than 32
    would be drawn, a random span of each counts.

    Parameters
    ----------
    tokens : Ragged or TokenStore
        What to draw from; of a store only the drawn rows are read.
    max_tokens : int
        Most tokens, except that at least one sequence is drawn.
    random_state : int
        Seed.
    among : ndarray, optional
        Rows to draw from; by default all.

    Returns
    -------
    rows : ndarray of int64
        The drawn rows, ascending.
    sample : Ragged
        Their token vectors.
    """
    lengths = tokens.lengths.cpu().numpy()
    rng = np.random.default_rng(random_state)
    order = rng.permutation(len(lengths) if among is None else among)

    def drawn(lengths: np.ndarray) -> np.ndarray:
        count = int(np.searchsorted(np.cumsum(lengths[order]), max_tokens, side="right"))
        return np.sort(order[: max(count, 1)])

    rows = drawn(lengths)
    if len(rows) >= min(_FEWEST_DRAWN, len(order)):
        return rows, tokens[rows]
    most = max(max_tokens // _FEWEST_DRAWN, _SHORTEST_SPAN)
    rows = drawn(np.minimum(lengths, most))
    firsts = rng.integers(0, np.maximum(lengths[rows] - most, 0), endpoint=True)
    spans = [_span(tokens[[row]], first, most) for row, first in zip(rows, firsts, strict=True)]
    return rows, Ragged.concat(spans)


def _span(tokens: Ragged, first: int, most: int) -> Ragged:
    """Up to ``most`` tokens of one sequence; a copy, which does not hold the rest."""
    part = slice(first, first + most)
    fields = {name: field[part].clone() for name, field in tokens.fields.items()}
    values = tokens.values[part].clone()
    return Ragged(values, torch.tensor([len(values)]), fields)
