"""Training poolers: every entry runs, killed runs go on exactly, and what goes wrong is told."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from onevec import OneVec, TokenStore, encode, load
from onevec.demo.walk import encoder_folder, load_proteins
from onevec.errors import InputError, StoreError
from onevec.objectives import OBJECTIVES, Context, make_objective
from onevec.poolers import POOLERS
from onevec.ragged import Ragged
from onevec.train import Training, train
from onevec.train.batch import draw_rows, marks_of
from onevec.train.head import TrainableHead, gradients
from onevec.train.optimizer import ScheduledAdamW, schedule
from onevec.train.score import HeldOutScore
from onevec.train.world import World
from onevec.vector.blocks import BlockSpec
from onevec.vector.held_out import prepare
from onevec.vector.reduction import Recipe

SMALL = {"steps": 3, "evaluations": 1, "batch": 24, "view_size": 8}
LEARNED = [name for name in POOLERS if POOLERS[name]().learned]
SIGNAL = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two layers of a real protein encoder on real sequences."""
    out = tmp_path_factory.mktemp("train") / "store"
    sequences = [sequence[:100] for sequence in load_proteins()["val"]["sequence"][:260]]
    with encoder_folder() as encoder:
        return encode(sequences, encoder, out=out, layers=[2, 4], progress=False)


def needles(count=300, seed=0):
    """Mostly noise; a few marked tokens of each sequence say which of four kinds it is."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(4, size=count)
    found = []
    for kind in kinds:
        tokens = rng.normal(size=(24, 12)).astype(np.float32)
        places = rng.permutation(24)[:SIGNAL]
        tokens[places, 0] += 4.0
        tokens[places, 4 + kind] += 3.0
        found.append(tokens)
    return found, kinds


def fit(tokens, pooler="attention", objective="info_nce", dim=8, **training):
    settings = {**SMALL, **training}
    return OneVec(dim, pooler=pooler, objective=objective, training=settings).fit(tokens)


@pytest.mark.parametrize("pooler", LEARNED)
def test_every_learned_pooler_trains_on_a_real_store(pooler, store):
    model = OneVec(16, pooler=pooler, training=SMALL).fit(store)
    assert model.training_.steps == 3
    assert [entry["step"] for entry in model.training_.history] == [0, 3]
    assert np.isfinite(model.transform(store)).all()
    assert model.training_.sentence in model.verdict_.sentence


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.filterwarnings("ignore:predicting tokens that follow")
def test_every_objective_trains_on_a_real_store(objective, store):
    model = fit(store, objective=objective, dim=16)
    terms = model.training_.history[-1]["terms"]
    assert {"total"} < set(terms)
    assert all(np.isfinite(value) for value in terms.values())


def test_objectives_mix_and_the_vector_gets_a_learned_part(store):
    model = OneVec(16, objective={"vicreg": 0.5, "held_out_statistics": 1.0}, training=SMALL).fit(
        store
    )
    assert [part["name"] for part in model.parts_] == ["mean", "rich", "plain", "learned"]
    assert not model.verdict_.beats_mean and "As told" in model.verdict_.sentence
    terms = model.training_.history[-1]["terms"]
    assert {"vicreg.variance", "total"} <= set(terms)


def parts(tokens, pooler="gated_attention", dim=6):
    tokens = Ragged.from_list(tokens)
    specs = {name: BlockSpec.of(name, {}) for name in ("mean", "std", pooler)}
    prepared = prepare(tokens, specs, "quick", 0)
    return tokens, prepared, Recipe((pooler,), 0.5, 0.5), dim


def test_pieces_give_the_gradient_of_the_whole_batch():
    tokens, prepared, recipe, dim = parts(needles(40)[0])
    views = tokens[:20], tokens[20:]
    found = []
    for piece_tokens in (10**6, 100):
        torch.manual_seed(0)
        head = TrainableHead(prepared, recipe, dim)
        objective = make_objective({"info_nce": 1.0, "vicreg": 0.1}).fit(tokens, dim)
        context = Context(views, views[0], torch.arange(20), torch.Generator())
        head.zero_grad()
        told = gradients(
            head, objective, views, context,
            piece_tokens=piece_tokens, precision="fp32", world=World("cpu"),
        )  # fmt: skip
        found.append((told["total"], [p.grad.clone() for p in head.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for whole, pieced in zip(found[0][1], found[1][1], strict=True):
        assert_close(whole, pieced, atol=1e-5, rtol=1e-3)


def test_attention_finds_the_marked_tokens():
    tokens, kinds = needles()
    model = fit(
        tokens, "attention", "info_nce", steps=200, views="subsets", evaluations=5,
        learning_rate=2e-3, batch=128,
    )  # fmt: skip
    assert model.training_.best_step > 0
    assert model.training_.score > model.training_.start_score + 0.02
    started = OneVec(8, pooler="mean").fit(tokens)

    def neighbours(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        likeness = unit @ unit.T
        np.fill_diagonal(likeness, -1)
        return (kinds[likeness.argmax(1)] == kinds).mean()

    assert neighbours(model.transform(tokens)) > neighbours(started.transform(tokens)) + 0.1


def test_saved_and_loaded_with_what_training_said(store, tmp_path):
    model = fit(store, pooler="attention|std", objective={"vicreg": 1.0}, dim=8)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.transform(store), model.transform(store))
    assert again.training_ == model.training_
    assert again.get_params()["objective"] == {"vicreg": 1.0}


SCRIPT = """
import sys
import numpy as np
from onevec import OneVec
from onevec.train import poolers
tokens = [np.random.default_rng(i).normal(size=(20, 8)).astype(np.float32) for i in range(120)]
slow = float(sys.argv[3])
if slow:
    import time
    plain = poolers.gradients
    poolers.gradients = lambda *a, **k: (time.sleep(slow), plain(*a, **k))[1]
training = {"steps": 40, "evaluations": 8, "patience": 99, "batch": 32, "view_size": 4,
            "checkpoint": sys.argv[2] or None, "piece_tokens": 100}
import os
if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # a first fit must not hinder a second
    OneVec(6, pooler="attention", training={"steps": 2, "batch": 16}).fit(tokens)
model = OneVec(6, pooler="gated_attention", objective="info_nce", training=training).fit(tokens)
if os.environ.get("RANK", "0") == "0":
    pooler = model.blocks_[model.layers_[0]].poolers["gated_attention"]
    np.savez(sys.argv[1], vectors=model.transform(tokens), steps=model.training_.best_step,
             score=[entry["score"] for entry in model.training_.history],
             **{name: value.numpy() for name, value in pooler.state_dict().items()})
"""


def start(tmp_path, out, checkpoint="", slow=0.0, launcher=()):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, *launcher, str(script), str(out), str(checkpoint), str(slow)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)


def finished(process, out):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return dict(np.load(out))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole = finished(start(tmp_path, tmp_path / "a.npz"), tmp_path / "a.npz")
    checkpoint = tmp_path / "run" / "state.safetensors"
    process = start(tmp_path, tmp_path / "b.npz", checkpoint, slow=0.3)
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(2.0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert checkpoint.exists()
    assert not (tmp_path / "b.npz").exists()
    resumed = finished(start(tmp_path, tmp_path / "b.npz", checkpoint), tmp_path / "b.npz")
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert not checkpoint.exists()


@pytest.mark.slow
def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    tokens = needles(80)[0]
    file = tmp_path / "state"
    plan = {"steps": 400, "evaluations": 400, "patience": 400, "checkpoint": file}
    fit(tokens, max_seconds=0.3, **plan)
    with pytest.raises(StoreError, match="of a run with other data or settings"):
        fit([t[::-1].copy() + 0.1 for t in tokens], **plan)


def test_a_checkpoint_of_other_teachers_is_refused(tmp_path):
    tokens = needles(80)[0]
    plan = {"steps": 400, "evaluations": 400, "patience": 400, "checkpoint": tmp_path / "state"}
    plan["objective"] = "distillation"
    fit(tokens, teachers=[tokens], max_seconds=0.3, **plan)
    with pytest.raises(StoreError, match="of a run with other data or settings"):
        fit(tokens, teachers=[[t**2 for t in tokens]], **plan)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    one = finished(start(tmp_path, tmp_path / "one.npz"), tmp_path / "one.npz")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    two = finished(start(tmp_path, tmp_path / "two.npz", launcher=launcher), tmp_path / "two.npz")
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=2e-4, rtol=1e-3, err_msg=name)


def test_a_checkpoint_of_another_run_is_refused(tmp_path, monkeypatch):
    from onevec.train import poolers

    tokens = needles(80)[0]
    checkpoint = tmp_path / "state"

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(poolers, "gradients", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(tokens, checkpoint=checkpoint)
    assert checkpoint.exists()
    with pytest.raises(StoreError, match="of a run with other data or settings"):
        fit(tokens, checkpoint=checkpoint, learning_rate=1e-4)
    checkpoint.write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="cannot be read"):
        fit(tokens, checkpoint=checkpoint)


class Collapse(OBJECTIVES["align_uniform"]):
    """Pull everything to one point."""

    def _terms(self, outputs, context):
        return {"size": sum(vectors.square().mean() for vectors in outputs)}


def test_the_monitor_stops_a_run_that_collapses():
    tokens, prepared, recipe, dim = parts(needles(200)[0], "deep_sets")
    told = train(
        tokens,
        prepared,
        recipe,
        Collapse(),
        Training.of({"steps": 400, "evaluations": 40, "patience": 99, "learning_rate": 0.05}),
        dim=dim,
        effort="quick",
        random_state=0,
    )
    assert "collapsed" in told.stopped
    assert told.steps < 400
    assert "stopped because the vectors collapsed" in told.sentence


def test_a_condemned_state_is_not_kept(monkeypatch):
    from onevec.train import loop

    def shortcut(history):
        return "it was told to" if len(history) > 1 else ""

    monkeypatch.setattr(loop.Monitor, "alarm", staticmethod(shortcut))
    monkeypatch.setattr(HeldOutScore, "__call__", lambda _: float(np.random.default_rng().random()))
    model = fit(needles(80)[0], steps=4, evaluations=2)
    assert model.training_.best_step == 0
    assert "stopped because it was told to" in model.training_.sentence


@pytest.mark.parametrize("dim", [1, 2])
def test_few_dimensions_are_no_collapse(dim):
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(12, dim)).astype(np.float32) for _ in range(90)]
    assert fit(tokens, dim=1, view_size=3).training_.steps == 3


def test_few_sequences_are_refused_in_one_sentence():
    for count in (2, 4, 20, 50):
        with pytest.raises(InputError, match=r"could be held out|long enough for two views"):
            fit(needles(count)[0])
    assert fit(needles(66)[0]).training_.steps == 3


def test_the_verdict_rests_on_sequences_that_selected_nothing():
    prepared = parts(needles(120)[0])[1]
    first, second = (prepared.half(which) for which in (0, 1))
    held = [set(each.rows[-each.held_out :]) for each in (first, second)]
    assert not held[0] & held[1]
    assert held[0] | held[1] == set(prepared.rows[-prepared.held_out :])
    assert set(first.rows) - held[0] == set(second.rows) - held[1]
    assert [len(block) for block in first.features.values()] == [len(first.rows)] * 3


def test_diverging_weights_end_the_run_and_the_start_is_kept():
    model = fit(needles(80)[0], steps=4, evaluations=4, learning_rate=1e30)
    assert "no longer finite" in model.training_.stopped or "the loss is" in model.training_.stopped
    assert np.isfinite(model.transform(needles(80)[0])).all()


def test_time_ends_a_run_within_a_step_and_the_checkpoint_stays(tmp_path):
    tokens = needles(80)[0]
    file = tmp_path / "new folder" / "state"
    plan = {"steps": 400, "evaluations": 400, "patience": 400, "checkpoint": file}
    model = fit(tokens, max_seconds=0.5, **plan)
    assert model.training_.steps < 400
    assert "its time was over" in model.training_.sentence
    assert file.exists()
    again = fit(tokens, max_seconds=0.5, **plan)
    assert again.training_.steps > model.training_.steps
    steps = [entry["step"] for entry in again.training_.history]
    assert steps == sorted(set(steps))


def test_reencoded_views_must_be_of_the_fitted_sequences():
    from onevec.views import Reencoded

    tokens = needles(80)[0]
    texts = [f"sequence number {row} has words" for row in range(80)]
    views = Reencoded(texts, lambda crops: [np.ones((3, 12), np.float32) for _ in crops])
    with pytest.raises(InputError, match="Reencoded views of 80 sequences with 12 dimensions"):
        fit(tokens[:70], views=views)
    with pytest.raises(InputError, match="for 80 with 5"):
        fit([t[:, :5] for t in tokens], views=views)


def test_numpy_seeds_and_wide_offsets():
    tokens = [t + 1000.0 for t in needles(80)[0]]
    ragged, prepared, _, dim = parts(tokens)
    recipe = Recipe(("mean", "gated_attention"), 0.5, 0.5)
    head = TrainableHead(prepared, recipe, dim)
    from onevec.vector.reduction import Reduction

    reduction = Reduction(recipe).fit(prepared.fitted, dim)
    expected = reduction.transform(prepared.blocks.of(ragged))
    with torch.no_grad():
        np.testing.assert_allclose(head(ragged).numpy(), expected, atol=0.02)
    model = OneVec(8, pooler="attention", training=SMALL, random_state=np.int64(3))
    assert model.fit(tokens).training_.steps == 3


def test_layers_are_part_of_a_stacked_fingerprint(store):
    assert store.stacked().fingerprint != store.fingerprint
    assert store.layer(2).stacked().fingerprint != store.stacked().fingerprint


def test_patience_ends_a_run_and_the_best_state_is_kept():
    tokens, prepared, recipe, dim = parts(needles(200)[0])
    pooler = prepared.blocks.poolers[recipe.blocks[0]]
    before = {name: value.clone() for name, value in pooler.state_dict().items()}
    settings = {"steps": 50, "evaluations": 50, "patience": 2, "learning_rate": 1e-9}
    told = train(
        tokens, prepared, recipe, make_objective("vicreg"), Training.of(settings),
        dim=dim, effort="quick", random_state=0,
    )  # fmt: skip
    assert told.steps <= 4 or told.best_step > 0
    if told.best_step == 0:
        assert "did not help" in told.sentence
        after = pooler.state_dict()
        for name, value in before.items():
            assert_close(after[name], value)


def test_every_sequence_comes_once_in_a_pass():
    rows = np.arange(100, 141)
    seen = np.concatenate([draw_rows(rows, 8, step, 0) for step in range(5)])
    assert len(set(seen)) == 40
    assert set(seen) < set(rows)
    again = draw_rows(rows, 8, 3, 0)
    np.testing.assert_array_equal(again, draw_rows(rows, 8, 3, 0))
    assert len(draw_rows(rows, 1000, 7, 0)) == 41


def test_the_schedule_warms_up_and_falls_to_nothing():
    shares = [schedule(step / 100, (step + 1) / 10) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1.0, abs=0.03)
    assert shares[100] == 0
    assert shares[:9] == sorted(shares[:9])
    assert shares[10:] == sorted(shares[10:], reverse=True)


def test_the_optimizer_decays_matrices_clips_and_keeps_rates_apart():
    """A step is that of torch's AdamW on the clipped gradient."""
    torch.manual_seed(0)
    ours, theirs = (nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 2)]) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer = ScheduledAdamW(
        [(list(ours[0].parameters()), 0.1), (list(ours[1].parameters()), 0.02)], weight_decay=0.3
    )
    groups = [
        {"params": [layer.weight], "lr": rate / 2, "weight_decay": 0.3}
        for layer, rate in zip(theirs, (0.1, 0.02), strict=True)
    ]
    groups += [
        {"params": [layer.bias], "lr": rate / 2, "weight_decay": 0.0}
        for layer, rate in zip(theirs, (0.1, 0.02), strict=True)
    ]
    reference = torch.optim.AdamW(groups)
    for _ in range(3):
        rows = torch.randn(20, 4) * 50
        for both in (ours, theirs):
            both[1](both[0](rows)).square().sum().backward()
        optimizer.descend(0.5)
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(mine, other)
        assert mine.grad is None


def test_duplicates_share_a_number():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 3)).astype(np.float32)
    marks = marks_of(Ragged.from_list([first, second, first, first[:4]]))
    assert marks[0].tolist() == marks[2].tolist()
    assert len({tuple(mark) for mark in marks.tolist()}) == 3


def test_predicting_the_future_warns_unless_the_encoder_is_causal():
    tokens = needles(60)[0]
    with pytest.warns(UserWarning, match="predicting tokens that follow is trivial"):
        fit(tokens, objective="cpc")
    fit(tokens, objective="cpc", causal=True)


def test_short_sequences_are_counted():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, 5)).astype(np.float32) for n in [2] * 30 + [30] * 90]
    model = fit(tokens, dim=4)
    assert 10 <= model.training_.left_out <= 30
    assert "too short for two views" in model.training_.sentence
    with pytest.raises(InputError, match="0 of 90 sequences are long enough"):
        fit([t[:2] for t in tokens] + tokens[:15])


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"stepz": 3}, "'stepz'"),
        ({"steps": 0}, "steps=0"),
        ({"batch": 1}, "batch=1"),
        ({"views": "nothing"}, "views='nothing'"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"device": "cuda:7"}, "no such device"),
        ({"device": None}, "device=None"),
        ({"steps": "10"}, "steps='10'"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"batch": None}, "batch=None"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"gap": 2.5}, "gap=2.5"),
        ({"causal": "no"}, "causal='no'"),
        ({"max_seconds": "5"}, "max_seconds='5'"),
        ({"teachers": None}, "teachers=None"),
        ({"checkpoint": 5}, "checkpoint=5"),
        ({"checkpoint": "/dev/null/state"}, "cannot be written"),
    ],
)
def test_wrong_settings_are_one_sentence(training, words):
    with pytest.raises(InputError, match=words):
        fit(needles(60)[0], **training)


def test_settings_are_checked_where_nothing_learns_too(tmp_path):
    for training in ({"stepz": 3}, "fast", 3):
        with pytest.raises(InputError, match="got training"):
            OneVec(training=training).fit(needles(60)[0])
    for objective in (5, ["vicreg"]):
        with pytest.raises(InputError, match="got objective="):
            OneVec(pooler="attention", objective=objective).fit(needles(60)[0])
    with pytest.raises(InputError, match="is not replaced"):
        fit(needles(60)[0], checkpoint=tmp_path)


def test_wrong_combinations_are_one_sentence(store):
    tokens = needles(60)[0]
    with pytest.raises(InputError, match="which has nothing to learn"):
        OneVec(pooler="mean|std", objective="info_nce").fit(tokens)
    with pytest.raises(InputError, match="did you mean 'info_nce'"):
        fit(tokens, objective="info_nec")
    with pytest.raises(InputError, match="have no order"):
        fit(tokens, objective="sequence_order", views="crops")
    with pytest.raises(InputError, match="got a teacher of 3 sequences for 60"):
        fit(tokens, objective="distillation", teachers=[tokens[:3]])
    with pytest.raises(InputError, match="reads the token field 'layers'"):
        OneVec(pooler="layer_mix").fit(tokens)


def test_a_store_of_one_layer_cannot_be_mixed(tmp_path):
    tokens = encode(needles(60)[0], out=tmp_path / "one", progress=False)
    assert isinstance(tokens, TokenStore)
    with pytest.raises(InputError, match="holds one layer"):
        OneVec(pooler="layer_mix").fit(tokens)


def test_reencoded_views_and_precision(store):
    from onevec.views import Reencoded

    raw = store.column("sequence").to_pylist()

    def again(crops):
        with encoder_folder() as encoder:
            return list(encode(crops, encoder, progress=False))

    views = Reencoded(raw, again, count=2)
    model = fit(store, objective="info_nce", views=views, precision="bf16", dim=8)
    assert model.training_.steps == 3
    json.dumps(model._state()[0])
