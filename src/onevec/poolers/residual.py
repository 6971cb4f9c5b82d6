"""A learned head on closed-form poolers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.learned import centre_and_spread, present, zero_mlp
from onevec.ragged import Ragged
from onevec.segment import Lengths


class Residual(Pooler):
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
        parts: str | Sequence[tuple[str, Mapping[str, Any]]] = "mean|std|dct",
        hidden: int = 256,
    ):
        super().__init__()
        # The table of poolers names this class: it cannot be imported before.
        from onevec.poolers.concat import Concat, options_by_name, split_names

        given = [(name, {}) for name in split_names(parts)] if isinstance(parts, str) else parts
        self.blocks = Concat(given)
        if self.blocks.learned or hidden < 1:
            raise InputError(
                f"Residual got parts={parts!r}, hidden={hidden}: pass closed-form poolers, and 1 "
                "or more hidden units"
            )
        options_by_name(given)
        self.hidden = int(hidden)
        self.starts_as = "|".join(self.blocks.names)
        self.needs = self.blocks.needs
        self.order_free = self.blocks.order_free
        self.distributional = self.blocks.distributional

    @property
    def parts(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and options of the poolers, with what fitting settles."""
        return self.blocks.parts

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
