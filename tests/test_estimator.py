import json

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from onevec import OneVec, OnevecError, Ragged, encode, load
from onevec.estimator import FORMAT
from onevec.probes.probes import evaluate
from onevec.vector.scaler import tamed


@pytest.fixture
def fitted(easy_tokens):
    return OneVec().fit(easy_tokens[0])


def test_gains_where_the_spread_tells_more(easy_tokens, fitted):
    tokens, kinds = easy_tokens
    vectors = fitted.transform(tokens)
    mean = fitted.transform_baselines(tokens)["mean"]
    pairs = {"mean": (mean[:200], mean[200:]), "onevec": (vectors[:200], vectors[200:])}
    table = evaluate(pairs, kinds[:200], kinds[200:], draws=2)
    assert table["onevec"]["interval"][0] > 20
    assert table["onevec"]["knn"] > 95
    said = fitted.verdict_
    assert said.evidence.found > said.evidence.found_by_mean + 0.2
    assert said.evidence.found_z > 4


def test_claims_nothing_where_all_is_in_the_mean():
    rng = np.random.default_rng(1)
    tokens = [rng.normal(size=(1, 24)) * 3 + 0.1 * rng.normal(size=(12, 24)) for _ in range(400)]
    assert not OneVec().fit(tokens).verdict_.beats_mean


def test_claims_nothing_for_pure_noise():
    rng = np.random.default_rng(2)
    tokens = [rng.normal(size=(n, 16)) for n in rng.integers(4, 30, size=300)]
    assert not OneVec().fit(tokens).verdict_.beats_mean


def native_mean(tokens):
    return np.stack([np.asarray(each, np.float32).mean(0) for each in tokens])


def test_few_sequences_keep_the_native_mean(easy_tokens, tmp_path):
    tokens = easy_tokens[0][:29]
    model = OneVec().fit(tokens)
    assert model.verdict_.choice == "the mean"
    assert model.verdict_.sentence.startswith("Keep the mean: there are only 29 sequences")
    np.testing.assert_allclose(model.transform(tokens), native_mean(tokens), atol=1e-6)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.transform(tokens), model.transform(tokens))


def test_labels_are_never_read(easy_tokens):
    class Poison:
        def __getattr__(self, name):
            raise AssertionError(f"fit read y.{name}")

    OneVec(dim=4).fit(easy_tokens[0][:60], Poison())


def test_the_same_seed_gives_the_same_vectors(easy_tokens, fitted):
    again = OneVec().fit(easy_tokens[0])
    np.testing.assert_array_equal(again.transform(easy_tokens[0]), fitted.transform(easy_tokens[0]))


def test_sources_agree(tmp_path, easy_tokens):
    tokens = easy_tokens[0][:120]
    store = encode(tokens, out=tmp_path / "store", progress=False)
    from_list = OneVec(dim=6, pooler="mean|std").fit(tokens)
    from_ragged = OneVec(dim=6, pooler="mean|std").fit(Ragged.from_list(tokens))
    expected = from_list.transform(tokens)
    np.testing.assert_array_equal(from_ragged.transform(Ragged.from_list(tokens)), expected)
    from_store = OneVec(dim=6, pooler="mean|std").fit(store)
    np.testing.assert_allclose(from_store.transform(store), expected, atol=0.05)
    np.testing.assert_array_equal(
        from_store.transform(str(tmp_path / "store")), from_store.transform(store)
    )


def test_save_and_load(tmp_path, easy_tokens, fitted):
    fitted.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.transform(easy_tokens[0]), fitted.transform(easy_tokens[0])
    )
    np.testing.assert_array_equal(
        loaded.transform_baselines(easy_tokens[0])["mean_whitened"],
        fitted.transform_baselines(easy_tokens[0])["mean_whitened"],
    )
    assert loaded.verdict_ == fitted.verdict_
    assert json.loads((tmp_path / "model/config.json").read_text())["format"] == FORMAT
    with pytest.raises(OnevecError, match="exists"):
        fitted.save(tmp_path / "model")


def test_save_replaces_a_model_and_nothing_else(tmp_path, monkeypatch, fitted):
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    (tmp_path / "model.part").mkdir()
    for target in (mine, mine / "thesis.txt", tmp_path):
        with pytest.raises(OnevecError, match="because it is no onevec model"):
            fitted.save(target, overwrite=True)
    with pytest.raises(OnevecError, match="is a file, not a folder"):
        fitted.save(mine / "thesis.txt/model")
    fitted.save(tmp_path / "model")
    fitted.save(tmp_path / "model", overwrite=True)
    monkeypatch.chdir(tmp_path / "model")
    with pytest.raises(OnevecError, match="current folder lies in it"):
        fitted.save(".", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "model.part", "thesis"]


def test_numpy_parameters_can_be_saved(tmp_path, easy_tokens):
    model = OneVec(dim=np.int64(500), random_state=np.int64(3), pooler="mean").fit(easy_tokens[0])
    card = (model.save(tmp_path / "m") / "README.md").read_text()
    assert "vector: 24 dimensions, from tokens of 24" in card
    assert "| part | columns |" in card
    assert load(tmp_path / "m").dim == 500


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_model_is_one_sentence(tmp_path, fitted, name):
    path = fitted.save(tmp_path / "model") / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(OnevecError, match="damaged or half copied"):
        load(tmp_path / "model")
    path.unlink()
    with pytest.raises(OnevecError, match=f"holds no {name}"):
        load(tmp_path / "model")


def test_a_store_of_another_encoder_is_refused(tmp_path, easy_tokens):
    store = encode(easy_tokens[0][:60], out=tmp_path / "store", progress=False)
    model = OneVec(dim=4, pooler="mean").fit(store)
    model.fingerprint_ = "a" * 64
    index = tmp_path / "store/index.json"
    info = json.loads(index.read_text())
    info["encoder"] = {"name": "other", "fingerprint": "b" * 64}
    index.write_text(json.dumps(info))
    with pytest.raises(OnevecError, match="made by encoder bbbb"):
        model.transform(tmp_path / "store")
    model.set_params(check_encoder=False).transform(tmp_path / "store")


def test_scikit_learn_takes_it(easy_tokens):
    tokens, kinds = easy_tokens
    ragged = Ragged.from_list(tokens[:150])
    chain = make_pipeline(OneVec(dim=6, pooler="mean|std"), LogisticRegression())
    assert cross_val_score(chain, ragged, kinds[:150], cv=3).mean() > 0.8
    assert clone(OneVec(dim=3, effort="standard")).get_params()["dim"] == 3


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"dim": 0}, "dim=0"), ({"dim": 2.5}, "dim=2.5"), ({"effort": "huge"}, "effort='huge'"),
     ({"pooler": "meen"}, "meen"), ({"pooler": 3}, "pooler=3"), ({"dim": True}, "dim=True"),
     ({"effort": []}, "effort="), ({"random_state": -1}, "random_state=-1"),
     ({"nuisance": 5}, "nuisance=5"), ({"nuisance": "length"}, "must be a list")],
)  # fmt: skip
def test_wrong_parameters(parameters, words, easy_tokens):
    with pytest.raises(OnevecError, match=words):
        OneVec(**parameters).fit(easy_tokens[0][:20])


def test_wrong_token_dimension(easy_tokens, fitted):
    with pytest.raises(OnevecError, match="fitted were 24"):
        fitted.transform([np.ones((3, 5), np.float32)])


@pytest.mark.parametrize(
    ("data", "words"),
    [([], "empty"), ([[[1, 2], [3]]], "unequal length"),
     ([np.full((2, 4), 1e300)], "beyond fp32"),
     ([np.random.default_rng(0).normal(size=(9, 4)) * 1e20] * 5, r"reach .e\+20"),
     ([np.zeros((0, 4))], "empty"), ([np.full((2, 4), np.nan)], "NaN"),
     ([np.ones((2, 4)), np.ones((2, 5))], "dimension"), ([1, 0, 1], "label"),
     (["ab", "cd"], "encode")],
)  # fmt: skip
def test_bad_data_is_one_sentence(data, words):
    with pytest.raises(OnevecError, match=words) as caught:
        OneVec(dim=2).fit(data)
    assert "\n" not in str(caught.value)


def test_an_interrupted_fit_leaves_the_one_before(easy_tokens, monkeypatch):
    model = OneVec(dim=4, pooler="mean|std").fit(easy_tokens[0][:60])
    expected, verdict = model.transform(easy_tokens[0][:5]), model.verdict_

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onevec.estimator.baselines", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit([tokens[:, :8] for tokens in easy_tokens[0][:80]])
    np.testing.assert_array_equal(model.transform(easy_tokens[0][:5]), expected)
    assert model.verdict_ is verdict


def test_a_pooler_named_twice_counts_once(easy_tokens):
    once, twice = (
        OneVec(dim=4, pooler=pooler).fit(easy_tokens[0][:60]).transform(easy_tokens[0][:9])
        for pooler in ("mean|std", "mean|std|mean")
    )
    np.testing.assert_array_equal(once, twice)


def test_sequences_of_one_length_are_sampled_without_a_period():
    """Their first token is nearly constant, and every 6th token must not say what is usual."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(size=(33_000, 6, 64), dtype=np.float32)
    values[:, 0] *= 1e-3
    values = torch.from_numpy(values.reshape(-1, 64))
    assert torch.equal(tamed(values), values)


def test_foreign_floats(easy_tokens):
    tokens = easy_tokens[0][:60]
    model = OneVec(dim=4, pooler="mean").fit(tokens)
    expected = model.transform(tokens)
    for dtype in (">f4", np.longdouble):
        np.testing.assert_allclose(model.transform([t.astype(dtype) for t in tokens]), expected)


@pytest.mark.parametrize("dim", [1, 24, 60])
def test_any_dim(dim, easy_tokens):
    vectors = OneVec(dim=dim).fit(easy_tokens[0]).transform(easy_tokens[0])
    assert vectors.shape[0] == 400
    assert vectors.shape[1] <= dim
    assert np.isfinite(vectors).all()


def test_wide_tokens(tmp_path):
    rng = np.random.default_rng(4)
    tokens = [rng.normal(size=(n, 200)) for n in rng.integers(2, 9, size=150)]
    model = OneVec(dim=16, pooler="mean|std|vlad").fit(tokens)
    assert {p.dim_in for n, p in model.blocks_[-1].poolers.items() if n != "mean"} == {128}
    vectors = model.transform(tokens)
    assert vectors.shape == (150, 16)
    np.testing.assert_array_equal(load(model.save(tmp_path / "m")).transform(tokens), vectors)
    expected = np.stack([t.astype(np.float32).mean(0) for t in tokens])
    np.testing.assert_allclose(model.transform_baselines(tokens)["mean"], expected, atol=1e-5)


def test_sequences_of_one_token_keep_the_native_mean():
    rng = np.random.default_rng(3)
    tokens = [rng.normal(size=(1, 8)) for _ in range(100)]
    model = OneVec().fit(tokens)
    assert "every sequence is one token" in model.verdict_.sentence
    np.testing.assert_allclose(model.transform(tokens), native_mean(tokens), atol=1e-6)


def test_a_model_of_the_format_before_is_named(tmp_path, fitted):
    path = fitted.save(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"format": 3}))
    with pytest.raises(OnevecError, match=r"format 3, .* made of parts: fit it again with"):
        load(path)
