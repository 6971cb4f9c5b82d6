"""The verdict: what the vector is likely worth against the mean, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onevec.judge.measured import COVERED, Estimate

LEAST_SEQUENCES = 30  # with fewer nothing beside the mean is learned
LEAST_HELD_OUT = 10  # and with fewer held out nothing is said of these data
SURELY = 3.0  # standard errors
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
        Their difference in standard errors.
    structure_z : float
        The larger of the differences of both from chance, one half, in standard errors, whatever
        their signs: near 0 nothing in these data tells one sequence from another.
    neighbours : float
        Share of the ten nearest neighbours by the mean that the vector has too.
    length_r2, length_r2_of_mean : float
        How well the logarithm of the length can be read (R² of ridge).
    """

    found: float
    found_by_mean: float
    found_z: float
    structure_z: float
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
        these data have structure (see `OwnEvidence.structure_z`), and their tokens are as alike
        within a sequence as measured ones are.
    sentence : str
        The verdict in a few sentences.
    held_out : int
        Sequences that the evidence of these data rests on.
    chance : float or None
        Share of measured tasks, those like these data weighted most, that gained anything; None
        where nothing is known.
    expected_gain : float or None
        Their average gain over the native mean, in points of the average probe with labels.
    interval : list of two floats, or None
        Range of the measured gains, see `onevec.judge.measured.Estimate`.
    measured : Estimate or None
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
    chance: float | None = None
    expected_gain: float | None = None
    interval: list[float] | None = None
    measured: Estimate | None = None
    evidence: OwnEvidence | None = None
    shorter: Shortened | None = None
    dimensions: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Verdict:
        """Rebuild from `as_dict`."""
        kinds = {"measured": Estimate, "evidence": OwnEvidence, "shorter": Shortened}
        made = {name: kind(**held[name]) for name, kind in kinds.items() if held[name] is not None}
        return cls(**{**held, **made})


def keep_the_mean(why: str, dim: int, native: int) -> Verdict:
    """Return the verdict that the native mean is kept, perhaps shortened."""
    if dim >= native:
        return Verdict(KEPT, False, f"Keep the mean: {why}.")
    words = f"Keep the mean: {why}. Its {native} dimensions are shortened to the leading {dim}."
    return Verdict(KEPT, False, words, shorter=Shortened(dim, native, native))


def verdict(
    found: Estimate | None,
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
    found : Estimate or None
        Measured gains of the same kind of data.
    evidence : OwnEvidence or None
        Of these data.
    held_out : int
        Sequences it rests on.
    kind : {"encoder", "frames", "one length"}
        Which kind of data was measured, see `onevec.judge.measured.kind_of`.
    shorter : Shortened, optional
        Cost of fewer dimensions.
    several_layers : bool
        Whether further hidden states are parts too: the table has measured the last alone.
    """
    # Without it the best range would claim on noise.
    structure = evidence is not None and evidence.structure_z >= SURELY
    alone = not several_layers and not (shorter and shorter.below_the_mean)
    claimed = found is not None and found.low > 0 and alone and structure and not found.beyond
    parts = [f"The vector holds {CONTAINED}."]
    if found is None:
        parts.append("No measured data are like these, so no gain over the mean is promised.")
    else:
        parts += [_expected(found, kind, claimed, structure), *_reasons(found, kind, evidence)]
    if several_layers and found is not None:
        parts.append(
            "That is the gain of the last layer alone: several layers gain more on most encoders "
            "and lose on some, so nothing is claimed for them."
        )
    if shorter:
        parts.append(cost(shorter))
    return Verdict(
        CONTAINED,
        claimed,
        " ".join(parts),
        held_out=held_out,
        chance=None if found is None else found.chance,
        expected_gain=None if found is None else found.gain,
        interval=None if found is None else [found.low, found.high],
        measured=found,
        evidence=evidence,
        shorter=shorter,
    )


_MEASURED = {
    "encoder": "encoders",
    "frames": "sets of ready frames",
    "one length": "sets of one-hot events and encoders with random weights",
}


def _expected(found: Estimate, kind: str, claimed: bool, structure: bool) -> str:
    head = "It is better than the mean" if claimed else "It is likely better than the mean"
    if found.gain <= 0:
        head = "It is not likely better than the mean"
    tail = ""
    if found.low <= 0:
        tail = "; as that range reaches below 0, no win is claimed"
    elif not structure:
        tail = (
            "; but nothing in these data tells one sequence from another (the halves of a sequence "
            "are no nearer to each other than to those of others), so no win is claimed"
        )
    elif found.beyond:
        tail = (
            f"; but no measured tokens are as alike within a sequence as these (intraclass "
            f"correlation {found.icc:.2f}), so no win is claimed"
        )
    elif not claimed:
        tail = "; that was not measured with these settings, so no win is claimed"
    return (
        f"{head} (chance {_percent(found.chance)}): on {found.rows} measured tasks of "
        f"{found.encoders} {_MEASURED[kind]}, those with similar tokens weighted most, such a "
        f"vector gained {found.gain:+.1f} points on average, and {_percent(COVERED)} of the gains "
        f"lie between {found.low:+.1f} and {found.high:+.1f}{tail}."
    )


def _percent(share: float) -> str:
    """Write a share, never as certain: few rows cannot tell 99 % from 100 %."""
    return "above 99 %" if share > 0.99 else f"{100 * share:.0f} %"


def _reasons(found: Estimate, kind: str, evidence: OwnEvidence | None) -> list[str]:
    """Return one reason for a gain and one against it, where there are some."""
    reasons = []
    alike = f"intraclass correlation {found.icc:.2f}, measured ones {found.average_icc:.2f}"
    if kind == "one length":
        reasons.append(
            "Against it: all token vectors have the same length. If they are no one-hot events, "
            "the encoder has random weights, or they were scaled: check that its weights were "
            "loaded."
        )
    if kind == "encoder":  # of frames it tells nothing
        if found.icc <= found.average_icc:
            reasons.append(
                f"For it: the tokens of a sequence differ ({alike}), which the mean averages away."
            )
        else:
            reasons.append(
                f"Against it: the tokens of a sequence are alike ({alike}), so the mean holds much "
                "of what they say."
            )
    if evidence is not None and abs(evidence.found_z) >= SURELY:
        word = "For" if evidence.found_z > 0 else "Against"
        more = "more" if evidence.found_z > 0 else "less"
        reasons.append(
            f"{word} it: it finds the other half of a held-out sequence {more} often than the "
            f"mean (in {100 * evidence.found:.1f} % of comparisons; the mean in "
            f"{100 * evidence.found_by_mean:.1f} %)."
        )
    return reasons


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
