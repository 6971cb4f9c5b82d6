"""A small encoder of letters, texts of all lengths, and models whose learned parts have moved."""

import numpy as np
import pytest
import torch

from onevec import OneVec, encode, pretrain
from onevec.vector.blocks import Blocks, BlockSpec
from onevec.vector.fitted import Vector
from tests.tokens.conftest import ALPHABET, bert  # noqa: F401  (a fixture)

CONTEXT = 32


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    rng = np.random.default_rng(0)
    starts = rng.integers((0, 4), (8, 31), (80, 2))
    corpus = [("abcdefgh" * 6)[start : start + n] for start, n in starts]
    folder = tmp_path_factory.mktemp("encoder") / "letters"
    pretrain(
        corpus, folder, tokenizer="character", steps=300, layers=2, dim=16, heads=2,
        context=CONTEXT, batch_tokens=256, learning_rate=1e-2,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def texts():
    """Letters, some unknown to the encoder: from one of them to more than it reads."""
    rng = np.random.default_rng(1)
    lengths = [1, 1, 2, 3, CONTEXT - 2, CONTEXT - 1, 50, *rng.integers(1, 28, 53)]
    return ["".join(rng.choice(list("abcdefghz"), size=n)) for n in lengths]


def encoded(texts, encoder, *, layer="last", **options):
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* sequences were longer .*")
        warnings.filterwarnings("ignore", ".* are not in the vocabulary .*")
        options = {"layers": layer, "dtype": "float32", "progress": False, **options}
        return encode(texts, encoder, **options)


@pytest.fixture(scope="session")
def tokens(encoder, texts):
    return encoded(texts, encoder)


@pytest.fixture(scope="session")
def many(texts):
    """Enough of them for what stands beside the mean."""
    rng = np.random.default_rng(2)
    return texts + ["".join(rng.choice(list("abcdefgh"), size=n)) for n in rng.integers(1, 28, 100)]


@pytest.fixture(scope="session")
def many_tokens(encoder, many):
    return encoded(many, encoder)


@pytest.fixture(scope="session")
def proteins():
    """Texts for the tiny BERT, the first ones of one token."""
    rng = np.random.default_rng(3)
    lengths = [1, 1, 2, *rng.integers(1, 40, 157)]
    return ["".join(rng.choice(list(ALPHABET), size=n)) for n in lengths]


@pytest.fixture(scope="session")
def layered(bert, proteins, tmp_path_factory):  # noqa: F811
    """A store of two hidden states and their classification tokens."""
    folder = tmp_path_factory.mktemp("layered") / "store"
    return encoded(proteins, bert, out=folder, layer="last,middle")


@pytest.fixture(scope="session")
def layered_model(layered):
    """Every part that there is by default, and the classification token, of both hidden states."""
    parts = {"mean": 1, "rich": 1, "plain": 1, "cls": 1}
    return OneVec(layers="last,middle", parts=parts).fit(layered)


def fitted(tokens, pooler, dim=6, **options):
    """Fit a model; learned parts are moved far from where they start."""
    options = {"training": {"steps": 1, "progress": False}, **options}
    model = OneVec(dim=dim, pooler=pooler, **options).fit(tokens)
    torch.manual_seed(0)
    with torch.no_grad():
        for blocks in model.blocks_.values():
            for part in blocks.poolers.values():
                for parameter in part.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.5)
    return model


def made_of(tokens, specs, recipe, dim=6):
    """Fit a model that no pooler spec names."""
    model = fitted(tokens, "mean")
    blocks = Blocks.fit(tokens, {"mean": BlockSpec.of("mean", {})} | specs, 0)
    (layer,) = model.layers_
    model._adopt({layer: blocks}, Vector.alone(recipe, layer, blocks.of(tokens), dim))
    return model


def error(found, wanted):
    """Largest difference over the root mean square norm."""
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max() / np.sqrt((wanted**2).sum(1).mean())
