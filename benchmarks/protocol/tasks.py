"""Tasks of the benchmark: from the raw data sets to fixed splits and labels.

A `Unit` is what a method is fitted to once: the train and test sequences of one split. Its
`Target`s are the labels scored on it. u(x) = int(md5(x), 16) / 2^128 draws what no official split
fixes. Exact duplicates and sequences under two labels go first, then test items that occur in
train; what is left is capped at 5,000 + 5,000, seeded and stratified.
"""

from __future__ import annotations

import collections
import csv
import gzip
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from protocol import frames

CAP = 5_000
QUICK_SIZES = (1_500, 1_000)
QUICK_CLASSES = 100
csv.field_size_limit(sys.maxsize)


@dataclass(frozen=True)
class Target:
    """Labels over rows of a unit.

    Attributes
    ----------
    kind : {"classes", "binary", "regression", "similarity"}
        "similarity" scores pairs: ``test`` has two rows per pair then.
    train, test : int arrays
        Rows of the unit's train and test sequences that carry a label.
    """

    name: str
    kind: str
    train: np.ndarray
    y_train: np.ndarray
    test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Unit:
    """Sequences that are fitted and transformed together, and what is scored on them.

    ``train_groups`` and ``test_groups`` name what must stand on one side only: sessions, drawers,
    recordings, scaffolds, log multisets, opening families, or the sequence itself.
    """

    row: str
    name: str
    train: list[Any]
    test: list[Any]
    targets: tuple[Target, ...]
    train_groups: list[str]
    test_groups: list[str]
    counted: bool = True

    @property
    def id(self) -> str:
        return self.row if self.name == self.row else f"{self.row}/{self.name}"


def data_folder(named: Path | None, hint: str = "") -> Path:
    """Return the folder of the data sets: the one that is named, else $ONEVEC_DATA."""
    found = named or os.environ.get("ONEVEC_DATA")
    if not found:
        raise SystemExit(f"no data: pass --data DIR or set ONEVEC_DATA{hint}")
    return Path(found)


class MissingDataError(Exception):
    """A data set that is not there; the message names its public source."""


@dataclass(frozen=True)
class Row:
    """A row of the benchmark's table: its folder, source, encoders and units."""

    name: str
    folder: str
    source: str
    encoders: tuple[str, ...]
    units: Callable[[Path], Iterator[Unit]] = field(repr=False)


@dataclass
class Item:
    """One labelled sequence on its way into a split."""

    sequence: Any
    label: Any
    train: bool
    group: str
    key: str = ""

    def __post_init__(self) -> None:
        self.key = self.key or key_of(self.sequence)


def u(text: str) -> float:
    """A draw in [0, 1) that depends on the text alone."""
    return int(hashlib.md5(text.encode()).hexdigest(), 16) / 2**128


def key_of(sequence: Any) -> str:
    """What makes two sequences exact duplicates."""
    if isinstance(sequence, str):
        return sequence
    array = np.ascontiguousarray(sequence)
    return hashlib.md5(f"{array.shape}".encode() + array.tobytes()).hexdigest()


def clean(items: Sequence[Item]) -> list[Item]:
    """Drop sequences under two labels, exact duplicates, and test items that occur in train.

    Of duplicates the first in train stays, else the first.
    """
    labels = collections.defaultdict(set)
    for item in items:
        labels[item.key].add(item.label)
    kept: dict[str, Item] = {}
    for item in sorted(items, key=lambda item: not item.train):  # stable: train first
        if len(labels[item.key]) == 1:
            kept.setdefault(item.key, item)
    chosen = {id(item) for item in kept.values()}
    return [item for item in items if id(item) in chosen]


def cap(items: list[Item], most: int = CAP) -> list[Item]:
    """At most ``most`` items, the labels' shares kept, seeded; the order stays."""
    if len(items) <= most:
        return items
    rng = np.random.default_rng(0)
    labels = np.array([str(item.label) for item in items])
    names, codes = np.unique(labels, return_inverse=True)
    # Each label's rows in a random order, numbered by the share of the label they complete:
    # the lowest ``most`` numbers keep every share to within one row.
    order = np.empty(len(items))
    for code in range(len(names)):
        rows = rng.permutation(np.flatnonzero(codes == code))
        order[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return [items[row] for row in np.sort(np.argsort(order, kind="stable")[:most])]


def target_of(
    name: str,
    kind: str,
    train: Sequence[Item],
    test: Sequence[Item],
    label: Callable[[Item], Any],
    *,
    scored: Callable[[Item], bool] = lambda item: True,
) -> Target:
    """Make a target of what ``label`` gives of each item, None for those without one.

    Of the test items only those that are ``scored`` count.
    """
    known, held = (
        [(row, label(item)) for row, item in enumerate(side) if label(item) is not None]
        for side in (train, test)
    )
    held = [(row, value) for row, value in held if scored(test[row])]
    (rows, y), (held_rows, held_y) = (
        (np.array([row for row, _ in side], int), np.array([value for _, value in side]))
        for side in (known, held)
    )
    return Target(name, kind, rows, y, held_rows, held_y)


def make_unit(
    row: str, name: str, items: Sequence[Item], kind: str = "classes", *, counted: bool = True
) -> Unit:
    """Clean, cap, and one target over everything."""
    train, test = sides(clean(items))
    target = target_of(name, kind, train, test, lambda item: item.label)
    return unit_of(row, name, train, test, (target,), counted=counted)


def sides(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Train and test items, each capped."""
    train, test = (cap([item for item in items if item.train == side]) for side in (True, False))
    return train, test


def unit_of(
    row: str,
    name: str,
    train: Sequence[Item],
    test: Sequence[Item],
    targets: tuple[Target, ...],
    *,
    counted: bool = True,
) -> Unit:
    return Unit(
        row,
        name,
        [item.sequence for item in train],
        [item.sequence for item in test],
        targets,
        [item.group for item in train],
        [item.group for item in test],
        counted,
    )


def shrink(unit: Unit, most_train: int = 0, most_test: int = 0) -> Unit:
    """A seeded part of a unit, for the quick benchmark; targets of very many classes are out."""
    most_train, most_test = most_train or QUICK_SIZES[0], most_test or QUICK_SIZES[1]
    rng = np.random.default_rng(0)
    kept_train, kept_test = (
        np.sort(rng.permutation(len(side))[:most])
        for side, most in ((unit.train, most_train), (unit.test, most_test))
    )

    def cut(target: Target) -> Target:
        place_train, place_test = (
            np.searchsorted(kept, rows)
            for kept, rows in ((kept_train, target.train), (kept_test, target.test))
        )
        known, scored = np.isin(target.train, kept_train), np.isin(target.test, kept_test)
        if target.kind == "similarity":  # a pair needs both of its sentences
            scored = scored.all(1)
        return replace(
            target,
            train=place_train[known],
            y_train=target.y_train[known],
            test=place_test[scored],
            y_test=target.y_test[scored],
        )

    return replace(
        unit,
        train=[unit.train[i] for i in kept_train],
        test=[unit.test[i] for i in kept_test],
        targets=tuple(
            cut(target)
            for target in unit.targets
            if target.kind != "classes" or len(np.unique(target.y_train)) <= QUICK_CLASSES
        ),
        train_groups=[unit.train_groups[i] for i in kept_train],
        test_groups=[unit.test_groups[i] for i in kept_test],
    )


def table(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


# --- proteins and RNA ---------------------------------------------------------------------------


def ncrna13_items(data: Path) -> list[Item]:
    return clean(
        [
            Item(r["sequence"], r["label"], r["split"] == "train", r["sequence"])
            for r in table(data / "ncrna13/ncrna13.csv.gz")
        ]
    )


def ncrna13(data: Path) -> Iterator[Unit]:
    yield make_unit("ncrna13", "ncrna13", ncrna13_items(data))


def deeploc(data: Path) -> Iterator[Unit]:
    rows = [
        r
        for r in table(data / "deeploc_small/deeploc_small.csv.gz")
        if r["location"] != "Cytoplasm-Nucleus"
    ]
    items = clean(
        [
            Item(r["sequence"], (r["location"], r["membrane"]), r["split"] == "val", r["sequence"])
            for r in rows
        ]
    )
    part_of = {r["sequence"]: r["split"] for r in rows}
    train = [item for item in items if item.train]
    test = [item for item in items if not item.train]

    def location(item: Item) -> str | None:
        return None if item.label[0] == "U" else item.label[0]

    def membrane(item: Item) -> int | None:
        return None if item.label[1] == "U" else int(item.label[1] == "M")

    targets = [
        target_of(
            f"{name} {part}",
            kind,
            train,
            test,
            label,
            scored=lambda item, part=part: part_of[item.sequence] == part,
        )
        for part in ("test", "hard")
        for name, kind, label in (
            ("location", "classes", location),
            ("membrane", "binary", membrane),
        )
    ]
    # setHARD has no membrane labels.
    scored = tuple(target for target in targets if len(target.test))
    yield unit_of("deeploc", "deeploc", train, test, scored)


@cache
def peptide_sets(data: Path) -> dict[str, list[Item]]:
    """Its ten largest sets, cleaned, none of them capped."""
    sets = collections.defaultdict(list)
    for r in table(data / "peptides/peptides.csv.gz"):
        sets[r["dataset"]].append(r)
    largest = sorted(sets, key=lambda name: (-len(sets[name]), name))[:10]
    return {
        name: clean(
            [
                Item(r["sequence"], int(r["label"]), u(r["sequence"]) < 0.7, r["sequence"])
                for r in sets[name]
            ]
        )
        for name in largest
    }


def peptides(data: Path) -> Iterator[Unit]:
    for name, items in peptide_sets(data).items():
        yield make_unit("peptides", name, items, "binary")


# --- molecules ----------------------------------------------------------------------------------


TOX21 = (
    *("NR-AR", "NR-AR-LBD", "NR-AhR", "NR-Aromatase", "NR-ER", "NR-ER-LBD"),
    *("NR-PPAR-gamma", "SR-ARE", "SR-ATAD5", "SR-HSE", "SR-MMP", "SR-p53"),
)


@cache
def canonical(smiles: str) -> str | None:
    """One spelling per molecule (RDKit); None for what does not parse."""
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    molecule = Chem.MolFromSmiles(smiles)
    return Chem.MolToSmiles(molecule) if molecule else None


def scaffold(smiles: str) -> str:
    """Bemis–Murcko scaffold (1996); empty for molecules without rings."""
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    return MurckoScaffoldSmiles(smiles)


@cache
def molecule_items(data: Path, name: str) -> list[Item]:
    """Molecules with the tuple of their labels, cleaned by canonical SMILES, none capped."""
    columns = {
        "hiv": ["HIV_active"],
        "tox21": TOX21,
        "esol": ["logS"],
    }[name]
    items = []
    for r in table(data / f"molecules/{name}.csv.gz"):
        smiles = r["smiles"].strip()
        key = canonical(smiles)
        if key is None:
            continue
        group = scaffold(key) if name == "hiv" else smiles
        draw = u(group)
        items.append(Item(smiles, tuple(r[c] for c in columns), draw < 0.8, group, key))
    return clean(items)


def molecules(data: Path) -> Iterator[Unit]:
    hiv = [
        Item(i.sequence, int(float(i.label[0])), i.train, i.group, i.key)
        for i in molecule_items(data, "hiv")
    ]
    yield make_unit("molecules", "hiv", hiv, "binary")
    # Twelve label columns at once leave no one label to stratify by: a seeded draw.
    train, test = sides(molecule_items(data, "tox21"))

    def toxic(item: Item, column: int) -> int | None:
        return int(float(item.label[column])) if item.label[column] else None

    targets = (
        target_of(name, "binary", train, test, partial(toxic, column=column))
        for column, name in enumerate(TOX21)
    )
    yield unit_of("molecules", "tox21", train, test, tuple(targets))
    esol = [
        Item(i.sequence, float(i.label[0]), i.train, i.group, i.key)
        for i in molecule_items(data, "esol")
    ]
    yield make_unit("molecules", "esol", esol, "regression")


# --- system calls, logs, games ------------------------------------------------------------------


def adfa_items(data: Path) -> list[Item]:
    rows = table(data / "adfa_ld/adfa_ld.csv.gz")
    first: dict[str, set[str]] = {}
    sessions = collections.defaultdict(set)
    for r in rows:
        if r["part"] == "attack":
            sessions[r["label"]].add(r["session"])
    for label, names in sessions.items():
        first[label] = set(sorted(names)[:6])
    items = []
    for r in rows:
        calls = r["syscalls"]
        if r["part"] == "attack":
            train = r["session"] in first[r["label"]]
            group = f"{r['label']} {r['session']}"
        else:
            train = r["part"] == "train" or u(calls) < 0.5
            group = calls
        items.append(Item(calls, r["label"], train, group))
    return clean(items)


def adfa(data: Path) -> Iterator[Unit]:
    items = adfa_items(data)
    train, test = sides(items)

    def attack(item: Item) -> int:
        return int(item.label != "normal")

    def kind(item: Item) -> str | None:
        return None if item.label == "normal" else item.label

    targets = (
        target_of("attack", "binary", train, test, attack),
        target_of("attack type", "classes", train, test, kind),
    )
    yield unit_of("adfa", "adfa", train, test, targets)


def multiset(events: str) -> str:
    return " ".join(sorted(events.split()))


def hdfs_items(data: Path) -> list[Item]:
    items = []
    for r in table(data / "hdfs_sessions/hdfs_sessions.csv.gz"):
        group = multiset(r["events"])
        items.append(Item(r["events"], int(r["label"] == "abnormal"), u(group) < 0.6, group))
    return clean(items)


def hdfs(data: Path) -> Iterator[Unit]:
    yield make_unit("hdfs", "hdfs", hdfs_items(data), "binary", counted=False)


def chess_items(data: Path) -> list[Item]:
    return clean(
        [
            Item(r["moves"], r["volume"], u(r["family"]) < 0.7, r["family"])
            for r in table(data / "chess_openings/chess_openings.csv.gz")
        ]
    )


def chess(data: Path) -> Iterator[Unit]:
    yield make_unit("chess", "chess", chess_items(data))


# --- frames -------------------------------------------------------------------------------------


@cache
def omniglot_items(data: Path) -> list[Item]:
    items = []
    with gzip.open(data / "omniglot_strokes/omniglot_strokes.jsonl.gz", "rt") as handle:
        for line in handle:
            r = json.loads(line)
            label = (r["alphabet"], f"{r['alphabet']} {r['character']}")
            train = int(r["drawer"]) <= 15
            items.append(Item(frames.pen(r["strokes"]), label, train, str(r["drawer"])))
    return clean(items)


def omniglot(data: Path) -> Iterator[Unit]:
    items = omniglot_items(data)
    train, test = ([i for i in items if i.train == side] for side in (True, False))
    targets = tuple(
        target_of(name, "classes", train, test, lambda item, column=column: item.label[column])
        for column, name in enumerate(("alphabet", "character"))
    )
    yield unit_of("omniglot", "omniglot", train, test, targets)


@cache
def fsdd_clips(data: Path) -> list[tuple[np.ndarray, dict[str, str]]]:
    held = np.load(data / "fsdd/fsdd_int16.npz")
    samples, offsets = held["samples"], held["offsets"]
    with (data / "fsdd/meta.csv").open(newline="") as handle:
        meta = list(csv.DictReader(handle))
    return [
        (frames.log_mel(samples[a:b] / 32_768), r)
        for a, b, r in zip(offsets[:-1], offsets[1:], meta, strict=True)
    ]


def fsdd(data: Path) -> Iterator[Unit]:
    clips = fsdd_clips(data)
    left_out = ("theo", "yweweler")
    yield make_unit(
        "fsdd",
        "digit",
        [Item(x, r["digit"], r["speaker"] not in left_out, r["speaker"]) for x, r in clips],
    )
    yield make_unit(
        "fsdd",
        "speaker",
        [
            Item(x, r["speaker"], r["split"] == "train", f"{r['digit']} {r['speaker']} {r['take']}")
            for x, r in clips
        ],
    )


def gesture(data: Path) -> Iterator[Unit]:
    held = np.load(data / "hand_gesture/point_history.npz")
    x, y = held["x"], held["y"]
    runs = recordings(x, y)
    items = [
        Item(frames.gesture(x[i]), int(y[i]), u(f"{y[i]},{runs[i]}") < 0.6, f"{y[i]},{runs[i]}")
        for i in range(len(x))
    ]
    yield make_unit("gesture", "gesture", items)


def recordings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Number maximal runs in which each window is the last one, a frame later, within a class.

    Windows are relative to their own first frame, so their differences are compared.
    """
    steps = np.diff(x, axis=1)
    follows = np.isclose(steps[:-1, 1:], steps[1:, :-1], atol=1e-5).all((1, 2))
    return np.cumsum(np.r_[True, ~(follows & (y[:-1] == y[1:]))]) - 1


def ucr_uea(data: Path) -> Iterator[Unit]:
    for path in sorted((data / "ucr_uea_small").glob("*.jsonl.gz")):
        name = path.name.split(".")[0]
        size, hop = (4, 1) if name == "JapaneseVowels" else (16, 8)
        with gzip.open(path, "rt") as handle:
            rows = [json.loads(line) for line in handle]
        labels = sorted({str(r["label"]) for r in rows})
        binary = len(labels) == 2
        items = []
        for r in rows:
            sequence = frames.series(r["x"], size, hop)
            label = labels.index(str(r["label"])) if binary else str(r["label"])
            items.append(Item(sequence, label, r["split"] == "train", ""))
            items[-1].group = items[-1].key
        counted = sum(item.train for item in items) >= 150
        kind = "binary" if binary else "classes"
        yield make_unit("ucr_uea", name, items, kind, counted=counted)


def mnist(data: Path) -> Iterator[Unit]:
    held = np.load(data / "mnist_t10k/mnist_t10k.npz")
    x, y = held["x"], held["y"]
    items = [Item(frames.patches(x[i]), int(y[i]), i >= 5_000, "") for i in range(len(x))]
    for item in items:
        item.group = item.key
    yield make_unit("mnist", "mnist", items)


# --- text ---------------------------------------------------------------------------------------


def text_unit(row: str, rows: Sequence[tuple[str, Any, bool]]) -> Unit:
    return make_unit(row, row, [Item(text, label, train, text) for text, label, train in rows])


def banking77(data: Path) -> Iterator[Unit]:
    rows = table(data / "banking77/banking77.csv.gz")
    yield text_unit("banking77", [(r["text"], r["category"], r["split"] == "train") for r in rows])


def clinc150(data: Path) -> Iterator[Unit]:
    rows = [
        r
        for r in table(data / "clinc150/clinc150.csv.gz")
        if r["intent"] != "oos" and r["split"] in ("train", "test")
    ]
    yield text_unit("clinc150", [(r["text"], r["intent"], r["split"] == "train") for r in rows])


def stackoverflow20(data: Path) -> Iterator[Unit]:
    rows = table(data / "stackoverflow20/stackoverflow20.csv.gz")
    yield text_unit("stackoverflow20", [(r["text"], r["tag"], u(r["text"]) < 0.5) for r in rows])


def trec(data: Path) -> Iterator[Unit]:
    rows = table(data / "sentence_cls/trec.csv.gz")
    yield text_unit("trec", [(r["text"], r["label"], r["split"] == "train") for r in rows])


def newsgroups20(data: Path) -> Iterator[Unit]:
    draw = {}
    items = []
    for r in table(data / "newsgroups20/newsgroups20.csv.gz"):
        if r["body"].strip():
            items.append(Item(r["body"], r["label"], r["split"] == "train", r["body"]))
            draw[id(items[-1])] = u(r["doc_id"])
    items = clean(items)
    kept = []
    for train, most in ((True, 3_600), (False, 2_400)):
        side = [item for item in items if item.train == train]
        kept += sorted(side, key=lambda item: draw[id(item)])[:most]
    yield make_unit("newsgroups20", "newsgroups20", kept)


def stsb(data: Path) -> Iterator[Unit]:
    rows = table(data / "stsb/stsb.csv.gz")
    pairs = [r for r in rows if r["split"] == "test"]
    test = list(dict.fromkeys(s for r in pairs for s in (r["sentence1"], r["sentence2"])))
    place = {sentence: i for i, sentence in enumerate(test)}
    fitted = (s for r in rows if r["split"] == "train" for s in (r["sentence1"], r["sentence2"]))
    train = [s for s in dict.fromkeys(fitted) if s not in place]
    items = [Item(s, 0, True, s) for s in train], [Item(s, 0, False, s) for s in test]
    target = Target(
        "stsb",
        "similarity",
        np.empty(0, int),
        np.empty(0),
        np.array([[place[r["sentence1"]], place[r["sentence2"]]] for r in pairs]),
        np.array([float(r["score"]) for r in pairs]),
    )
    yield unit_of("stsb", "stsb", cap(items[0]), items[1], (target,))


MINILM = ("minilm-3", "minilm-last")
TEXT = ("banking77", "clinc150", "stackoverflow20", "trec", "newsgroups20", "stsb")
ROWS = {
    row.name: row
    for row in (
        Row("ncrna13", "ncrna13", "IcarPA-TBlab/nrc on GitHub", ("ncrna13",), ncrna13),
        Row(
            "deeploc",
            "deeploc_small",
            "HannesStark/protein-localization on GitHub",
            ("proteins",),
            deeploc,
        ),
        Row("peptides", "peptides", "spaenigs/peptidereactor on GitHub", ("proteins",), peptides),
        Row(
            "molecules",
            "molecules",
            "deepchem/deepchem on GitHub",
            ("smiles", "lstm_chem"),
            molecules,
        ),
        Row(
            "adfa",
            "adfa_ld",
            "verazuo/a-labelled-version-of-the-ADFA-LD-dataset on GitHub",
            ("adfa",),
            adfa,
        ),
        Row("chess", "chess_openings", "lichess-org/chess-openings on GitHub", ("chess",), chess),
        Row(
            "omniglot",
            "omniglot_strokes",
            "brendenlake/omniglot on GitHub",
            ("omniglot", "frames"),
            omniglot,
        ),
        Row(
            "fsdd",
            "fsdd",
            "Jakobovski/free-spoken-digit-dataset on GitHub",
            ("fsdd", "frames"),
            fsdd,
        ),
        Row(
            "gesture",
            "hand_gesture",
            "Kazuhito00/hand-gesture-recognition-using-mediapipe on GitHub",
            ("frames",),
            gesture,
        ),
        Row("ucr_uea", "ucr_uea_small", "sktime/sktime on GitHub", ("frames",), ucr_uea),
        Row(
            "mnist",
            "mnist_t10k",
            "patrick-kidger/equinox on GitHub (MNIST's test images)",
            ("frames",),
            mnist,
        ),
        Row(
            "banking77",
            "banking77",
            "PolyAI-LDN/task-specific-datasets on GitHub",
            MINILM,
            banking77,
        ),
        Row("clinc150", "clinc150", "clinc/oos-eval on GitHub", MINILM, clinc150),
        Row(
            "stackoverflow20",
            "stackoverflow20",
            "jacoxu/StackOverflow on GitHub",
            MINILM,
            stackoverflow20,
        ),
        Row("trec", "sentence_cls", "harvardnlp/sent-conv-torch on GitHub", MINILM, trec),
        Row("newsgroups20", "newsgroups20", "yao8839836/text_gcn on GitHub", MINILM, newsgroups20),
        Row("stsb", "stsb", "the STS Benchmark of SemEval 2017", MINILM, stsb),
        Row("hdfs", "hdfs_sessions", "wuyifan18/DeepLog on GitHub", ("hdfs",), hdfs),
    )
}


def units(name: str, data: Path) -> list[Unit]:
    """Units of a row.

    Raises
    ------
    MissingDataError
        If the data set is not there; the message names its public source.
    """
    row = ROWS[name]
    if not (data / row.folder).is_dir():
        raise MissingDataError(
            f"{data / row.folder} is missing: set --data or ONEVEC_DATA; its source is {row.source}"
        )
    return list(row.units(data))


# --- what the encoders are pretrained on --------------------------------------------------------


def corpus(name: str, data: Path) -> list[Any]:
    """Unlabelled train sequences of an encoder, uncapped; nothing of any test split."""
    return CORPORA[name](data)


def train_of(items: Sequence[Item]) -> list[Any]:
    return [item.sequence for item in items if item.train]


def adfa_corpus(data: Path) -> list[str]:
    """Normal traces of the official train part."""
    rows = table(data / "adfa_ld/adfa_ld.csv.gz")
    normal = {r["syscalls"] for r in rows if r["part"] == "train"}
    return [i.sequence for i in adfa_items(data) if i.sequence in normal]


def fsdd_corpus(data: Path) -> list[np.ndarray]:
    """Clips in the train part of both tasks: neither test split is ever seen."""
    left_out = ("theo", "yweweler")
    return [
        x for x, r in fsdd_clips(data) if r["split"] == "train" and r["speaker"] not in left_out
    ]


def protein_corpus(data: Path) -> list[str]:
    """Train parts of both rows; some proteins stand in several sets, so less all test parts."""
    (proteins,) = deeploc(data)
    sets = [item for items in peptide_sets(data).values() for item in items]
    test = {*proteins.test, *(item.sequence for item in sets if not item.train)}
    known = dict.fromkeys([*proteins.train, *(item.sequence for item in sets if item.train)])
    return [sequence for sequence in known if sequence not in test]


def smiles_corpus(data: Path) -> list[str]:
    """The unlabelled SMILES less every test molecule, however it is spelled."""
    test = {
        i.key
        for name in ("hiv", "tox21", "esol")
        for i in molecule_items(data, name)
        if not i.train
    }
    with gzip.open(data / "molecules/corpus_muv_chembl.smi.gz", "rt") as handle:
        lines = dict.fromkeys(line.strip() for line in handle)
    return [s for s in lines if s and canonical(s) not in test]


CORPORA: dict[str, Callable[[Path], list[Any]]] = {
    "ncrna13": lambda data: train_of(ncrna13_items(data)),
    "proteins": protein_corpus,
    "smiles": smiles_corpus,
    "adfa": adfa_corpus,
    "chess": lambda data: train_of(chess_items(data)),
    "hdfs": lambda data: train_of(hdfs_items(data)),
    "omniglot": lambda data: train_of(omniglot_items(data)),
    "fsdd": fsdd_corpus,
}
