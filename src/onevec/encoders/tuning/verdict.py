"""The verdict: is the tuned encoder better, and did it pay against tuning the aggregation alone?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from onevec.encoders.tuning.exam import Answers, Comparison, HalfExam, score
from onevec.encoders.tuning.student import Student
from onevec.ragged import Ragged

_LEAST_HELD_OUT = 40
_SURE = 2.0  # standard errors
_SAMPLE = 2_000  # sequences that the aggregation is fitted to
FROZEN, TUNED = "frozen", "tuned"


@dataclass
class Ways:
    """Ways to make vectors: their answers to the exam, and what they cost.

    Attributes
    ----------
    answers : dict of str to (first, second)
        By name, such as "frozen + onevec".
    seconds : dict of str to float
        Of one core, to fit them.
    """

    answers: dict[str, Answers] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add_aggregation(
        self, state: str, student: Student, exam: HalfExam, known: Ragged, *, dim: int, seed: int
    ) -> None:
        """Fit `OneVec` to the encoder as it is; the mean, reduced alike, stands beside it."""
        from onevec.estimator import OneVec

        specials, student.trainee.specials = student.trainee.specials, False  # as `encode` does
        began = time.process_time()
        tokens = student.tokens(known[: min(len(known), _SAMPLE)])
        encoded = time.process_time() - began
        model = OneVec(dim, random_state=seed).fit(tokens)
        spent = time.process_time() - began
        both = [student.tokens(half) for half in exam.halves]
        student.trainee.specials = specials
        means = [model.transform_baselines(half)["mean_pca"] for half in both]
        self.answers[f"{state} + mean"] = means[0], means[1]
        self.answers[f"{state} + onevec"] = model.transform(both[0]), model.transform(both[1])
        self.seconds[f"{state} + mean"] = encoded
        self.seconds[f"{state} + onevec"] = spent


def verdict(
    exam: HalfExam, before: Answers, after: Answers | None, ways: Ways, tuning_seconds: float
) -> dict[str, Any]:
    """Compare the encoder after training with what it was, and with the aggregation alone.

    Parameters
    ----------
    before, after : (first, second)
        Answers of the encoder; None where no state scored above the start.
    ways : Ways
        Means and aggregations, frozen and tuned.
    tuning_seconds : float
        Of one core.

    Returns
    -------
    dict
        ``sentence``; ``better``: whether the tuned encoder surely is; ``probability``, ``gain``
        in points and ``interval``; ``held_out``; ``rows``: every way with its gain over the
        frozen mean and its seconds.
    """
    if len(exam) < _LEAST_HELD_OUT:
        words = (
            f"Undecided: only {len(exam)} sequences could be held out to judge the tuned encoder, "
            f"and a verdict needs {_LEAST_HELD_OUT}."
        )
        return {"sentence": words, "better": False, "probability": 0.5, "held_out": len(exam)}
    if after is None:
        words = "Keep the encoder as it was."
        return {"sentence": words, "better": False, "probability": 0.5, "held_out": len(exam)}
    found = {name: exam.evidence(answers) for name, answers in ways.answers.items()}
    old, new = exam.evidence(before), exam.evidence(after)
    compared = Comparison.of(new, old)
    evidence = (
        f"on {len(exam)} held-out sequences: pseudo-labels of the other half "
        f"{100 * new.pseudo_labels.mean():.1f} % right against "
        f"{100 * old.pseudo_labels.mean():.1f} %, its statistics R² "
        f"{new.predictability.mean():.2f} against {old.predictability.mean():.2f}"
    )
    better = compared.z >= _SURE
    if better:
        words = (
            "The tuned encoder is better than it was: judged without labels with probability "
            f"{compared.words} ({evidence})."
        )
    else:
        words = (
            "Keep the encoder as it was: the tuned one is not surely better, judged without "
            f"labels with probability {compared.words} ({evidence})."
        )
    rows = {}
    for name, each in found.items():
        against = Comparison.of(each, found[f"{FROZEN} + mean"])
        seconds = ways.seconds[name] + tuning_seconds * name.startswith(TUNED)
        rows[name] = {
            "score": score(each),
            "gain": against.gain,
            "interval": list(against.interval),
            "seconds": round(seconds, 2),
        }
    if rows:
        words = f"{words} {_against_aggregation(found, rows)}"
    return {
        "sentence": words,
        "better": bool(better),
        "probability": compared.probability,
        "gain": compared.gain,
        "interval": list(compared.interval),
        "held_out": len(exam),
        "rows": rows,
    }


def _against_aggregation(found: dict[str, Any], rows: dict[str, Any]) -> str:
    """Say whether tuning the encoder beats tuning the aggregation alone, and at what cost.

    By halves alone: on chess it does, where labels say the opposite (benchmarks/LOG.md).
    """
    best = max((f"{TUNED} + mean", f"{TUNED} + onevec"), key=lambda name: rows[name]["gain"])
    alone = f"{FROZEN} + onevec"
    compared = Comparison.of(found[best], found[alone])
    ours, theirs = rows[best], rows[alone]
    if compared.z >= _SURE:
        how = f"tuning the encoder ({best}) beats tuning the aggregation alone"
    elif compared.z <= -_SURE:
        how = "tuning the aggregation alone beats tuning the encoder"
    else:
        how = "neither tuning the encoder nor the aggregation alone is surely better"
    per = [60 * row["gain"] / max(row["seconds"], 1e-3) for row in (ours, theirs)]
    return (
        f"In guessing the other half, which labels may contradict, {how}: {ours['gain']:+.1f} "
        f"against {theirs['gain']:+.1f} points over the frozen mean, in "
        f"{ours['seconds']:.0f} against {theirs['seconds']:.0f} s of one core "
        f"({per[0]:+.1f} against {per[1]:+.1f} points a minute)."
    )
