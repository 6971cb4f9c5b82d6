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
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from onevec.encoders.tuning.base import Batch
from onevec.encoders.tuning.settings import Tuning
from onevec.encoders.tuning.student import Student, draw_seed
from onevec.encoders.tuning.table import Aims
from onevec.encoders.tuning.trainee import open_trainee
from onevec.encoders.tuning.work import Work, save_pooler
from onevec.errors import InputError
from onevec.files import appears_whole, check_apart, check_target
from onevec.judge.monitor import Monitor
from onevec.tokens.huggingface import quiet
from onevec.train.head import World
from onevec.train.offer import draw_rows
from onevec.train.settings import Trained
from onevec.train.state import Run

MANIFEST = "finetune.json"


def finetune(
    model: str | Path,
    corpus: Sequence[Any],
    out: str | Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
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
        Fields of `Tuning`, such as ``objective="crops=1,masked=0.5"``, ``layers="lora"``,
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
    given = Tuning.of(settings)
    aims = Aims(given.objective)
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
    trainee = open_trainee(model, corpus, given.seed)
    if trainee.limit is not None and given.max_length > trainee.limit:
        given = Tuning.of(settings | {"max_length": trainee.limit})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given.seed)
        work = Work(trainee, aims, given)
        existing = None if force else work.existing(out, corpus)
        run = _train(work, on_step)
        manifest = work.conclude(run) | {
            "corpus": corpus_manifest,
            "threads": torch.get_num_threads(),
            "versions": _versions(),
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


def _train(  # noqa: PLR0915 - the one loop, to be read from top to bottom
    work: Work, on_step: Callable[[int, int, float], None] | None
) -> Run:
    """Run the loop: the state with the best held-out score is in the run."""
    given, student, aims = work.given, work.student, work.aims
    steps = given.steps or min(max(200, math.ceil(len(work.rows) / given.batch)), 2_000)
    every = max(1, steps // given.evaluations)
    optimizer = torch.optim.AdamW(_groups(student, aims, given), fused=True)
    told = Trained(left_out=work.short)
    run = Run(cast(Any, _Kept(student)), cast(Any, aims), optimizer, told)
    start = {name: value.clone() for name, value in student.state_dict().items()}
    identity, alone = work.identity(steps), World("cpu")
    done = run.resume(given.checkpoint, identity, alone)
    spent = run.told.history[-1]["seconds"] if run.told.history else 0.0
    student.train()
    aims.train()
    terms: dict[str, float] = {}
    losses: list[float] = []
    stopped = run.told.stopped
    step, clock = done or 0, time.process_time()
    # Evaluations choose the state, so they belong to what tuning costs.
    looked = run.told.history[-1]["looking_seconds"] if run.told.history else work.setup_seconds
    gone_before = run.told.history[-1]["wall_seconds"] if run.told.history else 0.0
    begin = time.perf_counter() - gone_before
    for step in range(done or 0, steps + 1):
        gone = step / steps
        if given.minutes is not None:
            gone = max(gone, (time.perf_counter() - begin) / (60 * given.minutes))
        last = gone >= 1 or step == steps
        if step != done and (step % every == 0 or last):
            spent, clock = spent + time.process_time() - clock, time.process_time()
            curve = {"seconds": round(spent, 2), "losses": losses}
            run.note(step, terms, work.monitor.look(student.vectors) | curve)
            stopped = Monitor.alarm(run.told.history)
            if not stopped:  # a state that it warns of is not kept
                run.rate(step, work.score())
                stopped = "" if last or given.keep == "last" else run.impatient(given.patience)
            run.told.stopped = stopped
            looked += time.process_time() - clock
            run.told.history[-1] |= {
                "looking_seconds": round(looked, 2),
                "wall_seconds": round(time.perf_counter() - begin, 2),
            }
            run.save(given.checkpoint, identity, step, alone)
            losses, clock = [], time.process_time()
        if last or stopped:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _schedule(gone, step)
        picked = draw_rows(work.rows, given.batch, step, given.seed)
        batch = Batch(work.raw[picked], work.groups[picked], draw_seed(given.seed, 2, step))
        optimizer.zero_grad()
        terms = aims.gradients(student, batch)
        if not math.isfinite(terms["total"]):
            stopped = f"the loss is {terms['total']} at step {step}"
            break
        nn.utils.clip_grad_norm_(_unique(student, aims), 1.0)
        optimizer.step()
        losses.append(round(terms["total"], 6))
        if on_step:
            on_step(step + 1, steps, terms["total"])
    if not stopped and step < steps:
        stopped = "its time was over"
    run.told.stopped = stopped
    end = run.told.history[-1]
    keep_last = given.keep == "last" and end["step"] == step and "score" in end
    if keep_last:
        told.best_step, told.score = step, told.history[-1]["score"]
        run.best = {name: value.clone() for name, value in student.state_dict().items()}
    run.conclude(step, spent)
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


class _Kept:
    """What `Run` takes for the thing it keeps: of a student the trained parameters."""

    def __init__(self, student: Student):
        self.poolers = student
        self.state_dict, self.load_state_dict = student.state_dict, student.load_state_dict


def _groups(student: Student, aims: Aims, given: Tuning) -> list[dict[str, Any]]:
    """Weight decay for the matrices alone; what starts untrained has a rate of its own."""
    tuned = {id(p): p for name, p in student.trained().items() if name.startswith("trainee.")}
    fresh = {id(p): p for p in _unique(student, aims) if id(p) not in tuned}
    found = []
    for parameters, rate in ((tuned.values(), given.rate), (fresh.values(), given.head_rate)):
        for matrices in (True, False):
            part = [p for p in parameters if (p.ndim > 1) == matrices]
            decay = given.weight_decay if matrices else 0.0
            if part:
                found.append({"params": part, "weight_decay": decay, "peak": rate, "lr": rate})
    return found


def _unique(student: Student, aims: Aims) -> list[nn.Parameter]:
    """Every trained parameter once: heads may share those of the encoder."""
    both = [*student.trained().values(), *(p for p in aims.parameters() if p.requires_grad)]
    return list({id(p): p for p in both}.values())


def _schedule(gone: float, step: int) -> float:
    """A tenth of the run warms up, then a cosine falls to 0."""
    return min(max(10 * gone, 0.1 / (step + 1)), 0.5 * (1 + math.cos(math.pi * min(gone, 1.0))))


def _beside(out: Path) -> Path:
    """A free place beside one that stays as it is."""
    places = (out.with_name(f"{out.name}-{number}") for number in itertools.count(2))
    return next(place for place in places if not place.exists())


def _versions() -> dict[str, str]:
    found = {}
    for name in ("onevec", "torch", "transformers", "tokenizers", "sentence-transformers", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # some are optional
            continue
    return found
