"""What a transformer is asked while it is trained: objectives about single tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from onevec.encoders.batches import Window
from onevec.encoders.body import Body, Material, corrupt
from onevec.encoders.settings import Pretraining, Shape, backbone
from onevec.encoders.text import TextBody
from onevec.errors import InputError
from onevec.objectives.base import Loss
from onevec.objectives.common import check_count, check_positive, contrast

Prepared = dict[str, Tensor]


class PretrainingObjective(Loss, ABC):
    """One objective of pretraining: prepares a batch, then gives named terms of the loss.

    All draws are made in `prepare`, on the CPU, so that the device decides none of them.

    Attributes
    ----------
    causal : bool or None
        Which transformer it needs: one that reads from left to right, one that does not, any.
    kinds : tuple of str
        Which corpora it takes: "text", "frames".
    keeps_dropout : bool
        Whether dropout stays on where the held-out loss is taken.
    """

    causal: bool | None = None
    kinds: tuple[str, ...] = ("text", "frames")
    keeps_dropout: bool = False

    def build(self, body: Body, settings: Pretraining) -> None:
        """Make parameters that suit the body; most have none."""

    @abstractmethod
    def prepare(
        self, windows: Sequence[Window], material: Material, generator: torch.Generator
    ) -> Prepared | None:
        """Return what `forward` reads; None where the windows are too few or too short."""

    @abstractmethod
    def forward(self, body: Body, prepared: Prepared) -> dict[str, Tensor]:
        """Return named terms, scalars to minimise."""


class TokenObjective(PretrainingObjective):
    """Cross entropy of guessing tokens, or clusters of frames."""

    @abstractmethod
    def guesses(
        self, body: Body, prepared: Prepared
    ) -> tuple[Float[Tensor, "tokens guesses"], Int[Tensor, " tokens"]]:
        """Return logits and the targets."""

    def forward(self, body: Body, prepared: Prepared) -> dict[str, Tensor]:
        """Return the mean cross entropy in nats."""
        logits, targets = self.guesses(body, prepared)
        return {"loss": cross_entropy(logits.float(), targets)}


class MaskedModelling(TokenObjective):
    """Guess hidden tokens, or the clusters of hidden spans of frames, from those around them.

    References
    ----------
    Devlin, Chang, Lee and Toutanova (2019), "BERT"; Hsu et al. (2021), "HuBERT", for frames.
    """

    causal = False

    def build(self, body: Body, settings: Pretraining) -> None:
        """Take the share to hide from the settings."""
        self.rate = settings.mask

    def prepare(
        self, windows: Sequence[Window], material: Material, generator: torch.Generator
    ) -> Prepared | None:
        """Hide tokens."""
        batch = material.collate(windows)
        inputs, hidden, picked = corrupt(batch, material, self.rate, generator)
        return {
            "inputs": inputs,
            "attention": batch.attention,
            "hidden": hidden,
            "picked": picked,
            "targets": batch.targets[picked],
        }

    def guesses(
        self, body: Body, prepared: Prepared
    ) -> tuple[Float[Tensor, "tokens guesses"], Int[Tensor, " tokens"]]:
        """Guess at the picked places alone: a large vocabulary makes the others dear."""
        states = body(prepared["inputs"], prepared["attention"], prepared["hidden"])
        return body.guess(states[prepared["picked"]]), prepared["targets"]


class NextToken(TokenObjective):
    """Guess each token, or the cluster of each frame, from those before it.

    References
    ----------
    Radford, Narasimhan, Salimans and Sutskever (2018), "Improving language understanding by
    generative pre-training".
    """

    causal = True

    def prepare(
        self, windows: Sequence[Window], material: Material, generator: torch.Generator
    ) -> Prepared | None:
        """Shift the targets by one."""
        batch = material.collate(windows)
        asked = batch.attention[:, 1:]
        if not bool(asked.any()):
            return None
        return {
            "inputs": batch.inputs,
            "attention": batch.attention,
            "asked": asked,
            "targets": batch.targets[:, 1:][asked],
        }

    def guesses(
        self, body: Body, prepared: Prepared
    ) -> tuple[Float[Tensor, "tokens guesses"], Int[Tensor, " tokens"]]:
        """Guess from the states one place before."""
        states = body(prepared["inputs"], prepared["attention"])[:, :-1]
        return body.guess(states[prepared["asked"]]), prepared["targets"]


class ReplacedTokens(PretrainingObjective):
    """Tell which tokens a small masked model replaced (ELECTRA).

    The generator is the transformer at ``share`` of its width; its embeddings, in and out, are
    the transformer's own. Terms: ``generator``, cross entropy of the hidden tokens, and
    ``discriminator``, binary cross entropy over all tokens.

    Parameters
    ----------
    share : float
        Width of the generator relative to the transformer's.
    balance : float
        Weight of the discriminator; the generator's is 1.

    References
    ----------
    Clark, Luong, Le and Manning (2020), "ELECTRA: pre-training text encoders as discriminators
    rather than generators".
    """

    causal = False
    kinds = ("text",)
    option_names = ("share", "balance")

    def __init__(self, share: float = 0.25, balance: float = 50.0):
        super().__init__()
        check_positive("ReplacedTokens", share=share, balance=balance)
        if share > 1:
            raise InputError(f"ReplacedTokens got share={share!r}: it must be at most 1")
        self.share, self.balance = float(share), float(balance)

    def weight(self, term: str) -> float:
        """Return the weight of a term within the objective."""
        return self.balance if term == "discriminator" else 1.0

    def build(self, body: Body, settings: Pretraining) -> None:
        """Make the generator, and the discriminator's head."""
        from transformers import ModernBertModel

        shape = settings.shape
        heads = max(1, round(self.share * shape.heads))
        width = shape.dim // shape.heads * heads
        small = Shape(layers=shape.layers, dim=width, heads=heads, context=shape.context)
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
        config: Any = backbone(small, 1, {"pad_token_id": 0, **ids}, causal=False, dropout=0.0)
        self.rate = settings.mask
        self.narrow = nn.Linear(shape.dim, width)
        self.generator = ModernBertModel(config)
        self.widen = nn.Sequential(nn.Linear(width, shape.dim), nn.GELU(), nn.LayerNorm(shape.dim))
        self.bias = nn.Parameter(torch.zeros(body.guesses))
        self.judge = nn.Linear(shape.dim, 1)

    def prepare(
        self, windows: Sequence[Window], material: Material, generator: torch.Generator
    ) -> Prepared | None:
        """Hide tokens, and draw a number for each by which a replacement is chosen."""
        batch = material.collate(windows)
        picked, _ = material.pick(batch.content, self.rate, generator)
        return {
            "inputs": batch.inputs,
            "attention": batch.attention,
            "content": batch.content,
            "picked": picked,
            "draw": torch.rand(int(picked.sum()), generator=generator),
        }

    def forward(self, body: Body, prepared: Prepared) -> dict[str, Tensor]:
        """Return both terms."""
        assert isinstance(body, TextBody)
        inputs, attention = prepared["inputs"], prepared["attention"]
        picked, content = prepared["picked"], prepared["content"]
        embedded = self.narrow(body.embed(inputs, picked))
        found: Any = self.generator(inputs_embeds=embedded, attention_mask=attention)
        states = self.widen(found.last_hidden_state[picked])
        logits = (states @ body.table.T + self.bias).float()
        targets = inputs[picked]
        replaced = inputs.masked_scatter(picked, draw_from(logits.detach(), prepared["draw"]))
        verdict = self.judge(body(replaced, attention)).squeeze(-1)[content].float()
        is_other = (replaced != inputs)[content].float()
        return {
            "generator": cross_entropy(logits, targets),
            "discriminator": binary_cross_entropy_with_logits(verdict, is_other),
        }


def draw_from(
    logits: Float[Tensor, "tokens guesses"], draw: Float[Tensor, " tokens"]
) -> Int[Tensor, " tokens"]:
    """Return an index per row, drawn by the softmax; ``draw`` is uniform in [0, 1)."""
    chance = logits.double().softmax(1).cumsum(1)
    drawn = torch.searchsorted(chance, draw.double()[:, None]).squeeze(1)
    return drawn.clamp(max=logits.shape[1] - 1)


class PredictiveCoding(PretrainingObjective):
    """Pick the token that comes k steps later among those of other places (CPC).

    InfoNCE of ``(W_k c_t) · (P e_{t+k}) / √size``: ``c`` are the transformer's states, ``e`` what
    enters it. Equal tokens are no negatives of each other. One term per step.

    Parameters
    ----------
    steps : int
        How far to predict.
    size : int
        Dimensions in which predictions and tokens meet.
    places : int
        At most so many places of a batch, drawn anew for each step.

    References
    ----------
    van den Oord, Li and Vinyals (2018), "Representation learning with contrastive predictive
    coding".
    """

    causal = True
    option_names = ("steps", "size", "places")

    def __init__(self, steps: int = 4, size: int = 64, places: int = 512):
        super().__init__()
        check_count("PredictiveCoding", 1, steps=steps, size=size)
        check_count("PredictiveCoding", 2, places=places)
        self.steps, self.size, self.places = int(steps), int(size), int(places)

    def weight(self, term: str) -> float:
        """Return the weight of a term within the objective."""
        return 1 / self.steps

    def build(self, body: Body, settings: Pretraining) -> None:
        """Make a linear map per step, and one for what comes."""
        self.predict = nn.ModuleList(
            nn.Linear(body.dim, self.size, bias=False) for _ in range(self.steps)
        )
        self.project = nn.Linear(body.dim, self.size, bias=False)

    def prepare(
        self, windows: Sequence[Window], material: Material, generator: torch.Generator
    ) -> Prepared | None:
        """Draw the places of each step."""
        batch = material.collate(windows)
        prepared = {
            "inputs": batch.inputs,
            "attention": batch.attention,
            "targets": batch.targets if material.kind == "text" else torch.empty(0),
        }
        for step in range(1, self.steps + 1):
            both = (batch.content[:, :-step] & batch.content[:, step:]).nonzero()
            drawn = torch.randperm(len(both), generator=generator)[: self.places]
            prepared[f"step_{step}"] = both[drawn]
        return prepared if len(prepared["step_1"]) > 1 else None

    def forward(self, body: Body, prepared: Prepared) -> dict[str, Tensor]:
        """Return a term per step."""
        embedded = body.embed(prepared["inputs"])
        states = body.run(embedded, prepared["attention"])
        terms = {}
        for step, predict in enumerate(self.predict, 1):
            row, place = prepared[f"step_{step}"].unbind(1)
            guess = predict(states[row, place]).float() / self.size**0.5
            token = self.project(embedded[row, place + step]).float()
            own = torch.arange(len(row), device=row.device)
            known = prepared["targets"]
            groups = known[row, place + step] if known.ndim == 2 else own
            enough = len(row) > 1
            terms[f"step_{step}"] = (
                contrast(guess, token, own, groups) if enough else 0 * guess.sum()
            )
        return terms
