"""Run a frozen encoder over sequences, into a store or into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onevec.errors import InputError
from onevec.files import check_target
from onevec.ragged import Ragged
from onevec.tokens import layout
from onevec.tokens.encoding import open_encoding
from onevec.tokens.store import TokenStore
from onevec.tokens.writer import TokenStoreWriter


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
    resume: bool = False,
    overwrite: bool = False,
) -> TokenStore | Ragged:
    """Turn sequences into token vectors with an encoder that stays as it is.

    Parameters
    ----------
    sequences : path, list, Ragged, array, table, ``datasets.Dataset`` or iterator
        Raw sequences (text, recordings, images), or ready ``(n, dim)`` arrays, which need no
        encoder. docs/inputs.md lists the files that are read; a path may be a folder of them.
        Recordings of any rate are resampled to that of the encoder; 1-D arrays, which do not say
        theirs, are taken to be at it already, which is warned of.
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
    batch_size : int, optional
        The most sequences that it reads at a time; there is no such limit by default.
    device : str, optional
        Such as ``"cpu"`` or ``"cuda"``; a GPU when there is one.
    precision : {"fp32", "bf16"}
        bf16 runs under autocast.
    column, id_column : str, optional
        Columns of a table: the sequences, and their names. All others are carried into the store
        as metadata, which ``fit`` never reads.
    ids, metadata : optional
        Names of the sequences and further columns, where the input is no table.
    upper : bool
        Write text in capitals, for encoders that know no others.
    frames : {"logmel", "patches"}, optional
        Cut recordings to 40 log-mel energies per 10 ms, or images to patches of 8 x 8 pixels.
        These are token vectors, so that no encoder is needed.
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
    _check_output(out, dtype or "float16")
    if out is not None and not Path(out).exists():
        check_target(out, False, what="token store")
    if out is not None and not resume and not overwrite:
        TokenStoreWriter(
            out, dtype=dtype or "float16"
        )  # refuse a folder that is taken before any work
    encoding = open_encoding(
        sequences,
        encoder,
        layers=layers,
        dtype=dtype,
        special_tokens=special_tokens,
        max_length=max_length,
        long=long,
        overlap=overlap,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        device=device,
        precision=precision,
        column=column,
        id_column=id_column,
        ids=ids,
        metadata=metadata,
        upper=upper,
        frames=frames,
        progress=progress,
    )
    found: TokenStore | Ragged
    if out is not None:
        found = encoding.write(out, resume=resume, overwrite=overwrite)
    elif len(encoding.layers) > 1:
        raise InputError(f"got layers={layers!r}: several need a store; pass out=... (--out)")
    else:
        (layer,) = encoding.layers
        found = Ragged.concat([encoding.kept(part.tokens[layer]) for part in encoding.states()])
    encoding.tell()
    return found


def _check_output(out: Any, dtype: str) -> None:
    if dtype not in layout.DTYPES:
        raise InputError(f"got dtype={dtype!r}: choose one of {', '.join(layout.DTYPES)}")
    if out is None and dtype == "int8":
        raise InputError('got dtype="int8": it needs a store; pass out=... (--out)')
