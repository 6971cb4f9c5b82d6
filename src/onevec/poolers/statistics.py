"""Statistics of each dimension over the tokens of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.segments import Segments
from onevec.ragged import Ragged
from onevec.segment import safe_sqrt


class Mean(Pooler):
    """Mean of the tokens, ``sum(mask * h) / sum(mask)``: (seqs, dim)."""

    def _build(self, dim: int) -> int:
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.mean(tokens.values)


class Max(Pooler):
    """Maximum of each dimension: (seqs, dim)."""

    def _build(self, dim: int) -> int:
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.max(tokens.values)


class Min(Pooler):
    """Minimum of each dimension: (seqs, dim)."""

    def _build(self, dim: int) -> int:
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.min(tokens.values)


class Std(Pooler):
    """Biased standard deviation of each dimension, 0 for a single token: (seqs, dim)."""

    def _build(self, dim: int) -> int:
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.std(tokens.values)


class Statistics(Pooler):
    """Statistics pooling, mean ‖ std: (seqs, 2 dim).

    References
    ----------
    Snyder, Garcia-Romero, Sell, Povey and Khudanpur (2018), "X-vectors".
    """

    def _build(self, dim: int) -> int:
        return 2 * dim

    def _pool(self, tokens: Segments) -> Tensor:
        return torch.cat([tokens.mean(tokens.values), tokens.std(tokens.values)], dim=1)


def standardised_moments(
    tokens: Segments, orders: Sequence[int]
) -> Float[Tensor, "seqs orders_dim"]:
    """``mean(((h - mean) / std) ** order)``, minus 3 for order 4; 0 where the std is 0."""
    centred = tokens.centre(tokens.values)
    std = safe_sqrt(tokens.mean(centred**2))
    flat = std == 0
    scaled = centred / tokens.expand(std.where(~flat, torch.ones_like(std)))
    moments = [
        (tokens.mean(scaled**order) - (3.0 if order == 4 else 0.0)).masked_fill(flat, 0)
        for order in orders
    ]
    return torch.cat(moments, dim=1)


class StandardisedMoments(Pooler):
    """Standardised moments: skewness (3), excess kurtosis (4): (seqs, len(orders) dim).

    Biased estimates, as `scipy.stats.skew` and `scipy.stats.kurtosis` by default. A dimension
    that is constant over a sequence (a single token, for one) has no shape: 0.
    """

    option_names = ("orders",)

    def __init__(self, orders: tuple[int, ...] = (3, 4)):
        super().__init__()
        self.orders = [int(order) for order in orders]
        if not self.orders or min(self.orders) < 3:
            raise InputError(
                f"StandardisedMoments got orders={orders}: pass whole numbers from 3 on"
            )

    def _build(self, dim: int) -> int:
        return len(self.orders) * dim

    def _pool(self, tokens: Segments) -> Tensor:
        return standardised_moments(tokens, self.orders)


def power_mean(tokens: Segments, power: float) -> Float[Tensor, "seqs dim"]:
    """Signed power mean: ``s(m) |m|^(1/p)`` with ``m = mean(s(h) |h|^p)`` and ``s`` the sign.

    For odd whole ``p`` this is Rücklé's ``mean(h^p)^(1/p)``; the sign makes it defined, and
    odd, for every ``p > 0``.
    """
    values = tokens.values
    safe = values.where(values != 0, torch.ones_like(values)).abs()
    raised = torch.where(values != 0, values.sign() * safe**power, 0.0)
    mean = tokens.mean(raised)
    nonzero = mean.abs() > 1e-36
    size = mean.abs().where(nonzero, torch.ones_like(mean))
    return torch.where(nonzero, mean.sign() * size ** (1.0 / power), 0.0)


class PowerMeans(Pooler):
    """Signed power means, one block per power: (seqs, len(powers) dim).

    References
    ----------
    Rücklé, Eger, Peyrard and Gurevych (2018), "Concatenated power mean word embeddings".
    """

    option_names = ("powers",)

    def __init__(self, powers: tuple[float, ...] = (2.0, 3.0)):
        super().__init__()
        self.powers = [float(power) for power in powers]
        if not self.powers or min(self.powers) <= 0:
            raise InputError(f"PowerMeans got powers={powers}: pass numbers above 0")

    def _build(self, dim: int) -> int:
        return len(self.powers) * dim

    def _pool(self, tokens: Segments) -> Tensor:
        return torch.cat([power_mean(tokens, power) for power in self.powers], dim=1)


def quantiles(tokens: Segments, levels: Sequence[float]) -> Float[Tensor, "seqs levels dim"]:
    """Interpolate linearly between the sorted tokens at position ``level * (n - 1)``."""
    last = (tokens.lengths - 1).clamp(min=0).unsqueeze(1)
    place = torch.tensor(levels, device=last.device, dtype=tokens.values.dtype) * last
    low = place.long()
    ordered, high = tokens.sort(tokens.values), torch.minimum(low + 1, last)
    lower, upper = tokens.pick(ordered, low), tokens.pick(ordered, high)
    return torch.lerp(lower, upper, (place - low).unsqueeze(2).expand_as(lower))


class Quantiles(Pooler):
    """Quantiles of each dimension, one block per level: (seqs, len(levels) dim).

    Linear interpolation at position ``level * (n - 1)``, NumPy's default; that is why ``X‖X``
    gives other values than ``X`` (`SlicedWasserstein` is the one that does not).
    """

    distributional = False
    option_names = ("levels",)

    def __init__(self, levels: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)):
        super().__init__()
        self.levels = [float(level) for level in levels]
        if not self.levels or min(self.levels) < 0 or max(self.levels) > 1:
            raise InputError(f"Quantiles got levels={levels}: pass numbers from 0 to 1")

    def _build(self, dim: int) -> int:
        return len(self.levels) * dim

    def _pool(self, tokens: Segments) -> Tensor:
        return quantiles(tokens, self.levels).flatten(1)


class PNA(Pooler):
    """Principal neighbourhood aggregation: mean ‖ std ‖ max ‖ min (seqs, 4 dim or 12 dim).

    With ``length_scalers`` the four come three times: as they are, times
    ``log(n + 1) / δ`` and times ``δ / log(n + 1)``, δ being the mean of ``log(n + 1)`` over the
    sample. That writes the length into the vector on purpose; it is off by default because
    length is a shortcut.

    References
    ----------
    Corso, Cavalleri, Beaini, Liò and Veličković (2020), "Principal neighbourhood aggregation
    for graph nets".
    """

    option_names = ("length_scalers",)
    delta: Tensor

    def __init__(self, length_scalers: bool = False):
        super().__init__()
        self.length_scalers = bool(length_scalers)
        self.distributional = not self.length_scalers

    def _build(self, dim: int) -> int:
        self.register_buffer("delta", torch.ones(()))
        return (12 if self.length_scalers else 4) * dim

    def _learn(self, sample: Ragged, random_state: int) -> None:
        self.delta.copy_(sample.lengths[sample.lengths > 0].float().log1p().mean())

    def _pool(self, tokens: Segments) -> Tensor:
        reductions = (tokens.mean, tokens.std, tokens.max, tokens.min)
        tower = torch.cat([reduce(tokens.values) for reduce in reductions], dim=1)
        if not self.length_scalers:
            return tower
        scale = tokens.count.log1p() / self.delta
        return torch.cat([tower, tower * scale, tower / scale], dim=1)
