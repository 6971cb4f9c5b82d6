"""The verdict: which candidate, how surely it beats the mean, and otherwise the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from onevec.blocks import Prepared
from onevec.judge.exam import Exam
from onevec.judge.unlabelled import Evidence, length_readability
from onevec.reduction import KEEP_MEAN, Candidate, Reduction
from onevec.tokens.batches import Tokens

_LEAST_HELD_OUT = 40
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Verdict:
    """What was chosen and on what evidence.

    Attributes
    ----------
    choice : str
        Name of the chosen candidate.
    beats_mean : bool
        Whether something was surely better; if not, the choice is the mean.
    probability : float
        Probability, from the held-out sequences, that the candidate named in the sentence beats
        the mean on the label-free scores. Not a statement about any particular label.
    sentence : str
        The verdict in one sentence.
    held_out : int
        Sequences it rests on.
    candidates : list of dict
        For each: name, predictability, pseudo_labels, of both the gain over the mean with its
        standard error, and z, what both say in standard errors.
    length_r2 : float or None
        How well the logarithm of the length can be read from the chosen vector (R² of ridge on
        held-out sequences); None where nothing was compared.
    """

    choice: str
    beats_mean: bool
    probability: float
    sentence: str
    held_out: int
    candidates: list[dict[str, Any]] = field(default_factory=list)
    length_r2: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return asdict(self)


def judge(
    tokens: Tokens,
    prepared: Prepared,
    options: list[Candidate],
    *,
    dim: int,
    random_state: int,
) -> tuple[Candidate, Verdict]:
    """Choose among candidates on held-out sequences: the first that surely beats the mean.

    Parameters
    ----------
    tokens : Ragged or TokenStore
        Where the sequences are.
    prepared : Prepared
        Their block features; nothing is fitted to its held-out rows, and those of one token are
        passed over.
    options : list of Candidate
        The mean, then the others, the likeliest best first.
    dim : int
        Dimension of all candidates.
    random_state : int
        Seed.
    """
    usable = prepared.held_out_rows(tokens)
    if len(usable) < _LEAST_HELD_OUT or len(options) == 1:
        return KEEP_MEAN, _undecided(len(usable), len(options))
    cache: dict[Any, Any] = {}
    # Closed-form blocks ask, learned ones too must answer.
    exam = Exam.set(tokens, prepared.closed(), random_state, cache)
    halves = exam.answers(prepared.blocks)
    reductions = {o.name: Reduction(o).fit(prepared.fitted, dim, cache) for o in options}
    evidence = {name: exam.evidence(r, halves) for name, r in reductions.items()}
    chosen, verdict = _choose(options, evidence)
    whole = {name: block[exam.held] for name, block in prepared.features.items()}
    vectors = reductions[chosen.name].transform(whole)
    leak = length_readability(vectors, exam.lengths, random_state)
    return chosen, replace(verdict, length_r2=leak)


def _undecided(held_out: int, options: int) -> Verdict:
    why = (
        "there is only one candidate"
        if options == 1
        else f"only {held_out} sequences of two or more tokens could be held out, "
        f"and a verdict needs {_LEAST_HELD_OUT}"
    )
    return Verdict(KEEP_MEAN.name, False, 0.5, f"Keep the mean: {why}.", held_out)


def _choose(
    options: list[Candidate], evidence: Mapping[str, Evidence]
) -> tuple[Candidate, Verdict]:
    mean = evidence[KEEP_MEAN.name]
    table = []
    for option in options:
        ours = evidence[option.name]
        row: dict[str, Any] = {"name": option.name}
        for score in ("predictability", "pseudo_labels"):
            gains = getattr(ours, score) - getattr(mean, score)
            row[score] = float(getattr(ours, score).mean())
            row[f"{score}_gain"] = float(gains.mean())
            row[f"{score}_error"] = float(gains.std(ddof=1) / math.sqrt(len(gains)))
        row["z"] = _joint_z(row)
        table.append(row)
    # These scores tell what beats the mean from what does not, but hardly rank the winners: the
    # order of the candidates is a better guide there (benchmarks/LOG.md).
    winners = [place for place, row in enumerate(table) if row["z"] >= _STANDARD_ERRORS]
    best = winners[0] if winners else max(range(len(table)), key=lambda place: table[place]["z"])
    row = table[best]
    z = row["z"]
    # Never certain: the normal approximation knows nothing that far out.
    probability = min(0.5 * (1 + math.erf(z / math.sqrt(2))), 0.999)
    held_out = len(mean.predictability)
    sure = z >= _STANDARD_ERRORS
    chosen = options[best] if sure else KEEP_MEAN
    evidence_words = (
        f"on {held_out} held-out sequences: pseudo-labels of the other half "
        f"{100 * row['pseudo_labels']:.1f} % right against {100 * table[0]['pseudo_labels']:.1f} % "
        f"for the mean, its statistics R² {row['predictability']:.2f} against "
        f"{table[0]['predictability']:.2f}"
    )
    if sure:
        sentence = (
            f"Use {chosen.name}: judged without labels it beats the mean with probability "
            f"{_words(probability)} ({evidence_words})."
        )
    elif best == 0:
        sentence = f"Keep the mean: nothing tried scores above it ({evidence_words})."
    else:
        sentence = (
            f"Keep the mean: nothing is surely better; the nearest is {row['name']}, better with "
            f"probability {_words(probability)} ({evidence_words})."
        )
    return chosen, Verdict(chosen.name, sure, probability, sentence, held_out, table)


def _words(probability: float) -> str:
    return "above 0.99" if probability > 0.99 else f"{probability:.2f}"


def _joint_z(row: Mapping[str, Any]) -> float:
    """Average the two z-scores, which is safe however they correlate.

    Pseudo-labels count twice: they tell better what labels will say (benchmarks/LOG.md).
    """
    return (2 * _z(row, "pseudo_labels") + _z(row, "predictability")) / 3


def _z(row: Mapping[str, Any], score: str) -> float:
    error = row[f"{score}_error"]
    return row[f"{score}_gain"] / error if error > 0 else 0.0
