"""How vectors of the wide table are scored, and what is known of their tokens without labels.

Beside the protocol's probes stand the two that users type: a logistic regression on standardised
vectors, and on the vectors as they come. Neither scales a vector to length 1 nor tunes anything,
so that they show where a vector is only good under the protocol's care.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from onevec.probes.outcomes import Outcome
from onevec.probes.probes import SHOTS, draw_shots, run_probes
from onevec.tokens.batches import Tokens
from protocol.tasks import Target

DRAWS = 5
PROTOCOL = "protocol"
TYPED: dict[str, Callable[[], object]] = {
    "standardised": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=1)),
    "as they come": lambda: LogisticRegression(C=1),
}
PROBES = (PROTOCOL, *TYPED)
_ROWS = 512  # sequences read at a time
_RANK_SEQUENCES = 1_000

Vectors = Float[np.ndarray, "seqs dim"]


def score(train: Vectors, test: Vectors, target: Target) -> dict[str, dict[str, Outcome]]:
    """Outcomes of the protocol's probes, and of each that users type where there are classes."""
    if target.kind == "similarity":
        none = np.empty((0, train.shape[1])), []
        found = run_probes(*none, test, target.y_test, target.kind, pairs=target.test)
        return {PROTOCOL: found}
    split = train[target.train], target.y_train, test[target.test], target.y_test
    found = {PROTOCOL: run_probes(*split, target.kind)}
    if target.kind == "regression":
        return found
    return found | {name: {name: typed(name, *split, kind=target.kind)} for name in TYPED}


def typed(
    name: str, train: Vectors, y_train: np.ndarray, test: Vectors, y_test: np.ndarray, *, kind: str
) -> Outcome:
    """What a user would type, on ten labels a class; which ones depends on the labels alone."""
    codes = np.unique(np.concatenate([y_train, y_test]), return_inverse=True)[1]
    known, scored = np.split(codes, [len(y_train)])
    rng = np.random.default_rng(0)
    values = []
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the user reads the score all the same
        for _ in range(DRAWS):
            rows = draw_shots(known, SHOTS, rng)
            model = TYPED[name]().fit(train[rows], known[rows])
            if kind == "binary":
                values.append(model.decision_function(test).astype(np.float32))
            else:
                values.append((model.predict(test) == scored).astype(np.uint8))
    return Outcome("auroc" if kind == "binary" else "balanced", np.stack(values), scored)


# --- without labels -----------------------------------------------------------------------------


def plain_mean(tokens: Tokens) -> Vectors:
    """The native mean, by NumPy: the reference knows nothing of onevec."""
    return np.concatenate(
        [
            np.add.reduceat(values, starts, axis=0, dtype=np.float64) / lengths[:, None]
            for values, starts, lengths in _pieces(tokens)
        ]
    ).astype(np.float32)


def _pieces(tokens: Tokens) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Token vectors in fp32, where each sequence begins, and how long it is; no one is empty."""
    for first in range(0, len(tokens), _ROWS):
        batch = tokens[first : first + _ROWS]
        lengths = batch.lengths.numpy()
        yield batch.values.float().numpy(), np.cumsum(lengths) - lengths, lengths


def describe(tokens: Tokens, kind: str) -> dict[str, float | int | str]:
    """What a verdict may know of training tokens: nothing here reads a label.

    Returns
    -------
    dict
        ``kind`` as given, ``dim``, ``sequences``, ``length`` (mean tokens per sequence),
        ``icc`` (intraclass correlation of tokens: one-way random effects, averaged over the
        features that vary), ``norm_cv`` (coefficient of variation of the tokens' norms) and
        ``rank`` (effective rank of the means, centred and of length 1: the exponential of their
        spectrum's entropy; of 1,000 sequences).
    """
    sums, squares, norms, lengths = [], 0.0, [], []
    centre = tokens[: min(_ROWS, len(tokens))].values.double().mean(0).numpy()
    for values, starts, counts in _pieces(tokens):
        apart = values - centre
        sums.append(np.add.reduceat(apart, starts, axis=0))
        squares = squares + (apart**2).sum(0)
        norms.append(np.linalg.norm(values, axis=1))
        lengths.append(counts)
    n, total, norm = np.concatenate(lengths), np.concatenate(sums), np.concatenate(norms)
    return {
        "kind": kind,
        "dim": int(total.shape[1]),
        "sequences": len(n),
        "length": float(n.mean()),
        "icc": _intraclass(total, squares, n),
        "norm_cv": float(norm.std() / norm.mean()),
        "rank": effective_rank(total / n[:, None]),
    }


def _intraclass(total: np.ndarray, squares: np.ndarray, n: np.ndarray) -> float:
    """ICC(1) of groups of unequal size (Donner 1986), averaged over features."""
    groups, count = len(n), n.sum()
    means = total / n[:, None]
    inside = (squares - n @ means**2) / (count - groups)
    between = (n @ means**2 - total.sum(0) ** 2 / count) / (groups - 1)
    size = (count - (n**2).sum() / count) / (groups - 1)
    varies = between + inside > 0
    between, inside = between[varies], inside[varies]
    return float(((between - inside) / (between + (size - 1) * inside)).mean())


def effective_rank(means: Vectors) -> float:
    """Exponential of the entropy of the spectrum (Roy and Vetterli 2007)."""
    rows = np.random.default_rng(0).permutation(len(means))[:_RANK_SEQUENCES]
    apart = means[rows].astype(np.float64)
    apart -= apart.mean(0)
    apart /= np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12)
    share = np.linalg.eigvalsh(apart.T @ apart)
    share = share[share > 0] / share[share > 0].sum()
    return float(np.exp(-(share * np.log(share)).sum()))
