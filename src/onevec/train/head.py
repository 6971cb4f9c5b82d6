"""What is trained: poolers and a linear map to the vector; and the gradient of a large batch."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.objectives import Context, Objective
from onevec.poolers.base import pieces
from onevec.ragged import Ragged
from onevec.train.world import World
from onevec.vector.held_out import Prepared
from onevec.vector.reduction import Recipe, Reduction


class TrainableHead(nn.Module):
    """Blocks side by side, then a linear map that starts as their closed-form reduction.

    The linear map belongs to training alone: afterwards the reduction is fitted anew to the
    trained blocks, as for every other recipe.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, prepared: Prepared, recipe: Recipe, dim: int):
        super().__init__()
        self.blocks = prepared.blocks
        self.names = list(recipe.blocks)
        self.poolers = nn.ModuleDict({name: self.blocks.poolers[name] for name in self.names})
        reduction = Reduction(recipe).fit(prepared.fitted, dim)
        widths = [self.blocks.poolers[name].dim_out for name in self.names]
        # The reduction is affine: its values at the mean and one deviation from it in each
        # dimension are all there is to know. (From 0 rounding would eat features far from it.)
        known = np.hstack([prepared.fitted[name] for name in self.names]).astype(np.float64)
        centre, spread = known.mean(0), known.std(0)
        spread[spread == 0] = 1.0
        probe = np.vstack([centre, centre + np.diag(spread)])
        parts = np.split(probe, np.cumsum(widths)[:-1], axis=1)
        found = reduction.transform(dict(zip(self.names, parts, strict=True))).astype(np.float64)
        self.dim = found.shape[1]
        self.linear = nn.Linear(sum(widths), self.dim)
        self.register_buffer("centre", torch.from_numpy(centre.astype(np.float32)))
        self.register_buffer("spread", torch.from_numpy(spread.astype(np.float32)))
        with torch.no_grad():
            self.linear.bias.copy_(torch.from_numpy(found[0]))
            self.linear.weight.copy_(torch.from_numpy((found[1:] - found[0]).T))

    def forward(self, raw: Ragged) -> Float[Tensor, "seqs dim"]:
        """Pool token vectors as the encoder gave them, and map."""
        features = self.blocks.pool(raw, self.names)
        joined = torch.cat([features[name] for name in self.names], dim=1)
        return self.linear((joined - self.centre) / self.spread)


def gradients(
    head: TrainableHead,
    objective: Objective,
    views: tuple[Ragged, ...],
    context: Context,
    *,
    piece_tokens: int,
    precision: str,
    world: World,
) -> dict[str, float]:
    """Set the gradients of the objective on a whole batch, pooled piece by piece.

    Returns
    -------
    dict
        The value of every named term, and their ``total``.
    """

    def pool(piece: Ragged) -> Tensor:
        with torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return head(piece).float()

    plan = [
        (view, piece) for view in range(len(views)) for piece in _cut(views[view], piece_tokens)
    ]
    if world.size == 1 and len(plan) == len(views):  # it fits: one pass is enough
        vectors = tuple(pool(view) for view in views)
        total, told = _loss(objective, vectors, context)
        total.backward()
        return told
    mine = plan[world.rank :: world.size]
    vectors = tuple(torch.zeros((len(view), head.dim), device=world.device) for view in views)
    with torch.no_grad():
        for view, (first, last, piece) in mine:
            vectors[view][first:last] = pool(piece)
    world.sum(vectors)
    for each in vectors:
        each.requires_grad_()
    total, told = _loss(objective, vectors, context)
    total.backward()
    for view, (first, last, piece) in mine:
        slope = vectors[view].grad
        assert slope is not None, "an objective gives every vector a gradient"
        pool(piece).backward(slope[first:last])
    if world.size > 1:
        for parameter in head.parameters():  # a process without a piece has no gradient yet
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            world.sum([parameter.grad])
    return told


def _loss(
    objective: Objective, vectors: tuple[Tensor, ...], context: Context
) -> tuple[Tensor, dict[str, float]]:
    terms = objective(vectors, context)
    total = objective.total(terms)
    told = {name: float(term.detach()) for name, term in terms.items()}
    return total, told | {"total": float(total.detach())}


def _cut(view: Ragged, piece_tokens: int) -> list[tuple[int, int, Ragged]]:
    """Pieces of a view with the rows they hold."""
    found, first = [], 0
    for piece in pieces(view, piece_tokens):
        found.append((first, first + len(piece), piece))
        first += len(piece)
    return found
