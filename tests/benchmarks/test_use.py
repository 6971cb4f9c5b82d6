"""The benchmark of search, small, on shipped data."""

import json

import numpy as np
import pytest

import use
from protocol import encoders, tasks


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(tasks, "QUICK_SIZES", (300, 200))
    whole = use.corpus
    monkeypatch.setattr(use, "corpus", lambda *given: (whole(*given)[0][:1_400], "chess"))
    return tmp_path / "u.json"


def test_a_quick_run_fills_its_section_alone(small, capsys):
    small.write_text(json.dumps({"other": 1, "search": {"kept": 2}}))
    use.main(["--quick", "--out", str(small)])
    result = json.loads(small.read_text())
    assert result["other"] == 1
    found = result["search"]
    assert found["kept"] == 2
    assert found["indexes"]["indexed"] == 1_300
    rows = {(row["vectors"], row["index"]): row for row in found["indexes"]["rows"]}
    assert {name for vectors, name in rows if vectors == "onevec"} == set(use.INDEXES)
    exact = rows["onevec", "exact"]
    assert exact["recall@10"] == 1
    assert all(row["recall@10"] > 0.5 for row in rows.values())
    assert rows["onevec", "exact, float16"]["MB"] < exact["MB"]
    table = found["retrieval"]["rows"]
    assert {(row["method"], row["precision"]) for row in table} == {
        (method, precision)
        for method in ("mean", "onevec", "onevec_64")
        for precision in use.PRECISIONS
    }
    ours = {row["precision"]: row for row in table if row["method"] == "onevec_64"}
    assert [ours[name]["bytes"] for name in ("fp32", "int8", "binary")] == [256, 64, 8]
    assert ours["int8"]["R-precision"] == pytest.approx(ours["fp32"]["R-precision"], abs=1)
    assert "gain" in ours["fp32"]["gain over the mean in fp32"]
    assert found["retrieval"]["left out"] == []


def test_only_positives_are_sought():
    target = tasks.Target("t", "binary", *[np.empty(0)] * 2, np.arange(4), np.array([0, 1, 0, 1]))
    codes = use.sought(target)
    assert codes[1] == codes[3]
    assert len(set(codes)) == 3


def test_wrong_calls(monkeypatch, tmp_path):
    monkeypatch.delenv("ONEVEC_DATA", raising=False)
    with pytest.raises(SystemExit, match="no data: pass --data DIR"):
        use.main([])
    with pytest.raises(SystemExit, match="no part 'x'"):
        use.main(["--quick", "--parts", "x"])
    with pytest.raises(SystemExit, match="is missing"):
        use.main(["--data", str(tmp_path), "--parts", "indexes"])
