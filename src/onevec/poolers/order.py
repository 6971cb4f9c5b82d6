"""Poolers that see the order of the tokens."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.base import CHUNK_TOKENS, Pooler, pieces
from onevec.poolers.fitting import (
    hard_assignment,
    kmeans_codebook,
    principal_axes,
    quantisation_scale,
    sample_tokens,
    soft_assignment,
)
from onevec.poolers.segments import RaggedSegments, Segments
from onevec.poolers.weighting import idf_weights
from onevec.ragged import Ragged


def cosine_weights(tokens: Segments, count: int) -> Float[Tensor, "tokens count"]:
    """``cos(π (i + ½) k / n) / n`` for each token i and k = 0 … count - 1."""
    length = tokens.expand(tokens.count)
    phase = (tokens.positions.float().unsqueeze(1) + 0.5) / length
    return (math.pi * phase * torch.arange(count, device=phase.device)).cos() / length


def bin_weights(tokens: Segments, bins: int) -> Float[Tensor, "tokens bins"]:
    """Return each token's weight in ``bins`` equal parts of its sequence.

    Token ``i`` of ``n`` fills the time from ``i / n`` to ``(i + 1) / n``. Its weight in a part is
    their overlap times ``bins``, so each part's weights sum to 1 for every ``n >= 1``, also where
    there are fewer tokens than parts.
    """
    length = tokens.expand(tokens.count)
    begin = tokens.positions.float().unsqueeze(1) / length * bins
    part = torch.arange(bins, device=length.device)
    overlap = torch.minimum(begin + bins / length, part + 1.0) - torch.maximum(begin, part + 0.0)
    return overlap.clamp(min=0)


class DCT(Pooler):
    """First coefficients of the discrete cosine transform over time: (seqs, count dim).

    ``c_k = (1/n) sum_i h_i cos(π (i + ½) k / n)`` for ``k < count``, which is DCT-II divided by
    ``2 n``. Coefficient 0 is the mean. For a constant sequence the others are 0 while
    ``k < 2 n``; a single token ``h`` gives ``h cos(π k / 2)``.

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

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.outer(cosine_weights(tokens, self.count), tokens.values).flatten(1)


class First(Pooler):
    """The first token, such as ``[CLS]``: (seqs, dim)."""

    order_free = False
    distributional = False

    def _build(self, dim: int) -> int:
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.pick(tokens.values, torch.zeros_like(tokens.lengths).unsqueeze(1))[:, 0]


class Last(Pooler):
    """The last token, where a causal encoder has seen everything: (seqs, dim)."""

    order_free = False
    distributional = False

    def _build(self, dim: int) -> int:
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        last = (tokens.lengths - 1).clamp(min=0).unsqueeze(1)
        return tokens.pick(tokens.values, last)[:, 0]


class SegmentMeans(Pooler):
    """Means of equal parts of the sequence, in order: (seqs, parts dim).

    The borders may cut a token: it counts in both parts by its share. So fewer tokens than parts
    are defined (a single token is the mean of every part), and the parts' mean is the mean.
    """

    order_free = False
    distributional = False
    option_names = ("parts",)

    def __init__(self, parts: int = 4):
        super().__init__()
        if parts < 1:
            raise InputError(f"SegmentMeans got parts={parts}: pass 1 or more")
        self.parts = int(parts)

    def _build(self, dim: int) -> int:
        return self.parts * dim

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.outer(bin_weights(tokens, self.parts), tokens.values).flatten(1)


class LaggedCovariance(Pooler):
    """How tokens go with later tokens: (seqs, lags rank² [+ rank]).

    ``z = (h - μ) B`` with the whitening token PCA ``B`` (dim, rank) of the sample; for each lag
    ℓ the matrix ``mean(z_i z_{i+ℓ}^T)`` around the sample's mean token, and, with
    ``differences``, ``mean |z_{i+1} - z_i|``. Sequences too short for a lag give 0 there.

    Parameters
    ----------
    rank : int
        Token directions kept (at most the token dimension).
    lags : sequence of int
        Distances, in tokens.
    differences : bool
        Add the mean absolute difference of neighbours.
    """

    order_free = False
    distributional = False
    option_names = ("rank", "lags", "differences")
    mean: Tensor
    basis: Tensor

    def __init__(self, rank: int = 16, lags: tuple[int, ...] = (1,), differences: bool = True):
        super().__init__()
        self.lags = [int(lag) for lag in lags]
        if rank < 1 or not self.lags or min(self.lags) < 1:
            raise InputError(
                f"LaggedCovariance got rank={rank}, lags={lags}: pass a rank and lags of 1 or more"
            )
        self.rank, self.differences = int(rank), bool(differences)

    def _build(self, dim: int) -> int:
        rank = min(self.rank, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.zeros(dim, rank))
        return len(self.lags) * rank**2 + rank * self.differences

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        mean, basis = principal_axes(tokens, self.basis.shape[1], whiten=True)
        self.mean.copy_(mean)
        self.basis.copy_(basis)

    def _pool(self, tokens: Segments) -> Tensor:
        projected = (tokens.values - self.mean) @ self.basis
        parts = []
        for lag in self.lags:
            pairs, left, right = tokens.pairs(projected, lag)
            parts.append((pairs.outer(left, right) / pairs.count.unsqueeze(2)).flatten(1))
        if self.differences:
            pairs, left, right = tokens.pairs(projected, 1)
            parts.append(pairs.mean((right - left).abs()))
        return torch.cat(parts, dim=1)


class Bigrams(Pooler):
    """TF-IDF of bigrams of codewords: (seqs, codes²).

    Tokens become codewords (k-means), and entry ``(j, k)`` is the share of neighbours with codes
    j then k, times ``log((1 + N) / (1 + df)) + 1`` over the N sequences of the sample. A single
    token has no bigram: 0.

    Parameters
    ----------
    codes : int
        Codewords of the k-means codebook.
    soft : bool
        Share tokens between codewords (`fitting.soft_assignment`); then it has a gradient.
    """

    order_free = False
    distributional = False
    option_names = ("codes", "soft")
    book: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, codes: int = 16, soft: bool = False):
        super().__init__()
        if codes < 2:
            raise InputError(f"Bigrams got codes={codes}: pass 2 or more")
        self.codes, self.soft = int(codes), bool(soft)

    def _build(self, dim: int) -> int:
        self.register_buffer("book", torch.zeros(self.codes, dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("weight", torch.ones(self.codes**2))
        return self.codes**2

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        self.book.copy_(kmeans_codebook(tokens, self.codes, random_state))
        self.scale.copy_(quantisation_scale(tokens, self.book.to(tokens)))
        self.to(tokens.device)
        found = torch.zeros_like(self.weight)
        for piece in pieces(sample, CHUNK_TOKENS):
            tokens = RaggedSegments(piece.values.float(), piece.lengths)
            found += (self._shares(tokens, soft=False) > 0).sum(0)
        self.weight.copy_(idf_weights(found, len(sample)))

    def _shares(self, tokens: Segments, soft: bool) -> Float[Tensor, "seqs bigrams"]:
        share = (
            soft_assignment(tokens.values, self.book, self.scale)
            if soft
            else hard_assignment(tokens.values, self.book)
        )
        pairs, left, right = tokens.pairs(share, 1)
        return pairs.outer(left, right).flatten(1) / pairs.count

    def _pool(self, tokens: Segments) -> Tensor:
        return self._shares(tokens, self.soft) * self.weight
