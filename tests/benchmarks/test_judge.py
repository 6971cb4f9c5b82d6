"""The judge's benchmark: groups stay apart, the table finds what was planted, columns are kept."""

import gzip
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

import judge
from onevec.judge.calibration import Calibration
from onevec.recipe import candidates
from protocol import encoders, judged, tasks
from protocol.judged import Column

NAMES = [option.name for option in judged.judged_candidates()]


def planted(row, seed, headroom):
    """Gains are 4 per unit of evenness, and 3 more for the first candidate."""
    rng = np.random.default_rng(seed)
    rows, gains = [], []
    for place, name in enumerate(NAMES):
        even = headroom * bool(place)
        rows.append(
            {
                "name": name,
                "blend": False,
                "uniformity_gain": even,
                "found_z": 99.0,
                "retrieval_z": 5.0 * bool(place),
                "z": 0.0,
                "spread_z": 9.0,
            }
            | {f"{score}_gain": 0.0 for score in ("predictability", "pseudo_labels")}
            | {f"{score}_error": 1.0 for score in ("predictability", "pseudo_labels")}
            | {"retrieval": 0.99, "retrieval_gain": 0.0, "pseudo_labels": 0.5}
            | {"rank": float(place), "clid": 0.5, "hubness": 0.0}
        )
        gains.append(50 + (4 * even + 3 * (place == 1) + 0.1 * rng.normal()) * bool(place))
    return Column(row, f"{row}/{seed}", "e", NAMES, rows, gains, 49.0)


@pytest.fixture
def columns():
    rows = ("a", "b", "c", "d", "e", "f")
    return [planted(row, i, h) for i, row in enumerate(rows) for h in (-0.2, 0.3, 1.5)]


def test_the_table_finds_what_was_planted(columns, monkeypatch):
    monkeypatch.setattr(judge, "RIDGE", 1e-6)
    monkeypatch.setattr(judge, "RIDGE_OF_NAMES", 1e-3)
    table = judge.fit(columns)
    assert table.weights["uniformity"] == pytest.approx(4, abs=0.1)
    others = len(candidates()) - 2  # beside the mean and the one with 3 more
    own = 3 * others / (others + 1)
    assert table.intercepts[NAMES[1]] - table.other == pytest.approx(own, abs=0.2)
    assert table.spread < 0.3


def test_what_a_plainer_one_outdoes_teaches_nothing(columns):
    before = judge.fit(columns)
    odd = columns[2]
    odd.rows[1] |= {"retrieval": 0.89, "retrieval_gain": -0.1}
    odd.labelled[1] = 20.0
    assert judge.fit(columns) != before  # it lies as evenly, and finds less
    assert judge.fit(columns).intercepts[NAMES[1]] == pytest.approx(
        before.intercepts[NAMES[1]], abs=0.5
    )


def test_a_table_without_a_row_has_not_seen_it(columns):
    odd = [*columns, planted("odd", 9, 1.0)]
    odd[-1].labelled[1] = 90.0
    assert judge.fit(odd, "odd") == judge.fit(columns)
    assert judge.fit(odd) != judge.fit(columns)


def test_the_verdict_on_planted_columns(columns):
    result = judge.collect(columns)
    said = result["verdict"]["default candidates"]
    assert said["gain"] == pytest.approx(said["oracle"], abs=0.3)
    assert said["false_claims"] == 0 and said["claims"] >= 10
    assert said["tau"] > 0.3
    assert result["criteria"]["uniformity"]["worst"] > -0.5
    text = judge.markdown(result)
    assert text.count("**the verdict**") == 3 and "18 columns of 6 rows" in text


def test_false_claims_are_counted(columns):
    columns[0].labelled[1] = columns[4].labelled[1] = 40.0
    sure = Calibration({}, 9.0, {}, 1.0)
    told = judge.verdict_table(columns, {each.row: sure for each in columns})["default candidates"]
    assert told["claims"] == len(columns)
    assert told["false_claims"] == 2


@pytest.fixture(scope="module")
def gesture():
    data = judge.encoders.ROOT / "benchmarks/data"
    return tasks.shrink(tasks.units("gesture", data)[0], 500, 100), data


def test_no_group_is_on_both_sides(gesture):
    unit, data = gesture
    known, scored, part = judged.set_aside(unit, data)
    groups = np.array(unit.train_groups)
    assert not set(groups[known]) & set(groups[scored])
    assert 0.2 < len(scored) / len(groups) < 0.5
    (target,) = part.targets
    np.testing.assert_array_equal(target.y_train, unit.targets[0].y_train[known[target.train]])
    np.testing.assert_array_equal(target.y_test, unit.targets[0].y_train[scored[target.test]])


def test_pairs_are_scored_whose_sentences_are_not_known(tmp_path):
    sentences = [f"s{i}" for i in range(40)]
    rows = [(a, b, i % 6, "train") for i, (a, b) in enumerate(itertools.pairwise(sentences))]
    rows += [("s0", "elsewhere", 1, "train"), ("s1", "s3", 1, "test")]
    table = "\n".join(
        ",".join(map(str, row)) for row in [("sentence1", "sentence2", "score", "split"), *rows]
    )
    (tmp_path / "stsb").mkdir()
    with gzip.open(tmp_path / "stsb/stsb.csv.gz", "wt") as handle:
        handle.write(table)
    none = np.empty(0, int)
    target = tasks.Target("stsb", "similarity", none, none, none, none)
    unit = tasks.Unit("stsb", "stsb", sentences, [], (target,), sentences, [])
    known, scored, part = judged.set_aside(unit, tmp_path)
    (found,) = part.targets
    pairs = [tuple(sentences[scored[row]] for row in pair) for pair in found.test]
    assert 3 < len(pairs) < 30 and not set(known) & set(scored)
    assert set(pairs) <= {row[:2] for row in rows[:39]}
    gold = {row[:2]: row[2] for row in rows}
    assert [gold[pair] for pair in pairs] == list(found.y_test)
    angles = np.pi * np.linspace(0, 1, 40)[scored] ** 2
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    far = [-abs(a - b) for a, b in angles.reshape(-1, 2)]
    part = replace(part, targets=(replace(found, y_test=np.array(far)),))
    assert judged.labelled(part, vectors, vectors) == pytest.approx(100)


def test_a_column_is_computed_once_and_the_file_is_written(gesture, tmp_path, monkeypatch, capsys):
    unit, data = gesture
    monkeypatch.setattr(encoders, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(judge, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(tasks, "units", lambda row, data: [unit])
    monkeypatch.setattr(judged.sweep, "candidate_list", candidates)
    judge.keep(("gesture", unit.id, "frames"), data)
    (path,) = (tmp_path / "kept").iterdir()
    before = path.stat().st_mtime_ns
    judge.keep(("gesture", unit.id, "frames"), data)
    assert path.stat().st_mtime_ns == before
    found = Column(**json.loads(path.read_text()))
    assert found.names == [option.name for option in judged.judged_candidates()]
    assert found.gains[1] > 10  # rich statistics tell gestures
    assert found.rows[1]["uniformity_gain"] > 0.1
    with pytest.raises(SystemExit, match="no data"):
        monkeypatch.delenv("ONEVEC_DATA", raising=False)
        judge.main([])
