"""Data selection: which sequences to label, or to keep, judged by their vectors alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from onevec.errors import InputError
from onevec.poolers.fitting import kmeans_codebook, nearest
from onevec.use.greedy import (
    Order,
    Pool,
    determinantal,
    facility_location,
    k_center,
    max_coverage,
    nearest_distances,
    squared_distances,
)
from onevec.use.rows import BLOCK, Source, check_weights, covered, split_labelled

_PARTS = 8  # rows of a part: an eighth of what is taken at once
_SAMPLE = 2_048  # rows that tell how far apart vectors are
_CLUSTERS, _PER_CLUSTER, _FITTED = 512, 512, 32  # at most; rows wanted in one; rows per centre
_MOST_LABELLED = 4_096  # of determinantal, whose cost grows with their square


@dataclass(frozen=True)
class Selected:
    """What `select` chose.

    Attributes
    ----------
    rows : ndarray of int64, shape (chosen,)
        In the order of choice. Of k_center, facility_location and determinantal the first k are
        the choice for k, where the rows are at most `Selector.most`.
    gains : ndarray, shape (chosen,)
        What each added to its method's objective; see the methods.
    coverage : float
        Mean cosine of a row with the chosen (or labelled) row it is most similar to.
    radius : float
        Largest Euclidean distance, 0 to 2, of a row to the nearest chosen (or labelled) one.
    """

    rows: Int[np.ndarray, " chosen"]
    gains: Float[np.ndarray, " chosen"]
    coverage: float
    radius: float


@dataclass(frozen=True)
class Selector:
    """One way to choose.

    Attributes
    ----------
    about : str
        For what it is good.
    greedy : callable, optional
        Takes a `Pool` in memory.
    most : int
        Rows that ``greedy`` takes at once; of more, parts are chosen from first.
    stands_in : bool
        Whether a row chosen from a part counts there for the rows that it represents.
    stream : callable, optional
        Takes the rows piece by piece, however many.
    """

    about: str
    greedy: Callable[[Pool, int], Order] | None = None
    most: int = 8_192
    stands_in: bool = False
    stream: Callable[..., Order] | None = None


def select(
    vectors: Any,
    count: int | None = None,
    method: str = "facility_location",
    *,
    labelled: Any = None,
    weights: Any = None,
    threshold: float | None = None,
    random_state: int = 0,
) -> Selected:
    """Choose rows of a table of vectors; labels are never read.

    Parameters
    ----------
    vectors : array or path
        Shape (rows, dim); a memory map, or the path of a file of vectors, is read in pieces. Rows
        are scaled to length 1, as search and the probes do.
    count : int, optional
        How many; needed by all methods but "deduplicate". At most all rows are chosen.
    method : str
        An entry of `SELECTORS`.
    labelled : array of int, or of vectors, optional
        What is labelled already: row numbers, which are not chosen again, or vectors of shape
        (labelled, dim) from elsewhere. All methods then prefer what is far from these.
    weights : array, shape (rows,), optional
        How much each row matters, above 0. "random" and "density_balanced" draw by them, "k_center"
        multiplies distances, "deduplicate" keeps the heavier row.
    threshold : float, optional
        "deduplicate" only: cosine from which two rows count as the same.
    random_state : int
        Seed of every draw.

    Returns
    -------
    Selected

    Raises
    ------
    InputError
        For vectors that are not finite, and other broken rules; the message names the row.

    Notes
    -----
    No matrix of all rows by all rows is ever made. Above `Selector.most` rows the greedy methods
    first choose from random parts, then among what these gave (GreeDi, Mirzasoleiman et al. 2013;
    random parts, Barbosa et al. 2015); facility location and coverage let each row given stand for
    the rows it represents. Where ``count`` is more than a quarter of ``most``, each part gives its
    share and nothing is merged.

    Examples
    --------
    >>> import numpy as np
    >>> vectors = np.random.default_rng(0).normal(size=(1000, 16))
    >>> select(vectors, 10).rows.shape
    (10,)
    """
    if method not in SELECTORS:
        raise InputError(f"there is no method {method!r}: choose from {', '.join(SELECTORS)}")
    if threshold is not None and method != "deduplicate":
        raise InputError(f"got threshold={threshold} with method={method!r}: only deduplicate has")
    if not isinstance(random_state, int | np.integer) or random_state < 0:
        raise InputError(f"got random_state={random_state!r}: a whole number of at least 0")
    source = Source.of(vectors)
    known, given = split_labelled(labelled, source)
    free = np.setdiff1d(np.arange(len(source)), known)
    count = _count(count, method, threshold, len(free))
    task = _Task(
        source,
        free,
        np.concatenate([source.take(known), given]),
        check_weights(weights, len(source)),
        np.random.default_rng(random_state),
        int(random_state),
    )
    selector = SELECTORS[method]
    if selector.stream is not None:
        rows, gains = selector.stream(task, count, threshold)
    else:
        if method == "determinantal" and len(task.labelled) > _MOST_LABELLED:
            raise InputError(
                f"got {len(task.labelled)} labelled rows, of which determinantal takes "
                f"{_MOST_LABELLED}: use k_center or facility_location"
            )
        rows, gains = _greedy(task, count, selector)
    chosen = np.concatenate([source.take(rows), task.labelled])
    return Selected(rows, gains, *covered(source, chosen))


@dataclass(frozen=True)
class _Task:
    """What every selector gets.

    ``free`` are the rows that may be chosen, ``labelled`` the vectors that are labelled.
    """

    source: Source
    free: Int[np.ndarray, " free"]
    labelled: Float[np.ndarray, "labelled dim"]
    weights: Float[np.ndarray, " rows"]
    rng: np.random.Generator
    seed: int


# --- greedy methods, in parts where the rows are many -------------------------------------------


def _greedy(task: _Task, count: int, selector: Selector) -> Order:
    """Choose directly, or from random parts and then among what they gave."""
    greedy = selector.greedy
    assert greedy is not None
    width, reach = _scales(task, count)
    pool = Pool(task.source.take(task.free[:0]), task.labelled, task.weights[:0], width, reach)

    def choose(rows: np.ndarray, weights: np.ndarray, number: int) -> Order:
        found = replace(pool, X=task.source.take(rows), weights=weights)
        places, gains = greedy(found, min(number, len(rows)))
        return rows[places], gains

    def parted(rows: np.ndarray) -> list[np.ndarray]:
        number = math.ceil(_PARTS * len(rows) / selector.most)
        return [np.sort(part) for part in np.array_split(task.rng.permutation(len(rows)), number)]

    rows, weights = task.free, task.weights[task.free]
    if len(rows) > selector.most and 4 * count > selector.most:
        parts = parted(rows)
        shares = np.diff(np.linspace(0, count, len(parts) + 1).astype(int))
        found = [
            choose(rows[part], weights[part], share)
            for part, share in zip(parts, shares, strict=True)
        ]
        return np.concatenate([r for r, _ in found]), np.concatenate([g for _, g in found])
    while len(rows) > selector.most:
        parts = parted(rows)
        each = min(count, max(1, selector.most // len(parts)))
        given = []
        for part in parts:
            chosen, _ = choose(rows[part], weights[part], each)
            mass = weights[part][np.searchsorted(rows[part], chosen)]
            if selector.stands_in:
                mass = np.maximum(mass, _mass(task, rows[part], weights[part], chosen))
            given.append((chosen, mass))
        rows, weights = (np.concatenate(each) for each in zip(*given, strict=True))
        order = np.argsort(rows)
        rows, weights = rows[order], weights[order]
    return choose(rows, weights, count)


def _mass(
    task: _Task, rows: np.ndarray, weights: np.ndarray, chosen: np.ndarray
) -> Float[np.ndarray, " chosen"]:
    """Weight of the rows that each chosen one is nearest to; labelled vectors take theirs."""
    centres = np.concatenate([task.source.take(chosen), task.labelled])
    pieces = np.array_split(rows, len(rows) * len(centres) // BLOCK + 1)
    owner = [squared_distances(task.source.take(piece), centres).argmin(1) for piece in pieces]
    return np.bincount(np.concatenate(owner), weights, len(centres))[: len(chosen)]


def _scales(task: _Task, count: int) -> tuple[float, float]:
    """Kernel width and ball radius, both squared, from the distances within a seeded sample.

    The width is the median squared distance. A ball of the radius holds a ``count``-th of the
    rows at the median row.
    """
    picked = task.rng.permutation(len(task.source))[:_SAMPLE]
    X = task.source.take(np.sort(picked))
    if len(X) < 2:
        return 1.0, 1.0
    squared = squared_distances(X, X)
    np.fill_diagonal(squared, np.inf)
    place = min(len(X) - 2, max(0, (len(X) - 1) // count - 1))
    reach = float(np.median(np.partition(squared, place, axis=1)[:, place]))
    width = float(np.median(squared[np.triu_indices(len(X), 1)]))
    return width if width > 0 else 1.0, reach


# --- methods that stream ------------------------------------------------------------------------


def _random(task: _Task, count: int, _: float | None) -> Order:
    """Draw without replacement, by the weights. The gain is how many rows each stands for."""
    rows = _draw(task.free, task.weights, task.rng)[:count]
    return rows, np.full(count, len(task.free) / count)


def _density_balanced(task: _Task, count: int, _: float | None) -> Order:
    """Draw with weights over the density, so that dense regions do not outnumber sparse ones.

    The density at a row is that of a Gaussian kernel over a seeded sample (down-sampling of SPADE,
    Qiu et al. 2011), whose width is the median squared distance within which a fiftieth of the
    rows lies. A row is likewise drawn less, the more labelled vectors are near. The gain is how
    many rows each stands for.
    """
    picked = np.sort(task.rng.permutation(len(task.source))[:_SAMPLE])
    sample, width = task.source.take(picked), max(_scales(task, 50)[1], 1e-6)

    def mass(X: np.ndarray, centres: np.ndarray) -> np.ndarray:
        pieces = np.array_split(X, len(X) * len(centres) // BLOCK + 1)
        kernel = (np.exp(squared_distances(piece, centres) / -width) for piece in pieces)
        return np.concatenate([piece.sum(1, dtype=np.float64) for piece in kernel])

    density = np.concatenate([mass(X, sample) for X in task.source.pieces()]) + 1e-3
    seen = 1.0
    if len(task.labelled):
        seen = 1 + np.concatenate([mass(X, task.labelled) for X in task.source.pieces()])
    rows = _draw(task.free, task.weights / density / seen, task.rng)[:count]
    return rows, density[rows] * len(task.free) / density[rows].sum()


def _draw(
    rows: Int[np.ndarray, " some"], weights: Float[np.ndarray, " rows"], rng: np.random.Generator
) -> Int[np.ndarray, " some"]:
    """Rows in random order, the heavier likelier early (Efraimidis and Spirakis 2006)."""
    return rows[np.argsort(rng.exponential(size=len(rows)) / weights[rows], kind="stable")]


def _deduplicate(task: _Task, count: int, threshold: float | None) -> Order:
    """Drop rows that say what another says (SemDeDup, Abbas et al. 2023).

    Within clusters of about 512 rows, each row has the largest cosine with those before it (the
    heavier first, then the earlier; without a threshold in random order) and with the labelled
    vectors. Rows below the threshold are kept; with a count, those of the least cosine. Exact
    duplicates are found across clusters. The gain is one less that cosine.
    """
    source, likeness = task.source, np.full(len(task.source), -1.0)
    order = task.free if threshold is not None else task.rng.permutation(task.free)
    order = order[np.argsort(-task.weights[order], kind="stable")]
    keys = np.concatenate([_keys(piece) for piece in source.pieces()])[order]
    _, first = np.unique(keys, return_index=True)
    likeness[np.delete(order, first)] = 1.0
    order = order[np.sort(first)]
    own = _clusters(task, min(_CLUSTERS, max(1, len(source) // _PER_CLUSTER)))[order]
    for cluster in np.unique(own):
        rows = order[own == cluster]
        X = source.take(rows)
        for piece in np.array_split(np.arange(len(X)), len(X) ** 2 // BLOCK + 1):
            near = X[piece] @ X[: piece[-1] + 1].T
            near[np.arange(near.shape[1]) >= piece[:, None]] = -1.0
            likeness[rows[piece]] = near.max(1)
    if len(task.labelled):
        for rows in np.array_split(order, len(order) * len(task.labelled) // BLOCK + 1):
            seen = 1 - nearest_distances(source.take(rows), task.labelled) / 2
            likeness[rows] = np.maximum(likeness[rows], seen)
    kept = task.rng.permutation(task.free) if threshold is None else task.free
    kept = kept[np.argsort(likeness[kept], kind="stable")][:count]
    if threshold is not None:
        kept = kept[likeness[kept] < threshold]
    return kept, 1 - likeness[kept]


def _clusters(task: _Task, count: int) -> Int[np.ndarray, " rows"]:
    """Cluster of each row, by k-means fitted to a seeded sample."""
    picked = task.rng.permutation(len(task.source))[: max(_SAMPLE, _FITTED * count)]
    sample = torch.from_numpy(task.source.take(np.sort(picked)))
    book = kmeans_codebook(sample, min(count, len(sample)), task.seed)
    pieces = (torch.from_numpy(piece) for piece in task.source.pieces())
    return np.concatenate([nearest(piece, book).numpy() for piece in pieces])


def _keys(X: Float[np.ndarray, "some dim"]) -> Int[np.ndarray, " some"]:
    """A 64-bit hash of each row's bytes; equal rows have equal keys (multilinear hashing)."""
    words = np.ascontiguousarray(X + 0.0).view(np.uint32).astype(np.uint64)  # + 0: -0 is 0
    factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64)
    return (words * (2 * factors + 1)).sum(1, dtype=np.uint64)


SELECTORS: dict[str, Selector] = {
    "facility_location": Selector(
        "every row has a chosen one like it", facility_location, stands_in=True
    ),
    "max_coverage": Selector(
        "balls around the chosen hold most rows", max_coverage, stands_in=True
    ),
    "k_center": Selector("no row is far from a chosen one; takes outliers", k_center, 2**19),
    "determinantal": Selector("the chosen differ from each other most", determinantal),
    "density_balanced": Selector("equally many from dense and sparse", stream=_density_balanced),
    "deduplicate": Selector("near duplicates left out", stream=_deduplicate),
    "random": Selector("what the others have to beat", stream=_random),
}


# --- input --------------------------------------------------------------------------------------


def _count(count: int | None, method: str, threshold: float | None, free: int) -> int:
    if count is None and method == "deduplicate":
        if threshold is None:
            raise InputError("deduplicate needs a count or a threshold (such as 0.95)")
        count = max(free, 1)
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise InputError(f"got count={count!r}: it must be a whole number of at least 1")
    if free == 0:
        raise InputError("all rows are labelled: there is nothing left to choose")
    if threshold is not None and not -1 < threshold <= 1:
        raise InputError(f"got threshold={threshold}: a cosine is above -1 and at most 1")
    return min(int(count), free)
