"""How a learned pooler is trained, and what training says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from onevec.errors import InputError
from onevec.files import check_target
from onevec.views import VIEWS, Views

STEPS = {"quick": 100, "standard": 400, "thorough": 1_500}


@dataclass(frozen=True)
class Training:
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

    @classmethod
    def of(cls, options: Mapping[str, Any] | Training | None) -> Training:
        """Make settings from a user's mapping, checked."""
        if isinstance(options, Training):
            options = vars(options)
        if not isinstance(options, Mapping | None):
            raise InputError(
                f'got training={options!r}: pass a mapping of settings, such as {{"steps": 500}}'
            )
        unknown = sorted(set(options or ()) - {each.name for each in fields(cls)}, key=str)
        if unknown:
            known = ", ".join(each.name for each in fields(cls))
            raise InputError(f"got training setting {unknown[0]!r}: there are {known}")
        made = cls(**(options or {}))
        for name, (holds, rule) in _RULES.items():
            if not holds(getattr(made, name)):
                raise InputError(f"got training {name}={getattr(made, name)!r}: it must be {rule}")
        if made.checkpoint is not None:
            check_target(made.checkpoint, overwrite=True, what="checkpoint")
        return made


def _count(least: int, optional: bool = False) -> tuple[Callable[[Any], bool], str]:
    def holds(value: Any) -> bool:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return (optional and value is None) or (whole and int(value) >= least)

    return holds, f"a whole number of at least {least}" + (" or None" if optional else "")


def _number(zero: bool = False, optional: bool = False) -> tuple[Callable[[Any], bool], str]:
    def holds(value: Any) -> bool:
        real = isinstance(value, Real) and not isinstance(value, bool)
        fits = real and (0 < float(value) < math.inf or (zero and value == 0))
        return fits or (optional and value is None)

    what = "a number of 0 or more" if zero else "a number above 0"
    return holds, what + (" or None" if optional else "")


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda")


def _are_views(value: Any) -> bool:
    return isinstance(value, Views) or (isinstance(value, str) and value in ("auto", *VIEWS))


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "steps": _count(1, optional=True),
    "batch": _count(2),
    "learning_rate": _number(),
    "weight_decay": _number(zero=True),
    "views": (_are_views, f"auto, {', '.join(VIEWS)}, or a Views such as Reencoded(...)"),
    "view_size": _count(1, optional=True),
    "gap": _count(0, optional=True),
    "causal": (lambda value: isinstance(value, bool), "True or False"),
    "evaluations": _count(1),
    "patience": _count(1),
    "max_seconds": _number(optional=True),
    "piece_tokens": _count(1),
    "precision": (lambda value: value in ("fp32", "bf16"), '"fp32" or "bf16"'),
    "device": (_is_device, '"cpu", "cuda" or such as "cuda:1"'),
    "checkpoint": (lambda value: isinstance(value, str | Path | None), "a path or None"),
    "teachers": (lambda value: isinstance(value, list | tuple), "a list of token vectors"),
    "progress": (lambda value: isinstance(value, bool), "True or False"),
}


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
