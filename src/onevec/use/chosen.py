"""Data selection from files to files: what `onevec select` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onevec.errors import InputError
from onevec.files import appears_whole, check_target
from onevec.use.formats import read_lines
from onevec.use.rows import read
from onevec.use.select import Selected, select

FORMATS = (".parquet", ".csv", ".txt")


def select_file(
    vectors: str | Path,
    out: str | Path,
    count: int | None,
    method: str,
    *,
    labelled: str | Path | None = None,
    threshold: float | None = None,
    random_state: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Choose rows of a file of vectors and write which.

    Parameters
    ----------
    vectors, count, method, threshold, random_state
        As `onevec.use.select.select` takes them.
    out : path
        ``.parquet`` or ``.csv`` with rank, row, id (where the vectors have ids) and gain, or
        ``.txt`` with one id, else row number, per line.
    labelled : path, optional
        ``.txt`` with one id, else row number, per line; or a file of vectors.

    Returns
    -------
    dict
        ``out``, ``method``, ``chosen``, ``of``, ``coverage``, ``radius``, and, of as many rows
        chosen at random, ``random_coverage`` and ``random_radius``.
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        raise InputError(f"got --out {out}: it must end in {', '.join(FORMATS)}")
    check_target(out, overwrite, what="file")
    table, ids = read(vectors)
    known: Any = None
    if labelled is not None:
        listed = Path(labelled).suffix == ".txt"
        known = _listed(Path(labelled), ids, len(table)) if listed else None
        known = read(labelled)[0] if known is None else known
    found = select(
        table, count, method, labelled=known, threshold=threshold, random_state=random_state
    )
    chance = select(
        table, max(1, len(found.rows)), "random", labelled=known, random_state=random_state
    )
    _write(found, ids, out)
    return {
        "out": str(out),
        "method": method,
        "chosen": len(found.rows),
        "of": len(table),
        "coverage": found.coverage,
        "radius": found.radius,
        "random_coverage": chance.coverage,
        "random_radius": chance.radius,
    }


def _listed(path: Path, ids: Sequence[str] | None, count: int) -> np.ndarray:
    """Rows of the ids, or the row numbers, of a text file."""
    lines = read_lines(path, "ids")
    if ids is None:
        if not all(line.isdecimal() for line in lines):
            raise InputError(
                f"{path} must hold row numbers, one per line, because the vectors have no ids"
            )
        rows = [int(line) for line in lines if len(line) < 19]
        if len(rows) < len(lines) or max(rows) >= count:
            raise InputError(
                f"{path} names the row {max(lines, key=lambda line: (len(line), line))}, the "
                f"vectors have rows 0 to {count - 1}"
            )
        return np.array(rows, np.int64)
    places: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        places.setdefault(name, []).append(row)
    unknown = [line for line in lines if line not in places]
    if unknown:
        raise InputError(
            f"{path} names {unknown[0]!r} ({len(unknown)} of {len(lines)} ids), which the vectors "
            "do not have: pass ids of these vectors, or the labelled vectors themselves"
        )
    return np.array([row for line in lines for row in places[line]], np.int64)


def _write(found: Selected, ids: Sequence[str] | None, out: Path) -> None:
    import pyarrow as pa
    from pyarrow import csv, parquet

    columns: dict[str, Any] = {"rank": np.arange(1, len(found.rows) + 1), "row": found.rows}
    if ids is not None:
        columns["id"] = [ids[row] for row in found.rows]
    columns["gain"] = found.gains
    with appears_whole(out) as part:
        if out.suffix == ".txt":
            names = columns.get("id", found.rows)
            part.write_text("".join(f"{name}\n" for name in names), "utf-8")
        elif out.suffix == ".csv":
            csv.write_csv(pa.table(columns), part)
        else:
            parquet.write_table(pa.table(columns), part)
