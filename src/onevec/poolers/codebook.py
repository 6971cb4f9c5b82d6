"""Poolers that compare tokens with a codebook: bag, VLAD, Fisher vector."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.fitting import (
    kmeans_codebook,
    nearest,
    quantisation_scale,
    sample_tokens,
    squared_distances,
)
from onevec.ragged import Ragged
from onevec.segment import segment_outer, segment_sum

Values = Float[Tensor, "tokens dim"]
Lengths = Int[Tensor, " seqs"]


def residuals_per_codeword(
    values: Values, lengths: Lengths, book: Float[Tensor, "codes dim"]
) -> Float[Tensor, "seqs codes dim"]:
    """``(1/n) sum over tokens nearest to codeword k of (h - c_k)``."""
    code = nearest(values.detach(), book)
    residual = values - book.index_select(0, code)
    total = segment_outer(one_hot(code, len(book)).float(), residual, lengths)
    return total / lengths.clamp(min=1).view(-1, 1, 1)


def soft_residuals_per_codeword(
    values: Values, lengths: Lengths, book: Float[Tensor, "codes dim"], scale: Tensor
) -> Float[Tensor, "seqs codes dim"]:
    """``(1/n) sum_i a_ik (h_i - c_k)`` with ``a_i = softmax(-|h_i - c_k|² / scale)``."""
    share = (-squared_distances(values, book) / scale).softmax(1)
    offset = book.mean(0)
    total = segment_outer(share, values - offset, lengths)
    total = total - segment_sum(share, lengths).unsqueeze(-1) * (book - offset)
    return total / lengths.clamp(min=1).view(-1, 1, 1)


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

    def _pool(self, tokens: Ragged) -> Tensor:
        if self.soft:
            blocks = soft_residuals_per_codeword(
                tokens.values, tokens.lengths, self.book, self.scale
            )
        else:
            blocks = residuals_per_codeword(tokens.values, tokens.lengths, self.book)
        if self.intra_normalise:
            blocks = normalize(blocks, dim=-1)
        return blocks.flatten(1)
