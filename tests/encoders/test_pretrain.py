import json
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from onevec import OnevecError, encode, pretrain
from onevec.encoders.batches import FlatTokens, endless, one_pass, read_windows
from onevec.encoders.body import corrupt
from onevec.encoders.corpus import assemble
from onevec.encoders.frames import draw_spans
from onevec.encoders.pretrain import _default_steps
from onevec.encoders.settings import Pretraining
from onevec.encoders.text import Text
from onevec.encoders.tokenizer import choose_tokenizer, train_tokenizer
from onevec.tokens.frames import FrameInput
from tests.encoders.conftest import TINY


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def test_learns_a_language_and_is_an_ordinary_folder(tmp_path, corpus):
    losses = []
    made = pretrain(
        corpus,
        tmp_path / "encoder",
        steps=150,
        learning_rate=1e-2,
        held_out=0.3,
        on_step=lambda step, steps, loss: losses.append(loss),
        **{**TINY, "dim": 32},
    )
    assert len(losses) == made["steps"] == 150
    assert made["masked_accuracy"] > 2 * made["unigram_accuracy"]
    assert json.loads((tmp_path / "encoder/pretrain.json").read_text()) == made
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    model = AutoModel.from_pretrained(tmp_path / "encoder", dtype=torch.float32)
    out = model(**tokenizer(["abcd"], return_tensors="pt")).last_hidden_state
    assert out.shape == (1, 6, 32)
    tokens = encode(["abcd", "ab"], tmp_path / "encoder", progress=False)
    assert tokens.lengths.tolist() == [4, 2]
    torch.testing.assert_close(tokens[0].float(), out[0, 1:-1], atol=2e-3, rtol=1e-2)


def test_the_same_seed_gives_the_same_weights(tmp_path, corpus):
    weights = []
    for name in ("one", "two"):
        pretrain(corpus, tmp_path / name, steps=3, **TINY)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_attention_on_a_cpu_is_in_fp32_and_stays_out_of_the_folder(tmp_path, corpus, attended):
    pretrain(corpus, tmp_path / "e", steps=1, precision="bf16", **TINY)
    assert attended == {torch.float32}  # bf16's backward is several times slower
    assert "onevec" not in (tmp_path / "e/config.json").read_text()


def test_bf16_and_half_size_on_disk(tmp_path, corpus):
    pretrain(corpus, tmp_path / "e", steps=2, precision="bf16", save_dtype="float16", **TINY)
    assert AutoModel.from_pretrained(tmp_path / "e", dtype="auto").dtype == torch.float16


@pytest.mark.parametrize("tokenizer", ["auto", "quantised"])
def test_frames_learn_and_encode(tmp_path, waves, tokenizer):
    settings = {**TINY, "dim": 32, "steps": 200, "learning_rate": 1e-2, "held_out": 0.3}
    settings["tokenizer"] = tokenizer
    made = pretrain(waves, tmp_path / "e", **settings)
    assert made["kind"] == "masked frame model"
    assert made["frame_dim"] == 4
    assert made["masked_accuracy"] > 2 * made["unigram_accuracy"]
    tokens = encode(waves[:5], tmp_path / "e", long="window", overlap=4, progress=False)
    with pytest.warns(UserWarning, match="longer than 2 and were cut"):
        encode(waves[:5], tmp_path / "e", max_length=2, progress=False)
    assert tokens.lengths.tolist() == [len(wave) for wave in waves[:5]]
    assert tokens.dim == 32
    short = min(waves, key=len)
    alone = encode([short], tmp_path / "e", dtype="float32", progress=False)
    both = [short, min(waves, key=lambda wave: abs(len(wave) - 20))]
    padded = encode(both, tmp_path / "e", dtype="float32", progress=False)
    torch.testing.assert_close(alone[0], padded[0], atol=1e-5, rtol=1e-4)
    layers = encode(both, tmp_path / "e", out=tmp_path / "s", layers=[0, 1], progress=False)
    assert list(layers.layers) == [0, 1]
    with pytest.raises(OnevecError, match=r"takes finite \(n, 4\) frames"):
        encode([np.ones((3, 5))], tmp_path / "e", progress=False)
    with pytest.raises(OnevecError, match="reads frames"):
        encode(["text"], tmp_path / "e", progress=False)
    with pytest.raises(OnevecError, match="got vocab_size=99 for dense frames"):
        pretrain(waves, tmp_path / "f", vocab_size=99)


def test_quantised_frames_are_the_numbers_of_their_clusters(tmp_path, waves, corpus):
    quantised = {**TINY, "tokenizer": "quantised"}
    pretrain(waves, tmp_path / "e", steps=2, held_out=0.3, **quantised)
    entry = FrameInput.load(tmp_path / "e")
    frames = torch.from_numpy(np.concatenate(waves)).float()
    away = (entry.standardise(frames)[:, None] - entry.codebook).square().sum(-1)
    torch.testing.assert_close(entry(frames), entry.table.weight[away.argmin(1)])
    # A frame that lies a little apart is still the same token.
    short = frames[:20]
    nudged = short + 1e-6 * torch.randn(short.shape, generator=_generator(0))
    same = encode([short.numpy(), nudged.numpy()], tmp_path / "e", progress=False)
    assert torch.equal(same[0], same[1])
    with pytest.raises(OnevecError, match="'quantised' for text, and it is of dense frames"):
        pretrain(corpus, tmp_path / "f", **quantised)
    with pytest.raises(OnevecError, match="got tokenizer='bpe' for dense frames"):
        pretrain(waves, tmp_path / "f", tokenizer="bpe")


def test_spans_keep_their_share():
    attention = torch.arange(60) < torch.randint(1, 61, (500, 1), generator=_generator(0))
    picked, fate = draw_spans(attention, 0.15, _generator(1))
    assert not picked[~attention].any()
    assert picked[attention].float().mean() == pytest.approx(0.15, abs=0.01)
    assert (fate[picked] < 0.8).float().mean() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("character", "abca", ["a", "b", "c", "a"]),
        ("whitespace", "open read close", ["open", "read", "close"]),
        ("kmer", "abcabca", ["abc", "abc", "a"]),
    ],
)
def test_vocabularies(kind, text, pieces):
    tokenizer = train_tokenizer([text] * 4, kind, kmer=3)
    assert tokenizer.tokenize(text) == pieces
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_subwords_round_trip(kind):
    texts = ["the cat sat on the mat", "the dog sat on the log", "naïve café"] * 5
    tokenizer = train_tokenizer(texts, kind, vocab_size=300)
    ids = tokenizer(texts[2], add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).strip() == texts[2]
    assert len(tokenizer) <= 300


def test_the_kind_of_vocabulary_is_guessed():
    assert choose_tokenizer(["ACGUACGU", "GGCA"]) == "character"
    assert choose_tokenizer(["open read read close"] * 50) == "whitespace"
    assert choose_tokenizer([f"word{i} other{i} text{i}" for i in range(50)]) == "bpe"


def lengths_of(*sizes):
    lengths = np.array(sizes)
    return FlatTokens(torch.arange(lengths.sum()), lengths, np.arange(len(lengths)))


def test_batches_cover_every_token_once_within_the_budget():
    flat = lengths_of(3, 40, 1, 14, 90, 0, 28)
    firsts = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        batches = one_pass(flat, context=16, framing=2, budget=64, rng=rng)
        seen = torch.cat([w for batch in batches for _, w in read_windows(flat, batch)])
        assert torch.equal(seen.sort().values, flat.values)
        for batch in batches:
            widths = batch[:, 2] - batch[:, 1]
            assert widths.min() >= 1
            assert widths.max() <= 14
            assert len(batch) * (widths.max() + 2) <= 64
        firsts.add(min(w[2] for batch in batches for w in batch if w[0] == 4 and w[1] == 0))
    assert len(firsts) > 5  # cut anew each time


def test_a_pass_is_the_same_wherever_it_is_entered():
    flat = lengths_of(*range(1, 60))
    options = {"context": 16, "framing": 0, "budget": 64, "seed": 5}
    whole = list(islice(endless(flat, **options), 200))
    assert len({tuple(row for row, _ in batch) for batch in whole}) > 100
    for skip in (0, 1, 77, 150):
        rest = islice(endless(flat, **options, skip=skip), 200 - skip)
        for batch, again in zip(whole[skip:], rest, strict=True):
            assert [row for row, _ in batch] == [row for row, _ in again]
            assert all(torch.equal(a, b) for (_, a), (_, b) in zip(batch, again, strict=True))


def test_masking_keeps_its_shares():
    corpus = assemble(["".join(row) for row in np.random.default_rng(0).choice(
        list("abcdefgh"), (200, 400))])  # fmt: skip
    text = Text(corpus, Pretraining.of({"tokenizer": "character"}), 0.0)
    windows = [(row, text.train.values[row * 400 : row * 400 + 400]) for row in range(40)]
    batch = text.collate(windows)
    inputs, hidden, picked = corrupt(batch, text, 0.15, _generator(1))
    assert picked[batch.content].float().mean() == pytest.approx(0.15, abs=0.01)
    assert not picked[:, 0].any()
    assert not picked[~batch.content].any()
    assert hidden[picked].float().mean() == pytest.approx(0.8, abs=0.02)
    assert not (hidden & ~picked).any()
    assert torch.equal(batch.targets[batch.content], torch.cat([w for _, w in windows]).long())
    assert torch.equal(inputs[~picked], batch.inputs[~picked])
    other = (inputs != batch.inputs) & picked & ~hidden
    assert other[picked].float().mean() == pytest.approx(0.1 * 7 / 8, abs=0.02)
    assert int(inputs[other].min()) >= 5


def test_the_defaults_are_the_benchmarks_recipe(tmp_path, corpus):
    made = pretrain(corpus, tmp_path / "e", steps=1)
    settings = made["settings"]
    wanted = {"layers": 4, "dim": 128, "heads": 4, "context": 512, "batch_tokens": 5_000,
              "mask": 0.15, "learning_rate": 1e-3, "objective": {"masked": [1.0, {}]},
              "dropout": 0.0}  # fmt: skip
    assert {name: settings[name] for name in wanted} == wanted
    config = json.loads((tmp_path / "e/config.json").read_text())
    assert config["architectures"] == ["ModernBertForMaskedLM"]
    short, long = (lengths_of(*[500] * count) for count in (1_000, 20_000))
    assert [_default_steps(flat, Pretraining.of({})) for flat in (short, long)] == [3_000, 8_000]
    assert _default_steps(lengths_of(*[500] * 4_000), Pretraining.of({})) == 4_000


@pytest.mark.parametrize(("size", "layers", "dim"), [("small", 6, 384), ("base", 12, 768)])
def test_sizes(size, layers, dim):
    recipe = Pretraining.of({"size": size})
    assert (recipe.shape.layers, recipe.shape.dim) == (layers, dim)
    assert Pretraining.of({"size": size, "layers": 2}).shape.layers == 2


def test_a_hundred_thousand_tokens_in_one_sequence(tmp_path):
    rng = np.random.default_rng(0)
    long = " ".join(rng.choice(["open", "read", "write", "close"], 100_000))
    short = [" ".join(rng.choice(["open", "read"], 20)) for _ in range(30)]
    made = pretrain([*short, long], tmp_path / "e", steps=2, tokenizer="whitespace", **TINY)
    assert made["tokens"] + 20 * made["held_out_sequences"] == 100_600
    with pytest.raises(OnevecError, match="at least 2"):
        pretrain([long], tmp_path / "alone", steps=2, **TINY)


def test_curves_tell_training_and_held_out_loss(tmp_path, corpus):
    made = pretrain(corpus, tmp_path / "e", steps=25, evaluations=5, **TINY)
    text = (tmp_path / "e/curves.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    told = [line for line in lines if line["of"] == "held_out"]
    assert [line["step"] for line in told] == [0, 5, 10, 15, 20, 25]
    assert [line["step"] for line in lines if line["of"] == "train"] == list(range(1, 26))
    assert made["held_out"]["loss"] == told[-1]["loss"]
    assert made["best_held_out"]["loss"] == min(line["loss"] for line in told)
    assert made["corpus"]["counts"]["kept"] == made["sequences"] + made["held_out_sequences"]


def test_a_loss_that_is_no_number_ends_the_run(tmp_path, corpus):
    out, kept = tmp_path / "e", tmp_path / "state"
    with pytest.raises(OnevecError, match=r"the loss is nan at step \d+ of 30: pass a lower"):
        pretrain(corpus, out, steps=30, checkpoint=kept, learning_rate=1e30, **TINY)
    assert not out.exists()


def test_what_cannot_be_judged_has_no_held_out_loss(tmp_path):
    sequences = ["abcdabcdab" * 2 + "abcd"[k % 4] * (k // 4) for k in range(40)]
    settings = TINY | {"held_out": 0.03, "objective": "crops=1"}
    made = pretrain(sequences, tmp_path / "e", steps=2, tokenizer="character", **settings)
    assert made["held_out_sequences"] == 1
    assert "loss" not in made["held_out"]  # a contrast takes two
    assert made["best_held_out"] == {}


@pytest.mark.parametrize(
    ("corpus", "settings", "words"),
    [(["a"], {}, "at least 2"), (["a", "a"], {}, "besides its copies"),
     (["", " "], {}, "at least 2"), ("abc", {}, "one string"),
     ([1, 2], {}, "is a int"), (["ab"] * 4, {"dim": 15}, "dim=15"),
     (["ab"] * 4, {"mask": 0}, "mask=0"),
     (["ab"] * 4, {"stepz": 1}, "'stepz'"), (["ab", "b"], {"tokenizer": "x"}, "tokenizer 'x'"),
     (["ab"] * 4, {"size": "huge"}, '"small" or "base"'), (["ab"] * 4, {"dropout": 1}, "dropout=1"),
     (["ab"] * 4, {"evaluations": 0}, "evaluations=0"), (["ab"] * 4, {"device": "xpu"}, "xpu")],
)  # fmt: skip
def test_bad_input_leaves_nothing(tmp_path, corpus, settings, words):
    with pytest.raises(OnevecError, match=words):
        pretrain(corpus, tmp_path / "e", **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path, corpus):
    (tmp_path / "e").mkdir()
    with pytest.raises(OnevecError, match="exists"):
        pretrain(corpus, tmp_path / "e", steps=1, **TINY)
