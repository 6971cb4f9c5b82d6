"""How a learned pooler is trained, and what training says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from onevec.errors import InputError
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
    gap : int
        Tokens between views that lie apart.
    causal : bool
        Whether the encoder is: a token vector has seen nothing that follows.
    evaluations : int
        How often the held-out score is taken.
    patience : int
        Stop after so many evaluations without a better score.
    max_seconds : float, optional
        Stop at the first step after so long.
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
    gap: int = 4
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
    def of(cls, options: Mapping[str, Any] | None) -> Training:
        """Make settings from a user's mapping, checked."""
        options = dict(options or {})
        unknown = sorted(set(options) - {each.name for each in fields(cls)})
        if unknown:
            known = ", ".join(each.name for each in fields(cls))
            raise InputError(f"got training setting {unknown[0]!r}: there are {known}")
        made = cls(**options)
        rules = (
            (made.steps is None or made.steps >= 1, "steps", "at least 1"),
            (made.batch >= 2, "batch", "at least 2"),
            (made.learning_rate > 0, "learning_rate", "above 0"),
            (made.view_size is None or made.view_size >= 1, "view_size", "at least 1"),
            (made.evaluations >= 1, "evaluations", "at least 1"),
            (made.patience >= 1, "patience", "at least 1"),
            (made.piece_tokens >= 1, "piece_tokens", "at least 1"),
            (made.precision in ("fp32", "bf16"), "precision", '"fp32" or "bf16"'),
            (
                isinstance(made.views, Views) or made.views in ("auto", *VIEWS),
                "views",
                f"auto, {', '.join(VIEWS)}, or a Views such as Reencoded(...)",
            ),
        )
        for holds, name, rule in rules:
            if not holds:
                raise InputError(f"got training {name}={getattr(made, name)!r}: it must be {rule}")
        return made


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
