"""The exam of an encoder: what its vector of one half of a sequence knows of the other half.

Halves are cut from the raw sequence and encoded alone, so no context leaks. The questions are
asked before training by what no training changes: statistics of the raw input, and the encoder as
it was. Whatever is judged later, another encoder too, answers the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onevec.judge.halves import (
    Evidence,
    cluster_panel,
    gather_evidence,
    joint_z,
    without_length,
)
from onevec.ragged import Ragged
from onevec.vector.blocks import Blocks, BlockSpec
from onevec.vector.reduction import Recipe, Reduction
from onevec.views import halves

_WIDTH = 16  # directions of each kind of question
_GRAMS = (1, 2, 3)  # consecutive tokens that are counted
_COLUMNS = 2**14  # they are hashed to
_SELECT = 250  # held-out sequences that are looked at again and again

Vectors = Callable[[Ragged], Float[np.ndarray, "seqs dim"]]
Answers = tuple[Float[np.ndarray, "seqs dim"], Float[np.ndarray, "seqs dim"]]


class InputStatistics:
    """Whitened statistics of raw sequences: counted n-grams of tokens, or moments of frames.

    N-grams are weighted by inverse document frequency and reduced as in latent semantic analysis
    (Deerwester et al. 1990).
    """

    def __init__(self, sample: Ragged, discrete: bool, seed: int):
        self.discrete = discrete
        self._whole = Recipe(("statistics",), 0.0, 1.0)
        if discrete:
            from sklearn.decomposition import TruncatedSVD
            from sklearn.feature_extraction.text import TfidfTransformer

            counts = _count_grams(sample)
            self._weigh = TfidfTransformer(sublinear_tf=True).fit(counts)
            wide = min(_WIDTH, counts.shape[0] - 1)
            self._reduce = TruncatedSVD(wide, random_state=seed).fit(self._weigh.transform(counts))
        else:
            specs = {name: BlockSpec.of(name, {}) for name in ("mean", "std")}
            self._blocks = Blocks.fit(sample, specs, seed)
        self._whiten = Reduction(self._whole).fit({"statistics": self._plain(sample)}, _WIDTH)

    def _plain(self, raw: Ragged) -> np.ndarray:
        if self.discrete:
            return self._reduce.transform(self._weigh.transform(_count_grams(raw)))
        return np.hstack(list(self._blocks(raw, ["mean", "std"]).values()))

    def __call__(self, raw: Ragged) -> Float[np.ndarray, "seqs width"]:
        """Statistics of each sequence."""
        return self._whiten.transform({"statistics": self._plain(raw).astype(np.float32)})


def _count_grams(raw: Ragged) -> Any:
    """Counts of hashed n-grams, as a sparse matrix (seqs, columns)."""
    from scipy.sparse import csr_matrix

    ids = raw.values[:, 0].long().numpy().astype(np.uint64)
    rows, places = raw.rows.numpy(), raw.positions.numpy()
    found_rows, columns = [], []
    mark = np.zeros(len(ids), np.uint64)
    for size in _GRAMS:
        ahead = np.roll(ids, 1 - size)
        mark = mark * np.uint64(0x9E3779B97F4A7C15) + ahead + np.uint64(size)
        inside = places + size <= raw.lengths.numpy()[rows]
        mixed = (mark ^ (mark >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        found_rows.append(rows[inside])
        columns.append((mixed >> np.uint64(40))[inside].astype(np.int64) % _COLUMNS)
    row, column = np.concatenate(found_rows), np.concatenate(columns)
    return csr_matrix((np.ones(len(row)), (row, column)), shape=(len(raw), _COLUMNS))


class HalfExam:
    """Held-out sequences, and the questions about their halves.

    Parameters
    ----------
    held : Ragged
        Raw held-out sequences, each of two tokens or more.
    known : (seqs, dim) array
        Vectors by ``before`` of sequences that may be trained on: whitening is fitted to them.
    statistics : InputStatistics
        Of the raw input.
    before : callable
        Vectors of raw sequences by the encoder as it was.
    """

    def __init__(
        self,
        held: Ragged,
        known: Float[np.ndarray, "seqs dim"],
        statistics: InputStatistics,
        before: Vectors,
        seed: int,
    ):
        self.seed = seed
        self.halves = halves(held)
        whiten = Reduction(Recipe(("mean",), 0.0, 1.0)).fit({"mean": known}, _WIDTH)
        lengths = held.lengths.numpy()
        self.questions = []
        for hidden in reversed(self.halves):
            vectors = whiten.transform({"mean": before(hidden)})
            asked = {"input": statistics(hidden), "before": vectors}
            targets = {name: without_length(asked[name], lengths) for name in asked}
            self.questions.append((targets, cluster_panel(targets, seed)))

    def __len__(self) -> int:
        return len(self.halves[0])

    def answers(self, vectors: Vectors) -> Answers:
        """Vectors of the first and of the second halves."""
        first, second = self.halves
        return vectors(first), vectors(second)

    def evidence(self, answers: Answers) -> Evidence:
        """Score answers, both ways."""
        return Evidence.mean(
            [
                gather_evidence(seen, targets, panel, self.seed)
                for seen, (targets, panel) in zip(answers, self.questions, strict=True)
            ]
        )


@dataclass(frozen=True)
class Comparison:
    """One way to make vectors against another, on the same held-out sequences.

    Attributes
    ----------
    z : float
        What both scores say, in standard errors.
    gain : float
        In points: difference of both scores' mean, x 100.
    interval : (float, float)
        Its 95 % interval.
    probability : float
        That the difference is above 0.
    """

    z: float
    gain: float
    interval: tuple[float, float]
    probability: float

    @classmethod
    def of(cls, ours: Evidence, theirs: Evidence) -> Comparison:
        """Compare sequence by sequence."""
        row: dict[str, float] = {}
        for score in ("predictability", "pseudo_labels"):
            gains = getattr(ours, score) - getattr(theirs, score)
            row[f"{score}_gain"] = float(gains.mean())
            row[f"{score}_error"] = float(gains.std(ddof=1) / math.sqrt(len(gains)))
        z = joint_z(row)
        both = 50 * (_sum(ours) - _sum(theirs))
        error = 1.96 * float(both.std(ddof=1)) / math.sqrt(len(both))
        gain = float(both.mean())
        # Never certain: the normal approximation knows nothing that far out.
        probability = min(0.5 * (1 + math.erf(z / math.sqrt(2))), 0.999)
        return cls(z, gain, (gain - error, gain + error), probability)

    @property
    def words(self) -> str:
        """The probability in words."""
        return "above 0.99" if self.probability > 0.99 else f"{self.probability:.2f}"


def _sum(evidence: Evidence) -> np.ndarray:
    return evidence.predictability + evidence.pseudo_labels


def score(evidence: Evidence) -> float:
    """R² of the other half's statistics plus the share of its pseudo-labels that are guessed."""
    return float(_sum(evidence).mean())


def split_rows(
    lengths: Sequence[int] | Tensor, share: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to train on, to select with, and to judge with."""
    sizes = torch.as_tensor(lengths)
    count = len(sizes)
    most = min(1_000, max(round(share * count), min(160, count // 3)))
    order = torch.from_numpy(np.random.default_rng([seed, 5]).permutation(count))
    fit = order[sizes[order] >= 2][:most]
    train = torch.from_numpy(np.setdiff1d(np.arange(count), fit.numpy()))
    half = min(len(fit) // 2, _SELECT)
    return train, fit[:half].sort().values, fit[half:].sort().values
