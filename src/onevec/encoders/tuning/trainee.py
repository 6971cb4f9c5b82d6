"""An encoder in training: raw sequences in, token vectors with a gradient out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from onevec.encoders.frames import draw_spans, frames_fingerprint
from onevec.encoders.text import corpus_fingerprint
from onevec.errors import InputError
from onevec.ragged import Ragged
from onevec.tokens.adapters import (
    SentenceTransformerEncoder,
    _load_sentence_transformer,
    kind_of,
    open_encoder,
)
from onevec.tokens.frames import FRAMES, FrameEncoder
from onevec.tokens.frozen import Options
from onevec.tokens.huggingface import HuggingFaceText, quiet

_LEAST = 2  # sequences
_POOLINGS = {"mean": "mean", "cls": "first", "max": "max", "lasttoken": "last"}


class Trainee(nn.Module, ABC):
    """An encoder whose weights change.

    Raw sequences are a `Ragged` of token numbers (one column) or of frames.

    Attributes
    ----------
    backbone : nn.Module
        The transformers model.
    name, fingerprint : str
        Where it came from, and the hash of its weights then.
    limit : int or None
        Most tokens of a sequence, special ones not counted.
    pooling : str
        What makes its vector: an entry of `POOLERS`.
    specials : bool
        Whether special tokens are pooled too.
    raw : Ragged
        The corpus.
    skipped : int
        Empty sequences that were left out.
    masked_model : sequence
        The model whose masked-modelling head is trained and saved, if there is one.
    corpus_sha256 : str
        Fingerprint of the corpus.
    """

    backbone: nn.Module
    name: str
    fingerprint: str
    limit: int | None
    raw: Ragged
    corpus_sha256: str
    pooling: str = "mean"
    specials: bool = False
    skipped: int = 0
    masked_model: Sequence[Any] = ()

    @abstractmethod
    def forward(self, raw: Ragged) -> Ragged:
        """Encode one batch; it is padded to its longest sequence."""

    @abstractmethod
    def embed(self, raw: Ragged) -> Float[Tensor, "tokens width"]:
        """Return what the backbone reads of each raw token, before any context."""

    @contextmanager
    def one_lookup(self, *raw: Ragged) -> Iterator[None]:
        """Let the passes within, which read no other tokens, share one gradient of what they read.

        A table of token embeddings would make a gradient of its own size in every pass.
        """
        yield

    @abstractmethod
    def hide(self, raw: Ragged, rate: float, generator: torch.Generator) -> tuple[Ragged, Tensor]:
        """Hide tokens (80 % blank, 10 % others, 10 % as they are); also return which, as a mask."""

    @abstractmethod
    def guesser(self, width: int) -> nn.Module:
        """Make a map ``(states, raw) -> loss`` per token, from states to the raw tokens."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder of the kind it was opened from."""


class TextTrainee(Trainee):
    """Token numbers through a Hugging Face or sentence-transformers encoder."""

    head: Tensor
    tail: Tensor
    used: Tensor

    def __init__(self, opened: HuggingFaceText | SentenceTransformerEncoder, whole: Any):
        super().__init__()
        self.name, self.fingerprint = opened.name, str(opened.fingerprint)
        self.tokenizer = opened.tokenizer
        bare = isinstance(opened, HuggingFaceText)
        self.backbone = opened._auto.model if bare else opened._model
        # In lists, or their parameters would be taken for this module's: a SentenceTransformer
        # whose further modules are saved too, and a model whose masked-modelling head is trained.
        self.sentence_transformer: list[Any] = [] if whole is None else [whole]
        self.masked_model = []
        self._masks = "attention_mask" in inspect.signature(self.backbone.forward).parameters
        self.limit = None if opened.limit is None else opened.limit - opened.framing
        self._pad = opened._pad
        if whole is not None:
            self.pooling, self.specials = _pooling_of(whole), True

    def read(self, texts: Sequence[str]) -> None:
        """Tokenise the corpus, once."""
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"sequence {row} of the corpus is a {type(text).__name__}, the first is text: "
                    "pass strings only"
                )
        given = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        rows = [torch.tensor(ids) for ids in given if len(ids)]
        self.skipped = len(given) - len(rows)
        if len(rows) < _LEAST:
            raise InputError(
                f"got {len(rows)} sequences that hold a token: fine-tuning needs hundreds"
            )
        self.corpus_sha256 = corpus_fingerprint(texts)
        ids = torch.cat(rows)
        self.raw = Ragged(ids[:, None].float(), torch.tensor([len(row) for row in rows]))
        self.register_buffer("used", ids.unique(), persistent=False)
        kept = next(text for text, ids in zip(texts, given, strict=True) if len(ids))
        framed = self.tokenizer(kept, return_special_tokens_mask=True, verbose=False)
        content = (torch.tensor(framed["special_tokens_mask"]) == 0).nonzero().flatten()
        ids = torch.tensor(framed["input_ids"])
        self.register_buffer("head", ids[: int(content[0])], persistent=False)
        self.register_buffer("tail", ids[int(content[-1]) + 1 :], persistent=False)

    def forward(self, raw: Ragged) -> Ragged:
        """Put special tokens around, pad, run, and take off what is not pooled."""
        ids, place, lengths = self._framed(raw)
        attention = place < lengths
        features = {"input_ids": ids}
        if self._masks:
            features["attention_mask"] = attention.long()
        states = self.backbone(**features).last_hidden_state
        if self.specials:
            return Ragged(states[attention], lengths.flatten().cpu())
        before = len(self.head)
        kept = (place >= before) & (place < lengths - len(self.tail))
        content = raw.values[:, 0].long()
        return Ragged(states[kept], raw.lengths, {"ids": content.to(ids.device)})

    def _framed(self, raw: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """Padded token numbers, the place of each column, and the framed lengths as a column."""
        device = self.head.device
        before, after = len(self.head), len(self.tail)
        lengths = (raw.lengths + before + after)[:, None]
        width = int(lengths.max())
        place = torch.arange(width)[None]
        ids = torch.full((len(raw), width), self._pad)
        ids[:, :before] = self.head.cpu()
        inside = (place >= before) & (place < lengths - after)
        ids[inside] = raw.values[:, 0].long()
        ends = torch.arange(after)
        ids[torch.arange(len(raw))[:, None], lengths - after + ends] = self.tail.cpu()
        return ids.to(device), place.to(device), lengths.to(device)

    @property
    def embedding(self) -> nn.Embedding:
        """The table of token embeddings."""
        return self.backbone.get_input_embeddings()  # type: ignore[operator]

    @contextmanager
    def one_lookup(self, *raw: Ragged) -> Iterator[None]:
        """Look up in a small table of the tokens that occur; its gradient is added at the end."""
        layer, weight = self.embedding, self.embedding.weight
        plain = type(layer) is nn.Embedding and layer.max_norm is None
        if not (plain and weight.requires_grad):
            yield
            return
        read = [each.values[:, 0].long() for each in raw]
        framing = self.head.cpu(), self.tail.cpu(), torch.tensor([self._pad])
        ids = torch.cat([*read, *framing]).unique().to(weight.device)
        place = torch.full((len(weight),), -1, device=weight.device)  # any other id is an error
        place[ids] = torch.arange(len(ids), device=weight.device)
        table = weight.detach()[ids].requires_grad_()
        layer.forward = lambda input: nn.functional.embedding(place[input], table)
        try:
            yield
        finally:
            del layer.forward
        if table.grad is not None:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.index_add_(0, ids, table.grad)

    def embed(self, raw: Ragged) -> Float[Tensor, "tokens width"]:
        """Look the token embeddings up."""
        return self.embedding(raw.values[:, 0].long().to(self.head.device))

    def hide(self, raw: Ragged, rate: float, generator: torch.Generator) -> tuple[Ragged, Tensor]:
        """Devlin et al. (2019): [MASK], another token of the corpus, or the token itself."""
        blank = self.tokenizer.mask_token_id
        if blank is None:
            raise InputError(
                f"the tokenizer of {self.name} has no mask token, which the objective 'masked' "
                "needs: choose another, such as denoising"
            )
        picked = torch.rand(len(raw.values), generator=generator) < rate
        if not bool(picked.any()):  # a mean over none is NaN
            picked[0] = True
        fate = torch.rand(len(picked), generator=generator)
        other = self.used.cpu()[
            torch.randint(len(self.used), (len(picked),), generator=generator)
        ].float()
        values = raw.values[:, 0].masked_fill(picked & (fate < 0.8), float(blank))
        values = torch.where(picked & (fate >= 0.9), other, values)
        return raw.with_values(values[:, None]), picked

    def guesser(self, width: int) -> nn.Module:
        """Tie to the token embeddings, of the tokens that the corpus has."""
        return _TokenGuess(self, width)

    def save(self, folder: Path) -> None:
        """Write the model, its tokenizer, and a sentence-transformers folder's further modules."""
        for whole in self.sentence_transformer:
            whole.save_pretrained(str(folder), create_model_card=False)
            return
        for model in self.masked_model:
            setattr(model, model.base_model_prefix, self.backbone)
        saved: Any = (*self.masked_model, self.backbone)[0]
        saved.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class _TokenGuess(nn.Module):
    """Cross entropy of a softmax over the tokens of the corpus, tied to their embeddings."""

    def __init__(self, trainee: TextTrainee, width: int):
        super().__init__()
        self._of = [trainee]  # in a list: its parameters are not this module's
        inner = trainee.embedding.embedding_dim
        self.project = nn.Identity() if width == inner else nn.Linear(width, inner)
        self.bias = nn.Parameter(torch.zeros(len(trainee.used)))

    def forward(self, states: Tensor, raw: Float[Tensor, "tokens one"]) -> Tensor:
        (trainee,) = self._of
        known = trainee.embedding.weight.index_select(0, trainee.used)
        logits = nn.functional.linear(self.project(states), known, self.bias.to(known.dtype))
        target = torch.searchsorted(trainee.used, raw[:, 0].long().to(known.device))
        return nn.functional.cross_entropy(logits.float(), target, reduction="none")


class FrameTrainee(Trainee):
    """Dense frames through an encoder that `onevec pretrain` made."""

    def __init__(self, opened: FrameEncoder):
        super().__init__()
        self.name, self.fingerprint = opened.name, str(opened.fingerprint)
        self.backbone, self.input, self.limit = opened._auto.model, opened.input, opened.limit

    def read(self, frames: Sequence[Any]) -> None:
        """Check the corpus."""
        kept = [each for each in frames if len(each)]
        self.skipped = len(frames) - len(kept)
        if len(kept) < _LEAST:
            raise InputError(
                f"got {len(kept)} sequences that hold a frame: fine-tuning needs hundreds"
            )
        self.raw = Ragged.from_list(kept)
        self.raw = self.raw.with_values(self.raw.values.float())
        if self.raw.dim != len(self.input.shift):
            raise InputError(
                f"got frames of {self.raw.dim} dimensions for {self.name}, which reads "
                f"{len(self.input.shift)}: pass those it was made for"
            )
        self.corpus_sha256 = frames_fingerprint(self.raw)

    def forward(self, raw: Ragged) -> Ragged:
        """Pad on the right, run, take the padding off."""
        frames = nn.utils.rnn.pad_sequence(list(raw), batch_first=True)
        attention: Bool[Tensor, "seqs width"] = torch.arange(frames.shape[1]) < raw.lengths[:, None]
        attention = attention.to(self.input.shift.device)
        embedded = self.input(frames.to(attention.device))
        output = self.backbone(inputs_embeds=embedded, attention_mask=attention.long())
        return Ragged(output.last_hidden_state[attention], raw.lengths)

    def embed(self, raw: Ragged) -> Float[Tensor, "tokens width"]:
        """Standardise and map the frames."""
        return self.input(raw.values.to(self.input.shift.device))

    def hide(self, raw: Ragged, rate: float, generator: torch.Generator) -> tuple[Ragged, Tensor]:
        """Hide spans, as `onevec pretrain` does: the mean frame, other frames, or as they are."""
        attention = torch.arange(int(raw.lengths.max())) < raw.lengths[:, None]
        spans, fates = draw_spans(attention, rate, generator)
        picked, fate = spans[attention], fates[attention]
        other: Int[Tensor, " tokens"] = torch.randint(
            len(picked), (len(picked),), generator=generator
        )
        values = torch.where((picked & (fate >= 0.9))[:, None], raw.values[other], raw.values)
        blank = self.input.shift.cpu()
        values = torch.where((picked & (fate < 0.8))[:, None], blank, values)
        return raw.with_values(values), picked

    def guesser(self, width: int) -> nn.Module:
        """Guess the standardised frame."""
        return _FrameGuess(self.input, width)

    def save(self, folder: Path) -> None:
        """Write the backbone as a Hugging Face folder, and how frames enter it beside it."""
        from safetensors.torch import save_file

        self.backbone.save_pretrained(folder)  # type: ignore[operator]
        state = {name: value.cpu() for name, value in self.input.state_dict().items()}
        save_file(state, folder / FRAMES)


class _FrameGuess(nn.Module):
    """Mean squared error against the standardised frame."""

    def __init__(self, entry: Any, width: int):
        super().__init__()
        self._entry = [entry]
        self.linear = nn.Linear(width, len(entry.shift))

    def forward(self, states: Tensor, raw: Float[Tensor, "tokens dim"]) -> Tensor:
        (entry,) = self._entry
        wanted = entry.standardise(raw.to(states.device))
        return (self.linear(states).float() - wanted).square().mean(1)


def open_trainee(model: str | Path, corpus: Sequence[Any], seed: int) -> Trainee:
    """Open an encoder for training and read the corpus with it.

    Raises
    ------
    InputError
        If there is no such encoder, it cannot be trained, or it does not read this corpus.
    """
    if isinstance(corpus, str | Path):
        raise InputError("got one string as corpus: pass a list of sequences")
    rows = list(corpus)
    if len(rows) < _LEAST:
        raise InputError(f"got {len(rows)} sequences: fine-tuning needs hundreds")
    kind = kind_of(rows)
    if kind not in ("text", "tokens"):
        raise InputError(
            f"cannot fine-tune on {kind} sequences: pass text, or (n, dim) frames with an encoder "
            "that onevec pretrain made"
        )
    name = str(model)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)  # of weights that the file lacks, such as an unused pooler
        if (Path(name) / "modules.json").is_file() and kind == "text":
            whole = _load_sentence_transformer(Path(name))
            opened = SentenceTransformerEncoder(whole, name, Options())
        else:
            whole, opened = None, open_encoder(name, kind, Options())
    if isinstance(opened, FrameEncoder):
        trainee: Any = FrameTrainee(opened)
    elif isinstance(opened, HuggingFaceText | SentenceTransformerEncoder):
        trainee = TextTrainee(opened, whole)
    else:
        raise InputError(
            f"cannot fine-tune {name}, a {type(opened).__name__}: pass a folder or hub name of a "
            "Hugging Face or sentence-transformers text encoder, or of onevec pretrain"
        )
    trainee.read(rows)
    return trainee


def _pooling_of(whole: Any) -> str:
    """Which pooler a sentence-transformers model ends in; the mean where it is another."""
    for module in whole:
        if type(module).__name__ == "Pooling":
            mode = getattr(module, "pooling_mode", None)
            mode = mode if isinstance(mode, str) else None
            return _POOLINGS.get(mode or "", "mean")
    return "mean"
