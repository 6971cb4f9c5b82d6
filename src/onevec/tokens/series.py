"""Series of numbers: tables without a header, such as UCR's, and the .ts files of UEA."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from onevec.errors import InputError
from onevec.tokens.chunks import Chunk
from onevec.tokens.lines import open_bytes
from onevec.tokens.told import tell

_ROWS = 256
_LINE = 2**20  # characters of the first line that are looked at
_MISSING = ("", "?", "nan")


def _number(cell: str) -> float:
    cell = cell.strip()
    return np.nan if cell.lower() in _MISSING else float(cell)


def _are_numbers(cells: list[str]) -> bool:
    try:
        return bool(np.isfinite([_number(cell) for cell in cells]).any())
    except ValueError:
        return False


def has_no_header(path: Path, zipped: bool, delimiter: str, encoding: str) -> bool:
    """Whether the first row of a table is numbers, and not the numbers 0, 1, 2 … of its columns."""
    with io.TextIOWrapper(open_bytes(path, zipped), encoding, errors="replace") as file:
        cells = file.readline(_LINE).strip("\r\n\ufeff").split(delimiter)
    if len(cells) < 2 or not _are_numbers(cells):
        return False
    return [cell.strip() for cell in cells] != [str(place) for place in range(len(cells))]


def read_rows(lines: Iterator[str | None], path: Path, delimiter: str) -> Iterator[Chunk]:
    """Return each row of numbers as a series of one channel, (n, 1).

    Whole numbers in front of others are classes, as UCR writes them: they go into the column
    ``label``. Missing values at the end are what pads a shorter series, and are left out.

    Raises
    ------
    InputError
        For a row that holds something else than numbers.
    """
    rows = _rows(lines, path, delimiter)
    head = list(islice(rows, _ROWS))
    labelled = _labelled(head, ".tsv" in [ending.lower() for ending in path.suffixes])
    first = ", its first number as the class (column 'label')" if labelled else ""
    tell(f"{path} has no header: each row is read as a series of numbers{first}")
    row, rows = 0, chain(head, rows)
    while part := list(islice(rows, _ROWS)):
        series = [_trimmed(each[int(labelled) :], row + k, path) for k, each in enumerate(part)]
        labels = {"label": [int(each[0]) for each in part]} if labelled else {}
        yield Chunk(series, None, labels)
        row += len(part)


def _labelled(head: list[np.ndarray], ucr: bool) -> bool:
    """Whether rows begin with a class: a whole number, where others are none unless it is UCR."""
    firsts, others = np.array([r[0] for r in head]), np.concatenate([r[1:] for r in head])
    others = others[np.isfinite(others)]
    if not (np.isfinite(firsts).all() and (firsts == np.round(firsts)).all()):
        return False
    return ucr or bool((others != np.round(others)).any())


def _rows(lines: Iterator[str | None], path: Path, delimiter: str) -> Iterator[np.ndarray]:
    for number, line in enumerate(lines, 1):
        if line is None or not line.strip():
            continue
        try:
            yield np.array([_number(cell) for cell in line.split(delimiter)], dtype=np.float64)
        except ValueError as error:
            raise InputError(
                f"line {number} of {path} holds {str(error).rpartition(': ')[2]} among numbers: "
                "give the table a header, or leave the line out"
            ) from error


def _trimmed(values: np.ndarray, row: int, path: Path) -> np.ndarray:
    there = np.flatnonzero(np.isfinite(values))
    if not len(there):
        raise InputError(f"row {row} of {path} holds no numbers: leave it out")
    return values[: there[-1] + 1, None].astype(np.float32)


def read_ts(lines: Iterator[str | None], path: Path) -> Iterator[Chunk]:
    """Return the series of a .ts file of UEA, (n, channels) each, with their classes or targets.

    Raises
    ------
    InputError
        For time stamps, channels of unequal length, or lines that are no such file.

    Warns
    -----
    UserWarning
        If series end in missing values, which are left out.
    """
    labelled, padded, row = _header(lines, path), 0, 0
    rest = (line.strip() for line in lines if line is not None and line.strip())
    while part := list(islice(rest, _ROWS)):
        cut = [line.rpartition(":") if labelled else (line, "", "") for line in part]
        series = []
        for number, (values, _, _) in enumerate(cut, row):
            array = _channels(values, number, path)
            there = np.flatnonzero(~np.isnan(array).all(1))
            kept = array[: there[-1] + 1] if len(there) else array
            padded += len(kept) < len(array)
            series.append(kept)
        row += len(part)
        yield Chunk(
            series, None, {"label": [label.strip() for *_, label in cut]} if labelled else {}
        )
    if padded:
        warnings.warn(
            f"{padded:,} series of {path} end in missing values, which were left out", stacklevel=2
        )


def _header(lines: Iterator[str | None], path: Path) -> bool:
    """Read up to the data, and return whether a class or target closes each line."""
    labelled = False
    for line in lines:
        words = (line or "").strip().lower().split()
        if words[:1] == ["@data"]:
            return labelled
        if words[:2] == ["@timestamps", "true"]:
            raise InputError(f"{path} has time stamps, which are not read: write plain values")
        if words[:1] in (["@classlabel"], ["@targetlabel"]):
            labelled = words[1:2] == ["true"]
    raise InputError(f"{path} has no line @data: it is no .ts file")


def _channels(text: str, row: int, path: Path) -> np.ndarray:
    try:
        values = [[_number(cell) for cell in each.split(",")] for each in text.split(":")]
        return np.array(values, dtype=np.float32).T
    except ValueError as error:
        raise InputError(
            f"series {row} of {path} is no array of numbers ({str(error)[:60]}): every channel "
            "needs as many values"
        ) from error
