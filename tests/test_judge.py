"""Scores without labels, the measured range, and the verdict made of both."""

import numpy as np
import pytest

from onevec import OneVec
from onevec.ragged import Ragged
from onevec.train.exam import Exam
from onevec.vector.held_out import prepare
from onevec.vector.parts import ASKING, BLOCKS


def test_copies_of_one_sequence_keep_the_mean():
    one = np.random.default_rng(0).normal(size=(7, 16))
    model = OneVec(dim="auto").fit([one] * 300)
    assert "all alike" in model.verdict_.sentence
    assert np.isfinite(model.transform([one])).all()


def test_halves_that_are_pooled_along_are_those_pooled_apart():
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 40, 140), *[1] * 10]  # those of one token have no halves
    tokens = Ragged.from_list([rng.normal(size=(n, 160)) for n in lengths])
    apart, along = (prepare(tokens, BLOCKS, "quick", 0, halved=halved) for halved in (False, True))
    assert apart.halves is None and len(along.held_out_rows(tokens)) < along.held_out
    for name, block in apart.features.items():
        np.testing.assert_allclose(along.features[name], block, atol=1e-5)
    answers = [Exam.set(tokens, prepared, 0, {}).halves for prepared in (apart, along)]
    for ours, theirs in zip(*answers, strict=True):
        for name in ASKING:
            np.testing.assert_allclose(theirs[name], ours[name], atol=1e-5)
    assert along.half(0).halves is None and along.renewed(tokens, ["dct"]).halves is None


@pytest.mark.parametrize("count", [300, 90])
def test_nothing_is_fitted_to_the_sequences_held_out(count):
    rng = np.random.default_rng(0)
    tokens = Ragged.from_list([rng.normal(size=(5, 4)) for _ in range(count)])
    whole = prepare(tokens, BLOCKS, "quick", 0)
    changed = tokens.values.clone().reshape(count, 5, 4)
    changed[whole.rows[whole.count :]] *= 3
    other = prepare(Ragged(changed.reshape(-1, 4), tokens.lengths), BLOCKS, "quick", 0)
    for name, block in whole.fitted.items():
        np.testing.assert_array_equal(block, other.fitted[name])
