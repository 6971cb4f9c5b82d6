"""The table of learned poolers: each way of standing gives vectors, and gains are paired."""

import json

import numpy as np
import pytest

import learned as command
from onevec import Ragged
from onevec.blocks import prepare
from onevec.recipe import BLOCKS, RICH
from onevec.reduction import Reduction
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
    for objective in (*learned.OBJECTIVES, learned.UNTRAINED):
        assert f"learned: residual residual, {objective}" in names
    for pooler, made in learned.POOLERS.items():
        if made().learned and pooler != "layer_mix":
            assert any(name.startswith(f"learned: {pooler} ") for name in names)
    assert {command.start_of(name) for name in names} <= set(names)


def test_an_untrained_residual_head_stands_where_the_recipe_does():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(60, 10)), rng.uniform(0.3, 2.0, size=(60, 10))
    tokens = Ragged.from_list(
        [
            (kinds[0][k] + kinds[1][k] * rng.normal(size=(n, 10))).astype(np.float32)
            for k, n in zip(rng.integers(60, size=900), rng.integers(6, 30, size=900), strict=True)
        ]
    )
    context = producer.Context(None, "chess", tokens[:600], tokens[600:])
    (result,) = learned.fit(context, 0, "residual", "residual", learned.UNTRAINED)
    prepared = prepare(context.train, BLOCKS, "quick", 0)
    recipe = Reduction(RICH).fit(prepared.features, learned.DIM)
    vectors = recipe.transform(prepared.blocks.only(RICH.blocks).of(context.test))
    near, nearest = (np.argsort(-_cosines(v), axis=1)[:, :5] for v in (result.test, vectors))
    both = [len(set(ours) & set(theirs)) for ours, theirs in zip(near, nearest, strict=True)]
    assert np.mean(both) > 4.5


def _cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T - 2 * np.eye(len(unit))


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
            ("learned: residual residual, untrained", "learned", 58.5),
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
    assert list(result["methods"]) == [
        "attention alone, info_nce",
        "residual residual, vicreg",
        "residual residual, untrained",
    ]
    assert gains_of(result, "residual residual, vicreg")["start"] == 0.5
    assert gains_of(result, "attention alone, info_nce")["start"] is None
    told = result["training"]
    assert told["fits of tasks"] == 1
    assert [value for what, value in told.items() if what.startswith("there")] == [
        0.5, 100.0, 0.0, None,
    ]  # fmt: skip
    best = result["methods"]["attention alone, info_nce"]
    assert [best[f"gain over {base}"]["value"] for base in ("recipe", "onevec", "mean")] == [
        1.5, 3.5, 11.5,
    ]  # fmt: skip
    assert best["tasks"]["chess, chess, chess"]["score_gain"] == 0.1
    page = command.markdown(result)
    assert "| attention alone, info_nce | +1.5 [+1.5, +1.5] |  | +3.5 [+3.5, +3.5] |" in page
    assert "- there, mean gain by labels: 0.5" in page
    assert report.interval(None) == ""


def gains_of(result, method):
    """Values of the gains by what they are over."""
    gains = result["methods"][method].items()
    return {
        name.removeprefix("gain over "): entry and entry["value"]
        for name, entry in gains
        if name.startswith("gain over ")
    }
