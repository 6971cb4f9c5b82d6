"""Second-order statistics: how the dimensions of the tokens vary together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.fitting import principal_axes, sample_tokens
from onevec.poolers.segments import Segments
from onevec.ragged import Ragged
from onevec.segment import safe_sqrt

Values = Float[Tensor, "tokens rank"]


def second_moments(tokens: Segments, values: Values) -> Float[Tensor, "seqs rank rank"]:
    """``mean(h h^T)`` of each sequence."""
    return tokens.outer(values, values) / tokens.count.unsqueeze(2)


def upper_triangle(matrices: Float[Tensor, "seqs rank rank"]) -> Float[Tensor, "seqs triangle"]:
    """Vectorise symmetric matrices; off-diagonal entries times √2, so that norms are kept."""
    rank = matrices.shape[-1]
    row, column = torch.triu_indices(rank, rank, device=matrices.device)
    scale = torch.where(row == column, 1.0, 2.0**0.5)
    return matrices[:, row, column] * scale


def signed_sqrt(values: Tensor) -> Tensor:
    """``sign(x) sqrt(|x|)``, with a gradient of 0 at 0."""
    return values.sign() * safe_sqrt(values.abs(), eps=1e-30)


class Covariance(Pooler):
    """Covariance of the leading token directions: (seqs, rank (rank + 1) / 2).

    ``z = (h - μ) B`` with the token PCA basis ``B`` (dim, rank) of the sample; the result is the
    upper triangle of ``mean((z - mean z)(z - mean z)^T)``, off-diagonal entries times √2.

    Parameters
    ----------
    rank : int
        Token directions kept (at most the token dimension).
    whiten : bool
        Scale each direction to unit variance over the sample's tokens.
    centre : {"sequence", "sample"}
        Moments around each sequence's own mean (then a single token gives zeros), or around the
        sample's mean token (then the sequence's mean counts too).
    signed_root : bool
        Take ``sign(c) sqrt(|c|)`` of each entry: tames heavy tails.

    References
    ----------
    Lin, RoyChowdhury and Maji (2015), "Bilinear CNN models"; Li, Xie, Wang and Gao (2018),
    "Towards faster training of global covariance pooling networks".
    """

    option_names = ("rank", "whiten", "centre", "signed_root")
    mean: Tensor
    basis: Tensor

    def __init__(
        self,
        rank: int = 32,
        whiten: bool = True,
        centre: str = "sequence",
        signed_root: bool = False,
    ):
        super().__init__()
        if rank < 1 or centre not in ("sequence", "sample"):
            raise InputError(
                f"Covariance got rank={rank}, centre={centre!r}: pass a rank of 1 or more and "
                "'sequence' or 'sample'"
            )
        self.rank, self.whiten = int(rank), bool(whiten)
        self.centre, self.signed_root = centre, bool(signed_root)

    def _build(self, dim: int) -> int:
        rank = min(self.rank, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.zeros(dim, rank))
        return rank * (rank + 1) // 2

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        mean, basis = principal_axes(tokens, self.basis.shape[1], self.whiten)
        self.mean.copy_(mean)
        self.basis.copy_(basis)

    def _pool(self, tokens: Segments) -> Tensor:
        projected = (tokens.values - self.mean) @ self.basis
        if self.centre == "sequence":
            projected = tokens.centre(projected)
        moments = upper_triangle(second_moments(tokens, projected))
        return signed_sqrt(moments) if self.signed_root else moments


class Correlation(Pooler):
    """Correlation of the leading token directions: (seqs, rank (rank - 1) / 2).

    As `Covariance`, each direction divided by its own standard deviation within the sequence,
    diagonal left out. A direction that does not vary within a sequence correlates 0.

    References
    ----------
    Stafylakis, Rohdin, Mošner, Plchot and Burget (2022), "Extracting speaker and emotion
    information from self-supervised speech models via channel-wise correlations".
    """

    option_names = ("rank",)
    mean: Tensor
    basis: Tensor

    def __init__(self, rank: int = 32):
        super().__init__()
        if rank < 2:
            raise InputError(f"Correlation got rank={rank}: pass 2 or more")
        self.rank = int(rank)

    def _build(self, dim: int) -> int:
        rank = min(self.rank, dim)
        if rank < 2:
            raise InputError("Correlation needs tokens of at least 2 dimensions, got 1")
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.zeros(dim, rank))
        return rank * (rank - 1) // 2

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        mean, basis = principal_axes(tokens, self.basis.shape[1], whiten=True)
        self.mean.copy_(mean)
        self.basis.copy_(basis)

    def _pool(self, tokens: Segments) -> Tensor:
        projected = (tokens.values - self.mean) @ self.basis
        correlations = correlation(tokens, projected)
        row, column = torch.triu_indices(*correlations.shape[1:], offset=1)
        return correlations[:, row, column]


def correlation(tokens: Segments, values: Values) -> Float[Tensor, "seqs rank rank"]:
    """Pearson correlation of each pair of dimensions within each sequence; 0 if one is flat."""
    centred = tokens.centre(values)
    std = safe_sqrt(tokens.mean(centred**2))
    inverse = torch.where(std > 0, 1.0 / std.where(std > 0, torch.ones_like(std)), 0.0)
    return second_moments(tokens, centred * tokens.expand(inverse))
