"""What a transformer is asked while it is trained: objectives about two parts of a sequence."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from onevec.encoders.batches import Window
from onevec.encoders.body import Body, Material, mean_of
from onevec.encoders.settings import Pretraining
from onevec.encoders.terms import Prepared, PretrainingObjective
from onevec.objectives.base import Context, Objective
from onevec.objectives.contrastive import InfoNCE
from onevec.objectives.succession import NextSequence, SequenceOrder
from onevec.ragged import Ragged


class PairObjective(PretrainingObjective):
    """An objective on the mean vectors of two parts of a sequence, each encoded by itself.

    Parts that are encoded apart share no context, so one does not give the other away.
    """

    made: type[Objective]

    def __init__(self, **options: Any):
        super().__init__()
        self.objective = self.made(**options)

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor's keyword arguments."""
        return self.objective.options

    def build(self, body: Body, settings: Pretraining) -> None:
        """Build the objective for vectors of the body."""
        self.objective.build(body.dim, body.dim)

    @abstractmethod
    def parts(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return two parts of a sequence of at least two tokens."""

    def prepare(
        self, windows: Sequence[Window], material: Material, generator: torch.Generator
    ) -> Prepared | None:
        """Cut both parts of every window that is long enough."""
        usable = [(row, tokens) for row, tokens in windows if len(tokens) > 1]
        if len(usable) < 2:
            return None
        rows = [row for row, _ in usable]
        firsts, seconds = zip(*(self.parts(tokens, generator) for _, tokens in usable), strict=True)
        batch = material.collate(list(zip(rows + rows, firsts + seconds, strict=True)))
        return {
            "inputs": batch.inputs,
            "attention": batch.attention,
            "content": batch.content,
            "rows": batch.rows[: len(rows)],
            "seed": torch.randint(2**31, (1,), generator=generator),
        }

    def forward(self, body: Body, prepared: Prepared) -> dict[str, Tensor]:
        """Encode both parts at once and return the objective's terms."""
        states = body(prepared["inputs"], prepared["attention"])
        vectors = mean_of(states.float(), prepared["content"])
        first, second = vectors.chunk(2)
        ones = torch.ones(len(first), dtype=torch.int64, device=vectors.device)
        parts = tuple(Ragged(part.detach(), ones) for part in (first, second))
        context = Context(
            views=parts,
            whole=parts[0],
            groups=prepared["rows"],
            generator=torch.Generator().manual_seed(int(prepared["seed"])),
        )
        return self.objective((first, second), context)

    def weight(self, term: str) -> float:
        """Return the weight of a term within the objective."""
        return self.objective.weight(term)


class CropPairs(PairObjective):
    """Tell from a crop which other crop of the batch is of the same sequence.

    Two crops of a quarter to half of the sequence each, drawn independently. Windows of the same
    sequence are no negatives of each other.

    Parameters
    ----------
    temperature : float
        What the cosines are divided by.
    learned, length_matched : bool
        As in `onevec.objectives.InfoNCE`.

    References
    ----------
    Giorgi, Nitski, Wang and Bader (2021), "DeCLUTR: deep contrastive learning for unsupervised
    textual representations".
    """

    made = InfoNCE
    option_names = InfoNCE.option_names

    def parts(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw two crops."""
        total = len(tokens)
        draw = torch.rand(4, generator=generator).tolist()
        sizes = [max(1, round(total * (0.25 + 0.25 * share))) for share in draw[:2]]
        starts = [int(at * (total - size + 1)) for at, size in zip(draw[2:], sizes, strict=True)]
        first, second = (tokens[a : a + n] for a, n in zip(starts, sizes, strict=True))
        return first, second


class DropoutPairs(CropPairs):
    """Tell a sequence under one dropout mask from the others under another (SimCSE).

    Parameters
    ----------
    temperature : float
        What the cosines are divided by.
    learned, length_matched : bool
        As in `onevec.objectives.InfoNCE`.

    References
    ----------
    Gao, Yao and Chen (2021), "SimCSE: simple contrastive learning of sentence embeddings".
    """

    keeps_dropout = True

    def __init__(self, temperature: float = 0.05, **options: Any):
        super().__init__(temperature=temperature, **options)

    def parts(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the sequence twice."""
        return tokens, tokens


class _Halves(PairObjective):
    option_names = ("hidden",)

    def parts(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cut in the middle."""
        half = len(tokens) // 2
        return tokens[:half], tokens[half:]


class NextHalf(_Halves):
    """Tell a sequence's second half from that of another sequence.

    Parameters
    ----------
    hidden : int
        Hidden units of the classifier.

    References
    ----------
    Devlin, Chang, Lee and Toutanova (2019), "BERT" (next-sentence prediction).
    """

    made = NextSequence


class HalvesOrder(_Halves):
    """Tell the two halves of a sequence in their order from the halves swapped.

    Parameters
    ----------
    hidden : int
        Hidden units of the classifier.

    References
    ----------
    Lan, Chen, Goodman, Gimpel, Sharma and Soricut (2020), "ALBERT".
    """

    made = SequenceOrder
