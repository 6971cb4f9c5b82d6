"""Splits of the benchmark: what must stand on one side does, for every row."""

import collections
import functools
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from protocol import frames, tasks

SHIPPED = Path(__file__).parents[2] / "benchmarks/data"
DATA = Path(os.environ.get("ONEVEC_DATA", SHIPPED))


@functools.cache
def units(row):
    for data in (DATA, SHIPPED):
        if (data / tasks.ROWS[row].folder).is_dir():
            if row == "molecules":
                pytest.importorskip("rdkit")
            return tasks.units(row, data)
    pytest.skip(f"{tasks.ROWS[row].folder} is not here: set ONEVEC_DATA")


@pytest.mark.parametrize("row", tasks.ROWS)
def test_splits(row):
    for unit in units(row):
        keys = [[tasks.key_of(s) for s in side] for side in (unit.train, unit.test)]
        assert 0 < len(unit.train) <= tasks.CAP
        assert 0 < len(unit.test) <= tasks.CAP
        for side in keys:
            assert len(set(side)) == len(side), "duplicates"
        assert not set(keys[0]) & set(keys[1]), "a test item occurs in train"
        assert not set(unit.train_groups) & set(unit.test_groups), "a group on both sides"
        assert len(unit.train_groups) == len(unit.train)
        assert len(unit.test_groups) == len(unit.test)
        for target in unit.targets:
            check_target(unit, target)


def check_target(unit, target):
    if target.kind == "similarity":
        assert target.test.shape == (len(target.y_test), 2)
        assert target.test.max() < len(unit.test)
        return
    for rows, labels, side in (
        (target.train, target.y_train, unit.train),
        (target.test, target.y_test, unit.test),
    ):
        assert len(rows) == len(labels) > 0
        assert len(np.unique(rows)) == len(rows)
        assert rows.max() < len(side)
    if target.kind == "binary":
        assert set(target.y_train) == set(target.y_test) == {0, 1}
    if target.kind == "classes":
        assert set(target.y_test) <= set(target.y_train)


# What the protocol fixes beyond disjoint groups, read again from the raw files.


def test_adfa_leaves_four_sessions_of_each_attack_out():
    (unit,) = units("adfa")
    for side, count in ((unit.train_groups, 6), (unit.test_groups, 4)):
        sessions = collections.defaultdict(set)
        for name in set(side):
            if name[0].isalpha():
                kind, _, session = name.rpartition(" ")
                sessions[kind].add(session)
        assert len(sessions) == 6
        assert all(len(found) <= count for found in sessions.values())
        assert max(map(len, sessions.values())) == count


def test_hdfs_keeps_a_multiset_on_one_side():
    (unit,) = units("hdfs")
    sides = [{tuple(sorted(s.split())) for s in side} for side in (unit.train, unit.test)]
    assert not sides[0] & sides[1]


def test_omniglot_and_fsdd_leave_people_out():
    (unit,) = units("omniglot")
    assert set(unit.train_groups) == {str(i) for i in range(1, 16)}
    assert set(unit.test_groups) == {str(i) for i in range(16, 21)}
    digit, speaker = units("fsdd")
    assert set(digit.test_groups) == {"theo", "yweweler"}
    assert {int(name.split()[-1]) for name in speaker.test_groups} == set(range(5))


def test_scaffolds_and_canonical_molecules_stay_on_one_side():
    hiv, tox21, esol = units("molecules")
    for unit in (tox21, esol):
        sides = [{tasks.canonical(s) for s in side} for side in (unit.train, unit.test)]
        assert not sides[0] & sides[1]
        assert None not in sides[0] | sides[1]
    assert len(tox21.targets) == 12
    some = np.random.default_rng(0).permutation(len(hiv.train))[:200]
    assert all(tasks.scaffold(tasks.canonical(hiv.train[i])) == hiv.train_groups[i] for i in some)


def test_gesture_recordings_are_maximal_runs():
    track = np.cumsum(np.random.default_rng(0).normal(size=(40, 2)), 0)
    x = np.stack([track[i : i + 16] - track[i] for i in range(20)])
    y = np.array([0] * 8 + [1] * 12)
    x[15:] += np.random.default_rng(1).normal(size=(5, 16, 2))  # breaks between all of them
    assert tasks.recordings(x, y).tolist() == [0] * 8 + [1] * 7 + [2, 3, 4, 5, 6]


def test_corpora_hold_no_test_sequence():
    chess = tasks.corpus("chess", SHIPPED)
    (unit,) = units("chess")
    assert set(unit.train) <= set(chess)
    assert not set(unit.test) & set(chess)
    (unit,) = units("omniglot")
    seen = {tasks.key_of(s) for s in tasks.corpus("omniglot", SHIPPED)}
    assert not seen & {tasks.key_of(s) for s in unit.test}


@pytest.mark.parametrize("name", ["proteins", "adfa", "hdfs", "fsdd", "ncrna13"])
def test_corpora_of_sets_that_do_not_ship(name):
    rows = {"proteins": ("deeploc", "peptides")}.get(name, (name,))
    tests = {tasks.key_of(s) for row in rows for unit in units(row) for s in unit.test}
    corpus = tasks.corpus(name, DATA)
    assert len(corpus) > 700
    assert not tests & {tasks.key_of(s) for s in corpus}


def test_missing_data_name_their_source(tmp_path):
    with pytest.raises(tasks.MissingDataError, match="its source is IcarPA-TBlab/nrc"):
        tasks.units("ncrna13", tmp_path)


def test_clean_and_cap():
    def item(sequence, label, train):
        return tasks.Item(sequence, label, train, "")

    kept = tasks.clean(
        [item("a", 0, False), item("b", 0, True), item("b", 1, True), item("a", 0, True),
         item("c", 1, False), item("c", 1, False)]
    )  # fmt: skip
    assert [(i.sequence, i.train) for i in kept] == [("a", True), ("c", False)]
    rng = np.random.default_rng(0)
    many = [
        item(str(i), int(label), True)
        for i, label in enumerate(rng.choice(3, 1_000, p=[0.9, 0.09, 0.01]))
    ]
    some = tasks.cap(many, 100)
    assert len(some) == 100
    counts = collections.Counter(i.label for i in some)
    whole = collections.Counter(i.label for i in many)
    assert all(abs(counts[label] - whole[label] / 10) <= 1 for label in whole)
    assert [int(i.sequence) for i in some] == sorted(int(i.sequence) for i in some)


def test_shrink_keeps_labels_with_their_sequences():
    (unit,) = units("chess")
    small = tasks.shrink(unit, 50, 30)
    label = dict(zip(unit.train, unit.targets[0].y_train, strict=True))
    target = small.targets[0]
    assert len(small.train) == 50
    assert [label[small.train[i]] for i in target.train] == target.y_train.tolist()
    (unit,) = units("stsb")
    small = tasks.shrink(unit, 50, 1_000)
    score = {
        (unit.test[a], unit.test[b]): y
        for (a, b), y in zip(unit.targets[0].test, unit.targets[0].y_test, strict=True)
    }
    target = small.targets[0]
    assert len(target.y_test) > 100
    for (a, b), y in zip(target.test, target.y_test, strict=True):
        assert score[small.test[a], small.test[b]] == y


# Frames


def test_short_series_are_padded_by_their_last_value():
    made = frames.series([[1.0, 2.0, 4.0]], 4, 1)
    assert made.tolist() == [[1, 0, 2, 1, 4, 2, 4, 2]]
    assert frames.pen([[[3, 4, 0]]]).shape == (1, 40)
    assert frames.log_mel(np.zeros(10)).shape == (1, 80)


def test_patches_carry_their_place():
    image = np.arange(784).reshape(28, 28)
    made = frames.patches(image)
    assert made.shape == (49, 18)
    np.testing.assert_allclose(made[8, :16] * 255, image[4:8, 4:8].ravel(), rtol=1e-5)
    np.testing.assert_allclose(made[8, 16:], [1 / 6, 1 / 6], rtol=1e-6)


def test_log_mel_finds_a_tone():
    time = np.arange(8_000) / 8_000
    low, high = (frames.log_mel(np.sin(2 * np.pi * f * time))[5, :40] for f in (300, 3_000))
    assert low.argmax() < high.argmax()
    assert abs(frames.log_mel(np.sin(2 * np.pi * 300 * time))[10, 40:]).max() < 0.5


def test_shipped_omniglot_gives_the_frames_of_the_source():
    source = DATA / "omniglot_strokes/omniglot_strokes.jsonl.gz"
    if DATA == SHIPPED or not source.is_file():
        pytest.skip("the source is not here: set ONEVEC_DATA")
    with gzip.open(source, "rt") as handle:
        rows = [json.loads(next(handle)) for _ in range(20)]
    shipped = tasks.omniglot_items(SHIPPED)[:20]
    for row, item in zip(rows, shipped, strict=True):
        np.testing.assert_array_equal(frames.pen(row["strokes"]), item.sequence)
