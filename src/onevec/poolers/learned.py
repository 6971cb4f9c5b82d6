"""What learned poolers share: tokens without a unit, and steps that start at nothing."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.poolers.base import Pooler
from onevec.poolers.fitting import sample_tokens
from onevec.ragged import Ragged


def centre_and_spread(
    values: Float[Tensor, "rows dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """Return the mean and the biased standard deviation of each dimension.

    A dimension that does not vary gets the root mean square of the others' spread (1 if none
    varies), so that neither a division by it nor a product with it stands out.
    """
    spread, centre = torch.std_mean(values, 0, correction=0)
    varies = spread > 1e-6 * torch.maximum(centre.abs(), spread.max())
    typical = (spread[varies] ** 2).mean().sqrt() if bool(varies.any()) else spread.new_ones(())
    return centre, spread.where(varies, typical)


def zero_linear(width: int, dim_out: int) -> nn.Linear:
    """Make a linear map that starts at zero; it needs no bias, a constant tells nothing."""
    layer = nn.Linear(width, dim_out, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def zero_mlp(width: int, hidden: int, dim_out: int) -> nn.Sequential:
    """Make a network of one hidden layer whose last layer starts at zero."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), zero_linear(hidden, dim_out))


class Scorer(nn.Module):
    """One score per token, ``wᵀ tanh(V h + b)``, times ``σ(U h + c)`` if gated: (tokens,).

    ``w`` starts at zero: at first all tokens have the same score.
    """

    def __init__(self, width: int, hidden: int, gated: bool = False):
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden) if gated else None
        self.weight = zero_linear(hidden, 1)

    def forward(self, values: Float[Tensor, "tokens width"]) -> Float[Tensor, " tokens"]:
        """Score each token."""
        features = self.hidden(values).tanh()
        if self.gate is not None:
            features = features * self.gate(values).sigmoid()
        return self.weight(features).squeeze(1)


class LearnedPooler(Pooler):
    """A pooler with parameters that see standardised tokens and add in units of their spread.

    The mean and the spread of each token dimension come from the sample. So the parameters have
    no unit: one learning rate suits every encoder. The tokens that are put together stay as they
    are, and the result stays in the encoder's space.

    A subclass makes its parameters in `_make`.
    """

    starts_as = "mean"
    mixed_precision = True
    centre: Tensor
    spread: Tensor

    @abstractmethod
    def _make(self, dim: int) -> int:
        """Make the parameters for tokens of ``dim`` dimensions; return ``dim_out``."""

    def _build(self, dim: int) -> int:
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))
        return self._make(dim)

    def _learn(self, sample: Ragged, random_state: int) -> None:
        centre, spread = centre_and_spread(sample_tokens(sample, random_state))
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def _standard(self, vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        return (vectors - self.centre) / self.spread

    def _step(
        self, layer: nn.Module, vectors: Float[Tensor, "*rows dim"]
    ) -> Float[Tensor, "*rows dim"]:
        """Add what the layer makes of the standardised vectors; a zero layer changes nothing."""
        return vectors + self.spread * layer(self._standard(vectors))
