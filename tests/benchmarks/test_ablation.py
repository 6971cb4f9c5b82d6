"""Parts of the recipe and persistent noise, on shipped data."""

import numpy as np
import pytest

from protocol import ablation, encoders, producer, report, tasks


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(encoders, "CACHE", tmp_path_factory.mktemp("cache"))
    unit = tasks.shrink(tasks.units("gesture", encoders.ROOT / "benchmarks/data")[0], 300, 100)
    yield producer.Context(unit, "frames", *encoders.tokens(unit, "frames", None))
    patch.undo()


def test_noise_stays_within_a_sequence_and_differs_between_them(context):
    found = ablation.noised(context.train, 2.0, 0)
    assert found.dim == context.train.dim + ablation.NOISE
    added = [each[:, -ablation.NOISE :].numpy() for each in found[np.arange(20)]]
    assert all((each == each[0]).all() for each in added)
    assert 1.5 < np.std([each[0] for each in added]) < 2.5


def test_every_variant_gives_vectors_and_differs_from_the_recipe(context):
    found = {result.name: result for result in ablation.ablation(context, 0)}
    recipe = found.pop("ablation: recipe")
    assert {"ablation: without dct", "ablation: not clipped"} <= set(found)
    for result in found.values():
        assert result.test.shape == recipe.test.shape
        assert np.abs(result.test - recipe.test).max() > 1e-3, result.name
    assert not list(ablation.ablation(producer.Context(context.unit, "other", None, None), 0))


def test_differences_are_against_the_right_base():
    def task(unit, scores):
        methods = {name: {"score": value} for name, value in scores.items()}
        return {"row": "gesture", "encoder": "frames", "unit": unit, "methods": methods}

    known = {"ablation: recipe": 50.0, "ablation: without dct": 48.0, "mean": 40.0}
    noisy = {"noise: mean": 30.0, "noise: coles": 20.0}
    result = {"tasks": [task("a", known | noisy), task("b", {"mean": 1.0})]}
    first, table, second, noise = report.part_tables(result)
    assert "changed in one part" in first and "noise" in second
    assert table.splitlines()[-1] == "| without dct | −2.0 | −2.0 |"
    assert noise.splitlines()[2:] == ["| mean | −10.0 | −10.0 |"]  # CoLES has no base here
    assert report.part_tables({"tasks": [task("b", {"mean": 1.0})]}) == []


def test_the_chosen_dimension_is_held_against_the_best():
    def at(dim, score):
        return {"dim": dim, "score": score}

    methods = {
        "onevec_quick": at(64, 50.0),
        "onevec_quick at 16": at(16, 47.0),
        "onevec_quick at 128": at(128, 50.5),
        "onevec_quick at auto": at(32, 48.0),
        "mean_pca at 16": at(16, 90.0),
    }
    result = {"tasks": [{"name": "a", "counted": True, "methods": methods}]}
    lines = report.auto_table(result).splitlines()
    assert lines[2] == "| a | 32 | 48.0 | 128 | 50.5 | −2.5 |"
    assert lines[-1] == "Within one point: 0 of 1 tasks; mean −2.5."
