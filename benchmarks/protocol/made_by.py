"""Which version, commit and machine made a results file: it stays true of these, whatever follows.

A results file is not tied to the source that made it: a change of the code makes no file wrong,
it only makes it a statement about an older version, which this line says.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *("torch", "numpy", "scikit-learn", "transformers", "tokenizers"),
    *("sentence-transformers", "pytorch-lifestream", "torch-geometric", "rdkit"),
)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def made_by(**settings: Any) -> dict[str, Any]:
    """The entry of a results file; ``settings`` such as seeds or threads come last."""
    import onevec

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()

    return {
        "onevec": onevec.__version__,
        "commit": git("rev-parse", "HEAD"),
        "uncommitted changes": bool(git("status", "--porcelain", "src", "benchmarks/protocol")),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "versions": versions(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        **settings,
    }


def line(made: dict[str, Any]) -> str:
    """Describe a ``made_by`` entry in one line, as pages show it above a table."""
    parts = [f"onevec {made['onevec']}", f"commit `{made['commit'][:12]}`"]
    if made.get("uncommitted changes"):
        parts[-1] += " with uncommitted changes"
    if "also made at" in made:  # cells of a run that went on for days
        parts[-1] += f" and {len(made['also made at'])} commits before it"
    parts.append(made["machine"])
    if "seeds" in made:
        seeds = made["seeds"]
        shown = ", ".join(map(str, seeds))
        parts.append(f"seed {shown}" if len(seeds) == 1 else f"seeds {shown}")
    if "threads" in made:
        parts.append("one thread" if made["threads"] == 1 else f"{made['threads']} threads")
    parts.append(made["date"])
    return ", ".join(parts) + (f"; {made['note']}" if "note" in made else "")
