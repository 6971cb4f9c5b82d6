"""The token scaler: what poolers see of token vectors."""

from __future__ import annotations

from collections.abc import Container

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.poolers.fitting import principal_axes
from onevec.ragged import Ragged
from onevec.segment import segment_mean

CLIP = 6.0  # standard deviations: outlier tokens must not own the second moments
_TOKEN_WIDTH = 128  # wider tokens are rotated to this many leading axes, or blocks grow too wide
# A feature that varies less within sequences, as a part of its whole spread, belongs to sequences
# and not to tokens: the mean tells all of it. Persistent noise would own the other statistics.
_STEADY = 0.01
_LARGEST = 1e18
_ROUNDING = 1e-6  # what varies less, as a part of its size, does not vary
# What lies this many times the range of 98 % of the values from their middle, such as a sentinel
# of -9999, must not own a fit.
_FAR = 10.0
_QUANTILE_VALUES = 2**21  # so many values tell where they lie


class TokenScaler(nn.Module):
    """Token vectors to what poolers see of them, by view.

    ``"raw"`` are the tokens as they are; ``"clipped"`` are centred and clipped, each feature in
    its own unit; ``"scaled"`` are standardised, clipped and, of wide tokens, their leading axes.

    Attributes
    ----------
    shift, scale : Tensor, shape (dim,)
        Mean and standard deviation of each feature; the deviation of what is constant, or varies
        between sequences alone, is infinite, and such a feature is 0 in both views that know it.
    axes : Tensor, shape (dim, width)
        Leading axes of the standardised tokens; the identity where they are not wide.
    spread : float
        Root mean square distance of the tokens from their mean; known in `fit` alone, not saved.
    """

    shift: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(
        self,
        shift: Float[Tensor, " dim"],
        scale: Float[Tensor, " dim"],
        axes: Float[Tensor, "dim width"],
        spread: float = 0.0,
    ):
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("axes", axes)
        self.spread = spread

    @classmethod
    def fit(cls, sample: Ragged) -> TokenScaler:
        """Fit to a sample of sequences, see `tamed_sample`."""
        values = sample.values
        spread, shift = torch.std_mean(values, 0, correction=0)
        least = _ROUNDING * torch.maximum(spread.max(), shift.abs())
        scale = torch.where(spread > least, spread, torch.inf)
        varies = _spread_within(sample) > _STEADY * spread
        if bool(varies.any()):
            scale = torch.where(varies, scale, torch.inf)
        whole = float(spread.double().square().sum().sqrt())
        scaler = cls(shift, scale, torch.eye(sample.dim), whole)
        if sample.dim > _TOKEN_WIDTH:
            scaled = scaler(values, ("scaled",))["scaled"]
            scaler.axes = principal_axes(scaled, _TOKEN_WIDTH, whiten=False)[1]
        return scaler

    @property
    def steady(self) -> Tensor:
        """Whether each feature never varies within a sequence."""
        return torch.isinf(self.scale)

    def width(self, view: str) -> int:
        """How many features a view has."""
        return self.axes.shape[1] if view == "scaled" else len(self.shift)

    def forward(
        self, values: Float[Tensor, "*tokens dim"], views: Container[str]
    ) -> dict[str, Float[Tensor, "*tokens width"]]:
        """Return what poolers see of token vectors, by the views that are asked for."""
        shown = {"raw": values} if "raw" in views else {}
        if not ("clipped" in views or "scaled" in views):
            return shown
        apart = values.float() - self.shift
        if "clipped" in views:
            reach = torch.where(self.scale.isfinite(), CLIP * self.scale, 0.0)
            shown["clipped"] = torch.clamp(apart, -reach, reach)
        if "scaled" in views:  # in place: half of the time of such a step went into clearing pages
            scaled = apart.div_(self.scale).clamp_(-CLIP, CLIP)
            square = self.axes.shape[0] == self.axes.shape[1]
            shown["scaled"] = scaled if square else scaled @ self.axes
        return shown


def tamed_sample(sample: Ragged) -> Ragged:
    """Return the sample in fp32, with nothing absurdly far out, see `tamed`.

    Raises
    ------
    InputError
        If values are so large that fp32 does not hold their squares.
    """
    values = tamed(sample.values.float())
    largest = float(values.abs().max())
    if largest > _LARGEST:
        raise InputError(
            f"token values reach {largest:.0e}, and beyond {_LARGEST:.0e} fp32 does not hold "
            "their squares: divide all of them by one number"
        )
    return sample.with_values(values)


def tamed(values: Float[Tensor, "rows dims"]) -> Float[Tensor, "rows dims"]:
    """Put the middle of its dimension for what lies absurdly far out; almost always nothing."""
    some, share = values, max(1, values.numel() // _QUANTILE_VALUES)
    if share > 1:  # at random: sequences of one length have a period
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
        some = values[order[: -(-len(values) // share)].to(values.device)]
    low, middle, high = torch.quantile(some, torch.tensor([0.01, 0.5, 0.99]).to(some), dim=0)
    reach = torch.where(high > low, _FAR * (high - low), torch.inf)
    return torch.where((values - middle).abs() > reach, middle, values)


def _spread_within(sample: Ragged) -> Tensor:
    """Standard deviation of each feature around the means of its sequences, two tokens or more."""
    several = sample[torch.nonzero(sample.lengths > 1)[:, 0].numpy()]
    if not len(several):
        return torch.full((sample.dim,), torch.inf)
    means = segment_mean(several.values, several.lengths)
    apart = several.values.float() - means.repeat_interleave(several.lengths, 0)
    return apart.square().mean(0).sqrt()
