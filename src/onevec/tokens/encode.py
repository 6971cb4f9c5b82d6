"""Run a frozen encoder over sequences, into a store or into memory."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError, StoreError
from onevec.files import check_target
from onevec.ragged import Ragged
from onevec.tokens import layout
from onevec.tokens.adapters import kind_of, open_encoder
from onevec.tokens.chunks import Chunk, sized
from onevec.tokens.frozen import FrozenEncoder, Options, Piece, States, asked_layers
from onevec.tokens.progress import Bar
from onevec.tokens.readers import open_source
from onevec.tokens.store import TokenStore
from onevec.tokens.writer import TokenStoreWriter

_BATCH_TOKENS_CPU, _BATCH_TOKENS = 4_096, 32_768
_LOST_SPREAD = 0.05  # rounding error, as a part of a dimension's deviation, that is refused
_ARRAY_VALUES = 8 * 2**20  # of ready token vectors, how many numbers are passed on at a time


def encode(
    sequences: Any,
    encoder: Any = None,
    *,
    out: str | Path | None = None,
    layers: int | str | Sequence[int | str] = "last",
    dtype: str | None = None,
    special_tokens: bool = False,
    max_length: int | None = None,
    long: str = "truncate",
    overlap: int = 64,
    batch_tokens: int | None = None,
    device: str | None = None,
    precision: str = "fp32",
    column: str | None = None,
    id_column: str | None = None,
    ids: Sequence[Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
    resume: bool = False,
    overwrite: bool = False,
) -> TokenStore | Ragged:
    """Turn sequences into token vectors with an encoder that stays as it is.

    Parameters
    ----------
    sequences : path, list, Ragged, array, table, ``datasets.Dataset`` or iterator
        Raw sequences (text, waveforms, images), or ready ``(n, dim)`` arrays, which need no
        encoder. A path may end in .parquet .arrow .jsonl .csv .tsv .fasta .txt (also .gz)
        .npy .npz.
    encoder : path, str, SentenceTransformer or callable, optional
        A Hugging Face folder or hub name, a sentence-transformers folder, an ONNX file or
        folder, or a function from a list of sequences to a list of ``(n, dim)`` arrays.
    out : path, optional
        Folder of the store to write. Without it the result stays in memory.
    layers : int, str, or list of them
        Hidden states to take, of one pass: a number (0 the embeddings, -1 the last), "last",
        "middle" (half the depth), "all" (but the embeddings), or several, such as "last,middle".
        Several need ``out``; the store holds them in ascending order and reads the last.
    dtype : {"float16", "int8", "float32"}, optional
        How values are kept: by default float16 for the states of an encoder, and float32 for ready
        arrays, whose scale can be anything; ``int8`` needs ``out``, and keeps two layers for the
        price of one in ``float16``.
    special_tokens : bool
        Keep [CLS], [SEP] and their like among the tokens. Otherwise they are left out, and a
        store holds [CLS], where the encoder has one, apart (`TokenStore.cls`); of a sequence that
        was read in windows, the mean of theirs.
    max_length : int, optional
        Longest input, special tokens included; the encoder's own limit when not given.
    long : {"truncate", "window"}
        Cut longer sequences, with one warning that counts them, or read them in windows of
        ``max_length`` so that each token has its vector.
    overlap : int
        How many tokens neighbouring windows share; a token is taken from the window in which it
        is farther from the border.
    batch_tokens : int, optional
        About how many tokens, padding included, the encoder reads at a time: 4,096 on a CPU,
        whose caches they should fit, and 32,768 elsewhere.
    device : str, optional
        Such as ``"cpu"`` or ``"cuda"``; a GPU when there is one.
    precision : {"fp32", "bf16"}
        bf16 runs under autocast.
    column, id_column : str, optional
        Columns of a table: the sequences, and their names. All others are carried into the store
        as metadata, which ``fit`` never reads.
    ids, metadata : optional
        Names of the sequences and further columns, where the input is no table.
    progress : bool
        Show a progress bar on standard error if that is a terminal.
    resume : bool
        Go on with a store that a killed run left.
    overwrite : bool
        Replace a store that exists.

    Returns
    -------
    TokenStore or Ragged
        The opened store if ``out`` is given.

    Raises
    ------
    InputError
        For input that breaks a rule; nothing half-written stays.
    StoreError
        If ``out`` exists and neither ``resume`` nor ``overwrite`` is given.
    """
    asked = asked_layers(layers)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if batch_tokens is None:
        batch_tokens = _BATCH_TOKENS_CPU if device == "cpu" else _BATCH_TOKENS
    options = Options(
        special_tokens=special_tokens,
        max_length=max_length,
        long=long,
        overlap=overlap,
        device=_known_device(device),
        precision=precision,
    )
    options.check()
    _check_output(out, dtype or "float16", batch_tokens)
    for name, given in (("sequences", sequences), ("encoder", encoder)):
        if isinstance(given, str) and not given.strip():
            raise InputError(f"got an empty {name}: name a file, or an encoder, that exists")
    if out is not None and not Path(out).exists():
        check_target(out, False, what="token store")
    if out is not None and not resume and not overwrite:
        TokenStoreWriter(
            out, dtype=dtype or "float16"
        )  # refuse a folder that is taken before any work
    source = open_source(sequences, column=column, id_column=id_column, ids=ids, metadata=metadata)
    first = next(source.chunks, None)
    if first is None or not len(first):
        raise InputError("got no sequences: pass at least one")
    kind = kind_of(first.sequences)
    frozen = open_encoder(encoder, kind, options)
    if dtype is None:
        dtype = "float32" if frozen is None else "float16"
    known = [-1] if frozen is None else frozen.known_layers(layers)
    if frozen is None and set(asked) != {-1}:
        raise InputError(f"got layers={layers!r} for ready token vectors: leave layers out")
    if out is None and len(known) > 1:
        raise InputError(f"got layers={layers!r}: several need a store; pass out=... (--out)")
    budget = _ARRAY_VALUES if frozen is None else frozen.chunk_batches * batch_tokens
    chunks = sized(itertools.chain([first], source.chunks), budget)
    bar = Bar(source.total, progress)
    if out is None:
        with bar:
            encoded = _encoded(chunks, frozen, known, batch_tokens, bar=bar, dtype=dtype)
            ragged = _in_memory((tokens[known[0]] for _, tokens, _ in encoded), dtype)
        _warn(frozen)
        return ragged
    writer = TokenStoreWriter(
        out,
        dtype=dtype,
        layers=known,
        encoder=_describe(frozen),
        settings=_settings(frozen, options),
        resume=resume,
        overwrite=overwrite,
    )
    with writer, bar:
        rest = _resumed(chunks, writer, bar)
        for chunk, tokens, cls in _encoded(rest, frozen, known, batch_tokens, bar=bar, dtype=dtype):
            raw = chunk.sequences
            is_text = kind_of(raw) == "text"
            writer.append(
                tokens,
                chunk.ids,
                sequences=raw if is_text else None,
                metadata=chunk.metadata,
                cls=cls,
                owned=not isinstance(raw, Ragged),  # a Ragged is the user's
            )
            bar.note = _so_far(writer, source.total)
    _warn(frozen)
    return TokenStore(out)


def _known_device(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"got device={device!r}, which this machine or this torch does not have: use "
            '"cpu", or leave it out'
        ) from error
    return device


def _check_output(out: Any, dtype: str, batch_tokens: int) -> None:
    if dtype not in layout.DTYPES:
        raise InputError(f"got dtype={dtype!r}: choose one of {', '.join(layout.DTYPES)}")
    if batch_tokens < 1:
        raise InputError(f"got batch_tokens={batch_tokens}: it must be at least 1")
    if out is None and dtype == "int8":
        raise InputError('got dtype="int8": it needs a store; pass out=... (--out)')


def _describe(frozen: FrozenEncoder | None) -> dict[str, Any]:
    if frozen is None:
        return {"name": None, "fingerprint": None, "depth": None}
    return {"name": frozen.name, "fingerprint": frozen.fingerprint, "depth": frozen.depth}


def _settings(frozen: FrozenEncoder | None, options: Options) -> dict[str, Any]:
    if frozen is None:
        return {}
    return {
        "special_tokens": "kept" if options.special_tokens else "left out",
        "max_length": frozen.limit,
        "long": options.long,
        "overlap": options.overlap if options.long == "window" else None,
        "precision": options.precision,
    }


def _warn(frozen: FrozenEncoder | None) -> None:
    for note in [] if frozen is None else frozen.notes():
        warnings.warn(note, stacklevel=3)


def _so_far(writer: TokenStoreWriter, total: int | None) -> str:
    """Say how many bytes are on disk, and about how many there will be."""
    size, rows = writer.bytes_written, writer.rows_written
    if not rows:
        return ""
    whole = f" of about {layout.bytes_text(size / rows * total)}" if total else ""
    return layout.bytes_text(size) + whole


def _in_memory(encoded: Iterator[Ragged], dtype: str) -> Ragged:
    parts = []
    largest = layout.FLOAT16_LARGEST
    for tokens in encoded:
        values = tokens.values
        values = values.clamp(-largest, largest).half() if dtype == "float16" else values.float()
        parts.append(tokens.with_values(values))
    return Ragged.concat(parts)


def _encoded(
    chunks: Iterator[Chunk],
    frozen: FrozenEncoder | None,
    layers: list[int],
    batch_tokens: int,
    *,
    bar: Bar,
    dtype: str,
) -> Iterator[tuple[Chunk, dict[int, Ragged], dict[int, Tensor] | None]]:
    """Yield each chunk with its token vectors, and classification tokens, by layer."""
    for chunk in chunks:
        if frozen is None:
            ready = _checked(chunk.sequences, chunk.start)
            if dtype == "float16":
                _check_precision(ready.values, chunk.start)
            yield chunk, {layers[0]: ready}, None
        else:
            yield chunk, *_run(chunk, frozen, layers, batch_tokens)
        bar.advance(len(chunk))


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


def _run(
    chunk: Chunk, frozen: FrozenEncoder, layers: list[int], batch_tokens: int
) -> tuple[dict[int, Ragged], dict[int, Tensor] | None]:
    """Encode one chunk: batches by length, results in the chunk's order."""
    pieces = frozen.cut(chunk.sequences, chunk.start)
    results: list[dict[int, States]] = [{}] * len(pieces)
    for batch in _batches(pieces, batch_tokens):
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
        layer: _checked(_joined(results, layer, lengths, fields), chunk.start) for layer in layers
    }
    rows = torch.tensor([piece.row for piece in pieces])
    fronts = {layer: _front(results, layer, rows) for layer in layers}
    return tokens, {k: front for k, front in fronts.items() if front is not None} or None


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


def _batches(pieces: list[Piece], batch_tokens: int) -> Iterator[list[int]]:
    """Group pieces of like length so that a padded batch has at most ``batch_tokens``."""
    order = sorted(
        range(len(pieces)), key=lambda place: (str(pieces[place].group), -pieces[place].length)
    )
    batch: list[int] = []
    for place in order:
        piece = pieces[place]
        if batch:
            head = pieces[batch[0]]  # the longest of the batch
            full = (len(batch) + 1) * head.length > batch_tokens
            if full or piece.group != head.group:
                yield batch
                batch = []
        batch.append(place)
    if batch:
        yield batch


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
