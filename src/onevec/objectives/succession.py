"""Objectives about pairs of views: does one follow the other, and in which order?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from onevec.objectives.base import Context, Objective, Vectors
from onevec.objectives.common import Rows, check_count, head, mean_where


def pair_features(first: Rows, second: Rows) -> Float[Tensor, "rows features"]:
    """``(a, b, |a - b|, a ∘ b)``."""
    return torch.cat([first, second, (first - second).abs(), first * second], dim=1)


class _PairClassifier(Objective):
    """A score of two vectors, above 0 for yes."""

    ordered = True
    option_names = ("hidden",)

    def __init__(self, hidden: int = 64):
        super().__init__()
        check_count(type(self).__name__, 0, hidden=hidden)
        self.hidden = int(hidden)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        self.classify = head(4 * dim, 1, self.hidden)

    def score(self, first: Rows, second: Rows) -> Float[Tensor, " rows"]:
        """Return the log odds that the second vector's view follows the first's."""
        return self.classify(pair_features(first, second)).squeeze(1)


class NextSequence(_PairClassifier):
    """Tell whether the second view follows the first, or belongs to another sequence.

    Binary cross entropy of a classifier of ``(a, b, |a - b|, a ∘ b)``, half for the true pairs,
    half for pairs with another row's second view (all rows rolled by one random shift). A row
    that meets its own group is left out; so is the only row of a batch.

    Parameters
    ----------
    hidden : int
        Hidden units of the classifier; 0 for a linear one.

    References
    ----------
    Devlin, Chang, Lee and Toutanova (2019), "BERT: pre-training of deep bidirectional
    transformers"; Conneau, Kiela, Schwenk, Barrault and Bordes (2017), "Supervised learning of
    universal sentence representations" (the features).
    """

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        first, second = outputs[:2]
        source = context.generator
        shift = 1 + torch.randint(
            max(1, len(first) - 1), (1,), generator=source, device=source.device
        )
        other = torch.arange(len(first)).roll(int(shift)).to(first.device)
        groups = context.groups.to(first.device)
        yes = softplus(-self.score(first, second))
        no = softplus(self.score(first, second[other]))
        return {"loss": mean_where((yes + no) / 2, groups != groups[other])}


class SequenceOrder(_PairClassifier):
    """Tell the two views in their order from the two views swapped.

    Binary cross entropy of a classifier of ``(a, b, |a - b|, a ∘ b)``, half for each. Position
    that the token vectors carry makes this easy.

    Parameters
    ----------
    hidden : int
        Hidden units of the classifier; 0 for a linear one.

    References
    ----------
    Lan, Chen, Goodman, Gimpel, Sharma and Soricut (2020), "ALBERT: a lite BERT for
    self-supervised learning of language representations".
    """

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        first, second = outputs[:2]
        yes = softplus(-self.score(first, second))
        return {"loss": ((yes + softplus(self.score(second, first))) / 2).mean()}
