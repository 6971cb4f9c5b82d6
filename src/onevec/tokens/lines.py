"""Text files as they come: other encodings, broken lines, broken CSV. What is lost is counted."""

from __future__ import annotations

import csv
import gzip
import io
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from onevec.errors import MissingExtraError

_SAMPLE = 65_536  # bytes that the detection of an encoding sees
_MOST_LINES = 1_000  # a CSV record of more lines is a quotation mark that was never closed
_END = object()
_DELIMITERS = (",", ";", "\t", "|")  # of CSV, whatever its ending says
_COMMONEST = "cp1252"  # of those that are no UTF-8
_MARKS = {  # of encodings with wide characters; the longer first: UTF-32 begins as UTF-16 does
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


@dataclass
class Broken:
    """What of an input could not be read.

    Attributes
    ----------
    counts : dict of str to int
        Lines or rows by reason.
    first : dict of str to int
        The first line or row of each reason, from 1.
    encoding : str
        Of the file; where lines differ, that of the lines that are no UTF-8.
    recoded : int
        Lines that are no UTF-8 and were read by that encoding.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    encoding: str = ""
    recoded: int = 0

    def add(self, reason: str, place: int, count: int = 1) -> None:
        """Count something that is skipped."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.first.setdefault(reason, place)


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, by its first bytes: its ending may say otherwise."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_bytes(path: Path, zipped: bool) -> IO[bytes]:
    """Open a file, or what a .gz file holds."""
    opened: Any = (gzip.open if zipped else open)(path, "rb")
    return opened


def guess_encoding(path: Path, zipped: bool) -> str | None:
    """Return the encoding of a file: its byte order mark, UTF-8, else what its bytes look like.

    Returns
    -------
    str or None
        A name that `bytes.decode` knows; None if no encoding gives text.
    """
    with open_bytes(path, zipped) as file:
        head = file.read(_SAMPLE)
        mark = next((name for start, name in _MARKS.items() if head.startswith(start)), None)
        if mark is not None:
            return mark
        file.seek(0)
        wide = 5 * head.count(b"\0") > len(head)  # UTF-16 without a mark, or no text at all
        sample = head if wide else _undecodable(file)
    if not sample:
        return "utf-8"
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise MissingExtraError("charset-normalizer", "hf") from error
    matches = from_bytes(sample)
    best = matches.best()
    if best is None:
        return None
    # Among the Western and Central European code pages a few accents decide badly: the commonest
    # one, where it is about as likely.
    near = {match.encoding for match in matches if match.chaos <= best.chaos + 0.1}
    return _COMMONEST if _COMMONEST in near else best.encoding


def _undecodable(lines: Iterable[bytes]) -> bytes:
    """Return lines that are no UTF-8, up to the size of a sample."""
    found, size = [], 0
    for line in lines:
        if not line.isascii() and _utf8(line) is None:
            found.append(line[:_SAMPLE])
            size += len(found[-1])
            if size >= _SAMPLE:
                break
    return b"".join(found)


def _utf8(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def strict_lines(path: Path, zipped: bool) -> Iterator[str]:
    """Return the lines of a file without their ends, whatever its encoding is.

    Raises
    ------
    ValueError
        At the first line that is no text.

    Warns
    -----
    UserWarning
        If lines are no UTF-8 and were read by the encoding that they look like.
    """
    found = Broken()
    for number, line in enumerate(tolerant_lines(path, zipped, found), 1):
        if line is None:
            raise ValueError(f"line {number} is no text: {next(iter(found.counts))}")
        yield line
    if found.recoded:
        warnings.warn(
            f"{found.recoded:,} lines of {path} are no UTF-8 and were read as {found.encoding}: "
            "save the file as UTF-8 if letters look wrong",
            stacklevel=2,
        )


def delimiter_of(path: Path, zipped: bool, usual: str, encoding: str) -> str:
    """Return what separates the columns of a CSV file: the usual sign, if its header has it.

    Else the sign that the header has most of and that the next line has as often.
    """
    with io.TextIOWrapper(open_bytes(path, zipped), encoding, errors="replace") as file:
        header, first = file.readline(_SAMPLE), file.readline(_SAMPLE)
    counts = {sign: header.count(sign) for sign in _DELIMITERS}
    if counts[usual]:
        return usual
    best = max(counts, key=lambda sign: counts[sign])
    return best if counts[best] and first.count(best) in (0, counts[best]) else usual


def tolerant_lines(path: Path, zipped: bool, broken: Broken) -> Iterator[str | None]:
    """Return the lines of a file without their ends; None, counted, for those that are no text.

    Each line is read as UTF-8, else by the encoding that the lines that are none look like.
    """
    found = guess_encoding(path, zipped)
    broken.encoding = found or "unknown"
    if found is not None and found.replace("_", "-").startswith(("utf-16", "utf-32")):
        with open_bytes(path, zipped) as file:
            wide = io.TextIOWrapper(file, encoding=found, errors="replace", newline="\n")
            for number, text in enumerate(wide, 1):
                if "\ufffd" in text or "\0" in text:
                    broken.add("not decodable", number)
                    yield None
                else:
                    yield text.rstrip("\r\n")
        return
    with open_bytes(path, zipped) as file:
        for number, line in enumerate(file, 1):
            text = _utf8(line)
            if text is not None and number == 1:
                text = text.removeprefix("\ufeff")
            if text is None and found is not None:
                try:
                    text = line.decode(found)
                    broken.recoded += 1
                except UnicodeDecodeError:
                    pass
            if text is None or "\0" in text:
                broken.add("not decodable" if text is None else "binary", number)
                yield None
            else:
                yield text.rstrip("\r\n")


def tolerant_csv(
    lines: Iterator[str | None], delimiter: str, broken: Broken
) -> Iterator[dict[str, Any]]:
    """Return the records of a CSV file as mappings; rows that are none are counted.

    A quotation mark that is never closed, or closed by another stray one, costs its own line, not
    the lines that follow. A record that lost one of its lines (None) is dropped.
    """
    csv.field_size_limit(2**31 - 1)  # a sequence may be long
    back: deque[str | None] = deque()  # lines to read again
    names: list[str] | None = None
    number = 1
    while True:
        pulled: list[str | None] = []
        again = bool(back)

        def feed(pulled: list[str | None] = pulled) -> Iterator[str]:
            while len(pulled) < _MOST_LINES:
                line: Any = back.popleft() if back else next(lines, _END)
                if line is _END:
                    return
                pulled.append(line)
                yield "" if line is None else line + "\n"

        try:
            row = next(csv.reader(feed(), delimiter=delimiter, strict=True), None)
            # Read again, the end of a quotation looks like a field with a quotation mark in it.
            if again and len(pulled) == 1 and (pulled[0] or "").count('"') % 2:
                raise csv.Error
        except csv.Error:
            broken.add("broken quotation", number)
            back.extendleft(reversed(pulled[1:]))
            number += 1
            continue
        if row is None:
            return
        if len(pulled) > 1 and None in pulled:
            broken.add("record with a lost line", number)
        elif names is None:
            names = row or None
        elif len(row) == len(names):
            yield dict(zip(names, row, strict=True))
        elif row:  # an empty line is no row
            broken.add("wrong number of columns", number)
            back.extendleft(reversed(pulled[1:]))
            number += 1
            continue
        number += len(pulled)
