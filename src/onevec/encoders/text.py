"""Discrete sequences: token ids, and a transformer with a language-modelling head."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onevec.encoders.batches import FlatTokens, TokenWriter, Window
from onevec.encoders.body import Body, Mask, Material, PaddedBatch, States, pad
from onevec.encoders.corpus import Corpus, sequences_of
from onevec.encoders.settings import Pretraining, backbone
from onevec.encoders.tokenizer import SPECIAL_TOKENS, load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
else:  # slow to import, or of an extra
    PreTrainedTokenizerFast = Any

_ENCODED_AT_ONCE = 1_000_000  # characters
_SPECIAL = len(SPECIAL_TOKENS)


class TextBody(Body):
    """ModernBERT (Warner et al. 2024), or with ``causal`` Llama's layers, with tied embeddings."""

    def __init__(self, settings: Pretraining, tokenizer: PreTrainedTokenizerFast, dropout: float):
        super().__init__()
        from transformers import LlamaForCausalLM, ModernBertForMaskedLM

        pad_id, start, end, self.mask_id = special_ids(tokenizer)
        ids = {
            "pad_token_id": pad_id,
            "bos_token_id": start,
            "eos_token_id": end,
            "cls_token_id": start,
            "sep_token_id": end,
        }
        self.dim, self.guesses, self.causal = settings.shape.dim, len(tokenizer), settings.causal
        made = LlamaForCausalLM if settings.causal else ModernBertForMaskedLM
        self.network: Any = made(
            backbone(settings.shape, self.guesses, ids, causal=settings.causal, dropout=dropout)  # type: ignore[arg-type]
        )

    @property
    def table(self) -> Float[Tensor, "vocabulary dim"]:
        """The embeddings."""
        return self.network.get_input_embeddings().weight

    def embed(self, inputs: Tensor, hidden: Mask | None = None) -> States:
        """Look ids up; hidden ones are [MASK]."""
        if hidden is not None:
            inputs = inputs.masked_fill(hidden, self.mask_id)
        return self.network.get_input_embeddings()(inputs)

    def run(self, embedded: States, attention: Mask) -> States:
        """Return the last states."""
        found = self.network.model(inputs_embeds=embedded, attention_mask=attention)
        return found.last_hidden_state

    def guess(self, states: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens guesses"]:
        """Return logits of the vocabulary."""
        if self.causal:
            return self.network.lm_head(states)
        return self.network.decoder(self.network.head(states))


class Text(Material):
    """A corpus of text as token ids."""

    kind = "text"
    framing = 2

    def __init__(
        self, corpus: Corpus, settings: Pretraining, dropout: float, tokenizer: str | None = None
    ):
        if tokenizer is not None:  # a run that goes on
            self.tokenizer = load_tokenizer(tokenizer, settings.shape.context)
        else:
            self.tokenizer = train_tokenizer(
                lambda: sequences_of(corpus.train),
                settings.tokenizer,
                vocab_size=settings.vocab_size,
                kmer=settings.kmer,
                context=settings.shape.context,
            )
        self.train = self._encode(corpus, "train")
        self.held_out = self._encode(corpus, "held_out")
        self.about = {"vocabulary": len(self.tokenizer)}
        self._ids = special_ids(self.tokenizer)
        self.body = body = TextBody(settings, self.tokenizer, dropout)
        self._network = body.network

    def _encode(self, corpus: Corpus, part: str) -> FlatTokens:
        dataset = getattr(corpus, part)
        writer = TokenWriter(corpus.folder / f"{part}.ids", np.int32)
        for texts in _in_groups(sequences_of(dataset)):
            found = self.tokenizer.backend_tokenizer.encode_batch_fast(
                texts, add_special_tokens=False
            )
            for each in found:
                writer.append(np.array(each.ids, dtype=np.int32))
        return writer.close(dataset["row"][:])

    def collate(self, windows: Sequence[Window]) -> PaddedBatch:
        """Put each window between [CLS] and [SEP], and pad."""
        first, start, end, _ = self._ids
        edges = torch.tensor([start]), torch.tensor([end])
        framed = [torch.cat([edges[0], ids.long(), edges[1]]) for _, ids in windows]
        inputs = pad(framed, first)
        lengths = torch.tensor([len(row) for row in framed])[:, None]
        place = torch.arange(inputs.shape[1])
        return PaddedBatch(
            inputs=inputs,
            attention=place < lengths,
            content=(place > 0) & (place < lengths - 1),
            targets=inputs,
            rows=torch.tensor([row for row, _ in windows]),
        )

    def pick(
        self, content: Mask, rate: float, generator: torch.Generator
    ) -> tuple[Mask, Float[Tensor, "seqs width"]]:
        """Pick tokens one by one."""
        picked = content & (torch.rand(content.shape, generator=generator) < rate)
        if not bool(picked.any()):  # a tiny batch may draw none, and a mean over none is NaN
            row, place = content.nonzero()[0].tolist()
            picked[row, place] = True
        return picked, torch.rand(content.shape, generator=generator)

    def noise(self, batch: PaddedBatch, generator: torch.Generator) -> Tensor:
        """Draw from the vocabulary, special tokens left out."""
        size = len(self.tokenizer)
        shape = batch.inputs.shape
        drawn = torch.randint(_SPECIAL, max(size, _SPECIAL + 1), shape, generator=generator)
        return drawn.clamp(max=size - 1)

    def save(self, folder: Path, dtype: torch.dtype, head: bool) -> None:
        """Write model and tokenizer."""
        network = self._network if head else self._network.model
        network.to(dtype).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def special_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int, int, int]:
    """Return the numbers of [PAD], [CLS], [SEP] and [MASK]."""
    names = ("pad_token", "cls_token", "sep_token", "mask_token")
    vocabulary = tokenizer.get_vocab()
    padding, start, end, mask = (vocabulary[SPECIAL_TOKENS[name]] for name in names)
    return padding, start, end, mask


def corpus_fingerprint(texts: Iterable[str]) -> str:
    """SHA-256 of the sequences in their order: the manifest's ``corpus_sha256``."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _in_groups(texts: Iterator[str]) -> Iterator[list[str]]:
    group, size = [], 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= _ENCODED_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group
