"""The verdict: what the vector is likely worth against the mean, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onevec.judge.measured import Range

LEAST_SEQUENCES = 30  # with fewer nothing beside the mean is learned
LEAST_HELD_OUT = 10  # and with fewer held out nothing is said of these data
SURELY = 3.0  # standard errors by which the vector must find the other half more often
CONTAINED = "the mean and what it misses, side by side"
KEPT = "the mean"


@dataclass(frozen=True)
class OwnEvidence:
    """What held-out sequences of these data say, no labels read.

    Attributes
    ----------
    found, found_by_mean : float
        Share of other sequences that are less like one half of a sequence than its own other half
        is, by the vector and by the mean.
    found_z : float
        Their difference in standard errors, or the vector's difference from chance where that is
        smaller.
    neighbours : float
        Share of the ten nearest neighbours by the mean that the vector has too.
    length_r2, length_r2_of_mean : float
        How well the logarithm of the length can be read (R² of ridge).
    """

    found: float
    found_by_mean: float
    found_z: float
    neighbours: float
    length_r2: float
    length_r2_of_mean: float


@dataclass(frozen=True)
class Shortened:
    """What fewer dimensions cost on these data.

    Attributes
    ----------
    dim, whole, native : int
        Dimensions of the vector, of all parts side by side, and of the mean.
    neighbours, neighbours_of_mean : float or None
        Share of the ten nearest neighbours in the whole vector that stay, and that share by the
        mean; None where too few sequences could be held out.
    """

    dim: int
    whole: int
    native: int
    neighbours: float | None = None
    neighbours_of_mean: float | None = None

    @property
    def below_the_mean(self) -> bool:
        """Whether it has fewer dimensions than the mean: that is no longer contained."""
        return self.dim < self.native


@dataclass(frozen=True)
class Verdict:
    """What the vector holds, and what is known of its worth.

    Attributes
    ----------
    choice : str
        `CONTAINED`, `KEPT` (the native mean, exactly, or its leading directions), or what the
        user asked for.
    beats_mean : bool
        Whether "better than the mean" is claimed: the whole range of measured gains is above 0,
        and on these data too the vector finds the other half of a sequence surely more often.
    sentence : str
        The verdict in a few sentences.
    held_out : int
        Sequences that the evidence of these data rests on.
    expected_gain : float or None
        Average measured gain over the native mean, in points of the average probe with labels;
        None where nothing is known.
    interval : list of two floats, or None
        Range of the measured gains.
    measured : Range or None
        Where the two come from.
    evidence : OwnEvidence or None
        What these data say; None where they are too few.
    shorter : Shortened or None
        What it costs that fewer dimensions were asked for.
    dimensions : list of dict
        With ``dim="auto"``, see `onevec.judge.dimension.dimension_curve`.
    """

    choice: str
    beats_mean: bool
    sentence: str
    held_out: int = 0
    expected_gain: float | None = None
    interval: list[float] | None = None
    measured: Range | None = None
    evidence: OwnEvidence | None = None
    shorter: Shortened | None = None
    dimensions: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Verdict:
        """Rebuild from `as_dict`."""
        kinds = {"measured": Range, "evidence": OwnEvidence, "shorter": Shortened}
        made = {name: kind(**held[name]) for name, kind in kinds.items() if held[name] is not None}
        return cls(**{**held, **made})


def keep_the_mean(why: str, dim: int, native: int) -> Verdict:
    """Return the verdict that the native mean is kept, perhaps shortened."""
    if dim >= native:
        return Verdict(KEPT, False, f"Keep the mean: {why}.")
    words = f"Keep the mean: {why}. Its {native} dimensions are shortened to the leading {dim}."
    return Verdict(KEPT, False, words, shorter=Shortened(dim, native, native))


def verdict(
    found: Range | None,
    evidence: OwnEvidence | None,
    held_out: int,
    *,
    kind: str,
    shorter: Shortened | None = None,
    several_layers: bool = False,
) -> Verdict:
    """Say what is known of the default vector.

    Parameters
    ----------
    found : Range or None
        Measured gains of the same kind of data.
    evidence : OwnEvidence or None
        Of these data.
    held_out : int
        Sequences it rests on.
    kind : {"encoder", "frames"}
        Which kind of data was measured.
    shorter : Shortened, optional
        Cost of fewer dimensions.
    several_layers : bool
        Whether further hidden states are parts too: the table has measured the last alone.
    """
    # Or the best range would claim on noise.
    agrees = evidence is not None and evidence.found_z >= SURELY
    alone = not several_layers and not (shorter and shorter.below_the_mean)
    claimed = found is not None and found.low > 0 and alone and agrees
    parts = [f"The vector holds {CONTAINED}."]
    if found is None:
        parts.append("No measured data are like these, so no gain over the mean is promised.")
    else:
        parts.append(_expected(found, kind, claimed))
    if several_layers and found is not None:
        parts.append(
            "That is the gain of the last layer alone: several layers gain more on most encoders "
            "and lose on some, so nothing is claimed for them."
        )
    if shorter:
        parts.append(cost(shorter))
    if evidence:
        parts.append(_own(evidence, held_out))
    return Verdict(
        CONTAINED,
        claimed,
        " ".join(parts),
        held_out=held_out,
        expected_gain=None if found is None else found.gain,
        interval=None if found is None else [found.low, found.high],
        measured=found,
        evidence=evidence,
        shorter=shorter,
    )


def _expected(found: Range, kind: str, claimed: bool) -> str:
    of = "encoders" if kind == "encoder" else "sets of ready frames"
    head = "It is better than the mean" if claimed else "It is likely better than the mean"
    if found.gain <= 0:
        head = "It is not likely better than the mean"
    tail = ""
    if found.low <= 0:
        tail = "; as that range reaches below 0, no win is claimed"
    elif not claimed:
        tail = "; these data do not confirm it, so no win is claimed"
    return (
        f"{head}: on {found.rows} measured tasks of {found.encoders} other {of} such a vector "
        f"gained {found.gain:+.1f} points on average, {100 * found.covered:.0f} % of the time "
        f"between {found.low:+.1f} and {found.high:+.1f}{tail}."
    )


def cost(shorter: Shortened) -> str:
    """Say what fewer dimensions cost on these data."""
    words = f"Its {shorter.whole} dimensions are shortened to {shorter.dim}"
    if shorter.neighbours is not None and shorter.neighbours_of_mean is not None:
        words += (
            f", which keeps {100 * shorter.neighbours:.0f} % of the ten nearest neighbours; the "
            f"mean shares {100 * shorter.neighbours_of_mean:.0f} % with the whole vector"
        )
    if shorter.below_the_mean:
        words += (
            f"; with fewer than the mean's {shorter.native} dimensions it no longer "
            "contains the mean whole, and the gain may be lower"
        )
    return f"{words}."


def _own(evidence: OwnEvidence, held_out: int) -> str:
    found, by_mean = 100 * evidence.found, 100 * evidence.found_by_mean
    return (
        f"On {held_out:,} held-out sequences of these data, all parts together put one half of a "
        f"sequence nearer to its own other half than to another's in {found:.1f} % of comparisons "
        f"(the mean: {by_mean:.1f} %; chance: 50 %), and keep {100 * evidence.neighbours:.0f} % "
        "of the mean's ten nearest neighbours."
    )
