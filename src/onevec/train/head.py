"""What is trained: poolers and a linear map to the vector; and the gradient of a large batch."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.objectives import Context, Objective
from onevec.poolers.base import pieces
from onevec.ragged import Ragged
from onevec.vector.held_out import Prepared
from onevec.vector.reduction import Recipe, Reduction


class Head(nn.Module):
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


class World:
    """The processes that share a run: those of `torchrun`, or this one alone."""

    def __init__(self, device: str):
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        kind = torch.device(device).type
        if kind == "cuda" and not torch.cuda.is_available():
            raise InputError(f"got training device={device!r}: this machine has no such device")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        several = kind == "cuda" and self.size > 1
        self.device = torch.device(f"cuda:{local}" if several else device)
        # Once for the whole process: groups made and destroyed in turn can miss each other.
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def any(self, here: bool) -> bool:
        """Whether it holds in any process: all must take the same way."""
        mark = torch.tensor(float(here), device=self.device)
        self.sum([mark])
        return bool(mark > 0)

    def share(self, content: bytes) -> bytes:
        """Give every process what the first one holds."""
        if self.size == 1:
            return content
        size = torch.tensor(len(content), device=self.device)
        dist.broadcast(size, 0)
        held = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.rank == 0 and content:
            held.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        if len(held):
            dist.broadcast(held, 0)
        return held.cpu().numpy().tobytes()

    def wait(self) -> None:
        """Let every process come to this place."""
        if self.size > 1:
            dist.barrier()


def first_process() -> bool:
    """Whether this is the process that writes results."""
    return os.environ.get("RANK", "0") == "0"


def gradients(
    head: Head,
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
