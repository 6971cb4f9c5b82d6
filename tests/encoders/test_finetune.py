"""Fine-tuning: every objective runs, what is frozen stays, killed runs go on, worse is refused."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertModel

from onevec import OnevecError, encode, load, pretrain
from onevec.encoders.finetune import finetune
from onevec.encoders.table import FINETUNING
from onevec.encoders.tuning.base import RawBatch
from onevec.encoders.tuning.exam import InputStatistics, split_rows
from onevec.encoders.tuning.layers import choose_trained, layer_list
from onevec.encoders.tuning.settings import Finetuning
from onevec.encoders.tuning.student import Student
from onevec.encoders.tuning.trainee import TextTrainee, Trainee, open_trainee
from onevec.encoders.tuning.views import ShareCrops, drop_tokens, window
from onevec.encoders.tuning.work import build, gradients
from onevec.objectives import Mixture
from onevec.ragged import Ragged

PAIRS = [a + b for a in "abcdefghij" for b in "abcdefghij"]
QUICK = {"steps": 2, "batch": 16, "evaluations": 1, "compare": False, "max_length": 24}


def topics(count=150, seed=0):
    """Texts about one of ten topics: each has letters of its own among common ones."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklmnopqrst")
    texts = []
    for _ in range(count):
        own = letters[2 * (k := rng.integers(10)) : 2 * k + 2]
        share = [0.5 / 20] * 20
        share[2 * k] += 0.25
        share[2 * k + 1] += 0.25
        assert own
        texts.append("".join(rng.choice(letters, p=share, size=rng.integers(12, 30))))
    return texts


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Folders of tiny encoders: of pretrain, BERT, sentence-transformers, frames."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    room = tmp_path_factory.mktemp("finetune")
    small = {"layers": 3, "dim": 16, "heads": 2, "context": 32, "batch_tokens": 256}
    pretrain(topics(40), room / "own", steps=2, tokenizer="character", **small)
    trainee = open_trainee(room / "own", topics(4), 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bert = BertModel(
            BertConfig(
                vocab_size=len(trainee.tokenizer),
                hidden_size=16,
                num_hidden_layers=3,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=64,
            ),
            add_pooling_layer=False,
        )
    bert.save_pretrained(room / "bert")
    trainee.tokenizer.save_pretrained(room / "bert")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = Transformer(str(room / "bert")), Pooling(16, pooling_mode="cls")
        model = SentenceTransformer(modules=list(parts), device="cpu")
        model.save_pretrained(str(room / "st"), create_model_card=False)
    rng = np.random.default_rng(0)
    waves = [rng.normal(size=(n, 4)).astype(np.float32) for n in rng.integers(8, 30, 60)]
    pretrain(waves, room / "frames", steps=2, **small)
    pretrain(waves, room / "codes", steps=2, tokenizer="quantised", **small)
    np.savez(room / "waves.npz", **{str(row): wave for row, wave in enumerate(waves)})
    return room


def weights(folder):
    return AutoModel.from_pretrained(folder, dtype=torch.float32).state_dict()


# --- objectives -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "name"),
    [*(("bert", name) for name in FINETUNING), ("own", "simcse"), ("own", "masked")],
)
def test_every_objective_lowers_its_loss(room, name, encoder):
    """On the same batch again and again; and every term is named and finite."""
    trainee = open_trainee(room / encoder, topics(60), 0)
    given = Finetuning.of({"max_length": 24})
    choose_trained(trainee.backbone, "all", 8)
    student = make_student(trainee)
    mixture = Mixture(name, FINETUNING)
    build(mixture, student, trainee.raw[:40], given)
    optimizer = torch.optim.AdamW(
        {id(p): p for part in (student, mixture) for p in part.parameters()}.values(), lr=5e-3
    )
    batch = RawBatch(trainee.raw[:12], torch.arange(12), 5)
    student.train()
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        terms = gradients(mixture, student, batch)
        optimizer.step()
        losses.append(terms["total"])
        assert all(np.isfinite(list(terms.values())))
        assert {key.split(".")[0] for key in terms} == {name, "total"}
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def make_student(trainee, piece_tokens=4_096, pooler="mean"):
    return Student(
        trainee, trainee.raw[:40], pooler=pooler, piece_tokens=piece_tokens, precision="fp32",
        device="cpu", longest=24, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["crops", "simcse", "cpc", "denoising", "masked"])
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(room, name):
    """Dropout included: every piece has its seed."""
    slopes = []
    trainee = open_trainee(room / "bert", topics(60), 0)
    choose_trained(trainee.backbone, "all", 8)
    for piece_tokens in (100_000, 60):
        student = make_student(trainee, piece_tokens)
        mixture = Mixture(name, FINETUNING)
        build(mixture, student, trainee.raw[:40], Finetuning.of({"max_length": 24}))
        if piece_tokens > 60:  # the same pieces, all kept
            groups = make_student(trainee, 60).groups
        student.groups = groups
        student.train()
        student.zero_grad()
        gradients(mixture, student, RawBatch(trainee.raw[:16], torch.arange(16), 5))
        slopes.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    assert len(slopes[0]) > 30
    for key, slope in slopes[0].items():
        torch.testing.assert_close(slopes[1][key], slope, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("piece_tokens", [100_000, 60])
@pytest.mark.parametrize(
    ("encoder", "spec"),
    [("bert", "crops"), ("own", "simcse=1,masked=0.5"), ("st", "denoising"), ("frames", "crops")],
)
def test_one_lookup_has_the_gradient_of_many(room, monkeypatch, encoder, spec, piece_tokens):
    slopes = []
    corpus = list(np.load(room / "waves.npz").values()) if encoder == "frames" else topics(60)
    for kind in (None, Trainee):
        if kind:
            monkeypatch.setattr(TextTrainee, "one_lookup", Trainee.one_lookup)
        trainee = open_trainee(room / encoder, corpus, 0)
        choose_trained(trainee.backbone, "all", 8)
        student, mixture = make_student(trainee, piece_tokens), Mixture(spec, FINETUNING)
        build(mixture, student, trainee.raw[:40], Finetuning.of({"max_length": 24}))
        student.train()
        gradients(mixture, student, RawBatch(trainee.raw[:16], torch.arange(16), 5))
        slopes.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    assert slopes[0].keys() == slopes[1].keys()
    for key, slope in slopes[1].items():
        torch.testing.assert_close(slopes[0][key], slope, atol=1e-6, rtol=1e-4)
    if encoder != "frames":
        assert "forward" not in vars(trainee.embedding)  # its own again


def test_a_frozen_table_gets_no_gradient(room):
    trainee = open_trainee(room / "bert", topics(60), 0)
    choose_trained(trainee.backbone, 1, 8)
    student, mixture = make_student(trainee), Mixture("crops", FINETUNING)
    build(mixture, student, trainee.raw[:40], Finetuning.of({"max_length": 24}))
    gradients(mixture, student, RawBatch(trainee.raw[:16], torch.arange(16), 5))
    assert trainee.embedding.weight.grad is None


def test_mixtures_name_their_terms(room, tmp_path):
    spec = {"crops": (1.0, {"objective": {"vicreg": 0.5}}), "masked": 0.5, "denoising": 0.2}
    made = finetune(room / "bert", topics(), tmp_path / "e", objective=spec, **QUICK)
    terms = made["history"][-1]["terms"]
    assert {"crops.vicreg.variance", "masked", "denoising", "total"} <= set(terms)
    assert made["objective"]["crops"][0] == 1.0


def test_the_masked_head_of_a_checkpoint_is_trained_and_saved(room, tmp_path):
    made = finetune(
        room / "own", topics(), tmp_path / "e", objective="masked", **QUICK | {"steps": 20},
        learning_rate=3e-3,
    )  # fmt: skip
    assert made["best_step"] > 0 or "did not help" in made["verdict"]["sentence"]
    model, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "e", output_loading_info=True)
    assert not report["missing_keys"]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_where_the_start_is_kept_so_is_its_head(room, tmp_path):
    made = finetune(
        room / "own", topics(), tmp_path / "e", objective="masked", batch=16, evaluations=8,
        steps=16, learning_rate=3.0, max_length=24, compare=False, patience=99,
    )  # fmt: skip
    assert made["best_step"] == 0 and made["steps"] > 0
    start, end = (
        AutoModelForMaskedLM.from_pretrained(each, dtype=torch.float32).state_dict()
        for each in (room / "own", tmp_path / "e")
    )
    for name, value in start.items():
        torch.testing.assert_close(end[name], value, rtol=0, atol=0, msg=name)


# --- what is trained ------------------------------------------------------------------------------


def test_last_layers_alone(room, tmp_path):
    made = finetune(
        room / "bert", topics(), tmp_path / "e", layers=1, learning_rate=1e-2, **QUICK,
        objective="crops",
    )  # fmt: skip
    before, after = weights(room / "bert"), weights(tmp_path / "e")
    assert made["trained_parameters"] < 0.4 * made["parameters"]
    for name, value in before.items():
        if ".2." not in name and "pooler" not in name:  # the file has no pooler: it is random
            assert torch.equal(after[name], value), name
    assert made["best_step"] == 0 or any(
        not torch.equal(after[name], value) for name, value in before.items() if ".2." in name
    )


def test_low_rank_additions_are_merged(room):
    trainee = open_trainee(room / "bert", topics(20), 0)
    before = {name: value.clone() for name, value in trainee.backbone.state_dict().items()}
    from onevec.encoders.tuning.layers import merge_additions

    added = choose_trained(trainee.backbone, "lora", 2)
    trained = [p for p in trainee.backbone.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in trained) < 0.6 * sum(v.numel() for v in before.values())
    tokens = trainee.eval()(trainee.raw)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.1)
    moved = trainee(trainee.raw)
    assert not torch.allclose(moved.values, tokens.values)
    merge_additions(added)
    after = trainee.backbone.state_dict()
    assert list(after) == list(before)
    torch.testing.assert_close(trainee(trainee.raw).values, moved.values, atol=1e-5, rtol=1e-4)
    assert torch.equal(
        after["embeddings.word_embeddings.weight"], before["embeddings.word_embeddings.weight"]
    )


def test_low_rank_end_to_end(room, tmp_path):
    made = finetune(room / "own", topics(), tmp_path / "e", layers="lora", **QUICK)
    assert made["settings"]["layers"] == "lora"
    assert set(weights(tmp_path / "e")) == set(weights(room / "own"))


def test_layers_are_found():
    stack = torch.nn.ModuleDict(
        {"a": torch.nn.ModuleList([torch.nn.Linear(1, 1)] * 2),
         "b": torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(4)])}
    )  # fmt: skip
    assert layer_list(stack) is stack["b"]
    with pytest.raises(OnevecError, match=r"layers=5 for an encoder of 4"):
        choose_trained(stack, 5, 1)
    with pytest.raises(OnevecError, match="cannot tell the layers"):
        choose_trained(torch.nn.Linear(1, 1), 1, 1)


# --- folders in, folders out ----------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["bert", "st"])
def test_bf16_attends_in_fp32_and_the_folder_does_not_tell(room, tmp_path, attended, encoder):
    finetune(room / encoder, topics(), tmp_path / "e", precision="bf16", **QUICK)
    assert attended == {torch.float32}  # bf16's backward is several times slower
    for config in (tmp_path / "e").rglob("config.json"):
        assert "onevec" not in config.read_text()


def test_sentence_transformers_in_and_out(room, tmp_path):
    from sentence_transformers import SentenceTransformer

    made = finetune(room / "st", topics(), tmp_path / "e", objective="simcse", **QUICK)
    assert made["settings"]["pooler"] == "first"  # its own: [CLS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SentenceTransformer(str(tmp_path / "e"), device="cpu")
        vectors = model.encode(["abcabc", "qrst"], show_progress_bar=False)
    assert vectors.shape == (2, 16)
    assert encode(["abcabc"], tmp_path / "e", progress=False).lengths.tolist() == [6]


def test_frames(room, tmp_path):
    waves = list(np.load(room / "waves.npz").values())
    for objective in ("crops=1,denoising=0.5", "masked", "simcse"):
        out = tmp_path / objective[:4]
        finetune(room / "frames", waves, out, objective=objective, **QUICK)
        assert encode(waves[:3], out, progress=False).dim == 16
    finetune(room / "codes", waves, tmp_path / "codes", objective="crops=1,masked=1", **QUICK)
    assert encode(waves[:3], tmp_path / "codes", progress=False).dim == 16
    made = finetune(
        room / "frames", [*waves, np.empty((0, 4))], tmp_path / "whole", keep="last",
        learning_rate=1e-2, **QUICK,
    )  # fmt: skip
    assert made["skipped_empty"] == 1
    before, after = (
        load_file(at / "frames.safetensors") for at in (room / "frames", out.parent / "whole")
    )
    assert not torch.equal(before["linear.weight"], after["linear.weight"])  # "all" is all
    with pytest.raises(OnevecError, match=r"frames of 3 dimensions for .* which reads 4"):
        finetune(room / "frames", [np.ones((9, 3))] * 90, tmp_path / "x", **QUICK)


def test_a_pooler_is_trained_with_the_encoder(room, tmp_path):
    out = tmp_path / "e"
    made = finetune(
        room / "bert", topics(), out, pooler="attention|std", dim=8, head_rate=3e-2,
        **QUICK | {"steps": 6, "evaluations": 3},
    )  # fmt: skip
    model = load(out / "onevec")
    tokens = encode(topics(20, seed=1), out, out=tmp_path / "store", progress=False)
    assert model.transform(tokens).shape == (20, 8)  # its encoder is the one that was saved
    assert model.pooler == "attention|std"
    trained = model.blocks_[model.layers_[0]].poolers["attention"].scorer.weight.weight
    assert bool(trained.any()) == (made["best_step"] > 0)


# --- the run --------------------------------------------------------------------------------------


def test_training_helps_where_there_is_something_to_learn(room, tmp_path):
    said = []
    made = finetune(
        room / "bert", topics(300), tmp_path / "e", objective="crops", steps=60, batch=64,
        learning_rate=3e-3, evaluations=3, max_length=24, dim=8,
        on_step=lambda step, steps, loss: said.append((step, steps, loss)),
    )  # fmt: skip
    assert [step for step, _, _ in said] == list(range(1, len(said) + 1))
    found = made["verdict"]
    assert made["score"] > made["start_score"]
    assert found["better"]
    assert "The tuned encoder is better than it was" in found["sentence"]
    assert "points a minute" in found["sentence"]
    assert found["interval"][0] > 0
    assert list(found["rows"]) == [
        f"{state} + {what}" for state in ("frozen", "tuned") for what in ("mean", "onevec")
    ]
    assert found["rows"]["tuned + mean"]["seconds"] > found["rows"]["frozen + mean"]["seconds"]
    assert json.loads((tmp_path / "e/finetune.json").read_text()) == made
    curve = [loss for entry in made["history"][1:] for loss in entry["losses"]]
    np.testing.assert_allclose(curve, [loss for _, _, loss in said], atol=1e-6)


def test_a_better_model_is_not_replaced(room, tmp_path):
    out, texts = tmp_path / "e", topics(240)
    plan = {"batch": 64, "evaluations": 2, "max_length": 24, "compare": False}
    good = finetune(room / "bert", texts, out, steps=40, learning_rate=3e-3, **plan)
    assert good["verdict"]["better"]
    held = (out / "model.safetensors").read_bytes()
    with pytest.raises(OnevecError, match="exists"):
        finetune(room / "bert", texts, out, steps=1, **plan)
    with pytest.raises(OnevecError, match=r"is not replaced, because the model there scores"):
        finetune(room / "bert", texts, out, steps=1, overwrite=True, **plan)
    assert (out / "model.safetensors").read_bytes() == held
    assert (tmp_path / "e-2/finetune.json").is_file()  # nothing is lost
    other = tmp_path / "other"
    pretrain(["abcd", "dcba"] * 9, other, steps=1, tokenizer="bpe", layers=1, dim=8, heads=2)
    (other / "finetune.json").write_text("{}")
    with pytest.raises(OnevecError, match="in another way, so that it cannot be compared"):
        finetune(room / "bert", texts, other, steps=1, overwrite=True, **plan)
    finetune(room / "bert", texts, out, steps=1, force=True, **plan)
    assert (out / "model.safetensors").read_bytes() != held


def test_the_monitor_ends_a_run_that_collapses(room, tmp_path):
    made = finetune(
        room / "bert", topics(), tmp_path / "e", steps=40, batch=32, evaluations=20, patience=99,
        learning_rate=3.0, compare=False, max_length=24,
    )  # fmt: skip
    assert "collapsed" in made["stopped"] or "finite" in made["stopped"]
    assert made["steps"] < 40
    assert made["stopped"] in made["verdict"]["sentence"]


def test_an_alarm_is_told_where_the_last_state_was_to_be_kept(room, tmp_path):
    made = finetune(
        room / "bert", topics(), tmp_path / "e", steps=40, batch=32, evaluations=20, keep="last",
        learning_rate=3.0, compare=False, max_length=24,
    )  # fmt: skip
    assert "The last state is kept" not in made["verdict"]["sentence"]
    assert made["stopped"] in made["verdict"]["sentence"]


def test_copies_of_what_is_held_out_are_not_trained_on(room, tmp_path):
    made = finetune(room / "bert", topics(100) * 2, tmp_path / "e", **QUICK)
    assert made["copies_of_held_out"] > 0
    assert made["sequences"] + made["copies_of_held_out"] + made["held_out_sequences"] == 200
    assert made["selection_seconds"] > 0


def test_an_objective_that_would_learn_nothing_is_named(room, tmp_path):
    objective = {"simcse": 1, "spans": (1, {"size": 20})}
    with pytest.raises(OnevecError, match="all but 0 are copies"):
        finetune(room / "bert", ["ab", "cd"] * 80, tmp_path / "e", **QUICK)
    with pytest.raises(OnevecError, match=r"the 40 tokens that the objective 'spans' needs, so"):
        finetune(room / "bert", topics(), tmp_path / "e", objective=objective, **QUICK)


def test_time_is_over(room, tmp_path):
    made = finetune(
        room / "bert", topics(), tmp_path / "e", **QUICK | {"steps": 10_000, "minutes": 0.01}
    )
    assert made["stopped"] == "its time was over"
    assert 0 < made["steps"] < 10_000


SCRIPT = """
import json, sys, time
from onevec.encoders import finetune
from onevec.encoders.tuning import work as module
model, out, checkpoint, slow, texts = sys.argv[1:]
draw = module.draw_rows
module.draw_rows = lambda *words: (time.sleep(float(slow)), draw(*words))[1]
finetune.finetune(model, json.load(open(texts)), out, objective="simcse=1,masked=0.5", steps=24,
    batch=16, evaluations=8, patience=99, max_length=24, compare=False, learning_rate=1e-3,
    checkpoint=checkpoint or None, threads=1)
"""


def start(room, out, checkpoint="", slow=0.0):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (out.parent / "texts.json").write_text(json.dumps(topics()))
    script = [sys.executable, "-c", SCRIPT]
    words = [*script, room / "bert", out, checkpoint, slow, out.parent / "texts.json"]
    return subprocess.Popen([str(w) for w in words], env=env, stderr=subprocess.PIPE, text=True)


def ended(process):
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(room, tmp_path, monkeypatch):
    from onevec.encoders.tuning import work as module

    plan = {"steps": 12, "evaluations": 4, "patience": 99, "learning_rate": 1e-3, "threads": 1}
    plan = QUICK | plan | {"objective": "simcse=1,masked=0.5", "pooler": "attention"}
    one = finetune(room / "bert", topics(), tmp_path / "a", **plan)
    draw, state = module.draw_rows, tmp_path / "state"

    def stop(rows, batch, step, seed):
        if step == 8:
            raise KeyboardInterrupt
        return draw(rows, batch, step, seed)

    monkeypatch.setattr(module, "draw_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(room / "bert", topics(), tmp_path / "b", checkpoint=state, **plan)
    monkeypatch.setattr(module, "draw_rows", draw)
    two = finetune(room / "bert", topics(), tmp_path / "b", checkpoint=state, **plan)
    same_run(one, two, tmp_path / "a", tmp_path / "b")
    assert not state.exists()


TIMES = dict.fromkeys(("seconds", "looking_seconds", "wall_seconds"), 0)


def same_run(one, two, left, right):
    for first, second in zip(one["history"], two["history"], strict=True):
        assert {**first, **TIMES} == {**second, **TIMES}
    files = [sorted(folder.rglob("*.safetensors")) for folder in (left, right)]
    assert files[0]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(room, tmp_path):
    whole = start(room, tmp_path / "a")
    checkpoint = tmp_path / "state"
    process = start(room, tmp_path / "b", checkpoint, slow=0.1)
    while not checkpoint.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "b").exists()
    ended(start(room, tmp_path / "b", checkpoint))
    ended(whole)
    assert not checkpoint.exists()
    one, two = (json.loads((tmp_path / name / "finetune.json").read_text()) for name in "ab")
    same_run(one, two, tmp_path / "a", tmp_path / "b")


def test_a_checkpoint_of_another_run_is_refused(room, tmp_path, monkeypatch):
    from onevec.encoders.tuning import work as module

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "draw_rows", stop)
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        finetune(room / "bert", topics(), tmp_path / "e", checkpoint=state, **QUICK)
    assert state.exists()
    with pytest.raises(OnevecError, match="of a run with other data or settings"):
        finetune(room / "bert", topics(seed=1), tmp_path / "e", checkpoint=state, **QUICK)
    assert not (tmp_path / "e").exists()


# --- parts ----------------------------------------------------------------------------------------


def raw_of(*lengths):
    total = sum(lengths)
    return Ragged(torch.arange(total)[:, None].float(), torch.tensor(lengths))


def test_views_of_the_input():
    generator = torch.Generator().manual_seed(0)
    raw = raw_of(1, 4, 50, 7)
    cut = window(raw, 5, generator)
    assert cut.lengths.tolist() == [1, 4, 5, 5]
    for piece, whole in zip(cut, raw, strict=True):
        start = int(piece[0] - whole[0])
        assert torch.equal(piece, whole[start : start + len(piece)])
    assert window(raw, 5)[2].flatten().tolist() == list(range(5, 10))
    kept = drop_tokens(raw, 0.9, generator)
    assert bool((kept.lengths >= 1).all())
    assert bool((kept.values.diff(dim=0) > 0).all())  # in their order
    pair = ShareCrops((0.3, 0.6), 20)(raw, np.arange(4), generator)
    assert pair.rows.tolist() == [1, 2, 3]  # one token is too short
    for view in (pair.first, pair.second):
        assert bool((view.lengths <= torch.tensor([2, 20, 4])).all())
        assert all(bool((piece.diff(dim=0) == 1).all()) for piece in view)


def test_held_out_rows():
    lengths = [1] * 10 + [5] * 290
    train, select, judge = split_rows(lengths, 0.1, 0)
    assert sorted([*train.tolist(), *select.tolist(), *judge.tolist()]) == list(range(300))
    assert min(lengths[row] for row in [*select, *judge]) == 5
    assert len(select) == len(judge) == 50


def test_statistics_of_the_input_tell_order_and_content():
    same = Ragged(torch.tensor([1.0, 2, 3, 1, 2, 3, 3, 2, 1])[:, None], torch.tensor([3, 3, 3]))
    many = raw_of(*[6] * 40)
    rest = Ragged.concat([same, many.with_values(many.values % 7)])
    found = InputStatistics(rest, True, 0)(same)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"steps": 0}, "steps=0"), ({"layers": "some"}, "layers='some'"),
     ({"stepz": 1}, "fine-tuning setting 'stepz'"), ({"objective": "crop"}, "'crops'"),
     ({"objective": "crops=much"}, "the weight 'much'"), ({"objective": {}}, "pass a name"),
     ({"objective": {"crops": (1, {"share": (0.9, 0.1)})}}, "share="),
     ({"objective": {"crops": (1, {"objective": "distillation"})}}, "reads teachers"),
     ({"objective": {"crops": (1, {"objective": "cpc"})}}, "have no order"),
     ({"objective": {"denoising": (1, {"drop": 1})}}, "drop=1"),
     ({"objective": {"masked": (1, {"rate": 0})}}, "rate=0"),
     ({"pooler": "meen"}, "did you mean 'mean'"), ({"device": "tpu"}, "device='tpu'"),
     ({"layers": 9}, "layers=9 for an encoder of 3"), ({"precision": "fp8"}, "fp8"),
     ({"batch": 1}, "batch=1"), ({"random_state": 2**32}, "below 2\\^32"),
     ({"held_out": 1.5}, "held_out=1.5")],
)  # fmt: skip
def test_bad_settings(room, tmp_path, settings, words):
    with pytest.raises(OnevecError, match=words):
        finetune(room / "bert", topics(60), tmp_path / "e", **QUICK | settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "corpus", "words"),
    [("bert", ["abc"] * 20, "could be held out"), ("bert", ["", " "], "hold a token"),
     ("bert", "abc", "one string"), ("bert", [1, 2], "cannot fine-tune on other"),
     ("bert", [], "got 0 sequences"), ("bert", ["abc", 3], "sequence 1 of the corpus is a int"),
     ("none", ["abc"] * 2, "there is no encoder"), ("bert", PAIRS, "have the 4 tokens"),
     ("bert", [np.ones((3, 2))] * 2, "token vectors and an encoder of other input")],
)  # fmt: skip
def test_bad_corpora(room, tmp_path, model, corpus, words):
    with pytest.raises(OnevecError, match=words):
        finetune(room / model, corpus, tmp_path / "e", **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_command_line(room, tmp_path):
    from typer.testing import CliRunner

    from onevec.cli import app

    (tmp_path / "t.csv").write_text("text\n" + "\n".join(topics()) + "\n")
    words = ["finetune", room / "bert", tmp_path / "t.csv", "--out", tmp_path / "e", "--layers",
             "1", "--steps", "2", "--batch", "16", "--objective", "crops=1,masked=0.5"]  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in [*words, "--json"]])
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["settings"]["layers"] == 1
    assert "150 read, 150 kept; left out: none" in done.stderr
    assert json.loads((tmp_path / "e/finetune.json").read_text())["corpus"]["counts"]["kept"] == 150
    told = CliRunner().invoke(app, ["inspect", str(tmp_path / "e"), "--json"])
    assert json.loads(told.stdout)["kind"] == "fine-tuned encoder"
    again = CliRunner().invoke(app, [str(word) for word in words])
    assert "exists" in str(again.exception)


def test_help_teaches():
    from typer.testing import CliRunner

    from onevec.cli import app

    shown = CliRunner().invoke(app, ["finetune", "--help"]).stdout
    assert "onevec finetune" in shown
    assert "Example:" in shown
