"""Fine-tune an encoder on raw sequences, without labels. Read `finetune` from top to bottom.

Views are made on the side of the input and encoded alone, so that no context leaks. Every draw of
a step comes from seed and step alone, so a run that was killed goes on exactly. What is kept is
the state with the best score on held-out sequences, which may be the start; others, that selected
nothing, judge it against the encoder as it was.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onevec.encoders.settings import versions
from onevec.encoders.table import FINETUNING
from onevec.encoders.tuning.settings import Finetuning
from onevec.encoders.tuning.student import Student
from onevec.encoders.tuning.trainee import open_trainee
from onevec.encoders.tuning.work import Work, save_pooler
from onevec.errors import InputError
from onevec.files import appears_whole, check_apart, check_target
from onevec.objectives import Mixture
from onevec.tokens.huggingface import quiet
from onevec.train.loop import OnStep, run_steps
from onevec.train.optimizer import ScheduledAdamW
from onevec.train.settings import Trained
from onevec.train.state import Run
from onevec.train.world import World

MANIFEST = "finetune.json"


def finetune(
    model: str | Path,
    corpus: Sequence[Any],
    out: str | Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    on_step: OnStep | None = None,
    corpus_manifest: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fine-tune an encoder on raw sequences, without labels.

    Parameters
    ----------
    model : path or str
        A Hugging Face folder or hub name, a sentence-transformers folder, or an encoder of
        `onevec pretrain` (text or frames).
    corpus : sequence of str, or of (n, dim) arrays
        Raw sequences (empty ones are skipped and counted), or the frames it reads.
    out : path
        The folder to make: of the kind of ``model``, and opened by the same packages. It appears
        whole or not at all. A pooler that was trained too stands in its folder ``onevec``, for
        `onevec.load`.
    overwrite : bool
        Whether a fine-tuned encoder that stands there may be replaced: it is not if it scores
        better on the held-out sequences; the new one is then written beside it.
    force : bool
        Replace it all the same.
    on_step : callable, optional
        Called as ``on_step(step, steps, loss)``.
    corpus_manifest : mapping, optional
        What `onevec.encoders.corpus.assemble` told of the corpus: it goes into the manifest.
    **settings
        Fields of `Finetuning`, such as ``objective="crops=1,masked=0.5"``, ``layers="lora"``,
        ``pooler="attention"``, ``steps=500``.

    Returns
    -------
    dict
        The manifest, also written as ``finetune.json``: settings, what was trained, the loss
        curve, and the ``verdict`` against the encoder as it was.

    Raises
    ------
    InputError
        If the encoder cannot be trained, does not read the corpus, or a setting breaks a rule;
        or a better model is kept at ``out``.

    Notes
    -----
    The same seed, machine and thread count give the same weights.
    """
    given = Finetuning.of(settings)
    mixture = Mixture(given.objective, FINETUNING)
    out = check_target(
        out,
        overwrite or force,
        what="fine-tuned encoder",
        ours=lambda at: (at / MANIFEST).is_file(),
    )
    check_apart(given.checkpoint, out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("fine-tuning runs in one process: call it without torchrun")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    began = time.perf_counter()
    trainee = open_trainee(model, corpus, given.random_state)
    if trainee.limit is not None and given.max_length > trainee.limit:
        given = Finetuning.of(settings | {"max_length": trainee.limit})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given.random_state)
        work = Work(trainee, mixture, given)
        existing = None if force else work.existing(out, corpus)
        run = _train(work, on_step)
        manifest = work.conclude(run) | {
            "corpus": corpus_manifest,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "seconds": round(time.perf_counter() - began, 1),
        }
        kept = work.better(existing)
        place = out if kept is None else _beside(out)
        with quiet(), appears_whole(place) as part:
            trainee.save(part)
            if any(pooler.learned for pooler in work.poolers):
                save_pooler(work, part, manifest["verdict"]["sentence"])
            text = json.dumps(manifest, indent=2)
            (part / MANIFEST).write_text(text + "\n")
    if given.checkpoint is not None:
        Path(given.checkpoint).unlink(missing_ok=True)
    if kept is not None:
        raise InputError(
            f"{out} is not replaced, because the model there scores better on the held-out "
            f"sequences (with probability {kept}): the new one stands at {place}; pass force=True "
            "(--force) to replace it all the same"
        )
    return json.loads(text)


def _train(work: Work, on_step: OnStep | None) -> Run:
    """Run the loop: the state that is kept is in the run, and in the encoder."""
    given, student, mixture = work.given, work.student, work.mixture
    steps = given.steps or min(max(200, math.ceil(len(work.rows) / given.batch)), 2_000)
    optimizer = ScheduledAdamW(
        _by_rate(student, mixture, given), weight_decay=given.weight_decay, fused=True
    )
    told = Trained(left_out=work.short)
    run = Run(student, student, mixture, optimizer, told)
    start = run.state()
    identity, alone = work.identity(steps), World("cpu")
    done = run.resume(given.checkpoint, identity, alone)
    student.train()
    mixture.train()
    work.go_on(run)
    step = run_steps(
        work,
        run,
        done=done,
        steps=steps,
        evaluations=given.evaluations,
        patience=None if given.keep == "last" else given.patience,
        save=lambda step: run.save(given.checkpoint, identity, step, alone),
        on_step=on_step,
    )
    end = told.history[-1]
    keep_last = given.keep == "last" and end["step"] == step and "score" in end
    if keep_last:
        told.best_step, told.score, run.best = step, end["score"], run.state()
    run.conclude(step, work.training_seconds)
    if given.keep == "best" and told.best_step and not work.clearly_better():
        told.sentence = (
            f"Training did not clearly help: the best held-out score, {told.score:.3f} at step "
            f"{told.best_step} of {step}, lies within a standard error of the start's "
            f"{told.start_score:.3f}, which is kept."
        )
        told.best_step, told.score, run.best = 0, told.start_score, start
        student.load_state_dict(start)
    if keep_last:
        told.sentence = (
            f"The last state is kept, as told: held-out score {told.score:.3f}, at the start "
            f"{told.start_score:.3f} ({step} steps)."
        )
    return run


def _by_rate(
    student: Student, mixture: nn.Module, given: Finetuning
) -> list[tuple[list[nn.Parameter], float]]:
    """Return what is trained, each once: what starts untrained has a rate of its own."""
    trained = student.trained()
    tuned = {id(p): p for name, p in trained.items() if name.startswith("trainee.")}
    both = [*trained.values(), *(p for p in mixture.parameters() if p.requires_grad)]
    fresh = {id(p): p for p in both if id(p) not in tuned}  # heads may share the encoder's
    return [([*tuned.values()], given.rate), ([*fresh.values()], given.head_rate)]


def _beside(out: Path) -> Path:
    """A free place beside one that stays as it is."""
    places = (out.with_name(f"{out.name}-{number}") for number in itertools.count(2))
    return next(place for place in places if not place.exists())
