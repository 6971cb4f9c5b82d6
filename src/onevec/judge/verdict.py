"""The verdict: which candidate, how likely it beats the mean, and otherwise the mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from onevec.blocks import Prepared
from onevec.judge.calibration import (
    Calibration,
    beside_the_mean,
    calibration,
    measures_of,
    outdone,
    speaks,
)
from onevec.judge.compare import compare
from onevec.judge.unlabelled import length_readability
from onevec.recipe import PLAINER
from onevec.reduction import EVENED_MEAN, MEAN_PCA, Candidate
from onevec.tokens.batches import Tokens

LEAST_HELD_OUT = 30
LIKELY = 0.7  # a candidate that beats the mean with this probability is taken
SURE = 0.9  # and with this one the verdict claims that it does
_EVEN_ENOUGH = 0.95  # of the other halves found by mean + PCA: more than that, and it is kept
_ROUNDING = 1e-5  # of the largest value
_NINETY = 1.645  # standard deviations to either side that hold 90 %


@dataclass(frozen=True)
class Verdict:
    """What was chosen and on what evidence.

    Attributes
    ----------
    choice : str
        Name of the chosen candidate.
    beats_mean : bool
        Whether something is likely better; if not, the choice is the mean: reduced by PCA, or
        `EVENED_MEAN` where mean + PCA finds the other half of less than 95 % of the sequences.
    probability : float
        Probability that the candidate named in the sentence beats the mean. Calibrated on other
        data sets with known labels (`onevec.judge.calibration`), left out one at a time; no
        statement about any particular label. 0.5 where the data themselves say nothing for it.
    sentence : str
        The verdict in one sentence.
    held_out : int
        Sequences it rests on; of few, all of them, held out in turn.
    candidates : list of dict
        For each: name, the scores without labels (see `onevec.judge.compare`), expected_gain and
        probability, and ``told``: whether the data themselves say anything for it. Where they do
        not, the other two are what such scores were worth elsewhere, and no claim.
    length_r2 : float or None
        How well the logarithm of the length can be read from the chosen vector (R² of ridge on
        held-out sequences); None where nothing was compared, and of few sequences.
    expected_gain : float or None
        Of the candidate named in the sentence, over the mean at the same number of dimensions, in
        points of the average probe with labels; None where nothing is said for it.
    interval : list of two floats, or None
        Its 90 % interval.
    dimensions : list of dict
        With ``dim="auto"``: what `onevec.judge.dimension.dimension_curve` says of the choice.
    """

    choice: str
    beats_mean: bool
    probability: float
    sentence: str
    held_out: int
    candidates: list[dict[str, Any]] = field(default_factory=list)
    length_r2: float | None = None
    expected_gain: float | None = None
    interval: list[float] | None = None
    dimensions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sure(self) -> bool:
        """Whether the verdict claims that the choice beats the mean."""
        return self.beats_mean and self.probability >= SURE

    def as_dict(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return asdict(self)


def judge(
    tokens: Tokens,
    folds: Sequence[Prepared],
    options: list[Candidate],
    *,
    dim: int,
    random_state: int,
) -> tuple[Candidate, Verdict]:
    """Choose among candidates on held-out sequences: the first that likely beats the mean.

    Parameters
    ----------
    tokens : Ragged or TokenStore
        Where the sequences are.
    folds : sequence of Prepared
        Their block features, with other sequences held out in each; nothing is fitted to held-out
        rows, and those of one token are passed over. Usually one, see `prepare_folds`.
    options : list of Candidate
        The mean, then the others, the likeliest best first; `EVENED_MEAN` is among them.
    dim : int
        Dimension of all candidates.
    random_state : int
        Seed.
    """
    usable = sum(len(fold.held_out_rows(tokens)) for fold in folds)
    why = _why_undecided(folds[0], usable, len(options))
    if why:
        return MEAN_PCA, Verdict(MEAN_PCA.name, False, 0.5, f"Keep the mean: {why}.", usable)
    rows, vectors, lengths = compare(tokens, folds, options, dim=dim, random_state=random_state)
    table = calibration()
    rows = expected(rows, table)
    place, chosen = choose(rows)
    row = rows[place]
    gain, spread = row["expected_gain"], table.spread
    taken, told = chosen == place, _told(row, rows)
    return options[chosen], Verdict(
        choice=options[chosen].name,
        beats_mean=taken,
        # Never certain: the normal approximation knows nothing that far out.
        probability=min(row["probability"], 0.999) if told else 0.5,
        sentence=_sentence(rows, place, chosen, usable),
        held_out=usable,
        candidates=[row | {"told": _told(row, rows)} for row in rows],
        length_r2=length_readability(vectors[options[chosen].name], lengths, random_state)
        if len(folds) == 1
        else None,
        expected_gain=gain if told else None,
        interval=[gain - _NINETY * spread, gain + _NINETY * spread] if told else None,
    )


def _alike(block: Float[np.ndarray, "seqs dims"]) -> bool:
    """Whether rounding is all that tells the rows apart."""
    return bool(np.ptp(block, axis=0).max() <= _ROUNDING * np.abs(block).max())


def _why_undecided(prepared: Prepared, held_out: int, options: int) -> str:
    """Why nothing can be compared; empty where it can."""
    if options == 1:
        return "there is only one candidate"
    if held_out < LEAST_HELD_OUT:
        return (
            f"only {held_out} sequences of two or more tokens could be held out, and a verdict "
            f"needs {LEAST_HELD_OUT}"
        )
    if all(_alike(block) for block in prepared.features.values()):
        return "the sequences are all alike, so there is nothing to compare"
    return ""


def expected(rows: Sequence[dict[str, Any]], table: Calibration) -> list[dict[str, Any]]:
    """Add ``expected_gain`` and ``probability`` to what `compare` says of each candidate."""
    found = []
    for row in rows:
        known = 0.0, 0.5  # the mean against itself
        if row["name"] != MEAN_PCA.name:
            known = table.expect(row["name"], measures_of(row))
        found.append(row | {"expected_gain": known[0], "probability": known[1]})
    return found


def choose(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Places of the candidate that the sentence speaks of, and of the one that is taken.

    They are the same unless the mean is kept. The scores hardly rank the winners: the order of
    the candidates is a better guide there (benchmarks/LOG.md).
    """
    for place, row in enumerate(rows[1:], 1):
        likely = row["probability"] >= LIKELY and _told(row, rows)
        if likely and outdone_by(row, rows) is None:
            return place, place
    kept = 0 if rows[0]["retrieval"] >= _EVEN_ENOUGH else _evened(rows)
    others = [place for place in range(1, len(rows)) if place != kept]
    return max(others, key=lambda p: (_told(rows[p], rows), rows[p]["probability"])), kept


def _told(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the data themselves say anything for one of the candidates.

    A blend holds the mean, and its scores need not be better: an average gains wherever something
    beside the mean tells sequences apart (benchmarks/LOG.md).
    """
    return beside_the_mean(row) if row["blend"] else speaks(row, rows)


def outdone_by(row: Mapping[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first of the plainer candidates that has every measure clearly better.

    None outdoes a blend, which is made of them.
    """
    if row["blend"]:
        return None
    plainer = {option.name for option in PLAINER}
    return next((o for o in rows if o["name"] in plainer and outdone(row, o)), None)


def _evened(rows: Sequence[dict[str, Any]]) -> int:
    return [row["name"] for row in rows].index(EVENED_MEAN.name)


def _sentence(rows: Sequence[dict[str, Any]], place: int, chosen: int, held_out: int) -> str:
    row = rows[place]
    chance = in_words(row["probability"])
    evidence = _evidence(row, rows[0], "the mean", held_out)
    if chosen == place:
        how = "beats" if row["probability"] >= SURE else "probably beats"
        # Its scores need not be better than the mean's.
        elsewhere = " as on most other data," if row["blend"] else ""
        return (
            f"Use {row['name']}: judged without labels it {how} the mean,{elsewhere} with "
            f"probability {chance}, by about {row['expected_gain']:.0f} points ({evidence})."
        )
    keep = f"Keep the {rows[chosen]['name']}" if chosen else "Keep the mean"
    if not _told(row, rows):
        return (
            f"{keep}: there is no headroom here, no candidate finds the other half clearly better, "
            f"or lies clearly more evenly where halves are told apart; the nearest is "
            f"{row['name']} ({evidence})."
        )
    better = outdone_by(row, rows)
    if row["probability"] >= LIKELY and better:
        evidence = _evidence(row, better, "the other", held_out)
        return (
            f"{keep}: the nearest is {row['name']}, and the {better['name']} outdoes it in all "
            f"that is read without labels ({evidence})."
        )
    return (
        f"{keep}: the nearest is {row['name']}, better with probability {chance} only ({evidence})."
    )


def _evidence(row: dict[str, Any], rival: dict[str, Any], who: str, held_out: int) -> str:
    return (
        f"on {held_out} held-out sequences: evenness of the vectors {-row['uniformity']:+.2f} "
        f"against {-rival['uniformity']:+.2f} for {who}, other half found "
        f"{100 * row['retrieval']:.1f} % against {100 * rival['retrieval']:.1f} %, its "
        f"pseudo-labels {100 * row['pseudo_labels']:.1f} % right against "
        f"{100 * rival['pseudo_labels']:.1f} %"
    )


def in_words(probability: float) -> str:
    """A probability as a sentence gives it."""
    return "above 0.99" if probability > 0.99 else f"{probability:.2f}"
