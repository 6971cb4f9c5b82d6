"""Learned poolers that see the order of the tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from onevec.errors import InputError
from onevec.poolers.learned import LearnedPooler, zero_linear
from onevec.poolers.segments import Segments


def mirrored(
    padded: Float[Tensor, "seqs longest dim"], mask: Bool[Tensor, "seqs longest"]
) -> Float[Tensor, "seqs longest dim"]:
    """Return each sequence read backwards."""
    place = torch.arange(mask.shape[1], device=mask.device)
    back = (mask.long().sum(1, keepdim=True) - 1 - place).clamp(min=0)
    return padded.gather(1, back.unsqueeze(2).expand(padded.shape))


class Recurrent(LearnedPooler):
    """A GRU over the tokens: (seqs, dim). Starts as the mean.

    ``mean(h) + P mean(s)`` with s the states of a gated recurrent unit over the standardised
    tokens. P starts at zero.

    Parameters
    ----------
    hidden : int
        Width of a state.
    bidirectional : bool
        Read the sequence backwards too, with states of its own.

    References
    ----------
    Cho, van Merriënboer, Gulcehre, Bahdanau, Bougares, Schwenk and Bengio (2014), "Learning
    phrase representations using RNN encoder-decoder for statistical machine translation".
    """

    order_free = False
    distributional = False
    option_names = ("hidden", "bidirectional")

    def __init__(self, hidden: int = 64, bidirectional: bool = False):
        super().__init__()
        if hidden < 1:
            raise InputError(f"Recurrent got hidden={hidden}: pass 1 or more")
        self.hidden, self.bidirectional = int(hidden), bool(bidirectional)

    def _make(self, dim: int) -> int:
        directions = 1 + self.bidirectional
        self.units = nn.ModuleList(
            nn.GRU(dim, self.hidden, batch_first=True) for _ in range(directions)
        )
        self.project = zero_linear(directions * self.hidden, dim)
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        states = tokens.map(self._states, self._standard(tokens.values))
        return tokens.mean(tokens.values) + self.spread * self.project(tokens.mean(states))

    def _states(
        self, padded: Float[Tensor, "seqs longest dim"], mask: Bool[Tensor, "seqs longest"]
    ) -> Float[Tensor, "seqs longest width"]:
        # Padding comes last, after every state that is kept.
        readings = [padded, mirrored(padded, mask)] if self.bidirectional else [padded]
        states = [unit(read)[0] for unit, read in zip(self.units, readings, strict=True)]
        return torch.cat(states, dim=-1)


def segment_convolution(
    tokens: Segments,
    values: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "channels taps_dim"],
    bias: Float[Tensor, " channels"],
) -> Float[Tensor, "tokens channels"]:
    """Convolve each sequence, zeros beyond its ends: `dilated_windows` times the weight.

    One tap at a time: the windows themselves, ``taps`` times the tokens, are never laid out.
    """
    taps = weight.shape[1] // values.shape[1]
    total = bias
    for place, tap in enumerate(weight.chunk(taps, dim=1)):
        total = total + tokens.shifted(linear(values, tap).float(), place - taps // 2)
    return total


class Convolution(LearnedPooler):
    """Learned convolutions over the tokens: (seqs, dim). Starts as the mean.

    ``mean(h) + P [mean(y), max(y)]`` with ``y = gelu(convolution of the standardised tokens)``.
    P starts at zero. A sequence is padded with zeros, so a single token is defined.

    Parameters
    ----------
    channels : int
        Kernels, each over all token dimensions.
    taps : int
        Length of a kernel; odd.

    References
    ----------
    Kim (2014), "Convolutional neural networks for sentence classification".
    """

    order_free = False
    distributional = False
    option_names = ("channels", "taps")

    def __init__(self, channels: int = 64, taps: int = 7):
        super().__init__()
        if channels < 1 or taps < 3 or taps % 2 == 0:
            raise InputError(
                f"Convolution got channels={channels}, taps={taps}: pass 1 or more channels, and "
                "an odd number of taps, 3 or more"
            )
        self.channels, self.taps = int(channels), int(taps)

    def _make(self, dim: int) -> int:
        self.kernel = nn.Linear(self.taps * dim, self.channels)
        self.project = zero_linear(2 * self.channels, dim)
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        kernel = self.kernel.weight, self.kernel.bias
        features = gelu(segment_convolution(tokens, self._standard(tokens.values), *kernel))
        pooled = torch.cat([tokens.mean(features), tokens.max(features)], dim=1)
        return tokens.mean(tokens.values) + self.spread * self.project(pooled)
