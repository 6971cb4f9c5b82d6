"""Poolers of random features: kernel mean, random projection, random convolutions."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.fitting import generator, principal_axes, sample_tokens
from onevec.poolers.segments import RaggedSegments, Segments
from onevec.ragged import Ragged

Values = Float[Tensor, "tokens dim"]

THRESHOLD_TOKENS = 16_384


def fourier_features(
    values: Values, frequencies: Float[Tensor, "dim half"]
) -> Float[Tensor, "tokens features"]:
    """``[cos(Wᵀh), sin(Wᵀh)] / √half``: inner products approximate the Gaussian kernel."""
    phase = values @ frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1) / frequencies.shape[1] ** 0.5


def median_distance(tokens: Values, random_state: int, pairs: int = 5_000) -> float:
    """Return the median distance of random pairs of distinct tokens; 1 if all are the same."""
    left, right = torch.randint(len(tokens), (2, pairs), generator=generator(random_state))
    left, right = left.to(tokens.device), right.to(tokens.device)
    distance = (tokens[left] - tokens[right]).norm(dim=1)
    distance = distance[distance > 0]
    return float(distance.median()) if len(distance) else 1.0


class KernelMean(Pooler):
    """Mean of random Fourier features: (seqs, features).

    ``mean([cos(Wᵀh), sin(Wᵀh)]) / √(features / 2)`` with the columns of W from N(0, 1/s²): the
    inner product of two results approximates the mean of ``exp(-|h - h'|² / (2 s²))`` over the
    pairs of tokens, the inner product of kernel mean embeddings.

    Parameters
    ----------
    features : int
        Width of the result; even.
    bandwidth : float
        ``s``, in units of the median distance of the sample's tokens.

    References
    ----------
    Rahimi and Recht (2007), "Random features for large-scale kernel machines"; Muandet,
    Fukumizu, Sriperumbudur and Schölkopf (2017), "Kernel mean embedding of distributions".
    """

    option_names = ("features", "bandwidth")
    frequencies: Tensor

    def __init__(self, features: int = 256, bandwidth: float = 1.0):
        super().__init__()
        if features < 2 or features % 2 or not bandwidth > 0:
            raise InputError(
                f"KernelMean got features={features}, bandwidth={bandwidth}: pass an even number "
                "of features and a bandwidth above 0"
            )
        self.features, self.bandwidth = int(features), float(bandwidth)

    def _build(self, dim: int) -> int:
        self.register_buffer("frequencies", torch.zeros(dim, self.features // 2))
        return self.features

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        width = self.bandwidth * median_distance(tokens, random_state)
        draw = torch.randn(sample.dim, self.features // 2, generator=generator(random_state))
        self.frequencies.copy_(draw / width)

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.mean(fourier_features(tokens.values, self.frequencies))


class RandomProjection(Pooler):
    """Bag of random projections (BOREP): (seqs, features).

    ``mean(φ(Wᵀh))`` or ``max(φ(Wᵀh))`` with the entries of W uniform in ±1/√dim. It is the
    control for "wider is better": it knows nothing of the data.

    Parameters
    ----------
    features : int
        Width of the result.
    nonlinearity : {"none", "relu", "tanh"}
        φ.
    reduce : {"mean", "max"}
        How tokens are put together.

    References
    ----------
    Wieting and Kiela (2019), "No training required: exploring random encoders for sentence
    classification".
    """

    option_names = ("features", "nonlinearity", "reduce")
    matrix: Tensor

    def __init__(self, features: int = 512, nonlinearity: str = "relu", reduce: str = "mean"):
        super().__init__()
        known = nonlinearity in ("none", "relu", "tanh") and reduce in ("mean", "max")
        if features < 1 or not known:
            raise InputError(
                f"RandomProjection got features={features}, nonlinearity={nonlinearity!r}, "
                f"reduce={reduce!r}: pass 1 or more features, 'none', 'relu' or 'tanh', and "
                "'mean' or 'max'"
            )
        self.features, self.nonlinearity, self.reduce = int(features), nonlinearity, reduce

    def _build(self, dim: int) -> int:
        self.register_buffer("matrix", torch.zeros(dim, self.features))
        return self.features

    def _learn(self, sample: Ragged, random_state: int) -> None:
        draw = torch.rand(sample.dim, self.features, generator=generator(random_state))
        self.matrix.copy_((2 * draw - 1) / sample.dim**0.5)

    def _pool(self, tokens: Segments) -> Tensor:
        features = tokens.values @ self.matrix
        if self.nonlinearity == "relu":
            features = features.relu()
        elif self.nonlinearity == "tanh":
            features = features.tanh()
        return tokens.mean(features) if self.reduce == "mean" else tokens.max(features)


def dilated_windows(
    tokens: Segments, values: Float[Tensor, "tokens channels"], taps: int, dilation: int
) -> Float[Tensor, "tokens taps_channels"]:
    """Lay each token's neighbours ``dilation`` apart side by side; 0 beyond the sequence."""
    places = [(tap - taps // 2) * dilation for tap in range(taps)]
    return torch.cat([tokens.shifted(values, place) for place in places], dim=1)


def random_sequences(sample: Ragged, budget: int, source: torch.Generator) -> Ragged:
    """Return whole sequences in random order until they hold ``budget`` tokens or more."""
    order = torch.randperm(len(sample), generator=source).to(sample.lengths.device)
    lengths = sample.lengths[order]
    return sample[order[lengths.cumsum(0) - lengths < budget]]


class RandomConvolutions(Pooler):
    """Random dilated convolutions, ROCKET's way: (seqs, 2 kernels).

    The tokens are whitened to ``channels`` directions (token PCA). Each kernel has ``taps`` taps
    over all channels with normal weights, centred per channel, and one of the dilations 1, 2, 4,
    and so on. The result is, per kernel, the share of places where the convolution exceeds the
    kernel's threshold (PPV) and the convolution's maximum. Thresholds are quantiles of the
    kernel's output over the sample, as in MiniRocket. Sequences are padded with zeros, so a
    single token is defined.

    Parameters
    ----------
    kernels : int
        Number of kernels, spread evenly over the dilations.
    taps : int
        Length of a kernel; odd.
    dilations : int
        How many powers of two.
    channels : int
        Token directions kept (at most the token dimension).

    References
    ----------
    Dempster, Petitjean and Webb (2020), "ROCKET"; Dempster, Schmidt and Webb (2021),
    "MiniRocket".
    """

    order_free = False
    distributional = False
    option_names = ("kernels", "taps", "dilations", "channels")
    centre: Tensor
    basis: Tensor
    weight: Tensor
    threshold: Tensor

    def __init__(self, kernels: int = 256, taps: int = 5, dilations: int = 4, channels: int = 16):
        super().__init__()
        if taps < 3 or taps % 2 == 0 or dilations < 1 or channels < 1 or kernels < dilations:
            raise InputError(
                f"RandomConvolutions got kernels={kernels}, taps={taps}, dilations={dilations}, "
                f"channels={channels}: taps must be odd and 3 or more, and there must be at "
                "least one kernel for each dilation"
            )
        self.kernels, self.taps = int(kernels), int(taps)
        self.dilations, self.channels = int(dilations), int(channels)

    def _build(self, dim: int) -> int:
        channels = min(self.channels, dim)
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("basis", torch.zeros(dim, channels))
        self.register_buffer("weight", torch.zeros(self.taps * channels, self.kernels))
        self.register_buffer("threshold", torch.zeros(self.kernels))
        return 2 * self.kernels

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        centre, basis = principal_axes(tokens, self.basis.shape[1], whiten=True)
        source = generator(random_state)
        weight = torch.randn(self.taps, basis.shape[1], self.kernels, generator=source)
        weight = weight - weight.mean(0)
        self.to(tokens.device)
        self.centre.copy_(centre)
        self.basis.copy_(basis)
        self.weight.copy_(weight.flatten(0, 1) / math.sqrt(basis.shape[1]))
        level = torch.rand(self.kernels, generator=source).to(tokens.device) * 0.8 + 0.1
        some = random_sequences(sample, THRESHOLD_TOKENS, source)
        output = self._convolve(RaggedSegments(some.values.float(), some.lengths)).sort(0).values
        place = (level * (len(output) - 1)).long().unsqueeze(0)
        self.threshold.copy_(output.gather(0, place)[0])

    def _convolve(self, tokens: Segments) -> Float[Tensor, "tokens kernels"]:
        projected = (tokens.values - self.centre) @ self.basis
        outputs = []
        for power, weight in enumerate(self.weight.tensor_split(self.dilations, dim=1)):
            windows = dilated_windows(tokens, projected, self.taps, 2**power)
            outputs.append(windows @ weight)
        return torch.cat(outputs, dim=1)

    def _pool(self, tokens: Segments) -> Tensor:
        output = self._convolve(tokens)
        positive = tokens.mean((output > self.threshold).float())
        return torch.cat([positive, tokens.max(output)], dim=1)
