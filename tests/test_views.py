"""Views: where they lie, how large they are, and what becomes of short sequences."""

import numpy as np
import pytest
import torch

from onevec.errors import InputError
from onevec.ragged import Ragged
from onevec.views import VIEWS, Reencoded, crops_of, fixed_size, halves

DIM = 3


def numbered(lengths):
    """Token vectors that say which sequence they are of, and where they stand."""
    lengths = torch.tensor(lengths)
    values = torch.ones(int(lengths.sum()), DIM)
    tokens = Ragged(values, lengths)
    values[:, 0], values[:, 1] = tokens.rows, tokens.positions
    return Ragged(values, lengths, {"ids": tokens.positions})


def draw(name, tokens, seed=0, **options):
    views = VIEWS[name](**options)
    rows = np.arange(len(tokens))
    return views, views(tokens, rows, torch.Generator().manual_seed(seed))


LENGTHS = [1, 2, 3, 5, 9, 10, 11, 40, 7]


@pytest.mark.parametrize("name", VIEWS)
def test_rows_belong_together_and_fields_follow(name):
    tokens = numbered(LENGTHS)
    views, pair = draw(name, tokens, size=3, gap=2)
    long_enough = [row for row, length in enumerate(LENGTHS) if length >= views.least]
    assert pair.rows.tolist() == long_enough
    for view in (pair.first, pair.second):
        assert len(view) == len(long_enough)
        assert int(view.lengths.min()) >= 1
        for row, values in zip(long_enough, view, strict=True):
            seen = values[:, 0]
            assert name == "dropout" or (seen == row).all()
        if name != "dropout":
            torch.testing.assert_close(view.values[:, 1], view.fields["ids"].float())


@pytest.mark.parametrize("name", ["spans", "neighbours", "crops", "subsets"])
def test_views_have_one_size_whatever_the_length(name):
    views, pair = draw(name, numbered(LENGTHS), size=3, gap=2)
    assert set(pair.first.lengths.tolist()) == set(pair.second.lengths.tolist()) == {3}
    assert views.size == 3


@pytest.mark.parametrize("name", [name for name, views in VIEWS.items() if views.ordered])
def test_ordered_views_are_disjoint_and_in_order(name):
    for seed in range(20):
        views, pair = draw(name, numbered(LENGTHS), seed, size=2, gap=3)
        for first, second in zip(pair.first, pair.second, strict=True):
            distance = float(second[0, 1] - first[-1, 1])
            if name == "spans":
                assert distance > views.gap
            elif name in ("neighbours", "prefixes"):
                assert distance == 1
            else:
                assert distance in (1, 2)


def test_spans_come_to_lie_everywhere():
    tokens = numbered([12] * 400)
    _, pair = draw("spans", tokens, size=3, gap=2)
    starts = pair.first.values[::3, 1]
    assert set(starts.tolist()) == {0, 1, 2, 3, 4}
    assert set(pair.second.values[::3, 1].tolist()) == {5, 6, 7, 8, 9}


def test_subsets_are_disjoint_without_repetition():
    _, pair = draw("subsets", numbered([6] * 50), size=3)
    for first, second in zip(pair.first, pair.second, strict=True):
        together = torch.cat([first, second])[:, 1].tolist()
        assert sorted(together) == [0, 1, 2, 3, 4, 5]


def test_dropout_leaves_a_token_and_the_expected_size():
    tokens = numbered([1] * 50 + [100])
    _, pair = draw("dropout", tokens)
    assert pair.first.lengths[:50].tolist() == [1] * 50
    assert 60 <= int(pair.first.lengths[50]) <= 95
    ones = pair.first.values[:, 2]
    assert ((ones == 0) | (ones - 1 / 0.9).abs().lt(1e-6)).all()


@pytest.mark.parametrize("name", VIEWS)
def test_draws_depend_on_the_generator_alone(name):
    tokens = numbered([30] * 20)
    first, again, other = (draw(name, tokens, seed, size=3)[1] for seed in (1, 1, 2))
    torch.testing.assert_close(first.first.values, again.first.values)
    if name != "halves":
        assert not torch.equal(first.first.values, other.first.values)


@pytest.mark.parametrize("name", VIEWS)
def test_no_sequence_is_long_enough(name):
    tokens = numbered([1, 1])
    _, pair = draw(name, tokens, size=5)
    if name != "dropout":
        assert (len(pair.rows), len(pair.first)) == (0, 0)


def test_nine_in_ten_have_room():
    rng = np.random.default_rng(0)
    for mean in (3, 9, 30, 300):
        lengths = 1 + rng.poisson(mean, 1000)
        size, gap = fixed_size(lengths)
        assert 1 <= size <= 16
        if np.quantile(lengths, 0.1) >= 2:
            assert (lengths >= 2 * size + gap).mean() >= 0.9
        assert fixed_size(lengths, size=3, gap=1) == (3, 1)
    assert fixed_size(np.full(9, 5)) == (2, 1)
    assert fixed_size(np.full(9, 2)) == (1, 0)


def test_reencoded_crops_know_nothing_beyond_themselves():
    texts = ["abcdefghij", "ab", "klmnopqrst", "one two three four five six"]
    seen = []

    def encode(crops):
        seen.extend(crops)
        return [np.full((len(text), 2), len(text), np.float32) for text in crops]

    views = Reencoded(texts, encode, share=0.5, count=3)
    assert len(seen) == 9  # three crops of the three that are long enough
    assert all(crop in texts[0] and len(crop) == 5 for crop in seen[:3])
    assert all(crop in texts[3] and len(crop.split()) == 3 for crop in seen[6:])
    pair = views(numbered([10, 2, 10]), np.array([3, 1, 0]), torch.Generator().manual_seed(0))
    assert pair.rows.tolist() == [0, 2]
    assert pair.first.lengths.tolist()[1] == 5
    with pytest.raises(InputError, match="none of 1 sequences"):
        Reencoded(["a"], encode)
    with pytest.raises(InputError, match="share lies"):
        Reencoded(texts, encode, share=1.5)


def test_crops_of_frames_are_frames():
    frames = np.arange(20).reshape(10, 2)
    (part,) = crops_of(frames, 0.3, 4, False, np.random.default_rng(0))
    assert part.shape == (3, 2)
    assert (np.diff(part, axis=0) == 2).all()


def test_ordered_crops_follow_each_other():
    texts = ["abcdefghij", "abcd"]
    views = Reencoded(texts, lambda crops: [np.array([[ord(c)] for c in t]) for t in crops],
                      share=0.3, count=5, ordered=True)  # fmt: skip
    assert views.ordered
    for seed in range(5):
        pair = views(numbered([10, 4]), np.arange(2), torch.Generator().manual_seed(seed))
        for first, second in zip(pair.first, pair.second, strict=True):
            assert float(second[0]) == float(first[-1]) + 1


def test_bad_sizes_are_refused():
    for options in ({"size": 0}, {"gap": -1}):
        with pytest.raises(InputError, match="a view has at least 1 token"):
            VIEWS["spans"](**options)


def test_halves_have_equal_length_and_drop_the_middle():
    tokens = Ragged.from_list([np.arange(n)[:, None] + 0.0 for n in (5, 2, 6)])
    first, second = halves(tokens)
    assert first.lengths.tolist() == second.lengths.tolist() == [2, 1, 3]
    assert first[0].flatten().tolist() == [0, 1]
    assert second[0].flatten().tolist() == [3, 4]
    assert second[2].flatten().tolist() == [3, 4, 5]
