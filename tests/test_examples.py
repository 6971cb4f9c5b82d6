"""Every example runs as it stands, and ends in a figure."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
LIMIT = 300  # seconds: each takes 15 on a free core, and cores are shared


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_runs_and_ends_in_a_figure(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        cwd=tmp_path,  # what a script leaves behind is not the repository's
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d", done.stdout), done.stdout


def test_there_are_examples():
    assert {"search", "lancedb_store", "qdrant_store"} <= {script.stem for script in SCRIPTS}
