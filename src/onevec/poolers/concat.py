"""Several poolers side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onevec.errors import InputError, make_named
from onevec.poolers.base import Pooler
from onevec.poolers.table import POOLERS
from onevec.ragged import Ragged


def _make(name: str, options: Mapping[str, Any]) -> Pooler:
    return make_named("pooler", name, POOLERS, options)


def split_names(spec: str) -> list[str]:
    """Return the names in ``"mean|std+dct"``."""
    return [name.strip() for name in re.split(r"[|+]", spec)]


def options_by_name(
    parts: Sequence[tuple[str, Mapping[str, Any]]],
) -> dict[str, dict[str, Any]]:
    """Return the options of each named part, as `make_pooler` takes them.

    Raises
    ------
    InputError
        If a name comes twice with different options.
    """
    options: dict[str, dict[str, Any]] = {}
    for name, given in parts:
        if options.setdefault(name, dict(given)) != dict(given):
            raise InputError(
                f"got the pooler {name!r} twice with different options, which one text of names "
                "cannot say: name it once, or with the same options"
            )
    return options


class Concat(Pooler):
    """Several poolers side by side: (seqs, sum of their dim_out).

    Parameters
    ----------
    parts : sequence of (name, options)
        Names of the table `POOLERS` with their options.
    """

    option_names = ("parts",)

    def __init__(self, parts: Sequence[tuple[str, Mapping[str, Any]]]):
        super().__init__()
        if not parts:
            raise InputError("Concat got no parts: pass at least one pooler's name")
        self.names = [str(name) for name, _ in parts]
        self.poolers = nn.ModuleList(_make(name, options) for name, options in parts)
        self.order_free = all(part.order_free for part in self.members)
        self.distributional = all(part.distributional for part in self.members)
        self.needs = tuple(dict.fromkeys(name for part in self.members for name in part.needs))
        self.mixed_precision = any(part.mixed_precision for part in self.members)
        if any(part.learned for part in self.members):
            self.starts_as = "|".join(self._start_names)

    @property
    def members(self) -> list[Pooler]:
        """The poolers, in order."""
        return list(self.poolers)  # type: ignore[arg-type]

    @property
    def parts(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and options (those that fitting settles, such as a vocabulary's size, too)."""
        return [(name, part.options) for name, part in zip(self.names, self.members, strict=True)]

    @property
    def _start_names(self) -> list[str]:
        return [part.starts_as or name for name, part in zip(self.names, self.members, strict=True)]

    @property
    def start_options(self) -> dict[str, dict[str, Any]]:
        """Return the options of the parts before training, those that have any."""
        parts = [
            given
            for name, part in zip(self.names, self.members, strict=True)
            for given in (part.start_options.items() if part.learned else [(name, part.options)])
        ]
        return {name: options for name, options in options_by_name(parts).items() if options}

    @property
    def slices(self) -> list[slice]:
        """Which columns of the result each part gives."""
        ends = torch.tensor([part.dim_out for part in self.members]).cumsum(0).tolist()
        return [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]

    def _build(self, dim: int) -> int:
        return sum(part.build(dim).dim_out for part in self.members)

    def _learn(self, sample: Ragged, random_state: int) -> None:
        for part in self.members:
            part.fit(sample, random_state=random_state)

    def _pool(self, tokens: Ragged) -> Tensor:
        return torch.cat([part._pool_piece(tokens) for part in self.members], dim=1)


def make_pooler(spec: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> Pooler:
    """Make a pooler from its name, or several side by side from ``"mean|std|vlad"``.

    Parameters
    ----------
    spec : str
        Names of the table `POOLERS`, joined by ``|`` or ``+``. A single name gives that pooler,
        more give a `Concat`.
    options : mapping of name to options, optional
        For instance ``{"vlad": {"codes": 32}}``.

    Raises
    ------
    InputError
        If a name is not in the table, or an option is not the pooler's.
    """
    options = dict(options or {})
    names = split_names(spec)
    unused = sorted(set(options) - set(names))
    if unused:
        raise InputError(f"options for {', '.join(unused)}, which {spec!r} does not name")
    if len(names) == 1:
        return _make(names[0], options.get(names[0], {}))
    return Concat([(name, options.get(name, {})) for name in names])
