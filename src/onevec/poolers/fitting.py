"""What poolers learn from a sample of tokens: a basis, a codebook, a mixture, a bandwidth.

Everything is deterministic for a given ``random_state`` and sees at most `SAMPLE_TOKENS` tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.ragged import Ragged

SAMPLE_TOKENS = 50_000


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
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    if whiten:
        floor = 1e-9 * variance[0].clamp(min=1e-30)
        axes = axes * torch.where(variance > floor, variance.clamp(min=1e-38).rsqrt(), 0.0)
    return centre.float(), axes.float()


def kmeans_codebook(
    tokens: Float[Tensor, "tokens dim"], codes: int, random_state: int
) -> Float[Tensor, "codes dim"]:
    """Fit k-means (scikit-learn, k-means++).

    Where the sample has fewer distinct tokens than ``codes``, these are the codewords and they
    are repeated to fill the book: its size never depends on the data. A repeated codeword gets
    no token of a hard assignment (the first one does) and shares those of a soft one.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    array = tokens.cpu().numpy()
    known = _distinct(array, codes)
    if known is not None:
        book = np.resize(known, (codes, array.shape[1]))
    else:
        model = KMeans(codes, n_init=1, max_iter=50, random_state=random_state)
        with threadpool_limits(limits=1, user_api="openmp"):  # sums in one order: deterministic
            book = model.fit(array).cluster_centers_
    return torch.from_numpy(np.ascontiguousarray(book)).to(tokens)


def _distinct(array, codes: int):
    """Return the distinct rows if there are at most ``codes``, else None."""
    import numpy as np

    known = np.unique(array[: 4 * codes], axis=0)
    if len(known) > codes:
        return None
    known = np.unique(array, axis=0)
    return known if len(known) <= codes else None


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
