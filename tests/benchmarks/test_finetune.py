"""Rows and recipes of the fine-tuning benchmark, on a tiny encoder."""

import json
import sys

import numpy as np
import pytest
from transformers import BertConfig, BertModel

import finetune as command
from onevec.encoders.tokenizer import train_tokenizer
from onevec.files import appears_whole
from protocol import tasks


@pytest.fixture(scope="module")
def unit():
    rng = np.random.default_rng(0)
    rows = []
    for row in range(200):
        letters = list("abcdefgh")[4 * (row % 2) :][:6]
        text = " ".join("".join(rng.choice(letters, 3)) for _ in range(rng.integers(4, 9)))
        rows.append((text, str(row % 2), row % 4 < 3))
    return tasks.text_unit("trec", rows)


@pytest.fixture(scope="module")
def start(unit, tmp_path_factory):
    """A sentence-transformers folder with a tiny BERT."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    room = tmp_path_factory.mktemp("start")
    tokenizer = train_tokenizer(unit.train, "character")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), intermediate_size=16, **sizes))
    bert.save_pretrained(room / "bert")
    tokenizer.save_pretrained(room / "bert")
    with command.peers._quiet(), appears_whole(room / "st") as part:
        modules = [Transformer(str(room / "bert")), Pooling(16)]
        SentenceTransformer(modules=modules).save_pretrained(str(part), create_model_card=False)
    return room / "st"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the peers' packages deprecate
def test_a_run_and_its_continuation(unit, start, tmp_path, monkeypatch):
    monkeypatch.setattr(command.tasks, "units", lambda name, data: [unit])
    monkeypatch.setattr(command, "start_of", lambda name: start)
    monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
    out = tmp_path / "r.json"
    words = ["--data", "x", "--only", "trec", "--steps", "2", "--peer-steps", "2", "--rounds", "1"]
    words += ["--precision", "fp32"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words, "--out", str(out)])
    command.main()
    result = json.loads(out.read_text())
    entry = result["rows"]["trec"]
    rows = entry["rows"]
    states = ("frozen", "fine-tuned") + ("last state",) * (entry["best step"] == 0)
    assert list(rows) == [f"{state} + {what}" for state in states for what in ("mean", "onevec")]
    assert rows["frozen + mean"]["gain"] == 0
    assert all(0 <= row["score"] <= 100 for row in rows.values())
    recipes = result["peers"]
    assert list(recipes) == [f"trec, {n}, fp32, last" for n in command.PEERS]
    for recipe in recipes.values():
        assert [len(each) for each in recipe["seconds"].values()] == [1, 1]
        assert set(recipe["score"]) == {"theirs", "ours"}
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    command.main()  # all of it is cached
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == cached
    assert json.loads(out.read_text()) == result
    words[words.index("--steps") + 1] = "3"
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words, "--out", str(out)])
    command.main()  # of other settings the rows alone
    again = json.loads(out.read_text())
    assert again["rows"]["trec"]["steps"] == 3
    assert again["peers"] == recipes
