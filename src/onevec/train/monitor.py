"""Watches a run for collapse and for shortcuts: length and position read from the vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onevec.judge.halves import length_readability, readability
from onevec.objectives.common import unit_rows
from onevec.objectives.contrastive import uniformity
from onevec.ragged import Ragged
from onevec.tokens.batches import Tokens
from onevec.vector.blocks import read
from onevec.views import take_spans

_MOST = 1_000  # sequences looked at
_COLLAPSED = 0.2  # of the effective rank at the start
_SPREAD = 0.01  # of the standard deviation at the start
_UNIFORMITY = -0.1  # 0: all vectors point the same way; about -2 to -4: spread over the sphere
_LEAST = 50  # sequences to read length or position from; with fewer R² is noise
_SHORTCUT = 0.3  # gain in R² of length or position over the start


def effective_rank(vectors: Float[np.ndarray, "seqs dim"]) -> float:
    """Exponential of the entropy of the centred singular values (Roy and Vetterli 2007; RankMe)."""
    sizes = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    if not sizes[0] > 0:
        return 1.0
    share = sizes / sizes.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def _uniformity(vectors: Float[np.ndarray, "seqs dim"]) -> float:
    """Uniformity of the directions, each sequence a group of its own."""
    return float(uniformity(unit_rows(torch.from_numpy(vectors)), torch.arange(len(vectors)), 1.0))


@dataclass
class Monitor:
    """Looks at the vectors of held-out sequences, and of spans of one size inside them.

    Parameters
    ----------
    rows : ndarray
        The held-out sequences.
    span : int
        Tokens of a span; sequences with fewer are passed over.
    """

    tokens: Tokens
    rows: np.ndarray
    span: int
    random_state: int

    def look(self, pool: Callable[[Ragged], Tensor]) -> dict[str, float]:
        """Measure spread, effective rank, uniformity, and R² of length and a span's position."""
        rows = self.rows[:_MOST]
        lengths = self.tokens.lengths.cpu().numpy()[rows]
        draw = np.random.default_rng(self.random_state).random(len(rows))
        wholes, spans, places = [], [], []
        done = 0
        with torch.inference_mode():
            for batch in read(self.tokens, rows):
                share = torch.from_numpy(draw[done : done + len(batch)])
                done += len(batch)
                wholes.append(pool(batch).float().cpu())
                slack = batch.lengths - self.span
                usable = (slack >= 1).nonzero().flatten()
                if len(usable):
                    part, room = batch[usable], slack[usable]
                    start = (share[usable] * (room + 1)).long().clamp(max=room)
                    size = torch.full_like(room, self.span)
                    spans.append(pool(take_spans(part, start, size)).float().cpu())
                    places.append((start / room).numpy())
        vectors = torch.cat(wholes).double().numpy()  # the squares of diverging ones overflow
        names = ("spread", "effective_rank", "uniformity", "length_r2", "position_r2")
        if not np.isfinite(vectors).all():
            return {"finite": 0.0, **dict.fromkeys(names, 0.0)}
        seen = {
            "finite": 1.0,
            "spread": float(vectors.std(0).mean()),
            "effective_rank": effective_rank(vectors),
            "uniformity": _uniformity(vectors),
            "length_r2": 0.0,
            "position_r2": 0.0,
        }
        if len(vectors) >= _LEAST:
            seen["length_r2"] = length_readability(vectors, lengths, self.random_state)
        if sum(map(len, spans)) >= _LEAST:
            at = np.concatenate(places)[:, None]
            inside = torch.cat(spans).double().numpy()
            seen["position_r2"] = readability(inside, at, self.random_state)
        return seen

    @staticmethod
    def alarm(history: list[dict[str, Any]]) -> str:  # noqa: PLR0911 - one per kind of harm
        """Compare the last look with the first; a sentence if something is wrong, else nothing."""
        first, last = history[0], history[-1]
        if not last["finite"]:
            return "the vectors are no longer finite numbers: lower the learning rate"
        if len(history) == 1:
            return ""
        if last["spread"] < _SPREAD * first["spread"]:
            return (
                f"the vectors collapsed: their standard deviation fell from {first['spread']:.3g} "
                f"to {last['spread']:.3g}"
            )
        # Above 1, which is the least there is: vectors on a line.
        if last["effective_rank"] - 1 < _COLLAPSED * (first["effective_rank"] - 1):
            return (
                f"the vectors collapsed: their effective rank fell from "
                f"{first['effective_rank']:.1f} to {last['effective_rank']:.1f}"
            )
        if last["uniformity"] > _UNIFORMITY > first["uniformity"]:
            return (
                f"the vectors collapsed: all point nearly the same way (uniformity "
                f"{last['uniformity']:.2f}, at the start {first['uniformity']:.2f})"
            )
        for name, what in (("length_r2", "length"), ("position_r2", "position")):
            if last[name] > max(first[name], 0.0) + _SHORTCUT:
                return (
                    f"training took a shortcut: a sequence's {what} can be read from the vector "
                    f"(R² {last[name]:.2f}, at the start {first[name]:.2f})"
                )
        return ""
