"""What stands on closed-form poolers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onevec.errors import InputError
from onevec.poolers.base import Pooler

if TYPE_CHECKING:
    from onevec.poolers.concat import Concat

Parts = str | Sequence[tuple[str, Mapping[str, Any]]]


class OnParts(Pooler):
    """A pooler that makes something of what closed-form poolers give.

    Attributes
    ----------
    blocks : Concat
        The poolers.
    """

    blocks: Concat

    def _stand_on(self, parts: Parts) -> None:
        """Make the poolers of ``parts``, as `make_pooler` or `Concat` take them."""
        # The table of poolers names the subclasses: it cannot be imported before.
        from onevec.poolers.concat import Concat, split_names

        given = [(name, {}) for name in split_names(parts)] if isinstance(parts, str) else parts
        self.blocks = Concat(given)
        if self.blocks.learned:
            raise InputError(f"{type(self).__name__} got parts={parts!r}: pass closed-form poolers")
        self.needs = self.blocks.needs
        self.order_free = self.blocks.order_free
        self.distributional = self.blocks.distributional

    @property
    def parts(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and options of the poolers, with what fitting settles."""
        return self.blocks.parts
