"""Selection curves: only the choice differs, labels needed are read off the curve."""

import json

import numpy as np
import pytest

import use_select
from onevec.use.select import SELECTORS
from protocol.made_by import made_by


def test_labels_needed_lie_between_budgets():
    scores = np.array([[10.0, 50, 10], [20, 50, 10], [40, 60, 10]])
    found = use_select.labels_needed(scores, [10, 20, 40], np.array([30.0, 45, 50]))
    np.testing.assert_allclose(found, [20 * 2**0.5, 10, np.inf])


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(0)
    y = np.r_[np.repeat(np.arange(4), [150, 20, 15, 15]), np.repeat(np.arange(4), 15)]
    X = 3 * rng.normal(size=(4, 8))[y] + rng.normal(size=(260, 8))
    spaces = {"onevec": X[:200], "mean": rng.normal(size=(200, 5))}
    methods = ("facility_location", "random")
    hits = use_select.measure(spaces, y, X[200:], [8, 16, 32], seeds=2, methods=methods)
    return hits, y[200:]


def test_curves(measured):
    hits, truth = measured
    assert list(hits) == ["facility_location, onevec", "random", "facility_location, mean"]
    assert all(each.shape == (3, 2, 60) for each in hits.values())
    entry = use_select.summarise(hits, truth, [8, 16, 32])
    ours = entry["facility_location, onevec"]
    assert ours["scores"][1] > entry["random"]["scores"][1]
    value, low, high = ours["gain over random"]
    assert low <= value <= high
    assert value == pytest.approx(ours["scores"][1] - entry["random"]["scores"][1], abs=0.02)
    assert ours["labels over random"][0] < 1
    assert ours["gain over the mean's choice"][0] > 0
    assert "labels over random" not in entry["random"]


def test_the_section_joins_the_others(tmp_path, measured):
    hits, truth = measured
    out = tmp_path / "use.json"
    out.write_text('{"search": {"kept": 1}}')
    entry = {
        "encoder": "none", "classes": 4, "budgets": [8, 16, 32],
        "curves": use_select.summarise(hits, truth, [8, 16, 32]),
    }  # fmt: skip
    section = {"made_by": made_by(seeds=[0]), "tasks": {"made-up": entry}}
    use_select.write_section("selection", section, out)
    whole = json.loads(out.read_text())
    assert whole["search"] == {"kept": 1}
    assert whole["selection"] == section
    page = use_select.markdown(section)
    assert "| facility_location, onevec |" in page
    assert page.count("\n|") == 5


def test_every_selector_is_measured_and_nested_ones_are():
    assert set(use_select.NESTED) < set(SELECTORS)
    X = np.random.default_rng(0).normal(size=(120, 6))
    for method in use_select.NESTED:
        first = use_select._chosen(X, [10, 30], method, 0)[0]
        np.testing.assert_array_equal(first, use_select.select(X, 10, method).rows)
