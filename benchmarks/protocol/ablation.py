"""What each part of the default recipe is worth, and what persistent noise does to it.

Noise: features that are constant within a sequence and random across sequences are appended to its
token vectors. Whoever learns to tell sequences apart learns these.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from onevec import OneVec
from onevec.blocks import EFFORTS, Blocks
from onevec.ragged import Ragged
from onevec.recipe import BLOCKS, RICH
from onevec.reduction import Candidate
from onevec.tokens.batches import Tokens, sample_sequences
from protocol import peers, sweep
from protocol.baselines import candidate_result
from protocol.producer import DIM, Context, Producer, Result
from protocol.unseen import unseen

SPECS = sweep.SPECS | BLOCKS | {"bigrams": ("bigrams", {"codes": 24})}
NOISE = 8  # features, each with the spread of a usual token feature
COLUMNS = (
    ("ncrna13", "ncrna13"),
    ("deeploc", "proteins"),
    ("adfa", "adfa"),
    ("chess", "chess"),
    ("omniglot", "omniglot"),
    ("fsdd", "fsdd"),
    ("fsdd", "frames"),
    ("gesture", "frames"),
    ("trec", "minilm-3"),
)
ROWS = tuple(dict.fromkeys(row for row, _ in COLUMNS))


class Unclipped(Blocks):
    """Outlier tokens stay as far out as they are."""

    def _unit(self) -> Tensor:
        return self.scale

    def _shown(self, values: Tensor, views: Container[str]) -> dict[str, Tensor]:
        scaled = (values.float() - self.shift) / self._unit()
        return {"scaled": scaled if self.axes.shape[1] == self.dim else scaled @ self.axes}


class Unscaled(Unclipped):
    """Token features keep their own spreads, too."""

    def _unit(self) -> Tensor:
        return self.scale[self.scale.isfinite()].mean()


def variants() -> dict[str, Candidate]:
    """The recipe, and the recipe less or more one part."""
    blocks = RICH.blocks
    found = {"recipe": RICH}
    for name in blocks:
        rest = tuple(other for other in blocks if other != name)
        found[f"without {name}"] = replace(RICH, blocks=rest)
    found |= {
        f"with {name}": replace(RICH, blocks=(*blocks, name))
        for name in SPECS
        if name not in blocks
    }
    found |= {
        f"blocks whitened to the power {power}": replace(RICH, block_power=power)
        for power in (0.0, 0.25, 0.5, 1.0)
        if power != RICH.block_power
    }
    found["blocks of equal energy, not of length 1"] = replace(RICH, unit=False)
    found["half-whitened at the end"] = replace(RICH, power=0.5)
    return found


def ablation(context: Context, seed: int) -> Iterator[Result]:
    """Every variant's vectors."""
    if (context.unit.row, context.encoder) not in COLUMNS:
        return
    hygiene = {"not clipped": Unclipped, "not standardised": Unscaled}
    for what, kind in {"": Blocks, **hygiene}.items():
        names = list(SPECS) if kind is Blocks else list(RICH.blocks)
        features = _features(context, kind, names, seed)
        cache: dict = {}
        made = variants() if kind is Blocks else {what: RICH}
        for name, option in made.items():
            yield candidate_result(f"ablation: {name}", option, features, cache=cache)


def _features(
    context: Context, kind: type[Blocks], names: list[str], seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    _, most_tokens, _ = EFFORTS["quick"]
    sample = sample_sequences(context.train, most_tokens, seed)[1]
    blocks = kind.fit(sample, {name: SPECS[name] for name in names}, seed)
    train, test = blocks.of(context.train), blocks.of(context.test)
    return {name: (train[name], test[name]) for name in names}


def noised(tokens: Tokens, spread: float, seed: int) -> Ragged:
    """Append features that persist within a sequence."""
    whole = tokens[np.arange(len(tokens))]
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.normal(size=(len(whole), NOISE)).astype(np.float32)) * spread
    both = torch.cat([whole.values.float(), noise.repeat_interleave(whole.lengths, 0)], 1)
    return Ragged(both, whole.lengths)


def noise(context: Context, seed: int) -> Iterator[Result]:
    """Mean, default recipe and CoLES on tokens with persistent noise."""
    if (context.unit.row, context.encoder) not in COLUMNS:
        return
    values = context.train[np.arange(min(500, len(context.train)))].values.float()
    spread = float(values.std(0).mean())
    train = noised(context.train, spread, 2 * seed)
    test = noised(context.test, spread, 2 * seed + 1)
    began = time.process_time()
    with unseen(context.unit.row):
        model = OneVec(dim=DIM, random_state=seed).fit(train)
    seconds = time.process_time() - began
    note = {"choice": model.verdict_.choice}
    yield Result(
        "noise: onevec_quick", model.transform(train), model.transform(test), seconds, note
    )
    means = [model.transform_baselines(part)["mean"] for part in (train, test)]
    yield Result("noise: mean", *means)
    attacked = Context(context.unit, context.encoder, train, test, context.budget)
    for result in peers.run(attacked, seed, "coles"):
        result.name = "noise: coles"
        yield result


def producers(ours: tuple[str, ...], recipe: tuple[str, ...]) -> list[Producer]:
    """Both, keyed by the code of the recipe."""
    here = "benchmarks/protocol/ablation.py"
    attack = (*ours, "benchmarks/protocol/peers.py", here)
    return [
        Producer("ablation", "ablation", ablation, (*recipe, here), rows=ROWS),
        Producer("noise", "ablation", noise, attack, rows=ROWS),
    ]
