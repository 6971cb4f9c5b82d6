"""Encoders of text and of other discrete sequences that have a tokenizer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from onevec.errors import InputError
from onevec.tokens.frozen import FrozenEncoder, Options, Piece, States, kept_states

_MANY_UNKNOWN = 0.01  # share of unknown tokens from which the user is told
_ABSURD = 10**7  # tokenizers without a limit say 10**30


class TextEncoder(FrozenEncoder):
    """Tokenises, frames with special tokens, cuts or windows, pads, and takes padding off again.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The encoder's own.
    limit : int or None
        Longest input of the model, special tokens included.
    accepts : set of str
        Names of the inputs that the model takes.
    options : Options
        See `onevec.encode`.
    hard_limit : bool
        Whether ``limit`` cannot be exceeded (positions beyond it do not exist).
    causal : bool
        Whether the model reads from left to right, so that a token in front knows nothing.
    """

    def __init__(
        self,
        tokenizer: Any,
        limit: int | None,
        accepts: set[str],
        options: Options,
        hard_limit: bool = False,
        *,
        causal: bool = False,
    ):
        self.tokenizer = tokenizer
        self.options = options
        asked = options.max_length
        if asked is not None and hard_limit and limit is not None and asked > limit:
            raise InputError(
                f"got max_length={asked} for {self.name}, which has positions for {limit} tokens: "
                'pass at most that, and long="window" to keep all of a sequence'
            )
        self.limit = asked if asked is not None else limit
        self.framing = int(tokenizer.num_special_tokens_to_add(pair=False))
        if self.limit is not None and self.limit <= self.framing:
            raise InputError(
                f"got max_length={self.limit}: special tokens alone take {self.framing}; raise it"
            )
        self._extra = [n for n in ("token_type_ids",) if n in accepts]
        self._masks = "attention_mask" in accepts
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._frame: tuple[int, int] | None = None
        cls = getattr(tokenizer, "cls_token_id", None)
        apart = cls is not None and not causal and not options.special_tokens
        self._has_cls = apart and tokenizer("")["input_ids"][:1] == [cls]
        self._unknown = getattr(tokenizer, "unk_token_id", None)
        self._tokens = self._unknown_tokens = self._nothing_known = self._lower_case = 0
        letters = [each for each in tokenizer.get_vocab() if len(each) == 1]
        self._capitals = any(map(str.isupper, letters)) and not any(map(str.islower, letters))

    def notes(self) -> list[str]:
        """Return what the user must know: what was cut, and tokens that are not in the vocabulary.

        A few unknown tokens are usual; a share of `_MANY_UNKNOWN`, or a sequence of nothing else,
        is not.
        """
        found, count = super().notes(), self._unknown_tokens
        if not self._nothing_known and count < max(1, _MANY_UNKNOWN * self._tokens):
            return found
        words = (
            f"{count:,} of {self._tokens:,} tokens ({100 * count / self._tokens:.1f} %) are not in "
            f"the vocabulary of {self.name} (unk_token), and {self._nothing_known:,} sequences "
            "consist of them alone: "
        )
        if self._lower_case:
            words += "they look lower-case and it knows capitals: pass upper=True (--upper)"
        else:
            words += "check that the sequences are of the kind that the encoder was trained on"
        return [*found, words]

    def _count_unknown(self, ids: np.ndarray, count: int, text: str) -> None:
        self._tokens += count
        unknown = int((ids == self._unknown).sum()) if self._unknown is not None else 0
        self._unknown_tokens += unknown
        self._nothing_known += unknown >= count
        self._lower_case += bool(unknown) and self._capitals and text.islower()

    @abstractmethod
    def hidden(
        self, features: dict[str, Int[Tensor, "seqs width"]], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "seqs width dim"]]:
        """Run the model on a padded batch."""

    def cut(self, sequences: list[Any], start: int) -> list[Piece]:
        """Tokenise a chunk; cut or window what is too long."""
        for row, sequence in enumerate(sequences):
            if not isinstance(sequence, str):
                raise InputError(
                    f"sequence {start + row} is a {type(sequence).__name__}: {self.name} reads "
                    "text; pass strings"
                )
        encoded = self.tokenizer(
            sequences,
            add_special_tokens=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            truncation=False,
            padding=False,
            verbose=False,
        )
        pieces: list[Piece] = []
        for row, ids in enumerate(encoded["input_ids"]):
            inputs = {
                name: np.asarray(encoded[name][row]) for name in self._extra if name in encoded
            }
            inputs["input_ids"] = np.asarray(ids, dtype=np.int64)
            count = len(ids) - self.framing
            if count <= 0:
                raise InputError(
                    f"sequence {start + row} is empty ({sequences[row][:20]!r} has no token): "
                    "every sequence needs at least one; drop the empty ones"
                )
            self._count_unknown(inputs["input_ids"], count, sequences[row])
            head = self._head(encoded["special_tokens_mask"][row])
            pieces.extend(self._windows(row, inputs, head, count))
        return pieces

    def _head(self, mask: list[int]) -> int:
        """Return how many special tokens stand in front."""
        if self._frame is None:
            marks = np.asarray(mask)
            content = np.flatnonzero(marks == 0)
            head = int(content[0]) if len(content) else self.framing
            tail = len(marks) - 1 - int(content[-1]) if len(content) else 0
            if head + tail != self.framing:  # a sequence that itself starts with a special token
                return min(head, self.framing)
            self._frame = (head, tail)
        return self._frame[0]

    def _windows(
        self, row: int, inputs: dict[str, np.ndarray], head: int, count: int
    ) -> list[Piece]:
        size = count if self.limit is None else self.limit - self.framing
        special = self.options.special_tokens
        windows = self.windows(count, size)
        pieces = []
        tail = self.framing - head
        for number, (start, stop, first, last) in enumerate(windows):
            framed = {
                name: np.concatenate(
                    [ids[:head], ids[head + start : head + stop], ids[head + count :]]
                )
                for name, ids in inputs.items()
            }
            # Positions in the window: `head` special tokens, the content, `tail` special tokens.
            a, b = head + first - start, head + last - start
            if special and number == 0:
                a = 0
            if special and number == len(windows) - 1:
                b += tail
            cls = 0 if self._has_cls and head else None
            pieces.append(Piece(row, framed, len(framed["input_ids"]), (a, b), cls=cls))
        return pieces

    def token_ids(self, piece: Piece) -> np.ndarray:
        """Return vocabulary entries of the kept tokens."""
        return piece.inputs["input_ids"][slice(*piece.keep)]

    def run(self, pieces: list[Piece], layers: Sequence[int]) -> list[dict[int, States]]:
        """Pad on the right, run, cut out what is kept."""
        width = max(piece.length for piece in pieces)
        features: dict[str, Tensor] = {}
        for name in pieces[0].inputs:
            fill = self._pad if name == "input_ids" else 0
            padded = np.full((len(pieces), width), fill, dtype=np.int64)
            for row, piece in enumerate(pieces):
                padded[row, : piece.length] = piece.inputs[name]
            features[name] = torch.from_numpy(padded)
        if self._masks:
            lengths = torch.tensor([piece.length for piece in pieces])
            features["attention_mask"] = (torch.arange(width) < lengths[:, None]).to(torch.int64)
        return kept_states(self.hidden(features, layers), pieces)


def sensible(limit: Any) -> int | None:
    """Return a tokenizer's limit, or None where it only says that it has none."""
    return int(limit) if isinstance(limit, int | float) and 0 < limit < _ABSURD else None
