"""The benchmark of pretraining objectives, end to end on few sequences of shipped data."""

import json
import sys
from pathlib import Path

import pytest

import pretrain as command
from protocol import tasks

DATA = Path(__file__).parents[2] / "benchmarks/data"


@pytest.mark.filterwarnings("ignore:.* are not in the vocabulary")
def test_scores_gains_and_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(tasks, "QUICK_SIZES", (120, 80))
    monkeypatch.setitem(
        tasks.CORPORA, "chess", lambda data: tasks.train_of(tasks.chess_items(data))[:150]
    )
    out = tmp_path / "pretrain.json"
    words = ["pretrain.py", "--data", str(DATA), "--tasks", "chess", "--steps", "2", "--quick",
             "--recipes", "masked;contrastive", "--out", str(out)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    row = json.loads(out.read_text())["tasks"]["chess"]
    assert {name: made["steps"] for name, made in row["encoders"].items()} == {
        "masked": 2, "contrastive": 2,
    }  # fmt: skip
    (targets,) = row["units"].values()
    for recipes in targets.values():
        assert "gain" not in recipes["masked"]["mean"]
        for method in ("mean", "onevec"):
            cell, base = recipes["contrastive"][method], recipes["masked"][method]
            assert cell["gain"] == pytest.approx(cell["score"] - base["score"], abs=0.02)
            assert cell["interval"][0] <= cell["gain"] <= cell["interval"][1]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.safetensors")}
    assert len(kept) == 2
    assert command.encoder("chess", "masked, longer", DATA, 2)[1]["steps"] == 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_every_recipe_is_one_that_pretrain_takes(tmp_path):
    from onevec.encoders.pretrain import ready

    for recipe in command.RECIPES.values():
        assert ready(tmp_path / "e", recipe)
