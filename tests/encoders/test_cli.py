"""`onevec pretrain` as a person would call it: hostile files in, an encoder and a count out."""

import json

import numpy as np
import pytest

from tests.test_cli import run

SMALL = ("--steps", 2, "--context", 32, "--batch-tokens", 256, "--device", "cpu")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    room = tmp_path_factory.mktemp("pretrain")
    rng = np.random.default_rng(0)
    rows = ["".join(rng.choice(list("ACGU"), 40)) for _ in range(60)]
    (room / "a.txt").write_bytes("\n".join([*rows[:30], rows[0], "", "AC\0GU"]).encode())
    lines = [json.dumps({"text": row}) for row in rows[30:]]
    (room / "b.jsonl").write_text("\n".join([*lines, "{broken", rows[31][:3]]), encoding="utf-8")
    return room


def test_several_files_objectives_and_a_count(room, tmp_path):
    with pytest.warns(UserWarning, match="3 of 65"):
        code, out, error = run(
            "pretrain", room / "a.txt", room / "*.jsonl", "--out", tmp_path / "e",
            "--objective", "masked=1,crops=0.1", "--near-duplicates", 0.8,
            "--min-length", 4, "--max-length", 30, "--checkpoint", tmp_path / "state", *SMALL,
        )  # fmt: skip
    assert code == 0, error
    assert "65 read, 60 kept, 60 of them cut; left out: 3 broken, 1 empty, 1 duplicates" in error
    assert "2 steps" in out
    assert "held-out masked accuracy" in out
    assert "\n" not in out.strip()
    made = json.loads((tmp_path / "e/pretrain.json").read_text())
    assert [entry["read"] for entry in made["corpus"]["files"]] == [33, 32]
    assert made["corpus"]["settings"]["near_duplicates"] == 0.8
    assert not (tmp_path / "state").exists()
    code, out, _ = run("inspect", tmp_path / "e", "--json")
    assert json.loads(out)["kind"] == "encoder"


def test_causal_frames_and_json(room, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "w.npz", **{str(i): rng.normal(size=(20, 3)) for i in range(20)})
    code, out, error = run(
        "pretrain", tmp_path / "w.npz", "--out", tmp_path / "e", "--causal", "--json", *SMALL
    )
    assert code == 0, error
    made = json.loads(out)
    assert made["kind"] == "causal frame model"
    assert "next_token_accuracy" in made
    code, out, error = run("inspect", tmp_path / "e", "--json")
    assert json.loads(out)["clusters"] == made["clusters"], error


@pytest.mark.parametrize(
    ("words", "say"),
    [(("--objective", "cpc"), "needs a causal transformer"), (("--size", "big"), "size='big'"),
     (("--near-duplicates", 2), "near_duplicates=2.0"), (("--max-length", 0), "longest=0"),
     (("--objective", "mask"), "did you mean 'masked'"), (("--device", "tpu"), "device='tpu'"),
     (("--checkpoint", "/"), "/ is not replaced"), (("--seed", 2**32), "4294967295"),
     (("--objective", "masked=1,masked=2"), "'masked' twice"),
     (("--tokenizer", "bpe", "--vocab-size", 50), "at least 261"),
     (("--held-out", 1), "held_out=1")],
)  # fmt: skip
def test_wrong_options_are_one_sentence_and_leave_nothing(room, tmp_path, words, say):
    code, _, error = run("pretrain", room / "b.jsonl", "--out", tmp_path / "e", *SMALL, *words)
    assert code == 2
    assert say in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", ["", "/state"])
def test_a_checkpoint_in_the_place_of_the_result_is_refused(room, tmp_path, inside):
    out = tmp_path / "e"
    words = (room / "b.jsonl", "--out", out, "--checkpoint", f"{out}{inside}")
    code, _, error = run("pretrain", *words, *SMALL)
    assert code == 2 and "put it beside" in error
    assert list(tmp_path.iterdir()) == []
    texts = tmp_path / "t.txt"
    texts.write_text("abc\nabd\nabe")
    code, _, error = run("finetune", "no-encoder", texts, *words[1:])
    assert code == 2 and "put it beside" in error


def test_an_objective_without_anything_to_learn_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join("abcdefghijklmnopqrstuvwxyz"))
    words = ("--tokenizer", "character", "--objective", "crops", *SMALL)
    code, _, error = run("pretrain", tmp_path / "a.txt", "--out", tmp_path / "e", *words)
    assert code == 2 and "'crops' found nothing to learn from" in error
    assert not (tmp_path / "e").exists()


def test_settings_are_checked_before_a_long_reading(room, tmp_path):
    code, _, error = run("pretrain", "none.txt", "--out", tmp_path / "e", "--precision", "fp8")
    assert code == 2
    assert "fp8" in error
