"""Reductions: blocks scaled to length 1, saved and opened, and as a torch module."""

import json

import numpy as np
import pytest
import torch

from onevec.estimator import OneVec
from onevec.ragged import Ragged
from onevec.vector.blocks import Blocks, BlockSpec
from onevec.vector.fitted import Vector
from onevec.vector.module import TokensToVector, difference
from onevec.vector.parts import BLOCKS, PLAIN
from onevec.vector.reduction import Recipe, Reduction

UNIT = Recipe(("a", "b"), 0.5, 0.0, unit=True)
ALONE = Recipe(("b",), 0.0, 1.0, shrinkage=0.9)
SHRUNK = Recipe(("mean",), 0.0, 1.0, shrinkage=0.9)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return {"a": rng.normal(size=(90, 12)) * 50, "b": rng.normal(size=(90, 7)) ** 3}


def test_blocks_of_length_1_are_the_formula(features):
    found = Reduction(UNIT).fit(features, 5)
    sides = [found.inner[name].transform(features[name]) for name in ("a", "b")]
    side = np.hstack([s / np.linalg.norm(s, axis=1, keepdims=True) for s in sides])
    np.testing.assert_allclose((side**2).sum(1), 2)
    _, _, axes = np.linalg.svd(side - side.mean(0), full_matrices=False)
    wanted = (side - side.mean(0)) @ axes[:5].T
    np.testing.assert_allclose(np.abs(found.transform(features)), np.abs(wanted), atol=1e-5)


def test_a_cache_between_recipes_changes_nothing(features):
    cache = {}
    for option in (UNIT, ALONE, Recipe(("b",), 0.0, 0.0)):
        for dim in (3, 12):
            found = Reduction(option).fit(features, dim, cache).transform(features)
            wanted = Reduction(option).fit(features, dim).transform(features)
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_what_does_not_vary_gives_nothing_whatever_the_shrinkage():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 8)) + 1e3
    new = {"mean": rng.normal(size=(9, 8)) + 1e3}
    for option in (SHRUNK, Recipe(("mean",), 0.5, 0.5, unit=True, shrinkage=0.5)):
        reduction = Reduction(option).fit({"mean": low}, 8)
        for features in ({"mean": low}, new):
            found = reduction.transform(features)
            assert not found[:, 3:].any() and (np.abs(found[:, :3]).max(0) > 0.1).all()


def test_dead_features_change_nothing_in_the_last_shrinkage():
    rng = np.random.default_rng(0)
    blocks = {name: rng.normal(size=(90, 6)) * np.arange(1, 7) for name in ("a", "b")}
    wide = {name: np.hstack([block, np.zeros((90, 40))]) for name, block in blocks.items()}
    option = Recipe(("a", "b"), 0.0, 1.0, shrinkage=0.9)
    found, wanted = (Reduction(option).fit(each, 8).transform(each) for each in (wide, blocks))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_outlier_is_no_longer_than_the_rest(features):
    reduction = Reduction(UNIT).fit(features, 5)
    far = {
        name: block * (1 + 999 * (np.arange(90) == 3)[:, None]) for name, block in features.items()
    }
    assert np.linalg.norm(reduction.transform(far), axis=1).max() < 2


def test_one_block_of_length_1_and_a_block_of_nothing(features):
    alone = Reduction(Recipe(("a",), 0.5, 0.0, unit=True)).fit(features, 4)
    assert alone.transform(features).shape == (90, 4)
    features["b"] = np.zeros((90, 3))
    assert np.isfinite(Reduction(UNIT).fit(features, 4).transform(features)).all()


@pytest.mark.parametrize("option", [UNIT, ALONE], ids=lambda each: each.name)
def test_saved_and_opened(features, option):
    found = Reduction(option).fit(features, 5)
    config, arrays = found.state()
    again = Reduction.from_state(json.loads(json.dumps(config)), arrays)
    assert again.recipe == option
    np.testing.assert_array_equal(again.transform(features), found.transform(features))


def test_shrinkage_of_the_last_whitening_is_the_formula(features):
    block = features["a"] * np.geomspace(1, 100, 12)
    found = Reduction(SHRUNK).fit({"mean": block}, 5)
    variances = np.sort(np.linalg.eigvalsh(np.cov(block.T)))[::-1]
    wanted = variances[:5] / (0.1 * variances[:5] + 0.9 * variances.mean())
    np.testing.assert_allclose(found.transform({"mean": block}).var(0, ddof=1), wanted, rtol=1e-4)
    again = Reduction.from_state(*found.state())
    assert again.recipe == SHRUNK


def test_names_tell_them_apart():
    assert "length 1" in UNIT.name
    assert UNIT.name != Recipe(("a", "b"), 0.5, 0.0).name


MEAN_STD = Recipe(("mean", "std"), 0.5, 0.0, unit=True)


def test_the_torch_module_gives_the_same_vectors():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, size=80)
    values = torch.from_numpy(rng.normal(size=(lengths.sum(), 6)).astype(np.float32))
    tokens = Ragged(values, torch.from_numpy(lengths))
    model = OneVec(4, pooler="mean|std").fit(tokens)
    blocks = Blocks.fit(tokens, {"mean": BLOCKS["mean"], "std": BlockSpec("std", {})}, 0)
    model._adopt({-1: blocks}, Vector.alone(MEAN_STD, -1, blocks.of(tokens), 4))
    assert (
        difference(
            TokensToVector(model.vector_, model.blocks_)(tokens).numpy(), model.transform(tokens)
        )
        < 1e-5
    )


def test_noise_that_stays_in_a_sequence_is_left_to_the_mean():
    rng = np.random.default_rng(2)
    lengths = torch.from_numpy(rng.integers(1, 12, size=120))
    clean = torch.from_numpy(rng.normal(size=(int(lengths.sum()), 6)).astype(np.float32))
    noise = torch.from_numpy(rng.normal(size=(120, 3)).astype(np.float32)) * 5
    both = torch.cat([clean, noise.repeat_interleave(lengths, 0)], 1)
    specs = {
        "mean": BLOCKS["mean"],
        "std": BlockSpec("std", {}),
        "dct": BlockSpec("dct", {"count": 2}),
    }
    plain = Blocks.fit(Ragged(clean, lengths), specs, 0).of(Ragged(clean, lengths))
    found = Blocks.fit(Ragged(both, lengths), specs, 0).of(Ragged(both, lengths))
    assert found["mean"].std(0)[6:].min() > 3
    np.testing.assert_allclose(found["std"][:, :6], plain["std"], atol=1e-6)
    assert not found["std"][:, 6:].any()
    for place in (0, 1):  # of each cosine the features stand side by side
        np.testing.assert_allclose(
            found["dct"].reshape(120, 2, 9)[:, place, :6],
            plain["dct"].reshape(120, 2, 6)[:, place],
            atol=1e-5,
        )


def test_raw_extremes_are_those_of_the_tokens_in_their_own_units():
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 12, size=120)
    values = rng.normal([3, -1, 0], [10, 1, 0.1], size=(lengths.sum(), 3))
    noise = rng.normal(size=120).repeat(lengths)[:, None]  # stays within a sequence
    values = np.hstack([values, noise]).astype(np.float32)
    values[7, 1] = 25  # an outlier
    tokens = Ragged(torch.from_numpy(values), torch.from_numpy(lengths))
    names = (*PLAIN.blocks, "mean")
    found = Blocks.fit(tokens, {name: BLOCKS[name] for name in names}, 0).of(tokens)
    middle, reach = values.mean(0), 6 * values.std(0)
    clipped = np.clip(values - middle, -reach, reach) * [1, 1, 1, 0]
    parts = np.split(clipped, np.cumsum(lengths)[:-1])
    for name in ("mean", "std", "max", "min"):
        wanted = [getattr(part, name)(0) for part in parts]
        np.testing.assert_allclose(found[f"raw_{name}"], wanted, atol=1e-4)
    whole = np.split(values, np.cumsum(lengths)[:-1])
    np.testing.assert_allclose(found["mean"], [part.mean(0) for part in whole], atol=1e-4)


def test_features_that_never_vary_within_are_kept_where_there_are_no_others():
    values = torch.arange(20.0)[:, None].repeat(1, 4).repeat_interleave(2, 0)
    tokens = Ragged(values, torch.full((20,), 2))
    assert Blocks.fit(tokens, {"dct": BlockSpec("dct", {})}, 0).of(tokens)["dct"].std() > 0.1
