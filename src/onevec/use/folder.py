"""What the folder of a saved index holds beside LanceDB's table."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from onevec.errors import StoreError
from onevec.files import appears_whole
from onevec.use.formats import reason

FORMAT, VERSION = "onevec vector index", 2  # 1 kept its vectors and filters without LanceDB
# Not index.json: by that a token store is known.
FACTS, GRAPH = "vector-index.json", "hnsw.faiss"


def is_index(path: Path) -> bool:
    """Whether a folder holds an index that `Index.save` wrote, of this version or another."""
    try:
        return json.loads((path / FACTS).read_text())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write what the index is beside its rows."""
    facts = {"format": FORMAT, "version": VERSION, **facts}
    with appears_whole(path / FACTS) as file:
        file.write_text(json.dumps({**facts, "sha256": _digest(facts)}, indent=1) + "\n")


def read_facts(path: Path) -> dict[str, Any]:
    """Read what `write_facts` wrote.

    Raises
    ------
    StoreError
        If there is no index, or it is damaged or of another version.
    """
    if not (path / FACTS).is_file():
        raise StoreError(
            f"{path} is no vector index (it has no {FACTS}): pass the folder that `onevec index` "
            "wrote"
        )
    try:
        facts = json.loads((path / FACTS).read_text())
        known = facts.pop("sha256")
        made = (facts["format"], facts["version"])
        if made == (FORMAT, VERSION) and known != _digest(facts):
            raise ValueError("it is not what was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} cannot be read ({FACTS}: {reason(error)}): it is damaged or half copied; "
            "restore it from a copy, or build it again"
        ) from error
    if made == (FORMAT, 1):
        raise StoreError(
            f"{path} is an index of an earlier onevec, without LanceDB: make it anew with  onevec "
            f"index VECTORS --out {path} --overwrite"
        )
    if made != (FORMAT, VERSION):
        raise StoreError(
            f"{path} has version {made[1]} of {made[0]!r}, this onevec reads {VERSION} of "
            f"{FORMAT!r}: use the version of onevec that wrote it"
        )
    return facts


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
