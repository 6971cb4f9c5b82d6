"""What the folder of a saved index looks like."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from onevec.errors import OnevecError, StoreError
from onevec.files import appears_whole, check_target
from onevec.tokens.layout import checksum
from onevec.use.formats import TABLES, reason
from onevec.use.stored import Stored
from onevec.use.structures import Structure, make_structure

FORMAT, VERSION = "onevec vector index", 1
# Not index.json: by that a token store is known.
_INFO, _NAMES, _ALIVE, _STRUCTURE = "vector-index.json", "rows.arrow", "alive.npy", "faiss.index"


@dataclass
class Parts:
    """What is saved of an index."""

    info: dict[str, Any]
    stored: Stored
    names: pa.Table
    alive: Bool[np.ndarray, " rows"]
    structure: Structure | None


def is_index(path: Path) -> bool:
    """Whether a folder holds an index that `Index.save` wrote."""
    try:
        return json.loads((path / _INFO).read_text())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(path: str | Path, parts: Parts, overwrite: bool) -> Path:
    """Write the folder, whole or not at all."""
    path = check_target(path, overwrite, what="vector index", ours=is_index)
    info = {"format": FORMAT, "version": VERSION, **parts.info, "structure": None}
    with appears_whole(path) as room:
        room.mkdir()
        files = [*parts.stored.save(room), _NAMES, _ALIVE]
        TABLES[".arrow"](parts.names.combine_chunks(), room / _NAMES)
        np.save(room / _ALIVE, parts.alive)
        if parts.structure is not None:
            info["structure"] = parts.structure.save(room / _STRUCTURE)
            files.append(_STRUCTURE)
        info["files"] = {name: checksum(room / name) for name in files}
        info["sha256"] = _digest(info)
        (room / _INFO).write_text(json.dumps(info, indent=1) + "\n")
    return path


def read(path: str | Path) -> Parts:
    """Read a folder after verifying every checksum; the vectors are memory-mapped.

    Raises
    ------
    StoreError
        If there is no index, or it is damaged, half-copied or of another format.
    """
    path = Path(path)
    if not (path / _INFO).is_file():
        raise StoreError(
            f"{path} is no vector index (it has no {_INFO}): pass the folder that `onevec index` "
            "wrote"
        )
    try:
        info = json.loads((path / _INFO).read_text())
        if (info["format"], info["version"]) != (FORMAT, VERSION):
            raise StoreError(
                f"{path} has version {info['version']} of {info['format']!r}, this onevec reads "
                f"{VERSION} of {FORMAT!r}: use the version of onevec that wrote it"
            )
        sums = {_INFO: _digest(info)} | {name: checksum(path / name) for name in info["files"]}
        for name, known in {_INFO: info["sha256"], **info["files"]}.items():
            if sums[name] != known:
                raise ValueError(f"{name} is not what was written")
        with pa.memory_map(str(path / _NAMES)) as file, pa.ipc.open_file(file) as reader:
            names = reader.read_all()
        structure = None
        if info["structure"] is not None:
            structure = make_structure(info["search"], info["options"])
            assert structure is not None
            structure.load(path / _STRUCTURE, info["metric"], info["structure"])
        alive = np.load(path / _ALIVE, allow_pickle=False)
        return Parts(info, Stored.open(path, info["dtype"]), names, alive, structure)
    except OnevecError:
        raise
    except Exception as error:  # whatever a damaged file does to its reader
        raise StoreError(
            f"{path} cannot be read ({reason(error)}): it is damaged or half copied; restore "
            "it from a copy, or build it again"
        ) from error


def _digest(info: dict[str, Any]) -> str:
    rest = {name: value for name, value in info.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
