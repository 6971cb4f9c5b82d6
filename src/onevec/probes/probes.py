"""Labelled scores: the only part of onevec that reads labels, and never to fit anything.

The probes follow the benchmark's protocol. Each keeps, per test item and draw of labels, what its
score is made of, so that gains can be paired and carry a bootstrap interval.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from threadpoolctl import threadpool_limits
from torch import Tensor

from onevec.errors import InputError
from onevec.probes.logistic import fit_logistic
from onevec.probes.outcomes import METRICS, Outcome, paired_gain
from onevec.project.rows import normalise

SHOTS = 10
LEAST_ROWS = 3  # of a class, for the folds of a probe
REGRESSION_SHOTS = 100
DRAWS, FEW_DRAWS, MANY_CLASSES = 10, 3, 50
_DECADES = np.logspace(-2, 2, 5)  # C: five values over four decades, the simplest model first
_RIDGE = np.logspace(5, -3, 17)  # half-decades, the simplest model first
_FOLDS = 3
_COARSE, _FINE = 3e-3, 1e-5  # tolerance to choose by, and of the model that is scored
_ROWS = 2_048  # of a similarity matrix at a time


def run_probes(
    train: Float[np.ndarray, "memory dim"],
    y_train: Sequence[Any] | np.ndarray,
    test: Float[np.ndarray, "items dim"],
    y_test: Sequence[Any] | np.ndarray,
    kind: str,
    *,
    names: Sequence[str] | None = None,
    pairs: Int[np.ndarray, "pairs 2"] | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> dict[str, Outcome]:
    """Score one method's vectors on one target, after the benchmark's protocol.

    Parameters
    ----------
    train, test : ndarray, shape (items, dim)
        Vectors; they are L2-normalised here.
    y_train, y_test : sequence
        Their labels. "binary": the label that sorts last is the positive one.
    kind : {"classes", "binary", "regression", "similarity"}
        - "classes": ``knn``, ``shot10``, ``full`` (balanced accuracy) and, above two classes,
          ``retrieval`` (R-precision);
        - "binary": ``knn``, ``shot10``, ``full`` (AUROC);
        - "regression": ``shot100``, ``full`` (max(0, R²));
        - "similarity": ``spearman`` of the cosines; ``train`` and ``y_train`` are not read.
    names : sequence of str, optional
        The probes to run; None runs all that apply.
    pairs : integer ndarray, shape (pairs, 2), optional
        "similarity": rows of ``test``, compared with ``y_test`` pair by pair; by default every
        two rows that follow one another.
    draws : int, optional
        Draws of few labels: 10 by default, 3 above 50 classes. They depend on the seed alone.

    Returns
    -------
    dict of str to Outcome
    """
    test = _unit_rows(test, "test")
    if kind == "similarity":
        pairs = np.arange(len(test)).reshape(-1, 2) if pairs is None else np.asarray(pairs)
        gold = _numbers(y_test, len(pairs), "the test part")
        cosine = (test[pairs[:, 0]] * test[pairs[:, 1]]).sum(1)
        return {"spearman": Outcome("spearman", cosine[None].astype(np.float32), gold)}
    train = _unit_rows(train, "fitted")
    if train.shape[1] != test.shape[1]:
        raise InputError(
            f"the vectors have {train.shape[1]} dimensions in the fitted part and {test.shape[1]} "
            "in the test part: both must come from one method"
        )
    if kind == "regression":
        known = _numbers(y_train, len(train), "the fitted part")
        scored = _numbers(y_test, len(test), "the test part")
        probes = _regression_probes(_Split(train, known, test, scored), draws or DRAWS, seed)
    elif kind in ("classes", "binary"):
        known = _labels(y_train, len(train), "the fitted part")
        scored = _labels(y_test, len(test), "the test part")
        known, scored, classes = _codes(known, scored, kind)
        split = _Split(train, known, test, scored, classes)
        fewer = DRAWS if classes <= MANY_CLASSES else FEW_DRAWS
        probes = _class_probes(split, kind, draws or fewer, seed)
    else:
        raise InputError(
            f"got kind={kind!r}: choose 'classes', 'binary', 'regression' or 'similarity'"
        )
    unknown = set(names or ()) - set(probes)
    if unknown:
        raise InputError(f"no probe {sorted(unknown)} for {kind!r}: choose among {list(probes)}")
    with threadpool_limits(1):  # on pieces this small a second thread waits more than it works
        return {name: probe() for name, probe in probes.items() if names is None or name in names}


@dataclass(frozen=True)
class _Split:
    """Unit rows and their labels; for classes, codes and how many there are."""

    train: Float[np.ndarray, "memory dim"]
    known: Shaped[np.ndarray, " memory"]
    test: Float[np.ndarray, "items dim"]
    scored: Shaped[np.ndarray, " items"]
    classes: int = 0


def _class_probes(
    split: _Split, kind: str, draws: int, seed: int
) -> dict[str, Callable[[], Outcome]]:
    train, known, test, scored = split.train, split.known, split.test, split.scored
    binary = kind == "binary"
    metric = "auroc" if binary else "balanced"

    def outcome(scores: Float[np.ndarray, "draws items classes"]) -> Outcome:
        if binary:
            return Outcome(metric, scores[..., 1] - scores[..., 0], scored)
        return Outcome(metric, (scores.argmax(2) == scored).astype(np.uint8), scored)

    def nearest() -> Outcome:
        k = 15 if binary else 5
        votes = neighbour_votes(train, known, test, split.classes, k=k, weighted=binary)
        return outcome(votes[None])

    def labelled(rows: Int[np.ndarray, "draws rows"], rng: np.random.Generator) -> Outcome:
        logits = logistic_probe(
            train, known, rows, test, classes=split.classes, metric=metric, rng=rng
        )
        return outcome(logits)

    def few() -> Outcome:
        rng = np.random.default_rng(seed)
        return labelled(np.stack([draw_shots(known, SHOTS, rng) for _ in range(draws)]), rng)

    def full() -> Outcome:
        return labelled(np.arange(len(train))[None], np.random.default_rng(seed))

    probes = {"knn": nearest, "shot10": few, "full": full}
    if kind == "classes" and split.classes > 2 and np.bincount(scored).max() > 1:
        probes["retrieval"] = lambda: retrieval_probe(test, scored)
    return probes


def neighbour_votes(
    train: Float[np.ndarray, "memory dim"],
    codes: Int[np.ndarray, " memory"],
    test: Float[np.ndarray, "items dim"],
    classes: int,
    *,
    k: int,
    weighted: bool = False,
) -> Float[np.ndarray, "items classes"]:
    """Count the votes of the ``k`` nearest unit rows by cosine.

    Weighted votes are as large as the similarity, and shares of their sum, so that a positive's
    score does not depend on how dense its neighbourhood is; a negative similarity counts almost
    nothing.
    """
    hot = torch.nn.functional.one_hot(torch.from_numpy(codes).long(), classes).float()
    memory = torch.from_numpy(train).float().T
    votes = []
    for rows in torch.from_numpy(test).float().split(_ROWS):
        likeness, near = (rows @ memory).topk(min(k, len(train)), dim=1)
        weight = torch.ones_like(likeness)
        if weighted:
            weight = likeness.clamp(min=1e-6)
            weight /= weight.sum(1, keepdim=True)
        votes.append((weight[..., None] * hot[near]).sum(1))
    return torch.cat(votes).numpy()


def retrieval_probe(
    test: Float[np.ndarray, "items dim"], codes: Int[np.ndarray, " items"]
) -> Outcome:
    """R-precision within the test split (Manning, Raghavan and Schütze 2008, chapter 8).

    In a class of R + 1 items, the share of the class among the R nearest of each. Items as near
    as the R-th share the places that are left. Classes of one item do not count.
    """
    X = test.astype(np.float32)
    sizes = np.bincount(codes)
    share = np.zeros(len(X), np.float32)
    for code in np.flatnonzero(sizes > 1):
        same = codes == code
        wanted = sizes[code] - 1
        for rows in np.split(np.flatnonzero(same), range(_ROWS, sizes[code], _ROWS)):
            likeness = X[rows] @ X.T
            likeness[np.arange(len(rows)), rows] = -np.inf  # not itself
            border = np.partition(likeness, len(X) - wanted, axis=1)[:, len(X) - wanted, None]
            above, tied = likeness > border, likeness == border
            places = (wanted - above.sum(1)) / tied.sum(1)
            share[rows] = (above[:, same].sum(1) + tied[:, same].sum(1) * places) / wanted
    return Outcome("balanced", share[None], np.where(sizes[codes] > 1, codes, -1))


def draw_shots(
    codes: Int[np.ndarray, " memory"], shots: int, rng: np.random.Generator
) -> Int[np.ndarray, " rows"]:
    """Draw ``shots`` rows per class; classes with fewer give all they have."""
    rows = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    return np.concatenate([rng.permutation(r)[:shots] for r in rows])


def stratified_folds(
    codes: Int[np.ndarray, " rows"], rng: np.random.Generator
) -> Int[np.ndarray, " rows"]:
    """Deal each class to the folds in turn, in random order; each fold starts where one ended.

    A class with fewer rows than folds is missing in some.
    """
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    folds = np.empty(len(codes), np.int64)
    folds[order] = np.arange(len(codes)) % _FOLDS
    return folds


def logistic_probe(
    train: Float[np.ndarray, "memory dim"],
    codes: Int[np.ndarray, " memory"],
    draws: Int[np.ndarray, "draws rows"],
    test: Float[np.ndarray, "items dim"],
    *,
    classes: int,
    metric: str,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draws items classes"]:
    """Return logits of a logistic regression on each draw of labelled rows.

    C and the input's scaling are chosen by stratified 3-fold cross-validation inside the labels
    of a draw, by the metric of the probe; of equals the smallest C, then the global scale.
    """
    y, picked = torch.from_numpy(codes[draws]).long(), torch.arange(len(draws))
    folds = np.stack([stratified_folds(labels, rng) for labels in codes[draws]])
    scaled, centre, scale = _two_scalings(train[draws])
    coarse = _fit_folds(scaled, y, folds, classes)
    C, scaling = np.unravel_index(
        [_choose(*parts, metric) for parts in zip(scaled, y, folds, coarse, strict=True)],
        (len(_DECADES), 2),
    )
    chosen = coarse[picked, :, scaling, C]  # (draws, folds, classes, dim + 1)
    W = fit_logistic(
        scaled[picked, scaling],
        y,
        torch.from_numpy(_DECADES[C])[None],
        classes,
        tol=_FINE,
        start=chosen.mean(1),
    )[0].double()
    weights = W[..., :-1] / scale[picked, scaling]
    intercept = W[..., -1] - (weights @ centre.transpose(1, 2))[..., 0]
    logits = torch.from_numpy(test) @ weights.transpose(1, 2) + intercept[:, None]
    return logits.float().numpy()


def _two_scalings(
    X: Float[np.ndarray, "draws rows dim"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Centre, and scale by one global scale, which keeps the geometry, or per dimension.

    Trying both, no method is helped or hurt by the probe's scaling. Returns the scaled rows
    (draws, 2, rows, dim), the centre (draws, 1, dim) and the scales (draws, 2, 1, dim).
    """
    rows = torch.from_numpy(X)
    spread, centre = torch.std_mean(rows, 1, correction=0, keepdim=True)
    spread = torch.where(spread > 1e-7 * centre.abs(), spread, 0.0)  # else it is rounding
    whole = spread.square().mean(2, keepdim=True).sqrt()
    whole = torch.where(whole > 0, whole, 1.0).expand_as(spread)
    scale = torch.stack([whole, torch.where(spread > 0, spread, 1.0)], 1)
    return ((rows - centre)[:, None] / scale).float(), centre, scale


def _fit_folds(
    scaled: Float[Tensor, "draws scalings rows dim"],
    y: Int[Tensor, "draws rows"],
    folds: Int[np.ndarray, "draws rows"],
    classes: int,
) -> Float[Tensor, "draws folds scalings path classes dim1"]:
    """Fit every C on what is outside of each fold."""
    known = [[np.flatnonzero(fold != f) for f in range(_FOLDS)] for fold in folds]
    most = max(len(rows) for draw in known for rows in draw)
    rows = np.array([[np.resize(r, most) for r in draw] for draw in known])
    extra = np.array([[np.arange(most) >= len(r) for r in draw] for draw in known])
    count, scalings = scaled.shape[:2]
    one = np.arange(count)[:, None, None, None]
    X = scaled[one, np.arange(scalings)[:, None], rows[:, :, None]]
    labels = torch.where(torch.from_numpy(extra), -1, y[one[..., 0], rows])
    labels = labels[:, :, None].expand(-1, -1, scalings, -1)
    path = torch.from_numpy(_DECADES)[:, None].expand(-1, labels[..., 0].numel())
    W = fit_logistic(X.flatten(0, 2), labels.flatten(0, 2), path, classes, tol=_COARSE)
    return W.movedim(0, 1).unflatten(0, (count, _FOLDS, scalings))


def _choose(
    scaled: Float[Tensor, "scalings rows dim"],
    y: Int[Tensor, " rows"],
    folds: Int[np.ndarray, " rows"],
    W: Float[Tensor, "folds scalings path classes dim1"],
    metric: str,
) -> int:
    """Return the best setting's place among C x scaling by the mean score of the held folds."""
    total = 0.0
    for fold in range(_FOLDS):
        held = torch.from_numpy(np.flatnonzero(folds == fold))
        if not len(held):
            continue
        weights = W[fold]
        logits = scaled[:, None, held] @ weights[..., :-1].transpose(2, 3)
        logits = (logits + weights[..., -1][..., None, :]).transpose(0, 1).flatten(0, 1)
        truth = y[held]
        if metric == "auroc":
            values = logits[..., 1] - logits[..., 0]
        else:
            values = (logits.argmax(2) == truth).double()
        once = np.ones((len(held), 1))
        total = total + METRICS[metric](values.numpy(), truth.numpy(), once)[:, 0]
    return int(np.round(total, 9).argmax())


def _regression_probes(split: _Split, draws: int, seed: int) -> dict[str, Callable[[], Outcome]]:
    def ridge(rows: Sequence[Int[np.ndarray, " labelled"]]) -> Outcome:
        guesses = [ridge_probe(split.train[r], split.known[r], split.test) for r in rows]
        return Outcome("r2", np.array(guesses, np.float32), split.scored)

    def few() -> Outcome:
        rng = np.random.default_rng(seed)
        count = len(split.train)
        return ridge([rng.permutation(count)[:REGRESSION_SHOTS] for _ in range(draws)])

    return {"shot100": few, "full": lambda: ridge([np.arange(len(split.train))])}


def ridge_probe(
    train: Float[np.ndarray, "labelled dim"],
    y: Float[np.ndarray, " labelled"],
    test: Float[np.ndarray, "items dim"],
) -> Float[np.ndarray, " items"]:
    """Ridge regression (Hoerl and Kennard 1970) with an unpenalised intercept.

    Its strength, 10^5 to 10^-3 in half-decades, and the input's scaling, as in `logistic_probe`,
    have the least squared error when each labelled row is left out in turn, in closed form
    (Allen 1974).
    """
    scaled, centre, scale = (part[0].double().numpy() for part in _two_scalings(train[None]))
    offset = y.mean()
    best, guess = np.inf, np.full(len(test), offset)
    for X, by in zip(scaled, scale, strict=True):
        U, size, Vt = np.linalg.svd(X - X.mean(0), full_matrices=False)
        keep = size[:, None] ** 2 / (size[:, None] ** 2 + _RIDGE)  # (rank, strengths)
        along = U.T @ (y - offset)
        left = (y - offset)[:, None] - U @ (keep * along[:, None])
        free = np.maximum(1 - 1 / len(y) - U**2 @ keep, 1e-12)
        error = ((left / free) ** 2).mean(0)
        choice = int(error.argmin())
        if error[choice] < best * (1 - 1e-9):
            best = error[choice]
            shrunk = size / (size**2 + _RIDGE[choice]) * along
            guess = (test - centre) / by[0] @ (Vt.T @ shrunk) + offset
    return guess


# --- input --------------------------------------------------------------------------------------


def _unit_rows(X: np.ndarray, part: str) -> Float[np.ndarray, "items dim"]:
    X = np.asarray(X, np.float64)
    if X.ndim != 2 or not X.size:
        raise InputError(f"the vectors of the {part} part have shape {X.shape}: pass (items, dim)")
    if not np.isfinite(X).all():
        bad = int((~np.isfinite(X).all(1)).sum())
        raise InputError(
            f"{bad} of {len(X)} vectors of the {part} part hold NaN or infinity: leave them out"
        )
    return normalise(X)


def _labels(y: Sequence[Any] | np.ndarray, count: int, part: str) -> np.ndarray:
    y = np.asarray(y)
    if y.shape != (count,):
        raise InputError(
            f"{part} has labels of shape {y.shape} for {count} vectors or pairs: pass one each"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise InputError(f"labels of {part} hold NaN or infinity: leave those rows out")
    return y


def _numbers(y: Sequence[Any] | np.ndarray, count: int, part: str) -> Float[np.ndarray, " items"]:
    y = _labels(y, count, part)
    if y.dtype.kind not in "fiub":
        raise InputError(f"labels of {part} are {y.dtype}: numbers are needed here")
    return y.astype(np.float32)


def _codes(known: np.ndarray, scored: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Number the labels of both parts by their order; return how many there are, too."""
    labels, codes = np.unique(np.concatenate([known, scored]), return_inverse=True)
    known, scored = np.split(codes.astype(np.int16), [len(known)])
    count = len(np.unique(known))
    if count < 2:
        raise InputError(
            f"the labels of the fitted part have {count} classes: scoring needs 2 or more"
        )
    if kind == "binary" and (len(labels) > 2 or len(np.unique(scored)) < 2):
        raise InputError(
            f"kind='binary' got the labels {labels[:5].tolist()}: it needs two, both of them in "
            "the fitted part and in the test part"
        )
    return known, scored, len(labels)


# --- the product's table ------------------------------------------------------------------------


def evaluate(
    methods: Mapping[str, tuple[np.ndarray, np.ndarray]],
    train_labels: Sequence[Any] | np.ndarray,
    test_labels: Sequence[Any] | np.ndarray,
    *,
    baseline: str = "mean",
    draws: int = 10,
    random_state: int = 0,
) -> dict[str, dict[str, Any]]:
    """Score vectors of several methods with labels, each against the baseline.

    Parameters
    ----------
    methods : mapping of name to (train vectors, test vectors)
        Each of shape (items, dim); ``dim`` may differ between methods.
    train_labels, test_labels : sequence
        Class labels. They are used here only, for scoring. Classes with fewer than 3 fitted rows
        are left out, with a warning that names them.
    baseline : str
        The method that the gains are against.

    Returns
    -------
    dict
        For each method ``dim``, ``knn``, ``shot10`` (balanced accuracy x 100) and, but for the
        baseline, ``gain`` (points of their mean) and ``interval`` (95 %).
    """
    y_train, y_test = np.asarray(train_labels), np.asarray(test_labels)
    if baseline not in methods:
        raise InputError(f"the baseline {baseline!r} is not among the methods {list(methods)}")
    for name, (train, test) in methods.items():
        if len(train) != len(y_train) or len(test) != len(y_test):
            raise InputError(
                f"{name!r} has {len(train)} + {len(test)} vectors for {len(y_train)} + "
                f"{len(y_test)} labels: pass one label per vector"
            )
    fitted, scored = _large_enough(y_train, y_test)
    y_train, y_test = y_train[fitted], y_test[scored]
    outcomes = {}
    for name, (train, test) in methods.items():
        outcomes[name] = run_probes(
            np.asarray(train)[fitted],
            y_train,
            np.asarray(test)[scored],
            y_test,
            "classes",
            names=("knn", "shot10"),
            draws=draws,
            seed=random_state,
        )
    table: dict[str, dict[str, Any]] = {}
    for name, probes in outcomes.items():
        scores = {probe: outcome.score() for probe, outcome in probes.items()}
        table[name] = {"dim": int(np.shape(methods[name][0])[1]), **scores}
        if name != baseline:
            table[name] |= paired_gain(probes, outcomes[baseline], random_state=random_state)
    return table


def _large_enough(y_train: np.ndarray, y_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say which rows of both parts belong to classes that can be scored; warn of the others."""
    classes, counts = np.unique(y_train, return_counts=True)
    kept = classes[counts >= LEAST_ROWS]
    fitted, scored = np.isin(y_train, kept), np.isin(y_test, kept)
    if len(kept) < 2 or not scored.any():
        raise InputError(
            f"the labels of the fitted part have {len(classes)} classes, {len(kept)} of them with "
            f"at least {LEAST_ROWS} rows, and {scored.sum()} rows of the test part are of these: "
            "scoring needs 2 classes and 1 row to score"
        )
    if not (fitted.all() and scored.all()):
        left_out = np.unique(np.concatenate([y_train[~fitted], y_test[~scored]])).tolist()
        more = ", …" if len(left_out) > 5 else ""
        warnings.warn(
            f"{len(left_out)} classes with fewer than {LEAST_ROWS} rows in the fitted part are "
            f"left out, with {(~fitted).sum()} fitted and {(~scored).sum()} scored rows: "
            f"{', '.join(map(str, left_out[:5]))}{more}",
            stacklevel=3,
        )
    return fitted, scored
