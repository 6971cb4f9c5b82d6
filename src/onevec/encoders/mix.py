"""The table of pretraining objectives, and several of them with weights in one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from onevec.encoders.body import Body
from onevec.encoders.pairs import (
    Contrastive,
    ContrastiveDropout,
    HalvesOrder,
    NextHalf,
    PairTerm,
)
from onevec.encoders.settings import Recipe
from onevec.encoders.terms import Masked, NextToken, PredictiveCoding, ReplacedTokens, Term
from onevec.errors import InputError, make_named
from onevec.objectives.mixture import read_parts

PRETRAINING: dict[str, type[Term]] = {
    "masked": Masked,
    "replaced_tokens": ReplacedTokens,
    "contrastive": Contrastive,
    "contrastive_dropout": ContrastiveDropout,
    "next_sequence": NextHalf,
    "sequence_order": HalvesOrder,
    "next_token": NextToken,
    "cpc": PredictiveCoding,
}


class Mix(nn.Module):
    """The objectives of a run with their weights."""

    def __init__(self, spec: str | Mapping[str, Any], causal: bool):
        super().__init__()
        rule = 'pass a mapping of names to weights such as {"masked": 1.0, "contrastive": 0.1}'
        found = read_parts(spec, "objectives", rule)
        self.weights = {name: weight for name, (weight, _) in found.items()}
        self.terms: dict[str, Term] = {}
        for name, (_, options) in found.items():
            term = self.terms[name] = make_named("objective", name, PRETRAINING, options)
            self.add_module(name, term)
            if term.causal is not None and term.causal != causal:
                needs, now = ("a causal", "bidirectional") if term.causal else (
                    "a bidirectional", "causal"
                )  # fmt: skip
                fits = [n for n, t in PRETRAINING.items() if t.causal in (None, causal)]
                raise InputError(
                    f"the objective {name!r} needs {needs} transformer and this one is {now}: "
                    f"pass causal={term.causal}, or choose from {', '.join(fits)}"
                )

    @property
    def spec(self) -> dict[str, list[Any]]:
        """Weights and options, ready for JSON."""
        return {name: [self.weights[name], self._options(name)] for name in self.terms}

    def _options(self, name: str) -> dict[str, Any]:
        term = self.terms[name]
        source = term.objective if isinstance(term, PairTerm) else term
        return {option: getattr(source, option) for option in term.option_names}

    def build(self, body: Body, kind: str, recipe: Recipe) -> None:
        """Make the objectives' own parameters."""
        for name, term in self.terms.items():
            if kind not in term.kinds:
                raise InputError(
                    f"the objective {name!r} takes {' or '.join(term.kinds)}, and the corpus is "
                    f"{kind}: leave it out"
                )
            term.build(body, recipe)

    def weight(self, name: str, term: str) -> float:
        """Return the weight of a term in the total."""
        return self.weights[name] * self.terms[name].weight(term)
