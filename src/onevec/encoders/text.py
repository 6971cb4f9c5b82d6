"""Masked language modelling: what of pretraining depends on sequences being discrete."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from onevec.encoders.settings import IGNORE, Recipe, backbone
from onevec.encoders.tokenizer import SPECIAL_TOKENS, train_tokenizer
from onevec.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class MaskedText:
    """Token ids, a ModernBERT with a language-modelling head, and the masking between them."""

    kind = "masked language model"
    framing = 2  # special tokens around a window

    def __init__(self, corpus: Sequence[Any], recipe: Recipe):
        texts, self.skipped = _texts(corpus)
        self.recipe = recipe
        self.tokenizer = train_tokenizer(
            texts,
            recipe.tokenizer,
            vocab_size=recipe.vocab_size,
            kmer=recipe.kmer,
            context=recipe.context,
        )
        rows = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        self.sequences = [torch.tensor(row) for row in rows]
        self.fingerprint = corpus_fingerprint(texts)
        self.about = {"vocabulary": len(self.tokenizer)}
        self.model = _model(recipe, self.tokenizer)

    def mask(
        self, batch: Sequence[Int[Tensor, " tokens"]], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Frame, pad and mask a batch; ``labels`` is `IGNORE` where nothing is asked."""
        inputs, attention, labels = mask_tokens(batch, self.tokenizer, self.recipe.mask, generator)
        return {"input_ids": inputs, "attention_mask": attention, "labels": labels}

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write model and tokenizer."""
        torch.nn.Module.to(self.model, dtype)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def mask_tokens(
    batch: Sequence[Int[Tensor, " tokens"]],
    tokenizer: PreTrainedTokenizerFast,
    rate: float,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "seqs width"], Bool[Tensor, "seqs width"], Int[Tensor, "seqs width"]]:
    """Frame, pad and mask: of the picked tokens 80 % [MASK], 10 % random, 10 % as they are."""
    pad, start, end, mask_token = _special_ids(tokenizer)
    first, last = torch.tensor([start]), torch.tensor([end])
    framed = [torch.cat([first, sequence, last]) for sequence in batch]
    inputs = torch.nn.utils.rnn.pad_sequence(framed, batch_first=True, padding_value=pad)
    attention = torch.zeros(inputs.shape, dtype=torch.bool)
    open_to_mask = torch.zeros(inputs.shape, dtype=torch.bool)
    for row, sequence in enumerate(framed):
        attention[row, : len(sequence)] = True
        open_to_mask[row, 1 : len(sequence) - 1] = True
    picked = open_to_mask & (torch.rand(inputs.shape, generator=generator) < rate)
    if not bool(picked.any()):  # a tiny batch may draw none, and a mean over none is NaN
        picked[0, 1] = True
    labels = inputs.where(picked, torch.tensor(IGNORE))
    fate = torch.rand(inputs.shape, generator=generator)
    inputs = inputs.masked_fill(picked & (fate < 0.8), mask_token)
    noise = torch.randint(5, max(len(tokenizer), 6), inputs.shape, generator=generator)
    noise = noise.clamp(max=len(tokenizer) - 1)  # 0 to 4 are the special tokens
    return inputs.where(~(picked & (fate >= 0.9)), noise), attention, labels


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int, int, int]:
    """Return the numbers of [PAD], [CLS], [SEP] and [MASK]."""
    names = ("pad_token", "cls_token", "sep_token", "mask_token")
    vocabulary = tokenizer.get_vocab()
    pad, start, end, mask = (vocabulary[SPECIAL_TOKENS[name]] for name in names)
    return pad, start, end, mask


def corpus_fingerprint(texts: Sequence[str]) -> str:
    """SHA-256 of the sequences in their order: the manifest's ``corpus_sha256``."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    try:
        from transformers import ModernBertForMaskedLM
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return ModernBertForMaskedLM(backbone(recipe, len(tokenizer), ids))


def _texts(corpus: Sequence[str]) -> tuple[list[str], int]:
    if isinstance(corpus, str):
        raise InputError("got one string as corpus: pass a list of sequences")
    rows = list(corpus)
    for row, text in enumerate(rows):
        if not isinstance(text, str):
            raise InputError(
                f"sequence {row} of the corpus is a {type(text).__name__}: pretrain takes text; "
                "for ready token vectors no encoder is needed, call OneVec().fit(arrays)"
            )
    texts = [text for text in rows if text.strip()]
    if len(texts) < 2:
        raise InputError(
            f"got {len(texts)} sequences that are not empty: pretraining needs at least 2, "
            "and some thousand to be of use"
        )
    return texts, len(rows) - len(texts)
