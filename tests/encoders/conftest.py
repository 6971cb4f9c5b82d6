import numpy as np
import pytest
import torch

TINY = {"layers": 1, "dim": 16, "heads": 2, "context": 32, "batch_tokens": 256, "random_state": 3}


@pytest.fixture(scope="session")
def corpus():
    """A language in which each letter's neighbours are known."""
    rng = np.random.default_rng(0)
    return [
        ("abcdef" * 14)[start : start + n] for start, n in rng.integers((0, 8), (6, 70), (120, 2))
    ]


@pytest.fixture(scope="session")
def waves():
    """One sine wave in frames of 4 samples and 8 phases: neighbours tell what is hidden."""
    rng = np.random.default_rng(0)
    phases = np.sin(np.pi / 4 * np.arange(8)[:, None] + np.arange(4) / 8).astype(np.float32)
    return [
        phases[(start + np.arange(n)) % 8] for start, n in rng.integers((0, 8), (8, 60), (80, 2))
    ]


@pytest.fixture
def attended(monkeypatch):
    """Types of numbers that attention was given."""
    seen, real = set(), torch.nn.functional.scaled_dot_product_attention

    def spy(query, *rest, **settings):
        seen.add(query.dtype)
        return real(query, *rest, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    return seen
