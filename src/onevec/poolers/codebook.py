"""Poolers that compare tokens with a codebook: bag, VLAD, Fisher vector."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.covariance import signed_sqrt
from onevec.poolers.fitting import (
    diagonal_mixture,
    hard_assignment,
    indicator,
    kmeans_codebook,
    mixture_posterior,
    nearest,
    quantisation_scale,
    sample_tokens,
    soft_assignment,
)
from onevec.poolers.segments import Segments
from onevec.ragged import Ragged


def residuals_per_codeword(
    tokens: Segments, book: Float[Tensor, "codes dim"]
) -> Float[Tensor, "seqs codes dim"]:
    """``(1/n) sum over tokens nearest to codeword k of (h - c_k)``."""
    code = nearest(tokens.values.detach(), book)
    residual = tokens.values - book.index_select(0, code)
    return tokens.outer(indicator(code, len(book)), residual) / tokens.count.unsqueeze(2)


def shared_residuals(
    tokens: Segments, book: Float[Tensor, "codes dim"], share: Float[Tensor, "tokens codes"]
) -> Float[Tensor, "seqs codes dim"]:
    """``(1/n) sum_i a_ik (h_i - c_k)``, where codeword k gets the share ``a_ik`` of token i."""
    offset = book.mean(0)
    total = tokens.outer(share, tokens.values - offset)
    total = total - tokens.sum(share).unsqueeze(-1) * (book - offset)
    return total / tokens.count.unsqueeze(2)


class Bag(Pooler):
    """Share of each codeword among the tokens: (seqs, codes).

    Parameters
    ----------
    codes : int
        Codewords of the k-means codebook.
    soft : bool
        Share tokens between codewords by ``softmax(-|h - c_k|² / scale)``, ``scale`` the mean
        quantisation error of the sample.

    References
    ----------
    Sivic and Zisserman (2003), "Video Google"; van Gemert, Veenman, Smeulders and Geusebroek
    (2010), "Visual word ambiguity" (soft counts).
    """

    option_names = ("codes", "soft")
    book: Tensor
    scale: Tensor

    def __init__(self, codes: int = 64, soft: bool = True):
        super().__init__()
        if codes < 2:
            raise InputError(f"Bag got codes={codes}: pass 2 or more")
        self.codes, self.soft = int(codes), bool(soft)

    def _build(self, dim: int) -> int:
        self.register_buffer("book", torch.zeros(self.codes, dim))
        self.register_buffer("scale", torch.ones(()))
        return self.codes

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        self.book.copy_(kmeans_codebook(tokens, self.codes, random_state))
        self.scale.copy_(quantisation_scale(tokens, self.book.to(tokens)))

    def _pool(self, tokens: Segments) -> Tensor:
        if self.soft:
            return tokens.mean(soft_assignment(tokens.values, self.book, self.scale))
        return tokens.mean(hard_assignment(tokens.values, self.book))


class VLAD(Pooler):
    """Vector of locally aggregated descriptors: (seqs, codes dim).

    Block k is ``(1/n) sum (h - c_k)`` over the tokens nearest to codeword k. The sum is divided
    by the number of tokens, so that length does not scale the vector.

    Parameters
    ----------
    codes : int
        Codewords of the k-means codebook.
    soft : bool
        Share tokens between codewords (softmax of negative squared distances in units of the
        mean quantisation error) as VLAWE and NetVLAD do.
    intra_normalise : bool
        Scale each codeword's block to length 1 (blocks without a token stay 0).

    References
    ----------
    Jégou, Douze, Schmid and Pérez (2010), "Aggregating local descriptors into a compact image
    representation"; Arandjelović and Zisserman (2013), "All about VLAD".
    """

    option_names = ("codes", "soft", "intra_normalise")
    book: Tensor
    scale: Tensor

    def __init__(self, codes: int = 16, soft: bool = False, intra_normalise: bool = False):
        super().__init__()
        if codes < 1:
            raise InputError(f"VLAD got codes={codes}: pass 1 or more")
        self.codes, self.soft, self.intra_normalise = int(codes), bool(soft), bool(intra_normalise)

    def _build(self, dim: int) -> int:
        self.register_buffer("book", torch.zeros(self.codes, dim))
        self.register_buffer("scale", torch.ones(()))
        return self.codes * dim

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        self.book.copy_(kmeans_codebook(tokens, self.codes, random_state))
        self.scale.copy_(quantisation_scale(tokens, self.book.to(tokens)))

    def _pool(self, tokens: Segments) -> Tensor:
        if self.soft:
            share = soft_assignment(tokens.values, self.book, self.scale)
            blocks = shared_residuals(tokens, self.book, share)
        else:
            blocks = residuals_per_codeword(tokens, self.book)
        if self.intra_normalise:
            blocks = normalize(blocks, dim=-1)
        return blocks.flatten(1)


def fisher_vector(
    tokens: Segments,
    weights: Float[Tensor, " codes"],
    means: Float[Tensor, "codes dim"],
    variances: Float[Tensor, "codes dim"],
) -> Float[Tensor, "seqs two_codes dim"]:
    """Gradients of the mixture's log-likelihood, in units of its Fisher information.

    With posteriors γ and ``u = (h - μ_k) / σ_k``: ``mean(γ_k u) / √w_k`` for the means, then
    ``mean(γ_k (u² - 1)) / √(2 w_k)`` for the standard deviations.
    """
    posterior = mixture_posterior(tokens.values, weights, means, variances)
    count = tokens.count.unsqueeze(2)
    mass = tokens.mean(posterior).unsqueeze(-1)
    first = tokens.outer(posterior, tokens.values) / count
    second = tokens.outer(posterior, tokens.values**2) / count
    root = weights.sqrt().unsqueeze(1)
    by_mean = (first - mass * means) / variances.sqrt() / root
    squares = second - 2 * means * first + mass * means**2
    by_std = (squares / variances - mass) / (root * 2.0**0.5)
    return torch.cat([by_mean, by_std], dim=1)


class Fisher(Pooler):
    """Fisher vector of a Gaussian mixture with diagonal covariances: (seqs, 2 codes dim).

    The tokens are standardised with the sample's mean and standard deviation; the mixture starts
    from k-means and takes 20 steps of expectation maximisation.

    Parameters
    ----------
    codes : int
        Components of the mixture.
    power : bool
        Take ``sign(x) sqrt(|x|)`` of each entry.
    normalise : bool
        Scale the vector to length 1 (after ``power``).

    References
    ----------
    Perronnin, Sánchez and Mensink (2010), "Improving the Fisher kernel for large-scale image
    classification".
    """

    option_names = ("codes", "power", "normalise")
    centre: Tensor
    spread: Tensor
    weights: Tensor
    means: Tensor
    variances: Tensor

    def __init__(self, codes: int = 8, power: bool = True, normalise: bool = True):
        super().__init__()
        if codes < 1:
            raise InputError(f"Fisher got codes={codes}: pass 1 or more")
        self.codes, self.power, self.normalise = int(codes), bool(power), bool(normalise)

    def _build(self, dim: int) -> int:
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))
        self.register_buffer("weights", torch.full((self.codes,), 1.0 / self.codes))
        self.register_buffer("means", torch.zeros(self.codes, dim))
        self.register_buffer("variances", torch.ones(self.codes, dim))
        return 2 * self.codes * dim

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        centre = tokens.mean(0)
        spread = tokens.std(0, correction=0)
        flat = spread <= 1e-6 * centre.abs().clamp(min=1e-30)
        spread = spread.where(~flat, torch.ones_like(spread))
        standard = (tokens - centre) / spread
        start = kmeans_codebook(standard, self.codes, random_state)
        weights, means, variances = diagonal_mixture(standard, start)
        self.centre.copy_(centre)
        self.spread.copy_(spread)
        self.weights.copy_(weights)
        self.means.copy_(means)
        self.variances.copy_(variances.clamp(min=1e-6))

    def _pool(self, tokens: Segments) -> Tensor:
        standard = tokens.with_values((tokens.values - self.centre) / self.spread)
        mixture = (self.weights, self.means, self.variances)
        vector = fisher_vector(standard, *mixture).flatten(1)
        if self.power:
            vector = signed_sqrt(vector)
        return normalize(vector, dim=1) if self.normalise else vector
