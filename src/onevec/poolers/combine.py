"""Poolers that stand on others, and `make_pooler`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.learned import centre_and_spread, zero_mlp
from onevec.poolers.leaves import POOLERS
from onevec.poolers.segments import Segments
from onevec.poolers.spec import Spec, kind_of, pooler_of, read_spec
from onevec.ragged import Ragged

Parts = str | Sequence[tuple[str, Mapping[str, Any]]]


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
        Names of the table `POOLERS` with their options, see `spec.pooler_of`.
    """

    option_names = ("parts",)

    def __init__(self, parts: Sequence[tuple[str, Mapping[str, Any]]]):
        super().__init__()
        if not parts:
            raise InputError("Concat got no parts: pass at least one pooler's name")
        self.poolers = nn.ModuleList(pooler_of(name, options) for name, options in parts)
        self.names = [kind_of(part) for part in self.members]
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

    def _pool(self, tokens: Segments) -> Tensor:
        return torch.cat([part.pool(tokens) for part in self.members], dim=1)


class OnParts(Pooler):
    """A pooler that makes something of what closed-form poolers give.

    Parameters
    ----------
    parts : str, or sequence of (name, options)
        Closed-form poolers, as `make_pooler` or `Concat` take them.

    Attributes
    ----------
    blocks : Concat
        The poolers.
    """

    def __init__(self, parts: Parts):
        super().__init__()
        self.blocks = Concat(read_spec(parts) if isinstance(parts, str) else parts)
        if self.blocks.learned:
            raise InputError(f"{type(self).__name__} got parts={parts!r}: pass closed-form poolers")
        self.needs = self.blocks.needs
        self.order_free = self.blocks.order_free
        self.distributional = self.blocks.distributional

    @property
    def parts(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and options of the poolers, with what fitting settles."""
        return self.blocks.parts

    def _learn(self, sample: Ragged, random_state: int) -> None:
        self.blocks.fit(sample, random_state=random_state)
        self._learn_of(self.blocks(sample)[sample.lengths > 0])

    @abstractmethod
    def _learn_of(self, found: Float[Tensor, "seqs dim"]) -> None:
        """Fill the buffers from what the poolers give for the sample's sequences."""

    def _pool(self, tokens: Segments) -> Tensor:
        return self.after(self.blocks.pool(tokens), tokens.present)

    @abstractmethod
    def after(
        self, found: Float[Tensor, "seqs dim"], present: Bool[Tensor, "seqs 1"]
    ) -> Float[Tensor, "seqs dim_out"]:
        """Return what it makes of what the poolers gave; ``present`` says which are not empty."""


class WhitenedParts(OnParts):
    """Closed-form poolers, each partly whitened and of length 1: (seqs, sum of their widths).

    Each part becomes ``z / |z|`` with ``z = Λ^(-power / 2) Vᵀ (b - m)``, where m is the mean of
    what the part gives over the sample's sequences and V, Λ are the leading principal directions
    and variances (see `onevec.project.Whitening`). So no part and no outlier speaks louder
    than another, and a residual head or a projection that follows starts where the recipe stands.

    Parameters
    ----------
    parts : str, or sequence of (name, options)
        Closed-form poolers, as `make_pooler` or `Concat` take them.
    power : float
        0 is PCA, 1 is whitening.
    width : int
        So many leading directions of each part at most.
    """

    option_names = ("parts", "power", "width")

    def __init__(self, parts: Parts = "mean|std|dct", power: float = 0.25, width: int = 192):
        super().__init__(parts)
        if not 0 <= power <= 1 or width < 1:
            raise InputError(
                f"WhitenedParts got power={power}, width={width}: pass a power from 0 to 1, and a "
                "width of 1 or more"
            )
        self.power, self.width = float(power), int(width)

    def _build(self, dim: int) -> int:
        self.register_buffer("centre", torch.zeros(self.blocks.build(dim).dim_out))
        total = 0
        for place, part in enumerate(self.blocks.members):
            width = min(self.width, part.dim_out)
            self.register_buffer(f"map{place}", torch.zeros(part.dim_out, width))
            total += width
        return total

    def _learn_of(self, found: Tensor) -> None:
        from onevec.project import Whitening  # scikit-learn takes a while to import

        self.get_buffer("centre").copy_(found.double().mean(0))
        if len(found) < 2:  # nothing varies
            return
        for place, columns in enumerate(self.blocks.slices):
            held = self.get_buffer(f"map{place}")
            whitening = Whitening(held.shape[1], power=self.power)
            whitening.fit(found[:, columns].double().cpu().numpy())
            held.copy_(torch.from_numpy(whitening.matrix_))

    def after(self, found: Tensor, present: Tensor) -> Tensor:
        """Whiten and scale what the parts give, side by side."""
        centred = found - self.get_buffer("centre")
        sides = [
            normalize(centred[:, columns] @ self.get_buffer(f"map{place}"), dim=1)
            for place, columns in enumerate(self.blocks.slices)
        ]
        return torch.cat(sides, dim=1) * present


class Residual(OnParts):
    """Closed-form poolers side by side plus an MLP of them: (seqs, sum of their dim_out).

    ``b + s MLP((b - m) / s)`` with b what the poolers give, m and s its mean and spread over the
    sample's sequences. The MLP's last layer starts at zero: starts as the poolers.

    Parameters
    ----------
    parts : str, or sequence of (name, options)
        Closed-form poolers, as `make_pooler` or `Concat` take them.
    hidden : int
        Hidden units of the MLP.
    """

    mixed_precision = True
    option_names = ("parts", "hidden")
    centre: Tensor
    spread: Tensor

    def __init__(self, parts: Parts = "mean|std|dct", hidden: int = 256):
        super().__init__(parts)
        options_by_name(self.parts)  # a name that comes twice cannot be said in `starts_as`
        if hidden < 1:
            raise InputError(f"Residual got hidden={hidden}: pass 1 or more hidden units")
        self.hidden = int(hidden)
        self.starts_as = "|".join(self.blocks.names)

    @property
    def start_options(self) -> dict[str, dict[str, Any]]:
        """Return the options of the poolers."""
        return dict(self.parts)

    def _build(self, dim: int) -> int:
        width = self.blocks.build(dim).dim_out
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.head = zero_mlp(width, self.hidden, width)
        return width

    def _learn_of(self, found: Tensor) -> None:
        centre, spread = centre_and_spread(found)
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def after(self, found: Tensor, present: Tensor) -> Tensor:
        """Add what the head makes of what the poolers gave; only the head learns."""
        return found + self.spread * self.head((found - self.centre) / self.spread) * present


POOLERS |= {"whitened_parts": WhitenedParts, "residual": Residual}


def make_pooler(spec: Spec, options: Mapping[str, Mapping[str, Any]] | None = None) -> Pooler:
    """Make a pooler, or several side by side.

    Parameters
    ----------
    spec : str, mapping, or Pooler
        Such as ``"mean|std|vlad:codes=32"``, see `spec.read_spec`. A single pooler is given as it
        is, more as a `Concat`.
    options : mapping of name to options, optional
        For instance ``{"vlad": {"codes": 32}}``, of what is named without options.

    Raises
    ------
    InputError
        If a pooler does not exist, or does not take its options.
    """
    pairs = read_spec(spec)
    options = dict(options or {})
    unused = sorted(set(options) - {name for name, _ in pairs})
    if unused:
        raise InputError(f"options for {', '.join(unused)}, which {spec!r} does not name")
    pairs = [(name, dict(options.get(name, {})) | given) for name, given in pairs]
    return pooler_of(*pairs[0]) if len(pairs) == 1 else Concat(pairs)
