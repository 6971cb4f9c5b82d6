"""Fine-tune an encoder on raw sequences, without labels. Read `finetune` from top to bottom.

Views are made on the side of the input and encoded alone, so that no context leaks. Every draw of
a step comes from seed and step alone, so a run that was killed goes on exactly. What is kept is
the state with the best score on held-out sequences, which may be the start; others, that selected
nothing, judge it against the encoder as it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from onevec.encoders.tuning.exam import (
    Answers,
    Comparison,
    HalfExam,
    InputStatistics,
    score,
    split_rows,
)
from onevec.encoders.tuning.layers import choose_trained, merge_additions
from onevec.encoders.tuning.objectives import Aims, Batch
from onevec.encoders.tuning.settings import Tuning
from onevec.encoders.tuning.student import Student, draw_seed
from onevec.encoders.tuning.trainee import Trainee, open_trainee
from onevec.encoders.tuning.verdict import FROZEN, TUNED, Ways, verdict
from onevec.errors import InputError, OnevecError
from onevec.files import appears_whole, check_target
from onevec.judge.monitor import Monitor
from onevec.ragged import Ragged
from onevec.tokens.adapters import open_encoder
from onevec.tokens.frozen import Options
from onevec.tokens.huggingface import quiet
from onevec.train.head import World
from onevec.train.offer import draw_rows
from onevec.train.settings import Trained
from onevec.train.state import Run

MANIFEST = "finetune.json"
POOLED = "onevec"  # folder of the trained pooler, as a model of `OneVec`, inside the encoder's
_LEAST_HELD_OUT = 10
_SAMPLE = 500  # sequences that objectives and poolers learn from
_KNOWN = 2_000  # sequences that questions are fitted to
_WORSE = 1.0  # standard errors by which a model that exists must be better to be kept


def finetune(
    model: str | Path,
    corpus: Sequence[Any],
    out: str | Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("fine-tuning runs in one process: call it without torchrun")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    began = time.perf_counter()
    trainee = open_trainee(model, corpus, given.seed)
    if trainee.limit is not None and given.max_length > trainee.limit:
        given = Tuning.of(settings | {"max_length": trainee.limit})
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(given.seed)
        work = _Work(trainee, aims, given)
        existing = None if force else work.existing(out, corpus)
        run = work.train(on_step)
        manifest = work.conclude(run) | {
            "threads": torch.get_num_threads(),
            "versions": _versions(),
            "seconds": round(time.perf_counter() - began, 1),
        }
        kept = work.better(existing)
        place = out if kept is None else _beside(out)
        with quiet(), appears_whole(place) as part:
            trainee.save(part)
            if any(pooler.learned for pooler in work.poolers):
                _save_pooler(work, part, manifest["verdict"]["sentence"])
            (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    if given.checkpoint is not None:
        Path(given.checkpoint).unlink(missing_ok=True)
    if kept is not None:
        raise InputError(
            f"{out} is not replaced, because the model there scores better on the held-out "
            f"sequences (with probability {kept}): the new one stands at {place}; pass force=True "
            "(--force) to replace it all the same"
        )
    return manifest


class _Work:
    """All that a run holds."""

    def __init__(self, trainee: Trainee, aims: Aims, given: Tuning):
        self.trainee, self.aims, self.given = trainee, aims, given
        self.raw = trainee.raw
        train, select, judge = split_rows(self.raw.lengths, given.held_out, given.seed)
        if len(select) < _LEAST_HELD_OUT:
            raise InputError(
                f"got {len(self.raw)} sequences, of which {len(select)} of two or more tokens "
                f"could be held out to tell whether training helps, and that takes "
                f"{_LEAST_HELD_OUT}: pass about {6 * _LEAST_HELD_OUT}, better thousands"
            )
        shuffled = np.random.default_rng([given.seed, 6]).permutation(train.numpy())
        self.sample = self.raw[np.sort(shuffled[:_SAMPLE])]
        self.known = self.raw[np.sort(shuffled[:_KNOWN])]
        self.groups = _duplicates(self.raw)
        self.added = choose_trained(trainee.backbone, given.layers, given.rank)
        pooler = trainee.pooling if given.pooler == "auto" else given.pooler
        trainee.specials = trainee.specials and given.pooler == "auto"
        self.student = self._student(trainee, pooler)
        aims.build(self.student, self.sample, given)
        self.rows = train[(self.raw.lengths[train] >= aims.least())].numpy()
        if len(self.rows) < 2:
            raise InputError(
                f"{len(self.rows)} of {len(train)} sequences have the {aims.least()} tokens that "
                f"{' and '.join(aims.members)} needs: choose another objective, such as simcse"
            )
        statistics = InputStatistics(self.known, self.raw.dim == 1, given.seed)
        parts = (self.raw[select], self.raw[judge])
        self.selecting, self.judging = (
            HalfExam(part, self.known, statistics, self.vectors, given.seed) for part in parts
        )
        self.before = self.judging.answers(self.vectors)
        self.ways = Ways()
        if given.compare:
            self._aggregate(FROZEN)
        span = max(1, int(np.quantile(self.raw.lengths.numpy(), 0.1)) // 2)
        self.monitor = Monitor(self.raw, select.numpy(), span, given.seed)

    def _student(self, trainee: Trainee, pooler: str) -> Student:
        given = self.given
        return Student(
            trainee,
            self.sample,
            pooler=pooler,
            chunk_tokens=given.chunk_tokens,
            precision=given.precision,
            device=given.device,
            longest=given.max_length,
            seed=given.seed,
        )

    @property
    def poolers(self) -> list[Any]:
        """The poolers of the vector."""
        return [self.student.blocks.poolers[name] for name in self.student.names]

    def vectors(self, raw: Ragged) -> np.ndarray:
        """Vectors of raw sequences by the encoder as it is."""
        return self.student.vectors(raw).numpy()

    def _aggregate(self, state: str) -> None:
        given = self.given
        self.ways.add_aggregation(
            state, self.student, self.judging, self.known, dim=given.dim, seed=given.seed
        )

    def train(self, on_step: Callable[[int, int, float], None] | None) -> Run:
        """Run the loop: the state with the best held-out score is in the run."""
        given, student, aims = self.given, self.student, self.aims
        steps = given.steps or min(max(200, math.ceil(len(self.rows) / given.batch)), 2_000)
        every = max(1, steps // given.evaluations)
        optimizer = torch.optim.AdamW(_groups(student, aims, given), fused=True)
        run = _run(student, aims, optimizer, len(self.raw) - len(self.rows))
        identity, alone = self._identity(steps), World("cpu")
        done = run.resume(given.checkpoint, identity, alone)
        spent = run.told.history[-1]["seconds"] if run.told.history else 0.0
        student.train()
        aims.train()
        terms: dict[str, float] = {}
        losses: list[float] = []
        stopped = run.told.stopped
        step, clock = done or 0, time.process_time()
        begin = time.perf_counter()
        for step in range(done or 0, steps + 1):
            gone = step / steps
            if given.minutes is not None:
                gone = max(gone, (time.perf_counter() - begin) / (60 * given.minutes))
            last = gone >= 1 or step == steps
            if step != done and (step % every == 0 or last):
                spent += time.process_time() - clock
                curve = {"seconds": round(spent, 2), "losses": losses}
                run.note(step, terms, self.monitor.look(student.vectors) | curve)
                stopped = Monitor.alarm(run.told.history)
                if not stopped:  # a state that it warns of is not kept
                    run.rate(step, self._score())
                    stopped = "" if last else run.impatient(given.patience)
                run.told.stopped = stopped
                run.save(given.checkpoint, identity, step, alone)
                losses, clock = [], time.process_time()
            if last or stopped:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _schedule(gone, step)
            picked = draw_rows(self.rows, given.batch, step, given.seed)
            batch = Batch(self.raw[picked], self.groups[picked], draw_seed(given.seed, 2, step))
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
        run.conclude(step, spent)
        return run

    def existing(self, out: Path, corpus: Sequence[Any]) -> Answers | None:
        """Answers of a model that stands at the target; None if there is none."""
        if not out.is_dir():
            return None
        try:
            there = open_trainee(out, corpus, self.given.seed)
            same = torch.equal(there.raw.values, self.raw.values)
        except OnevecError:
            same = False
        if not same:
            raise InputError(
                f"the encoder at {out} reads these sequences in another way, so that it cannot be "
                "compared with the new one: choose another place, or pass force=True (--force)"
            )
        return self._plain(there)

    def better(self, existing: Answers | None) -> str | None:
        """How surely a model that stands at the target is better than the new one; None if not."""
        if existing is None:
            return None
        ours, theirs = (self.judging.evidence(a) for a in (self._plain(self.trainee), existing))
        compared = Comparison.of(theirs, ours)
        return compared.words if compared.z > _WORSE else None

    def _plain(self, trainee: Trainee) -> Answers:
        """Answers of an encoder without any pooler that was trained with it."""
        plain = self._student(trainee, trainee.pooling)
        return self.judging.answers(lambda raw: plain.vectors(raw).numpy())

    def _score(self) -> float:
        return score(self.selecting.evidence(self.selecting.answers(self.vectors)))

    def _identity(self, steps: int) -> str:
        """What a checkpoint must share with the run that goes on from it."""
        parts = [self.trainee.fingerprint, self.trainee.corpus_sha256, self.given.state()]
        text = json.dumps([*parts, self.aims.options, steps], default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def conclude(self, run: Run) -> dict[str, Any]:
        """Judge the state that was kept, and tell."""
        merge_additions(self.added)
        told = run.told
        self.after = self.judging.answers(self.vectors)
        if self.given.compare:
            self._aggregate(TUNED)
        found = verdict(self.judging, self.before, self.after, self.ways, told.seconds)
        found["sentence"] = f"{told.sentence} {found['sentence']}"
        return {
            "kind": "fine-tuned encoder",
            "model": self.trainee.name,
            "model_fingerprint": self.trainee.fingerprint,
            "objective": self.aims.options,
            "settings": self.given.state() | {"pooler": "|".join(self.student.names)},
            "sequences": len(self.rows),
            "held_out_sequences": len(self.selecting) + len(self.judging),
            "skipped_empty": self.trainee.skipped,
            "too_short": told.left_out,
            "corpus_sha256": self.trainee.corpus_sha256,
            "trained_parameters": sum(p.numel() for p in run.best.values()),
            "parameters": sum(p.numel() for p in self.trainee.backbone.parameters()),
            "steps": told.steps,
            "best_step": told.best_step,
            "score": told.score,
            "start_score": told.start_score,
            "stopped": told.stopped,
            "training_seconds": told.seconds,
            "history": told.history,
            "verdict": found,
        }


def _run(student: Student, aims: Aims, optimizer: torch.optim.Optimizer, short: int) -> Run:
    """A run that keeps the trained parameters alone."""
    head = _Kept(student)
    return Run(cast(Any, head), cast(Any, aims), optimizer, Trained(left_out=short))


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
    warm = 1.0 if step == 0 and gone == 0 else gone / 0.1
    return min(max(warm, 1e-2) if step else 1e-2, 0.5 * (1 + math.cos(math.pi * min(gone, 1))))


def _duplicates(raw: Ragged) -> Tensor:
    """Equal numbers for sequences that are exactly equal."""
    known: dict[bytes, int] = {}
    marks = (each.numpy().tobytes() for each in raw)
    return torch.tensor([known.setdefault(mark, len(known)) for mark in marks])


def _beside(out: Path) -> Path:
    """A free place beside one that stays as it is."""
    places = (out.with_name(f"{out.name}-{number}") for number in itertools.count(2))
    return next(place for place in places if not place.exists())


def _save_pooler(work: _Work, folder: Path, sentence: str) -> None:
    """Write the trained poolers as a model of `OneVec`, fitted to the encoder that was saved."""
    from onevec.estimator import OneVec, _baselines
    from onevec.judge.verdict import Verdict
    from onevec.recipe import Blocks, Candidate, Reduction

    student, given = work.student, work.given
    tokens = student.tokens(work.known)
    names = student.names
    mean = Blocks.fit(tokens, {"mean": ("mean", {})}, given.seed)
    blocks = student.finished_blocks().merged(mean)
    features = blocks.of(tokens)
    model = OneVec(given.dim, pooler="|".join(names), random_state=given.seed)
    model.n_features_in_, model.training_ = tokens.dim, None
    opened = open_encoder(str(folder), "text" if work.raw.dim == 1 else "tokens", Options())
    model.fingerprint_ = None if opened is None else opened.fingerprint
    chosen = Candidate(tuple(names), 0.5, 0.5)
    told = f"As told: trained together with the encoder. {sentence}"
    model.verdict_ = Verdict(chosen.name, False, 0.5, told, 0)
    model.baselines_ = _baselines(features, given.dim, {})
    model._adopt(blocks, Reduction(chosen).fit(features, given.dim))
    model.save(folder / POOLED)


def _versions() -> dict[str, str]:
    import peft
    import tokenizers
    import transformers

    from onevec import __version__

    packages = {"torch": torch, "transformers": transformers, "tokenizers": tokenizers}
    found = {name: package.__version__ for name, package in packages.items()}
    return {"onevec": __version__, **found, "peft": peft.__version__}
