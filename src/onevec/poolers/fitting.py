"""What poolers learn from a sample of tokens: a basis, a codebook, a mixture, a bandwidth.

Everything is deterministic for a given ``random_state`` and sees at most `SAMPLE_TOKENS` tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.ragged import Ragged

SAMPLE_TOKENS = 50_000
_ROUNDING = 1e-5  # of the largest value: what is nearer differs by rounding alone


def generator(random_state: int) -> torch.Generator:
    """Return a CPU random generator: the same numbers on every device."""
    return torch.Generator().manual_seed(random_state)


def sample_tokens(
    sample: Ragged, random_state: int, limit: int = SAMPLE_TOKENS
) -> Float[Tensor, "tokens dim"]:
    """Return at most ``limit`` tokens of the sample, fp32, each equally likely."""
    total = sample.values.shape[0]
    if total <= limit:
        return sample.values.float()
    picked = torch.randperm(total, generator=generator(random_state))[:limit].sort().values
    return sample.values[picked.to(sample.values.device)].float()


def principal_axes(
    tokens: Float[Tensor, "tokens dim"], rank: int, whiten: bool
) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim rank"]]:
    """Fit token PCA.

    Returns
    -------
    centre : Tensor, shape (dim,)
        The mean token.
    basis : Tensor, shape (dim, rank)
        Leading eigenvectors of the covariance, each with its largest entry positive; with
        ``whiten`` divided by the standard deviation. Directions without variance are zero then.
    """
    tokens = tokens.double()
    centre = tokens.mean(0)
    centred = tokens - centre
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(tokens))
    variance, axes = variance.flip(0)[:rank], axes.flip(1)[:, :rank]
    axes = turned(axes)
    if whiten:
        floor = 1e-9 * variance[0].clamp(min=1e-30)
        axes = axes * torch.where(variance > floor, variance.clamp(min=1e-38).rsqrt(), 0.0)
    return centre.float(), axes.float()


def turned(axes: Float[Tensor, "dim rank"]) -> Float[Tensor, "dim rank"]:
    """Turn each axis so that its largest entry is positive: the sign alone means nothing."""
    return axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()


def kmeans_codebook(
    tokens: Float[Tensor, "tokens dim"], codes: int, random_state: int
) -> Float[Tensor, "codes dim"]:
    """Fit k-means (scikit-learn, k-means++).

    Where the sample has fewer distinct tokens than ``codes``, rounding aside, these are the
    codewords and they are repeated to fill the book: its size never depends on the data. A
    repeated codeword gets no token of a hard assignment (the first one does) and shares those of
    a soft one.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    array = tokens.cpu().numpy()
    known = _distinct(array, codes)
    if known is not None:
        book = np.resize(known, (codes, array.shape[1]))
    else:
        once: Any = 1  # a number or "auto"; the annotation that type checkers infer has only text
        model = KMeans(codes, n_init=once, max_iter=50, random_state=random_state)
        with threadpool_limits(limits=1, user_api="openmp"):  # sums in one order: deterministic
            book = model.fit(array).cluster_centers_
    return torch.from_numpy(np.ascontiguousarray(book)).to(tokens)


def _distinct(array: np.ndarray, codes: int) -> np.ndarray | None:
    """Return the distinct rows if there are at most ``codes``, else None."""
    import numpy as np

    grain = _ROUNDING * float(np.abs(array).max()) or 1.0
    first = np.empty(0, int)
    for part in (array[: 4 * codes], array):
        _, first = np.unique(np.round(part / grain), axis=0, return_index=True)
        if len(first) > codes:
            return None
    return array[first]


def squared_distances(
    values: Float[Tensor, "tokens dim"], book: Float[Tensor, "codes dim"]
) -> Float[Tensor, "tokens codes"]:
    """Squared Euclidean distances, centred on the codebook's mean against cancellation."""
    centre = book.mean(0)
    values, book = values - centre, book - centre
    cross = torch.addmm((book**2).sum(1), values, book.T, alpha=-2)
    return (cross + (values**2).sum(1, keepdim=True)).clamp(min=0)


def nearest(
    values: Float[Tensor, "tokens dim"], book: Float[Tensor, "codes dim"]
) -> Int[Tensor, " tokens"]:
    """Return the number of the nearest codeword, the first of equals."""
    centre = book.mean(0)
    book = book - centre
    return torch.addmm((book**2).sum(1), values - centre, book.T, alpha=-2).argmin(1)


def quantisation_scale(
    tokens: Float[Tensor, "tokens dim"], book: Float[Tensor, "codes dim"]
) -> Float[Tensor, ""]:
    """Return the mean squared distance to the nearest codeword; 1 if all tokens are codewords.

    Soft assignments divide squared distances by it, so that their sharpness has no unit.
    """
    scale = squared_distances(tokens, book).amin(1).double().mean().float()
    spread = ((tokens - tokens.mean(0)) ** 2).sum(1).mean()
    exact = scale <= 1e-6 * spread
    fallback = torch.where(spread > 0, spread / len(book), torch.ones_like(spread))
    return torch.where(exact, fallback, scale)


def soft_assignment(
    values: Float[Tensor, "tokens dim"], book: Float[Tensor, "codes dim"], scale: Tensor
) -> Float[Tensor, "tokens codes"]:
    """``softmax_k(-|h - c_k|² / scale)``: how much of a token each codeword gets."""
    return (-squared_distances(values, book) / scale).softmax(1)


def diagonal_mixture(
    tokens: Float[Tensor, "tokens dim"],
    means: Float[Tensor, "codes dim"],
    steps: int = 20,
    floor: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a Gaussian mixture with diagonal covariances by expectation maximisation.

    Starts from ``means`` (a codebook) with equal weights and the tokens' own variances.

    Parameters
    ----------
    steps : int
        Expectation-maximisation steps.
    floor : float
        Least variance of a component, as a share of the tokens' variance in that dimension.

    Returns
    -------
    weights, means, variances : Tensor, shapes (codes,), (codes, dim), (codes, dim)
    """
    tokens, means = tokens.double(), means.double()
    spread = tokens.var(0, correction=0).clamp(min=1e-12)
    variances = spread.expand_as(means).clone()
    weights = means.new_full((len(means),), 1.0 / len(means))
    for _ in range(steps):
        share = mixture_posterior(tokens, weights, means, variances)
        count = share.sum(0).clamp(min=1e-10).unsqueeze(1)
        means = share.T @ tokens / count
        variances = share.T @ tokens**2 / count - means**2
        variances = torch.maximum(variances, floor * spread)
        weights = (count / count.sum()).squeeze(1).clamp(min=1e-6)
        weights = weights / weights.sum()
    return weights.float(), means.float(), variances.float()


def hard_assignment(
    values: Float[Tensor, "tokens dim"], book: Float[Tensor, "codes dim"]
) -> Float[Tensor, "tokens codes"]:
    """1 for the nearest codeword of each token and 0 for the others; no gradient flows."""
    return indicator(nearest(values.detach(), book), len(book))


def indicator(codes: Int[Tensor, " tokens"], size: int) -> Float[Tensor, "tokens size"]:
    """1 at each token's code and 0 elsewhere."""
    return (codes.unsqueeze(1) == torch.arange(size, device=codes.device)).float()


def mixture_posterior(
    values: Float[Tensor, "tokens dim"],
    weights: Float[Tensor, " codes"],
    means: Float[Tensor, "codes dim"],
    variances: Float[Tensor, "codes dim"],
) -> Float[Tensor, "tokens codes"]:
    """Return how likely each component of a diagonal Gaussian mixture made each token."""
    precision = 1.0 / variances
    constant = weights.log() - 0.5 * (variances.log() + means**2 * precision).sum(1)
    log = values @ (means * precision).T - 0.5 * values**2 @ precision.T + constant
    return log.softmax(1)
