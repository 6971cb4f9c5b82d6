"""Closed-form poolers whose codebooks and directions are trained further."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.codebook import shared_residuals
from onevec.poolers.fitting import kmeans_codebook, quantisation_scale, sample_tokens
from onevec.poolers.learned import centre_and_spread
from onevec.poolers.segments import Segments
from onevec.poolers.transport import OptimalTransport, SlicedWasserstein
from onevec.ragged import Ragged


class TrainedTransport(OptimalTransport):
    """Optimal-transport pooling with references that are parameters: (seqs, references dim).

    Starts as `OptimalTransport` with the same options. The references are kept in units of the
    root mean squared distance between a token and its nearest reference at the start.

    Parameters
    ----------
    references : int
        How many references.
    epsilon : float
        Entropic regularisation, in units of that mean squared distance.
    iterations : int
        Sinkhorn iterations; the gradient runs through all of them.

    References
    ----------
    Mialon, Chen, d'Aspremont and Mairal (2021), "A trainable optimal transport embedding for
    feature aggregation".
    """

    starts_as = "optimal_transport"

    @property
    def start_options(self) -> dict[str, dict[str, Any]]:
        """Return this pooler's own options."""
        return {"optimal_transport": self.options}

    def _hold(self, name: str, values: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(values))

    def _learn(self, sample: Ragged, random_state: int) -> None:
        super()._learn(sample, random_state)
        self.book.div_(self.scale.sqrt())

    def _pool(self, tokens: Segments) -> Tensor:
        return self._transport(tokens, self.book * self.scale.sqrt())


class TrainedSlicedWasserstein(SlicedWasserstein):
    """Sliced-Wasserstein embedding with trained slices and reference: (seqs, points slices).

    Starts as `SlicedWasserstein` with the same options. Directions are scaled to length 1 before
    use; the reference is kept in units of the sample's root mean square spread.

    References
    ----------
    Naderializadeh, Comer, Andrews, Hoffmann and Kolouri (2021), "Pooling by sliced-Wasserstein
    embedding".
    """

    starts_as = "sliced_wasserstein"
    unit: Tensor

    @property
    def start_options(self) -> dict[str, dict[str, Any]]:
        """Return this pooler's own options."""
        return {"sliced_wasserstein": self.options}

    def _build(self, dim: int) -> int:
        self.register_buffer("unit", torch.ones(()))
        return super()._build(dim)

    def _hold(self, name: str, values: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(values))

    def _learn(self, sample: Ragged, random_state: int) -> None:
        super()._learn(sample, random_state)
        _, spread = centre_and_spread(sample_tokens(sample, random_state))
        self.unit.copy_((spread**2).mean().sqrt())
        self.reference.div_(self.unit)

    def _pool(self, tokens: Segments) -> Tensor:
        directions = normalize(self.directions, dim=0)
        return self._slice(tokens, directions, self.reference * self.unit)


class NetVLAD(Pooler):
    """VLAD with learned assignment and centres: (seqs, codes dim).

    Block k is ``s (1/n) sum_i a_ik (x_i - c_k)`` with ``a_i = softmax_k(w_kᵀ x_i + b_k)``. Here
    ``x = (h - m) / s``, m the mean of the codebook and s the root mean squared distance between
    a token and its nearest codeword. Weights, biases and centres are separate parameters. Starts
    as soft VLAD: ``w_k = 2 c_k`` and ``b_k = -|c_k|²``.

    Parameters
    ----------
    codes : int
        Codewords.
    intra_normalise : bool
        Scale each codeword's block to length 1.

    References
    ----------
    Arandjelović, Gronat, Torii, Pajdla and Sivic (2016), "NetVLAD: CNN architecture for weakly
    supervised place recognition".
    """

    starts_as = "vlad"
    option_names = ("codes", "intra_normalise")
    offset: Tensor
    unit: Tensor

    def __init__(self, codes: int = 16, intra_normalise: bool = False):
        super().__init__()
        if codes < 2:
            raise InputError(f"NetVLAD got codes={codes}: pass 2 or more")
        self.codes, self.intra_normalise = int(codes), bool(intra_normalise)

    @property
    def start_options(self) -> dict[str, dict[str, Any]]:
        """Return the options of the soft VLAD that it starts as."""
        return {"vlad": {**self.options, "soft": True}}

    def _build(self, dim: int) -> int:
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("unit", torch.ones(()))
        self.weight = nn.Parameter(torch.zeros(self.codes, dim))
        self.bias = nn.Parameter(torch.zeros(self.codes))
        self.centres = nn.Parameter(torch.zeros(self.codes, dim))
        return self.codes * dim

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        book = kmeans_codebook(tokens, self.codes, random_state)
        offset, unit = book.mean(0), quantisation_scale(tokens, book).sqrt()
        centres = (book - offset) / unit
        self.offset.copy_(offset)
        self.unit.copy_(unit)
        self.centres.copy_(centres)
        self.weight.copy_(2 * centres)
        self.bias.copy_(-(centres**2).sum(1))

    def _pool(self, tokens: Segments) -> Tensor:
        scaled = tokens.with_values((tokens.values - self.offset) / self.unit)
        share = linear(scaled.values, self.weight, self.bias).softmax(1)
        blocks = shared_residuals(scaled, self.centres, share) * self.unit
        if self.intra_normalise:
            blocks = normalize(blocks, dim=-1)
        return blocks.flatten(1)
