"""What a token store's folder looks like: names, `index.json`, checksums, atomic writing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from onevec.errors import StoreError

FORMAT = "onevec token store"
VERSION = 1
INDEX = "index.json"
PART = ".part"  # ending of a file that is not yet whole
DTYPES = ("float16", "int8", "float32")
RESERVED = ("id", "token_id", "sequence", "values", "values_cls")
FLOAT16_LARGEST = 65504.0


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.arrow"


def values_column(layers: list[int], layer: int) -> str:
    """Return the column that holds the token vectors of ``layer``."""
    return "values" if len(layers) == 1 else f"values_layer_{layer}"


def metadata_name(name: str) -> str:
    """Return how a metadata column is called, whose name may be taken."""
    return f"{name}_" if name in RESERVED or name.startswith("values_layer_") else name


def cls_column(layers: list[int], layer: int) -> str:
    """Return the column that holds the classification token of ``layer``, one vector per row."""
    return f"{values_column(layers, layer)}_cls"


def cls_dtype(dtype: str) -> str:
    """Return how a classification token is kept: one vector per row, where int8 saves little."""
    return "float32" if dtype == "float32" else "float16"


def layer_bytes(index: dict[str, Any], dtype: str) -> int:
    """Return how many bytes the vectors of one layer take in ``dtype``."""
    values = index["tokens"] * np.dtype(dtype).itemsize
    cls = index["rows"] * np.dtype(cls_dtype(dtype)).itemsize if index.get("cls") else 0
    return index["dim"] * (values + cls)


def bytes_text(count: float) -> str:
    """Return a number of bytes in decimal units and three digits, such as ``1.31 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:  # what would be shown as 1,000 is 1 of the next unit
            return f"{count:.3g} {unit}"
        count /= 1_000
    return f"{count:.3g} TB"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def arrow_errors(path: Path) -> Iterator[None]:
    """Turn what Arrow raises about a damaged shard into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError, IndexError, SystemError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(
            f"cannot read the shard {path} ({reason}): the file is damaged or missing; restore "
            "it from a copy, or encode again with overwrite=True (--overwrite)"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write under a temporary name, flush to disk, rename: the file is whole or not there."""
    part = path.with_name(path.name + PART)
    write(part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Replace ``index.json`` atomically."""

    def write(part: Path) -> None:
        part.write_text(json.dumps(index, indent=1), encoding="utf-8")

    write_atomically(path / INDEX, write)


def read_index(path: Path) -> dict[str, Any]:
    """Read and check ``index.json``, also of a store that is not complete.

    Raises
    ------
    StoreError
        If there is no store, the index cannot be read, or it is of another version.
    """
    file = path / INDEX
    if not path.exists():
        raise StoreError(
            f"there is no token store at {path}: make one with `onevec encode`, or in Python with "
            "onevec.encode(..., out=...)"
        )
    if not file.is_file():
        raise StoreError(
            f"{path} is no token store (it has no {INDEX}): pass the folder that "
            "onevec.encode(..., out=...) wrote"
        )
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        known = index["format"] == FORMAT
        version = index["version"]
        if known and version == VERSION:
            _check_index(index)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"cannot read {file} ({type(error).__name__}): the index is damaged; encode again "
            "with overwrite=True (--overwrite)"
        ) from error
    if not known or version != VERSION:
        raise StoreError(
            f"{file} is of format {index['format']!r} version {version}: this onevec reads "
            f"{FORMAT!r} version {VERSION}; install a newer onevec or encode again"
        )
    return index


def _check_index(index: dict[str, Any]) -> None:
    """Raise KeyError or TypeError for an index that `write_index` did not write."""
    kinds: dict[str, Any] = {
        "complete": bool, "dim": int, "layers": list, "encoder": dict, "settings": dict,
        "columns": list, "rows": int, "tokens": int, "shards": list,
    }  # fmt: skip
    for name, kind in kinds.items():
        if type(index[name]) is not kind:
            raise TypeError(name)
    if type(index.get("cls", False)) is not bool:  # stores of earlier versions have no such entry
        raise TypeError("cls")
    if index["dtype"] not in DTYPES or not all(
        isinstance(entry, dict) for entry in index["shards"]
    ):
        raise TypeError("dtype or shards")
    for entry in index["shards"]:
        if not isinstance(entry["file"], str) or not isinstance(entry["rows"], int):
            raise TypeError("shards")


def is_store(path: Path) -> bool:
    """Whether ``path`` is the folder of a token store, complete or not."""
    return (path / INDEX).is_file()


def remove_store(path: Path) -> None:
    """Delete a store's own files, and the folder when nothing else is in it."""
    for file in [path / INDEX, *path.glob("shard-*.arrow"), *path.glob(f"*{PART}")]:
        file.unlink(missing_ok=True)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
