"""Upper bound: an attention probe that sees every label (efficient probing, Psomas et al. 2025).

Learned queries attend to the tokens; each reads its own slice of the values, which stay in the
encoder's space; a linear head follows. One model per target, early stop on a tenth of the labels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from onevec.probes.outcomes import Outcome
from onevec.ragged import Ragged
from onevec.segment import segment_softmax, segment_sum
from protocol.producer import Result

if TYPE_CHECKING:
    from onevec.tokens.batches import Tokens
    from protocol.producer import Context
    from protocol.tasks import Target

_QUERIES = 8
_BATCH = 64
_PATIENCE = 8  # passes without a better held-out loss
_PASSES = 100


class AttentionProbe(nn.Module):
    """Multi-query attention pooling in the efficient form, then a linear head."""

    def __init__(self, sample: Ragged, outputs: int):
        super().__init__()
        spread, shift = torch.std_mean(sample.values.float(), 0, correction=0)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", torch.where(spread > 0, spread, 1.0))
        dim = sample.dim
        self.queries = nn.Parameter(torch.zeros(dim, _QUERIES))  # zero: every query is the mean
        self.values = nn.Linear(dim, _QUERIES * math.ceil(dim / _QUERIES))
        self.head = nn.Linear(self.values.out_features, outputs)

    def forward(self, batch: Ragged) -> Tensor:
        tokens = (batch.values.float() - self.shift) / self.scale
        weights = segment_softmax(tokens @ self.queries / tokens.shape[1] ** 0.5, batch.lengths)
        values = self.values(tokens).unflatten(1, (_QUERIES, -1))
        pooled = segment_sum((weights[..., None] * values).flatten(1), batch.lengths)
        return self.head(pooled)


def supervised(
    train: Tokens, test: Tokens, target: Target, *, seed: int = 0, budget: float = 60.0
) -> np.ndarray:
    """Train on all labels of a target; predictions for its test rows.

    Returns
    -------
    ndarray
        Class labels, scores of class 1 (binary) or values (regression), one per test row.
    """
    torch.manual_seed(seed)
    regression = target.kind == "regression"
    names, codes = np.unique(target.y_train, return_inverse=True)
    if regression:
        y = torch.from_numpy(target.y_train.astype(np.float32))
        centre, width = y.mean(), y.std()
        goal, outputs = ((y - centre) / width)[:, None], 1
    else:
        goal, outputs = torch.from_numpy(codes), len(names)
    loss_of = nn.functional.mse_loss if regression else nn.functional.cross_entropy
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(goal), generator=generator)
    held, known = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
    rows = torch.from_numpy(np.asarray(target.train))
    model = AttentionProbe(train[rows[known[:500]].numpy()], outputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    best, kept, stale = math.inf, None, 0
    began = time.process_time()
    for _ in range(_PASSES):
        model.train()
        shuffled = known[torch.randperm(len(known), generator=generator)]
        for picked in shuffled.split(_BATCH):
            loss = loss_of(model(train[rows[picked].numpy()]), goal[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if time.process_time() - began > budget:
                break
        loss = float(loss_of(_outputs(model, train, rows[held].numpy()), goal[held]))
        stale += 1
        if loss < best:
            best, stale = loss, 0
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        if stale >= _PATIENCE or time.process_time() - began > budget:
            break
    model.load_state_dict(kept or model.state_dict())
    output = _outputs(model, test, np.asarray(target.test))
    if regression:
        return (output[:, 0] * width + centre).numpy()
    if target.kind == "binary":
        return (output[:, 1] - output[:, 0]).numpy()
    return names[output.argmax(1).numpy()]


@torch.inference_mode()
def _outputs(model: AttentionProbe, tokens: Tokens, rows: np.ndarray) -> Tensor:
    model.eval()
    parts = np.array_split(rows, max(1, len(rows) // 256))
    return torch.cat([model(tokens[part]) for part in parts])


def attention_probe(context: Context, seed: int) -> Iterator[Result]:
    """Supervised upper bound: reads all labels, and is reported apart."""
    for target in context.unit.targets:
        if target.kind == "similarity":
            continue
        began = time.process_time()
        predicted = supervised(
            context.train, context.test, target, seed=seed, budget=context.budget
        )
        seconds = time.process_time() - began
        outcome = predictions_outcome(predicted, target)
        note = {"stopped_by_the_clock": seconds > context.budget}
        known = {target.name: {"full": outcome}}
        yield Result("attention_probe", seconds=seconds, note=note, known=known)


def predictions_outcome(predicted: np.ndarray, target: Target) -> Outcome:
    """What `run_probes` would keep of these predictions."""
    truth = target.y_test
    if target.kind == "classes":
        hits = (predicted == truth).astype(np.uint8)
        return Outcome("balanced", hits[None], np.unique(truth, return_inverse=True)[1])
    metric = "auroc" if target.kind == "binary" else "r2"
    return Outcome(metric, predicted[None].astype(np.float32), truth)
