"""Shared fixtures: small data whose answers are known."""

import os

# Small arrays on shared cores: a second thread waits more than it works.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest


@pytest.fixture
def easy_tokens():
    """Sequences of four kinds with the same expected mean: their spread tells them apart."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(4, size=400)
    spreads = np.where(rng.random((4, 24)) < 0.5, 0.3, 2.0)
    tokens = [rng.normal(size=(40, 24)) * spreads[kind] for kind in kinds]
    return [t.astype(np.float32) for t in tokens], kinds
