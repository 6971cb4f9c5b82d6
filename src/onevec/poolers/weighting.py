"""Weighted means: some tokens count more than others."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.fitting import (
    kmeans_codebook,
    nearest,
    quantisation_scale,
    sample_tokens,
    soft_assignment,
)
from onevec.poolers.segments import Segments
from onevec.ragged import Ragged


def weighted_mean(tokens: Segments, weights: Float[Tensor, " tokens"]) -> Float[Tensor, "seqs dim"]:
    """``sum(w h) / sum(w)``; 0 where there is no token."""
    total = tokens.sum(weights)
    summed = tokens.sum(tokens.values * weights.unsqueeze(1))
    return summed / total.where(total > 0, torch.ones_like(total)).unsqueeze(1)


def sif_weights(probability: Float[Tensor, " entries"], smooth: float) -> Float[Tensor, " entries"]:
    """Smooth inverse frequency, ``a / (a + p)``."""
    return smooth / (smooth + probability)


def idf_weights(
    document_frequency: Float[Tensor, " entries"], documents: int
) -> Float[Tensor, " entries"]:
    """``log((1 + N) / (1 + df)) + 1``, as scikit-learn's ``TfidfTransformer`` has it."""
    return ((1 + documents) / (1 + document_frequency)).log() + 1


def document_frequency(
    codes: Int[Tensor, " tokens"], rows: Int[Tensor, " tokens"], size: int
) -> Float[Tensor, " size"]:
    """Count in how many sequences each of ``size`` codes comes at least once."""
    pairs = torch.unique(rows * size + codes)
    return torch.bincount(pairs % size, minlength=size).float()


class PositionWeighted(Pooler):
    """Mean with weight ``i`` for the i-th token (from 1): (seqs, dim).

    ``sum(i h_i) / sum(i)``: late tokens count more, as suits causal encoders.

    References
    ----------
    Muennighoff (2022), "SGPT: GPT sentence embeddings for semantic search".
    """

    order_free = False
    distributional = False

    def _build(self, dim: int) -> int:
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        return weighted_mean(tokens, tokens.positions.float() + 1)


class _VocabularyWeighted(Pooler):
    """Mean weighted by a table over the vocabulary, learned from the sample's token ids.

    Entries that the sample lacks, or that come after its last, get the weight of an entry that
    was never seen.
    """

    needs = ("ids",)
    weight: Tensor

    def __init__(self, vocabulary: int):
        super().__init__()
        if vocabulary < 0:
            raise InputError(f"{type(self).__name__} got vocabulary={vocabulary}: pass 0 or more")
        self.vocabulary = int(vocabulary)

    def _build(self, dim: int) -> int:
        self.register_buffer("weight", torch.ones(self.vocabulary + 1))
        return dim

    def _learn(self, sample: Ragged, random_state: int) -> None:
        ids = sample.fields["ids"].long().flatten()
        if int(ids.min()) < 0:
            raise InputError(
                f"{type(self).__name__} got the token id {int(ids.min())}: ids are 0 or more"
            )
        self.vocabulary = max(self.vocabulary, int(ids.max()) + 1)
        self._build(sample.dim)
        self.to(ids.device)
        self.weight.copy_(self._weights(ids, sample.rows, len(sample)))

    @abstractmethod
    def _weights(
        self, ids: Int[Tensor, " tokens"], rows: Int[Tensor, " tokens"], documents: int
    ) -> Float[Tensor, " vocabulary_plus_one"]:
        """Return the weight of each entry, and of one that was never seen."""

    def _look_up(self, tokens: Segments) -> Float[Tensor, " tokens"]:
        ids = tokens.fields["ids"].long().flatten()
        return self.weight[ids.where(ids >= 0, self.vocabulary).clamp(max=self.vocabulary)]


class SIF(_VocabularyWeighted):
    """Smooth inverse frequency: ``(1/n) sum a / (a + p(t)) h``, (seqs, dim).

    ``p(t)`` is the share of vocabulary entry t in the sample's tokens. (The published method
    then removes the first principal component; that is a projection's work here.)

    Parameters
    ----------
    smooth : float
        The published ``a``.
    vocabulary : int
        Entries of the vocabulary; grows in `fit` to what the sample holds.

    References
    ----------
    Arora, Liang and Ma (2017), "A simple but tough-to-beat baseline for sentence embeddings".
    """

    option_names = ("smooth", "vocabulary")

    def __init__(self, smooth: float = 1e-3, vocabulary: int = 0):
        super().__init__(vocabulary)
        if not smooth > 0:
            raise InputError(f"SIF got smooth={smooth}: pass a number above 0")
        self.smooth = float(smooth)

    def _weights(self, ids: Tensor, rows: Tensor, documents: int) -> Tensor:
        count = torch.bincount(ids, minlength=self.vocabulary + 1).float()
        return sif_weights(count / len(ids), self.smooth)

    def _pool(self, tokens: Segments) -> Tensor:
        return tokens.mean(tokens.values * self._look_up(tokens).unsqueeze(1))


class IDF(_VocabularyWeighted):
    """Mean weighted by inverse document frequency: ``sum(idf h) / sum(idf)``, (seqs, dim).

    ``idf(t) = log((1 + N) / (1 + df(t))) + 1`` over the N sequences of the sample.

    Parameters
    ----------
    vocabulary : int
        Entries of the vocabulary; grows in `fit` to what the sample holds.

    References
    ----------
    Spärck Jones (1972), "A statistical interpretation of term specificity and its application
    in retrieval".
    """

    option_names = ("vocabulary",)

    def __init__(self, vocabulary: int = 0):
        super().__init__(vocabulary)

    def _weights(self, ids: Tensor, rows: Tensor, documents: int) -> Tensor:
        return idf_weights(document_frequency(ids, rows, self.vocabulary + 1), documents)

    def _pool(self, tokens: Segments) -> Tensor:
        return weighted_mean(tokens, self._look_up(tokens))


class _CodewordWeighted(Pooler):
    """Mean weighted by codewords: `SIF` and `IDF` for tokens without a vocabulary.

    k-means codewords stand in for vocabulary entries. A token's weight is the mean of the
    codewords' weights under ``softmax(-|h - c_k|² / scale)``, so it varies smoothly.
    """

    book: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, codes: int):
        super().__init__()
        if codes < 2:
            raise InputError(f"{type(self).__name__} got codes={codes}: pass 2 or more")
        self.codes = int(codes)

    def _build(self, dim: int) -> int:
        self.register_buffer("book", torch.zeros(self.codes, dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("weight", torch.ones(self.codes))
        return dim

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        self.book.copy_(kmeans_codebook(tokens, self.codes, random_state))
        book = self.book.to(tokens)
        self.scale.copy_(quantisation_scale(tokens, book))
        code = torch.cat([nearest(part.float(), book) for part in sample.values.split(32_768)])
        self.weight.copy_(self._weights(code, sample.rows, len(sample)))

    @abstractmethod
    def _weights(
        self, code: Int[Tensor, " tokens"], rows: Int[Tensor, " tokens"], documents: int
    ) -> Float[Tensor, " codes"]:
        """Return the weight of each codeword."""

    def _pool(self, tokens: Segments) -> Tensor:
        weight = soft_assignment(tokens.values, self.book, self.scale) @ self.weight
        return weighted_mean(tokens, weight)


class CodewordSIF(_CodewordWeighted):
    """Mean weighted by ``a / (a + p(k))``, p(k) the share of codeword k: (seqs, dim).

    Parameters
    ----------
    smooth : float
        ``a``; shares of codewords are about ``1 / codes``, larger than those of words.
    codes : int
        Codewords of the k-means codebook.
    """

    option_names = ("smooth", "codes")

    def __init__(self, smooth: float = 1e-2, codes: int = 64):
        super().__init__(codes)
        if not smooth > 0:
            raise InputError(f"CodewordSIF got smooth={smooth}: pass a number above 0")
        self.smooth = float(smooth)

    def _weights(self, code: Tensor, rows: Tensor, documents: int) -> Tensor:
        share = torch.bincount(code, minlength=self.codes).float() / len(code)
        return sif_weights(share, self.smooth)


class CodewordIDF(_CodewordWeighted):
    """Mean weighted by ``log((1 + N) / (1 + df(k))) + 1``, df(k) of codeword k: (seqs, dim).

    Parameters
    ----------
    codes : int
        Codewords of the k-means codebook.
    """

    option_names = ("codes",)

    def __init__(self, codes: int = 64):
        super().__init__(codes)

    def _weights(self, code: Tensor, rows: Tensor, documents: int) -> Tensor:
        return idf_weights(document_frequency(code, rows, self.codes), documents)
