"""What several objectives share: checks of options, cosines, negatives, blocks of rows, heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from onevec.errors import InputError

Rows = Float[Tensor, "rows dim"]
Groups = Int[Tensor, " rows"]

BLOCK_ENTRIES = 4_194_304  # 16 MiB of fp32 at a time, some times over for temporaries
MASKED = -1e9  # not minus infinity: softmax of a row that is masked throughout stays finite


def check_positive(owner: str, **options: Any) -> None:
    """Raise `InputError` unless every option is a finite number above 0."""
    for name, value in options.items():
        if not isinstance(value, Real) or not math.isfinite(value) or float(value) <= 0:
            raise InputError(f"{owner} got {name}={value!r}: pass a finite number above 0")


def check_count(owner: str, least: int, **options: Any) -> None:
    """Raise `InputError` unless every option is an integer of at least ``least``."""
    for name, value in options.items():
        if not isinstance(value, Integral) or value < least:
            raise InputError(f"{owner} got {name}={value!r}: pass an integer of {least} or more")


def head(width: int, out: int, hidden: int) -> nn.Module:
    """Return a linear map, or with ``hidden`` units a network of one hidden layer."""
    if not hidden:
        return nn.Linear(width, out)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


def unit_rows(vectors: Rows, tiny: float = 1e-12) -> Rows:
    """Scale each row to length 1; 0 (with a gradient of 0) where no entry exceeds ``tiny``."""
    size = vectors.detach().abs().amax(1, keepdim=True)
    present = size > tiny
    # The length of a row's multiple does not matter: this keeps squares from under- and overflow.
    scaled = torch.where(present, vectors / size.where(present, torch.ones_like(size)), 0.0)
    square = (scaled**2).sum(1, keepdim=True)
    return scaled * square.where(present, torch.ones_like(square)).rsqrt()


def mean_where(values: Float[Tensor, " rows"], keep: Bool[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Return the mean over the rows to keep; 0 if there is none."""
    return values.where(keep, torch.zeros_like(values)).sum() / keep.sum().clamp(min=1)


def mean_over_pairs(
    outputs: tuple[Rows, ...], function: Callable[[Rows, Rows], Float[Tensor, "*terms"]]
) -> Float[Tensor, "*terms"]:
    """Return the mean of ``function(first, second)`` over all pairs of views."""
    found = [function(first, second) for first, second in combinations(outputs, 2)]
    return torch.stack(found).mean(0)


class _Blocks(torch.autograd.Function):
    """Rows in blocks, of which nothing is kept: the backward pass makes each block again.

    A checkpoint per block would do the same, but its many small allocations, which stay, keep
    the allocator from using the large ones between them again: on a CPU the memory of a process
    would still grow with the square of the batch.
    """

    @staticmethod
    def forward(ctx: Any, function: Any, blocks: list[slice], *tensors: Tensor) -> Tensor:
        ctx.function, ctx.blocks = function, blocks
        ctx.save_for_backward(*tensors)
        found = tensors[0].new_empty(len(tensors[0]))
        for block in blocks:
            found[block] = function(block, *tensors)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        pairs = zip(ctx.saved_tensors, wanted, strict=True)
        tensors = [tensor.detach().requires_grad_(need) for tensor, need in pairs]
        leaves = [tensor for tensor in tensors if tensor.requires_grad]
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        for block in ctx.blocks:
            with torch.enable_grad(), torch.autocast(slope.device.type, enabled=False):
                found = ctx.function(block, *tensors)
            parts = torch.autograd.grad(found, leaves, slope[block], materialize_grads=True)
            for total, part in zip(sums, parts, strict=True):
                total.add_(part)
        given = iter(sums)
        return None, None, *(next(given) if need else None for need in wanted)


def over_blocks(
    function: Callable[..., Float[Tensor, " block"]], tensors: tuple[Tensor, ...], cost: int
) -> Float[Tensor, " rows"]:
    """Apply ``function`` to blocks of rows, so that memory does not grow with their square.

    Parameters
    ----------
    function : callable
        Takes a slice of the rows and then ``tensors``, returns one number for each row of the
        slice. A gradient flows to ``tensors`` only.
    tensors : tuple of Tensor, shapes (rows, ...)
        What the result is differentiated by (once).
    cost : int
        Numbers that a row needs in memory; a block holds about `BLOCK_ENTRIES`.

    Notes
    -----
    With several blocks what leads to the results is made again in the backward pass (Chen, Xu,
    Zhang and Guestrin 2016, "Training deep nets with sublinear memory cost").
    """
    rows, size = len(tensors[0]), max(1, BLOCK_ENTRIES // max(1, cost))
    if rows <= size:
        return function(slice(0, rows), *tensors)
    blocks = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
    found: Any = _Blocks.apply(function, blocks, *tensors)
    return found


def length_buckets(lengths: Groups) -> Groups:
    """Number the lengths so that those with one number differ by less than a factor of √2."""
    # The small number keeps rounding from putting a power of two into the bucket below.
    return (2 * lengths.clamp(min=1).double().log2() + 1e-9).floor().long()


def shared_by(*labels: Groups) -> Groups:
    """Count for each row how many rows (itself included) have the same labels."""
    _, inverse, counts = torch.unique(
        torch.stack(labels), dim=1, return_inverse=True, return_counts=True
    )
    return counts[inverse]


def contrast(
    anchors: Rows,
    others: Rows,
    positives: Groups,
    groups: Groups,
    buckets: Groups | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE: cross entropy of picking each anchor's positive among the others.

    ``mean_i -log( exp(s_ip) / (exp(s_ip) + sum_{j negative} exp(s_ij)) )`` with ``s = a·o``.

    Parameters
    ----------
    anchors, others : Tensor, shape (rows, dim)
        Temperature and normalisation are in them already.
    positives : Tensor of int64, shape (rows,)
        Which row of ``others`` each anchor has to pick.
    groups : Tensor of int64, shape (rows,)
        Of anchors and others alike. Others of the anchor's group are no negatives.
    buckets : Tensor of int64, shape (rows,), optional
        Of anchors and others alike. Only others of the anchor's bucket are negatives.

    Returns
    -------
    Tensor
        The mean over the anchors that have a negative; 0 if none has.
    """
    lots = torch.zeros_like(groups) if buckets is None else buckets

    def block(rows: slice, anchors: Tensor, others: Tensor) -> Tensor:
        logits = anchors[rows] @ others.T
        shown = groups[rows].unsqueeze(1) != groups
        if buckets is not None:
            shown &= buckets[rows].unsqueeze(1) == buckets
        target = positives[rows].unsqueeze(1)
        shown.scatter_(1, target, True)
        total = logits.masked_fill(~shown, -torch.inf).logsumexp(1)
        return total - logits.gather(1, target).squeeze(1)

    usable = shared_by(lots) > shared_by(lots, groups)
    return mean_where(over_blocks(block, (anchors, others), len(others)), usable)
