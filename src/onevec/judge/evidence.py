"""What held-out sequences of the user's own data say of the vector, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from onevec.judge.dimension import dimension_curve, neighbours_kept, smallest
from onevec.judge.halves import length_readability, matched_retrieval
from onevec.judge.verdict import LEAST_SEQUENCES, OwnEvidence

_LEAST_ERROR = 1e-4  # all differences alike must not make a number of errors without end
_ROUNDING = 1e-5  # of the largest value: sequences that differ by less are alike


@dataclass(frozen=True)
class Findings:
    """What was found on held-out sequences.

    Attributes
    ----------
    held_out : int
        How many there were; 0 where too few could be held out, and nothing else is known then.
    evidence : OwnEvidence or None
        What they say.
    neighbours, neighbours_of_mean : float or None
        See `onevec.judge.verdict.Shortened`, where fewer dimensions are asked for.
    dimensions : list of dict
        See `onevec.judge.dimension.dimension_curve`.
    enough : int or None
        With ``dim="auto"``, the fewest dimensions that keep enough neighbours.
    """

    held_out: int = 0
    evidence: OwnEvidence | None = None
    neighbours: float | None = None
    neighbours_of_mean: float | None = None
    dimensions: list[dict[str, Any]] = field(default_factory=list)
    enough: int | None = None


def findings_of(
    *,
    lengths: Int[np.ndarray, " seqs"],
    vectors: Float[np.ndarray, "seqs dim"],
    means: Float[np.ndarray, "seqs mean_dim"],
    halves: tuple[Float[np.ndarray, "seqs dim"], Float[np.ndarray, "seqs dim"]],
    mean_halves: tuple[Float[np.ndarray, "seqs mean_dim"], Float[np.ndarray, "seqs mean_dim"]],
    leading: Float[np.ndarray, "seqs dims"] | None = None,
    auto: bool = False,
    random_state: int = 0,
) -> Findings:
    """Compare the vectors of held-out sequences, and of their halves, with the mean's.

    Parameters
    ----------
    lengths : ndarray of int, shape (seqs,)
        Numbers of tokens, at least 2.
    vectors, means : ndarray, shape (seqs, dim)
        Of sequences that nothing was fitted to, by all parts and by the mean alone.
    halves, mean_halves : tuple of two ndarrays, shape (seqs, dim)
        The same of their first and of their second halves.
    leading : ndarray, shape (seqs, dims), optional
        The vectors along their leading directions, where fewer dimensions are asked for.
    auto : bool
        Whether the fewest dimensions that are enough are looked for.
    random_state : int
        Seed.
    """
    ours, theirs = (
        matched_retrieval(first, second, lengths) for first, second in (halves, mean_halves)
    )
    evidence = OwnEvidence(
        found=float(ours.mean()),
        found_by_mean=float(theirs.mean()),
        found_z=_in_errors(ours - theirs),
        structure_z=max(abs(_in_errors(each - 0.5)) for each in (ours, theirs)),
        neighbours=neighbours_kept(means, vectors),
        length_r2=length_readability(vectors, lengths, random_state),
        length_r2_of_mean=length_readability(means, lengths, random_state),
    )
    if leading is None:
        return Findings(len(lengths), evidence)
    curve, enough = [], None
    if auto:
        curve = dimension_curve(vectors, leading)
        enough = smallest(curve)
        leading = leading[:, :enough]
    return Findings(
        len(lengths),
        evidence,
        neighbours_kept(vectors, leading),
        neighbours_kept(vectors, means),
        curve,
        enough,
    )


def _in_errors(differences: Float[np.ndarray, " seqs"]) -> float:
    """Return the mean of differences in standard errors; 0 where all are 0."""
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    mean = float(differences.mean())
    return mean / max(error, _LEAST_ERROR)


def why_kept(
    lengths: Int[np.ndarray, " seqs"], blocks: Sequence[Float[np.ndarray, "_known _dims"]]
) -> str:
    """Say why nothing beside the mean can be learned; empty where it can.

    Parameters
    ----------
    lengths : ndarray
        Of all sequences.
    blocks : sequence of ndarray
        What poolers say of those that are fitted to.
    """
    if len(lengths) < LEAST_SEQUENCES:
        return (
            f"there are only {len(lengths)} sequences, and what it misses is learned from "
            f"{LEAST_SEQUENCES} or more"
        )
    if int(lengths.max()) == 1:
        return "every sequence is one token, so the mean holds all there is"
    if all(_alike(block) for block in blocks):
        return "the sequences are all alike, so there is nothing beside it"
    return ""


def _alike(block: Float[np.ndarray, "seqs dims"]) -> bool:
    """Whether rounding is all that tells the rows apart."""
    return bool(np.ptp(block, axis=0).max() <= _ROUNDING * np.abs(block).max())
