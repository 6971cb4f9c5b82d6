"""Frozen encoders of the benchmark and the token stores they fill.

Masked encoders are made by `onevec pretrain`, all by its defaults. Those whose corpus licence
allows it stand in benchmarks/encoders; the others are made once and kept under .cache.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onevec import Ragged, TokenStore, encode, pretrain
from onevec.encoders.frames import frames_fingerprint
from onevec.encoders.text import corpus_fingerprint
from onevec.tokens.batches import Tokens
from protocol import tasks
from protocol.code_key import ROOT, code_key
from protocol.ready_made import MINILM_LAYERS, LSTMChem, minilm

CACHE = ROOT / ".cache"
SHIPPED = ROOT / "benchmarks/encoders"
FLOOR = 1.3  # masked accuracy over the commonest token's; below it an encoder is not used
PRETRAINED = {
    "ncrna13": "character",
    "proteins": "character",
    "smiles": "character",
    "adfa": "whitespace",
    "chess": "whitespace",
    "hdfs": "whitespace",
    "omniglot": "frames",
    "fsdd": "frames",
}
# Their corpora are free (NOTICE); the system calls and logs of the others are for research alone.
MAY_SHIP = ("ncrna13", "proteins", "smiles", "chess", "omniglot", "fsdd")
PUBLISHED, SMALL = "published raw encoders", "small encoders"  # the latter are of our own
FRAMES, TUNED = "raw frames", "tuned encoders"
RAW = (PUBLISHED, SMALL)  # trained with a local objective alone
GROUPS = (*RAW, FRAMES, TUNED)
GROUP_OF = {"lstm_chem": PUBLISHED, "minilm-3": PUBLISHED, "frames": FRAMES, "minilm-last": TUNED}


class WeakEncoderError(Exception):
    """An encoder below the quality floor; the message gives the figures."""


class NotMadeError(Exception):
    """An encoder that `--rebuild-encoders` has to make first."""


def group(encoder: str) -> str:
    return GROUP_OF.get(encoder, SMALL)


def fingerprint(sequences: Sequence[Any]) -> str:
    """SHA-256 of sequences in their order."""
    if isinstance(sequences[0], str):
        return corpus_fingerprint(sequences)
    return frames_fingerprint(Ragged.from_list(list(sequences)))


def unit_mark(unit: tasks.Unit) -> str:
    """Hash of a unit's sequences, rows and labels."""
    digest = hashlib.sha256()
    for part in (unit.train, unit.test):
        digest.update(fingerprint(part).encode())
    for target in unit.targets:
        digest.update(f"{target.name} {target.kind}".encode())
        for array in (target.train, target.y_train, target.test, target.y_test):
            digest.update(
                array.astype("U64").tobytes() if array.dtype.kind == "U" else array.tobytes()
            )
    return digest.hexdigest()


def folder(name: str) -> Path:
    return (SHIPPED if name in MAY_SHIP else CACHE / "encoders") / name


def store_name(encoder: str) -> str:
    """What the stores of an encoder are called: its layers share one."""
    return encoder.split("-", maxsplit=1)[0]


def make(name: str, data: Path) -> None:
    """Pretrain an encoder by the benchmark's recipe and say what came out."""
    sequences = tasks.corpus(name, data)
    kind = PRETRAINED[name]
    print(f"{name}: pretraining on {len(sequences)} sequences", flush=True)
    made = pretrain(
        sequences,
        folder(name),
        tokenizer="auto" if kind == "frames" else kind,
        precision="bf16",
        save_dtype="float16",
        threads=1,
        overwrite=True,
    )
    print(
        f"{name}: {made['seconds']:.0f} s, masked accuracy {made['masked_accuracy']:.3f}, "
        f"commonest {made['unigram_accuracy']:.3f}",
        flush=True,
    )


def manifest(name: str) -> dict[str, Any]:
    """Read an encoder's manifest.

    Raises
    ------
    NotMadeError
        If it is not there.
    WeakEncoderError
        If it is below the quality floor.
    """
    path = folder(name) / "pretrain.json"
    if not path.is_file():
        raise NotMadeError(
            f"the encoder {name} is not made yet: run with --rebuild-encoders {name}"
        )
    made = json.loads(path.read_text())
    if made["masked_accuracy"] < FLOOR * made["unigram_accuracy"]:
        raise WeakEncoderError(
            f"{name}: masked accuracy {made['masked_accuracy']:.3f} is below {FLOOR} x "
            f"{made['unigram_accuracy']:.3f}, the commonest token's: not used"
        )
    return made


def tokens(unit: tasks.Unit, encoder: str, data: Path, make: bool = True) -> tuple[Tokens, Tokens]:
    """Token vectors of a unit's train and test sequences; stores are kept under .cache."""
    if encoder == "frames":
        return Ragged.from_list(unit.train), Ragged.from_list(unit.test)
    source: Any = folder(encoder)
    layers, made_by = [-1], mark(encoder, data)
    if encoder in MINILM_LAYERS:  # one store for both columns
        source, layers = minilm(), [*MINILM_LAYERS.values()]
    elif encoder == "lstm_chem":
        source = LSTMChem(data / "encoders/lstm_chem")
    name = f"{unit.id.replace('/', '-')}-{store_name(encoder)}"
    train, test = (
        _store(part, source, layers, name, made_by, make=make) for part in (unit.train, unit.test)
    )
    if encoder in MINILM_LAYERS:
        layer = MINILM_LAYERS[encoder]
        return train.layer(layer), test.layer(layer)
    return train, test


def content(unit: tasks.Unit, encoder: str, data: Path) -> str:
    """What the stored token vectors of a unit are: their checksums.

    By content, not by the code that made them: results stay valid where a change of the code
    leaves the vectors what they were.

    Raises
    ------
    NotMadeError
        If they are not stored yet.
    """
    if encoder == "frames":  # the vectors are the unit's own sequences
        return encoder
    sides = tokens(unit, encoder, data, make=False)
    sums = [shard["sha256"] for side in sides for shard in side.info["shards"]]
    return " ".join([*sums, str(MINILM_LAYERS.get(encoder, ""))])


def _store(
    sequences: list[Any], source: Any, layers: list[int], name: str, made_by: str, *, make: bool
) -> TokenStore:
    """Open the store of these sequences, or encode them into a folder that appears whole."""
    code = code_key("onevec.tokens.encode", "protocol.ready_made")
    text = f"{made_by} {layers} {code} {fingerprint(sequences)}"
    path = CACHE / "tokens" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if not path.is_dir() and not make:
        raise NotMadeError(f"the tokens of {name} are not stored yet: run without --dry-run")
    if not path.is_dir():
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.parent.mkdir(parents=True, exist_ok=True)
        encode(sequences, source, out=part, layers=layers, long="window", progress=False)
        try:
            part.rename(path)
        except OSError:  # another process was first
            shutil.rmtree(part)
    return TokenStore(path)


def mark(encoder: str, data: Path) -> str:
    """What tells an encoder from any other: the hash of its files."""
    if encoder in MINILM_LAYERS:
        return hash_folder(minilm())
    if encoder == "lstm_chem":
        path = data / "encoders/lstm_chem"
        if not path.is_dir():
            raise tasks.MissingDataError(
                f"{path} is missing: set --data or ONEVEC_DATA; its source is topazape/LSTM_Chem "
                "on GitHub"
            )
        return hash_folder(path)
    manifest(encoder)
    return hash_folder(folder(encoder))


@functools.cache
def hash_folder(path: Path) -> str:
    """SHA-256 of weights and settings; the manifest, which has times in it, is left out."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and file.name != "pretrain.json":
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def rebuild(names: Sequence[str], data: Path) -> None:
    """Make encoders again and say how long it takes."""
    began = time.perf_counter()
    for name in names:
        make(name, data)
    print(f"{len(names)} encoders in {(time.perf_counter() - began) / 60:.0f} minutes")
