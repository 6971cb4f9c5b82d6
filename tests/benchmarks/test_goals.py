"""Macro averages and goals, on cells whose figures are known."""

import numpy as np
import pytest

from protocol.goals import difference, goals
from protocol.report import _macro, _task, at_a_glance, with_baselines
from protocol.table import Table, Task

SMALL, FRAMES = "small encoders", "raw frames"


def task(row, unit="u", encoder="ncrna13", target="t", counted=True):
    return Task(row, f"{row}/{unit}", encoder, target, "classes", counted)


def fill(table, where, method, score, family="plain", width=1.0):
    """A cell of this score, with resamples spread evenly over score ± width."""
    fit = {"probes": {"knn": score}, "dim": 64, "seconds": 1.0}
    table.add(where, method, family, fit, score + width * np.linspace(-1, 1, 201))


def result_of(table):
    return {
        "tasks": [_task(table, where) for where in table.cells],
        "macro": _macro(table),
        "settings": {"quick": False},
        "fits": {"waiting": 0},
        "left_out": [],
    }


def test_macro_averages_inside_rows_first():
    table = Table()
    for name, gain in (("a", 0), ("b", 2), ("c", 4)):
        fill(table, task("one", name), "mean", 50)
        fill(table, task("one", name), "onevec", 50 + gain, "onevec")
    fill(table, task("two"), "mean", 20)
    fill(table, task("two"), "onevec", 30, "onevec", width=3.0)
    fill(table, task("two", "x", counted=False), "mean", 0)
    fill(table, task("two", "x", counted=False), "onevec", 100, "onevec")
    fill(table, task("two", encoder="frames"), "mean", 0)
    fill(table, task("two", encoder="frames"), "onevec", 36, "onevec")
    found = table.macro("onevec", SMALL)
    assert found["gain"] == 6.0  # (2 + 10) / 2, not the mean of 0, 2, 4 and 10
    assert found["interval"] == pytest.approx([6 - 0.95, 6 + 0.95], abs=0.02)  # (0 + 2) / 2 wide
    assert (found["score"], found["rows"], found["tasks"]) == (41.0, 2, 4)
    q1 = goals(result_of(table))["Q1"]
    assert q1["value"] == [6.0, 36.0]
    assert q1["met"] is False


def test_macro_averages_parts_labels_sets_and_encoders_in_turn():
    table = Table()
    gains = {
        ("deeploc", "proteins", "location test"): 2,
        ("deeploc", "proteins", "location hard"): 4,
        ("deeploc", "proteins", "membrane test"): 9,
        ("tox21", "smiles", "one"): 1,
        ("tox21", "smiles", "two"): 3,
        ("hiv", "smiles", "hiv"): 6,
        ("hiv", "omniglot", "hiv"): 10,
    }
    for (unit, encoder, target), gain in gains.items():
        row = "deeploc" if unit == "deeploc" else "molecules"
        fill(table, task(row, unit, encoder, target), "mean", 50)
        fill(table, task(row, unit, encoder, target), "onevec", 50 + gain, "onevec")
    expected = ((3 + 9) / 2 + ((2 + 6) / 2 + 10) / 2) / 2
    assert table.macro("onevec", SMALL)["gain"] == expected


def test_fits_are_averaged():
    table = Table()
    for score in (40, 50, 60):
        fill(table, task("one"), "onevec", score, "onevec", width=0.0)
    fill(table, task("one"), "mean", 45, width=0.0)
    assert table.gain(task("one"), "onevec") == (5.0, 5.0, 5.0)


def test_harm_needs_half_a_point_and_a_sure_interval():
    table = Table()
    for name, gain, width in (("sure", -1, 0.3), ("unsure", -2, 9), ("small", -0.4, 0.0)):
        fill(table, task("one", name), "mean", 50, width=0.0)
        fill(table, task("one", name), "onevec", 50 + gain, "onevec", width)
        fill(table, task("one", name), "onevec_64", 51, "onevec", 0.0)
    q3 = goals(result_of(table))["Q3"]
    assert q3["value"] == [1, -2.0, 0.0]
    assert q3["detail"]["onevec"] == ["one/sure, ncrna13, t"]
    assert q3["met"] is False


def with_others(others):
    """onevec at 64 dimensions beside methods of a baselines file."""
    table, baselines = Table(), Table()
    for name, (ours, family, theirs) in others.items():
        where = task("one", name)
        fill(table, where, "mean", 50)
        fill(table, where, "onevec_64", ours, "onevec")
        fill(baselines, where, "mean", 20)  # the reference is this run's own
        for method, score in theirs.items():
            fill(baselines, where, method, score, family)
    return with_baselines(result_of(table), result_of(baselines))


def test_trivial_baselines():
    result = with_others({"a": (60, "trivial", {"mean_pca": 50, "mean_whitened": 65})})
    found = goals(result)["Q2"]
    assert found["detail"]["strongest"] == "mean_whitened"
    assert found["value"] == [10.0, None, -5.0]
    assert result["tasks"][0]["methods"]["mean"]["score"] == 50


def test_peers_count_wins_on_unsaturated_tasks_only():
    result = with_others(
        {name: (ours, "peer", {"coles": theirs})
         for name, ours, theirs in (("a", 60, 50), ("b", 98, 90), ("c", 40, 40))}
    )  # fmt: skip
    q5 = goals(result)["Q5"]
    assert q5["value"] == [6.0, 0.0, 50.0]
    assert q5["met"] is False


def test_a_gain_over_a_baseline_is_sure_only_beyond_both_intervals():
    ours = {"score": 60.0, "gain": 10.0, "interval": [7.0, 14.0]}
    theirs = {"score": 54.0, "gain": 4.0, "interval": [-1.0, 8.0]}
    assert difference(ours, theirs) == pytest.approx((6.0, 1.0, 6 + 41**0.5))


def test_nothing_measured_is_neither_met_nor_missed():
    empty = result_of(Table())
    assert {goal["met"] for goal in goals(empty).values()} == {None}
    table = Table()
    for method in ("onevec", "onevec_64"):
        fill(table, task("one"), "mean", 50)
        fill(table, task("one"), method, 60, "onevec")
    result = result_of(table)
    assert goals(result)["Q3"]["met"] is True
    assert goals(result, whole=False)["Q3"]["met"] is None
    assert "| Q3 |" in at_a_glance(result)
