"""The training loop of pretraining, its curves, and how it goes on after a kill."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from onevec.encoders.batches import Window, endless, one_pass, read_windows
from onevec.encoders.body import Material
from onevec.encoders.settings import Pretraining
from onevec.encoders.terms import Prepared, PretrainingObjective, TokenObjective
from onevec.errors import InputError
from onevec.objectives import Mixture
from onevec.train import checkpoint
from onevec.train.batch import draw_seed
from onevec.train.loop import OnStep
from onevec.train.optimizer import ScheduledAdamW, schedule
from onevec.train.world import World

Objectives = Mixture[PretrainingObjective]

_TRIED = 20  # batches after which every objective must have had something to learn from
_HELD_OUT_TOKENS = 500_000  # that one evaluation reads: long sequences would take all the time
# As usual in masked and causal language modelling: a shorter memory than AdamW's of squares.
_BETAS, _WEIGHT_DECAY = (0.9, 0.98), 0.01
_WARM_UP = 16  # one in so many steps
_LINES = 200  # of the training curve, each the mean over a stretch of steps


@dataclass
class Curves:
    """What a run told of itself.

    Attributes
    ----------
    train : dict of str to list of float
        Of every step: the weighted loss and each term; NaN where a batch was too small for it.
    held_out : list of dict
        Of every evaluation: step, weighted loss and each term on the sequences kept apart.
    """

    train: dict[str, list[float]] = field(default_factory=dict)
    held_out: list[dict[str, float]] = field(default_factory=list)

    def note(self, step: int, found: dict[str, float]) -> None:
        """Write down the terms of a step."""
        for name in found:
            self.train.setdefault(name, [math.nan] * (step - 1))
        for name, values in self.train.items():
            values.append(found.get(name, math.nan))

    @property
    def final(self) -> float:
        """Mean loss of the last fiftieth of the steps."""
        losses = self.train["loss"]
        return float(np.mean(losses[-max(1, len(losses) // 50) :]))

    @property
    def best(self) -> dict[str, float]:
        """The evaluation of the lowest held-out loss."""
        judged = [entry for entry in self.held_out if "loss" in entry]
        return min(judged, key=lambda entry: entry["loss"], default={})

    def lines(self) -> Iterator[dict[str, Any]]:
        """Return the entries of ``curves.jsonl``: both curves, in the order of the steps."""
        steps = len(self.train.get("loss", ()))
        stretch = max(1, steps // _LINES)
        told = [{**entry, "of": "held_out"} for entry in self.held_out]
        for first in range(0, steps, stretch):
            part = {name: np.array(v[first : first + stretch]) for name, v in self.train.items()}
            known = {name: v[~np.isnan(v)] for name, v in part.items()}
            means = {n: round(float(v.mean()), 5) for n, v in known.items() if len(v)}
            told.append({"step": min(first + stretch, steps), **means, "of": "train"})
        yield from sorted(told, key=lambda entry: entry["step"])


def train(
    material: Material,
    mixture: Objectives,
    *,
    settings: Pretraining,
    steps: int,
    world: World,
    state: str | Path | None,
    facts: dict[str, Any],
    held: tuple[checkpoint.TensorsByPart, dict[str, Any]] | None,
    on_step: OnStep | None,
) -> Curves:
    """Train body and objectives in place.

    Parameters
    ----------
    state : path, optional
        The checkpoint's file; ``facts`` go into it.
    held : parts and facts, optional
        Of a checkpoint to go on from.

    Notes
    -----
    What a step does depends on its number and the seed alone: batch, draws and learning rate. So
    a run that goes on takes the steps that the killed one would have taken.
    """
    body, device = material.body.to(world.device), world.device
    mixture.to(device)
    whole = nn.ModuleDict({"body": body, "mixture": mixture})
    optimizer = ScheduledAdamW(
        [(list(whole.parameters()), settings.learning_rate or 0.0)],
        weight_decay=_WEIGHT_DECAY,
        betas=_BETAS,
        fused=True,
    )
    warm_up = max(1, steps // _WARM_UP)
    curves, first = Curves(), 1
    if held is not None:
        first = 1 + _restore(whole, optimizer, curves, *held)
    windows = _windows(material, settings, world, (first - 1) * world.size + world.rank)
    every = max(1, steps // settings.evaluations)
    if held is None:
        curves.held_out.append({"step": 0, **evaluate(material, mixture, settings, device)})
    for step in range(first, steps + 1):
        batch = next(windows)
        for _ in range(world.size - 1):  # the other processes' batches
            next(windows)
        whole.train()
        found = _step(
            material,
            mixture,
            batch,
            precision=settings.precision,
            seed=draw_seed(settings.random_state, step, world.rank, bits=63),
            device=device,
        )
        _share(whole, found, world)
        if not math.isfinite(found["loss"]):
            raise InputError(
                f"the loss is {found['loss']} at step {step} of {steps}: pass a lower "
                "learning_rate, or precision='fp32'; nothing was written for this step"
            )
        optimizer.descend(schedule((step - 1) / steps, step / warm_up))
        curves.note(step, found)
        if step == min(_TRIED, steps) and world.size == 1:
            _check_heard(mixture, curves, step)
        if step % every == 0 or step == steps:
            told = evaluate(material, mixture, settings, device)
            curves.held_out.append({"step": step, **told})
        last = step == steps or step % settings.checkpoint_steps == 0
        if state is not None and world.rank == 0 and (last or step % every == 0):
            _save(state, whole, optimizer, curves, {**facts, "step": step})
        if on_step:
            on_step(step, steps, found["loss"])
    return curves


def _check_heard(mixture: Objectives, curves: Curves, step: int) -> None:
    """Refuse to go on where an objective has had nothing to learn from: 0 would look perfect."""
    for name in mixture.members:
        if not any(term == name or term.startswith(f"{name}.") for term in curves.train):
            raise InputError(
                f"the objective {name!r} found nothing to learn from in {step} batches: its "
                "sequences are too short (it takes two of two tokens in a batch); leave it out, or "
                "give longer ones"
            )


def _windows(
    material: Material, settings: Pretraining, world: World, skip: int
) -> Iterator[list[Window]]:
    return endless(
        material.train,
        context=settings.shape.context,
        framing=material.framing,
        budget=settings.batch_tokens,
        seed=settings.random_state,
        skip=skip,
    )


def _step(
    material: Material,
    mixture: Objectives,
    batch: list[Window],
    *,
    precision: str,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Set the gradients of all objectives; return the weighted loss and every term."""
    total = 0.0
    found = {"loss": 0.0}
    for place, (name, term) in enumerate(mixture.members.items()):
        generator = torch.Generator().manual_seed(draw_seed(seed, place, bits=63))
        prepared = term.prepare(batch, material, generator)
        if prepared is None:
            continue
        with _drawing(draw_seed(seed, place, bits=63), device):
            with _cast(precision, device):
                terms = term(material.body, _to(prepared, device))
            # One objective after the other: only one graph is in memory at a time.
            terms = mixture.named(name, terms)
            loss = mixture.total(terms)
            loss.backward()
        total += float(loss.detach())
        found |= {each: float(value.detach()) for each, value in terms.items()}
    return {**found, "loss": total}


@contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Make dropout depend on the step alone, and leave the caller's generators as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _cast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _to(prepared: Prepared, device: torch.device) -> Prepared:
    return {name: value.to(device) for name, value in prepared.items()}


def _share(whole: nn.Module, found: dict[str, float], world: World) -> None:
    """Average gradients and terms over the processes."""
    if world.size == 1:
        return
    for parameter in whole.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad /= world.size
    world.sum(parameter.grad for parameter in whole.parameters() if parameter.grad is not None)
    loss = torch.tensor(found["loss"] / world.size, device=world.device)
    world.sum([loss])
    found["loss"] = float(loss)


@torch.inference_mode()
def evaluate(
    material: Material, mixture: Objectives, settings: Pretraining, device: torch.device
) -> dict[str, float]:
    """Return the weighted loss and every term on the sequences kept apart, always cut alike.

    Nothing where these are too short or too few for every objective: 0 would look perfect.
    """
    told: dict[str, list[tuple[float, int]]] = {}  # each with the number of windows
    for place, batch in enumerate(held_out_batches(material, settings)):
        for number, (name, term) in enumerate(mixture.members.items()):
            seed = draw_seed(settings.random_state, place, number, bits=63)
            prepared = term.prepare(batch, material, torch.Generator().manual_seed(seed))
            if prepared is None:
                continue
            mixture.eval()
            material.body.train(term.keeps_dropout)
            with _drawing(seed, device), _cast(settings.precision, device):
                terms = term(material.body, _to(prepared, device))
            for each, value in mixture.named(name, terms).items():
                told.setdefault(each, []).append((float(value), len(batch)))
    means = {
        name: sum(value * size for value, size in values) / sum(size for _, size in values)
        for name, values in told.items()
    }
    if not means:
        return {}
    loss = sum(mixture.weight(name) * value for name, value in means.items())
    return {"loss": round(loss, 5), **{name: round(value, 5) for name, value in means.items()}}


def held_out_batches(material: Material, settings: Pretraining) -> Iterator[list[Window]]:
    """Return windows of the sequences kept apart, always the same; of very many tokens a part."""
    batches = one_pass(
        material.held_out,
        context=settings.shape.context,
        framing=material.framing,
        budget=settings.batch_tokens,
        rng=np.random.default_rng(settings.random_state + 1),
    )
    seen = 0
    for batch in batches:
        windows = read_windows(material.held_out, batch)
        yield windows
        seen += sum(len(values) for _, values in windows)
        if seen >= _HELD_OUT_TOKENS:
            return


@torch.inference_mode()
def accuracy(
    material: Material, term: TokenObjective, settings: Pretraining, device: torch.device
) -> tuple[float, float]:
    """Share of held-out tokens guessed rightly, by the model and by the commonest token.

    The commonest token is the commonest among those asked for themselves, which favours the
    guess: a bar, not a straw man. For frames, tokens are clusters.
    """
    right, targets = 0, []
    material.body.eval()
    for place, batch in enumerate(held_out_batches(material, settings)):
        generator = torch.Generator().manual_seed(draw_seed(settings.random_state, place, bits=63))
        prepared = term.prepare(batch, material, generator)
        if prepared is None:
            continue
        logits, target = term.guesses(material.body, _to(prepared, device))
        right += int((logits.argmax(-1) == target).sum())
        targets.append(target)
    if not targets:
        return 0.0, 0.0
    target = torch.cat(targets)
    return right / len(target), int(target.bincount().max()) / len(target)


def _save(
    path: str | Path,
    whole: nn.Module,
    optimizer: torch.optim.Optimizer,
    curves: Curves,
    facts: dict[str, Any],
) -> None:
    parts = {
        "weights": whole.state_dict(),
        "curves": {k: torch.tensor(v, dtype=torch.float64) for k, v in curves.train.items()},
        **checkpoint.optimizer_parts(optimizer),
    }
    checkpoint.write(
        path, parts, {**facts, "held_out": curves.held_out, "terms": list(curves.train)}
    )


def _restore(
    whole: nn.Module,
    optimizer: torch.optim.Optimizer,
    curves: Curves,
    parts: checkpoint.TensorsByPart,
    facts: dict[str, Any],
) -> int:
    """Take a checkpoint over; return its step."""
    whole.load_state_dict(parts["weights"])
    checkpoint.restore_optimizer(optimizer, parts)
    curves.train = {name: parts["curves"][name].tolist() for name in facts["terms"]}
    curves.held_out = facts["held_out"]
    return facts["step"]
