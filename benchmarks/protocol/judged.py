"""One column of the judge's benchmark: every candidate scored without labels and with them.

Of a *train* part alone: a third of its groups is set aside and scored with labels, the candidates
are fitted to the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onevec.blocks import prepare
from onevec.judge.compare import compare
from onevec.judge.probes import normalise, run_probes
from onevec.native import native_candidates
from onevec.recipe import BLOCKS
from onevec.reduction import Candidate, Reduction
from onevec.tokens.batches import Tokens
from protocol import encoders, methods, sweep, tasks
from protocol.producer import DIM
from protocol.tasks import u

KNOWN, SCORED = 4_000, 1_000  # at most so many sequences
LEAST_KNOWN, LEAST_SCORED = 120, 30
MOST_CLASSES = 150  # the characters of omniglot would cost more than all else
DRAWS = 5
CODE = (
    *methods.SWEPT,
    *(f"src/onevec/judge/{name}.py" for name in ("exam", "unlabelled", "compare")),
    *(f"src/onevec/judge/{name}.py" for name in ("probes", "outcomes", "logistic")),
    *methods.RECIPE,
    "src/onevec/native.py",
    "benchmarks/protocol/judged.py",
)


class Part:
    """Some rows of a source of tokens, as a source."""

    def __init__(self, tokens: Tokens, rows: np.ndarray):
        self.tokens, self.rows, self.dim = tokens, rows, tokens.dim

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Any:
        return self.tokens.lengths[self.rows]

    def __getitem__(self, rows: Any) -> Any:
        return self.tokens[self.rows[np.asarray(rows)]]


@dataclass(frozen=True)
class Column:
    """One unit under one encoder: what is said of every candidate, and what labels say."""

    row: str
    unit: str
    encoder: str
    names: list[str]
    rows: list[dict[str, Any]]  # of `compare`, with further criteria
    labelled: list[float]
    native: float

    @property
    def gains(self) -> np.ndarray:
        return np.array(self.labelled) - self.labelled[0]


def set_aside(unit: tasks.Unit, data: Path) -> tuple[np.ndarray, np.ndarray, tasks.Unit] | None:
    """Rows to know and to score, no group on both sides; None where there are too few."""
    if unit.row == "stsb":
        return pairs_aside(unit, data)
    best = None
    for attempt in range(6):  # few groups (speakers): take the cut nearest to a third
        held = np.array([u(f"held{attempt} {group}") < 1 / 3 for group in unit.train_groups])
        if best is None or abs(held.mean() - 1 / 3) < abs(best.mean() - 1 / 3):
            best = held
        if abs(best.mean() - 1 / 3) < 0.08:
            break
    known, scored = np.flatnonzero(~best)[:KNOWN], np.flatnonzero(best)[:SCORED]
    places = np.full((2, len(best)), -1)
    places[0, known], places[1, scored] = np.arange(len(known)), np.arange(len(scored))
    targets = []
    for target in unit.targets:
        if target.kind == "similarity" or target.name.endswith(" hard"):
            continue
        fitted, told = np.isin(target.train, known), np.isin(target.train, scored)
        y_fitted, y_told = target.y_train[fitted], target.y_train[told]
        classes = len(np.unique(y_told))
        many = target.kind == "classes" and classes > MOST_CLASSES
        if told.sum() < LEAST_SCORED or classes < 2 or many:
            continue
        rows = {"train": places[0, target.train[fitted]], "test": places[1, target.train[told]]}
        targets.append(replace(target, y_train=y_fitted, y_test=y_told, **rows))
    if not targets or len(known) < LEAST_KNOWN:
        return None
    return known, scored, replace(unit, targets=tuple(targets))


def pairs_aside(unit: tasks.Unit, data: Path) -> tuple[np.ndarray, np.ndarray, tasks.Unit]:
    """The same for STS-B: pairs of its train part, whose sentences are not known."""
    place = {sentence: row for row, sentence in enumerate(unit.train)}
    scored, gold = [], []
    for pair in tasks.table(data / "stsb/stsb.csv.gz"):
        both = [place.get(pair[side]) for side in ("sentence1", "sentence2")]
        if pair["split"] == "train" and None not in both and u(f"held {both}") < 1 / 3:
            scored += both
            gold.append(float(pair["score"]))
    known = np.setdiff1d(np.arange(len(unit.train)), scored)[:KNOWN]
    (target,) = unit.targets
    target = replace(target, test=np.arange(len(scored)).reshape(-1, 2), y_test=np.array(gold))
    return known, np.array(scored), replace(unit, targets=(target,))


def labelled(unit: tasks.Unit, train: np.ndarray, test: np.ndarray) -> float:
    """Mean of the quick probes over the targets, in points."""
    scores = []
    for target in unit.targets:
        names = {"classes": ("knn", "shot10", "retrieval"), "binary": ("knn", "shot10")}
        found = run_probes(
            train[target.train],
            target.y_train,
            test[target.test.ravel()],
            target.y_test,
            target.kind,
            names=names.get(target.kind),
            draws=DRAWS,
        )
        scores.append(np.mean([probe.score() for probe in found.values()]))
    return float(np.mean(scores))


def further_criteria(vectors: np.ndarray) -> dict[str, float]:
    """Criteria of the literature that need no halves."""
    from sklearn.cluster import KMeans

    X = normalise(vectors.astype(np.float64))
    spectrum = np.linalg.eigvalsh(np.cov(vectors.astype(np.float64).T)).clip(min=0)
    shares = spectrum[spectrum > 0] / spectrum.sum()
    likeness = X @ X.T
    np.fill_diagonal(likeness, -np.inf)
    near = np.argsort(-likeness, axis=1)[:, : min(10, len(X) - 1)]
    often = np.bincount(near.ravel(), minlength=len(X))
    clusters = KMeans(min(16, len(X) // 4), random_state=0).fit_predict(X)
    votes = np.array([np.bincount(clusters[row[:5]]).argmax() for row in near])
    return {
        # Garrido et al. 2023, "RankMe"; Lu et al. 2022, "Using representation expressiveness and
        # learnability to evaluate self-supervised learning methods".
        "rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "clid": float((votes == clusters).mean()),
        "hubness": float(((often - often.mean()) ** 3).mean() / max(often.std(), 1e-9) ** 3),
    }


def judged_candidates() -> list[Candidate]:
    """The fixed list, then what only an export to sentence-transformers' own modules offers."""
    listed = sweep.candidate_list()
    names = {option.name for option in listed}
    return listed + [o for o in native_candidates() if o.name not in names]


def column(row: str, unit: tasks.Unit, encoder: str, data: Path) -> Column | None:
    """Score every candidate with and without labels."""
    aside = set_aside(unit, data)
    if aside is None:
        return None
    known, scored, part = aside
    train, _ = encoders.tokens(unit, encoder, data)
    fitted, told = Part(train, known), Part(train, scored)
    options = judged_candidates()
    found = prepare(fitted, BLOCKS | sweep.SPECS, "quick", 0)  # type: ignore[arg-type]
    rows, vectors, _ = compare(fitted, [found], options, dim=DIM, random_state=0)  # type: ignore[arg-type]
    test = found.blocks.of(told)  # type: ignore[arg-type]
    back = np.argsort(found.rows)
    everything = {name: block[back] for name, block in found.features.items()}
    cache: dict[Any, Any] = {}
    scores = []
    for place, option in enumerate(options):
        rows[place] |= further_criteria(vectors[option.name])
        reduction = Reduction(option).fit(found.fitted, DIM, cache)
        scores.append(labelled(part, reduction.transform(everything), reduction.transform(test)))
    native = labelled(part, everything["mean"], test["mean"])
    names = [option.name for option in options]
    return Column(row, unit.id, encoder, names, rows, scores, native)
