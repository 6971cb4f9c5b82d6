"""Encoder and pooler together: raw sequences to vectors, and the gradient of a large batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from onevec.encoders import attention
from onevec.encoders.tuning.trainee import Trainee
from onevec.encoders.tuning.views import window
from onevec.poolers.spec import blocks_of
from onevec.ragged import Ragged
from onevec.train.batch import draw_seed
from onevec.vector.blocks import Blocks, BlockSpec

_GROUP_TOKENS = 2_048  # of one forward pass: fits the caches of a CPU
_SMALL = 256  # a group with fewer is not worth a pass of its own
_PADDING = 0.15  # share of a group's width that its shortest sequence may lack

LossOfVectors = Callable[[tuple[Tensor, ...], tuple[Ragged, ...]], Tensor]


class Student(nn.Module):
    """An encoder, and the blocks that pool its tokens to one vector.

    Parameters
    ----------
    trainee : Trainee
        The encoder.
    sample : Ragged
        Raw sequences that poolers learn from before training.
    pooler : str
        Entries of `POOLERS`, ``"mean|std"``.
    piece_tokens : int
        Tokens whose activations are kept at once.
    precision : {"fp32", "bf16"}
        Of the encoder's forward pass.
    device : str
        Where it runs.
    longest : int
        Most tokens of a sequence where vectors are only looked at.

    Attributes
    ----------
    blocks : Blocks
        The poolers, as `OneVec` holds them.
    dim : int
        Dimensions of the vector.
    """

    def __init__(
        self,
        trainee: Trainee,
        sample: Ragged,
        *,
        pooler: str,
        piece_tokens: int,
        precision: str,
        device: str,
        longest: int,
        seed: int,
    ):
        super().__init__()
        self.trainee = trainee
        self.piece_tokens, self.precision, self.longest = piece_tokens, precision, longest
        self.device = torch.device(device)
        self.to(self.device)
        if precision == "bf16":
            attention.use(trainee.backbone)
        specs = {name: BlockSpec.of(*pair) for name, pair in blocks_of(pooler).items()}
        self.pooler, self.names = pooler, list(specs)
        self.eval()
        self.blocks = Blocks.fit(self.tokens(sample).to("cpu"), specs, seed)
        self.poolers = nn.ModuleDict(self.blocks.poolers).to(self.device)
        self._move(self.device)
        self.dim = sum(self.blocks.poolers[name].dim_out for name in self.names)

    def _move(self, device: torch.device) -> None:
        """Let the blocks pool on a device."""
        self.poolers.to(device)
        self.blocks.device = device
        self.blocks.scaler.to(device)

    def finished_blocks(self) -> Blocks:
        """The blocks as they were trained, ready for a model of `OneVec`."""
        self._move(torch.device("cpu"))
        self.poolers.requires_grad_(False)
        return self.blocks

    def mixed(self) -> torch.autocast:
        """The autocast of the settings."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def groups(self, lengths: Int[Tensor, " seqs"]) -> list[Int[Tensor, " rows"]]:
        """Rows of like length that go through the encoder together; together all of them."""
        order = lengths.argsort(descending=True, stable=True)
        most = min(_GROUP_TOKENS, self.piece_tokens)
        found, first = [], 0
        sizes = lengths[order].tolist()
        for place, size in enumerate(sizes):
            width, count = sizes[first], place - first
            uneven = width - size > max(2, _PADDING * width) and count * width >= _SMALL
            if count and (uneven or (count + 1) * width > most):
                found.append(order[first:place])
                first = place
        return [*found, order[first:]] if len(order) else []

    def encode(self, raw: Ragged) -> tuple[Tensor, Ragged]:
        """Vectors of one group, and its tokens."""
        with self.mixed():
            tokens = self.trainee(raw)
        tokens = tokens.with_values(tokens.values.float())
        # Poolers hold fp32 unless they say otherwise; lengths travel with the values.
        pooled = self.blocks.pool(tokens.to(self.device), self.names)
        return torch.cat([pooled[name] for name in self.names], dim=1), tokens

    @torch.inference_mode()
    def vectors(self, raw: Ragged) -> Float[Tensor, "seqs dim"]:
        """Vectors without a gradient, dropout off, of any number of sequences."""
        was = self.training
        self.eval()
        raw = window(raw, self.longest)
        out = torch.empty(len(raw), self.dim)
        for rows in self.groups(raw.lengths):
            out[rows] = self.encode(raw[rows])[0].cpu()
        self.train(was)
        return out

    @torch.no_grad()
    def tokens(self, raw: Ragged) -> Ragged:
        """Token vectors without a gradient, dropout off, in the order of the sequences."""
        was = self.training
        self.eval()
        raw = window(raw, self.longest)
        parts, order = [], []
        for rows in self.groups(raw.lengths):
            with self.mixed():
                found = self.trainee(raw[rows])
            parts.append(found.with_values(found.values.float()).to("cpu"))
            order.append(rows)
        self.train(was)
        return Ragged.concat(parts)[torch.cat(order).argsort()]

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    # What `onevec.train.state.Run` keeps: the trained parameters, and a checkpoint's own head.

    def _kept(self) -> dict[str, nn.Parameter]:
        found = self.trained()
        seen = {id(p) for p in found.values()}  # the head may be tied to the embeddings
        for model in self.trainee.masked_model:
            head = model.named_parameters()
            found |= {f"head.{n}": p for n, p in head if p.requires_grad and id(p) not in seen}
        return found

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the parameters that are kept."""
        return {name: parameter.detach() for name, parameter in self._kept().items()}

    def load_state_dict(self, state: Any, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Take them over."""
        with torch.no_grad():
            for name, parameter in self._kept().items():
                parameter.copy_(state[name])


def descend(student: Student, views: tuple[Ragged, ...], loss: LossOfVectors, seed: int) -> None:
    """Add to the gradients those of a loss on the vectors of a whole batch.

    Where the batch is larger than the memory for activations, it is encoded without them first;
    the gradient with respect to the vectors then goes back piece by piece (Gao, Zhang, Han and
    Callan 2021). Each piece has its seed, so that dropout is the same both times.

    Parameters
    ----------
    views : tuple of Ragged
        Raw views; row i of all is of the same sequence.
    loss : callable
        From vectors and tokens of every view (the latter without a gradient) to a scalar.
    """
    with student.trainee.one_lookup(*views):
        _descend(student, views, loss, seed)


def _descend(student: Student, views: tuple[Ragged, ...], loss: LossOfVectors, seed: int) -> None:
    plan = [student.groups(view.lengths) for view in views]
    at_once = sum(int(view.lengths.sum()) for view in views) <= student.piece_tokens
    vectors, tokens = [], []
    with torch.set_grad_enabled(at_once), student.mixed():
        for number, (view, groups) in enumerate(zip(views, plan, strict=True)):
            parts = [_piece(student, view[g], seed, number, p) for p, g in enumerate(groups)]
            back = torch.cat(groups).argsort()
            vectors.append(torch.cat([part[0] for part in parts])[back])
            found = Ragged.concat([p[1].with_values(p[1].values.detach()) for p in parts])
            tokens.append(found[back].to(student.device))
    if at_once:
        loss(tuple(vectors), tuple(tokens)).backward()
        return
    leaves = tuple(each.detach().requires_grad_() for each in vectors)
    loss(leaves, tuple(tokens)).backward()
    for number, (view, groups) in enumerate(zip(views, plan, strict=True)):
        slope = leaves[number].grad
        assert slope is not None, "an objective gives every vector a gradient"
        for place, rows in enumerate(groups):
            if bool(slope[rows].any()):
                piece = _piece(student, view[rows], seed, number, place)
                piece[0].backward(slope[rows])


def seed_dropout(device: torch.device, *numbers: int) -> None:
    """Seed the generator that dropout draws from (`torch.manual_seed` would take a millisecond)."""
    seed = draw_seed(*numbers)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _piece(student: Student, raw: Ragged, *numbers: int) -> tuple[Tensor, Ragged]:
    seed_dropout(student.device, *numbers)
    return student.encode(raw)
