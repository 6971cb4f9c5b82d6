"""Objectives that predict: tokens or statistics of another part of the sequence."""

from __future__ import annotations

from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from onevec.errors import InputError
from onevec.objectives.base import Context, Objective, Vectors
from onevec.objectives.common import Rows, check_count, contrast, head, mean_where
from onevec.objectives.targets import (
    Lengths,
    TokenScale,
    draw_tokens,
    k_means,
    nearest,
    sample_tokens,
)
from onevec.ragged import Ragged
from onevec.segment import segment_mean, segment_positions, segment_rows


class CPC(Objective):
    """Contrastive predictive coding from the vector of a prefix to the tokens that follow.

    For each step ``k`` a linear map of the first view's vector picks the k-th token of the second
    view, linearly projected, among the k-th tokens of the other sequences: InfoNCE of
    ``(W_k z) · (P h_k) / √size``. Sequences whose second view has fewer than ``k`` tokens are left
    out of step ``k``, rows of the same group are no negatives of each other. Tokens are
    standardised by the sample. One term per step, ``step_1`` and so on; the total is their mean.

    Parameters
    ----------
    steps : int
        How many tokens to predict.
    size : int
        Dimensions in which predictions and tokens meet.

    References
    ----------
    van den Oord, Li and Vinyals (2018), "Representation learning with contrastive predictive
    coding".
    """

    ordered = True
    future = True
    option_names = ("steps", "size")

    def __init__(self, steps: int = 4, size: int = 64):
        super().__init__()
        check_count("CPC", 1, steps=steps, size=size)
        self.steps, self.size = int(steps), int(size)

    def weight(self, term: str) -> float:
        """Return the weight of a term in the total."""
        return 1 / self.steps

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        self.scale = TokenScale(token_dim)
        self.project = nn.Linear(token_dim, self.size, bias=False)
        self.predict = nn.ModuleList(
            nn.Linear(dim, self.size, bias=False) for _ in range(self.steps)
        )

    def _learn(self, sample: Ragged, random_state: int) -> None:
        self.scale.learn(sample_tokens(sample, random_state))

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        view = context.views[1]
        starts = view.lengths.cumsum(0) - view.lengths
        groups = context.groups.to(view.values.device)
        terms = {}
        for step, predict in enumerate(self.predict):
            rows = (view.lengths > step).nonzero().flatten()
            token = self.project(self.scale(view.values[starts[rows] + step]))
            guess = predict(outputs[0][rows]) / self.size**0.5
            own = torch.arange(len(rows), device=rows.device)
            found = contrast(guess, token, own, groups[rows]) if len(rows) else guess.sum()
            terms[f"step_{step + 1}"] = found
        return terms


def relative_error(guess: Rows, target: Rows, least_variance: float = 0.1) -> Float[Tensor, ""]:
    """Mean squared error divided by the targets' mean (unbiased) variance over the batch.

    Whitened statistics have variances near 1: less than a tenth means a batch of near copies (or
    of one row), and is taken as a tenth.
    """
    centred = target - target.mean(0)
    variance = (centred**2).sum(0).mean() / max(1, len(target) - 1)
    return ((guess - target) ** 2).mean() / variance.clamp(min=least_variance)


class HeldOutStatistics(Objective):
    """Predict the whitened statistics of the other view from the vector.

    Mean squared error per statistic, relative to the variance of the statistics in the batch: 1
    is what a vector that knows nothing reaches, 0 is perfect. One map for all views; the mean
    over all ordered pairs of views. Whitening counts rare directions as much as frequent ones:
    against raw tokens the mean would be the answer.

    Parameters
    ----------
    hidden : int
        Hidden units of the map; 0 for a linear one.
    statistics : int
        How many statistics there are; ``fit`` sets it.

    References
    ----------
    Tsai, Wu, Salakhutdinov and Morency (2021), "Self-supervised learning from a multi-view
    perspective" (prediction of one view from the other as a lower bound of what they share);
    Hoerl and Kennard (1970), "Ridge regression" (with weight decay on the linear map).
    """

    needs = ("statistics",)
    option_names = ("hidden", "statistics")

    def __init__(self, hidden: int = 0, statistics: int = 0):
        super().__init__()
        check_count("HeldOutStatistics", 0, hidden=hidden, statistics=statistics)
        self.hidden, self.statistics = int(hidden), int(statistics)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        self.statistics = int(statistics) or self.statistics
        if not self.statistics:
            raise InputError(
                "HeldOutStatistics does not know how many statistics there are: "
                "pass fit(sample, dim, statistics=...)"
            )
        self.predict = head(dim, self.statistics, self.hidden)

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        guesses = [self.predict(vectors) for vectors in outputs]
        targets = [target.float() for target in context.statistics]
        if len(targets) != len(guesses) or targets[0].shape[1] != self.statistics:
            raise InputError(
                f"HeldOutStatistics got {len(targets)} arrays of {targets[0].shape[1]} statistics "
                f"for {len(guesses)} views: it was built for one array of {self.statistics} each"
            )
        pairs = permutations(range(len(guesses)), 2)
        found = [relative_error(guesses[view], targets[other]) for view, other in pairs]
        return {"loss": torch.stack(found).mean()}


def beside(
    ids: Int[Tensor, " tokens"], lengths: Lengths, edge: int
) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " tokens"]]:
    """Return the ids before and after each token; ``edge`` where the sequence ends."""
    place = segment_positions(lengths)
    last = place == lengths.index_select(0, segment_rows(lengths)) - 1
    return ids.roll(1).masked_fill(place == 0, edge), ids.roll(-1).masked_fill(last, edge)


class MaskedTokens(Objective):
    """Predict the second view's tokens, as codewords, from the first view's vector.

    The codewords are k-means centres of the sample's standardised tokens. Cross entropy in nats
    of ``softmax(V gelu(U z + left + right))``, with learned embeddings of the codewords left and
    right of the token if ``neighbours`` is on: what the neighbours tell is then left to them, and
    the vector is asked for the rest. Mean per sequence, then over sequences.

    Parameters
    ----------
    codes : int
        Codewords.
    neighbours : bool
        Whether the predictor sees the codewords beside the token.
    hidden : int
        Hidden units.
    targets : int
        Predict at most so many tokens of a sequence, drawn anew for each batch.

    References
    ----------
    Devlin, Chang, Lee and Toutanova (2019), "BERT"; Hsu et al. (2021), "HuBERT" (k-means codes as
    targets).
    """

    option_names = ("codes", "neighbours", "hidden", "targets")
    book: Tensor

    def __init__(
        self, codes: int = 64, neighbours: bool = True, hidden: int = 64, targets: int = 16
    ):
        super().__init__()
        check_count("MaskedTokens", 2, codes=codes)
        check_count("MaskedTokens", 1, hidden=hidden, targets=targets)
        self.codes, self.neighbours = int(codes), bool(neighbours)
        self.hidden, self.targets = int(hidden), int(targets)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        self.scale = TokenScale(token_dim)
        self.register_buffer("book", torch.zeros(self.codes, token_dim))
        self.read = nn.Linear(dim, self.hidden)
        if self.neighbours:
            self.left = nn.Embedding(self.codes + 1, self.hidden)
            self.right = nn.Embedding(self.codes + 1, self.hidden)
        self.write = nn.Linear(self.hidden, self.codes)

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state)
        self.scale.learn(tokens)
        self.book.copy_(k_means(self.scale.to(tokens.device)(tokens), self.codes, random_state))

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        view = context.views[1]
        ids = nearest(self.scale(view.values), self.book)
        picked, lengths = draw_tokens(view.lengths, self.targets, context.generator)
        state = self.read(outputs[0]).index_select(0, segment_rows(lengths))
        if self.neighbours:
            before, after = beside(ids, view.lengths, self.codes)
            state = state + self.left(before[picked]) + self.right(after[picked])
        loss = cross_entropy(self.write(gelu(state)), ids[picked], reduction="none")
        return {"loss": mean_where(segment_mean(loss, lengths), lengths > 0)}
