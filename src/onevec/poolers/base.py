"""What every pooler promises: from sequences of token vectors to one vector each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from jaxtyping import Float
from torch import Tensor, nn

from onevec.errors import InputError
from onevec.ragged import Ragged


class Pooler(nn.Module, ABC):
    """A map from `Ragged` to ``(seqs, dim_out)`` in fp32.

    A pooler is built in two steps: ``Pooler(**options)``, then ``fit(sample)``, which learns what
    it needs (a codebook, a basis, frequencies) from a sample of sequences and knows the token
    dimension afterwards. ``build(dim)`` alone makes one of the right shape, for loading a
    ``state_dict`` into.

    The result never depends on the other sequences of the batch. An empty sequence gives zeros
    (public functions refuse it earlier).

    Attributes
    ----------
    order_free : bool
        Whether the result stays the same when the tokens of a sequence change places.
    distributional : bool
        Whether ``X`` and ``X‖X`` (every token twice) give the same vector.
    starts_as : str or None
        Name of the closed-form pooler that a learned one equals before training.
    needs : tuple of str
        Names of the per-token fields (`Ragged.fields`) it reads.
    """

    order_free: ClassVar[bool] = True
    distributional: ClassVar[bool] = True
    starts_as: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    dim_in: int
    dim_out: int

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor's keyword arguments: with them and `state_dict` it is rebuilt."""
        return {}

    @abstractmethod
    def build(self, dim: int) -> Self:
        """Set ``dim_in`` and ``dim_out`` and register buffers of the right shapes."""

    def fit(self, sample: Ragged, *, random_state: int = 0) -> Self:
        """Learn from a sample of sequences; the default only reads their dimension."""
        self.check_fields(sample)
        return self.build(sample.dim)

    @abstractmethod
    def forward(self, tokens: Ragged) -> Float[Tensor, "seqs dim_out"]:
        """Pool each sequence."""

    def check_fields(self, tokens: Ragged) -> None:
        """Raise `InputError` when a field that this pooler reads is missing."""
        for name in self.needs:
            if name not in tokens.fields:
                raise InputError(
                    f"{type(self).__name__} reads the token field {name!r}, which these tokens do "
                    f"not carry (they have {sorted(tokens.fields) or 'none'}): pass "
                    f"Ragged(values, lengths, fields={{{name!r}: ...}}) or use another pooler"
                )
