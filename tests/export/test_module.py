"""The torch module of a model against `transform`."""

import numpy as np
import pytest
import torch

from onevec import OneVec, Ragged
from onevec.vector.module import TokensToVector, affine_of
from tests.export.conftest import error


@pytest.fixture(scope="module")
def sequences():
    """Two hidden states of the same ragged sequences, some of one token."""
    rng = np.random.default_rng(0)
    lengths = torch.tensor([1, 1, 2, *rng.integers(1, 25, 197)])
    values = rng.normal(size=(2, int(lengths.sum()), 12)) * np.linspace(0.3, 2, 12) + 1
    values[1] += 0.5 * np.roll(values[0], 1, axis=0)
    return {
        at: Ragged(torch.tensor(each).float(), lengths)
        for at, each in zip((1, 3), values, strict=True)
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dim": 7},
        {"parts": {"mean": 1, "std|vlad": 0.5, "moments": 2}},
        {"export": "sentence-transformers"},
        {"pooler": "mean|std", "dim": 5},
    ],
    ids=str,
)
def test_one_layer(sequences, options):
    tokens = sequences[3]
    model = OneVec(**options).fit(tokens)
    wanted, head = model.transform(tokens), TokensToVector(model.vector_, model.blocks_)
    assert (head.layers, head.cls_layers) == ([-1], [])
    for rows in (slice(0, 1), slice(0, 4), slice(5, 40), slice(0, 200)):
        assert error(head(tokens[rows]).numpy(), wanted[rows]) < 1e-4


@pytest.mark.parametrize("options", [{}, {"dim": 20}], ids=["whole", "shortened"])
def test_several_layers(sequences, options):
    model = OneVec(layers={3: 1.0, 1: 0.5}, **options).fit(sequences)
    head = TokensToVector(model.vector_, model.blocks_)
    assert head.layers == [3, 1]
    found = head({at: tokens[:50] for at, tokens in sequences.items()})
    assert error(found.numpy(), model.transform(sequences)[:50]) < 1e-4


def test_classification_tokens(layered_model, layered):
    head, rows = TokensToVector(layered_model.vector_, layered_model.blocks_), np.arange(30)
    stores = {at: layered.layer(at) for at in head.layers}
    tokens = {at: store[rows] for at, store in stores.items()}
    cls = {at: store.cls_rows(rows) for at, store in stores.items()}
    assert head.cls_layers == [1, 3]
    assert error(head(tokens, cls).numpy(), layered_model.transform(layered)[:30]) < 1e-4


@pytest.mark.parametrize("options", [{}, {"dim": 4}, {"nuisance": ["length"]}], ids=str)
def test_the_affine_form(sequences, options):
    tokens = sequences[3]
    model = OneVec(export="sentence-transformers", **options).fit(tokens)
    blocks, bias = affine_of(model.vector_)
    features = model.blocks_[-1].of(tokens, names=list(blocks))
    found = bias + sum((features[n].astype(float) - c) @ m for n, (c, m) in blocks.items())
    assert error(found, model.transform(tokens)) < 1e-5
