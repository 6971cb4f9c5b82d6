"""The optimizer and the schedule of every training: of heads, of pretraining, of fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

_LONGEST_GRADIENT = 1.0  # longer ones are scaled to it, as is usual for transformers


def schedule(gone: float, warm: float) -> float:
    """Return the share of the highest learning rate: a linear warm-up, then a cosine falls to 0.

    Parameters
    ----------
    gone : float
        The share of the run that is over.
    warm : float
        The share of the warm-up that is over, 1 or more at its end.
    """
    return min(warm, 0.5 * (1 + math.cos(math.pi * min(gone, 1.0))))


class ScheduledAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) that decays matrices alone and clips the gradient.

    Parameters
    ----------
    parts : sequence of (parameters, float)
        What is trained, and its highest learning rate. Parameters without a gradient are passed
        over.
    weight_decay : float
        Of matrices; biases and scales have none.
    betas : (float, float)
        How slowly the running means of the gradient and of its square change.
    fused : bool
        One kernel for all parameters, which pays where they are many.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        fused: bool = False,
    ):
        groups = []
        for parameters, rate in parts:
            for matrices in (True, False):
                group = [p for p in parameters if p.requires_grad and (p.ndim > 1) == matrices]
                decay = weight_decay if matrices else 0.0
                if group:
                    groups.append(
                        {"params": group, "weight_decay": decay, "lr": rate, "peak": rate}
                    )
        super().__init__(groups, betas=betas, fused=fused)
        self._clipped = [p for parameters, _ in parts for p in parameters]

    def descend(self, share: float) -> None:
        """Take a step at a share of the highest learning rates, and forget the gradient."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * share
        nn.utils.clip_grad_norm_(self._clipped, _LONGEST_GRADIENT)
        self.step()
        self.zero_grad()
