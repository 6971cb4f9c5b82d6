"""The settings that every training has, those of a learned pooler, and what it says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from onevec.errors import InputError
from onevec.files import check_target
from onevec.views import VIEWS, Views

STEPS = {"quick": 100, "standard": 400, "thorough": 1_500}

Rule = tuple[Callable[[Any], bool], str]  # whether a value will do, and what it must be


def count(least: int, optional: bool = False) -> Rule:
    """Ask for a whole number."""

    def holds(value: Any) -> bool:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return (optional and value is None) or (whole and int(value) >= least)

    return holds, f"a whole number of at least {least}" + (" or None" if optional else "")


def number(zero: bool = False, optional: bool = False) -> Rule:
    """Ask for a finite number above 0, or with ``zero`` of at least 0."""

    def holds(value: Any) -> bool:
        real = isinstance(value, Real) and not isinstance(value, bool)
        fits = real and (0 < float(value) < math.inf or (zero and value == 0))
        return fits or (optional and value is None)

    what = "a number of 0 or more" if zero else "a number above 0"
    return holds, what + (" or None" if optional else "")


def share(zero: bool = False, optional: bool = False) -> Rule:
    """Ask for a number between 0 and 1."""
    holds, _ = number(zero, optional)
    what = "at least 0 and below 1" if zero else "between 0 and 1"
    return lambda value: holds(value) and (value is None or value < 1), what


def one_of(*names: str) -> Rule:
    """Ask for one of some words."""
    words = [f'"{name}"' for name in names]
    return lambda value: value in names, " or ".join([", ".join(words[:-1]), words[-1]])


def switch() -> Rule:
    """Ask for True or False."""
    return lambda value: isinstance(value, bool), "True or False"


def _is_seed(value: Any) -> bool:
    return count(0)[0](value) and value < 2**32


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda")


_SettingsT = TypeVar("_SettingsT", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """What learned poolers, pretraining and fine-tuning are told alike.

    A subclass adds its own fields, and its own rules to `rules`. A name means the same in all.
    """

    kind: ClassVar[str]
    rules: ClassVar[dict[str, Rule]] = {
        "steps": count(1, optional=True),
        "batch": count(2),
        "piece_tokens": count(1),
        "learning_rate": number(optional=True),
        "weight_decay": number(zero=True),
        "dropout": share(zero=True, optional=True),
        "held_out": share(),
        "evaluations": count(1),
        "patience": count(1),
        "precision": one_of("fp32", "bf16"),
        "random_state": (_is_seed, "a whole number of at least 0 and below 2^32"),
        "threads": count(1, optional=True),
        "device": (_is_device, '"cpu", "cuda" or such as "cuda:1"'),
        "checkpoint": (lambda value: isinstance(value, str | Path | None), "a path or None"),
    }

    @classmethod
    def of(cls: type[_SettingsT], options: Mapping[str, Any]) -> _SettingsT:
        """Make settings from a mapping.

        Raises
        ------
        InputError
            If there is no setting of a name, or a value breaks its rule.
        """
        known = [each.name for each in fields(cls)]
        unknown = sorted(set(options) - set(known), key=str)
        if unknown:
            raise InputError(
                f"got {cls.kind} setting {unknown[0]!r}, which does not exist: there are "
                f"{', '.join(known)}"
            )
        made = cls(**options).completed()
        for name, value in vars(made).items():
            holds, rule = made.rules.get(name, (None, ""))
            if holds and not holds(value):
                raise InputError(f"got {cls.kind} {name}={value!r}: it must be {rule}")
        checkpoint = vars(made).get("checkpoint")
        if checkpoint is not None:
            check_target(checkpoint, overwrite=True, what="checkpoint")
        return made

    def completed(self: _SettingsT) -> _SettingsT:
        """Return the same with what other settings settle."""
        return self


def _are_views(value: Any) -> bool:
    return isinstance(value, Views) or (isinstance(value, str) and value in ("auto", *VIEWS))


@dataclass(frozen=True)
class Training(Settings):
    """How a learned pooler is trained.

    Parameters
    ----------
    steps : int, optional
        Default by effort: 100, 400 or 1,500.
    batch : int
        Sequences of a step.
    learning_rate : float
        Of AdamW at its highest; a tenth of the steps warm up, then a cosine falls to 0.
    weight_decay : float
        Of matrices.
    views : str or Views
        An entry of `VIEWS`, or ready ones such as `Reencoded`. "auto" takes what the objective
        needs: prefixes for a predictive one, else spans.
    view_size : int, optional
        Tokens of a view; default: at most 16, such that nine in ten sequences have two views.
    gap : int, optional
        Tokens between views that lie apart; default: at most 4, fewer where sequences are short.
    causal : bool
        Whether the encoder is: a token vector has seen nothing that follows.
    evaluations : int
        How often the held-out score is taken.
    patience : int
        Stop after so many evaluations without a better score.
    max_seconds : float, optional
        Stop at the first step after so long; a checkpoint stays, to go on from.
    piece_tokens : int
        Tokens pooled at once; larger batches go in pieces.
    precision : {"fp32", "bf16"}
        Of the poolers' linear layers.
    checkpoint : path, optional
        File that keeps the state after each evaluation. If it is there, training goes on from
        it; it is removed at the end.
    teachers : sequence of token vectors
        For distillation: the same sequences by other layers or encoders. Default: the other
        layers of the store, else the closed-form recipe.
    progress : bool
        Show a progress line in a terminal.
    device : str
        Where to train.
    """

    steps: int | None = None
    batch: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    views: Any = "auto"
    view_size: int | None = None
    gap: int | None = None
    causal: bool = False
    evaluations: int = 10
    patience: int = 4
    max_seconds: float | None = None
    piece_tokens: int = 65_536
    precision: str = "fp32"
    checkpoint: Any = None
    teachers: Sequence[Any] = ()
    progress: bool = False
    device: str = "cpu"

    kind = "training"
    rules: ClassVar[dict[str, Rule]] = Settings.rules | {
        "learning_rate": number(),
        "views": (_are_views, f"auto, {', '.join(VIEWS)}, or a Views such as Reencoded(...)"),
        "view_size": count(1, optional=True),
        "gap": count(0, optional=True),
        "causal": switch(),
        "max_seconds": number(optional=True),
        "teachers": (lambda value: isinstance(value, list | tuple), "a list of token vectors"),
        "progress": switch(),
    }

    @classmethod
    def of(cls, options: Mapping[str, Any] | Training | None) -> Training:
        """Make settings from what a user passes as ``training``."""
        if isinstance(options, Training):
            options = vars(options)
        if not isinstance(options, Mapping | None):
            raise InputError(
                f'got training={options!r}: pass a mapping of settings, such as {{"steps": 500}}'
            )
        return super().of(options or {})


@dataclass
class Trained:
    """What training did.

    Attributes
    ----------
    sentence : str
        In one sentence.
    steps, best_step : int
        How far it went, and which state was kept (0: the start).
    score, start_score : float
        Held-out score of what was kept and of the start: R² of the other half's statistics plus
        the share of its pseudo-labels that neighbours guess.
    left_out : int
        Sequences too short for two views.
    history : list of dict
        Of each evaluation: step, score, the objective's named terms, effective rank, and how well
        length and position can be read.
    stopped : str
        Why it ended before its time; empty if it did not.
    """

    sentence: str = ""
    steps: int = 0
    best_step: int = 0
    score: float = 0.0
    start_score: float = 0.0
    left_out: int = 0
    seconds: float = 0.0
    stopped: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
