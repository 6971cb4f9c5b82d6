"""Every objective, alone and mixed: it learns, its folder opens, and wrong pairs are refused."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from onevec import OnevecError, encode, pretrain
from onevec.encoders.corpus import assemble
from onevec.encoders.pairs import CropPairs, HalvesOrder
from onevec.encoders.settings import Pretraining
from onevec.encoders.table import FINETUNING, PRETRAINING
from onevec.encoders.terms import (
    MaskedModelling,
    NextToken,
    PredictiveCoding,
    ReplacedTokens,
    draw_from,
)
from onevec.encoders.text import Text
from onevec.objectives import OBJECTIVES, Mixture
from tests.encoders.conftest import TINY

MIXED = "masked=1,crops=0.1,sequence_order=0.1"
CAUSAL = {"next_token": 1.0, "cpc": (0.5, {"steps": 2}), "crops": 0.1}
LEARNS = {  # loss after over loss before, on the sequences kept apart
    "masked": 0.85, "replaced_tokens": 0.85, "crops": 0.85, "simcse": 0.85,
    "next_sequence": 0.97, "sequence_order": 1.0, "next_token": 0.7, "cpc": 0.8,
}  # fmt: skip


@pytest.fixture(scope="module")
def languages():
    """Sequences of four languages; halves and crops tell which, and letters fall in order."""
    rng = np.random.default_rng(0)
    rows = []
    for row in range(160):
        letters = "abcdefgh"[2 * (row % 4) :][:2]
        size = rng.integers(12, 30)
        start = rng.choice(list(letters + "x"), size)
        rows.append("".join(start) + "z" * int(rng.integers(6, 12)))
    return rows


def curve(folder):
    lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    return [line for line in lines if line["of"] == "held_out"]


def test_an_idea_has_one_name_in_all_tables():
    """What only one table has does not hide another's objective under a name of its own."""
    tables = OBJECTIVES, PRETRAINING, FINETUNING
    everywhere = {name for name in set().union(*tables) if sum(name in t for t in tables) > 1}
    assert everywhere == {
        "masked", "cpc", "next_sequence", "sequence_order", "denoising", "crops", "simcse",
    }  # fmt: skip


@pytest.mark.parametrize("name", PRETRAINING)
def test_each_alone_learns_and_opens(tmp_path, languages, name):
    causal = PRETRAINING[name].causal is True
    made = pretrain(
        languages, tmp_path / "e", objective=name, causal=causal, steps=60, learning_rate=1e-2,
        held_out=0.3, evaluations=2, **TINY,
    )  # fmt: skip
    told = curve(tmp_path / "e")
    assert told[-1]["loss"] < LEARNS[name] * told[0]["loss"]
    assert name in {key.split(".")[0] for key in told[0]}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "e")
    model = AutoModel.from_pretrained(tmp_path / "e", dtype=torch.float32).eval()
    out = model(**tokenizer(["abcd"], return_tensors="pt")).last_hidden_state
    tokens = encode(["abcd", "ab"], tmp_path / "e", dtype="float32", progress=False)
    torch.testing.assert_close(tokens[0], out[0, 1:-1].detach(), atol=1e-5, rtol=1e-4)
    assert made["kind"] == ("causal" if causal else "masked") + " language model"
    guessing = name in ("masked", "next_token")
    assert (f"{name}_accuracy" in made) == guessing
    kind = json.loads((tmp_path / "e/config.json").read_text())["architectures"][0]
    assert kind.endswith("LM" if guessing else "Model")


@pytest.mark.parametrize(("spec", "causal"), [(MIXED, False), (CAUSAL, True)])
def test_mixtures_learn_every_part(tmp_path, languages, spec, causal):
    made = pretrain(
        languages, tmp_path / "e", objective=spec, causal=causal, steps=80, learning_rate=1e-2,
        held_out=0.3, evaluations=2, precision="bf16", **TINY,
    )  # fmt: skip
    first, *_, last = curve(tmp_path / "e")
    mixture = Mixture(spec, PRETRAINING)
    for name in mixture.members:
        keys = [key for key in first if key.split(".")[0] == name]
        assert keys
        assert sum(last[key] for key in keys) <= LEARNS[name] * sum(first[key] for key in keys)
    parts = [
        (name, term) for name in mixture.members for term in last if term.split(".")[0] == name
    ]
    total = sum(mixture.weight(term) * last[term] for _, term in parts)
    assert last["loss"] == pytest.approx(total, abs=1e-3)
    assert made["settings"]["objective"] == json.loads(json.dumps(mixture.parts))


@pytest.mark.parametrize("name", [n for n, t in PRETRAINING.items() if "frames" in t.kinds])
def test_frames_take_all_but_replaced_tokens(tmp_path, waves, name):
    causal = PRETRAINING[name].causal is True
    pretrain(waves, tmp_path / "e", objective=name, causal=causal, steps=2, held_out=0.3, **TINY)
    AutoModel.from_pretrained(tmp_path / "e")
    tokens = encode(waves[:3], tmp_path / "e", max_length=99, progress=False)
    assert tokens.lengths.tolist() == [len(wave) for wave in waves[:3]]


@pytest.mark.filterwarnings("ignore:.* are not in the vocabulary")
def test_a_causal_model_sees_nothing_that_follows(tmp_path, corpus):
    pretrain(corpus, tmp_path / "e", causal=True, steps=2, **TINY)
    pair = encode(["abcdef", "abcxxx"], tmp_path / "e", dtype="float32", progress=False)
    torch.testing.assert_close(pair[0][:3], pair[1][:3], atol=1e-6, rtol=0)
    assert not torch.allclose(pair[0][3:], pair[1][3:], atol=1e-3)


@pytest.fixture(scope="module")
def material(corpus):
    recipe = Pretraining.of({**TINY, "tokenizer": "character", "dropout": 0.0})
    return Text(assemble(corpus), recipe, 0.0)


def windows_of(material, *words):
    encode_ = material.tokenizer.backend_tokenizer.encode
    return [(row, torch.tensor(encode_(word, add_special_tokens=False).ids))
            for row, word in enumerate(words)]  # fmt: skip


def ready(term, material, causal=False):
    term.build(material.body, Pretraining.of({**TINY, "causal": causal}))
    return term


def test_what_is_masked_cannot_be_read(material):
    """The logits at a hidden place do not change with what stands there."""
    term = ready(MaskedModelling(), material)
    prepared = term.prepare(
        windows_of(material, "abcdefabcdef", "bcdefabcdefa"), material, torch.Generator()
    )
    material.body.eval()
    logits, targets = term.guesses(material.body, prepared)
    other = dict(prepared)
    other["inputs"] = prepared["inputs"].masked_fill(prepared["hidden"], 7)
    torch.testing.assert_close(term.guesses(material.body, other)[0], logits)
    assert len(targets) == int(prepared["picked"].sum()) == len(logits)


def test_next_token_asks_for_the_token_that_comes(material):
    term = ready(NextToken(), material)
    prepared = term.prepare(windows_of(material, "abc", "f"), material, torch.Generator())
    text = material.tokenizer.convert_ids_to_tokens(prepared["targets"].tolist())
    assert text == ["a", "b", "c", "[SEP]", "f", "[SEP]"]


def test_replacements_follow_the_generators_softmax():
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).repeat(20_000, 1)
    draw = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    share = draw_from(logits, draw).bincount(minlength=3) / 20_000
    torch.testing.assert_close(share, torch.tensor([0.2, 0.5, 0.3]), atol=0.02, rtol=0)
    assert draw_from(logits[:2], torch.tensor([0.0, 1.0])).tolist() == [0, 2]


def test_the_discriminator_sends_no_gradient_to_the_generator(material):
    term = ready(ReplacedTokens(), material)
    prepared = term.prepare(
        windows_of(material, *["abcdefabcdef"] * 4), material, torch.Generator()
    )
    terms = term(material.body, prepared)
    terms["discriminator"].backward()
    assert all(p.grad is None for p in term.generator.parameters())
    assert all(p.grad is None for p in term.widen.parameters())
    assert term.judge.weight.grad is not None
    assert term.weight("discriminator") == 50
    small = sum(p.numel() for p in term.generator.parameters())
    assert small < sum(p.numel() for p in material.body.network.model.layers.parameters())
    material.body.zero_grad()


def test_views_are_parts_of_their_sequence():
    tokens = torch.arange(40)
    generator = torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(50):
        for crop in CropPairs().parts(tokens, generator):
            assert 10 <= len(crop) <= 20
            assert torch.equal(crop, torch.arange(int(crop[0]), int(crop[-1]) + 1))
            starts.add(int(crop[0]))
    assert min(starts) < 5
    assert max(starts) > 20
    first, second = HalvesOrder().parts(tokens, generator)
    assert torch.equal(torch.cat([first, second]), tokens)
    assert [len(part) for part in CropPairs().parts(tokens[:2], generator)] == [1, 1]


def test_pairs_pass_over_what_is_too_short(material):
    term = ready(CropPairs(), material)
    prepared = term.prepare(windows_of(material, "a", "ab", "abc"), material, torch.Generator())
    assert prepared["rows"].tolist() == [1, 2]
    assert len(prepared["inputs"]) == 4
    assert term.prepare(windows_of(material, "a", "ab"), material, torch.Generator()) is None


def test_windows_of_one_sequence_are_no_negatives(material):
    term = ready(CropPairs(), material)
    windows = [(0, tokens) for _, tokens in windows_of(material, "abcdef", "cdefab", "fabcde")]
    prepared = term.prepare(windows, material, torch.Generator())
    assert term(material.body, prepared)["loss"].item() == 0.0


@torch.no_grad()
def test_cpc_is_the_formula(material):
    """InfoNCE over the drawn places; equal tokens are no negatives of each other."""
    term = ready(PredictiveCoding(steps=2, places=6), material)
    prepared = term.prepare(windows_of(material, "abcdef", "badf"), material, torch.Generator())
    material.body.eval()
    inputs = prepared["inputs"]
    embedded = material.body.embed(inputs)
    states = material.body.run(embedded, prepared["attention"])
    for step, found in enumerate(term(material.body, prepared).values(), 1):
        losses = []
        places = prepared[f"step_{step}"].tolist()
        ids = [int(inputs[r, t + step]) for r, t in places]
        for row, place in places:
            guess = term.predict[step - 1](states[row, place])
            scores = [float(guess @ term.project(embedded[r, t + step])) / 8 for r, t in places]
            mine = places.index([row, place])
            shown = [s for j, s in enumerate(scores) if j == mine or ids[j] != ids[mine]]
            losses.append(math.log(sum(map(math.exp, shown))) - scores[mine])
        assert float(found) == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"objective": "cpc"}, "'cpc' needs a causal transformer and this one is bidirectional"),
     ({"objective": "masked", "causal": True}, "needs a bidirectional .* causal=False"),
     ({"objective": "maskd"}, "did you mean 'masked'"),
     ({"objective": "masked=0"}, "above 0"), ({"objective": "masked=much"}, "'much'"),
     ({"objective": {}}, None), ({"objective": 3}, "pass a name"),
     ({"objective": {"crops": (1, {"temp": 1})}}, "does not take"),
     ({"objective": {"cpc": (1, {"places": 1})}, "causal": True}, "places=1"),
     ({"objective": {"replaced_tokens": (1, {"share": 2})}}, "at most 1"),
     ({"objective": "simcse", "dropout": 0.0}, "pass dropout=0.1")],
)  # fmt: skip
def test_wrong_objectives_are_one_sentence(tmp_path, settings, words):
    if words is None:  # nothing asked for: the default
        made = pretrain(["abc", "bcd", "cde"], tmp_path / "e", steps=1, **settings, **TINY)
        assert list(made["settings"]["objective"]) == ["masked"]
        return
    with pytest.raises(OnevecError, match=words):
        pretrain(["abc", "bcd"], tmp_path / "e", **settings, **TINY)
    assert list(tmp_path.iterdir()) == []


def test_frames_refuse_replaced_tokens(tmp_path, waves):
    with pytest.raises(OnevecError, match="'replaced_tokens' takes text, and the corpus is frames"):
        pretrain(waves, tmp_path / "e", objective="replaced_tokens", **TINY)
    assert list(tmp_path.iterdir()) == []
