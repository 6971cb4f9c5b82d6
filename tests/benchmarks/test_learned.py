"""The table of learned poolers: each way of standing gives vectors, and gains are paired."""

import json

import numpy as np
import pytest

import learned as command
from onevec import Ragged
from protocol import learned, producer, report, runner


@pytest.fixture(scope="module")
def context():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, 10)) for n in rng.integers(6, 30, size=150)]
    ragged = Ragged.from_list([t.astype(np.float32) for t in tokens])
    return producer.Context(None, "chess", ragged[:100], ragged[100:])


@pytest.mark.parametrize(
    ("pooler", "way"), [("attention", "alone"), ("convolution", "beside"), ("residual", "residual")]
)
def test_every_way_gives_vectors_and_says_what_training_did(context, pooler, way):
    (result,) = learned.fit(context, 0, pooler, way, "info_nce")
    assert result.name == f"learned: {pooler} {way}, info_nce"
    assert result.train.shape[0] == 100
    assert result.test.shape[0] == 50
    assert result.train.shape[1] == result.test.shape[1] <= 64
    assert np.isfinite(result.test).all()
    assert result.note["score"] >= result.note["start_score"]


def test_every_entry_of_both_tables_is_tried():
    names = [each.name for each in learned.producers()]
    assert len(names) == len(set(names))
    for objective in learned.OBJECTIVES:
        assert f"learned: residual residual, {objective}" in names
    for pooler, made in learned.POOLERS.items():
        if made().learned and pooler != "layer_mix":
            assert any(name.startswith(f"learned: {pooler} ") for name in names)


def test_gains_are_over_the_recipe_the_default_and_the_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    jobs = []
    for number, (method, family, score) in enumerate(
        [
            ("mean", "plain", 50.0),
            (command.RECIPE, "candidate", 60.0),
            ("onevec_quick", "onevec", 58.0),
            ("learned: attention alone, info_nce", "learned", 61.5),
            ("learned: residual residual, vicreg", "learned", 59.0),
        ]
    ):
        job = runner.Job("chess", "chess", "chess", method, 0, f"key{number}")
        row = {
            "method": method, "family": family, "target": "chess", "kind": "classes",
            "counted": True, "dim": 64, "seconds": 1.0, "probes": {"knn": score},
            "note": {"best_step": 1, "score": 0.2, "start_score": 0.1},
        }  # fmt: skip
        meta = {"job": job.__dict__, "error": None, "rows": [row], "state": {"commit": "c"}}
        drawn = score + np.linspace(-1, 1, 201)
        np.savez(job.path, meta=np.array(json.dumps(meta)), r0=drawn)
        jobs.append(job)
    result = command.collect(jobs, runner.Settings(tmp_path))
    assert list(result["methods"]) == ["attention alone, info_nce", "residual residual, vicreg"]
    best = result["methods"]["attention alone, info_nce"]
    assert [best[f"gain over {base}"]["value"] for base in ("recipe", "onevec", "mean")] == [
        1.5, 3.5, 11.5,
    ]  # fmt: skip
    assert best["tasks"]["chess, chess, chess"]["score_gain"] == 0.1
    page = command.markdown(result)
    assert "| attention alone, info_nce | +1.5 [+1.5, +1.5] |" in page
    assert report.interval(None) == ""
