"""JSON lines: one object, or one bare value, per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onevec.errors import InputError
from onevec.tokens.lines import Broken, open_bytes
from onevec.tokens.tables import reading

_START = 1_024  # bytes that tell a list from lines


def read_json(path: Path, zipped: bool) -> Iterator[dict[str, Any]] | None:
    """Return the objects of a file that is one JSON list; None for JSON lines."""
    with reading(path, "JSON"), open_bytes(path, zipped) as file:
        if not file.read(_START).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return None
        file.seek(0)
        first = file.readline().strip()
        if first.startswith(b"[") and first.endswith(b"]") and file.readline().startswith(b"["):
            return None  # lists, a line each
        file.seek(0)
        held = json.load(file)
    if all(isinstance(each, dict) for each in held):
        return iter(held)
    return ({"sequence": each} for each in held)


def read_jsonl(
    lines: Iterator[str | None], path: Path, broken: Broken | None
) -> Iterator[dict[str, Any]]:
    """Return the objects of a file; a bare value becomes the object's ``sequence``.

    Raises
    ------
    InputError
        At a line that is no JSON, or of another form than the first; counted with ``broken``.
    """
    objects: bool | None = None  # the first line says
    with reading(path, "JSON lines"):
        for number, line in enumerate(lines, 1):
            if line is None or not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                if broken is not None:
                    broken.add("no JSON", number)
                    continue
                raise InputError(
                    f"line {number} of {path} is no JSON ({error}): each line must be one object"
                ) from error
            is_object = isinstance(record, dict)
            objects = is_object if objects is None else objects
            if is_object != objects:
                if broken is not None:
                    broken.add("an object among bare values, or the other way round", number)
                    continue
                raise InputError(
                    f"line {number} of {path} is {'an object' if is_object else 'a bare value'}, "
                    "the lines before are not: write every line in one form"
                )
            yield record if is_object else {"sequence": record}
