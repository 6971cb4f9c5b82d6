"""Poolers that see the order of the tokens."""

from __future__ import annotations

import math
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.ragged import Ragged
from onevec.segment import segment_expand, segment_outer, segment_positions

Values = Float[Tensor, "tokens dim"]
Lengths = Int[Tensor, " seqs"]


def cosine_weights(lengths: Lengths, count: int) -> Float[Tensor, "tokens count"]:
    """``cos(π (i + ½) k / n) / n`` for each token i and k = 0 … count - 1."""
    length = segment_expand(lengths.float(), lengths).unsqueeze(1)
    phase = (segment_positions(lengths).float().unsqueeze(1) + 0.5) / length
    return (math.pi * phase * torch.arange(count, device=lengths.device)).cos() / length


class DCT(Pooler):
    """First coefficients of the discrete cosine transform over time: (seqs, count dim).

    ``c_k = (1/n) sum_i h_i cos(π (i + ½) k / n)`` for ``k < count``, which is DCT-II divided by
    ``2 n``. Coefficient 0 is the mean; for a constant sequence the others are 0 (up to n = k/2,
    where the cosine runs over its Nyquist limit: a single token gives ``h cos(π k / 2)``).

    References
    ----------
    Almarwani, Aldarmaki and Diab (2019), "Efficient sentence embedding using discrete cosine
    transform".
    """

    order_free = False
    distributional = False
    option_names = ("count",)

    def __init__(self, count: int = 4):
        super().__init__()
        if count < 1:
            raise InputError(f"DCT got count={count}: pass 1 or more")
        self.count = int(count)

    def _build(self, dim: int) -> int:
        return self.count * dim

    def _pool(self, tokens: Ragged) -> Tensor:
        weights = cosine_weights(tokens.lengths, self.count)
        return segment_outer(weights, tokens.values, tokens.lengths).flatten(1)
