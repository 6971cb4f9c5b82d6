"""Several objectives at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor, nn

from onevec.errors import InputError, make_named
from onevec.objectives.base import Context, Objective, Vectors
from onevec.objectives.table import OBJECTIVES
from onevec.ragged import Ragged

Part = float | Sequence[Any]  # a weight, or (weight, options)


def _make(name: str, options: Mapping[str, Any]) -> Objective:
    return make_named("objective", name, OBJECTIVES, options)


def weight_and_options(name: str, part: Any) -> tuple[float, Mapping[str, Any]]:
    """Read ``weight`` or ``(weight, options)``."""
    weight, options = part if isinstance(part, list | tuple) and len(part) == 2 else (part, {})
    if not isinstance(weight, Real) or not isinstance(options, Mapping):
        raise InputError(f"objective {name!r} got {part!r}: pass a weight or (weight, options)")
    if not (math.isfinite(weight) and float(weight) > 0):
        raise InputError(
            f"objective {name!r} got the weight {weight!r}: weights are finite and above 0; "
            "leave an objective out to switch it off"
        )
    return float(weight), options


def read_parts(
    spec: str | Mapping[str, Any], what: str, rule: str
) -> dict[str, tuple[float, Mapping[str, Any]]]:
    """Read text or a mapping as weight and options by name; ``rule`` ends the error's sentence."""
    parts = read_weights(spec) if isinstance(spec, str) else spec
    if not isinstance(parts, Mapping) or not parts:
        raise InputError(f"got {what}={spec!r}: {rule}")
    return {name: weight_and_options(name, part) for name, part in parts.items()}


class Mixture(Objective):
    """A weighted sum of objectives.

    Its terms are the parts' terms, named like ``vicreg.variance``; a term's weight is that of its
    part times that within its part. It is ordered, predicts the future and needs parts of the
    context where any of its parts does.

    Parameters
    ----------
    parts : mapping of name to weight, or to (weight, options)
        Names of the table `OBJECTIVES`, for instance
        ``{"info_nce": 1.0, "vicreg": (0.5, {"covariance": 2.0})}``.

    References
    ----------
    Each part's own.
    """

    option_names = ("parts",)

    def __init__(self, parts: Mapping[str, Part]):
        super().__init__()
        if not parts:
            raise InputError("Mixture got no parts: pass at least one objective's name")
        found = {name: weight_and_options(name, part) for name, part in parts.items()}
        self.weights = {name: weight for name, (weight, _) in found.items()}
        self.objectives = nn.ModuleDict(
            {name: _make(name, options) for name, (_, options) in found.items()}
        )
        members = self.members.values()
        self.ordered = any(part.ordered for part in members)
        self.future = any(part.future for part in members)
        self.needs = tuple(dict.fromkeys(name for part in members for name in part.needs))
        self.least_views = max(part.least_views for part in members)

    @property
    def members(self) -> dict[str, Objective]:
        """The objectives by name."""
        return dict(self.objectives.items())  # type: ignore[arg-type]

    @property
    def parts(self) -> dict[str, list[Any]]:
        """Weights and options (those that fitting settles, too), ready for JSON."""
        return {name: [self.weights[name], part.options] for name, part in self.members.items()}

    def weight(self, term: str) -> float:
        """Return the weight of a term in the total."""
        name, inner = term.split(".", 1)
        return self.weights[name] * self.members[name].weight(inner)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        for part in self.members.values():
            part.build(token_dim, dim, statistics=statistics)

    def _learn(self, sample: Ragged, random_state: int) -> None:
        # Each part as it would be alone: its parameters do not depend on the other parts.
        for part in self.members.values():
            part.fit(sample, self.dim, random_state=random_state)

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        return {
            f"{name}.{term}": value
            for name, part in self.members.items()
            for term, value in part(outputs, context).items()
        }


def make_objective(spec: str | Mapping[str, Part]) -> Objective:
    """Make an objective from its name, or several with weights from a mapping.

    Parameters
    ----------
    spec : str, or mapping of name to weight or (weight, options)
        A name of the table `OBJECTIVES` gives that objective with its defaults. A mapping, also
        of one entry, gives a `Mixture`; so does text such as ``"vicreg=0.5,info_nce=1"``.

    Raises
    ------
    InputError
        If a name is not in the table, an option is not the objective's, or a weight is not
        finite and above 0.
    """
    if isinstance(spec, str):
        return Mixture(read_weights(spec)) if "=" in spec or "," in spec else _make(spec, {})
    if not isinstance(spec, Mapping):
        raise InputError(
            f"got objective={spec!r}: pass a name, or a mapping of names to weights such as "
            '{"vicreg": 0.5, "info_nce": 1.0}'
        )
    return Mixture(spec)


def read_weights(text: str) -> dict[str, float]:
    """Read ``name=weight,name=weight``; a name alone weighs 1."""
    found = {}
    for part in text.split(","):
        name, _, weight = (word.strip() for word in part.partition("="))
        if name in found:
            raise InputError(f"got objective {name!r} twice in {text!r}: give it one weight")
        try:
            found[name] = float(weight or 1)
        except ValueError as error:
            raise InputError(
                f"objective {name!r} got the weight {weight!r}: write NAME=NUMBER,NAME=NUMBER"
            ) from error
    return found
