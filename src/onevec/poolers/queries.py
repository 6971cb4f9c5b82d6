"""Poolers whose learned queries attend to the tokens, or whose tokens attend to latents."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from onevec.errors import InputError
from onevec.poolers.fitting import indicator
from onevec.poolers.learned import LearnedPooler, zero_linear, zero_mlp
from onevec.poolers.segments import Segments

Values = Float[Tensor, "tokens dim"]


def channel_blocks(dim: int, count: int) -> Int[Tensor, " dim"]:
    """Return the block of each channel, for ``count`` blocks as even as `torch.tensor_split`'s."""
    sizes = [len(part) for part in torch.arange(dim).tensor_split(count)]
    return torch.repeat_interleave(torch.tensor(sizes))


def blockwise_attention(
    tokens: Segments,
    values: Values,
    scores: Float[Tensor, "tokens blocks"],
    block: Int[Tensor, " dim"],
) -> Float[Tensor, "seqs dim"]:
    """``sum_i a_i,block(c) h_ic``: each block of channels has its own weights over the tokens."""
    return tokens.sum(values * tokens.softmax(scores).index_select(1, block))


class QueryAttention(LearnedPooler):
    """Multi-query attention whose keys are the tokens (efficient probing): (seqs, dim).

    The channels are cut into K blocks. Block k of the result is ``sum_i a_ik v_i[block k]`` with
    ``a_k = softmax_i(q_kᵀ x_i / √dim)``, x the standardised token. The K queries start at zero:
    starts as the mean.

    Parameters
    ----------
    queries : int
        K, at most the token dimension.
    values : {"identity", "linear"}
        What is put together: the tokens, or the tokens plus a learned linear map of them that
        starts at zero.

    References
    ----------
    Psomas, Christopoulos, Baltzi, Kakogeorgiou, Aravanis, Komodakis, Karantzalos, Avrithis and
    Tolias (2025), "Attention, please! Revisiting attentive probing through the lens of
    efficiency".
    """

    option_names = ("queries", "values")
    block: Tensor

    def __init__(self, queries: int = 8, values: str = "identity"):
        super().__init__()
        if queries < 1 or values not in ("identity", "linear"):
            raise InputError(
                f"QueryAttention got queries={queries}, values={values!r}: pass 1 or more queries, "
                "and 'identity' or 'linear'"
            )
        self.queries, self.values = int(queries), values

    def _make(self, dim: int) -> int:
        count = min(self.queries, dim)
        self.query = nn.Parameter(torch.zeros(count, dim))
        self.value = zero_linear(dim, dim) if self.values == "linear" else None
        self.register_buffer("block", channel_blocks(dim, count), persistent=False)
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        keys, values = self._standard(tokens.values), tokens.values
        scores = linear(keys, self.query / self.dim_in**0.5)
        if self.value is not None:
            values = self._step(self.value, values)
        return blockwise_attention(tokens, values, scores, self.block)


class MultiheadAttention(LearnedPooler):
    """Pooling by multi-head attention (PMA) with learned seeds: (seqs, seeds dim).

    Each seed s gives ``m = O concat_h(sum_i a_ih V_h h_i)``, where for head h
    ``a_h = softmax_i((Q s)_hᵀ (K x_i)_h / √width of h)``, and then ``m + MLP(m)``. Q and the
    last layer of the MLP start at zero, V and O at the identity: each seed starts as the mean.

    The layer normalisations of the paper and the sum of ``m`` and the seed are left out; the
    former would move the start away from the mean, the latter is the same for every sequence.

    Parameters
    ----------
    heads : int
        Blocks of channels (as even as can be), at most the token dimension.
    seeds : int
        Vectors side by side; with more than one it starts as the mean, so many times.
    hidden : int
        Hidden units of the MLP.

    References
    ----------
    Lee, Lee, Kim, Kosiorek, Choi and Teh (2019), "Set Transformer".
    """

    option_names = ("heads", "seeds", "hidden")
    block: Tensor

    def __init__(self, heads: int = 8, seeds: int = 1, hidden: int = 256):
        super().__init__()
        if heads < 1 or seeds < 1 or hidden < 1:
            raise InputError(
                f"MultiheadAttention got heads={heads}, seeds={seeds}, hidden={hidden}: "
                "pass 1 or more of each"
            )
        self.heads, self.seeds, self.hidden = int(heads), int(seeds), int(hidden)
        self.starts_as = "|".join(["mean"] * self.seeds)

    def _make(self, dim: int) -> int:
        # Seeds differ from the start, else they would all stay the same.
        self.seed = nn.Parameter(torch.randn(self.seeds, dim))
        self.query = zero_linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value, self.output = zero_linear(dim, dim), zero_linear(dim, dim)
        self.feed_forward = zero_mlp(dim, self.hidden, dim)
        block = channel_blocks(dim, min(self.heads, dim))
        self.register_buffer("block", block, persistent=False)
        return self.seeds * dim

    def _scores(self, values: Values) -> list[Float[Tensor, "tokens heads"]]:
        """Return for each seed what each head thinks of each token."""
        head = indicator(self.block, min(self.heads, self.dim_in))  # (dim, heads)
        head = head / head.sum(0).sqrt()
        keys = self.key(self._standard(values))
        return [linear(keys, head.T * query) for query in self.query(self.seed)]

    def _pool(self, tokens: Segments) -> Tensor:
        values = self._step(self.value, tokens.values)
        pooled = [
            blockwise_attention(tokens, values, scores, self.block)
            for scores in self._scores(tokens.values)
        ]
        mixed = self._step(self.output, torch.stack(pooled, dim=1))
        return self._step(self.feed_forward, mixed).flatten(1) * tokens.present


class LatentAttention(LearnedPooler):
    """Tokens attend to a learned dictionary, then an MLP and the mean: (seqs, dim).

    ``mean_i(h_i + MLP(softmax(x_i Lᵀ / √dim) L))`` with the latents L (latents, dim) and x the
    standardised token. The MLP's last layer starts at zero: starts as the mean.

    Parameters
    ----------
    latents : int
        Entries of the dictionary.
    hidden : int
        Hidden units of the MLP.

    References
    ----------
    Lee, Roy, Xu, Raiman, Shoeybi, Catanzaro and Ping (2025), "NV-Embed" (there without the
    token itself in the sum, and with several heads).
    """

    option_names = ("latents", "hidden")

    def __init__(self, latents: int = 64, hidden: int = 256):
        super().__init__()
        if latents < 2 or hidden < 1:
            raise InputError(
                f"LatentAttention got latents={latents}, hidden={hidden}: pass 2 or more latents "
                "and 1 or more hidden units"
            )
        self.latents, self.hidden = int(latents), int(hidden)

    def _make(self, dim: int) -> int:
        self.latent = nn.Parameter(torch.randn(self.latents, dim))
        self.inner = nn.Linear(dim, self.hidden)
        self.outer = zero_linear(self.hidden, dim)
        return dim

    def _pool(self, tokens: Segments) -> Tensor:
        scores = linear(self._standard(tokens.values), self.latent / self.dim_in**0.5)
        features = gelu(self.inner(linear(scores.softmax(1), self.latent.T)))
        # The last layer is linear: after the mean it costs less and gives the same.
        return tokens.mean(tokens.values) + self.spread * self.outer(tokens.mean(features))
