"""FASTA and FASTQ as they occur: what is taken out of a sequence is counted and told."""

from __future__ import annotations

import re
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from itertools import chain, count, islice
from pathlib import Path

from onevec.errors import InputError
from onevec.tokens.lines import Broken
from onevec.tokens.told import tell

FASTA = (".fasta", ".fa", ".faa", ".fna", ".ffn", ".fas", ".pep", ".a3m")
FASTQ = (".fastq", ".fq")
_ALIGNED = ".a3m"  # where lower case marks an insertion
_RESIDUES = re.compile(r"[A-Za-z*.~\s-]+")  # what is no residue sequence stays as it is
_GAPS = str.maketrans("", "", "-.~")
_LOWER = "with lower-case letters, which stay as they are (upper=True, --upper: capitals)"
Record = tuple[str, str, str]  # sequence, id, description
Lines = Iterator[str | None]


def read_fasta(lines: Lines, path: Path, broken: Broken | None = None) -> Iterator[Record]:
    """Return the records of a FASTA file, cleaned of what is no residue.

    Blanks and gaps inside of a sequence, and a stop at its end, are taken out; insertions of an
    .a3m file are written in capitals. Lower case elsewhere stays: it marks repeats.

    Parameters
    ----------
    lines : iterator of str or None
        None for a line that was lost.
    path : Path
        For messages; its ending tells an alignment.
    broken : Broken, optional
        Counts what cannot be read, which is an error without it.

    Warns
    -----
    UserWarning
        Of what was taken out, once for the file.
    """
    done: Counter[str] = Counter()
    aligned = _ALIGNED in [ending.lower() for ending in path.suffixes]
    for number, (body, name, description) in enumerate(_records(lines, broken, path)):
        done["without a name, which are named by their number"] += not name
        sequence = _cleaned(body, aligned, done)
        if not sequence and broken is None:
            raise InputError(f"the FASTA record {name!r} is empty in {path}: drop it")
        yield sequence, name or str(number), description
    _say(path, done)


def _records(lines: Lines, broken: Broken | None, path: Path) -> Iterator[Record]:
    header: str | None = None
    body: list[str] = []
    lost = False  # a line since the last header, which may have been a header itself
    for number, raw in enumerate(chain(lines, [">"]), 1):  # the last ">" closes the last record
        if raw is None:
            if header is not None and broken is not None:
                broken.add("record with a lost line", number)
            header, lost = None, True
            continue
        line = raw.strip()
        if lost and not line.startswith(">"):
            continue
        lost = False
        if line.startswith(">"):
            if header is not None:
                name, *rest = header.split(None, 1) or [""]
                yield "".join(body), name, (rest[0] if rest else "").strip()
            header, body = line[1:].strip(), []
        elif line and not line.startswith(";"):
            if header is None and line.startswith("#"):  # ColabFold's alignments begin so
                continue
            if header is None and broken is None:
                raise InputError(f"{path} is no FASTA: its first line does not start with '>'")
            if header is None and broken is not None:
                broken.add("before the first header", number)
            body.append(line)


def _cleaned(body: str, aligned: bool, done: Counter[str]) -> str:
    if not _RESIDUES.fullmatch(body):
        return body
    joined = "".join(body.split())
    done["with blanks or tabs inside, which were taken out"] += joined != body
    whole = joined.translate(_GAPS)
    done["with gaps (- . ~), which were taken out"] += whole != joined
    ended = whole.rstrip("*")
    done["with a stop (*) at the end, which was taken off"] += ended != whole
    if aligned:
        insertions = ended != ended.upper()
        done["with insertions in lower case, which were written in capitals"] += insertions
        return ended.upper()
    done[_LOWER] += ended != ended.upper()
    return ended


def _say(path: Path, done: Counter[str]) -> None:
    """Warn of what was changed, in one line; what stays as it is goes to the log."""
    lower = done.pop(_LOWER, 0)
    changed = [f"{number:,} {what}" for what, number in done.items() if number]
    if changed:
        warnings.warn(f"{path} has sequences: {'; '.join(changed)}", stacklevel=2)
    if lower:
        tell(f"{path} has {lower:,} sequences {_LOWER}")


def read_fastq(lines: Lines, path: Path, broken: Broken | None = None) -> Iterator[Record]:
    """Return the reads of a FASTQ file of four lines each; their qualities are left out.

    Parameters are those of `read_fasta`.

    Raises
    ------
    InputError
        At the first four lines that are no record.
    """
    ahead: deque[str | None] = deque()
    tell(f"the qualities of the reads of {path} are left out")
    for number in count(1):
        ahead.extend(islice(lines, 4 - len(ahead)))
        while ahead and ahead[0] is not None and not ahead[0].strip():
            ahead.popleft()
            ahead.extend(islice(lines, 1))
        if not ahead:
            return
        record = [(each or "").strip() for each in ahead]
        fits = len(record) == 4 and record[0][:1] == "@" and record[2][:1] == "+"
        if fits and record[1] and len(record[1]) == len(record[3]):
            name, *rest = record[0][1:].split(None, 1) or [str(number - 1)]
            yield record[1], name, (rest[0] if rest else "").strip()
            ahead.clear()
        elif broken is None:
            raise InputError(
                f"read {number} of {path} is no FASTQ record ({record[0][:40]!r} …): four lines, "
                "'@' and the name, the read, '+', as many qualities; check that the file is whole"
            )
        else:
            broken.add("no FASTQ record", number)
            ahead.popleft()  # the next line may begin one
