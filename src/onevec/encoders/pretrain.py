"""A small encoder from raw sequences, for those who have none.

What comes out is an ordinary Hugging Face folder (ModernBERT: Warner et al. 2024; or, causal,
Llama: Touvron et al. 2023; rotary positions, so that a token vector does not carry where it
stands) that `onevec.encode` and, for text, `transformers.AutoModel` open.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from onevec.encoders import loop
from onevec.encoders.batches import FlatTokens
from onevec.encoders.body import Material
from onevec.encoders.corpus import Corpus, assemble
from onevec.encoders.frames import QUANTISED, Frames, frames_in_order_fingerprint
from onevec.encoders.loop import Objectives
from onevec.encoders.settings import Pretraining, versions
from onevec.encoders.table import PRETRAINING
from onevec.encoders.terms import TokenObjective
from onevec.encoders.text import Text, corpus_fingerprint
from onevec.errors import InputError
from onevec.files import appears_whole, check_apart, check_target
from onevec.objectives import Mixture
from onevec.tokens.huggingface import quiet
from onevec.train import checkpoint as state_file
from onevec.train.loop import OnStep
from onevec.train.world import World

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
    on_step: OnStep | None = None,
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
        Fields of `Pretraining`, such as ``size="small"``, ``objective="masked=1,crops=0.1"``,
        ``tokenizer="kmer"``, ``steps=500``, ``random_state=1``.

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
        If a setting cannot work, objective and transformer do not fit, or there is too little
        to learn from.
    StoreError
        If the checkpoint is damaged or of another run.

    Notes
    -----
    The same seed, machine and thread count give the same weights, also after a kill. Under
    `torchrun` each process takes its own batches, so a step sees that many times more.
    """
    out, given, mixture, dropout = ready(out, settings, overwrite=overwrite, checkpoint=checkpoint)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    began = time.perf_counter()
    world = World(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not isinstance(corpus, Corpus):
        if isinstance(corpus, str):
            raise InputError("got one string as corpus: pass a list of sequences")
        corpus = assemble(corpus, held_out=given.held_out, random_state=given.random_state)
    fingerprint = _fingerprint(corpus)
    identity = _identity(given, mixture, dropout, fingerprint, world.size)
    held = state_file.read(checkpoint, identity, world)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given.random_state)
        material = _material(corpus, given, dropout, held[1] if held else {})
        _build(mixture, material, given)
    steps = given.steps or _default_steps(material.train, given)
    facts = {"identity": identity}
    if isinstance(material, Text):
        facts["tokenizer"] = material.tokenizer.backend_tokenizer.to_str()
    curves = loop.train(
        material,
        mixture,
        settings=given,
        steps=steps,
        world=world,
        state=checkpoint,
        facts=facts,
        held=held,
        on_step=on_step,
    )
    manifest = {
        "kind": _KINDS[material.kind, given.causal],
        "settings": {**asdict(given), "objective": mixture.parts, "dropout": dropout},
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
        **_accuracies(material, mixture, given, world),
        "parameters": sum(p.numel() for p in material.body.parameters()),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    if world.rank == 0:
        head = any(isinstance(term, TokenObjective) for term in mixture.members.values())
        with quiet(), appears_whole(out) as part:
            material.save(part, getattr(torch, given.save_dtype), head)
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
) -> tuple[Path, Pretraining, Objectives, float]:
    """Check settings and places before any work; return them with the objectives and dropout."""
    given = Pretraining.of(settings)
    usual = "next_token" if given.causal else "masked"
    mixture = Mixture(given.objective or usual, PRETRAINING)
    _check_direction(mixture, given.causal)
    dropout = _dropout(given, mixture)
    out = check_target(
        out, overwrite, what="encoder of pretrain", ours=lambda at: (at / MANIFEST).is_file()
    )
    if checkpoint is not None:
        check_target(checkpoint, overwrite=True, what="checkpoint")
        check_apart(checkpoint, out)
    return out, given, mixture, dropout


def _dropout(given: Pretraining, mixture: Objectives) -> float:
    """Return the rate; an objective that lives on dropout must have some."""
    needy = [name for name, term in mixture.members.items() if term.keeps_dropout]
    rate = given.dropout if given.dropout is not None else (0.1 if needy else 0.0)
    if needy and not rate:
        raise InputError(
            f"got dropout={rate} with the objective {needy[0]!r}, whose views differ by dropout "
            "alone: pass dropout=0.1, or the objective crops"
        )
    return rate


def _fingerprint(corpus: Corpus) -> str:
    if corpus.dense:
        return frames_in_order_fingerprint(corpus)
    return corpus_fingerprint(corpus.in_order())


def _identity(
    given: Pretraining, mixture: Objectives, dropout: float, fingerprint: str, processes: int
) -> str:
    """What a checkpoint must share with the run that goes on from it: settings and data."""
    apart = ("threads", "device", "save_dtype", "checkpoint_steps", "objective", "dropout")
    settings = {name: value for name, value in asdict(given).items() if name not in apart}
    return state_file.identity([settings, mixture.parts, dropout, fingerprint, processes])


def _check_direction(mixture: Objectives, causal: bool) -> None:
    """Refuse an objective that needs a transformer of the other kind."""
    for name, objective in mixture.members.items():
        if objective.causal not in (None, causal):
            kinds = ("a causal", "bidirectional") if objective.causal else (
                "a bidirectional", "causal"
            )  # fmt: skip
            fits = [n for n, each in PRETRAINING.items() if each.causal in (None, causal)]
            raise InputError(
                f"the objective {name!r} needs {kinds[0]} transformer and this one is {kinds[1]}: "
                f"pass causal={objective.causal}, or choose from {', '.join(fits)}"
            )


def _build(mixture: Objectives, material: Material, given: Pretraining) -> None:
    """Make the objectives' own parameters."""
    for name, objective in mixture.members.items():
        if material.kind not in objective.kinds:
            raise InputError(
                f"the objective {name!r} takes {' or '.join(objective.kinds)}, and the corpus is "
                f"{material.kind}: leave it out"
            )
        objective.build(material.body, given)


def _material(
    corpus: Corpus, given: Pretraining, dropout: float, facts: dict[str, Any]
) -> Material:
    if corpus.dense:
        plain = {"vocab_size": (Pretraining.vocab_size,), "kmer": (Pretraining.kmer,)}
        for name, known in {"tokenizer": ("auto", QUANTISED), **plain}.items():
            asked = getattr(given, name)
            if asked not in known:
                raise InputError(
                    f"got {name}={asked!r} for dense frames, whose only tokenizer is {QUANTISED}: "
                    "leave it out"
                )
        material: Material = Frames(corpus, given, dropout)
    else:
        if given.tokenizer == QUANTISED:
            raise InputError(
                f"got tokenizer={QUANTISED!r} for text, and it is of dense frames: pass auto"
            )
        material = Text(corpus, given, dropout, facts.get("tokenizer"))
    if not len(material.train.values):
        raise InputError(
            "the training sequences hold not one token: choose another tokenizer, or check what "
            "the column holds"
        )
    return material


def _default_steps(flat: FlatTokens, given: Pretraining) -> int:
    ten_passes = math.ceil(10 * int(flat.lengths.sum()) / given.batch_tokens)
    return min(max(3_000, ten_passes), 8_000)


def _accuracies(
    material: Material, mixture: Objectives, given: Pretraining, world: World
) -> dict[str, float]:
    """Return accuracy and floor of the objectives that guess tokens."""
    found = {}
    for name, term in mixture.members.items():
        if isinstance(term, TokenObjective):
            model, commonest = loop.accuracy(material, term, given, world.device)
            found[f"{name}_accuracy"] = round(model, 4)
            found["unigram_accuracy"] = round(commonest, 4)
    return found
