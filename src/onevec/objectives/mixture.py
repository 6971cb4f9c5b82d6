"""Several objectives at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Generic, TypeVar, cast

from torch import Tensor, nn

from onevec.errors import InputError, make_named
from onevec.objectives.base import Context, Loss, Objective, Vectors
from onevec.objectives.table import OBJECTIVES
from onevec.ragged import Ragged
from onevec.weights import read_weights

Weighted = float | Sequence[Any]  # a weight, or (weight, options)
Member = TypeVar("Member", bound=Loss)


class Mixture(Loss, Generic[Member]):
    """Entries of a table of objectives, each with a weight.

    The one mixture of learned poolers, pretraining and fine-tuning, each with a table of its own.
    A term is called like its objective, ``masked``, and where that has several
    ``vicreg.variance``; its weight is that of its objective times that within it.

    Parameters
    ----------
    parts : str, or mapping of name to weight or (weight, options)
        Such as ``"info_nce=1,vicreg=0.1"`` or ``{"info_nce": 1.0, "vicreg": (0.5, {"covariance":
        2.0})}``. A name alone weighs 1.
    table : mapping of str to class
        What the names are entries of.

    Raises
    ------
    InputError
        If a name is not in the table, an option is not the objective's, or a weight is not
        finite and above 0.
    """

    option_names = ("parts",)

    def __init__(self, parts: str | Mapping[str, Weighted], table: Mapping[str, type[Member]]):
        super().__init__()
        given = read_weights(parts, "objective") if isinstance(parts, str) else parts
        if not isinstance(given, Mapping) or not given:
            raise InputError(
                f"got objective={parts!r}: pass a name, text such as {_example(table)!r}, or a "
                "mapping of names to weights"
            )
        found = {name: _weight_and_options(name, part) for name, part in given.items()}
        self.weights = {name: weight for name, (weight, _) in found.items()}
        self.objectives = nn.ModuleDict(
            {
                name: make_named("objective", name, table, options)
                for name, (_, options) in found.items()
            }
        )

    @property
    def members(self) -> dict[str, Member]:
        """The objectives by name."""
        return cast(dict[str, Member], dict(self.objectives.items()))

    @property
    def parts(self) -> dict[str, list[Any]]:
        """Weights and options (those that fitting settles, too), ready for JSON."""
        return {name: [self.weights[name], each.options] for name, each in self.members.items()}

    def named(self, name: str, terms: Mapping[str, Any]) -> dict[str, Any]:
        """Return the terms of an objective under the names they have in the mixture."""
        if list(terms) == ["loss"]:
            return {name: terms["loss"]}
        return {f"{name}.{term}": value for term, value in terms.items()}

    def weight(self, term: str) -> float:
        """Return the weight of a term in the total."""
        name, _, inner = term.partition(".")
        return self.weights[name] * self.members[name].weight(inner or "loss")


def _example(table: Mapping[str, Any]) -> str:
    first, second = list(table)[:2]
    return f"{first}=1,{second}=0.5"


def _weight_and_options(name: str, part: Any) -> tuple[float, Mapping[str, Any]]:
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


class WeightedSum(Objective):
    """A `Mixture` of objectives on vectors, as one objective.

    It is ordered, predicts the future and needs parts of the context where any of its parts does.

    Parameters
    ----------
    parts : str, or mapping of name to weight or (weight, options)
        Entries of the table `OBJECTIVES`, as `Mixture` reads them.

    References
    ----------
    Each part's own.
    """

    option_names = ("parts",)

    def __init__(self, parts: str | Mapping[str, Weighted]):
        super().__init__()
        self.mixture: Mixture[Objective] = Mixture(parts, OBJECTIVES)
        members = self.mixture.members.values()
        self.ordered = any(each.ordered for each in members)
        self.future = any(each.future for each in members)
        self.needs = tuple(dict.fromkeys(name for each in members for name in each.needs))
        self.least_views = max(each.least_views for each in members)

    @property
    def parts(self) -> dict[str, list[Any]]:
        """Weights and options (those that fitting settles, too), ready for JSON."""
        return self.mixture.parts

    def weight(self, term: str) -> float:
        """Return the weight of a term in the total."""
        return self.mixture.weight(term)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        for each in self.mixture.members.values():
            each.build(token_dim, dim, statistics=statistics)

    def _learn(self, sample: Ragged, random_state: int) -> None:
        # Each as it would be alone: its parameters do not depend on the others.
        for each in self.mixture.members.values():
            each.fit(sample, self.dim, random_state=random_state)

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, each in self.mixture.members.items():
            found |= self.mixture.named(name, each(outputs, context))
        return found


def make_objective(spec: Any) -> Objective:
    """Make an objective from its name, or several with weights.

    Parameters
    ----------
    spec : str, or mapping of name to weight or (weight, options)
        A name of the table `OBJECTIVES` gives that objective with its defaults. A mapping, also
        of one entry, gives a `WeightedSum`; so does text such as ``"vicreg=0.5,info_nce=1"``.

    Raises
    ------
    InputError
        If a name is not in the table, an option is not the objective's, or a weight is not
        finite and above 0.
    """
    if isinstance(spec, str) and not set("=,") & set(spec):
        return make_named("objective", spec, OBJECTIVES, {})
    return WeightedSum(spec)
