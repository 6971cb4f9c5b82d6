"""A pooler whose tokens tell each other what they are before they are weighed."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from onevec.errors import InputError
from onevec.poolers.learned import LearnedPooler, Scorer, zero_linear
from onevec.poolers.segments import Segments


def cosine_graph(
    values: Float[Tensor, "block longest dim"],
    mask: Bool[Tensor, "block longest"],
    threshold: float,
) -> Float[Tensor, "block longest longest"]:
    """Return each token's share in the mean over its neighbours; rows sum to 1.

    Neighbours are the tokens whose cosine is ``threshold`` or more, and the token itself. No
    gradient flows through the choice.
    """
    with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
        unit = normalize(values, dim=-1)
        near = unit @ unit.transpose(1, 2) >= threshold
        near |= torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        shares = (near & mask.unsqueeze(1)).float()
        # A row of padding may have no neighbour; it is dropped, but must not divide by 0.
        return shares / shares.sum(-1, keepdim=True).clamp(min=1)


class TokenGraph(LearnedPooler):
    """Message passing between similar tokens, then attention: (seqs, dim). Starts as the mean.

    Tokens of a sequence are neighbours where the cosine of the standardised tokens reaches a
    threshold. The state of a token is at first ``gelu(E x_i)``; each round replaces it with
    ``gelu(W [s_i, mean of the neighbours' s] + b)``. Then ``sum_i a_i (h_i + P s_i)`` with
    ``a = softmax_i(vᵀ tanh(V s_i + c))``. v and P start at zero.

    The memory of a graph grows with the square of the sequence's length: 16 MB for 2,000 tokens.

    Parameters
    ----------
    hidden : int
        Width of a state.
    rounds : int
        Rounds of message passing.
    threshold : float
        Least cosine of neighbours, -1 or more and below 1.

    References
    ----------
    Mantri, Schönlieb, Lähner and Eliasof (2026), "Towards improved sentence representations
    using token graphs" (there with graph attention and the states of all rounds).
    """

    option_names = ("hidden", "rounds", "threshold")

    def __init__(self, hidden: int = 64, rounds: int = 2, threshold: float = 0.5):
        super().__init__()
        if hidden < 1 or rounds < 1 or not -1 <= threshold < 1:
            raise InputError(
                f"TokenGraph got hidden={hidden}, rounds={rounds}, threshold={threshold}: pass 1 "
                "or more units and rounds, and a threshold of -1 or more, below 1"
            )
        self.hidden, self.rounds, self.threshold = int(hidden), int(rounds), float(threshold)

    def _make(self, dim: int) -> int:
        self.embed = nn.Linear(dim, self.hidden)
        self.layers = nn.ModuleList(
            nn.Linear(2 * self.hidden, self.hidden) for _ in range(self.rounds)
        )
        self.scorer = Scorer(self.hidden, self.hidden)
        self.project = zero_linear(self.hidden, dim)
        return dim

    def _states(
        self, values: Float[Tensor, "block longest dim"], mask: Bool[Tensor, "block longest"]
    ) -> Float[Tensor, "block longest hidden"]:
        shares = cosine_graph(values, mask, self.threshold)
        states = gelu(self.embed(values))
        for layer in self.layers:
            around = shares.to(states.dtype) @ states
            states = gelu(layer(torch.cat([states, around.to(states.dtype)], dim=-1)))
        return states

    def _pool(self, tokens: Segments) -> Tensor:
        states = tokens.map(self._states, self._standard(tokens.values), pairwise=True)
        weights = tokens.softmax(self.scorer(states)).unsqueeze(1)
        # The projection is linear: after the weighted sum it costs less and gives the same.
        added = self.project(tokens.sum(states * weights))
        return tokens.sum(tokens.values * weights) + self.spread * added
