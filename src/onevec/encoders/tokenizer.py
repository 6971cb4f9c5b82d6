"""Vocabularies for raw discrete sequences, built with the `tokenizers` library.

Each builder returns a `transformers.PreTrainedTokenizerFast`, so that what is saved is an
ordinary Hugging Face tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from onevec.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
else:  # slow to import, or of an extra
    PreTrainedTokenizerFast = Any

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
TOKENIZERS = ("auto", "character", "whitespace", "kmer", "bpe", "unigram")
_MOST_CHARACTERS = 128  # more distinct characters than this is free text, not an alphabet
_MOST_WORDS = 5_000
_SAMPLE = 2_000  # sequences from which the kind is guessed
_PIECE = 27_720  # characters that a trainer sees at once; k-mers of up to 12 fit without a rest


def choose_tokenizer(sequences: Sequence[str]) -> str:
    """Guess the kind of vocabulary from the corpus.

    Items parted by blanks that keep coming back (log events, system calls, moves) are words; a
    small alphabet without blanks (proteins, RNA, SMILES) is characters; anything else is text
    and gets byte-pair encoding.
    """
    sample = [sequence[:_PIECE] for sequence in sequences[:_SAMPLE]]
    words = [word for sequence in sample for word in sequence.split()]
    distinct = len(set(words))
    characters = len(set("".join(sample)))
    if len(words) < 2 * len(sample) and characters <= _MOST_CHARACTERS:
        return "character"
    if distinct <= _MOST_WORDS and distinct * 20 <= len(words):
        return "whitespace"
    return "bpe"


def train_tokenizer(
    sequences: Sequence[str] | Callable[[], Iterable[str]],
    kind: str = "auto",
    *,
    vocab_size: int = 4_096,
    kmer: int = 3,
    context: int = 512,
) -> PreTrainedTokenizerFast:
    """Build the vocabulary of a corpus.

    Parameters
    ----------
    sequences : sequence of str, or callable
        The corpus, or what returns an iterator over it.
    kind : {"auto", "character", "whitespace", "kmer", "bpe", "unigram"}
        ``kmer`` cuts into k-mers that do not overlap (overlapping ones would let a masked model
        copy its neighbours); ``bpe`` is byte-pair encoding (Sennrich et al. 2016) on bytes;
        ``unigram`` is the unigram language model (Kudo 2018).
    vocab_size : int
        At most this many entries, special tokens included. The most frequent are kept.
    kmer : int
        Length of a k-mer.
    context : int
        Longest input of the model, special tokens included.
    """
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
        from tokenizers.processors import TemplateProcessing
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error

    if kind not in TOKENIZERS:
        raise InputError(f"got tokenizer {kind!r}: choose one of {', '.join(TOKENIZERS)}")
    read = sequences if callable(sequences) else lambda: sequences
    if kind == "auto":
        kind = choose_tokenizer(list(islice(read(), _SAMPLE)))
    special = list(SPECIAL_TOKENS.values())
    options = {"vocab_size": vocab_size, "special_tokens": special, "show_progress": False}
    unknown = SPECIAL_TOKENS["unk_token"]
    if kind in ("character", "whitespace", "kmer"):
        tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
        if kind == "whitespace":
            tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        else:
            width = 1 if kind == "character" else kmer
            pattern = Regex(rf"[\s\S]{{1,{width}}}")
            tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
            tokenizer.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(**options)
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=unknown, **options)
    tokenizer.train_from_iterator(_pieces(read()), trainer)
    first, last = SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    return _wrapped(tokenizer, context)


def load_tokenizer(text: str, context: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer of `train_tokenizer` from its own JSON."""
    from tokenizers import Tokenizer

    return _wrapped(Tokenizer.from_str(text), context)


def _wrapped(tokenizer: Any, context: int) -> PreTrainedTokenizerFast:
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )


def _pieces(sequences: Iterable[str]) -> Iterator[str]:
    """Cut long sequences: a trainer's time grows faster than the length of a word."""
    for sequence in sequences:
        for first in range(0, len(sequence), _PIECE):
            yield sequence[first : first + _PIECE]
