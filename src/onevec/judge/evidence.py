"""What held-out sequences of the user's own data say of the vector, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from onevec.blocks import Features, Prepared, unsteady
from onevec.judge.dimension import DIMENSIONS, dimension_curve, neighbours_kept, smallest
from onevec.judge.unlabelled import length_readability, matched_retrieval
from onevec.judge.verdict import LEAST_HELD_OUT, LEAST_SEQUENCES
from onevec.parts import PARTS, Part
from onevec.reduction import MEAN
from onevec.tokens.batches import Tokens
from onevec.vector import Vector

_LEAST_ERROR = 1e-4  # all differences alike must not make a number of errors without end
_ROUNDING = 1e-5  # of the largest value: sequences that differ by less are alike


@dataclass(frozen=True)
class Findings:
    """What was found on held-out sequences.

    Attributes
    ----------
    held_out : int
        How many there were; 0 where too few could be held out, and nothing else is known then.
    evidence, shorter, dimensions
        See `onevec.judge.verdict.Verdict`; ``shorter`` has the shares of neighbours alone.
    enough : int or None
        With ``dim="auto"``, the fewest dimensions that keep enough neighbours.
    """

    held_out: int = 0
    evidence: dict[str, float] = field(default_factory=dict)
    shorter: dict[str, float] = field(default_factory=dict)
    dimensions: list[dict[str, Any]] = field(default_factory=list)
    enough: int | None = None


def findings_of(
    layers: Mapping[int, Tokens],
    found: Mapping[int, Prepared],
    asked: Sequence[tuple[str, int, Part]],
    *,
    dim: int | str | None,
    random_state: int,
    **given: Any,
) -> Findings:
    """Fit the vector to the other sequences, and look at those that are held out.

    Classification tokens have no halves: their parts are left out. What never varies within a
    sequence is left out of the mean, see `unsteady`.

    Parameters
    ----------
    layers, found : mapping of hidden state to tokens, and to their features
        The main one first.
    asked : sequence of (name, hidden state, Part)
        The parts.
    dim : int, "auto" or None
        As for `OneVec`.
    random_state : int
        Seed.
    **given
        Of `Vector.fit`.
    """
    main, tokens = next(iter(layers.items()))
    prepared = found[main]
    held = prepared.held_out_rows(tokens)
    asked = [each for each in asked if each[2].reads == "tokens"]
    if len(held) < LEAST_HELD_OUT or prepared.halves is None or not asked:
        return Findings()

    def of(rows: np.ndarray) -> dict[int, Features]:
        """Features of some rows by hidden state."""
        return {
            layer: unsteady({n: b[rows] for n, b in each.features.items()}, each.blocks)
            for layer, each in found.items()
        }

    known, unseen = of(np.arange(prepared.count)), of(held)
    cut = {layer: each.held_out_halves(held) for layer, each in found.items()}
    halves = [{layer: both[side] for layer, both in cut.items() if both} for side in (0, 1)]
    vector = Vector.fit(asked, known, nuisance=prepared.fitted_nuisance, **given)
    means = Vector.fit([(MEAN, main, PARTS[MEAN])], known, **given)
    lengths = tokens.lengths.cpu().numpy()[prepared.rows[held]]
    whole, mean = vector.transform(unseen), means.transform(unseen)

    def finds(way: Vector) -> np.ndarray:
        first, second = (way.transform(half) for half in halves)
        return matched_retrieval(first, second, lengths)

    ours, theirs = finds(vector), finds(means)
    evidence = {
        "found": float(ours.mean()),
        "found_by_mean": float(theirs.mean()),
        # A mean that finds less than chance does so by chance: no merit of the vector.
        "found_z": min(_in_errors(ours - theirs), _in_errors(ours - 0.5)),
        "neighbours": neighbours_kept(mean, whole),
        "length_r2": length_readability(whole, lengths, random_state),
        "length_r2_of_mean": length_readability(mean, lengths, random_state),
    }
    if dim is None:
        return Findings(len(held), evidence)
    most = DIMENSIONS[-1] if dim == "auto" else int(dim)
    leading, curve, enough = vector.turned(known, most).transform(unseen), [], None
    if dim == "auto":
        curve = dimension_curve(whole, leading)
        enough = smallest(curve)
        leading = leading[:, :enough]
    shorter = {
        "neighbours": neighbours_kept(whole, leading),
        "neighbours_of_mean": neighbours_kept(whole, mean),
    }
    return Findings(len(held), evidence, shorter, curve, enough)


def _in_errors(differences: Float[np.ndarray, " seqs"]) -> float:
    """Return the mean of differences in standard errors; 0 where all are 0."""
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    mean = float(differences.mean())
    return mean / max(error, _LEAST_ERROR)


def why_kept(tokens: Tokens, features: Features) -> str:
    """Say why nothing beside the mean can be learned; empty where it can."""
    if len(tokens) < LEAST_SEQUENCES:
        return (
            f"there are only {len(tokens)} sequences, and what it misses is learned from "
            f"{LEAST_SEQUENCES} or more"
        )
    if int(tokens.lengths.max()) == 1:
        return "every sequence is one token, so the mean holds all there is"
    if all(_alike(block) for block in features.values()):
        return "the sequences are all alike, so there is nothing beside it"
    return ""


def _alike(block: Float[np.ndarray, "seqs dims"]) -> bool:
    """Whether rounding is all that tells the rows apart."""
    return bool(np.ptp(block, axis=0).max() <= _ROUNDING * np.abs(block).max())
