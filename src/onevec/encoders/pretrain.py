"""A small masked model from raw sequences, for those who have no encoder.

What comes out is an ordinary Hugging Face folder (ModernBERT: Warner et al. 2024; rotary
positions, so that a token vector does not carry where it stands) that `onevec.encode` and, for
text, `transformers.AutoModel` open.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onevec.encoders.frames import MaskedFrames
from onevec.encoders.settings import IGNORE, Recipe
from onevec.encoders.text import MaskedText
from onevec.errors import InputError
from onevec.files import appears_whole, check_target
from onevec.tokens.huggingface import quiet

MANIFEST = "pretrain.json"
Material = MaskedText | MaskedFrames


def pretrain(
    corpus: Sequence[Any],
    out: str | Path,
    *,
    overwrite: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a masked language model (Devlin et al. 2019), or a masked frame model, on sequences.

    Parameters
    ----------
    corpus : sequence of str, or of (n_i, dim) arrays
        Raw text-like sequences (empty ones are skipped and counted), or dense frames: audio, pen
        strokes, time series. Of hidden frames the model guesses the k-means cluster.
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
        held-out masked accuracy and, beside it, that of always guessing the commonest token
        (or cluster).

    Notes
    -----
    The same seed, machine and thread count give the same weights.
    """
    recipe = _recipe(settings)
    out = check_target(
        out, overwrite, what="encoder of pretrain", ours=lambda at: (at / MANIFEST).is_file()
    )
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    began = time.perf_counter()
    material = _material(corpus, recipe)
    sequences = material.sequences
    order = torch.randperm(len(sequences), generator=_generator(recipe.seed)).tolist()
    count = min(max(1, round(recipe.held_out * len(sequences))), 500)
    held_out, train = [sequences[i] for i in order[:count]], [sequences[i] for i in order[count:]]
    steps = recipe.steps or _default_steps(train, recipe)
    loss = _train(material, train, recipe=recipe, steps=steps, on_step=on_step)
    accuracy, unigram = masked_accuracy(material, held_out, recipe)
    manifest = {
        "kind": material.kind,
        "settings": asdict(recipe),
        "sequences": len(train),
        "held_out_sequences": len(held_out),
        "skipped_empty": material.skipped,
        "tokens": int(sum(map(len, train))),
        **material.about,
        "corpus_sha256": material.fingerprint,
        "steps": steps,
        "final_loss": round(loss, 4),
        "masked_accuracy": round(accuracy, 4),
        "unigram_accuracy": round(unigram, 4),
        "parameters": sum(p.numel() for p in material.model.parameters()),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    with quiet(), appears_whole(out) as part:
        material.save(part, getattr(torch, recipe.save_dtype))
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _material(corpus: Sequence[Any], recipe: Recipe) -> Material:
    """Text or frames, by what the first sequence is."""
    if isinstance(corpus, str):
        raise InputError("got one string as corpus: pass a list of sequences")
    rows = list(corpus)
    dense = bool(rows) and len(getattr(rows[0], "shape", ())) == 2
    return MaskedFrames(rows, recipe) if dense else MaskedText(rows, recipe)


def read_corpus(
    path: str | Path, *, column: str | None = None, where: str | None = None
) -> list[Any]:
    """Read raw sequences, or dense frames, from a file; exact duplicates are dropped.

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
    found: dict[Any, Any] = {}
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
        found.update((_key(row), row) for row in rows)
    return list(found.values())


def _key(row: Any) -> Any:
    """What makes two sequences exact duplicates."""
    if isinstance(row, str):
        return row
    array = np.asarray(row)
    return array.shape, array.tobytes()


def masked_accuracy(
    material: Material, sequences: Sequence[Tensor], recipe: Recipe
) -> tuple[float, float]:
    """Share of masked held-out tokens guessed rightly, by the model and by the commonest token.

    The commonest token is the commonest among the masked ones themselves, which favours the
    guess: a bar, not a straw man. For frames, tokens are clusters.
    """
    generator = _generator(recipe.seed + 1)
    right, targets = 0, []
    material.model.eval()
    with torch.inference_mode():
        for batch in _batches(sequences, recipe, generator, material.framing):
            inputs = material.mask(batch, generator)
            masked = inputs["labels"] != IGNORE
            target = inputs["labels"][masked]
            right += int((material.model(**inputs).logits[masked].argmax(-1) == target).sum())
            targets.append(target)
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


def _default_steps(sequences: Sequence[Tensor], recipe: Recipe) -> int:
    ten_passes = math.ceil(10 * sum(map(len, sequences)) / recipe.batch_tokens)
    return min(max(3_000, ten_passes), 8_000)


def _train(
    material: Material,
    sequences: Sequence[Tensor],
    *,
    recipe: Recipe,
    steps: int,
    on_step: Callable[[int, int, float], None] | None,
) -> float:
    """Run the training loop; return the mean loss of the last fiftieth of it."""
    model, generator = material.model, _generator(recipe.seed)
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
    batches = _endless(sequences, recipe, generator, material.framing)
    for step in range(1, steps + 1):
        inputs = material.mask(next(batches), generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = model(**inputs).loss
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
    sequences: Sequence[Tensor], recipe: Recipe, generator: torch.Generator, framing: int
) -> Iterator[list[Tensor]]:
    while True:
        yield from _batches(sequences, recipe, generator, framing)


def _batches(
    sequences: Sequence[Tensor], recipe: Recipe, generator: torch.Generator, framing: int
) -> Iterator[list[Tensor]]:
    """One pass: windows of at most the context, cut anew each time, in batches of like length.

    Padding and the ``framing`` special tokens of each window included, a batch has at most
    ``batch_tokens`` tokens.
    """
    longest = recipe.context - framing
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
            if batch and (len(batch) + 1) * (len(window) + framing) > recipe.batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(window)
        batches.append(batch)
    for place in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[place]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
