"""A killed run goes on as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from onevec import OnevecError, pretrain
from onevec.train import checkpoint
from tests.encoders.conftest import TINY

OBJECTIVES = "masked=1,simcse=0.1"
RUN = {"steps": 40, "checkpoint_steps": 5, "evaluations": 4, "objective": OBJECTIVES,
       "threads": 1, "device": "cpu", "tokenizer": "bpe", "vocab_size": 300}  # fmt: skip
SCRIPT = """
import json, sys, time
from onevec import pretrain

corpus, out, state, pause, settings = json.loads(sys.argv[1])

def on_step(step, steps, loss):
    print(step, flush=True)
    time.sleep(pause)

pretrain(corpus, out, checkpoint=state, on_step=on_step, **settings)
"""


def same(one, other):
    for name in ("model.safetensors", "curves.jsonl", "tokenizer.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_kill_nine_and_resume_is_exact(tmp_path, corpus):
    settings = {**RUN, **TINY}
    pretrain(corpus, tmp_path / "whole", **settings)
    state = tmp_path / "state"
    told = json.dumps([corpus, str(tmp_path / "e"), str(state), 0.05, settings])
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, told], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 17:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "e").exists()
    steps = []
    made = pretrain(
        corpus, tmp_path / "e", checkpoint=state, **settings,
        on_step=lambda step, *_: steps.append(step),
    )  # fmt: skip
    assert steps == list(range(16, 41))
    same(tmp_path / "e", tmp_path / "whole")
    assert not state.exists()
    assert made["steps"] == 40


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, corpus, monkeypatch):
    state, kept = tmp_path / "state", tmp_path / "kept"
    settings = {**RUN, **TINY}

    class StopError(Exception):
        pass

    def stop(step, *_):
        if step == 12:
            raise StopError

    with pytest.raises(StopError):
        pretrain(corpus, tmp_path / "e", checkpoint=state, on_step=stop, **settings)
    shutil.copy(state, kept)
    for change in ({"random_state": 4}, {"objective": "masked"}, {"mask": 0.2}):
        with pytest.raises(OnevecError, match="other data or settings"):
            pretrain(corpus, tmp_path / "e", checkpoint=state, **{**settings, **change})
    with pytest.raises(OnevecError, match="other data or settings"):
        pretrain([*corpus, "abba"], tmp_path / "e", checkpoint=state, **settings)
    assert state.read_bytes() == kept.read_bytes()
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(OnevecError, match="written by another version of onevec: end that run"):
        pretrain(corpus, tmp_path / "e", checkpoint=state, **settings)
    monkeypatch.undo()
    state.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(OnevecError, match="cannot be read"):
        pretrain(corpus, tmp_path / "e", checkpoint=state, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "state"]
    shutil.copy(kept, state)
    pretrain(corpus, tmp_path / "e", checkpoint=state, **settings)
    pretrain(corpus, tmp_path / "whole", **settings)
    same(tmp_path / "e", tmp_path / "whole")


@pytest.mark.parametrize("tokenizer", ["auto", "quantised"])
def test_frames_and_a_causal_model_resume_too(tmp_path, waves, tokenizer):
    settings = {**TINY, "steps": 9, "checkpoint_steps": 4, "objective": "next_token=1,cpc=1",
                "causal": True, "held_out": 0.2, "tokenizer": tokenizer}  # fmt: skip
    pretrain(waves, tmp_path / "whole", **settings)

    def stop(step, *_):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(waves, tmp_path / "e", checkpoint=tmp_path / "s", on_step=stop, **settings)
    pretrain(waves, tmp_path / "e", checkpoint=tmp_path / "s", **settings)
    for name in ("model.safetensors", "curves.jsonl", "frames.safetensors"):
        assert (tmp_path / "e" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_make_one_encoder(tmp_path, corpus):
    """Under `torchrun` both take their own batches and end with one folder."""
    settings = {**TINY, "steps": 3, "objective": "masked=1,crops=0.1", "device": "cpu"}
    told = json.dumps([corpus, str(tmp_path / "e"), str(tmp_path / "s"), 0, settings])
    port = str(20_000 + os.getpid() % 20_000)
    began = time.time()
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, told],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert time.time() - began < 120
    made = json.loads((tmp_path / "e/pretrain.json").read_text())
    assert made["steps"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e"]
