"""The file from which a run goes on: safetensors with JSON beside the tensors, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onevec.errors import StoreError
from onevec.files import appears_whole
from onevec.train.world import World

# Raised whenever what a checkpoint holds, or what its identity is made of, changes.
FORMAT = 2

TensorsByPart = dict[str, dict[str, Tensor]]


def identity(facts: Any, tensors: Iterable[Tensor] = ()) -> str:
    """Return the hash of what a checkpoint must share with the run that goes on from it."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def write(
    path: str | Path, parts: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]
) -> None:
    """Write tensors in named parts, and facts; the file appears whole."""
    from safetensors.torch import save_file

    tensors = {
        f"{part}/{name}": torch.as_tensor(value).detach().cpu().clone().contiguous()
        for part, entries in parts.items()
        for name, value in entries.items()
    }
    with appears_whole(Path(path)) as fresh:
        save_file(tensors, fresh, metadata={"onevec": json.dumps({**about, "format": FORMAT})})


def read(
    path: str | Path | None, identity: str, world: World
) -> tuple[TensorsByPart, dict[str, Any]] | None:
    """Return the parts and facts of a file, None if there is none.

    The first process reads it for all.

    Raises
    ------
    StoreError
        If it is damaged, of another version of onevec, or of a run with another ``identity``.
    """
    from safetensors.torch import load

    file = None if path is None or world.rank > 0 else Path(path)
    content = world.share(file.read_bytes() if file and file.exists() else b"")
    if not content:
        return None
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        about = json.loads(header["__metadata__"]["onevec"])
        held = load(content)
    except Exception as error:  # whatever a damaged file does to its reader
        raise StoreError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {error}): delete "
            "it to start anew"
        ) from error
    if about.get("format") != FORMAT:
        raise StoreError(
            f"the checkpoint {path} was written by another version of onevec: end that run with "
            "that version, or delete the file to start anew"
        )
    if about["identity"] != identity:
        raise StoreError(
            f"the checkpoint {path} is of a run with other data or settings: delete it, or "
            "name another file"
        )
    parts: TensorsByPart = {}
    for key, value in held.items():
        part, name = key.split("/", 1)
        parts.setdefault(part, {})[name] = value
    return parts, about


def optimizer_parts(optimizer: torch.optim.Optimizer) -> TensorsByPart:
    """Return the state of an optimizer, one part per parameter."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{place}": entry for place, entry in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, parts: TensorsByPart) -> None:
    """Take the state of an optimizer over."""
    whole = optimizer.state_dict()
    whole["state"] = {
        int(part.split(".")[1]): entries
        for part, entries in parts.items()
        if part.startswith("optimizer.")
    }
    optimizer.load_state_dict(whole)
