"""The benchmark end to end on shipped data, small: run, resume, check, tables."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import quality
from onevec import Ragged, encode
from onevec.recipe import BLOCKS, candidates
from onevec.reduction import EVENED_MEAN, MEAN_PCA
from protocol import baselines, encoders, methods, producer, report, runner, sweep, tasks


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A quick run of one row, and where its results are."""
    room = tmp_path_factory.mktemp("quality")
    patch = pytest.MonkeyPatch()
    patch.setattr(runner, "RESULTS", room / "kept")
    patch.setattr(tasks, "QUICK_SIZES", (300, 200))
    patch.setattr(quality, "QUICK_ROWS", ("gesture",))
    run(patch, room, "--methods", "plain,trivial,onevec_quick,candidates")
    yield room
    patch.undo()


def run(patch, room, *more):
    words = ["quality.py", "--quick", "--tasks", "gesture", "--jobs", "1"]
    patch.setattr(sys, "argv", [*words, "--out", str(room / "q.json"), *more])
    quality.main()


def test_writes_cells_goals_tables_and_figures(room):
    result = json.loads((room / "q.json").read_text())
    (task,) = result["tasks"]
    assert (task["unit"], task["encoder"], task["group"]) == ("gesture", "frames", "raw frames")
    ours, mean = task["methods"]["onevec_quick"], task["methods"]["mean"]
    assert set(ours["probes"]) == {"shot10", "knn", "full", "retrieval"}
    assert ours["score"] == pytest.approx(np.mean(list(ours["probes"].values())), abs=0.02)
    assert ours["gain"] == pytest.approx(ours["score"] - mean["score"], abs=0.02)
    assert ours["interval"][0] <= ours["gain"] <= ours["interval"][1]
    assert ours["dim"] == 64
    assert mean["dim"] == 16
    assert result["goals"]["Q1"]["value"][0] is None  # no raw encoder ran
    assert result["goals"]["Q1"]["value"][1] == pytest.approx(ours["gain"], abs=0.02)
    assert not result["errors"]
    page = (room / "q.md").read_text()
    assert "| Q1 |" in page
    assert "gesture, frames, gesture" in page
    assert (room / "q-gain.svg").read_text().count("gesture") >= 1
    assert "Q6  regret in points" in (room / "q-goals.svg").read_text()


def test_what_was_computed_is_kept(room, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in (room / "kept").iterdir()}
    run(monkeypatch, room, "--methods", "plain,onevec_quick")
    assert "2 fits, 2 of them kept" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (room / "kept").iterdir()} == before
    methods_kept = json.loads((room / "q.json").read_text())["tasks"][0]["methods"]
    assert "mean_whitened" in methods_kept  # parts merge


def test_check_recomputes_and_refuses_another_state(room, monkeypatch, capsys):
    run(monkeypatch, room, "--check")
    assert capsys.readouterr().out.count("same: ") == 3
    path = room / "q.json"
    text = path.read_text()
    result = json.loads(text)
    for cell in result["tasks"][0]["methods"].values():
        cell["score"] += 5
    path.write_text(json.dumps(result))
    with pytest.raises(SystemExit, match="3 of 3 cells differ"):
        run(monkeypatch, room, "--check")
    result["state"]["src_sha256"] = "0"
    path.write_text(json.dumps(result))
    with pytest.raises(SystemExit, match="another state of src"):
        run(monkeypatch, room, "--check")
    path.write_text(text)


def test_a_method_that_cannot_run_is_reported(room, monkeypatch, capsys):
    def broken(context, seed):
        raise RuntimeError("no such thing")
        yield

    made = methods.producers()
    made["borep"] = producer.Producer("borep", "trivial", broken, ("benchmarks/quality.py",))
    monkeypatch.setattr(methods, "producers", lambda: made)
    monkeypatch.setattr(runner, "RESULTS", room / "broken")
    monkeypatch.setattr(report, "figures", lambda *_: None)
    run(monkeypatch, room, "--methods", "borep", "--out", str(room / "b.json"))
    assert json.loads((room / "b.json").read_text())["errors"] == [
        {"where": "gesture frames", "method": "borep", "error": "RuntimeError: no such thing"}
    ]
    assert "borep on gesture frames: RuntimeError" in (room / "b.md").read_text()


def test_only_a_peers_own_refusal_is_final(room, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    job = runner.Job("gesture", "gesture", "frames", "no-such-producer", 0, "key")
    for error, settled in (
        (None, True),
        ("PeerError: it overflows", True),
        ("OSError: full", False),
    ):
        meta = {"error": error, "rows": []}
        np.savez(job.path, meta=np.array(json.dumps(meta)))
        assert runner.settled(job) is settled


def test_the_shelf_gives_back_what_another_machine_kept(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setattr(runner, "SHELF", tmp_path / "shelf")
    monkeypatch.setattr(runner, "RESULTS", here)
    monkeypatch.setattr(encoders, "SHIPPED", tmp_path / "encoders")
    folder = tmp_path / "encoders/chess"
    folder.mkdir(parents=True)
    (folder / "pretrain.json").write_text('{"masked_accuracy": 1, "unigram_accuracy": 0}')
    (folder / "weights").write_bytes(b"1")
    unit = tasks.Unit("chess", "chess", ["a"], ["b"], (), ["a"], ["b"])
    monkeypatch.setattr(runner, "units", lambda row, settings: [unit])
    monkeypatch.setattr(encoders, "content", lambda *words: "vectors of this machine")
    runner.shelf.cache_clear()
    settings = runner.Settings(tmp_path)

    def planned():
        encoders.hash_folder.cache_clear()
        jobs, left_out = runner.plan(["chess"], ["plain"], settings)
        assert not left_out
        return jobs

    (job,) = planned()
    here.mkdir()
    meta = {"error": None, "rows": [{"target": "x"}], "state": {}, "seconds": 1.5}
    np.savez(job.path, meta=np.array(json.dumps(meta)), r0=np.array([71.234, -3.5]))
    runner.shelve([job], settings)
    monkeypatch.setattr(runner, "RESULTS", there)
    monkeypatch.setattr(encoders, "content", lambda *words: "the same, rounded otherwise")
    runner.shelf.cache_clear()
    for gone in (False, True):
        if gone:  # the encoder is not here: what was found with it still counts
            (folder / "pretrain.json").unlink()
        assert planned() == [job]
        found, drawn = runner.load(job)
        assert found == meta and runner.settled(job)
        np.testing.assert_allclose(drawn["r0"], [71.23, -3.5], atol=1e-5)
    (folder / "pretrain.json").write_text('{"masked_accuracy": 1, "unigram_accuracy": 0}')
    (folder / "weights").write_bytes(b"2")  # another encoder: everything is to do again
    assert planned() != [job]
    runner.shelf.cache_clear()


def test_the_judge_gets_the_mean_first_and_the_recipes_order():
    listed = sweep.candidate_list()
    assert listed[0] == MEAN_PCA and EVENED_MEAN in listed
    recipe = [option.name for option in candidates()]
    assert [option.name for option in listed[: len(recipe)]] == recipe
    assert {option.name for option in sweep.FIXED} <= {option.name for option in listed}
    assert len({option.name for option in listed}) == len(listed)


def test_a_block_of_one_name_is_one_block():
    both = sweep.SPECS.keys() & BLOCKS.keys()
    assert {name: sweep.SPECS[name] for name in both} == {name: BLOCKS[name] for name in both}


def test_minilm_columns_are_its_third_and_its_last_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "CACHE", tmp_path)
    rows = [
        ("how do I get my card", "a", True),
        ("my card is lost", "b", True),
        ("where", "a", False),
    ]
    unit = tasks.text_unit("banking77", rows)
    third, last = (encoders.tokens(unit, name, Path())[0] for name in encoders.MINILM_LAYERS)
    whole = encode(unit.train, encoders.minilm(), progress=False)
    assert third.fingerprint.endswith("@layer3")
    assert last.fingerprint.endswith("@layer6")
    np.testing.assert_allclose(last[0].numpy(), whole[0].numpy(), atol=1e-2)
    assert len(list((tmp_path / "tokens").iterdir())) == 2  # train and test, both layers in each


def test_recorded_dimensions_are_the_true_ones():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(5, 3)) @ rng.normal(size=(3, 8)) for _ in range(40)]
    basis = rng.normal(size=(3, 8))
    tokens = Ragged.from_list([rng.normal(size=(5, 3)) @ basis for _ in tokens])
    context = producer.Context(None, "frames", tokens, tokens)
    dims = {result.name: result.dim for result in baselines.trivial(context, 0)}
    assert dims["mean_pca"] == dims["mean_whitened"] == 3


def test_wrong_names_are_refused(monkeypatch):
    monkeypatch.delenv("ONEVEC_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["quality.py"])
    with pytest.raises(SystemExit, match="no data: pass --data DIR"):
        quality.main()
    monkeypatch.setattr(sys, "argv", ["quality.py", "--quick", "--tasks", "no-such"])
    with pytest.raises(SystemExit, match="no task 'no-such': choose from"):
        quality.main()


def test_the_chemical_language_model_is_loaded_rightly():
    import os

    data = Path(os.environ.get("ONEVEC_DATA", "")) / "encoders/lstm_chem"
    if not data.is_dir():
        pytest.skip("encoders/lstm_chem is not here: set ONEVEC_DATA")
    model = encoders.LSTMChem(data)
    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"]
    assert model.next_symbol_accuracy(smiles) > 0.5
    assert model.symbols("ClC[se]1") == [model.table[s] for s in ("Cl", "C", "[", "se", "]", "1")]
    alone, together = model(smiles[:1])[0], model(smiles)[0]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert len(alone) == len(model.symbols(smiles[0]))
