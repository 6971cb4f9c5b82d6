"""A learned head on closed-form poolers."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.learned import centre_and_spread, present, zero_mlp
from onevec.poolers.parts import OnParts, Parts
from onevec.ragged import Ragged
from onevec.segment import Lengths


class Residual(OnParts):
    """Closed-form poolers side by side plus an MLP of them: (seqs, sum of their dim_out).

    ``b + s MLP((b - m) / s)`` with b what the poolers give, m and s its mean and spread over the
    sample's sequences. The MLP's last layer starts at zero: starts as the poolers.

    Parameters
    ----------
    parts : str, or sequence of (name, options)
        Closed-form poolers, as `make_pooler` or `Concat` take them.
    hidden : int
        Hidden units of the MLP.
    """

    mixed_precision = True
    option_names = ("parts", "hidden")
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        parts: Parts = "mean|std|dct",
        hidden: int = 256,
    ):
        super().__init__()
        from onevec.poolers.concat import options_by_name  # see `OnParts`

        self._stand_on(parts)
        options_by_name(self.parts)  # a name that comes twice cannot be said in `starts_as`
        if hidden < 1:
            raise InputError(f"Residual got hidden={hidden}: pass 1 or more hidden units")
        self.hidden = int(hidden)
        self.starts_as = "|".join(self.blocks.names)

    @property
    def start_options(self) -> dict[str, dict[str, Any]]:
        """Return the options of the poolers."""
        return dict(self.parts)

    def _build(self, dim: int) -> int:
        width = self.blocks.build(dim).dim_out
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.head = zero_mlp(width, self.hidden, width)
        return width

    def _learn(self, sample: Ragged, random_state: int) -> None:
        self.blocks.fit(sample, random_state=random_state)
        centre, spread = centre_and_spread(self.blocks(sample)[sample.lengths > 0])
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def _pool(self, tokens: Ragged) -> Tensor:
        return self.add(self.blocks(tokens), tokens.lengths)

    def add(
        self, blocks: Float[Tensor, "seqs dim_out"], lengths: Lengths
    ) -> Float[Tensor, "seqs dim_out"]:
        """Add what the head makes of what the poolers give; only the head learns."""
        added = self.spread * self.head((blocks - self.centre) / self.spread)
        return blocks + added * present(lengths)
