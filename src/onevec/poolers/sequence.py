"""Learned poolers that see the order of the tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from onevec.errors import InputError
from onevec.poolers.learned import LearnedPooler, map_blocks, zero_linear
from onevec.poolers.random_features import neighbours
from onevec.ragged import Ragged
from onevec.segment import segment_expand, segment_max, segment_mean, segment_positions

Lengths = Int[Tensor, " seqs"]


def mirrored(lengths: Lengths) -> Int[Tensor, " tokens"]:
    """Return the places of the tokens with each sequence read backwards."""
    start = segment_expand(lengths.cumsum(0) - lengths, lengths)
    last = start + segment_expand(lengths, lengths) - 1
    return last - segment_positions(lengths)


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

    def _pool(self, tokens: Ragged) -> Tensor:
        values, lengths = tokens.values, tokens.lengths
        readings = [self._standard(values)]
        if self.bidirectional:
            readings.append(readings[0].index_select(0, mirrored(lengths)))
        states = [
            # Padding comes last, after every state that is kept.
            map_blocks(reading, lengths, lambda padded, _, unit=unit: unit(padded)[0])
            for unit, reading in zip(self.units, readings, strict=True)
        ]
        pooled = torch.cat([segment_mean(read, lengths) for read in states], dim=1)
        added = self.project(pooled)
        return segment_mean(values, lengths) + self.spread * added


def segment_convolution(
    values: Float[Tensor, "tokens dim"],
    lengths: Lengths,
    weight: Float[Tensor, "channels taps_dim"],
    bias: Float[Tensor, " channels"],
) -> Float[Tensor, "tokens channels"]:
    """Convolve each sequence, zeros beyond its ends: `dilated_windows` times the weight.

    One tap at a time: the windows themselves, ``taps`` times the tokens, are never laid out.
    """
    taps = weight.shape[1] // values.shape[1]
    total = bias
    for tap, (place, inside) in zip(
        weight.chunk(taps, dim=1), neighbours(lengths, taps, 1), strict=True
    ):
        total = total + linear(values, tap).float().index_select(0, place) * inside
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

    def _pool(self, tokens: Ragged) -> Tensor:
        values, lengths = tokens.values, tokens.lengths
        kernel = self.kernel.weight, self.kernel.bias
        features = gelu(segment_convolution(self._standard(values), lengths, *kernel))
        pooled = torch.cat([segment_mean(features, lengths), segment_max(features, lengths)], dim=1)
        return segment_mean(values, lengths) + self.spread * self.project(pooled)
