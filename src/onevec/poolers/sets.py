"""Learned poolers made of means: deep sets, power mean, layer mix."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.fitting import sample_tokens
from onevec.poolers.learned import LearnedPooler, zero_mlp
from onevec.poolers.segments import Segments
from onevec.ragged import Ragged

LOG_POWER = 3.0  # powers stay between 1/20 and 20: beyond, it is the geometric mean or the maximum


class DeepSets(LearnedPooler):
    """Deep sets, ``ρ(mean φ(h))``: (seqs, dim). Starts as the mean.

    φ and ρ each add to their input an MLP of it (standardised), whose last layer starts at zero.

    Parameters
    ----------
    hidden : int
        Hidden units of each MLP.

    References
    ----------
    Zaheer, Kottur, Ravanbakhsh, Póczos, Salakhutdinov and Smola (2017), "Deep sets".
    """

    option_names = ("hidden",)

    def __init__(self, hidden: int = 256):
        super().__init__()
        if hidden < 1:
            raise InputError(f"DeepSets got hidden={hidden}: pass 1 or more")
        self.hidden = int(hidden)

    def _make(self, dim: int) -> int:
        self.before = zero_mlp(dim, self.hidden, dim)
        self.after = zero_mlp(dim, self.hidden, dim)
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        mean = tokens.mean(self._step(self.before, tokens.values))
        return self._step(self.after, mean) * tokens.present


def power_mean_excess(
    tokens: Segments, values: Float[Tensor, "tokens dim"], power: Float[Tensor, " dim"]
) -> Float[Tensor, "seqs dim"]:
    """``mean(y^p)^(1/p) - mean(y)`` of positive values; exactly 0 where ``p = 1``.

    Powers are taken of ratios to the largest value of the sequence: none overflows.
    """
    peak = tokens.max(values).detach()
    ratio = values / tokens.expand(peak)
    raised = tokens.mean(ratio**power)
    some = tokens.present
    root = raised.where(some, torch.ones_like(raised)) ** (1.0 / power)
    return peak * (root - tokens.mean(ratio)) * some


class PowerMean(LearnedPooler):
    """Power mean with a learned power per dimension: (seqs, dim). Starts as the mean.

    ``mean(h) + s (mean(y^p)^(1/p) - mean(y))`` with ``y = max((h - low) / s, 0) + margin``, low
    and s the least value and the spread of each dimension in the sample. Where no token is below
    low, this is the power mean of ``y`` in the encoder's units; what lies below is averaged.

    Parameters
    ----------
    margin : float
        The least ``y``, in units of the spread: powers are of positive numbers.

    References
    ----------
    Rücklé, Eger, Peyrard and Gurevych (2018), "Concatenated power mean word embeddings"; Li,
    Xiong, Thabet and Ghanem (2020), "DeeperGCN" (learned powers).
    """

    option_names = ("margin",)
    low: Tensor

    def __init__(self, margin: float = 0.1):
        super().__init__()
        if not margin > 0:
            raise InputError(f"PowerMean got margin={margin}: pass a number above 0")
        self.margin = float(margin)

    def _make(self, dim: int) -> int:
        self.register_buffer("low", torch.zeros(dim))
        self.log_power = nn.Parameter(torch.zeros(dim))
        return dim

    def _learn(self, sample: Ragged, random_state: int) -> None:
        super()._learn(sample, random_state)
        self.low.copy_(sample.values.amin(0))

    def _pool(self, tokens: Segments) -> Tensor:
        positive = ((tokens.values - self.low) / self.spread).clamp(min=0) + self.margin
        power = self.log_power.clamp(-LOG_POWER, LOG_POWER).exp()
        excess = power_mean_excess(tokens, positive, power)
        return tokens.mean(tokens.values) + self.spread * excess


class LayerMix(Pooler):
    """Mean of a learned mix of the encoder's layers: (seqs, dim). Starts as the mean.

    ``sum_l w_l mean(h_l) r_l``, where ``r_l`` scales layer l to the last layer's root mean square
    spread. Reads the field ``layers`` (tokens, layers, dim), the last layer being the tokens
    themselves. The weights start at 0, …, 0, 1.

    Parameters
    ----------
    layers : int
        How many; 0: as many as the sample has.

    References
    ----------
    Peters, Neumann, Iyyer, Gardner, Clark, Lee and Zettlemoyer (2018), "Deep contextualized word
    representations" (there the weights are a softmax, which cannot start at one layer).
    """

    starts_as = "mean"
    needs = ("layers",)
    option_names = ("layers",)
    ratio: Tensor

    def __init__(self, layers: int = 0):
        super().__init__()
        if layers < 0:
            raise InputError(f"LayerMix got layers={layers}: pass 0 or more")
        self.layers = int(layers)

    def _build(self, dim: int) -> int:
        count = max(1, self.layers)
        self.register_buffer("ratio", torch.ones(count))
        self.weight = nn.Parameter((torch.arange(count) == count - 1).float())
        return dim

    def check_fields(self, tokens: Ragged) -> None:
        """Raise `InputError` when the field of layers is missing or has another shape."""
        super().check_fields(tokens)
        shape = tuple(tokens.fields["layers"].shape)
        known = len(shape) == 3 and shape[2] == tokens.dim
        if not known or shape[1] != (self.layers or max(1, shape[1])):
            raise InputError(
                f"LayerMix got the field 'layers' of shape {shape}: it must be (tokens, layers, "
                f"dim) = ({len(tokens.values)}, {self.layers or '1 or more'}, {tokens.dim})"
            )

    def _learn(self, sample: Ragged, random_state: int) -> None:
        layers = sample.fields["layers"]
        self.layers = layers.shape[1]
        self._build(sample.dim)
        every = [*layers.unbind(1)[:-1], sample.values]
        spread = torch.stack(
            [
                sample_tokens(sample.with_values(layer), random_state).var(0, correction=0).mean()
                for layer in every
            ]
        ).sqrt()
        flat = (spread == 0) | (spread[-1] == 0)
        self.ratio.copy_((spread[-1] / spread).masked_fill(flat, 1.0))

    def _pool(self, tokens: Segments) -> Tensor:
        layers = tokens.fields["layers"]
        weight = self.weight * self.ratio
        mixed = weight[-1] * tokens.mean(tokens.values)
        for number, share in enumerate(weight[:-1]):  # one at a time: all in fp32 is large
            mixed = mixed + share * tokens.mean(layers[:, number].contiguous())
        return mixed
