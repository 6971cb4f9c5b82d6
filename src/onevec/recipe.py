"""The closed-form recipe: its blocks, and the candidates made of them."""

from __future__ import annotations

from typing import Any

from onevec.reduction import EVENED_MEAN, MEAN, MEAN_PCA, Candidate

# Changes here change what the verdict's table was made for: run benchmarks/judge.py.
BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("mean", {}),
    "dct": ("dct", {"count": 8}),
    "transport": ("kernel_transport", {}),
    "covariance": ("covariance", {"rank": 24}),
    "lagged": ("lagged_covariance", {"rank": 16}),
}
RICH = Candidate(("dct", "transport", "covariance", "lagged"), 0.25, 0.0, unit=True)


def candidates() -> list[Candidate]:
    """List the default candidates: the mean, then the others, the likeliest best first.

    The order is what other data sets taught (benchmarks/LOG.md); the judge takes the first that
    likely beats the mean and that the evened mean does not outdo.
    """
    whitened = (Candidate((MEAN,), 0.0, power) for power in (0.5, 1.0))
    return [MEAN_PCA, RICH, EVENED_MEAN, *whitened]
