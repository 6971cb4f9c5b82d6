"""Views: two label-free looks at each sequence, for objectives to compare.

Token vectors that were computed once on the whole sequence already carry its identity (context
leaks), and views that grow with the sequence tell its length. So the views here have one fixed
size where they can, lie apart, and there is `Reencoded`: crops of the *raw* sequences, encoded
anew, which is the honest cure for leaking context.

The rule for short sequences: one that has no room for two views of the size is left out of the
objectives (never out of the vectors), and counted. `fixed_size` picks the size so that nine in ten
have room.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from onevec.errors import InputError
from onevec.ragged import Ragged

_LARGEST = 16  # tokens of a view by default: small, or context gives the sequence away
_GAP = 4


def fixed_size(
    lengths: Int[np.ndarray, " seqs"], size: int | None = None, gap: int | None = None
) -> tuple[int, int]:
    """Tokens of a view and of the gap such that nine in ten sequences have room for two.

    What is given stays as it is.
    """
    room = int(np.quantile(lengths, 0.1))
    if gap is None:
        spare = (room - 2) // 3 if size is None else room - 2 * size
        gap = int(np.clip(spare, 0, _GAP))
    return size or int(np.clip((room - gap) // 2, 1, _LARGEST)), gap


@dataclass(frozen=True)
class Pair:
    """Two views of some sequences of a batch.

    Attributes
    ----------
    first, second : Ragged
        Row i of both is of one sequence; where views are ordered the first comes before.
    rows : Tensor of int64, shape (kept,)
        Which sequences of the batch have views; the others were too short.
    """

    first: Ragged
    second: Ragged
    rows: Int[Tensor, " kept"]


class Views(ABC):
    """Draws a pair of views of each sequence that is long enough.

    Parameters
    ----------
    size : int
        Tokens of a view.
    gap : int
        Tokens between views that lie apart.

    Attributes
    ----------
    ordered : bool
        Whether the first view lies before the second.
    """

    ordered: bool = False

    def __init__(self, size: int = _LARGEST, gap: int = _GAP):
        if size < 1 or gap < 0:
            raise InputError(
                f"got views of size={size} with gap={gap}: a view has at least 1 token, and a gap "
                "is not negative"
            )
        self.size, self.gap = int(size), int(gap)

    @property
    def least(self) -> int:
        """Tokens a sequence needs to have two views."""
        return 2 * self.size

    def __call__(
        self, tokens: Ragged, rows: Int[np.ndarray, " seqs"], generator: torch.Generator
    ) -> Pair:
        """Draw views of a batch; ``rows`` numbers its sequences in the whole data."""
        kept = torch.from_numpy(np.flatnonzero(self.usable(tokens.lengths.numpy(), rows)))
        part = tokens[kept] if len(kept) < len(tokens) else tokens
        return Pair(*self._draw(part, rows[kept.numpy()], generator), kept)

    def check(self, count: int, dim: int) -> None:  # noqa: B027 - most views suit any data
        """Raise `InputError` if the views are not of ``count`` sequences of ``dim`` dimensions."""

    def usable(
        self, lengths: Int[np.ndarray, " seqs"], rows: Int[np.ndarray, " seqs"]
    ) -> Bool[np.ndarray, " seqs"]:
        """Tell which sequences have room for two views."""
        return lengths >= self.least

    @abstractmethod
    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        """Draw from sequences that all have at least `least` tokens."""


def take_spans(tokens: Ragged, starts: Int[Tensor, " seqs"], sizes: Int[Tensor, " seqs"]) -> Ragged:
    """Cut the tokens from ``starts`` on out of each sequence, ``sizes`` of them."""
    begin = torch.repeat_interleave(tokens.offsets[:-1] + starts, sizes)
    within = torch.arange(len(begin)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return _take(tokens, begin + within, sizes)


def halves(tokens: Ragged) -> tuple[Ragged, Ragged]:
    """Cut each sequence into its first and second half.

    The middle token of an odd length is left out, so that both have the same length and length
    tells nothing.
    """
    half = tokens.lengths // 2
    first = take_spans(tokens, torch.zeros_like(half), half)
    return first, take_spans(tokens, tokens.lengths - half, half)


def _take(tokens: Ragged, places: Tensor, lengths: Tensor) -> Ragged:
    fields = {name: field[places] for name, field in tokens.fields.items()}
    return Ragged(tokens.values[places], lengths, fields)


def _below(limits: Int[Tensor, " seqs"], generator: torch.Generator) -> Int[Tensor, " seqs"]:
    """Draw a whole number from 0 to each limit, inclusive."""
    return (torch.rand(len(limits), generator=generator) * (limits + 1)).long().clamp(max=limits)


class Spans(Views):
    """Two spans of ``size`` tokens with at least ``gap`` tokens between, in their order.

    CoLES (Babaev et al. 2022) with disjoint slices of one size.
    """

    ordered = True

    @property
    def least(self) -> int:
        """Both spans and the gap."""
        return 2 * self.size + self.gap

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        sizes = torch.full_like(tokens.lengths, self.size)
        slack = tokens.lengths - self.least
        # Two sorted draws of the slack: the room before, between and after is shared evenly.
        ends = torch.stack([_below(slack, generator), _below(slack, generator)]).sort(0).values
        first = take_spans(tokens, ends[0], sizes)
        return first, take_spans(tokens, ends[1] + self.size + self.gap, sizes)


class Neighbours(Views):
    """Two windows of ``size`` tokens, the second right after the first."""

    ordered = True

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        sizes = torch.full_like(tokens.lengths, self.size)
        start = _below(tokens.lengths - self.least, generator)
        return take_spans(tokens, start, sizes), take_spans(tokens, start + self.size, sizes)


class Prefixes(Views):
    """A prefix of any length of at least one token, and the ``size`` tokens after it.

    For contrastive predictive coding (van den Oord et al. 2018).
    """

    ordered = True

    @property
    def least(self) -> int:
        """One token before the future."""
        return self.size + 1

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        length = 1 + _below(tokens.lengths - self.least, generator)
        zero = torch.zeros_like(length)
        future = take_spans(tokens, length, torch.full_like(length, self.size))
        return take_spans(tokens, zero, length), future


class Crops(Views):
    """Two spans of ``size`` tokens, drawn apart from each other: they may overlap."""

    @property
    def least(self) -> int:
        """One token more than a crop, or both are always the same."""
        return self.size + 1

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        sizes = torch.full_like(tokens.lengths, self.size)
        slack = tokens.lengths - self.size
        first, second = (take_spans(tokens, _below(slack, generator), sizes) for _ in range(2))
        return first, second


class Subsets(Views):
    """Two disjoint random subsets of ``size`` tokens, each in the order of the sequence."""

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        # Sorting random numbers within each sequence draws without replacement.
        draw = tokens.rows + torch.rand(len(tokens.values), generator=generator).double()
        order = draw.argsort()
        start = tokens.offsets[:-1, None]
        lengths = torch.full_like(tokens.lengths, self.size)
        first, second = (
            order[start + torch.arange(begin, begin + self.size)].sort(1).values.flatten()
            for begin in (0, self.size)
        )
        return _take(tokens, first, lengths), _take(tokens, second, lengths)


class Halves(Views):
    """The first and the second half; the middle token of an odd length is left out."""

    ordered = True

    @property
    def least(self) -> int:
        """A token in each half."""
        return 2

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        return halves(tokens)


class Dropout(Views):
    """The whole sequence twice, with other tokens left out and other entries zeroed.

    Gao et al. (2021), SimCSE, whose dropout masks are inside the encoder; a frozen encoder leaves
    the token vectors only. A fifth of the tokens goes (one at least stays), and a tenth of the
    entries of those that stay.
    """

    @property
    def least(self) -> int:
        """One token."""
        return 1

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        first, second = (self._corrupt(tokens, generator) for _ in range(2))
        return first, second

    def _corrupt(self, tokens: Ragged, generator: torch.Generator) -> Ragged:
        kept = torch.rand(len(tokens.values), generator=generator) >= 0.2
        kept[tokens.offsets[:-1] + _below(tokens.lengths - 1, generator)] = True
        lengths = torch.zeros_like(tokens.lengths).index_add_(0, tokens.rows, kept.long())
        part = _take(tokens, kept.nonzero().flatten(), lengths)
        entries = torch.rand(part.values.shape, generator=generator) >= 0.1
        return part.with_values(part.values * entries / 0.9)


class Reencoded(Views):
    """Crops of the raw sequences, encoded anew: no token saw what its crop does not hold.

    Encoded once, ``count`` crops of each sequence; a pair is two of them. They cost about
    ``count x share`` times the encoding of the data.

    Parameters
    ----------
    sequences : sequence
        The raw sequences, in the order of the token vectors: strings, or (n, dim) arrays.
    encode : callable
        From a list of raw sequences to a list of (n_i, dim) arrays.
    share : float
        Share of a sequence in a crop.
    count : int
        Crops of each sequence, at least 2; with ``ordered`` pairs of them, at least 1.
    ordered : bool
        A pair is a crop and the one that follows it, for objectives that ask what comes later
        (each encoded alone: a re-encoded prefix and its future). Else any two crops.
    least : int
        A raw sequence with fewer symbols (characters, or words where there are blanks) has none.
    random_state : int
        Seed of the crops.
    """

    def __init__(
        self,
        sequences: Sequence[Any],
        encode: Callable[[list[Any]], Sequence[Any]],
        *,
        share: float = 0.5,
        count: int = 4,
        ordered: bool = False,
        least: int = 4,
        random_state: int = 0,
    ):
        super().__init__(1, 0)
        if not 0 < share < 1 or count < (1 if ordered else 2) or least < 2:
            raise InputError(
                f"got Reencoded with share={share}, count={count}, least={least}: share lies "
                "between 0 and 1, least is at least 2, and so is count unless ordered"
            )
        self.ordered = ordered
        rng = np.random.default_rng(random_state)
        found, crops = [], []
        for row, sequence in enumerate(sequences):
            made = [crops_of(sequence, share, least, ordered, rng) for _ in range(count)]
            if made[0]:
                found.append(row)
                crops.extend(part for parts in made for part in parts)
        if not found:
            raise InputError(
                f"none of {len(sequences)} sequences has {least} symbols to crop: use other views"
            )
        self.count = len(crops) // len(found)
        self.places = np.full(len(sequences), -1)
        self.places[found] = np.arange(len(found))
        self.tokens = Ragged.from_list(list(encode(crops)))

    def check(self, count: int, dim: int) -> None:
        """Raise `InputError` unless there are crops of just these sequences."""
        if (len(self.places), self.tokens.dim) != (count, dim):
            raise InputError(
                f"got Reencoded views of {len(self.places)} sequences with {self.tokens.dim} "
                f"dimensions for {count} with {dim}: make them of the very sequences that are "
                "fitted (they cannot be split, as in cross-validation), with the same encoder"
            )

    def usable(
        self, lengths: Int[np.ndarray, " seqs"], rows: Int[np.ndarray, " seqs"]
    ) -> Bool[np.ndarray, " seqs"]:
        """Tell which sequences have crops."""
        return self.places[rows] >= 0

    def _draw(
        self, tokens: Ragged, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[Ragged, Ragged]:
        if self.ordered:
            first = 2 * torch.randint(self.count // 2, (len(rows), 1), generator=generator)
            picked = torch.cat([first, first + 1], dim=1)
        else:
            picked = torch.rand(len(rows), self.count, generator=generator).argsort(1)[:, :2]
        places = torch.from_numpy(self.places[rows])[:, None] * self.count + picked
        return self.tokens[places[:, 0]], self.tokens[places[:, 1]]


def crops_of(
    sequence: Any, share: float, least: int, follow: bool, rng: np.random.Generator
) -> list[Any]:
    """Cut a contiguous crop out of a raw sequence, words whole, or one and what follows it.

    Nothing where the sequence is too short.
    """
    words = isinstance(sequence, str) and len(sequence.split()) >= least
    parts = sequence.split() if words else sequence
    if len(parts) < least:
        return []
    size = max(1, min(round(share * len(parts)), len(parts) - 1))
    start = int(rng.integers(len(parts) - size + (not follow)))
    spans = [(start, start + size)]
    if follow:
        spans.append((start + size, min(start + 2 * size, len(parts))))
    cut = (parts[first:last] for first, last in spans)
    return [" ".join(part) if words else part for part in cut]


VIEWS: dict[str, type[Views]] = {
    "spans": Spans,
    "neighbours": Neighbours,
    "prefixes": Prefixes,
    "crops": Crops,
    "subsets": Subsets,
    "halves": Halves,
    "dropout": Dropout,
}
