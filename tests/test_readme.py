"""What the README says is measured, and what it shows runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from onevec import OneVec
from onevec.train import settings
from tests.tokens.conftest import ALPHABET, bert  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_figures_are_those_of_the_results():
    subprocess.run([sys.executable, ROOT / "benchmarks/readme.py", "--check"], check=True)


def python(number: int) -> str:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]


def test_the_two_lines_run(bert):  # noqa: F811
    rng = np.random.default_rng(0)
    names = {"texts": ["".join(rng.choice(list(ALPHABET), size=n)) for n in range(5, 45)]}
    exec(python(0).replace("my-encoder", str(bert)), names)
    assert names["vectors"].shape[0] == 40
    assert names["model"].encode("ACDE").shape == names["vectors"].shape[1:]


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(python(1), names)
    assert names["vectors"].shape == (500, 640)
    assert "mean" in capsys.readouterr().out


def test_the_training_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(settings.STEPS, "quick", 10)
    code = python(2)
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, 16)) for n in rng.integers(5, 40, size=130)]
    exec(code.replace('"steps": 500', '"steps": 20'), {"OneVec": OneVec, "tokens": tokens})


def test_every_command_and_folder_is_named():
    from onevec.cli import app

    for command in app.registered_commands:
        assert command.callback is not None
        assert f"onevec {command.callback.__name__}" in README, command.callback.__name__
    for entry in (ROOT / "src/onevec").iterdir():
        if entry.name not in ("__init__.py", "__pycache__", "py.typed", "errors.py"):
            name = entry.name + "/" if entry.is_dir() else entry.name
            assert f"`{name}`" in README, name


def test_files_that_the_design_names_exist():
    named = re.findall(r"`([\w/]+\.py)", (ROOT / "docs/design.md").read_text())
    assert len(named) > 10
    missing = [
        name
        for name in named
        if not any((ROOT / folder / name).is_file() for folder in ("", "src/onevec"))
    ]
    assert not missing
