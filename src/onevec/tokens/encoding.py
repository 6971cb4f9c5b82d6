"""Sequences on their way through a frozen encoder, chunk by chunk."""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError, StoreError
from onevec.ragged import Ragged
from onevec.tokens import layout
from onevec.tokens.adapters import kind_of, open_encoder
from onevec.tokens.chunks import Chunk, LayeredTokens, sized
from onevec.tokens.frozen import FrozenEncoder, Options, Piece, States, asked_layers
from onevec.tokens.progress import Bar
from onevec.tokens.readers import open_source
from onevec.tokens.store import TokenStore
from onevec.tokens.writer import TokenStoreWriter

_BATCH_TOKENS_CPU, _BATCH_TOKENS = 4_096, 32_768
_LOST_SPREAD = 0.05  # rounding error, as a part of a dimension's deviation, that is refused
_ARRAY_VALUES = 8 * 2**20  # of ready token vectors, how many numbers are passed on at a time


class Encoded(NamedTuple):
    """A chunk with its token vectors, and its classification tokens, by hidden state."""

    chunk: Chunk
    tokens: dict[int, Ragged]
    cls: dict[int, Tensor] | None


class Known(NamedTuple):
    """Rows of an input that are encoded already: their numbers, ascending, and their store."""

    rows: Int[np.ndarray, " rows"]
    store: TokenStore


@dataclass
class Encoding:
    """An input and the encoder that reads it, opened and checked; what is read is not held.

    Attributes
    ----------
    chunks : iterator of Chunk
        What is still to be read, in pieces that the encoder takes at a time.
    total : int or None
        How many rows there are, if that is known beforehand.
    frozen : FrozenEncoder or None
        None where the input holds token vectors already.
    options : Options
        How the encoder is run.
    layers : list of int
        The hidden states to take, ascending.
    dtype : {"float16", "int8", "float32"}
        How values are kept.
    batch_tokens : int
        About how many tokens the encoder reads at a time.
    batch_size : int or None
        The most sequences it reads at a time.
    progress : bool
        Whether a bar is shown.
    clipped : int
        How many values were clipped to fit float16 so far.
    reading : dict
        What is done to sequences before the encoder: ``upper``, ``frames``; for the index.
    """

    chunks: Iterator[Chunk]
    total: int | None
    frozen: FrozenEncoder | None
    options: Options
    layers: list[int]
    dtype: str
    batch_tokens: int
    batch_size: int | None = None
    progress: bool = True
    clipped: int = 0
    reading: dict[str, Any] = field(default_factory=dict)

    @property
    def budget(self) -> int:
        """Tokens of a chunk, or values where vectors are ready."""
        frozen = self.frozen
        return _ARRAY_VALUES if frozen is None else frozen.chunk_batches * self.batch_tokens

    @property
    def fingerprint(self) -> str | None:
        """That of the encoder, if it is known."""
        return None if self.frozen is None else self.frozen.fingerprint

    @property
    def encoder(self) -> dict[str, Any]:
        """Name, fingerprint and depth of the encoder, for the index of a store."""
        if self.frozen is None:
            return {"name": None, "fingerprint": None, "depth": None}
        name, depth = self.frozen.name, self.frozen.depth
        return {"name": name, "fingerprint": self.frozen.fingerprint, "depth": depth}

    @property
    def settings(self) -> dict[str, Any]:
        """How the tokens are made, for the index of a store."""
        if self.frozen is None:
            return dict(self.reading)
        options = self.options
        return {
            "special_tokens": "kept" if options.special_tokens else "left out",
            "max_length": self.frozen.limit,
            "long": options.long,
            "overlap": options.overlap if options.long == "window" else None,
            "precision": options.precision,
            **self.reading,
        }

    def states(self) -> Iterator[Encoded]:
        """Encode chunk by chunk, as exactly as the encoder says."""
        with Bar(self.total, self.progress) as bar:
            yield from self._states(self.chunks, bar)

    def kept_states(self, known: Known | None = None) -> Iterator[Encoded]:
        """Encode chunk by chunk, rounded as a store keeps values.

        Parameters
        ----------
        known : Known, optional
            Rows that are not encoded again but read from a store.
        """
        with Bar(self.total, self.progress) as bar:
            for chunk in self.chunks:
                where = np.zeros(len(chunk), bool)
                if known is not None:
                    where = np.isin(np.arange(chunk.start, chunk.start + len(chunk)), known.rows)
                parts = []
                if not where.all():
                    fresh = chunk if not where.any() else chunk.pick(np.flatnonzero(~where))
                    (found,) = self._states(iter([fresh]), bar)
                    tokens = {layer: self.kept(each) for layer, each in found.tokens.items()}
                    cls = found.cls and {n: self._kept(each) for n, each in found.cls.items()}
                    parts.append(Encoded(chunk, tokens, cls))
                if known is not None and where.any():
                    first = np.searchsorted(known.rows, chunk.start)
                    rows = np.arange(first, first + where.sum())
                    parts.append(Encoded(chunk, *_stored(known.store, rows)))
                    bar.advance(len(rows))
                order = np.argsort(np.argsort(where, kind="stable"))
                yield parts[0] if len(parts) == 1 else _merged(parts, order)

    def kept(self, tokens: Ragged) -> Ragged:
        """Round token vectors as they are kept."""
        return tokens.with_values(self._kept(tokens.values))

    def _kept(self, values: Tensor) -> Tensor:
        if self.dtype == "float32":
            return values.float()
        if values.dtype != torch.float16:
            low, high = torch.aminmax(values)
            if max(float(high), -float(low)) > layout.FLOAT16_LARGEST:
                self.clipped += int((values.abs() > layout.FLOAT16_LARGEST).sum())
                values = values.clamp(-layout.FLOAT16_LARGEST, layout.FLOAT16_LARGEST)
        return values.half()

    def write(
        self, out: str | Path, *, resume: bool = False, overwrite: bool = False
    ) -> TokenStore:
        """Encode into a store; see `onevec.encode`."""
        writer = TokenStoreWriter(
            out,
            dtype=self.dtype,
            layers=self.layers,
            encoder=self.encoder,
            settings=self.settings,
            resume=resume,
            overwrite=overwrite,
        )
        with writer, Bar(self.total, self.progress) as bar:
            for chunk, tokens, cls in self._states(_resumed(self.chunks, writer, bar), bar):
                raw = chunk.sequences
                writer.append(
                    tokens,
                    chunk.ids,
                    sequences=raw if kind_of(raw) == "text" else None,
                    metadata=chunk.metadata,
                    cls=cls,
                    owned=not isinstance(raw, Ragged),  # a Ragged is the user's
                )
                bar.note = _so_far(writer, self.total)
        return TokenStore(out)

    def tell(self) -> None:
        """Warn of what was cut, clipped and not known, with how often."""
        for note in [] if self.frozen is None else self.frozen.notes():
            warnings.warn(note, stacklevel=3)
        if self.clipped:
            warnings.warn(
                f"{self.clipped} values beyond ±65504 were clipped to fit float16: use "
                'dtype="float32" (--dtype float32) to keep them',
                stacklevel=3,
            )

    def _states(self, chunks: Iterator[Chunk], bar: Bar) -> Iterator[Encoded]:
        for chunk in chunks:
            try:
                yield self._encoded(chunk)
            except InputError as error:
                if chunk.numbers is None:
                    raise
                raise InputError(_renumbered(error, chunk.numbers)) from error
            bar.advance(len(chunk))

    def _encoded(self, chunk: Chunk) -> Encoded:
        if self.frozen is not None:
            return Encoded(chunk, *self._run(chunk, self.frozen))
        ready = {n: _checked(_state(chunk, n), chunk.start) for n in self.layers}
        if self.dtype == "float16":
            for each in ready.values():
                _check_precision(each.values, chunk.start)
        return Encoded(chunk, ready, None)

    def _run(
        self, chunk: Chunk, frozen: FrozenEncoder
    ) -> tuple[dict[int, Ragged], dict[int, Tensor] | None]:
        """Run the encoder: batches by length, results in the chunk's order."""
        layers = self.layers
        pieces = frozen.cut(chunk.sequences, chunk.start)
        results: list[dict[int, States]] = [{}] * len(pieces)
        for batch in _batches(pieces, self.batch_tokens, self.batch_size):
            outputs = frozen.run([pieces[place] for place in batch], layers)
            for place, output in zip(batch, outputs, strict=True):
                results[place] = output
        lengths = torch.zeros(len(chunk), dtype=torch.int64)
        for piece, result in zip(pieces, results, strict=True):
            lengths[piece.row] += len(result[layers[0]].tokens)
        found = [ids for ids in map(frozen.token_ids, pieces) if ids is not None]
        fields = {"ids": torch.from_numpy(np.concatenate(found).astype(np.int64))} if found else {}
        # Pieces stand in the order of their rows, windows of one row in the order of its tokens.
        tokens = {
            layer: _checked(_joined(results, layer, lengths, fields), chunk.start)
            for layer in layers
        }
        rows = torch.tensor([piece.row for piece in pieces])
        fronts = {layer: _front(results, layer, rows) for layer in layers}
        return tokens, {k: front for k, front in fronts.items() if front is not None} or None


def open_encoding(
    sequences: Any,
    encoder: Any = None,
    *,
    layers: int | str | Sequence[int | str] = "last",
    dtype: str | None = None,
    special_tokens: bool = False,
    max_length: int | None = None,
    long: str = "truncate",
    overlap: int = 64,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str = "fp32",
    column: str | None = None,
    id_column: str | None = None,
    ids: Sequence[Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    upper: bool = False,
    frames: str | None = None,
    progress: bool = True,
    opened: dict[Any, FrozenEncoder] | None = None,
) -> Encoding:
    """Open an input and its encoder, and check both; the parameters are those of `onevec.encode`.

    ``opened`` holds the encoder that was opened last, which is not loaded again.
    """
    asked = asked_layers(layers)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = Options(
        special_tokens=special_tokens,
        max_length=max_length,
        long=long,
        overlap=overlap,
        device=_known_device(device),
        precision=precision,
    )
    options.check()
    if batch_tokens is None:
        batch_tokens = _BATCH_TOKENS_CPU if options.device == "cpu" else _BATCH_TOKENS
    for name, count in (("batch_tokens", batch_tokens), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise InputError(f"got {name}={count}: it must be at least 1")
    if dtype is not None and dtype not in layout.DTYPES:
        raise InputError(f"got dtype={dtype!r}: choose one of {', '.join(layout.DTYPES)}")
    for name, given in (("sequences", sequences), ("encoder", encoder)):
        if isinstance(given, str) and not given.strip():
            raise InputError(f"got an empty {name}: name a file, or an encoder, that exists")
    source = open_source(
        sequences,
        column=column,
        id_column=id_column,
        ids=ids,
        metadata=metadata,
        upper=upper,
        frames=frames,
    )
    first = next(source.chunks, None)
    if first is None or not len(first):
        raise InputError("got no sequences: pass at least one")
    frozen = _open_once(encoder, kind_of(first.sequences), options, opened)
    if dtype is None:
        dtype = "float32" if frozen is None else "float16"
    known = _ready_layers(first, asked) if frozen is None else frozen.known_layers(layers)
    encoding = Encoding(
        itertools.chain([first], source.chunks),
        source.total,
        frozen,
        options,
        known,
        dtype,
        batch_tokens,
        batch_size,
        progress,
        reading={n: v for n, v in (("upper", upper), ("frames", frames)) if v},
    )
    encoding.chunks = sized(encoding.chunks, encoding.budget)
    return encoding


def _open_once(
    encoder: Any, kind: str, options: Options, opened: dict[Any, FrozenEncoder] | None
) -> FrozenEncoder | None:
    name = str(encoder) if isinstance(encoder, str | Path) else id(encoder)
    if opened is not None and (name, kind, options) in opened:
        return copy.copy(opened[name, kind, options])
    frozen = open_encoder(encoder, kind, options)
    if opened is not None and frozen is not None:
        opened.clear()
        opened[name, kind, options] = copy.copy(frozen)  # which has counted nothing yet
    return frozen


def _ready_layers(first: Chunk, asked: tuple[int | str, ...]) -> list[int]:
    """Return the numbers of the hidden states to take of ready token vectors, ascending."""
    head = first.sequences[0]
    if not isinstance(head, LayeredTokens):
        if set(asked) != {-1}:
            given = ", ".join(map(str, asked))
            raise InputError(f"got layers={given!r} for ready token vectors: leave layers out")
        return [-1]
    there = sorted(head.states)
    named = {"all": there, "middle": [there[(len(there) - 1) // 2]], -1: there[-1:]}
    wrong = next((each for each in asked if each not in named and each not in there), None)
    if wrong is not None:
        raise InputError(
            f"got the layer {wrong}, which these token vectors do not have: they have "
            f"{', '.join(map(str, there))}"
        )
    return sorted({layer for each in asked for layer in named.get(each, [each])})  # type: ignore[list-item]


def _state(chunk: Chunk, layer: int) -> Any:
    """Return one hidden state of ready token vectors."""
    if not len(chunk) or not isinstance(chunk.sequences[0], LayeredTokens):
        return chunk.sequences
    rows = []
    for row, each in enumerate(chunk.sequences, chunk.start):
        if not isinstance(each, LayeredTokens) or layer not in each.states:
            raise InputError(f"sequence {row} has no layer {layer}, which the first one has")
        rows.append(each.states[layer])
    return rows


def _known_device(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"got device={device!r}, which this machine or this torch does not have: use "
            '"cpu", or leave it out'
        ) from error
    return device


def _renumbered(error: InputError, numbers: np.ndarray) -> str:
    """Say which rows of the input are meant where picked rows were encoded."""
    return re.sub(
        r"\bsequence (\d+)", lambda found: f"sequence {numbers[int(found[1])]}", str(error)
    )


def _stored(
    store: TokenStore, rows: np.ndarray
) -> tuple[dict[int, Ragged], dict[int, Tensor] | None]:
    """Read every stored hidden state of some rows."""
    layers = store.layers
    at = {n: store if n == store.current_layer else store.layer(n) for n in layers}
    tokens = {layer: each[rows] for layer, each in at.items()}
    cls = {n: each.cls_rows(rows) for n, each in at.items()} if store.has_cls else None
    return tokens, cls


def _merged(parts: list[Encoded], order: np.ndarray) -> Encoded:
    """Put the rows of two parts into the order of their chunk."""
    first = parts[0]
    tokens = {
        layer: Ragged.concat([part.tokens[layer] for part in parts])[order]
        for layer in first.tokens
    }
    cls = None
    if first.cls is not None:
        fronts = {n: [part.cls[n] for part in parts if part.cls] for n in first.cls}
        cls = {layer: torch.cat([each.float() for each in found])[torch.from_numpy(order)]
               for layer, found in fronts.items()}  # fmt: skip
    return Encoded(first.chunk, tokens, cls)


def _check_precision(values: Float[Tensor, "tokens dim"], start: int) -> None:
    """Refuse float16 where rounding to it takes a good part of a dimension's spread."""
    whole = values.double()
    lost = (whole - values.half().double()).square().mean(0).sqrt()
    spread, middle = torch.std_mean(whole, 0, correction=0)
    bad = torch.nonzero((lost > _LOST_SPREAD * spread) & (spread > 0)).flatten().tolist()
    if bad:
        raise InputError(
            f"float16 does not hold dimension {bad[0]} of the sequences from {start} on, which "
            f"varies by {float(spread[bad[0]]):.3g} around {float(middle[bad[0]]):.6g}: use "
            'dtype="float32" (--dtype float32), or subtract what is constant first'
        )


def _front(results: list[dict[int, States]], layer: int, rows: Tensor) -> Tensor | None:
    """Return one classification token per sequence, the mean of its windows'; None without."""
    found = [state for result in results if (state := result[layer].cls) is not None]
    if len(found) < len(results):
        return None
    states, windows = torch.stack(found), torch.bincount(rows)
    sums = states.new_zeros(len(windows), states.shape[1]).index_add_(0, rows, states)
    return sums / windows[:, None]


def _joined(
    results: list[dict[int, States]], layer: int, lengths: Tensor, fields: dict[str, Tensor]
) -> Ragged:
    pieces = [result[layer].tokens for result in results]
    dims = {piece.shape[1] for piece in pieces}
    if len(dims) > 1:
        raise InputError(
            f"the encoder gave vectors of {sorted(dims)} dimensions: all must be equal"
        )
    return Ragged(torch.cat(pieces), lengths, fields)


def _checked(ready: Any, start: int) -> Ragged:
    """Check ready token vectors; messages count rows of the input, not of the chunk."""
    try:
        return ready.check() if isinstance(ready, Ragged) else Ragged.from_list(ready)
    except InputError as error:
        message = re.sub(
            r"\bsequence (\d+)", lambda found: f"sequence {start + int(found[1])}", str(error)
        )
        raise InputError(message) from error


def _batches(
    pieces: list[Piece], batch_tokens: int, most: int | None = None
) -> Iterator[list[int]]:
    """Group pieces of like length: a batch has at most ``batch_tokens``, and ``most`` pieces."""
    order = sorted(
        range(len(pieces)), key=lambda place: (str(pieces[place].group), -pieces[place].length)
    )
    batch: list[int] = []
    for place in order:
        piece = pieces[place]
        if batch:
            head = pieces[batch[0]]  # the longest of the batch
            full = (len(batch) + 1) * head.length > batch_tokens or len(batch) == most
            if full or piece.group != head.group:
                yield batch
                batch = []
        batch.append(place)
    if batch:
        yield batch


def _so_far(writer: TokenStoreWriter, total: int | None) -> str:
    """Say how many bytes are on disk, and about how many there will be."""
    size, rows = writer.bytes_written, writer.rows_written
    if not rows:
        return ""
    whole = f" of about {layout.bytes_text(size / rows * total)}" if total else ""
    return layout.bytes_text(size) + whole


def _resumed(chunks: Iterator[Chunk], writer: TokenStoreWriter, bar: Bar) -> Iterator[Chunk]:
    """Leave out the rows that a killed run has written, after checking that they are the same."""
    written = writer.written("id") or []
    texts = writer.written("sequence")
    row = 0
    for chunk in chunks:
        skip = min(len(chunk), max(len(written) - row, 0))
        mine = slice(row, row + skip)
        other_text = texts is not None and list(chunk.sequences[:skip]) != texts[mine]
        if (chunk.ids or [])[:skip] != written[mine] or other_text:
            raise StoreError(
                f"cannot resume {writer.path}: its first {len(written)} sequences are not those of "
                "this input; pass the same input, or overwrite=True (--overwrite)"
            )
        row += len(chunk)
        if writer.complete and skip < len(chunk):
            raise StoreError(
                f"{writer.path} is complete with {len(written)} sequences, this input has more: "
                "pass the same input, or overwrite=True (--overwrite)"
            )
        bar.advance(skip)
        if skip < len(chunk):
            yield chunk[skip : len(chunk)]
    if row < len(written):
        raise StoreError(
            f"cannot resume {writer.path}: it holds {len(written)} sequences, this input only "
            f"{row}; pass the same input, or overwrite=True (--overwrite)"
        )
