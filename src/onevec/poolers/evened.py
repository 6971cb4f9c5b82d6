"""Closed-form poolers side by side as the recipe weighs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.fitting import turned
from onevec.poolers.learned import present
from onevec.ragged import Ragged

_NOTHING = 1e-9  # of the largest variance: less is rounding


class Evened(Pooler):
    """Closed-form poolers, each whitened in part and of length 1: (seqs, sum of their widths).

    Each part becomes ``z / |z|`` with ``z = Λ^(-power / 2) Vᵀ (b - m)``, where m is the mean of
    what the part gives over the sample's sequences and V, Λ are the leading principal directions
    and variances. So no part and no outlier speaks louder than another, and a residual head or a
    projection that follows starts where the recipe stands.

    Parameters
    ----------
    parts : str, or sequence of (name, options)
        Closed-form poolers, as `make_pooler` or `Concat` take them.
    power : float
        0 is PCA, 1 is whitening.
    width : int
        So many leading directions of each part at most.
    """

    option_names = ("parts", "power", "width")

    def __init__(
        self,
        parts: str | Sequence[tuple[str, Mapping[str, Any]]] = "mean|std|dct",
        power: float = 0.25,
        width: int = 192,
    ):
        super().__init__()
        # The table of poolers names this class: it cannot be imported before.
        from onevec.poolers.concat import Concat, split_names

        given = [(name, {}) for name in split_names(parts)] if isinstance(parts, str) else parts
        self.blocks = Concat(given)
        if self.blocks.learned or not 0 <= power <= 1 or width < 1:
            raise InputError(
                f"Evened got parts={parts!r}, power={power}, width={width}: pass closed-form "
                "poolers, a power from 0 to 1, and a width of 1 or more"
            )
        self.power, self.width = float(power), int(width)
        self.needs = self.blocks.needs
        self.order_free = self.blocks.order_free
        self.distributional = self.blocks.distributional

    @property
    def parts(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and options of the poolers, with what fitting settles."""
        return self.blocks.parts

    def _build(self, dim: int) -> int:
        self.register_buffer("centre", torch.zeros(self.blocks.build(dim).dim_out))
        total = 0
        for place, part in enumerate(self.blocks.members):
            width = min(self.width, part.dim_out)
            self.register_buffer(f"map{place}", torch.zeros(part.dim_out, width))
            total += width
        return total

    def _learn(self, sample: Ragged, random_state: int) -> None:
        self.blocks.fit(sample, random_state=random_state)
        found = self.blocks(sample)[sample.lengths > 0].double()
        centre = found.mean(0)
        self.get_buffer("centre").copy_(centre)
        for place, columns in enumerate(self.blocks.slices):
            held = self.get_buffer(f"map{place}")
            held.copy_(_whitening((found - centre)[:, columns], held.shape[1], self.power))

    def _pool(self, tokens: Ragged) -> Tensor:
        return self.even(self.blocks(tokens)) * present(tokens.lengths)

    def even(self, found: Float[Tensor, "seqs dim"]) -> Float[Tensor, "seqs width"]:
        """Whiten and scale what the parts give, side by side."""
        centred = found - self.get_buffer("centre")
        sides = [
            normalize(centred[:, columns] @ self.get_buffer(f"map{place}"), dim=1)
            for place, columns in enumerate(self.blocks.slices)
        ]
        return torch.cat(sides, dim=1)


def _whitening(
    centred: Float[Tensor, "seqs dim"], width: int, power: float
) -> Float[Tensor, "dim width"]:
    """Leading principal directions, divided by their variance to half the power."""
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    variance, axes = variance.flip(0)[:width], turned(axes.flip(1)[:, :width])
    varies = variance > _NOTHING * variance[0].clamp(min=1e-30)
    return axes * torch.where(varies, variance.clamp(min=1e-38) ** (-power / 2), 0.0)
