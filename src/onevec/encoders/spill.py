"""What can be used of a corpus, written to an Arrow file as it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from onevec.encoders.duplicates import digest
from onevec.errors import InputError, MissingExtraError
from onevec.tokens.lines import Broken

if TYPE_CHECKING:
    from datasets import Dataset
else:  # slow to import, or of an extra
    Dataset = Any

_BUFFER = 4_000_000  # characters or numbers between two writes


@dataclass
class Spill:
    """Writes what can be used to an Arrow file, and remembers a hash of each sequence."""

    path: Path
    shortest: int
    longest: int
    kind: str = ""
    dim: int = 0
    read: int = 0  # broken ones are not among them
    filtered: int = 0
    empty: int = 0
    too_short: int = 0
    hashes: bytearray = field(default_factory=bytearray)
    parents: list[int] = field(default_factory=list)  # the sequence of each piece
    odd: tuple[int, str] | None = None  # place and type of the first that is neither
    _writer: Any = None
    _held: list[Any] = field(default_factory=list)
    _size: int = 0

    def take(self, rows: Iterable[Any], broken: Broken) -> None:
        """Sort out the rows of one source."""
        for place, row in enumerate(rows, 1):
            sequence = self._usable(row, place, broken)
            if sequence is None:
                continue
            self.read += 1
            if not len(sequence) or (isinstance(sequence, str) and not sequence.strip()):
                self.empty += 1
            elif len(sequence) < self.shortest:
                self.too_short += 1
            else:
                self._add(sequence)

    def _usable(self, row: Any, place: int, broken: Broken) -> Any:
        """Return text or fp32 frames; None, counted, where it is neither."""
        text = isinstance(row, str)
        frames = not text and len(getattr(row, "shape", ())) == 2
        if not self.kind:
            if not (text or frames):
                self.odd = self.odd or (place - 1, type(row).__name__)
                return broken.add("neither text nor frames", place)
            self.kind = "text" if text else "frames"
        if text != (self.kind == "text") or not (text or frames):
            return broken.add(f"not {self.kind}", place)
        if text:
            return row if _is_unicode(row) else broken.add("not valid Unicode", place)
        return self._frames(row, place, broken)

    def _frames(self, row: Any, place: int, broken: Broken) -> Any:
        try:
            frames = np.asarray(row, dtype=np.float32)
        except ValueError:
            return broken.add("not numbers", place)
        if not len(frames):
            return frames
        self.dim = self.dim or frames.shape[1]
        if frames.shape[1] != self.dim or not self.dim:
            return broken.add(f"not of {self.dim} dimensions", place)
        return frames if np.isfinite(frames).all() else broken.add("not finite", place)

    def _add(self, sequence: Any) -> None:
        text = isinstance(sequence, str)
        self.hashes += digest(sequence.encode() if text else sequence.tobytes())
        parent = len(self.hashes) // 16 - 1
        pieces = _cut_text(sequence, self.longest) if text else _cut(sequence, self.longest)
        for piece in pieces:
            self._held.append(piece)
            self.parents.append(parent)
            self._size += len(piece) * max(1, self.dim)
            if self._size >= _BUFFER:
                self._flush()

    def _flush(self) -> None:
        if self.kind == "text":
            column: pa.Array = pa.array(self._held, pa.large_string())
        else:
            flat = np.concatenate(self._held).ravel()
            values = pa.FixedSizeListArray.from_arrays(pa.array(flat), self.dim)
            sizes = np.cumsum([0, *map(len, self._held)])
            column = pa.LargeListArray.from_arrays(pa.array(sizes, pa.int64()), values)
        rows = pa.array(self.parents[-len(self._held) :], pa.int64())
        batch = pa.record_batch([column, rows], ["sequence", "row"])
        if self._writer is None:
            self._writer = pa.ipc.new_stream(str(self.path), batch.schema)
        self._writer.write_batch(batch)
        self._held, self._size = [], 0

    def close(self) -> Dataset:
        """Open what was written, mapped from its file."""
        count = len(self.hashes) // 16
        if self.odd and not self.kind:
            raise InputError(
                f"sequence {self.odd[0]} of the corpus is a {self.odd[1]}: pretrain takes text or "
                "(n, dim) arrays of frames; for ready token vectors no encoder is needed, call "
                "OneVec().fit(arrays)"
            )
        if count < 2:
            raise InputError(
                f"got {count} sequences that are not empty: pretraining needs at least 2, "
                "and some thousand to be of use"
            )
        if self._held:
            self._flush()
        self._writer.close()
        try:
            from datasets import Dataset
        except ImportError as error:
            raise MissingExtraError("datasets", "hf") from error
        return Dataset.from_file(str(self.path))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may hold
        return False
    return True


def _cut(frames: np.ndarray, longest: int) -> Iterator[np.ndarray]:
    for first in range(0, len(frames), longest):
        yield frames[first : first + longest]


def _cut_text(text: str, longest: int) -> Iterator[str]:
    """Cut at the last blank of a piece's second half, so that words stay whole where they can."""
    first = 0
    while len(text) - first > longest:
        blank = text.rfind(" ", first + longest // 2, first + longest)
        stop = blank + 1 if blank >= 0 else first + longest
        if text[first:stop].strip():
            yield text[first:stop]
        first = stop
    if text[first:].strip():
        yield text[first:]
