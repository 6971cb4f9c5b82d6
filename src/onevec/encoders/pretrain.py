"""A small encoder from raw sequences, for those who have none.

What comes out is an ordinary Hugging Face folder (ModernBERT: Warner et al. 2024; or, causal,
Llama: Touvron et al. 2023; rotary positions, so that a token vector does not carry where it
stands) that `onevec.encode` and, for text, `transformers.AutoModel` open.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from onevec.encoders import loop
from onevec.encoders.batches import Flat
from onevec.encoders.body import Material
from onevec.encoders.corpus import Corpus, assemble
from onevec.encoders.frames import QUANTISED, Frames, frames_in_order_fingerprint
from onevec.encoders.mix import Mix
from onevec.encoders.settings import Recipe
from onevec.encoders.terms import TokenTerm
from onevec.encoders.text import Text, corpus_fingerprint
from onevec.errors import InputError
from onevec.files import appears_whole, check_apart, check_target
from onevec.tokens.huggingface import quiet
from onevec.train import checkpoint as state_file
from onevec.train.head import World

MANIFEST = "pretrain.json"
CURVES = "curves.jsonl"
_KINDS = {
    ("text", False): "masked language model",
    ("frames", False): "masked frame model",
    ("text", True): "causal language model",
    ("frames", True): "causal frame model",
}


def pretrain(
    corpus: Sequence[Any] | Corpus,
    out: str | Path,
    *,
    overwrite: bool = False,
    checkpoint: str | Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a transformer on raw sequences: by default a masked model (Devlin et al. 2019).

    Parameters
    ----------
    corpus : sequence of str or of (n_i, dim) arrays, or Corpus
        Raw text-like sequences, or dense frames: audio, pen strokes, time series. Of hidden
        frames the model guesses the k-means cluster. Empty sequences and exact copies are left
        out and counted. For files, `assemble` them first.
    out : path
        The Hugging Face folder to make. It appears whole or not at all.
    overwrite : bool
        Whether a folder that exists may be replaced.
    checkpoint : path, optional
        File that keeps the state every ``checkpoint_steps`` steps. If it is there, training goes
        on from it; it is removed at the end.
    on_step : callable, optional
        Called as ``on_step(step, steps, loss)``.
    **settings
        Fields of `Recipe`, such as ``size="small"``, ``objectives={"masked": 1.0, "contrastive":
        0.1}``, ``tokenizer="kmer"``, ``steps=500``, ``seed=1``.

    Returns
    -------
    dict
        The manifest, also written as ``pretrain.json``: settings, corpus with its fingerprint and
        counts, versions, held-out loss of every objective and, where tokens are guessed, the
        held-out accuracy beside that of always guessing the commonest token (or cluster).
        ``curves.jsonl`` beside it has the loss of the training and of the held-out sequences.

    Raises
    ------
    InputError
        If a setting cannot work, objectives and transformer do not fit, or there is too little
        to learn from.
    StoreError
        If the checkpoint is damaged or of another run.

    Notes
    -----
    The same seed, machine and thread count give the same weights, also after a kill. Under
    `torchrun` each process takes its own batches, so a step sees that many times more.
    """
    out, recipe, mix, dropout = ready(out, settings, overwrite=overwrite, checkpoint=checkpoint)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    began = time.perf_counter()
    world = World(recipe.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not isinstance(corpus, Corpus):
        if isinstance(corpus, str):
            raise InputError("got one string as corpus: pass a list of sequences")
        corpus = assemble(corpus, held_out=recipe.held_out, seed=recipe.seed)
    fingerprint = _fingerprint(corpus)
    identity = _identity(recipe, mix, dropout, fingerprint, world.size)
    held = _held(checkpoint, identity, world)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        material = _material(corpus, recipe, dropout, held[1] if held else {})
        mix.build(material.body, material.kind, recipe)
    steps = recipe.steps or _default_steps(material.train, recipe)
    facts = {"identity": identity}
    if isinstance(material, Text):
        facts["tokenizer"] = material.tokenizer.backend_tokenizer.to_str()
    curves = loop.train(
        material,
        mix,
        recipe=recipe,
        steps=steps,
        world=world,
        state=checkpoint,
        facts=facts,
        held=held,
        on_step=on_step,
    )
    manifest = {
        "kind": _KINDS[material.kind, recipe.causal],
        "settings": {**asdict(recipe), "objectives": mix.spec, "dropout": dropout},
        "sequences": len(material.train),
        "held_out_sequences": len(material.held_out),
        "skipped_empty": corpus.manifest["counts"]["empty"],
        "tokens": int(material.train.lengths.sum()),
        **material.about,
        "corpus_sha256": fingerprint,
        "corpus": corpus.manifest,
        "steps": steps,
        "final_loss": round(curves.final, 4),
        "held_out": curves.held_out[-1],
        "best_held_out": curves.best,
        **_accuracies(material, mix, recipe, world),
        "parameters": sum(p.numel() for p in material.body.parameters()),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    if world.rank == 0:
        head = any(isinstance(term, TokenTerm) for term in mix.terms.values())
        with quiet(), appears_whole(out) as part:
            material.save(part, getattr(torch, recipe.save_dtype), head)
            (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            lines = (json.dumps(line) + "\n" for line in curves.lines())
            (part / CURVES).write_text("".join(lines))
        if checkpoint is not None:
            Path(checkpoint).unlink(missing_ok=True)
    world.wait()
    return manifest


def ready(
    out: str | Path,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    checkpoint: str | Path | None = None,
) -> tuple[Path, Recipe, Mix, float]:
    """Check settings and places before any work; return them with objectives and dropout."""
    recipe = Recipe.of(settings)
    mix = Mix(recipe.objectives or ("next_token" if recipe.causal else "masked"), recipe.causal)
    dropout = _dropout(recipe, mix)
    out = check_target(
        out, overwrite, what="encoder of pretrain", ours=lambda at: (at / MANIFEST).is_file()
    )
    if checkpoint is not None:
        check_target(checkpoint, overwrite=True, what="checkpoint")
        check_apart(checkpoint, out)
    return out, recipe, mix, dropout


def _dropout(recipe: Recipe, mix: Mix) -> float:
    """Return the rate; an objective that lives on dropout must have some."""
    needy = [name for name, term in mix.terms.items() if term.keeps_dropout]
    rate = recipe.dropout if recipe.dropout is not None else (0.1 if needy else 0.0)
    if needy and not rate:
        raise InputError(
            f"got dropout={rate} with the objective {needy[0]!r}, whose views differ by dropout "
            "alone: pass dropout=0.1, or the objective contrastive"
        )
    return rate


def _fingerprint(corpus: Corpus) -> str:
    if corpus.dense:
        return frames_in_order_fingerprint(corpus)
    return corpus_fingerprint(corpus.in_order())


def _identity(recipe: Recipe, mix: Mix, dropout: float, fingerprint: str, processes: int) -> str:
    """What a checkpoint must share with the run that goes on from it: settings and data."""
    apart = ("threads", "device", "save_dtype", "checkpoint_steps", "objectives", "dropout")
    settings = {name: value for name, value in asdict(recipe).items() if name not in apart}
    text = json.dumps([settings, mix.spec, dropout, fingerprint, processes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _held(
    path: str | Path | None, identity: str, world: World
) -> tuple[state_file.Parts, dict[str, Any]] | None:
    """Return what a checkpoint holds, if there is one; the first process reads it for all."""
    file = None if path is None or world.rank > 0 else Path(path)
    content = world.share(file.read_bytes() if file and file.exists() else b"")
    return state_file.read(path, content, identity) if content else None


def _material(corpus: Corpus, recipe: Recipe, dropout: float, facts: dict[str, Any]) -> Material:
    if corpus.dense:
        plain = {"vocab_size": (Recipe.vocab_size,), "kmer": (Recipe.kmer,)}
        for name, known in {"tokenizer": ("auto", QUANTISED), **plain}.items():
            given = getattr(recipe, name)
            if given not in known:
                raise InputError(
                    f"got {name}={given!r} for dense frames, whose only tokenizer is {QUANTISED}: "
                    "leave it out"
                )
        material: Material = Frames(corpus, recipe, dropout)
    else:
        if recipe.tokenizer == QUANTISED:
            raise InputError(
                f"got tokenizer={QUANTISED!r} for text, and it is of dense frames: pass auto"
            )
        material = Text(corpus, recipe, dropout, facts.get("tokenizer"))
    if not len(material.train.values):
        raise InputError(
            "the training sequences hold not one token: choose another tokenizer, or check what "
            "the column holds"
        )
    return material


def _default_steps(flat: Flat, recipe: Recipe) -> int:
    ten_passes = math.ceil(10 * int(flat.lengths.sum()) / recipe.batch_tokens)
    return min(max(3_000, ten_passes), 8_000)


def _accuracies(material: Material, mix: Mix, recipe: Recipe, world: World) -> dict[str, float]:
    """Return accuracy and floor of the objectives that guess tokens."""
    found = {}
    for name, term in mix.terms.items():
        if isinstance(term, TokenTerm):
            model, commonest = loop.accuracy(material, term, recipe, world.device)
            found[f"{name}_accuracy"] = round(model, 4)
            found["unigram_accuracy"] = round(commonest, 4)
    return found


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
