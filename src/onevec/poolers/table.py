"""The table of poolers: one line each."""

from __future__ import annotations

from onevec.poolers.base import Pooler
from onevec.poolers.codebook import VLAD
from onevec.poolers.covariance import Correlation, Covariance
from onevec.poolers.order import DCT
from onevec.poolers.statistics import (
    PNA,
    Max,
    Mean,
    Min,
    Moments,
    PowerMeans,
    Quantiles,
    Statistics,
    Std,
)

POOLERS: dict[str, type[Pooler]] = {
    "mean": Mean,
    "max": Max,
    "min": Min,
    "std": Std,
    "statistics": Statistics,
    "moments": Moments,
    "power_means": PowerMeans,
    "quantiles": Quantiles,
    "pna": PNA,
    "covariance": Covariance,
    "correlation": Correlation,
    "vlad": VLAD,
    "dct": DCT,
}
