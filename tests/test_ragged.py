"""Ragged behaves as the list of its sequences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from onevec.errors import InputError
from onevec.ragged import Ragged

LENGTHS = [3, 1, 4, 1, 5]


def arrays(lengths=LENGTHS, dim=2):
    source = np.random.default_rng(0)
    return [source.normal(size=(n, dim)).astype(np.float32) for n in lengths]


def with_ids(lengths=LENGTHS):
    ragged = Ragged.from_list(arrays(lengths))
    ids = torch.arange(sum(lengths))
    return Ragged(ragged.values, ragged.lengths, {"ids": ids, "wide": ids.view(-1, 1) * 10})


def same(ragged, expected):
    assert len(ragged) == len(expected)
    for found, array in zip(ragged, expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), array)


def test_shape_and_derived_tensors():
    ragged = with_ids()
    assert (len(ragged), ragged.shape, ragged.ndim, ragged.dim) == (5, (5,), 1, 2)
    assert ragged.offsets.tolist() == [0, 3, 4, 8, 9, 14]
    assert ragged.rows.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4]
    assert ragged.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 0, 0, 1, 2, 3, 4]
    assert repr(ragged) == "Ragged(5 sequences, 14 tokens, dim 2)"
    same(ragged, arrays())


@pytest.mark.parametrize("row", [0, 2, 4, -1, -5, np.int64(3)])
def test_integer_indexing_gives_the_matrix(row):
    np.testing.assert_array_equal(with_ids()[row].numpy(), arrays()[row])


@pytest.mark.parametrize("row", [5, -6])
def test_integer_out_of_range(row):
    with pytest.raises(IndexError):
        with_ids()[row]


bounds = st.none() | st.integers(-7, 7)


@given(start=bounds, stop=bounds, step=st.sampled_from([None, 1, 2, 3, -1, -2]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_slices_as_a_list(start, stop, step):
    picked = slice(start, stop, step)
    found = with_ids()[picked]
    same(found, arrays()[picked])
    ids = np.split(np.arange(sum(LENGTHS)), np.cumsum(LENGTHS)[:-1])[picked]
    assert found.fields["ids"].tolist() == [int(i) for part in ids for i in part]


@given(rows=st.lists(st.integers(-5, 4), max_size=8), kind=st.sampled_from(["list", "np", "torch"]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_fancy_indexing_as_a_list(rows, kind):
    key = {"list": rows, "np": np.array(rows, dtype=int), "torch": torch.tensor(rows)}[kind]
    found = with_ids()[key]
    same(found, [arrays()[row] for row in rows])
    assert_close(found.fields["wide"][:, 0], found.fields["ids"] * 10)


def test_masks_and_tuples():
    mask = np.array([True, False, True, False, False])
    same(with_ids()[mask], [arrays()[0], arrays()[2]])
    same(with_ids()[torch.from_numpy(mask)], [arrays()[0], arrays()[2]])
    same(with_ids()[([1, 3], slice(None))], [arrays()[1], arrays()[3]])
    with pytest.raises(InputError, match="a mask of 2 entries cannot pick from 5"):
        with_ids()[np.array([True, False])]
    with pytest.raises(IndexError, match="out of range for 5"):
        with_ids()[[0, 5]]


def test_empty_sequences_keep_their_place():
    ragged = Ragged(torch.arange(6.0).view(3, 2), torch.tensor([0, 2, 0, 1, 0]))
    assert [len(part) for part in ragged[[3, 0, 1]]] == [1, 0, 2]
    assert ragged[[3, 0, 1]].values[0].tolist() == [4, 5]
    assert [len(part) for part in ragged[1:4]] == [2, 0, 1]
    assert ragged[2].shape == (0, 2)


def test_scikit_learn_splits_and_indexes():
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import cross_val_score, train_test_split
    from sklearn.pipeline import make_pipeline

    class MeanOf(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            return self

        def transform(self, X):
            assert isinstance(X, Ragged)
            return np.stack([part.mean(0).numpy() for part in X])

        def __sklearn_is_fitted__(self):
            return True

    labels = np.arange(12) % 2
    tokens = [np.full((n + 1, 2), label, np.float32) for n, label in enumerate(labels)]
    ragged = Ragged.from_list(tokens)
    train, test, y_train, y_test = train_test_split(ragged, labels, random_state=0)
    assert isinstance(train, Ragged)
    assert [int(part[0, 0]) for part in train] == y_train.tolist()
    assert [int(part[0, 0]) for part in test] == y_test.tolist()
    scores = cross_val_score(make_pipeline(MeanOf(), RidgeClassifier()), ragged, labels, cv=3)
    np.testing.assert_array_equal(scores, 1.0)


def test_from_list_promotes_and_takes_integers_and_tensors():
    half, single = torch.ones(2, 3).half(), np.ones((1, 3), np.float32)
    assert Ragged.from_list([half, single]).values.dtype == torch.float32
    assert Ragged.from_list([half]).values.dtype == torch.float16
    assert Ragged.from_list([half.to(torch.float8_e4m3fn)]).values.dtype == torch.float32
    assert Ragged.from_list([[[1, 2], [3, 4]]]).values.dtype == torch.float32
    assert Ragged.from_list([np.ones((2, 3))[:, ::-1]]).values.dtype == torch.float64


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "an empty list"),
        ([np.ones((2, 3)), np.ones((2, 4))], "sequence 1 has 4 dimensions, sequence 0 has 3"),
        ([np.ones((2, 3)), np.ones((0, 3))], "sequence 1 is empty"),
        ([np.ones(3)], "looks like labels"),
        ([np.ones((1, 2, 3))], r"sequence 0 has shape \(1, 2, 3\)"),
        (["ACGU", "AC"], "sequence 0 holds text"),
        ([np.array([["a"]])], "sequence 0 holds text"),
        ([np.array([[None]])], "dtype object"),
        ([np.ones((2, 2)), np.array([[1, np.nan]])], "sequence 1 holds NaN or infinity"),
        ([np.array([[np.inf]])], "sequence 0 holds NaN or infinity"),
        ([np.ma.array(np.ones((2, 1)), mask=[[0], [1]])], "sequence 0 is a masked array"),
    ],
)
def test_bad_lists_are_named_in_one_sentence(entries, sentence):
    with pytest.raises(InputError, match=sentence):
        Ragged.from_list(entries)


def test_bad_parts_are_refused():
    with pytest.raises(InputError, match=r"pass values \(tokens, dim\)"):
        Ragged(torch.ones(3), torch.tensor([3]))
    with pytest.raises(InputError, match="lengths that sum to 4"):
        Ragged(torch.ones(3, 2), torch.tensor([4]))
    with pytest.raises(InputError, match="lengths must be >= 0"):
        Ragged(torch.ones(3, 2), torch.tensor([4, -1]))
    with pytest.raises(InputError, match="field 'ids' has 2 rows for 3 tokens"):
        Ragged(torch.ones(3, 2), torch.tensor([3]), {"ids": torch.ones(2)})


def test_check_refuses_what_from_list_refuses():
    with pytest.raises(InputError, match="no sequences"):
        Ragged(torch.ones(0, 2), torch.tensor([], dtype=torch.int64)).check()
    with pytest.raises(InputError, match=r"sequence 1 is empty \(2 of 3 are\)"):
        Ragged(torch.ones(1, 2), torch.tensor([1, 0, 0])).check()
    with pytest.raises(InputError, match="must be floating point"):
        Ragged(torch.ones(1, 2).long(), torch.tensor([1])).check()
    big = Ragged(torch.full((3, 2), 60_000.0).half(), torch.tensor([3]))
    assert big.check() is big  # finite, though its fp16 sum is not


def test_concat_to_and_with_values():
    ragged = with_ids()
    both = Ragged.concat([ragged[:2], ragged[2:]])
    same(both, arrays())
    assert both.fields["ids"].tolist() == list(range(14))
    bare = Ragged(ragged.values, ragged.lengths)
    assert not Ragged.concat([ragged, bare]).fields
    half = ragged.to(torch.float16)
    assert half.values.dtype == torch.float16
    assert half.fields["ids"].dtype == torch.int64
    other = ragged.with_values(torch.zeros(14, 7))
    assert (other.dim, len(other)) == (7, 5)
    assert other.fields["ids"].tolist() == list(range(14))
