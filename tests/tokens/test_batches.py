"""Every accepted form of token vectors, and batches that cover each row once."""

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onevec.errors import InputError, StoreError
from onevec.ragged import Ragged
from onevec.tokens.batches import as_tokens, iter_batches, sample_sequences
from onevec.tokens.store import TokenStore, TokenStoreWriter


def ragged(lengths, dim=2):
    """Token vectors that say which row they belong to, and a field that counts them."""
    rows = torch.repeat_interleave(torch.tensor(lengths))
    values = rows[:, None].expand(-1, dim).float().clone()
    return Ragged(values, torch.tensor(lengths), {"step": torch.arange(len(rows))})


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    budget=st.integers(1, 40),
    bucket=st.booleans(),
)
def test_batches_cover_every_row_once(lengths, budget, bucket):
    tokens = ragged(lengths)
    seen = []
    for rows, batch in iter_batches(tokens, budget, bucket):
        assert batch.lengths.tolist() == [lengths[row] for row in rows]
        assert batch.values[:, 0].tolist() == [r for r in rows for _ in range(lengths[r])]
        assert len(batch.values) <= budget or len(rows) == 1
        seen.extend(rows.tolist())
    assert sorted(seen) == list(range(len(lengths)))
    if not bucket:
        assert seen == sorted(seen)


def test_buckets_group_like_lengths():
    tokens = ragged([1, 20] * 50)
    spread = [len(set(b.lengths.tolist())) for _, b in iter_batches(tokens, 100, bucket=True)]
    assert sum(kinds > 1 for kinds in spread) <= 1
    with pytest.raises(InputError, match="token_budget=0"):
        next(iter_batches(tokens, 0))


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), max_tokens=st.integers(1, 500)
)
def test_sample(lengths, max_tokens):
    tokens = ragged(lengths)
    rows, sample = sample_sequences(tokens, max_tokens, random_state=1)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(sample.values) <= max_tokens or len(rows) == 1
    assert sample.values[:, 0].unique().tolist() == rows.tolist()
    if sum(lengths) <= max_tokens:
        assert len(rows) == len(lengths)
    again, _ = sample_sequences(tokens, max_tokens, random_state=1)
    assert np.array_equal(rows, again)


def test_sample_is_even():
    tokens = ragged([3] * 20)
    counts = np.zeros(20)
    for seed in range(200):
        counts[sample_sequences(tokens, 15, seed)[0]] += 1
    assert counts.sum() == 200 * 5
    assert abs(counts / 200 - 0.25).max() < 0.13  # four standard errors


def test_a_few_long_sequences_do_not_speak_for_all():
    tokens = ragged([5_000] * 40)
    rows, sample = sample_sequences(tokens, 6_400)
    assert len(rows) == len(sample) == 32 and sample.lengths.tolist() == [200] * 32
    places = sample.fields["step"].reshape(32, 200)
    assert (places.diff(dim=1) == 1).all() and len(set(places[:, 0].tolist())) > 20
    assert sample.values[::200, 0].tolist() == rows.tolist()


def test_batches_and_samples_of_a_store(tmp_path):
    tokens = ragged([4, 1, 3, 2, 5])
    with TokenStoreWriter(tmp_path / "s", shard_bytes=20) as writer:
        writer.append(tokens)
    store = TokenStore(tmp_path / "s")
    for bucket in (False, True):
        batches = list(iter_batches(store, 6, bucket))
        assert sorted(np.concatenate([rows for rows, _ in batches]).tolist()) == [0, 1, 2, 3, 4]
    rows, sample = sample_sequences(store, 6)
    assert sample.lengths.tolist() == store.lengths[rows].tolist()


def test_accepted_forms(tmp_path):
    rng = np.random.default_rng(0)
    cube = rng.standard_normal((3, 4, 2)).astype(np.float32)
    expected = Ragged.from_list(list(cube))
    objects = np.empty(3, dtype=object)
    objects[:] = list(cube)
    with TokenStoreWriter(tmp_path / "s", dtype="float32") as writer:
        writer.append(expected)
    forms = [
        cube,
        torch.from_numpy(cube),
        list(cube),
        tuple(torch.from_numpy(cube)),
        [sequence.tolist() for sequence in cube],
        objects,
        expected,
        tmp_path / "s",
        str(tmp_path / "s"),
        TokenStore(tmp_path / "s"),
    ]
    for form in forms:
        tokens = as_tokens(form)
        assert tokens.lengths.tolist() == [4, 4, 4]
        torch.testing.assert_close(tokens[1].float(), expected[1])
    assert as_tokens(np.ones((2, 3, 4), dtype=np.int64)).values.is_floating_point()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "empty list of sequences"),
        ([0, 1, 1], "looks like labels"),
        (["ACD", "MK"], "or encode them first"),
        ("nothing/here", "there is no token store"),
        (np.zeros(5), "looks like labels"),
        (np.zeros((5, 3)), "looks like ready vectors"),
        (np.zeros((0, 3, 4)), "got no sequences"),
        (np.zeros((2, 0, 4)), "sequence 0 is empty"),
        (np.full((2, 3, 4), np.nan), "sequence 0 holds NaN"),
        (np.array(["a", "b"]), "of dtype <U1"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], "sequence 1 has 4 dimensions"),
        ([np.zeros((2, 3)), np.zeros((0, 3))], "sequence 1 is empty"),
        ([np.zeros((2, 3)), np.full((1, 3), np.inf)], "sequence 1 holds NaN or infinity"),
        ([np.zeros(3)], "must be \\(n, dim\\)"),
        (pandas.DataFrame({"a": [1]}), "got a DataFrame"),
        (pandas.Series([1, 2]), "got a Series"),
        ({"a": 1}, "got a dict"),
        (None, "got a NoneType"),
        (3, "got a int"),
    ],
)
def test_refused_forms(X, message):
    with pytest.raises((InputError, StoreError), match=message):
        as_tokens(X)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(InputError, match="is a file, not the folder of a token store"):
        as_tokens(tmp_path / "a.npy")
