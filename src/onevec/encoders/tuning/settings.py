"""How an encoder is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from onevec.errors import InputError
from onevec.poolers import make_pooler
from onevec.train.settings import Rule, Settings, count, number, one_of, share, switch

_RATES = {"lora": 5e-4}  # low-rank matrices start at nothing and bear more
_RATE = 5e-5


def _are_layers(value: Any) -> bool:
    return value in ("all", "lora") or count(1)[0](value)


@dataclass(frozen=True)
class Finetuning(Settings):
    """How an encoder is fine-tuned.

    Parameters
    ----------
    objective : str or mapping
        Entries of `onevec.encoders.table.FINETUNING`: a name, ``"crops=1,masked=0.5"``, or a
        mapping of names to weights or (weight, options).
    layers : "all", int or "lora"
        What is trained: everything, the last so many layers, or low-rank additions to every
        linear map (Hu et al. 2022), which are merged into the weights at the end.
    rank : int
        Rank of the low-rank additions.
    pooler : str
        What makes the vector: entries of `onevec.poolers.POOLERS` such as ``"attention"``; those
        that learn are trained with the encoder. "auto" is the pooling of a sentence-transformers
        folder, special tokens included as there, and else the mean without them.
    steps : int, optional
        Default: one pass over the corpus, at least 200 and at most 2,000.
    minutes : float, optional
        Stop after so long, the rate falling to 0 by then.
    batch : int
        Sequences of a step.
    piece_tokens : int
        Tokens whose activations are kept at once: a larger batch is gone through twice, piece by
        piece, for the same gradient (Gao et al. 2021).
    max_length : int
        Most tokens of a view; of a longer sequence a window is drawn anew each time.
    learning_rate : float, optional
        Of AdamW at its highest; a tenth of the steps warm up, then a cosine falls to 0. Default
        5e-5, for "lora" 5e-4.
    head_rate : float
        The same for what starts untrained: decoders, objectives, poolers.
    weight_decay : float
        Of matrices.
    dropout : float
        Given to an encoder whose dropout is switched off, where an objective lives on dropout.
    held_out : float
        Share of the sequences that is never trained on: one half selects the state that is kept,
        the other judges it. At least 160 where a third of the data allows, at most 1,000.
    evaluations : int
        How often the held-out score is taken.
    patience : int
        Stop after so many evaluations without a better score.
    keep : {"best", "last"}
        The state with the best held-out score, or the start where that is not better by a
        standard error; or the last whatever it scored.
    dim : int
        Dimensions at which encoders are compared.
    compare : bool
        Whether the verdict also fits `OneVec` to the encoder before and after.
    precision : {"fp32", "bf16"}
        bf16 runs under autocast.
    random_state : int
        Seed of every draw.
    threads : int, optional
        CPU threads; part of what decides the weights' last digits.
    device : str
        Where to train.
    checkpoint : path, optional
        File that keeps the state after each evaluation. If it is there, training goes on from
        it; it is removed at the end.
    """

    objective: Any = "crops"
    layers: Any = "all"
    rank: int = 8
    pooler: str = "auto"
    steps: int | None = None
    minutes: float | None = None
    batch: int = 128
    piece_tokens: int = 4_096
    max_length: int = 128
    learning_rate: float | None = None
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    held_out: float = 0.1
    evaluations: int = 10
    patience: int = 4
    keep: str = "best"
    dim: int = 64
    compare: bool = True
    precision: str = "fp32"
    random_state: int = 0
    threads: int | None = None
    device: str = "cpu"
    checkpoint: Any = None

    kind = "fine-tuning"
    rules: ClassVar[dict[str, Rule]] = Settings.rules | {
        "layers": (_are_layers, '"all", "lora", or how many of the last layers'),
        "rank": count(1),
        "pooler": (lambda value: isinstance(value, str), 'text, such as "mean" or "attention"'),
        "minutes": number(optional=True),
        "max_length": count(4),
        "head_rate": number(),
        "dropout": share(),
        "keep": one_of("best", "last"),
        "dim": count(1),
        "compare": switch(),
    }

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Finetuning:
        """Make settings from keyword arguments, checked."""
        made = super().of(options)
        if made.pooler != "auto":
            make_pooler(made.pooler)  # explains a name that does not exist
        if torch.device(made.device).type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"got device={made.device!r}: this machine has no such device")
        return made

    @property
    def rate(self) -> float:
        """The encoder's highest learning rate."""
        return self.learning_rate or _RATES.get(self.layers, _RATE)

    def state(self) -> dict[str, Any]:
        """Return what decides the result, ready for JSON."""
        apart = ("objective", "checkpoint", "minutes", "threads", "device", "compare")
        return {name: value for name, value in vars(self).items() if name not in apart}
