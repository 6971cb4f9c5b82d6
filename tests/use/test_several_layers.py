"""Search and MTEB with a model that reads several hidden states and the classification token."""

import numpy as np
import pytest

from onevec import OneVec, encode
from onevec.use.mteb import MTEBModel
from onevec.use.search import Index, embed, search
from tests.tokens.conftest import ALPHABET, bert  # noqa: F401  (a fixture)

CLOSE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(ALPHABET), size=n)) for n in [1, 1, *rng.integers(1, 40, 98)]]


@pytest.fixture(scope="module")
def store(bert, texts, tmp_path_factory):  # noqa: F811
    options = {"layers": "last,middle", "dtype": "float32", "progress": False}
    return encode(texts, bert, out=tmp_path_factory.mktemp("layers") / "store", **options)


PARTS = {"mean": 1, "rich": 1, "plain": 1, "cls": 1}


@pytest.mark.parametrize("options", [{"parts": PARTS}, {"dim": 8}], ids=["cls", "shortened"])
def test_raw_texts_get_the_vectors_of_the_store(bert, texts, store, options):  # noqa: F811
    model = OneVec(layers="last,middle", **options).fit(store)
    wanted = model.transform(store)
    settings = {"dtype": "float32", "progress": False}
    found = embed(texts[:9], model, bert, **settings)
    np.testing.assert_allclose(found.vectors, wanted[:9], **CLOSE)
    index = Index.build(embed(str(store.path), model))
    hits = search(index, texts[2:9], 1, model=model, encoder=bert, **settings)
    assert hits.ids[:, 0].tolist() == [str(row) for row in range(2, 9)]
    theirs = MTEBModel(bert, model, dtype="float32")
    np.testing.assert_allclose(theirs.encode([{"text": texts[:9]}]), wanted[:9], **CLOSE)
    mean = MTEBModel(bert, model, method="mean", dtype="float32").encode([{"text": texts[:9]}])
    np.testing.assert_allclose(mean, model.transform_baselines(store)["mean"][:9], **CLOSE)


def test_the_mean_that_is_kept_reads_one_of_the_layers(bert, texts, tmp_path):  # noqa: F811
    options = {"layers": "last,middle", "dtype": "float32", "progress": False}
    store = encode(texts[:20], bert, out=tmp_path / "store", **options)
    model = OneVec(layers="last,middle").fit(store)
    assert model.layers_ == [3]
    wanted = model.transform(store)
    np.testing.assert_allclose(wanted, model.transform_baselines(store)["mean"], **CLOSE)
    found = embed(texts[:9], model, bert, dtype="float32", progress=False)
    np.testing.assert_allclose(found.vectors, wanted[:9], **CLOSE)


def test_a_mapping_says_which_states_are_encoded(bert, texts):  # noqa: F811
    options = {"dtype": "float32", "progress": False}
    held = {layer: encode(texts, bert, layers=layer, **options) for layer in (1, 3)}
    for layers, given in (("all", held), (None, {1: held[1]})):
        model = OneVec(layers=layers, parts="mean,plain").fit(given)
        found = embed(texts[:9], model, bert, **options)
        np.testing.assert_allclose(found.vectors, model.transform(given)[:9], **CLOSE)
    # Bare arrays do not say; the argument does.
    model = OneVec(parts="mean,plain").fit(held[1])
    found = embed(texts[:9], model, bert, layers=1, **options)
    np.testing.assert_allclose(found.vectors, model.transform(held[1])[:9], **CLOSE)
