"""Tokens as targets: brought to one scale, turned into codes, drawn, laid out as a rectangle."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from onevec.ragged import Ragged
from onevec.segment import segment_positions, segment_rows

Tokens = Float[Tensor, "tokens dim"]
Lengths = Int[Tensor, " seqs"]

SAMPLE_TOKENS = 20_000


def sample_tokens(sample: Ragged, random_state: int, limit: int = SAMPLE_TOKENS) -> Tokens:
    """Return at most ``limit`` tokens of the sample, fp32, each equally likely."""
    total = sample.values.shape[0]
    if total <= limit:
        return sample.values.float()
    source = torch.Generator().manual_seed(random_state)
    picked = torch.randperm(total, generator=source)[:limit].sort().values
    return sample.values[picked.to(sample.values.device)].float()


class TokenScale(nn.Module):
    """Tokens minus a sample's mean, each dimension divided by the sample's standard deviation.

    Dimensions (nearly) without variance are divided by a thousandth of the typical deviation.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, token_dim: int):
        super().__init__()
        self.register_buffer("centre", torch.zeros(token_dim))
        self.register_buffer("spread", torch.ones(token_dim))

    def learn(self, tokens: Tokens) -> None:
        """Take mean and deviation from a sample of tokens."""
        centre = tokens.double().mean(0)
        spread = (tokens.double() - centre).square().mean(0).sqrt()
        spread = spread.clamp(min=1e-3 * float(spread.square().mean().sqrt()))
        self.centre.copy_(centre)
        self.spread.copy_(torch.where(spread > 1e-30, spread, 1.0))

    def forward(self, tokens: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        """Return the scaled tokens, fp32."""
        return (tokens.float() - self.centre) / self.spread


def nearest(tokens: Tokens, book: Float[Tensor, "codes dim"]) -> Int[Tensor, " tokens"]:
    """Return the number of the nearest codeword, the first of equals."""
    return torch.addmm((book**2).sum(1), tokens, book.T, alpha=-2).argmin(1)


def k_means(
    tokens: Tokens, codes: int, random_state: int, steps: int = 20
) -> Float[Tensor, "codes dim"]:
    """Fit k-means: seeds drawn by squared distance (k-means++), then Lloyd's steps.

    Where there are fewer distinct tokens than ``codes``, codewords repeat; a repeated one gets no
    token, as the first of equals is the nearest.
    """
    source = torch.Generator().manual_seed(random_state)
    book = tokens[torch.randint(len(tokens), (1,), generator=source).to(tokens.device)]
    distance = ((tokens - book) ** 2).sum(1)
    for _ in range(codes - 1):
        share = distance.double().cpu()
        share = share if share.sum() > 0 else torch.ones_like(share)
        seed = tokens[torch.multinomial(share, 1, generator=source).to(tokens.device)]
        book = torch.cat([book, seed])
        distance = torch.minimum(distance, ((tokens - seed) ** 2).sum(1))
    for _ in range(steps):
        member = one_hot(nearest(tokens, book), codes).to(tokens)
        count = member.sum(0).unsqueeze(1)
        book = torch.where(count > 0, member.T @ tokens / count.clamp(min=1), book)
    return book


def draw_tokens(
    lengths: Lengths, limit: int, generator: torch.Generator
) -> tuple[Int[Tensor, " picked"], Lengths]:
    """Draw at most ``limit`` tokens of each sequence, without replacement, in their order.

    Returns
    -------
    picked : Tensor of int64
        Which tokens.
    lengths : Tensor of int64, shape (seqs,)
        How many of each sequence.
    """
    rows = segment_rows(lengths)
    if not len(lengths) or int(lengths.max()) <= limit:
        return torch.arange(len(rows), device=rows.device), lengths
    noise = torch.rand(
        len(rows), generator=generator, device=generator.device, dtype=torch.float64
    ).to(rows.device)
    shuffled = (rows + noise).argsort()  # within each sequence: noise is below 1
    return shuffled[segment_positions(lengths) < limit].sort().values, lengths.clamp(max=limit)


def rectangle(
    picked: Int[Tensor, " picked"], lengths: Lengths
) -> tuple[Int[Tensor, "seqs longest"], Bool[Tensor, "seqs longest"]]:
    """Lay picked tokens out in rows: which tokens (padding: any), and where there is one."""
    place = torch.arange(int(lengths.max()), device=lengths.device)
    mask = place < lengths.unsqueeze(1)
    start = (lengths.cumsum(0) - lengths).unsqueeze(1)
    return picked[(start + place * mask).clamp(max=len(picked) - 1)], mask
