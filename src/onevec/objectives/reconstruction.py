"""Objectives that rebuild the set of tokens from the vector."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from onevec.errors import InputError
from onevec.objectives.base import Context, Objective, Vectors
from onevec.objectives.common import Rows, check_count, check_positive, head, over_blocks
from onevec.objectives.targets import TokenScale, draw_tokens, rectangle, sample_tokens
from onevec.ragged import Ragged

Cost = Float[Tensor, "rows points targets"]
Mask = Bool[Tensor, "rows targets"]


def squared_distances(
    points: Float[Tensor, "rows points dim"], targets: Float[Tensor, "rows targets dim"]
) -> Cost:
    """Squared Euclidean distances within each row, divided by the dimension."""
    cross = points @ targets.transpose(1, 2)
    squares = (points**2).sum(2).unsqueeze(2) + (targets**2).sum(2).unsqueeze(1)
    return (squares - 2 * cross).clamp(min=0) / points.shape[2]


def chamfer(cost: Cost, mask: Mask) -> Float[Tensor, " rows"]:
    """Mean cost from each target to its nearest point plus from each point to its target."""
    reached = cost.amin(1).where(mask, 0.0).sum(1) / mask.sum(1)
    return reached + cost.masked_fill(~mask.unsqueeze(1), torch.inf).amin(2).mean(1)


def sinkhorn_distance(
    cost: Cost, mask: Mask, epsilon: float, iterations: int = 20
) -> Float[Tensor, " rows"]:
    """Return the cost of the entropic transport plan; points and targets weigh equally.

    The gradient takes the plan as fixed, which for the optimum it is (envelope theorem): no
    iteration needs to be kept.
    """
    with torch.no_grad():
        kernel = (-cost / epsilon).masked_fill(~mask.unsqueeze(1), -torch.inf)
        share = -mask.sum(1, keepdim=True).log()
        column = torch.zeros_like(share).expand(mask.shape)
        row = kernel.new_zeros(kernel.shape[:2])
        for _ in range(iterations):
            row = -math.log(cost.shape[1]) - (kernel + column.unsqueeze(1)).logsumexp(2)
            column = (share - (kernel + row.unsqueeze(2)).logsumexp(1)).where(mask, 0.0)
        plan = (kernel + row.unsqueeze(2) + column.unsqueeze(1)).exp()
    return (plan * cost).sum((1, 2))


class _SetDecoder(Objective):
    """A network from a vector to points in token space, compared with a set of tokens."""

    option_names = ("points", "hidden", "targets", "distance", "epsilon")
    least_views = 1

    def __init__(
        self,
        points: int = 8,
        hidden: int = 256,
        targets: int = 64,
        distance: Literal["chamfer", "sinkhorn"] = "chamfer",
        epsilon: float = 0.1,
    ):
        super().__init__()
        owner = type(self).__name__
        check_count(owner, 1, points=points, targets=targets)
        check_count(owner, 0, hidden=hidden)
        check_positive(owner, epsilon=epsilon)
        if distance not in ("chamfer", "sinkhorn"):
            raise InputError(f"{owner} got distance={distance!r}: pass 'chamfer' or 'sinkhorn'")
        self.points, self.hidden, self.targets = int(points), int(hidden), int(targets)
        self.distance: Literal["chamfer", "sinkhorn"] = distance
        self.epsilon = float(epsilon)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        self.scale = TokenScale(token_dim)
        self.decode = head(dim, self.points * token_dim, self.hidden)

    def _learn(self, sample: Ragged, random_state: int) -> None:
        self.scale.learn(sample_tokens(sample, random_state))

    @abstractmethod
    def _tasks(self, outputs: Vectors, context: Context) -> list[tuple[Rows, Ragged]]:
        """Return vectors and the tokens to rebuild from them."""

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        found = [
            self._rebuild(vectors, tokens, context.generator)
            for vectors, tokens in self._tasks(outputs, context)
        ]
        return {"loss": torch.stack(found).mean()}

    def _rebuild(self, vectors: Rows, tokens: Ragged, generator: torch.Generator) -> Tensor:
        picked, lengths = draw_tokens(tokens.lengths, self.targets, generator)
        present = (lengths > 0).nonzero().flatten()
        if not len(present):
            return vectors[:0].sum()
        places, mask = rectangle(picked, lengths[present])
        decoded = self.decode(vectors[present]).unflatten(1, (self.points, self.token_dim))

        def block(rows: slice, decoded: Tensor) -> Tensor:
            wanted = self.scale(tokens.values[places[rows]])
            cost = squared_distances(decoded[rows], wanted)
            if self.distance == "chamfer":
                return chamfer(cost, mask[rows])
            return sinkhorn_distance(cost, mask[rows], self.epsilon)

        width = self.points + mask.shape[1]
        cost = width * self.token_dim + self.points * mask.shape[1]
        return over_blocks(block, (decoded,), cost).mean()


class Autoencoder(_SetDecoder):
    """Rebuild each view's tokens, as a set, from its own vector.

    A network decodes the vector to ``points`` vectors in token space (standardised by the
    sample). Chamfer distance: mean squared distance per dimension from each token to the nearest
    point, plus from each point to the nearest token. Sinkhorn: the cost of the entropic transport
    plan between both, which asks for every token's share as well.

    Parameters
    ----------
    points : int
        How many vectors the set is rebuilt with.
    hidden : int
        Hidden units of the decoder; 0 for a linear one.
    targets : int
        Compare with at most so many tokens of a sequence, drawn anew for each batch.
    distance : {"chamfer", "sinkhorn"}
        How the sets are compared.
    epsilon : float
        Entropic regularisation of the transport, in squared deviations per dimension.

    References
    ----------
    Fan, Su and Guibas (2017), "A point set generation network" (Chamfer distance); Cuturi (2013),
    "Sinkhorn distances".
    """

    def _tasks(self, outputs: Vectors, context: Context) -> list[tuple[Rows, Ragged]]:
        return list(zip(outputs, context.views, strict=False))


class Denoising(_SetDecoder):
    """Rebuild the whole sequence's tokens, as a set, from the vector of the first view.

    The view is the damaged sequence. Decoder and distances are those of `Autoencoder`.

    Parameters
    ----------
    points : int
        How many vectors the set is rebuilt with.
    hidden : int
        Hidden units of the decoder; 0 for a linear one.
    targets : int
        Compare with at most so many tokens of a sequence, drawn anew for each batch.
    distance : {"chamfer", "sinkhorn"}
        How the sets are compared.
    epsilon : float
        Entropic regularisation of the transport, in squared deviations per dimension.

    References
    ----------
    Vincent, Larochelle, Bengio and Manzagol (2008), "Extracting and composing robust features with
    denoising autoencoders"; Wang, Reimers and Gurevych (2021), "TSDAE".
    """

    needs = ("whole",)

    def _tasks(self, outputs: Vectors, context: Context) -> list[tuple[Rows, Ragged]]:
        return [(outputs[0], context.whole)]
