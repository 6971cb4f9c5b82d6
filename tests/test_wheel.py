"""The built wheel in empty environments outside the repository."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command, cwd=None, code=0):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def environment(path: Path, wheel: str) -> Path:
    """Make an environment that holds the wheel; return its folder of commands."""
    pins = ("-c", ROOT / "constraints.txt")
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        run(uv, "venv", "-q", "--python", sys.executable, path)
        run(uv, "pip", "install", "-q", "--python", path / "bin/python", *pins, wheel)
    else:
        run(sys.executable, "-m", "venv", path)
        run(path / "bin/python", "-m", "pip", "install", "-q", *pins, wheel)
    return path / "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    room = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "-w", "-o", room, ROOT)
    return next(room.glob("*.whl"))


def test_the_demo_runs_from_the_wheel(tmp_path, wheel):
    commands = environment(tmp_path / "env", f"{wheel}[hf,report]")
    done = run(commands / "onevec", "demo", "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert result["dim"] == result["onevec"]["dim"] == 64
    assert (tmp_path / "report.html").stat().st_size > 50_000


def test_without_the_extras_it_names_the_command(tmp_path, wheel):
    commands = environment(tmp_path / "env", str(wheel))
    done = run(commands / "onevec", "demo", cwd=tmp_path, code=2)
    assert "pip install 'onevec[hf,report]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "report.html").exists()
