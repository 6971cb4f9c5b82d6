"""OneVec on raw sequences: the encoder is a parameter, and two lines are enough."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from onevec import OneVec, OnevecError, encode, load
from onevec.tokens import encoding as encoding_module
from onevec.vector import held_out
from tests.tokens.conftest import ALPHABET, bert, vit  # noqa: F401  (fixtures)

CLOSE = {"atol": 1e-5, "rtol": 0}
# Other batches round otherwise in the last place, and half precision makes that visible.
OTHER_BATCHES = {"atol": 3e-3, "rtol": 0}
QUICK = {"dim": 4, "pooler": "mean|std"}


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(ALPHABET), size=n)) for n in rng.integers(4, 40, size=120)]


@pytest.fixture(scope="module")
def fitted(bert, texts):  # noqa: F811
    return OneVec(encoder=str(bert), **QUICK).fit(texts)


def by_hand(bert, texts, folder, **options):  # noqa: F811
    store = encode(texts, bert, out=folder, progress=False, **options)
    return OneVec(**QUICK).fit(store).transform(store)


def counting(monkeypatch):
    """Count the sequences that an encoder reads."""
    seen = []
    run = encoding_module.Encoding._run

    def counted(self, chunk, frozen):
        seen.extend(chunk.sequences)
        return run(self, chunk, frozen)

    monkeypatch.setattr(encoding_module.Encoding, "_run", counted)
    return seen


def test_fit_and_transform_are_encode_fit_and_transform(bert, texts, fitted, tmp_path):  # noqa: F811
    wanted = by_hand(bert, texts, tmp_path / "store")
    np.testing.assert_allclose(fitted.transform(texts), wanted, **CLOSE)
    np.testing.assert_allclose(fitted.transform(iter(texts)), wanted, **CLOSE)
    frame = pd.DataFrame({"sequence": texts, "kind": 1})
    np.testing.assert_allclose(fitted.transform(frame), wanted, **CLOSE)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    np.testing.assert_allclose(fitted.transform(tmp_path / "texts.txt"), wanted, **CLOSE)


def test_fit_transform_encodes_each_sequence_once(bert, texts, monkeypatch):  # noqa: F811
    seen = counting(monkeypatch)
    model = OneVec(encoder=bert, **QUICK)
    vectors = model.fit_transform(texts)
    assert sorted(seen) == sorted(texts)
    np.testing.assert_allclose(vectors, model.transform(texts), **CLOSE)


@pytest.mark.parametrize("one_pass", [False, True])
def test_the_sample_is_bounded_seeded_and_not_encoded_again(
    bert, texts, monkeypatch, one_pass  # noqa: F811
):  # fmt: skip
    monkeypatch.setitem(held_out.EFFORTS, "quick", (50, 100_000, 20))
    seen = counting(monkeypatch)
    given = iter(texts) if one_pass else texts
    model = OneVec(encoder=bert, **QUICK)
    vectors = model.fit_transform(given)
    sample = seen[:50]
    assert model.data_["sequences"] == 50
    assert sorted(seen) == sorted(texts)
    assert (sample == texts[:50]) == one_pass
    again = OneVec(encoder=bert, **QUICK).fit(iter(texts) if one_pass else texts)
    np.testing.assert_allclose(again.transform(texts), vectors, **OTHER_BATCHES)
    if not one_pass:
        OneVec(encoder=bert, random_state=1, **QUICK).fit(texts)
        assert seen[-50:] != sample


def test_encode_is_called_as_in_sentence_transformers(texts, fitted):
    wanted = fitted.transform(texts[:9])
    np.testing.assert_allclose(fitted.encode(texts[:9]), wanted, **CLOSE)
    np.testing.assert_allclose(fitted.encode(texts[0]), wanted[0], **CLOSE)
    found = fitted.encode(
        texts[:9], batch_size=2, show_progress_bar=True, normalize_embeddings=True
    )
    lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted / lengths, **CLOSE)
    assert found.dtype == np.float32
    assert fitted.encode([]).shape == (0, wanted.shape[1])
    with pytest.raises(OnevecError, match="batch_size=0"):
        fitted.encode(texts[:9], batch_size=0)


def test_batch_size_bounds_what_the_encoder_reads_at_a_time():
    sizes = []

    def encoder(sequences):
        sizes.append(len(sequences))
        return [np.full((3, 4), float(len(each))) for each in sequences]

    encode(["AB"] * 10, encoder, batch_size=4, progress=False)
    assert sizes == [4, 4, 2]


def test_a_saved_model_knows_its_encoder_and_opens_it_late(bert, texts, fitted, tmp_path):  # noqa: F811
    again = load(fitted.save(tmp_path / "m"))
    assert again.encoder == str(bert)
    assert again.encoder_["name"] == str(bert)
    np.testing.assert_allclose(again.transform(texts[:9]), fitted.transform(texts[:9]), **CLOSE)
    moved = load(tmp_path / "m").set_params(encoder=str(tmp_path / "gone"))
    with pytest.raises(OnevecError, match=r"there is no encoder .*gone"):
        moved.encode(texts[:2])


def test_a_model_of_a_store_opens_the_encoder_of_the_store(bert, texts, tmp_path):  # noqa: F811
    options = {"special_tokens": True, "max_length": 20, "long": "window", "overlap": 4}
    store = encode(texts, bert, out=tmp_path / "s", progress=False, **options)
    model = load(OneVec(**QUICK).fit(store).save(tmp_path / "m"))
    assert model.encoder is None
    np.testing.assert_allclose(model.transform(texts), model.transform(store), **CLOSE)
    model.encoder_["name"] = str(tmp_path / "gone")
    with pytest.raises(OnevecError, match="name another place of it with encoder="):
        model.transform(texts)
    np.testing.assert_allclose(
        model.set_params(encoder=bert).transform(texts), model.transform(store), **CLOSE
    )


def test_another_encoder_is_refused(bert, texts, fitted, tmp_path):  # noqa: F811
    from transformers import AutoModel, AutoTokenizer

    other = AutoModel.from_pretrained(bert)
    other.embeddings.word_embeddings.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "other")
    model = load(fitted.save(tmp_path / "m")).set_params(encoder=tmp_path / "other")
    with pytest.raises(OnevecError, match="the model was fitted to"):
        model.encode(texts[:3])
    model.set_params(check_encoder=False).encode(texts[:3])


def test_the_encoder_is_opened_once(texts, fitted, monkeypatch):
    fitted.encode(texts[:2])
    monkeypatch.setattr(encoding_module, "open_encoder", None)
    fitted.encode(texts[2:4])
    copy = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(TypeError):
        copy.encode(texts[:2])


def test_scikit_learn_conventions(bert, texts):  # noqa: F811
    options = {"max_length": 60}
    model = OneVec(encoder=bert, encoding=options, **QUICK)
    assert model.encoder is bert and model.encoding is options
    assert clone(model).get_params() == model.get_params()
    kinds = [text.count("A") > 0 for text in texts]
    scores = cross_val_score(make_pipeline(model, LogisticRegression()), texts, kinds, cv=2)
    assert np.isfinite(scores).all()
    frame = clone(model).set_output(transform="pandas").fit_transform(texts)
    assert list(frame.columns) == [f"onevec{k}" for k in range(4)]
    assert isinstance(clone(model).set_output(transform="pandas").fit(texts).encode(texts[:3]),
                      np.ndarray)  # fmt: skip


def test_several_layers_and_the_classification_token(bert, texts, tmp_path):  # noqa: F811
    settings = {"layers": "last,middle=0.5", "parts": {"mean": 1, "rich": 1, "cls": 1}}
    model = OneVec(encoder=bert, **settings).fit(texts)
    store = encode(texts, bert, layers="last,middle", out=tmp_path / "s", progress=False)
    by_hand = OneVec(**settings).fit(store)
    np.testing.assert_allclose(model.transform(texts), by_hand.transform(store), **CLOSE)
    np.testing.assert_allclose(model.fit_transform(texts), by_hand.transform(store), **CLOSE)


def test_a_pooler_that_mixes_layers_gets_all(bert, texts):  # noqa: F811
    model = OneVec(encoder=bert, dim=4, pooler="layer_mix", training={"steps": 2})
    assert model.fit(texts).encode(texts[:5]).shape == (5, 4)


def test_images_and_functions(vit):  # noqa: F811
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, size=(40, 32, 32, 3)).astype(np.uint8)
    assert OneVec(encoder=vit, **QUICK).fit(images).encode(images[:3]).shape == (3, 4)

    def function(sequences):
        return [np.outer(np.arange(1, 5), each) for each in sequences]

    model = OneVec(encoder=function, dim=2, pooler="mean").fit(
        [rng.normal(size=3) for _ in range(40)]
    )
    assert model.encode([np.ones(3)]).shape == (1, 2)


def test_token_vectors_pass_an_encoder_of_text_by(bert, texts, fitted, tmp_path):  # noqa: F811
    tokens = encode(texts, bert, progress=False)
    wanted = fitted.transform(texts)
    np.testing.assert_allclose(fitted.transform(tokens), wanted, **CLOSE)
    arrays = [each.numpy() for each in tokens]
    np.testing.assert_allclose(fitted.transform(arrays), wanted, **CLOSE)
    np.savez(tmp_path / "t.npz", **{str(row): each for row, each in enumerate(arrays)})
    np.testing.assert_allclose(fitted.transform(tmp_path / "t.npz"), wanted, **CLOSE)


def test_arrays_of_a_file(tmp_path):
    tokens = np.random.default_rng(0).normal(size=(60, 7, 5)).astype(np.float32)
    np.save(tmp_path / "t.npy", tokens)
    found = OneVec(dim=3, pooler="mean").fit(tmp_path / "t.npy").transform(tmp_path / "t.npy")
    np.testing.assert_allclose(
        found, OneVec(dim=3, pooler="mean").fit(tokens).transform(tokens), **CLOSE
    )


@pytest.mark.parametrize(
    ("settings", "data", "words"),
    [({}, ["AB", "CD"], r"OneVec\(encoder=\.\.\.\)"),
     ({}, pd.DataFrame({"text": ["AB"]}), r"OneVec\(encoder=\.\.\.\)"),
     ({"encoder": "bert", "encoding": {"size": 3}}, ["AB"], "encoding={'size': 3}"),
     ({"encoder": "./none"}, ["AB", "CD"], "no encoder"),
     ({"encoder": ""}, ["AB", "CD"], "empty encoder"),
     ({"encoder": 3}, ["AB", "CD"], "got a int as encoder")],
)  # fmt: skip
def test_mistakes_are_one_sentence(settings, data, words):
    with pytest.raises(OnevecError, match=words) as caught:
        OneVec(**settings).fit(data)
    assert "\n" not in str(caught.value)


def test_a_row_of_the_sample_is_called_by_its_number(bert, texts, monkeypatch):  # noqa: F811
    monkeypatch.setitem(held_out.EFFORTS, "quick", (118, 100_000, 20))
    with pytest.raises(OnevecError, match="sequence 77 is empty"):
        OneVec(encoder=bert, random_state=2).fit([*texts[:77], "", *texts[78:]])


def test_what_is_cut_is_told_once(bert, texts):  # noqa: F811
    with pytest.warns(UserWarning) as told:
        OneVec(encoder=bert, encoding={"max_length": 20}, **QUICK).fit_transform(texts)
    cut = sum(len(text) > 18 for text in texts)
    assert [str(each.message)[: len(str(cut))] for each in told] == [str(cut)]


def test_layers_auto_encodes_every_layer_for_the_fit_and_keeps_those_that_agree(bert, texts):  # noqa: F811
    model = OneVec(encoder=bert, layers="auto").fit(texts)
    assert model.layers_[0] == max(model.layers_) and len(model.layers_) >= 2
    store = model.transform(texts)
    assert store.shape == (120, model.parts_[-1]["last"]) and np.isfinite(store).all()
    np.testing.assert_allclose(model.encode(texts[:7]), store[:7], **OTHER_BATCHES)
