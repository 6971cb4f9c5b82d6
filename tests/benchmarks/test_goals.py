"""Macro averages and goals, on cells whose figures are known."""

import numpy as np
import pytest

from protocol.goals import Table, Task, goals


def task(row, unit="u", encoder="ncrna13", target="t", counted=True):
    return Task(row, f"{row}/{unit}", encoder, target, "classes", counted)


def fill(table, where, method, score, family="plain", width=1.0, note=None, full=None):
    """A cell of this score, with resamples spread evenly over score ± width."""
    probes = {"knn": score} if full is None else {"knn": 2 * score - full, "full": full}
    fit = {"probes": probes, "dim": 64, "seconds": 1.0, "note": note or {}}
    drawn = score + width * np.linspace(-1, 1, 201)
    table.add(where, method, family, fit, drawn)


def test_macro_averages_inside_rows_first():
    table = Table()
    for name, gain in (("a", 0), ("b", 2), ("c", 4)):
        fill(table, task("one", name), "mean", 50)
        fill(table, task("one", name), "onevec_quick", 50 + gain, "onevec")
    fill(table, task("two"), "mean", 20)
    fill(table, task("two"), "onevec_quick", 30, "onevec", width=3.0)
    fill(table, task("two", "x", counted=False), "mean", 0)
    fill(table, task("two", "x", counted=False), "onevec_quick", 100, "onevec")
    fill(table, task("two", encoder="frames"), "mean", 0)
    fill(table, task("two", encoder="frames"), "onevec_quick", 36, "onevec")
    found = table.macro("onevec_quick", "mean", "raw encoders")
    assert found["value"] == 6.0  # (2 + 10) / 2, not the mean of 0, 2, 4 and 10
    assert found["interval"] == pytest.approx([6 - 0.95, 6 + 0.95], abs=0.02)  # (0 + 2) / 2 wide
    assert (found["rows"], found["tasks"]) == (2, 4)
    q1 = goals(table)["Q1"]
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
        ("hiv", "lstm_chem", "hiv"): 10,
    }
    for (unit, encoder, target), gain in gains.items():
        row = "deeploc" if unit == "deeploc" else "molecules"
        fill(table, task(row, unit, encoder, target), "mean", 50)
        fill(table, task(row, unit, encoder, target), "onevec_quick", 50 + gain, "onevec")
    found = table.macro("onevec_quick", "mean", "raw encoders")
    assert found["value"] == ((3 + 9) / 2 + ((2 + 6) / 2 + 10) / 2) / 2


def test_fits_are_averaged():
    table = Table()
    for score in (40, 50, 60):
        fill(table, task("one"), "onevec_quick", score, "onevec", width=0.0)
    fill(table, task("one"), "mean", 45, width=0.0)
    assert table.gain(task("one"), "onevec_quick", "mean") == (5.0, 5.0, 5.0)


def test_harm_needs_half_a_point_and_a_sure_interval():
    table = Table()
    for name, gain, width in (("sure", -1, 0.3), ("unsure", -2, 9), ("small", -0.4, 0.0)):
        fill(table, task("one", name), "mean", 50, width=0.0)
        fill(table, task("one", name), "onevec_quick", 50 + gain, "onevec", width)
    q3 = goals(table)["Q3"]
    assert q3["value"] == [1, -2.0]
    assert q3["detail"]["harmed"][0][0] == -1
    assert q3["met"] is False


def test_trivial_baselines():
    table = Table()
    fill(table, task("one"), "onevec_quick", 60, "onevec")
    fill(table, task("one"), "mean_pca", 50, "trivial")
    fill(table, task("one"), "mean_whitened", 65, "trivial")
    q2 = goals(table)["Q2"]
    assert q2["detail"]["strongest"] == "mean_whitened"
    assert q2["value"] == [-5.0, 50.0]


def test_share_of_the_supervised_gain_is_clipped_and_skips_small_gaps():
    table = Table()
    for name, ours, best in (("a", 60, 70), ("b", 99, 60), ("c", 30, 51)):
        fill(table, task("one", name), "mean", 50, full=50)
        fill(table, task("one", name), "onevec_quick", ours, "onevec", full=ours)
        fill(table, task("one", name), "attention_probe", best, "bound", full=best)
    q4 = goals(table)["Q4"]
    assert q4["value"] == [pytest.approx(100 * (0.5 * 20 + 1 * 10) / 30, abs=0.1)]
    assert len(q4["detail"]["tasks"]) == 2


def test_peers_count_wins_on_unsaturated_tasks_only():
    table = Table()
    for name, ours, theirs in (("a", 60, 50), ("b", 98, 90), ("c", 40, 40)):
        fill(table, task("one", name), "onevec_quick", ours, "onevec")
        fill(table, task("one", name), "coles", theirs, "peer")
    q5 = goals(table)["Q5"]
    assert q5["value"] == [6.0, 0.0, 50.0]
    assert q5["met"] is False


@pytest.mark.parametrize("probability, claims", [(0.95, 1), (0.8, 0)])
def test_verdict_over_the_candidates(probability, claims):
    table = Table()
    where = task("one")
    said = (("candidate: mean, PCA", 50, 0.0), ("candidate: b", 60, 3.0), ("candidate: c", 64, 2.0))
    for name, score, _ in said:
        fill(table, where, name, score, "candidate")
    says = {name: {"expected_gain": gain, "probability": probability} for name, _, gain in said}
    table.judged[where.column] = {"says": says, "choice": "candidate: b", "beats_mean": True}
    q6 = goals(table)["Q6"]
    assert q6["value"] == [0.33, 4.0, 0.0]
    assert q6["detail"]["claims"] == claims  # "probably beats" is no claim, but is counted
    assert q6["detail"]["taken over the mean"] == 1


def test_nothing_measured_is_neither_met_nor_missed():
    assert {goal["met"] for goal in goals(Table()).values()} == {None}
    table = Table()
    fill(table, task("one"), "mean", 50)
    fill(table, task("one"), "onevec_quick", 60, "onevec")
    assert goals(table)["Q3"]["met"] is True
    assert goals(table, whole=False)["Q3"]["met"] is None
