"""The file from which a run goes on: safetensors with JSON beside the tensors, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onevec.errors import StoreError
from onevec.files import appears_whole

Parts = dict[str, dict[str, Tensor]]


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
        save_file(tensors, fresh, metadata={"onevec": json.dumps(about)})


def read(path: str | Path | None, content: bytes, identity: str) -> tuple[Parts, dict[str, Any]]:
    """Return the parts and facts of a file's content.

    Raises
    ------
    StoreError
        If it is damaged, or of a run with another ``identity``.
    """
    from safetensors.torch import load

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
    if about["identity"] != identity:
        raise StoreError(
            f"the checkpoint {path} is of a run with other data or settings: delete it, or "
            "name another file"
        )
    parts: Parts = {}
    for key, value in held.items():
        part, name = key.split("/", 1)
        parts.setdefault(part, {})[name] = value
    return parts, about


def optimizer_parts(optimizer: torch.optim.Optimizer) -> Parts:
    """Return the state of an optimizer, one part per parameter."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{place}": entry for place, entry in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, parts: Parts) -> None:
    """Take the state of an optimizer over."""
    whole = optimizer.state_dict()
    whole["state"] = {
        int(part.split(".")[1]): entries
        for part, entries in parts.items()
        if part.startswith("optimizer.")
    }
    optimizer.load_state_dict(whole)
