"""The label-free score that says which state of the training is kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onevec.poolers.combine import Residual
from onevec.train.exam import Exam
from onevec.vector.blocks import Blocks, Features
from onevec.vector.held_out import Prepared, half_features
from onevec.vector.reduction import Recipe, Reduction

_REFIT = 2_000  # sequences that the reduction is fitted to


class HeldOutScore:
    """Held-out score of the blocks as they are, reduced as the final vector is.

    What no training changes is pooled once.
    """

    def __init__(self, exam: Exam, prepared: Prepared, recipe: Recipe, dim: int):
        self.exam, self.recipe, self.dim = exam, recipe, dim
        self.blocks = prepared.blocks.only(recipe.blocks)
        some = np.random.default_rng(0).permutation(prepared.rows[: prepared.count])[:_REFIT]
        self.rows = np.sort(some)
        still = {
            name: pooler.blocks if isinstance(pooler, Residual) else pooler
            for name, pooler in self.blocks.poolers.items()
            if isinstance(pooler, Residual) or not pooler.learned
        }
        self.moving = self.blocks.only([name for name in self.blocks.poolers if name not in still])
        self.still = self._features(self.blocks.with_poolers(still))
        whole = exam.tokens.lengths[torch.from_numpy(self.rows)]
        half = torch.from_numpy(exam.lengths) // 2  # of two tokens or more
        self.lengths = whole, half, half

    @torch.inference_mode()
    def __call__(self) -> float:
        """Score the poolers as they are now: the higher, the better."""
        moving = self._features(self.moving)
        known, *halves = (
            self._headed(still, lengths) | more
            for still, lengths, more in zip(self.still, self.lengths, moving, strict=True)
        )
        reduction = Reduction(self.recipe).fit(known, self.dim)
        evidence = self.exam.evidence([reduction.transform(half) for half in halves])
        return float(evidence.predictability.mean() + evidence.pseudo_labels.mean())

    def _features(self, blocks: Blocks) -> tuple[Features, Features, Features]:
        """Of what the reduction is fitted to, and of both halves of what it is judged on."""
        if not blocks.poolers:
            return {}, {}, {}
        tokens = self.exam.tokens
        return blocks.of(tokens, self.rows), *half_features(tokens, self.exam.rows, blocks)

    def _headed(self, still: Features, lengths: Tensor) -> Features:
        """The same with what residual heads add now."""
        device, found = self.blocks.device, dict(still)
        for name, pooler in self.blocks.poolers.items():
            if isinstance(pooler, Residual):
                parts = torch.from_numpy(still[name]).to(device)
                present = (lengths > 0).unsqueeze(1).to(device)
                found[name] = pooler.after(parts, present).cpu().numpy()
        return found
