"""Views on the side of the input: each is encoded alone, so that no context leaks.

They are `onevec.views.Views` over *raw* sequences: a `Ragged` whose values are token numbers
(one column) or dense frames.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from onevec.ragged import Ragged
from onevec.views import Views, _below, _take, take_spans


def window(raw: Ragged, most: int, generator: torch.Generator | None = None) -> Ragged:
    """Cut what is longer than ``most`` to so many tokens: the first, or drawn ones in a row."""
    sizes = raw.lengths.clamp(max=most)
    slack = raw.lengths - sizes
    if not bool(slack.any()):
        return raw
    starts = torch.zeros_like(slack) if generator is None else _below(slack, generator)
    return take_spans(raw, starts, sizes)


def drop_tokens(raw: Ragged, share: float, generator: torch.Generator) -> Ragged:
    """Leave out about ``share`` of each sequence's tokens; one at least stays."""
    kept = torch.rand(len(raw.values), generator=generator) >= share
    kept[raw.offsets[:-1] + _below(raw.lengths - 1, generator)] = True
    lengths = torch.zeros_like(raw.lengths).index_add_(0, raw.rows, kept.long())
    return _take(raw, kept.nonzero().flatten(), lengths)


class Twice(Views):
    """The same input twice; what differs is the encoder's dropout."""

    def __init__(self, longest: int):
        super().__init__(1, 0)
        self.longest = longest

    @property
    def least(self) -> int:
        """One token."""
        return 1

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        part = window(tokens, self.longest, generator)
        return part, part


class ShareCrops(Views):
    """Two crops, each of a share of the sequence that is drawn anew; they may overlap.

    Shares are drawn for each crop alone, so that the length of one tells little of the other's.

    Parameters
    ----------
    share : (float, float)
        Least and greatest share of the sequence in a crop.
    longest : int
        Most tokens of a crop.
    """

    def __init__(self, share: tuple[float, float], longest: int):
        super().__init__(1, 0)
        self.share, self.longest = share, longest

    @property
    def least(self) -> int:
        """With fewer tokens, crops are single tokens or the whole."""
        return 4

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        first, second = (self._crop(tokens, generator) for _ in range(2))
        return first, second

    def _crop(self, tokens: Ragged, generator: torch.Generator) -> Ragged:
        low, high = self.share
        share = low + (high - low) * torch.rand(len(tokens), generator=generator)
        sizes: Int[Tensor, " seqs"] = (share * tokens.lengths).round().long()
        sizes = sizes.clamp(min=1, max=self.longest)
        return take_spans(tokens, _below(tokens.lengths - sizes, generator), sizes)
