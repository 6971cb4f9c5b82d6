"""The RNA figure: onevec against the whitened mean with the benchmark's encoder and split."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_rna_figure(tmp_path):
    data = os.environ.get("ONEVEC_DATA")
    if not data or not (Path(data) / "ncrna13").is_dir():
        pytest.skip("needs ONEVEC_DATA with ncrna13")
    command = [sys.executable, ROOT / "benchmarks/ncrna13.py", "--seeds", "1"]
    subprocess.run([*command, "--out", tmp_path / "figure.json"], check=True)
    run = json.loads((tmp_path / "figure.json").read_text())["runs"][0]
    assert run["onevec"]["knn"] >= 75
    assert run["onevec"]["knn"] >= run["mean_whitened"]["knn"] + 4
