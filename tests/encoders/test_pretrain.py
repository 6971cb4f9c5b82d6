import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from onevec import OnevecError, encode, pretrain
from onevec.encoders.frames import draw_spans
from onevec.encoders.pretrain import _batches, _generator, read_corpus
from onevec.encoders.settings import Recipe
from onevec.encoders.text import mask_tokens
from onevec.encoders.tokenizer import choose_tokenizer, train_tokenizer

TINY = {"layers": 1, "dim": 16, "heads": 2, "context": 32, "batch_tokens": 256, "seed": 3}


@pytest.fixture
def corpus():
    """A language in which each letter's neighbours are known."""
    rng = np.random.default_rng(0)
    return [
        ("abcdef" * 14)[start : start + n] for start, n in rng.integers((0, 8), (6, 70), (120, 2))
    ]


def test_learns_a_language_and_is_an_ordinary_folder(tmp_path, corpus):
    losses = []
    made = pretrain(
        corpus,
        tmp_path / "encoder",
        steps=300,
        learning_rate=5e-3,
        held_out=0.3,
        on_step=lambda step, steps, loss: losses.append(loss),
        **TINY,
    )
    assert len(losses) == made["steps"] == 300
    assert made["masked_accuracy"] > 2 * made["unigram_accuracy"]
    assert json.loads((tmp_path / "encoder/pretrain.json").read_text()) == made
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    model = AutoModel.from_pretrained(tmp_path / "encoder", dtype=torch.float32)
    out = model(**tokenizer(["abcd"], return_tensors="pt")).last_hidden_state
    assert out.shape == (1, 6, 16)
    tokens = encode(["abcd", "ab"], tmp_path / "encoder", progress=False)
    assert tokens.lengths.tolist() == [4, 2]
    torch.testing.assert_close(tokens[0].float(), out[0, 1:-1], atol=2e-3, rtol=1e-2)


def test_the_same_seed_gives_the_same_weights(tmp_path, corpus):
    weights = []
    for name in ("one", "two"):
        pretrain(corpus, tmp_path / name, steps=3, **TINY)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_bf16_and_half_size_on_disk(tmp_path, corpus):
    pretrain(corpus, tmp_path / "e", steps=2, precision="bf16", save_dtype="float16", **TINY)
    assert AutoModel.from_pretrained(tmp_path / "e", dtype="auto").dtype == torch.float16


@pytest.fixture
def waves():
    """One sine wave in frames of 4 samples and 8 phases: neighbours tell what is hidden."""
    rng = np.random.default_rng(0)
    phases = np.sin(np.pi / 4 * np.arange(8)[:, None] + np.arange(4) / 8).astype(np.float32)
    return [
        phases[(start + np.arange(n)) % 8] for start, n in rng.integers((0, 3), (8, 60), (80, 2))
    ]


def test_frames_learn_and_encode(tmp_path, waves):
    made = pretrain(waves, tmp_path / "e", steps=300, learning_rate=5e-3, held_out=0.3, **TINY)
    assert made["kind"] == "masked frame model"
    assert made["frame_dim"] == 4
    assert made["masked_accuracy"] > 2 * made["unigram_accuracy"]
    tokens = encode(waves[:5], tmp_path / "e", long="window", overlap=4, progress=False)
    with pytest.warns(UserWarning, match="longer than 2 and were cut"):
        encode(waves[:5], tmp_path / "e", max_length=2, progress=False)
    assert tokens.lengths.tolist() == [len(wave) for wave in waves[:5]]
    assert tokens.dim == 16
    short = min(waves, key=len)
    alone = encode([short], tmp_path / "e", dtype="float32", progress=False)
    both = [short, min(waves, key=lambda wave: abs(len(wave) - 20))]
    padded = encode(both, tmp_path / "e", dtype="float32", progress=False)
    torch.testing.assert_close(alone[0], padded[0], atol=1e-5, rtol=1e-4)
    layers = encode(both, tmp_path / "e", out=tmp_path / "s", layer=[0, 1], progress=False)
    assert list(layers.layers) == [0, 1]
    with pytest.raises(OnevecError, match=r"takes finite \(n, 4\) frames"):
        encode([np.ones((3, 5))], tmp_path / "e", progress=False)
    with pytest.raises(OnevecError, match="reads frames"):
        encode(["text"], tmp_path / "e", progress=False)


def test_frames_from_a_file(tmp_path, waves):
    np.savez(tmp_path / "w.npz", **{str(i): wave for i, wave in enumerate([*waves[:5], waves[0]])})
    assert len(read_corpus(tmp_path / "w.npz")) == 5


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


def test_batches_cover_every_token_once_within_the_budget():
    recipe = Recipe(context=16, batch_tokens=64)
    sequences = [torch.arange(n) + 1_000 * i for i, n in enumerate((3, 40, 1, 14, 90))]
    batches = list(_batches(sequences, recipe, _generator(0), 2))
    seen = torch.cat([window for batch in batches for window in batch]).sort().values
    assert torch.equal(seen, torch.cat(sequences).sort().values)
    for batch in batches:
        assert len(batch) * (max(map(len, batch)) + 2) <= 64


def test_masking_keeps_its_shares():
    tokenizer = train_tokenizer(["abcdefgh"] * 3, "character")
    batch = [torch.randint(5, len(tokenizer), (400,), generator=_generator(0)) for _ in range(40)]
    inputs, attention, labels = mask_tokens(batch, tokenizer, 0.15, _generator(1))
    picked = labels != -100
    assert picked[attention].float().mean() == pytest.approx(0.15, abs=0.01)
    assert not picked[:, 0].any()
    masked = inputs[picked] == tokenizer.mask_token_id
    assert masked.float().mean() == pytest.approx(0.8, abs=0.02)
    original = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
    assert torch.equal(labels[:, 1:-1][picked[:, 1:-1]], original[picked[:, 1:-1]])
    assert torch.equal(inputs[:, 1:-1][~picked[:, 1:-1]], original[~picked[:, 1:-1]])


def test_corpus_files(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("split,sequence\na,xy\nb,zz\na,xy\na,yx\n")
    assert read_corpus(path, column="sequence", where="split=a") == ["xy", "yx"]
    with pytest.raises(OnevecError, match="no column 'part'"):
        read_corpus(path, column="sequence", where="part=a")
    with pytest.raises(OnevecError, match="COLUMN=VALUE"):
        read_corpus(path, column="sequence", where="split")


@pytest.mark.parametrize(
    ("corpus", "settings", "words"),
    [(["a"], {}, "at least 2"), (["", " "], {}, "at least 2"), ("abc", {}, "one string"),
     ([1, 2], {}, "is a int"), (["ab"] * 4, {"dim": 15}, "dim=15"),
     (["ab"] * 4, {"mask": 0}, "mask=0"),
     (["ab"] * 4, {"stepz": 1}, "'stepz'"), (["ab"] * 4, {"tokenizer": "x"}, "tokenizer 'x'")],
)  # fmt: skip
def test_bad_input_leaves_nothing(tmp_path, corpus, settings, words):
    with pytest.raises(OnevecError, match=words):
        pretrain(corpus, tmp_path / "e", **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path, corpus):
    (tmp_path / "e").mkdir()
    with pytest.raises(OnevecError, match="exists"):
        pretrain(corpus, tmp_path / "e", steps=1, **TINY)
