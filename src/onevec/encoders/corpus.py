"""From files of many kinds to one corpus: read once, clean, without copies, split by content."""

from __future__ import annotations

import hashlib
import heapq
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from onevec.encoders.duplicates import (
    FrameCodes,
    copies,
    digest,
    near_copies,
    shingle_width,
    text_codes,
)
from onevec.encoders.spill import Spill
from onevec.errors import InputError
from onevec.tokens.layout import is_store
from onevec.tokens.lines import Broken
from onevec.tokens.media import MEDIA
from onevec.tokens.readers import KNOWN_FORMATS, is_plain_text, known_files, open_source

if TYPE_CHECKING:
    from datasets import Dataset
else:  # slow to import, or of an extra
    Dataset = Any

LONGEST = 1_000_000  # characters or frames; what is longer is cut where it is read
_MOST_HELD_OUT = 500
_SAMPLE = 1_000  # sequences from which the width of shingles is chosen
_FRAME_SHINGLE = 3


@dataclass(eq=False)
class Corpus:
    """Clean sequences on disk, in two parts that share no content.

    Attributes
    ----------
    train, held_out : datasets.Dataset
        Memory-mapped; columns ``sequence`` (text, or frames as lists) and ``row``. Pieces of a
        sequence that was cut share their ``row``.
    manifest : dict
        Files with their hashes, settings, and what became of every row that was read.
    folder : Path
        Where the data lie; it goes with the corpus.
    """

    train: Dataset
    held_out: Dataset
    manifest: dict[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    @property
    def dense(self) -> bool:
        """Whether the sequences are frames."""
        return self.manifest["kind"] == "frames"

    def in_order(self) -> Iterator[Any]:
        """Return all sequences, of both parts, in the order they were read in."""
        parts = (
            zip(part["row"][:], sequences_of(part), strict=True)
            for part in (self.train, self.held_out)
        )
        for _, sequence in heapq.merge(*parts, key=lambda pair: pair[0]):
            yield sequence


def assemble(
    *sources: Any,
    column: str | None = None,
    where: str | None = None,
    near_duplicates: float | None = None,
    shortest: int = 1,
    longest: int = LONGEST,
    held_out: float = 0.05,
    random_state: int = 0,
    upper: bool = False,
    frames: str | None = None,
) -> Corpus:
    """Read sequences, drop what is broken, empty, too short or a copy, and split the rest.

    Parameters
    ----------
    *sources : paths, or anything `onevec.encode` takes
        Files, folders and patterns such as ``"logs/**/*.jsonl.gz"``, of one or several formats;
        lists and tables. Text lines, FASTA, JSONL and CSV may be of any encoding.
    column : str, optional
        Column of tables that holds the sequences.
    where : str, optional
        ``COLUMN=VALUE``: take these rows only.
    near_duplicates : float, optional
        Also drop sequences that are this similar (0 to 1) to one before. Similarity is the
        estimated Jaccard index of the shingles; takes about 5 kB of memory per sequence.
    shortest, longest : int
        In characters, or frames. Shorter sequences are dropped, longer ones cut into pieces.
    held_out : float
        Share of the sequences (at most 500 of them) kept apart. Which ones depends on their
        content and the seed alone.
    random_state : int
        Of the split.
    upper : bool
        Write text in capitals.
    frames : {"logmel", "patches"}, optional
        Cut recordings, or images, to frames; see `onevec.encode`.

    Returns
    -------
    Corpus
        It lies in a temporary folder (of ``TMPDIR``), not in memory.

    Raises
    ------
    InputError
        If there is no such file, a file cannot be read at all, or fewer than two sequences
        remain. Single lines or rows that cannot be read are counted and warned of.
    """
    _check(sources, near_duplicates, shortest, longest, held_out)
    folder = Path(tempfile.mkdtemp(prefix="onevec-corpus-"))
    try:
        spill = Spill(folder / "sequences.arrow", shortest, longest)
        entries = []
        found = _expand(sources, media=frames is not None)
        plain = [isinstance(each, Path) and is_plain_text(each) for each in found]
        for source, is_plain in zip(found, plain, strict=True):
            asked = None if is_plain and not all(plain) else column  # text has no columns
            entry, broken = _entry(source), Broken()
            entries.append(entry)
            if entry.get("bytes") != 0:
                before = spill.read
                rows = _rows(source, asked, where, broken, spill, upper=upper, frames=frames)
                spill.take(rows, broken)
                entry["read"] = spill.read - before + sum(broken.counts.values())
            _finish(entry, broken)
        dataset = spill.close()
        fate, hashes = _fates(spill, dataset, near_duplicates)
        chosen = _held_out(hashes, np.flatnonzero(fate == _KEPT), held_out, random_state)
        in_train = (fate == _KEPT) & ~chosen
        train, apart = (_take(dataset, spill.parents, rows) for rows in (in_train, chosen))
        manifest = {
            "kind": spill.kind,
            "files": entries,
            "counts": _counts(entries, spill, fate),
            "settings": {
                "column": column,
                "where": where,
                "near_duplicates": near_duplicates,
                "shortest": shortest,
                "longest": longest,
                "held_out": held_out,
                "random_state": random_state,
                "upper": upper,
                "frames": frames,
            },
        }
        corpus = Corpus(train, apart, manifest, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _warn(manifest)
    return corpus


def _check(
    sources: tuple[Any, ...],
    near: float | None,
    shortest: int,
    longest: int,
    held_out: float,
) -> None:
    rules = (
        (bool(sources), "no corpus", "pass a file, a folder or a list of sequences"),
        (near is None or 0 < near < 1, f"near_duplicates={near!r}", "it must be between 0 and 1"),
        (shortest >= 1, f"shortest={shortest!r}", "it must be at least 1"),
        (longest >= shortest, f"longest={longest!r}", f"it must be at least shortest={shortest}"),
        (0 < held_out < 1, f"held_out={held_out!r}", "it must be between 0 and 1"),
    )
    for holds, came, rule in rules:
        if not holds:
            raise InputError(f"got {came}: {rule}")


# --- reading ------------------------------------------------------------------------------------


def _expand(sources: Iterable[Any], media: bool) -> list[Any]:
    """Return files for folders and patterns, each file once: of folders media, or all others."""
    found: dict[Any, Any] = {}
    for source in sources:
        if not isinstance(source, str | Path):
            found[id(source)] = source
            continue
        path = Path(source)
        if path.is_dir() and not is_store(path):
            files = [each for each in known_files(path) if (each.suffix.lower() in MEDIA) == media]
        elif not path.exists() and has_magic(str(source)):
            files = [Path(each) for each in sorted(glob(str(source), recursive=True))]  # noqa: PTH207
            files = [each for each in files if each.is_file()]
        else:
            files = [path]
        if not files:
            raise InputError(
                f"{source} holds no file that can be read: pass files or folders of them "
                f"({KNOWN_FORMATS})"
            )
        found.update((each.resolve(), each) for each in files)
    return list(found.values())


def _entry(source: Any) -> dict[str, Any]:
    """Start the manifest's entry of a source: what it is, with the hash of its bytes."""
    if not isinstance(source, Path):
        return {"source": type(source).__name__}
    if not source.is_file():  # the reader says what is wrong with it
        return {"source": str(source)}
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return {"source": str(source), "bytes": source.stat().st_size, "sha256": found}


def _finish(entry: dict[str, Any], broken: Broken) -> None:
    entry.setdefault("read", 0)
    entry["broken"] = sum(broken.counts.values())
    if broken.counts:
        entry["why"] = {
            reason: {"count": count, "first": broken.first[reason]}
            for reason, count in broken.counts.items()
        }
    if broken.encoding:
        entry["encoding"] = broken.encoding
        entry["recoded_lines"] = broken.recoded


def _rows(
    source: Any,
    column: str | None,
    where: str | None,
    broken: Broken,
    spill: Spill,
    **reading: Any,
) -> Iterator[Any]:
    """Return the sequences of a source, of the rows asked for."""
    name, _, value = (where or "").partition("=")
    if where is not None and not (name and value):
        raise InputError(f"got where={where!r}: write COLUMN=VALUE, such as split=train")
    for chunk in open_source(source, column=column, broken=broken, **reading).chunks:
        rows = list(chunk.sequences)
        if where is None:
            yield from rows
            continue
        if name not in chunk.metadata:
            raise InputError(
                f"{source} has no column {name!r}: it has {', '.join(chunk.metadata) or 'none'}"
            )
        marks = chunk.metadata[name]
        marks = marks.to_pylist() if isinstance(marks, pa.Array) else list(marks)
        for row, mark in zip(rows, marks, strict=True):
            if str(mark) == value:
                yield row
            else:
                spill.read += 1
                spill.filtered += 1


# --- copies and the split -----------------------------------------------------------------------

_KEPT, _COPY, _NEAR = 0, 1, 2


def sequences_of(dataset: Dataset) -> Iterator[Any]:
    """Return the sequences of a part of a corpus one by one, as text or (n, dim) arrays."""
    tables: Any = dataset.with_format("arrow").iter(1_000)
    for table in tables:
        for chunk in table.column("sequence").chunks:
            if pa.types.is_large_string(chunk.type) or pa.types.is_string(chunk.type):
                yield from chunk.to_pylist()
                continue
            for row in chunk:
                frames = row.values
                yield frames.flatten().to_numpy().reshape(len(frames), -1)


def _fates(
    spill: Spill, dataset: Dataset, near: float | None
) -> tuple[Int[np.ndarray, " seqs"], np.ndarray]:
    """Return for each sequence whether it stays, is a copy or nearly one; and the hashes."""
    hashes = np.frombuffer(bytes(spill.hashes), dtype=np.uint64).reshape(-1, 2)
    fate = np.where(copies(hashes), _COPY, _KEPT)
    if near is None:
        return fate, hashes
    parents = np.array(spill.parents)
    # The first piece stands for a sequence that was cut.
    first = np.flatnonzero(np.r_[True, parents[1:] != parents[:-1]])
    rows = first[fate == _KEPT]
    some = dataset.select(rows[:_SAMPLE])
    if spill.kind == "text":
        code: Any = text_codes
        width = shingle_width([text_codes(text) for text in sequences_of(some)])
    else:
        code = FrameCodes(spill.dim, np.concatenate(list(sequences_of(some))).mean(0))
        width = _FRAME_SHINGLE
    codes = (code(sequence) for sequence in sequences_of(dataset.select(rows)))
    found = np.fromiter(near_copies(codes, near, width), dtype=bool, count=len(rows))
    fate[parents[rows[found]]] = _NEAR
    return fate, hashes


def _held_out(hashes: np.ndarray, kept: np.ndarray, share: float, random_state: int) -> np.ndarray:
    """Mark those with the smallest hashes: more data change little of the choice."""
    if len(kept) < 2:
        raise InputError(
            f"got {len(kept)} sequence besides its copies: training needs at least 2, and some "
            "thousand to be of use"
        )
    count = min(max(1, round(share * len(kept))), _MOST_HELD_OUT)
    salt = np.frombuffer(digest(str(random_state).encode()), dtype=np.uint64)
    mixed = (hashes[kept, 0] ^ salt[0]) * np.uint64(0x9E3779B97F4A7C15)
    chosen = np.zeros(len(hashes), dtype=bool)
    chosen[kept[np.argsort(mixed, kind="stable")[:count]]] = True
    return chosen


def _take(dataset: Dataset, parents: list[int], sequences: np.ndarray) -> Dataset:
    return dataset.select(np.flatnonzero(sequences[np.array(parents)]))


def _counts(entries: list[dict[str, Any]], spill: Spill, fate: np.ndarray) -> dict[str, int]:
    kept = fate == _KEPT
    pieces = np.bincount(spill.parents, minlength=len(fate))[kept]
    return {
        "read": sum(entry["read"] for entry in entries),
        "broken": sum(entry["broken"] for entry in entries),
        "filtered": spill.filtered,
        "empty": spill.empty,
        "too_short": spill.too_short,
        "duplicates": int((fate == _COPY).sum()),
        "near_duplicates": int((fate == _NEAR).sum()),
        "kept": int(kept.sum()),
        "cut": int((pieces > 1).sum()),
        "pieces": int(pieces.sum()),
    }


def _warn(manifest: dict[str, Any]) -> None:
    counts = manifest["counts"]
    if counts["broken"]:
        why: dict[str, int] = {}
        for entry in manifest["files"]:
            for reason, found in entry.get("why", {}).items():
                why[reason] = why.get(reason, 0) + found["count"]
        listed = ", ".join(f"{count} {reason}" for reason, count in why.items())
        warnings.warn(
            f"{counts['broken']} of {counts['read']} lines or rows of the corpus could not be read "
            f"and were left out ({listed}); the manifest says where",
            UserWarning,
            stacklevel=3,
        )
