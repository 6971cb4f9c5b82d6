"""Ragged: the one type that holds sequences of unequal length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError


class Ragged:
    """Sequences of token vectors, laid end to end.

    Parameters
    ----------
    values : Tensor, shape (tokens, dim)
        The token vectors of all sequences, one after the other. Any floating dtype.
    lengths : Tensor of int64, shape (seqs,)
        How many tokens each sequence has. Zero is allowed here; public functions refuse it.
    fields : mapping of str to Tensor, shape (tokens, ...), optional
        Further values aligned with the tokens, such as ``ids`` (vocabulary entries).

    Notes
    -----
    ``len``, integer, slice and array indexing and ``shape == (seqs,)`` are there so that
    scikit-learn can split and index it.
    """

    __slots__ = ("fields", "lengths", "values")

    def __init__(
        self,
        values: Float[Tensor, "tokens dim"],
        lengths: Int[Tensor, " seqs"],
        fields: Mapping[str, Tensor] | None = None,
    ):
        if values.ndim != 2 or lengths.ndim != 1:
            raise InputError(
                f"Ragged got values of shape {tuple(values.shape)} and lengths of shape "
                f"{tuple(lengths.shape)}: pass values (tokens, dim) and lengths (seqs,)"
            )
        total = int(lengths.sum())
        if total != values.shape[0] or (lengths.numel() and int(lengths.min()) < 0):
            raise InputError(
                f"Ragged got {values.shape[0]} token vectors but lengths that sum to {total}: "
                "lengths must be >= 0 and sum to the number of token vectors"
            )
        self.values = values
        self.lengths = lengths
        self.fields = dict(fields or {})
        for name, field in self.fields.items():
            if field.shape[0] != total:
                raise InputError(
                    f"field {name!r} has {field.shape[0]} rows for {total} tokens: "
                    "a field holds one row per token"
                )

    @classmethod
    def from_list(cls, sequences: Sequence[Any]) -> Ragged:
        """Lay a list of ``(n_i, dim)`` arrays or tensors end to end.

        Raises
        ------
        InputError
            If the list is empty, or an entry is no numeric array of two dimensions, is empty,
            has another ``dim``, or holds NaN or infinity. The message names the entry.
        """
        if len(sequences) == 0:
            raise InputError("got an empty list of sequences: pass at least one (n, dim) array")
        tensors = [_as_matrix(entry, row) for row, entry in enumerate(sequences)]
        dim = tensors[0].shape[1]
        for row, tensor in enumerate(tensors):
            if tensor.shape[1] != dim:
                raise InputError(
                    f"sequence {row} has {tensor.shape[1]} dimensions, sequence 0 has {dim}: "
                    "all token vectors must have the same dimension"
                )
        lengths = torch.tensor([t.shape[0] for t in tensors], dtype=torch.int64)
        dtype = tensors[0].dtype
        for tensor in tensors:
            dtype = torch.promote_types(dtype, tensor.dtype)
        ragged = cls(torch.cat([t.to(dtype) for t in tensors]), lengths)
        ragged.check()
        return ragged

    def check(self) -> Ragged:
        """Return self, or raise `InputError` for no, empty or non-finite sequences."""
        if len(self) == 0:
            raise InputError("got no sequences: pass at least one")
        empty = (self.lengths == 0).nonzero().flatten()
        if len(empty):
            raise InputError(
                f"sequence {int(empty[0])} is empty ({len(empty)} of {len(self)} are): "
                "every sequence needs at least one token; drop the empty ones"
            )
        if not self.values.is_floating_point():
            raise InputError(
                f"token vectors have dtype {self.values.dtype}: they must be floating point"
            )
        # Lowest and highest carry NaN and infinity with them; ten times faster than isfinite.
        values = self.values.detach() if self.dim else torch.zeros(1)
        extremes = torch.stack(torch.aminmax(values))
        if not bool(torch.isfinite(extremes.float()).all()):
            finite = torch.isfinite(self.values.float()).all(dim=1)
            token = int((~finite).nonzero()[0])
            row = int(torch.searchsorted(self.lengths.cumsum(0), token, right=True))
            raise InputError(
                f"sequence {row} holds NaN or infinity (or numbers beyond fp32): all must be "
                "finite; drop or repair the sequence"
            )
        return self

    @property
    def dim(self) -> int:
        """Dimensions of a token vector."""
        return self.values.shape[1]

    @property
    def shape(self) -> tuple[int]:
        """``(seqs,)``: scikit-learn counts samples by it."""
        return (len(self),)

    @property
    def ndim(self) -> int:
        """Always 1: a Ragged is a row of sequences."""
        return 1

    @property
    def offsets(self) -> Int[Tensor, " seqs_plus_one"]:
        """Where each sequence starts in ``values``, and the end."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    @property
    def rows(self) -> Int[Tensor, " tokens"]:
        """For each token the number of the sequence it belongs to."""
        return torch.repeat_interleave(self.lengths)

    @property
    def positions(self) -> Int[Tensor, " tokens"]:
        """For each token its place in its sequence, from 0."""
        start = torch.repeat_interleave(self.offsets[:-1], self.lengths)
        return torch.arange(len(start), device=start.device) - start

    def __len__(self) -> int:
        return self.lengths.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.split(self.values, self.lengths.tolist()))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):  # scikit-learn indexes with (rows, ...)
            key = key[0]
        offsets = self.offsets
        if isinstance(key, int | np.integer):
            row = range(len(self))[int(key)]  # negative and out of range as for a list
            return self.values[int(offsets[row]) : int(offsets[row + 1])]
        if isinstance(key, slice) and key.step in (None, 1):
            first, last, _ = key.indices(len(self))
            tokens: Any = slice(int(offsets[first]), int(offsets[max(first, last)]))
            lengths = self.lengths[first : max(first, last)]
        else:
            picked = _as_rows(key, len(self)).to(self.lengths.device)
            lengths = self.lengths[picked]
            start = torch.repeat_interleave(offsets[picked], lengths)
            within = torch.arange(len(start), device=start.device) - torch.repeat_interleave(
                lengths.cumsum(0) - lengths, lengths
            )
            tokens = start + within
        fields = {name: field[tokens] for name, field in self.fields.items()}
        return Ragged(self.values[tokens], lengths, fields)

    def with_values(self, values: Float[Tensor, "tokens dim"]) -> Ragged:
        """Return the same sequences with other token vectors."""
        return Ragged(values, self.lengths, self.fields)

    def to(self, *args: Any, **kwargs: Any) -> Ragged:
        """Move, and for ``values`` convert, as ``Tensor.to`` does."""
        values = self.values.to(*args, **kwargs)
        fields = {name: field.to(values.device) for name, field in self.fields.items()}
        return Ragged(values, self.lengths.to(values.device), fields)

    @staticmethod
    def concat(parts: Sequence[Ragged]) -> Ragged:
        """Put several Ragged one after the other; fields are kept where all parts have them."""
        shared = set.intersection(*(set(p.fields) for p in parts))
        return Ragged(
            torch.cat([p.values for p in parts]),
            torch.cat([p.lengths for p in parts]),
            {name: torch.cat([p.fields[name] for p in parts]) for name in sorted(shared)},
        )

    def __repr__(self) -> str:
        return f"Ragged({len(self)} sequences, {self.values.shape[0]} tokens, dim {self.dim})"


def _as_matrix(entry: Any, row: int) -> Tensor:
    if isinstance(entry, Tensor):
        if entry.layout != torch.strided:
            raise InputError(f"sequence {row} is a sparse tensor: pass dense ones, x.to_dense()")
        tensor = entry.detach()
    else:
        if np.ma.is_masked(entry):
            raise InputError(
                f"sequence {row} is a masked array: pass the tokens that count alone, as a plain "
                "array"
            )
        try:
            array = np.asarray(entry)
        except ValueError as error:
            raise InputError(
                f"sequence {row} has rows of unequal length: each must be one (n, dim) array"
            ) from error
        if array.dtype.kind not in "fiu":
            what = "text" if array.dtype.kind in "US" else f"dtype {array.dtype}"
            raise InputError(
                f"sequence {row} holds {what}: pass (n, dim) arrays of floats, "
                "or encode raw sequences first with onevec.encode(...)"
            )
        # torch knows no foreign byte order and no longer floats.
        wide = array.dtype.itemsize > 8
        array = np.ascontiguousarray(array, np.float64 if wide else array.dtype.newbyteorder("="))
        # A tensor on a read-only array (a memory map, an Arrow buffer) could be written to: copy.
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if tensor.ndim != 2:
        hint = "; this looks like labels or ready vectors, not tokens" if tensor.ndim < 2 else ""
        raise InputError(
            f"sequence {row} has shape {tuple(tensor.shape)}: each must be (n, dim){hint}"
        )
    if 0 in tensor.shape:
        raise InputError(
            f"sequence {row} is empty (shape {tuple(tensor.shape)}): every sequence needs at "
            "least one token; drop the empty ones"
        )
    # Of floats of one byte torch knows no more than the conversion.
    known = tensor.is_floating_point() and tensor.element_size() > 1
    return tensor if known else tensor.float()


def _as_rows(key: Any, count: int) -> Int[Tensor, " picked"]:
    if isinstance(key, slice):
        return torch.arange(count)[torch.tensor(range(*key.indices(count)), dtype=torch.int64)]
    picked = torch.as_tensor(np.asarray(key))
    if picked.dtype == torch.bool:
        if len(picked) != count:
            raise InputError(f"a mask of {len(picked)} entries cannot pick from {count} sequences")
        return picked.nonzero().flatten()
    picked = picked.to(torch.int64)
    if picked.numel() and (int(picked.max()) >= count or int(picked.min()) < -count):
        raise IndexError(f"row out of range for {count} sequences")
    return picked % count if count else picked
