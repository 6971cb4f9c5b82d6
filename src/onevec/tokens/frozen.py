"""What a frozen encoder promises, and the simplest one: a function."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onevec.errors import InputError
from onevec.ragged import Ragged, _as_matrix
from onevec.tokens.media import Picture, Sound

_SOUND_TOKENS = 50  # about, of a second


@dataclass(frozen=True)
class Options:
    """How `onevec.encode` runs an encoder; see there."""

    layers: tuple[int, ...] = (-1,)
    special_tokens: bool = False
    max_length: int | None = None
    long: str = "truncate"
    overlap: int = 64
    device: str = "cpu"
    precision: str = "fp32"

    def check(self) -> None:
        """Raise `InputError` for values that cannot work."""
        rules = (
            (self.long in ("truncate", "window"), "long", '"truncate" or "window"'),
            (self.precision in ("fp32", "bf16"), "precision", '"fp32" or "bf16"'),
            (self.overlap >= 0, "overlap", "at least 0"),
            (
                self.max_length is None
                or (isinstance(self.max_length, int) and self.max_length >= 1),
                "max_length",
                "a whole number of at least 1",
            ),
        )
        for holds, name, rule in rules:
            if not holds:
                raise InputError(f"got {name}={getattr(self, name)!r}: it must be {rule}")


def asked_layers(layers: Any) -> tuple[int | str, ...]:
    """Read the argument ``layers`` of `onevec.encode`: numbers, "middle" and "all"; -1 is "last".

    Raises
    ------
    InputError
        For anything else; whether the encoder has them is for `FrozenEncoder.known_layers`.
    """
    given = layers.split(",") if isinstance(layers, str) else layers
    given = given if isinstance(given, Sequence | np.ndarray) else [given]
    names = [str(each).strip() for each in given]
    if not names or not all(re.fullmatch(r"[+-]?\d+|last|middle|all", name) for name in names):
        raise InputError(
            f'got layers={layers!r}: pass "last", "middle", "all" or the number of a hidden state, '
            'or several of them such as "last,middle" or [6, 12]'
        )
    names = ["-1" if name == "last" else name for name in names]
    return tuple(name if name.isalpha() else int(name) for name in names)


@dataclass(frozen=True)
class Piece:
    """One input of an encoder: a sequence, or a window of it.

    Attributes
    ----------
    row : int
        The sequence it belongs to.
    inputs : Any
        What the encoder reads.
    length : int
        How many tokens it takes in a batch.
    keep : tuple of int
        Which of its tokens belong to the result: from, to (exclusive).
    group : Hashable
        Only pieces of one group may share a batch.
    cls : int or None
        Which of its tokens is the classification token, where it is kept apart.
    """

    row: int
    inputs: Any
    length: int
    keep: tuple[int, int]
    group: Hashable = None
    cls: int | None = None


class States(NamedTuple):
    """One hidden state of a `Piece`: the kept tokens (tokens, dim), and CLS (dim,) apart."""

    tokens: Tensor
    cls: Tensor | None = None


class FrozenEncoder(ABC):
    """An encoder that is only run.

    Attributes
    ----------
    name : str
        For the index of a store.
    options : Options
        How it is run.
    fingerprint : str or None
        Hash of its weights and vocabulary; None if it cannot be known.
    depth : int or None
        Number of layers; layer ``depth`` is the last, 0 the embeddings.
    truncated : int
        How many sequences were cut so far.
    limit : int or None
        Longest input.
    chunk_batches : int
        How many batches are sorted by length together.
    """

    name: str
    options: Options = Options()
    fingerprint: str | None = None
    depth: int | None = None
    truncated: int = 0
    limit: int | None = None
    chunk_batches: int = 8

    @abstractmethod
    def cut(self, sequences: list[Any], start: int) -> list[Piece]:
        """Turn sequences into inputs; ``start`` is the first one's number, for messages."""

    @abstractmethod
    def run(self, pieces: list[Piece], layers: Sequence[int]) -> list[dict[int, States]]:
        """Return the states of each piece by layer, of one pass, in memory of their own."""

    def notes(self) -> list[str]:
        """Return what the user must know of the sequences so far, a sentence each."""
        if not self.truncated:
            return []
        return [
            f"{self.truncated} sequences were longer than {self.limit} and were cut: use "
            'long="window" (--long window) to keep all their tokens'
        ]

    def token_ids(self, piece: Piece) -> np.ndarray | None:
        """Return vocabulary entries of the kept tokens, if there is a vocabulary."""
        return None

    def windows(self, count: int, size: int) -> list[tuple[int, int, int, int]]:
        """Cut ``count`` tokens to inputs of ``size`` as the options say; see `cut_windows`."""
        if count <= size:
            return [(0, count, 0, count)]
        if self.options.long == "window":
            return cut_windows(count, size, self.options.overlap)
        self.truncated += 1
        return [(0, size, 0, size)]

    def known_layers(self, layers: Any) -> list[int]:
        """Return the numbers of the asked layers, counted from the embeddings (0) and ascending.

        Of an encoder whose depth is not known there is the last only, and its number is -1.

        Raises
        ------
        InputError
            For a layer that the encoder does not have.
        """
        asked, depth = asked_layers(layers), self.depth
        if depth is None:
            if set(asked) != {-1}:
                raise InputError(
                    f"got layers={layers!r} for {self.name}, which does not say how many layers it "
                    "has and gives the last only: leave layers out"
                )
            return [-1]
        known: set[int] = set()
        for layer in asked:
            if layer == "all":
                known.update(range(1, depth + 1))
            elif layer == "middle":
                known.add(max(1, depth // 2))
            elif -depth - 1 <= int(layer) <= depth:
                known.add(int(layer) % (depth + 1))
            else:
                raise InputError(
                    f"got layers={layers!r} for {self.name}, which has {depth}: pass 0 (the "
                    f"embeddings) to {depth}, or -1 (the last) to {-depth - 1}"
                )
        return sorted(known)


class CallableEncoder(FrozenEncoder):
    """A function from a list of sequences to a list of ``(n, dim)`` arrays.

    Files of images reach it as Pillow's, files of audio as `onevec.tokens.media.Sound`.
    """

    chunk_batches = 2  # nothing is known of the size of what a function returns

    def __init__(self, function: Callable[[list[Any]], Any]):
        self.function = function
        self._start = 0
        self.name = getattr(function, "__qualname__", type(function).__name__)

    def cut(self, sequences: list[Any], start: int) -> list[Piece]:
        """One piece per sequence."""
        self._start = start
        return [
            Piece(row, sequence, max(size_of(sequence), 1), (0, 0))
            for row, sequence in enumerate(sequences)
        ]

    def run(self, pieces: list[Piece], layers: Sequence[int]) -> list[dict[int, States]]:
        """Call the function and check what it returns."""
        inputs = [piece.inputs for piece in pieces]
        output = self.function(
            [each.open() if isinstance(each, Picture) else each for each in inputs]
        )
        if isinstance(output, Sequence | np.ndarray | Tensor | Ragged):
            output = list(output)
        if not isinstance(output, list) or len(output) != len(pieces):
            got = f"{len(output)} arrays" if isinstance(output, list) else type(output).__name__
            raise InputError(
                f"the encoder function {self.name} returned {got} for {len(pieces)} sequences: it "
                "must return a list with one (n, dim) array per sequence"
            )
        rows = [self._start + piece.row for piece in pieces]
        return [
            {layers[0]: States(_as_matrix(entry, row).cpu())}
            for row, entry in zip(rows, output, strict=True)
        ]


def kept_states(outputs: dict[int, Tensor], pieces: list[Piece]) -> list[dict[int, States]]:
    """Take what is kept of each piece out of padded outputs, (seqs, width, dim) by layer."""

    def kept(output: Tensor, piece: Piece) -> States:
        # A copy: a view would keep the whole padded batch alive.
        cls = None if piece.cls is None else output[piece.cls].clone()
        return States(output[slice(*piece.keep)].clone(), cls)

    whole = {layer: output.float().cpu() for layer, output in outputs.items()}
    return [
        {layer: kept(output[row], piece) for layer, output in whole.items()}
        for row, piece in enumerate(pieces)
    ]


def size_of(sequence: Any) -> int:
    """Return about how many tokens a raw sequence makes."""
    if isinstance(sequence, str):
        return len(sequence)
    if isinstance(sequence, Sound):
        return 1 + int(sequence.seconds * _SOUND_TOKENS)
    shape = getattr(sequence, "shape", None)
    if shape is not None:
        if len(shape) == 1 and not np.issubdtype(np.asarray(sequence[:1]).dtype, np.integer):
            return 1 + shape[0] // 320  # samples of a waveform per frame, about
        return 256 if len(shape) == 3 else int(shape[0]) if shape else 1
    if isinstance(sequence, Sized):
        return len(sequence)
    return 256  # an image's patches, about


def cut_windows(length: int, size: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Cut ``length`` tokens into windows of ``size``; each token is kept from one of them.

    Returns
    -------
    list of (start, stop, keep_from, keep_to)
        Where the window lies, and which tokens (counted in the sequence) are taken from it: in
        an overlap the half that lies farther from the window's border.
    """
    if overlap >= size:
        raise InputError(
            f"got overlap={overlap} for windows of {size} tokens: it must be smaller; lower "
            "overlap or raise max_length"
        )
    starts = list(range(0, max(length - size, 0), size - overlap))
    starts.append(max(length - size, 0))  # the last window is full: it moves back
    windows = []
    for number, start in enumerate(starts):
        stop = min(start + size, length)
        first = 0 if number == 0 else (starts[number - 1] + size + start) // 2
        last = length if number == len(starts) - 1 else (stop + starts[number + 1]) // 2
        windows.append((start, stop, first, last))
    return windows


def hash_weights(model: torch.nn.Module, vocabulary: dict[str, int] | None) -> str:
    """Return the SHA-256 of weights, by name, and vocabulary.

    The pooler head on top is left out: where a checkpoint lacks it, it is filled at random.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "pooler" in name:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy())  # type: ignore[arg-type]
    for entry, number in sorted((vocabulary or {}).items()):
        digest.update(f"{entry}\t{number}\n".encode())
    return "sha256:" + digest.hexdigest()
