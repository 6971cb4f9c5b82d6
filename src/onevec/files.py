"""Results on disk: they appear whole or not at all, and nothing of the user's is ever replaced."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onevec.errors import InputError


def check_target(
    path: str | Path, overwrite: bool, *, what: str, ours: Callable[[Path], bool] | None = None
) -> Path:
    """Refuse, before any work, a place that cannot be written or must not be replaced.

    Parameters
    ----------
    path : path
        Where a result shall stand.
    overwrite : bool
        Whether the user asked to replace what stands there.
    what : str
        What is written, for the message: "onevec model".
    ours : callable, optional
        Tells whether what stands there is of that kind. Only such is replaced; without it, any
        file, never a folder.

    Returns
    -------
    Path
        The absolute path.
    """
    given, path = path, Path(path).absolute()
    if not str(given):
        raise InputError(f"got an empty path for the {what}: name the place to write it to")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{given} is a link to nothing: remove it or choose another place")
    if path.exists():
        if not overwrite:
            raise InputError(
                f"{given} exists: choose another place or pass overwrite=True (--overwrite)"
            )
        here = Path.cwd()
        why = f"it is no {what}"
        if path.resolve() in (here, *here.parents):
            why = "the current folder lies in it"
        elif ours(path) if ours else path.is_file():
            why = ""
        if why:
            raise InputError(f"{given} is not replaced, because {why}: choose another place")
    nearest = next(parent for parent in path.parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "not writable" if nearest.is_dir() else "a file, not a folder"
        raise InputError(f"{given} cannot be written: {nearest} is {why}; choose another place")
    return path


def check_apart(checkpoint: str | Path | None, out: Path) -> None:
    """Refuse a checkpoint at the place of the result or in it: one of them would go."""
    if checkpoint is not None and Path(checkpoint).resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"got the checkpoint {checkpoint} at the place of the result, {out}, or in it: put it "
            "beside"
        )


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write a file or folder to; rename it at the end.

    What stood at ``path`` goes then. After an error nothing is left behind and nothing is gone.
    All files can be read by whom the umask lets read: safetensors writes them for the owner alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    fresh, old = room / path.name, room / f"{path.name}.old"
    try:
        yield fresh
        usual = room / f"{path.name}.usual"
        usual.touch()
        for file in (fresh, *fresh.rglob("*")):
            if file.is_file() and not file.is_symlink():
                file.chmod(file.stat().st_mode | usual.stat().st_mode)
        if path.is_dir():
            path.rename(old)
        fresh.replace(path)
    finally:
        if old.exists() and not path.exists():  # interrupted between the two
            old.rename(path)
        shutil.rmtree(room, ignore_errors=True)


def for_json(value: Any) -> Any:
    """Replace what JSON has no word for: NaN and infinity by null."""
    if isinstance(value, dict):
        return {name: for_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
