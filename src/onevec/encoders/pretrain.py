"""A small masked language model from raw sequences, for those who have no encoder.

What comes out is an ordinary Hugging Face folder (ModernBERT: Warner et al. 2024; rotary
positions, so that a token vector does not carry where it stands) that `onevec.encode` and
`transformers.AutoModel` open.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from onevec.encoders.tokenizer import SPECIAL_TOKENS, train_tokenizer
from onevec.errors import InputError, MissingExtraError
from onevec.files import appears_whole, check_target
from onevec.tokens.huggingface import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MANIFEST = "pretrain.json"
_IGNORE = -100  # the label that transformers' cross entropy skips


@dataclass(frozen=True)
class Recipe:
    """The settings of one pretraining run; the defaults are the benchmark's recipe."""

    tokenizer: str = "auto"
    vocab_size: int = 4_096
    kmer: int = 3
    layers: int = 4
    dim: int = 128
    heads: int = 4
    context: int = 512
    mask: float = 0.15
    batch_tokens: int = 5_000
    steps: int | None = None
    learning_rate: float = 1e-3
    precision: str = "fp32"
    save_dtype: str = "float32"
    held_out: float = 0.05
    seed: int = 0
    threads: int | None = None

    def check(self) -> None:
        """Raise `InputError` for settings that cannot work."""
        rules = (
            (self.precision in ("fp32", "bf16"), "precision", "fp32 or bf16"),
            (self.save_dtype in ("float32", "float16"), "save_dtype", "float32 or float16"),
            (0 < self.mask < 1, "mask", "between 0 and 1"),
            (0 < self.held_out < 1, "held_out", "between 0 and 1"),
            (self.steps is None or self.steps > 0, "steps", "at least 1"),
            (self.layers > 0, "layers", "at least 1"),
            (self.context >= 8, "context", "at least 8"),
            (self.kmer > 0, "kmer", "at least 1"),
            (self.vocab_size >= 8, "vocab_size", "at least 8"),
            (self.threads is None or self.threads > 0, "threads", "at least 1"),
            (self.seed >= 0, "seed", "at least 0"),
            (self.heads > 0 and self.dim % (2 * self.heads) == 0, "dim", "a multiple of 2 x heads"),
            (self.batch_tokens >= self.context, "batch_tokens", "at least the context"),
        )
        for holds, name, rule in rules:
            if not holds:
                raise InputError(f"got {name}={getattr(self, name)!r}: it must be {rule}")


def pretrain(
    corpus: Sequence[str],
    out: str | Path,
    *,
    overwrite: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a masked language model (Devlin et al. 2019) on raw sequences.

    Parameters
    ----------
    corpus : sequence of str
        Raw sequences; empty ones are skipped and counted.
    out : path
        The Hugging Face folder to make. It appears whole or not at all.
    overwrite : bool
        Whether a folder that exists may be replaced.
    on_step : callable, optional
        Called as ``on_step(step, steps, loss)``.
    **settings
        Fields of `Recipe`, such as ``tokenizer="kmer"``, ``steps=500``, ``seed=1``. Without
        ``steps``: ten passes over the corpus, at least 3,000 and at most 8,000 steps.

    Returns
    -------
    dict
        The manifest, also written as ``pretrain.json``: settings, corpus fingerprint, versions,
        held-out masked accuracy and, beside it, that of always guessing the commonest token.

    Notes
    -----
    The same seed, machine and thread count give the same weights.
    """
    recipe = _recipe(settings)
    out = check_target(
        out, overwrite, what="encoder of pretrain", ours=lambda at: (at / MANIFEST).is_file()
    )
    texts, skipped = _texts(corpus)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    began = time.perf_counter()
    tokenizer = train_tokenizer(
        texts,
        recipe.tokenizer,
        vocab_size=recipe.vocab_size,
        kmer=recipe.kmer,
        context=recipe.context,
    )
    ids = [
        torch.tensor(row)
        for row in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ]
    order = torch.randperm(len(ids), generator=_generator(recipe.seed)).tolist()
    count = min(max(1, round(recipe.held_out * len(ids))), 500)
    held_out, train = [ids[i] for i in order[:count]], [ids[i] for i in order[count:]]
    model = _model(recipe, tokenizer)
    steps = recipe.steps or _default_steps(train, recipe)
    loss = _train(model, tokenizer, train, recipe=recipe, steps=steps, on_step=on_step)
    accuracy, unigram = masked_accuracy(model, tokenizer, held_out, recipe)
    manifest = {
        "kind": "masked language model",
        "settings": asdict(recipe),
        "sequences": len(train),
        "held_out_sequences": len(held_out),
        "skipped_empty": skipped,
        "tokens": int(sum(map(len, train))),
        "vocabulary": len(tokenizer),
        "corpus_sha256": corpus_fingerprint(texts),
        "steps": steps,
        "final_loss": round(loss, 4),
        "masked_accuracy": round(accuracy, 4),
        "unigram_accuracy": round(unigram, 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    _save(out, model, tokenizer, manifest, recipe)
    return manifest


def read_corpus(
    path: str | Path, *, column: str | None = None, where: str | None = None
) -> list[str]:
    """Read raw sequences from a file; exact duplicates are dropped.

    Parameters
    ----------
    path : path
        Any format that `onevec.encode` reads.
    column : str, optional
        Column of a table that holds the sequences.
    where : str, optional
        ``COLUMN=VALUE``: take these rows only.
    """
    from onevec.tokens.readers import open_source

    name, _, value = (where or "").partition("=")
    if where is not None and not (name and value):
        raise InputError(f"got where={where!r}: write COLUMN=VALUE, such as split=train")
    texts: dict[str, None] = {}
    for chunk in open_source(path, column=column).chunks:
        rows = list(chunk.sequences)
        if where is not None:
            if name not in chunk.metadata:
                raise InputError(
                    f"{path} has no column {name!r}: it has {', '.join(chunk.metadata) or 'none'}"
                )
            marks = chunk.metadata[name]
            marks = marks.to_pylist() if hasattr(marks, "to_pylist") else list(marks)
            rows = [row for row, mark in zip(rows, marks, strict=True) if str(mark) == value]
        if any(not isinstance(row, str) for row in rows):
            raise InputError(
                f"{path} holds {type(rows[0]).__name__}, not text: pretrain takes raw sequences"
            )
        texts.update(dict.fromkeys(rows))
    return list(texts)


def masked_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sequences: Sequence[Int[Tensor, " tokens"]],
    recipe: Recipe,
) -> tuple[float, float]:
    """Share of masked held-out tokens guessed rightly, by the model and by the commonest token.

    The commonest token is the commonest among the masked ones themselves, which favours the
    guess: a bar, not a straw man.
    """
    generator = _generator(recipe.seed + 1)
    right, targets = 0, []
    model.eval()
    with torch.inference_mode():
        for batch in _batches(sequences, recipe, generator):
            inputs, attention, labels = _mask(batch, tokenizer, recipe.mask, generator)
            logits = model(input_ids=inputs, attention_mask=attention).logits
            masked = labels != _IGNORE
            right += int((logits[masked].argmax(-1) == labels[masked]).sum())
            targets.append(labels[masked])
    target = torch.cat(targets)
    return right / len(target), int(target.bincount().max()) / len(target)


def _recipe(settings: dict[str, Any]) -> Recipe:
    unknown = sorted(set(settings) - set(Recipe.__dataclass_fields__))
    if unknown:
        known = ", ".join(Recipe.__dataclass_fields__)
        raise InputError(
            f"got setting {unknown[0]!r}, which pretrain does not know: it has {known}"
        )
    recipe = Recipe(**settings)
    recipe.check()
    return recipe


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


def _model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    try:
        from transformers import ModernBertConfig, ModernBertForMaskedLM
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.dim,
        "intermediate_size": 3 * recipe.dim,  # gated: as many weights as 4 x dim without a gate
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "max_position_embeddings": recipe.context,
        "global_attn_every_n_layers": 1,  # contexts are short: every layer sees all of it
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "attn_implementation": "sdpa",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return ModernBertForMaskedLM(ModernBertConfig(**settings))


def _default_steps(sequences: Sequence[Tensor], recipe: Recipe) -> int:
    ten_passes = math.ceil(10 * sum(map(len, sequences)) / recipe.batch_tokens)
    return min(max(3_000, ten_passes), 8_000)


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sequences: Sequence[Tensor],
    *,
    recipe: Recipe,
    steps: int,
    on_step: Callable[[int, int, float], None] | None,
) -> float:
    """Run the training loop; return the mean loss of the last fiftieth of it."""
    generator = _generator(recipe.seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    warmup = max(1, steps // 16)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    model.train()
    losses: list[float] = []
    batches = _endless(sequences, recipe, generator)
    for step in range(1, steps + 1):
        inputs, attention, labels = _mask(next(batches), tokenizer, recipe.mask, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = model(input_ids=inputs, attention_mask=attention, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if on_step:
            on_step(step, steps, losses[-1])
    tail = losses[-max(1, steps // 50) :]
    return sum(tail) / len(tail)


def _endless(
    sequences: Sequence[Tensor], recipe: Recipe, generator: torch.Generator
) -> Iterator[list[Tensor]]:
    while True:
        yield from _batches(sequences, recipe, generator)


def _batches(
    sequences: Sequence[Int[Tensor, " tokens"]], recipe: Recipe, generator: torch.Generator
) -> Iterator[list[Tensor]]:
    """One pass: windows of at most the context, cut anew each time, in batches of like length.

    Padding included, a batch has at most ``batch_tokens`` tokens.
    """
    longest = recipe.context - 2
    windows: list[Tensor] = []
    for row in torch.randperm(len(sequences), generator=generator).tolist():
        sequence = sequences[row]
        if len(sequence) <= longest:
            windows.append(sequence)
            continue
        first = int(torch.randint(longest, (1,), generator=generator))
        cuts = [0, *range(first, len(sequence), longest), len(sequence)]
        pieces = (sequence[a:b] for a, b in itertools.pairwise(cuts))
        windows.extend(piece for piece in pieces if len(piece))
    # Sorting within a stretch of the shuffled windows keeps padding low and the order random.
    stretch = 64 * max(1, recipe.batch_tokens // 64)
    batches: list[list[Tensor]] = []
    for start in range(0, len(windows), stretch):
        part = sorted(windows[start : start + stretch], key=len)
        batch: list[Tensor] = []
        for window in part:
            if batch and (len(batch) + 1) * (len(window) + 2) > recipe.batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(window)
        batches.append(batch)
    for place in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[place]


def _mask(
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
    labels = inputs.where(picked, torch.tensor(_IGNORE))
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


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corpus_fingerprint(texts: Sequence[str]) -> str:
    """SHA-256 of the sequences in their order: the manifest's ``corpus_sha256``."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    import tokenizers
    import transformers

    from onevec import __version__

    return {
        "onevec": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


def _save(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    manifest: dict[str, Any],
    recipe: Recipe,
) -> None:
    with quiet(), appears_whole(out) as part:
        model.to(getattr(torch, recipe.save_dtype)).save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
