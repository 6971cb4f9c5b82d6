"""All that a run holds: what is trained, on what, and who judges it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onevec.encoders.tuning.exam import (
    Answers,
    Comparison,
    HalfExam,
    InputStatistics,
    score,
    split_rows,
)
from onevec.encoders.tuning.layers import choose_trained, merge_additions
from onevec.encoders.tuning.settings import Tuning
from onevec.encoders.tuning.student import Student
from onevec.encoders.tuning.table import Aims
from onevec.encoders.tuning.trainee import FrameTrainee, Trainee, open_trainee
from onevec.encoders.tuning.verdict import FROZEN, TUNED, Ways, verdict
from onevec.encoders.tuning.views import window
from onevec.errors import InputError, OnevecError
from onevec.judge.monitor import Monitor
from onevec.judge.unlabelled import Evidence
from onevec.ragged import Ragged
from onevec.tokens.adapters import open_encoder
from onevec.tokens.frozen import Options
from onevec.tokens.store import made_from
from onevec.train.state import Run

POOLED = "onevec"  # folder of the trained pooler, as a model of `OneVec`, inside the encoder's
_LEAST_HELD_OUT = 10
_SAMPLE = 500  # sequences that objectives and poolers learn from
_KNOWN = 2_000  # sequences that questions are fitted to
_CLEARLY = 1.0  # standard errors by which a state must be better than the start to be kept
_WORSE = 1.0  # standard errors by which a model that exists must be better to be kept


class Work:
    """All that a run holds."""

    def __init__(self, trainee: Trainee, aims: Aims, given: Tuning):
        self.trainee, self.aims, self.given = trainee, aims, given
        self.raw = trainee.raw
        self.groups = _duplicates(self.raw)
        train, select, judge = split_rows(self.raw.lengths, given.held_out, given.seed)
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
        shuffled = np.random.default_rng([given.seed, 6]).permutation(train.numpy())
        self.sample = self.raw[np.sort(shuffled[:_SAMPLE])]
        # What is asked is asked of as much as two vectors can have read.
        draws = torch.Generator().manual_seed(given.seed)
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
        aims.build(self.student, self.sample, given)
        self.rows = train[(self.raw.lengths[train] >= aims.least())].numpy()
        self.short = len(train) - len(self.rows)
        if len(self.rows) < 2:
            raise InputError(
                f"{len(self.rows)} of {len(train)} sequences have the {aims.least()} tokens that "
                f"{' and '.join(aims.members)} needs: choose another objective, such as simcse"
            )
        for name, aim in aims.members.items():
            if int((self.raw.lengths[train] >= aim.least).sum()) < 2:
                raise InputError(
                    f"fewer than 2 sequences have the {aim.least} tokens that the objective "
                    f"{name!r} needs, so it would learn nothing: leave it out, or choose another, "
                    "such as simcse"
                )
        began = time.process_time()
        statistics = InputStatistics(self.known, self.raw.dim == 1, given.seed)
        known = self.vectors(self.known)
        self.selecting, self.judging = (
            HalfExam(part, known, statistics, self.vectors, given.seed)
            for part in (selecting, judging)
        )
        self.start = self._selected()
        self.setup_seconds = time.process_time() - began
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

    def existing(self, out: Path, corpus: Sequence[Any]) -> Answers | None:
        """Answers of a model that stands at the target; None if there is none."""
        if not out.is_dir():
            return None
        try:
            there = open_trainee(out, corpus, self.given.seed)
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
        text = json.dumps([*parts, self.aims.options, steps], default=str)
        return hashlib.sha256(text.encode()).hexdigest()

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
            "objective": self.aims.options,
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


def _duplicates(raw: Ragged) -> Tensor:
    """Equal numbers for sequences that are exactly equal."""
    known: dict[bytes, int] = {}
    marks = (each.numpy().tobytes() for each in raw)
    return torch.tensor([known.setdefault(mark, len(known)) for mark in marks])


def save_pooler(work: Work, folder: Path, sentence: str) -> None:
    """Write the trained poolers as a model of `OneVec`, fitted to the encoder that was saved."""
    from onevec.blocks import Blocks
    from onevec.estimator import OneVec, baselines, facts_of
    from onevec.judge.verdict import Verdict
    from onevec.reduction import Recipe
    from onevec.vector import Vector

    student, given = work.student, work.given
    tokens = student.tokens(work.known)
    names = student.names
    mean = Blocks.fit(tokens, {"mean": ("mean", {})}, given.seed)
    blocks = student.finished_blocks().merged(mean)
    features = blocks.of(tokens)
    model = OneVec(given.dim, pooler=student.pooler, random_state=given.seed)
    model.n_features_in_, model.training_ = tokens.dim, None
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
