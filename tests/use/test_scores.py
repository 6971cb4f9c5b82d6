"""onevec.evaluate takes a model and labelled sequences, as the command does."""

import numpy as np
import pytest

import onevec
from onevec import OneVec, OnevecError, encode
from onevec.use.vectors import METHODS


@pytest.fixture
def data(easy_tokens, tmp_path):
    tokens, kinds = easy_tokens
    labels = [f"kind {kind}" for kind in kinds]
    store = encode(tokens, out=tmp_path / "s", metadata={"kind": labels}, progress=False)
    model = OneVec(dim=6, pooler="mean|std").fit(store)
    return model, store, tokens, labels


def test_stores_paths_and_arrays_are_scored_alike(data, tmp_path):
    model, store, tokens, labels = data
    table = onevec.evaluate(model, store, "kind")
    assert list(table) == list(METHODS)
    assert table["onevec"]["knn"] > table["mean"]["knn"] + 20
    saved = model.save(tmp_path / "m")
    assert onevec.evaluate(saved, str(store.path), "kind") == table
    assert onevec.evaluate(model, store, labels) == table
    assert onevec.evaluate(model, tokens, labels)["mean"]["knn"] == table["mean"]["knn"]
    both = onevec.evaluate(
        model, tokens[:200], labels[:200], test=tokens[200:], test_labels=labels[200:]
    )
    assert both["onevec"]["interval"][0] > 10


def test_small_classes_and_rows_without_a_label_are_left_out_and_told(data):
    model, store, _, labels = data
    changed = ["rare", None, "", float("nan"), *labels[4:]]
    with pytest.warns(UserWarning) as told:
        table = onevec.evaluate(model, store, changed)
    assert "3 of 400 rows have no label" in str(told[0].message)
    assert "1 classes with fewer than 3 rows" in str(told[1].message)
    assert np.isfinite(table["onevec"]["gain"])


@pytest.mark.parametrize(
    ("given", "words"),
    [({"labels": "none"}, "no column 'none'"), ({"labels": ["a"]}, "1 labels for 400"),
     ({"labels": [""] * 400}, "holds no label"), ({"test_labels": ["a"]}, "without test"),
     ({"labels": [["a"]] * 400}, "holds lists"), ({"labels": ["a"] * 400}, "1 classes")],
)  # fmt: skip
def test_mistakes_are_one_sentence(data, given, words):
    with pytest.raises(OnevecError, match=words):
        onevec.evaluate(data[0], data[1], **{"labels": "kind", **given})
