"""Closed-form poolers side by side as the recipe weighs them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from onevec.errors import InputError
from onevec.poolers.learned import present
from onevec.poolers.parts import OnParts, Parts
from onevec.ragged import Ragged


class Evened(OnParts):
    """Closed-form poolers, each whitened in part and of length 1: (seqs, sum of their widths).

    Each part becomes ``z / |z|`` with ``z = Λ^(-power / 2) Vᵀ (b - m)``, where m is the mean of
    what the part gives over the sample's sequences and V, Λ are the leading principal directions
    and variances (see `onevec.project.Whitening`). So no part and no outlier speaks louder
    than another, and a residual head or a projection that follows starts where the recipe stands.

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
        parts: Parts = "mean|std|dct",
        power: float = 0.25,
        width: int = 192,
    ):
        super().__init__()
        self._stand_on(parts)
        if not 0 <= power <= 1 or width < 1:
            raise InputError(
                f"Evened got power={power}, width={width}: pass a power from 0 to 1, and a width "
                "of 1 or more"
            )
        self.power, self.width = float(power), int(width)

    def _build(self, dim: int) -> int:
        self.register_buffer("centre", torch.zeros(self.blocks.build(dim).dim_out))
        total = 0
        for place, part in enumerate(self.blocks.members):
            width = min(self.width, part.dim_out)
            self.register_buffer(f"map{place}", torch.zeros(part.dim_out, width))
            total += width
        return total

    def _learn(self, sample: Ragged, random_state: int) -> None:
        from onevec.project import Whitening  # scikit-learn takes a while to import

        self.blocks.fit(sample, random_state=random_state)
        found = self.blocks(sample)[sample.lengths > 0]
        self.get_buffer("centre").copy_(found.double().mean(0))
        if len(found) < 2:  # nothing varies
            return
        for place, columns in enumerate(self.blocks.slices):
            held = self.get_buffer(f"map{place}")
            whitening = Whitening(held.shape[1], power=self.power)
            whitening.fit(found[:, columns].double().cpu().numpy())
            held.copy_(torch.from_numpy(whitening.matrix_))

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
