"""All that a run holds: what is trained, on what, and who judges it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onevec.encoders.tuning.base import FinetuningObjective, RawBatch
from onevec.encoders.tuning.exam import (
    Answers,
    Comparison,
    HalfExam,
    InputStatistics,
    score,
    split_rows,
)
from onevec.encoders.tuning.layers import choose_trained, merge_additions
from onevec.encoders.tuning.settings import Finetuning
from onevec.encoders.tuning.student import Student
from onevec.encoders.tuning.trainee import FrameTrainee, Trainee, open_trainee
from onevec.encoders.tuning.verdict import FROZEN, TUNED, Ways, verdict
from onevec.encoders.tuning.views import window
from onevec.errors import InputError, OnevecError
from onevec.judge.halves import Evidence
from onevec.objectives import Mixture
from onevec.ragged import Ragged
from onevec.tokens.adapters import open_encoder
from onevec.tokens.frozen import Options
from onevec.tokens.store import made_from
from onevec.train import checkpoint
from onevec.train.batch import draw_rows, draw_seed
from onevec.train.loop import WARM_UP, Task
from onevec.train.monitor import Monitor
from onevec.train.state import Run

POOLED = "onevec"  # folder of the trained pooler, as a model of `OneVec`, inside the encoder's
_LEAST_HELD_OUT = 10
_SAMPLE = 500  # sequences that objectives and poolers learn from
_KNOWN = 2_000  # sequences that questions are fitted to
_CLEARLY = 1.0  # standard errors by which a state must be better than the start to be kept
_WORSE = 1.0  # standard errors by which a model that exists must be better to be kept


class Work(Task):
    """All that a run holds."""

    def __init__(self, trainee: Trainee, mixture: Mixture[FinetuningObjective], given: Finetuning):
        self.trainee, self.mixture, self.given = trainee, mixture, given
        members = mixture.members
        self.raw = trainee.raw
        self.groups = _duplicates(self.raw)
        train, select, judge = split_rows(self.raw.lengths, given.held_out, given.random_state)
        copied = torch.isin(self.groups[train], self.groups[torch.cat([select, judge])])
        self.copies, train = int(copied.sum()), train[~copied]
        if len(select) < _LEAST_HELD_OUT:
            raise InputError(
                f"got {len(self.raw)} sequences, of which {len(select)} of two or more tokens "
                f"could be held out to tell whether training helps, and that takes "
                f"{_LEAST_HELD_OUT}: pass about {6 * _LEAST_HELD_OUT}, better thousands"
            )
        if len(train) < 2:
            raise InputError(
                f"got {len(self.raw)} sequences, and all but {len(train)} are copies of those held "
                "out to tell whether training helps: pass sequences that differ"
            )
        shuffled = np.random.default_rng([given.random_state, 6]).permutation(train.numpy())
        self.sample = self.raw[np.sort(shuffled[:_SAMPLE])]
        # What is asked is asked of as much as two vectors can have read.
        draws = torch.Generator().manual_seed(given.random_state)
        self.known, selecting, judging = (
            window(self.raw[rows], 2 * given.max_length, draws)
            for rows in (np.sort(shuffled[:_KNOWN]), select, judge)
        )
        self.added = choose_trained(trainee.backbone, given.layers, given.rank)
        if isinstance(trainee, FrameTrainee):
            trainee.input.requires_grad_(given.layers == "all")
        pooler = trainee.pooling if given.pooler == "auto" else given.pooler
        trainee.specials = trainee.specials and given.pooler == "auto"
        self.student = self._student(trainee, pooler)
        build(mixture, self.student, self.sample, given)
        least = min(each.least for each in members.values())
        self.rows = train[(self.raw.lengths[train] >= least)].numpy()
        self.short = len(train) - len(self.rows)
        if len(self.rows) < 2:
            raise InputError(
                f"{len(self.rows)} of {len(train)} sequences have the {least} tokens that "
                f"{' and '.join(members)} needs: choose another objective, such as simcse"
            )
        for name, each in members.items():
            if int((self.raw.lengths[train] >= each.least).sum()) < 2:
                raise InputError(
                    f"fewer than 2 sequences have the {each.least} tokens that the objective "
                    f"{name!r} needs, so it would learn nothing: leave it out, or choose another, "
                    "such as simcse"
                )
        began = time.process_time()
        statistics = InputStatistics(self.known, self.raw.dim == 1, given.random_state)
        known = self.vectors(self.known)
        self.selecting, self.judging = (
            HalfExam(part, known, statistics, self.vectors, given.random_state)
            for part in (selecting, judging)
        )
        self.start = self._selected()
        self.setup_seconds = time.process_time() - began
        self.before = self.judging.answers(self.vectors)
        self.ways = Ways()
        if given.compare:
            self._aggregate(FROZEN)
        span = max(1, int(np.quantile(self.raw.lengths.numpy(), 0.1)) // 2)
        self.monitor = Monitor(self.raw, select.numpy(), span, given.random_state)

    def _student(self, trainee: Trainee, pooler: str) -> Student:
        given = self.given
        return Student(
            trainee,
            self.sample,
            pooler=pooler,
            piece_tokens=given.piece_tokens,
            precision=given.precision,
            device=given.device,
            longest=given.max_length,
            seed=given.random_state,
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
            state, self.student, self.judging, self.known, dim=given.dim, seed=given.random_state
        )

    def existing(self, out: Path, corpus: Sequence[Any]) -> Answers | None:
        """Answers of a model that stands at the target; None if there is none."""
        if not out.is_dir():
            return None
        try:
            there = open_trainee(out, corpus, self.given.random_state)
            there.specials = self.trainee.specials
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

    # --- what the loop asks for ---

    def go_on(self, run: Run) -> None:
        """Set the clocks, to where a run that goes on from a checkpoint left them."""
        last = run.told.history[-1] if run.told.history else {}
        self.losses: list[float] = []
        self.training_seconds = last.get("seconds", 0.0)
        # Evaluations choose the state, so they belong to what tuning costs.
        self.looking_seconds = last.get("looking_seconds", self.setup_seconds)
        self.clock = time.process_time()
        self.begin = time.perf_counter() - last.get("wall_seconds", 0.0)

    def _lap(self) -> float:
        """Seconds of this process since the last call."""
        before, self.clock = self.clock, time.process_time()
        return self.clock - before

    def progress(self, step: int, steps: int) -> tuple[float, float]:
        """Return what is over by steps or by the clock, whichever is more."""
        gone = step / steps
        if self.given.minutes is not None:
            gone = max(gone, (time.perf_counter() - self.begin) / (60 * self.given.minutes))
        # How many steps the minutes hold is not known: the first ones go by their number.
        return gone, max(gone / WARM_UP, WARM_UP / (step + 1))

    def gradients(self, step: int) -> dict[str, float]:
        """Encode the views of the step's sequences."""
        picked = draw_rows(self.rows, self.given.batch, step, self.given.random_state)
        seed = draw_seed(self.given.random_state, 2, step)
        batch = RawBatch(self.raw[picked], self.groups[picked], seed)
        terms = gradients(self.mixture, self.student, batch)
        self.losses.append(round(terms["total"], 6))
        return terms

    def look(self) -> dict[str, Any]:
        """Look at held-out sequences; the losses since the last look stand beside."""
        self.training_seconds += self._lap()
        curve = {"seconds": round(self.training_seconds, 2), "losses": self.losses}
        self.losses = []
        return self.monitor.look(self.student.vectors) | curve

    def costs(self) -> dict[str, float]:
        """Return what the evaluations cost, and the time on the wall."""
        self.looking_seconds += self._lap()
        wall = time.perf_counter() - self.begin
        return {"looking_seconds": round(self.looking_seconds, 2), "wall_seconds": round(wall, 2)}

    def score(self) -> float:
        """Held-out score of the encoder as it is now, on what selects."""
        return score(self._selected())

    def _selected(self) -> Evidence:
        return self.selecting.evidence(self.selecting.answers(self.vectors))

    def clearly_better(self) -> bool:
        """Whether the encoder is better than at the start by a standard error, on what selects.

        The best of several noisy scores lies above the start by chance.
        """
        return Comparison.of(self._selected(), self.start).z > _CLEARLY

    def identity(self, steps: int) -> str:
        """What a checkpoint must share with the run that goes on from it."""
        parts = [self.trainee.fingerprint, self.trainee.corpus_sha256, self.given.state()]
        return checkpoint.identity([*parts, self.mixture.parts, steps])

    def conclude(self, run: Run) -> dict[str, Any]:
        """Judge the state that was kept, and tell."""
        merge_additions(self.added)
        told = run.told
        after = self.judging.answers(self.vectors) if told.best_step else None
        if self.given.compare and told.best_step:
            self._aggregate(TUNED)
        looking = round(told.history[-1]["looking_seconds"], 1)
        spent = told.seconds + looking
        found = verdict(self.judging, self.before, after, self.ways, spent)
        found["sentence"] = f"{told.sentence} {found['sentence']}"
        return {
            "kind": "fine-tuned encoder",
            "model": self.trainee.name,
            "model_fingerprint": self.trainee.fingerprint,
            "objective": self.mixture.parts,
            "settings": self.given.state() | {"pooler": self.student.pooler},
            "sequences": len(self.rows),
            "held_out_sequences": len(self.selecting) + len(self.judging),
            "skipped_empty": self.trainee.skipped,
            "too_short": told.left_out,
            "copies_of_held_out": self.copies,
            "corpus_sha256": self.trainee.corpus_sha256,
            "trained_parameters": sum(p.numel() for p in run.best.values()),
            "parameters": sum(p.numel() for p in self.trainee.backbone.parameters()),
            "steps": told.steps,
            "best_step": told.best_step,
            "score": told.score,
            "start_score": told.start_score,
            "stopped": told.stopped,
            "training_seconds": told.seconds,
            "selection_seconds": looking,
            "history": told.history,
            "verdict": found,
        }


def build(
    mixture: Mixture[FinetuningObjective], student: Student, sample: Ragged, given: Finetuning
) -> None:
    """Build every objective; each as it would be alone."""
    for each in mixture.members.values():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.random_state)
            each.build(student, sample, given)


def gradients(
    mixture: Mixture[FinetuningObjective], student: Student, batch: RawBatch
) -> dict[str, float]:
    """Add every objective's gradients; return the named terms and their weighted ``total``."""
    told, total = {}, 0.0
    for number, (name, each) in enumerate(mixture.members.items()):
        part = RawBatch(batch.raw, batch.groups, draw_seed(batch.seed, number))
        terms = each.gradients(student, part, mixture.weights[name])
        total += mixture.weights[name] * terms.pop("total", 0.0)
        told |= mixture.named(name, terms)
    return told | {"total": total}


def _duplicates(raw: Ragged) -> Tensor:
    """Equal numbers for sequences that are exactly equal."""
    known: dict[bytes, int] = {}
    marks = (each.numpy().tobytes() for each in raw)
    return torch.tensor([known.setdefault(mark, len(known)) for mark in marks])


def save_pooler(work: Work, folder: Path, sentence: str) -> None:
    """Write the trained poolers as a model of `OneVec`, fitted to the encoder that was saved."""
    from onevec.estimator import OneVec, baselines, facts_of
    from onevec.judge.verdict import Verdict
    from onevec.vector.blocks import Blocks, BlockSpec
    from onevec.vector.fitted import Vector
    from onevec.vector.reduction import Recipe

    student, given = work.student, work.given
    tokens = student.tokens(work.known)
    names = student.names
    mean = Blocks.fit(tokens, {"mean": BlockSpec.of("mean", {})}, given.random_state)
    blocks = student.finished_blocks().merged(mean)
    features = blocks.of(tokens)
    model = OneVec(given.dim, pooler=student.pooler, random_state=given.random_state)
    model.n_features_in_, model.training_, model.encoder_ = tokens.dim, None, None
    model.data_ = facts_of(tokens)
    opened = open_encoder(str(folder), "text" if work.raw.dim == 1 else "tokens", Options())
    assert opened is not None
    model.fingerprint_ = f"{opened.fingerprint}@layer{opened.known_layers([-1])[0]}"
    chosen = Recipe(tuple(names), 0.5, 0.5)
    told = f"As told: trained together with the encoder. {sentence}"
    model.verdict_ = Verdict(chosen.name, False, told)
    model.baselines_ = baselines(features, given.dim)
    (layer,) = made_from(model.fingerprint_)[1]
    vector = Vector.alone(chosen, layer, features, given.dim)
    model._adopt({layer: blocks}, vector)
    model.save(folder / POOLED)
