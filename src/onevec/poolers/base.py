"""What every pooler promises: from sequences of token vectors to one vector each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.poolers.segments import RaggedSegments, Segments
from onevec.ragged import Ragged

CHUNK_TOKENS = 8_192  # temporaries stay in the cache and in the allocator's reuse


_PoolerT = TypeVar("_PoolerT", bound="Pooler")


class Pooler(nn.Module, ABC):
    """A map from `Ragged` to ``(seqs, dim_out)`` in fp32.

    A pooler is built in two steps: ``Pooler(**options)``, then ``fit(sample)``, which learns what
    it needs (a codebook, a basis, frequencies) from a sample of sequences and knows the token
    dimension afterwards. ``build(dim)`` alone makes one of the right shape, for loading a
    ``state_dict`` into.

    A subclass writes `_build`, `_pool` and, if it learns something, `_learn`. Its constructor
    keeps each option under the option's name, and `option_names` lists them. `_pool` is written
    against `Segments`, so that the same lines run on ragged sequences and in exported graphs.

    A learned pooler has parameters to be trained by gradient. Right after `fit` it equals a
    closed-form pooler, ``make_pooler(starts_as, start_options)`` fitted with the same sample and
    ``random_state``, so that one can see whether training helped.

    A pooler of your own goes wherever a pooler is named (``OneVec(pooler=Mine())``), or into the
    table, ``POOLERS["mine"] = Mine``. A model that holds it is opened where its module has been
    imported.

    The result never depends on the other sequences of the batch. An empty sequence gives zeros
    (public functions refuse it earlier).

    Attributes
    ----------
    order_free : bool
        Whether the result stays the same when the tokens of a sequence change places.
    distributional : bool
        Whether ``X`` and ``X‖X`` (every token twice) give the same vector, in any order.
    starts_as : str or None
        The closed-form pooler that a learned one equals before training, as `make_pooler`
        reads it; None for those that are closed-form themselves.
    mixed_precision : bool
        Whether the caller's autocast reaches its linear layers. Everything else runs in fp32.
    needs : tuple of str
        Names of the per-token fields (`Ragged.fields`) it reads.
    dim_in, dim_out : int
        Token dimension and width of the result; 0 until `fit` or `build`.
    """

    order_free: bool = True
    distributional: bool = True
    starts_as: str | None = None
    mixed_precision: bool = False
    needs: tuple[str, ...] = ()
    option_names: ClassVar[tuple[str, ...]] = ()
    dim_in: int = 0
    dim_out: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor's keyword arguments: with them and `state_dict` it is rebuilt."""
        return {name: getattr(self, name) for name in self.option_names}

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({words})"

    @property
    def learned(self) -> bool:
        """Whether it has parameters to be trained by gradient."""
        return self.starts_as is not None

    @property
    def start_options(self) -> dict[str, dict[str, Any]]:
        """Return the options with which `make_pooler` makes what `starts_as` names."""
        return {}

    @abstractmethod
    def _build(self, dim: int) -> int:
        """Make buffers and parameters for tokens of ``dim`` dimensions; return ``dim_out``."""

    def _learn(self, sample: Ragged, random_state: int) -> None:
        """Fill the buffers from a sample; nothing to do unless a subclass says so."""

    @abstractmethod
    def _pool(self, tokens: Segments) -> Float[Tensor, "seqs dim_out"]:
        """Pool each sequence of a piece of a batch; the values are fp32.

        Written with the methods of `Segments` alone, it also runs in exported graphs.
        """

    def build(self: _PoolerT, dim: int) -> _PoolerT:
        """Take the shape for tokens of ``dim`` dimensions: set ``dim_in`` and ``dim_out``."""
        with torch.random.fork_rng(devices=[]):  # parameters are drawn from torch's own generator
            self.dim_in, self.dim_out = dim, self._build(dim)
        return self

    def fit(self: _PoolerT, sample: Ragged, *, random_state: int | np.integer = 0) -> _PoolerT:
        """Learn from a sample of sequences.

        Raises
        ------
        InputError
            If the sample holds no token or lacks a field that this pooler reads.
        """
        self.check_fields(sample)
        if sample.values.shape[0] == 0:
            raise InputError(
                f"{type(self).__name__} was given a sample without a single token: "
                "fit on at least one sequence that is not empty"
            )
        random_state = int(random_state)  # torch takes no NumPy number as a seed
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(random_state)
            self.build(sample.dim)
        with torch.no_grad():
            self._learn(sample.with_values(sample.values.detach()), random_state)
        return self.to(sample.values.device)

    def forward(self, tokens: Ragged) -> Float[Tensor, "seqs dim_out"]:
        """Pool each sequence, piece by piece, so that memory stays bounded.

        Raises
        ------
        InputError
            If the pooler is not fitted, the tokens have another dimension, or a field is missing.
        """
        if not self.dim_in:
            raise InputError(
                f"{type(self).__name__} is not fitted: call fit(sample), or build(dim) and then "
                "load_state_dict(...)"
            )
        if tokens.dim != self.dim_in:
            raise InputError(
                f"{type(self).__name__} was fitted on tokens of dimension {self.dim_in} and got "
                f"dimension {tokens.dim}: use tokens of the same encoder and layer"
            )
        self.check_fields(tokens)
        parts = [
            self.pool(RaggedSegments(piece.values, piece.lengths, piece.fields))
            for piece in pieces(tokens, CHUNK_TOKENS)
        ]
        return torch.cat(parts) if parts else tokens.values.new_zeros((0, self.dim_out)).float()

    def pool(self, tokens: Segments) -> Float[Tensor, "seqs dim_out"]:
        """Pool in fp32, but for linear layers where `mixed_precision` says; nothing is checked."""
        tokens, device = tokens.with_values(tokens.values.float()), tokens.values.device.type
        if not torch.is_autocast_enabled(device):
            return self._pool(tokens).float()
        with torch.autocast(device, enabled=self.mixed_precision):
            return self._pool(tokens).float()

    def check_fields(self, tokens: Ragged) -> None:
        """Raise `InputError` when a field that this pooler reads is missing."""
        for name in self.needs:
            if name not in tokens.fields:
                raise InputError(
                    f"{type(self).__name__} reads the token field {name!r}, which these tokens do "
                    f"not carry (they have {sorted(tokens.fields) or 'none'}): pass "
                    f"Ragged(values, lengths, fields={{{name!r}: ...}}) or use another pooler"
                )


def pieces(tokens: Ragged, budget: int) -> list[Ragged]:
    """Cut into runs of whole sequences of about ``budget`` tokens (more if one is longer)."""
    if tokens.values.shape[0] <= budget:
        return [tokens] if len(tokens) else []
    run = torch.div(tokens.offsets[:-1], budget, rounding_mode="floor")
    cuts = torch.unique_consecutive(run, return_counts=True)[1].cumsum(0).tolist()
    return [tokens[first:last] for first, last in zip([0, *cuts[:-1]], cuts, strict=True)]
