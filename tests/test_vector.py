"""The fitted vector: what every part promises, stores of several layers, claims and cost."""

import json
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from onevec import OneVec, Ragged, load
from onevec.errors import InputError, StoreError
from onevec.judge import measured
from onevec.poolers import POOLERS
from onevec.project import REDUCERS
from onevec.tokens.store import TokenStore
from onevec.tokens.writer import TokenStoreWriter
from onevec.vector.fitted import Vector
from onevec.vector.module import TokensToVector, difference
from onevec.vector.parts import PARTS, WEIGHTS, Part
from onevec.vector.reduction import Recipe

DIM = 12
POOLED = [name for name, part in PARTS.items() if part.reads == "tokens"]


def drawn(count=80, dim=DIM, seed=0):
    """Sequences of one token, of two, of equal tokens and of many, with a constant feature."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 25, size=count)
    lengths[:4] = 1, 2, 1, 2
    tokens = [rng.normal(size=dim) + rng.normal(size=(n, dim)) for n in lengths]
    tokens[4] = np.tile(tokens[4][:1], (len(tokens[4]), 1))
    for each in tokens:
        each[:, -1] = 3.0
    return [each.astype(np.float32) for each in tokens]


def written(path, tokens, layers=(2, 4, 6), fingerprint="abc", cls=True, **columns):
    """Write a store whose layers are the tokens times their number, so that they are known."""
    encoder = {"name": "made", "fingerprint": fingerprint, "depth": 6}
    options = {"dtype": "float32", "layers": list(layers), "encoder": encoder}
    rng = np.random.default_rng(1)
    front = rng.normal(size=(len(tokens), tokens[0].shape[1])).astype(np.float32)
    with TokenStoreWriter(path, **options) as writer:
        writer.append(
            {layer: Ragged.from_list([state(each, layer) for each in tokens]) for layer in layers},
            metadata=columns,
            cls=dict.fromkeys(layers, front) if cls else None,
        )
    return TokenStore(path)


def state(tokens, layer):
    return (np.tanh(tokens * layer / 6) + tokens[::-1] * (6 - layer)).astype(np.float32)


@pytest.fixture(scope="module")
def tokens():
    return drawn()


@pytest.fixture(scope="module")
def store(tokens, tmp_path_factory):
    return written(tmp_path_factory.mktemp("parts") / "store", tokens)


@pytest.fixture(scope="module")
def model(tokens):
    return OneVec().fit(tokens)


def native_mean(tokens):
    return np.stack([each.mean(0, dtype=np.float64) for each in tokens])


def columns_of(vectors, part):
    return vectors[:, part["first"] : part["last"]]


def unit(block):
    return block / np.linalg.norm(block, axis=1, keepdims=True)


# --- the contract of a part ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [80, 9, 2])
@pytest.mark.parametrize("name", PARTS)
def test_every_part_keeps_its_promises(name, count, tokens, tmp_path):
    source = written(tmp_path / "s", tokens[:count], layers=[6])
    model = OneVec(parts=[name]).fit(source)
    (part,) = model.parts_
    vectors = model.transform(source)
    assert (part["name"], part["layer"], part["first"]) == (name, 6, 0)
    assert vectors.shape == (count, part["last"])
    assert vectors.dtype == np.float32 and np.isfinite(vectors).all()
    assert part["last"] <= DIM or part["last"] <= count - 1  # no wider than the rank
    sizes = np.linalg.norm(vectors, axis=1)
    assert (np.isclose(sizes, 1, atol=1e-5) | (sizes == 0)).all()
    if count > 2:
        np.testing.assert_allclose(vectors, model.transform(source), atol=0)
        picked = np.array([4, 0, 7])  # other sequences of the batch change nothing
        if name != "cls":
            bare = [source[int(row)].numpy() for row in picked]
            np.testing.assert_allclose(model.transform(bare), vectors[picked], atol=2e-5)
    again = load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(source), vectors)
    assert again.parts_ == model.parts_


def test_means_that_differ_by_rounding_alone_are_no_directions():
    """Such as those of frames whose mean was taken out of every sequence."""
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, DIM)) * 5 for n in rng.integers(4, 40, size=90)]
    centred = [(each - each.mean(0)).astype(np.float32) for each in tokens]
    model = OneVec().fit(centred)
    vectors = model.transform(centred)
    assert np.abs(columns_of(vectors, model.parts_[0])).max() < 1e-5
    sizes = np.linalg.norm(columns_of(vectors, model.parts_[1]), axis=1)
    np.testing.assert_allclose(sizes, model.parts_[1]["weight"], atol=1e-5)


def test_series_standardised_one_by_one_have_no_noise_for_columns():
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(n, DIM)).cumsum(0) for n in rng.integers(20, 40, size=90)]
    series = [((each - each.mean(0)) / each.std(0)).astype(np.float32) for each in series]
    model = OneVec(parts=["mean", "plain"]).fit(series)
    turned = model.transform([np.roll(each, 3, axis=0) for each in series])  # the same numbers
    np.testing.assert_allclose(turned, model.transform(series), atol=1e-5)


def test_a_number_of_numpy_is_a_number_of_dimensions(tokens):
    assert OneVec(np.int64(5)).fit(tokens[:6]).transform(tokens[:6]).shape[1] == 5


def test_negative_hidden_states_count_from_the_last(tokens):
    assert OneVec(layers="all").fit({-1: tokens, 6: tokens, -3: tokens}).layers_ == [-1, -3, 6]


def test_widths_never_exceed_the_rank():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, 64)) for n in rng.integers(2, 9, size=40)]
    widths = [part["last"] - part["first"] for part in OneVec().fit(tokens).parts_]
    assert widths[0] == 64 and max(widths[1:]) <= 39


# --- which parts are asked for ------------------------------------------------------------------


def own(blocks=("std", "max"), width=8, reads="tokens", **options):
    return Part(Recipe(blocks, 0.5, 0.0, unit=True), width, "my own", reads, **options)


def test_a_part_of_the_users_own(tokens, tmp_path):
    model = OneVec(parts={"mean": 1.0, "mine": own(weight=0.5)}).fit(tokens)
    assert [part["name"] for part in model.parts_] == ["mean", "mine"]
    vectors = model.transform(tokens)
    found = columns_of(vectors, model.parts_[1])
    assert found.shape == (len(tokens), 6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 0.5, atol=1e-5)
    again = load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(tokens), vectors)
    assert again.parts == model.parts  # and it can be fitted anew
    np.testing.assert_array_equal(clone(again).fit(tokens).transform(tokens), vectors)
    assert "nothing is claimed" in model.verdict_.sentence


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (own(()), "'mine' without blocks: name at least one"),
        (own(width=0), "'mine' of width 0: it must be at least 1"),
        (own(reads="all"), "that reads 'all'"),
        (own(reads="cls"), 'or "cls" with the one block "cls"'),
        (own(("attention",)), "'attention', which is trained: pass objective="),
    ],
)
def test_wrong_parts_of_the_users_own_are_one_sentence(part, words, tokens):
    with pytest.raises(InputError, match=words) as caught:
        OneVec(parts={"mean": 1, "mine": part}).fit(tokens[:20])
    assert "\n" not in str(caught.value)


# --- hidden states ------------------------------------------------------------------------------


HALF = 0.6 / 2**0.5


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, {6: 1.0}),
        ("last", {6: 1.0}),
        ("middle", {4: 1.0}),  # that of depth 3 is not stored: of two as near, the later
        ("last,middle", {6: 1.0, 4: 0.6}),
        ("2,6", {6: 1.0, 2: 0.6}),
        ([2, -1], {6: 1.0, 2: 0.6}),
        (np.array([6, 2]), {6: 1.0, 2: 0.6}),
        (np.int64(2), {2: 1.0}),
        ("all", {6: 1.0, 4: HALF, 2: HALF}),
        ("last,middle=0.25", {6: 1.0, 4: 0.25}),
        ({6: 0.5, "middle": 2}, {6: 0.5, 4: 2.0}),
        ({6: 0, 2: 0.5}, {2: 0.5}),
    ],
)
def test_names_of_stored_layers(asked, wanted, store):
    model = OneVec(parts=["mean"], layers=asked).fit(store)
    assert {part["layer"]: part["weight"] for part in model.parts_} == pytest.approx(wanted)
    main = max(wanted)
    assert model.layers_[0] == main == model.parts_[0]["layer"]
    found = [part["name"] for part in model.parts_]
    assert found == ["mean", *(f"mean@{layer}" for layer in sorted(wanted)[-2::-1])]


def test_what_a_store_is_opened_at_is_the_main_layer(store):
    assert OneVec(parts=["mean"]).fit(store.layer(2)).layers_ == [2]
    assert OneVec(parts=["mean"], layers="last").fit(store.layer(2)).layers_ == [6]


def test_layers_stand_side_by_side(store, tokens, tmp_path):
    model = OneVec(layers={6: 1.0, 2: 0.5}).fit(store)
    names = [part["name"] for part in model.parts_]
    assert names == ["mean", "rich", "plain", "mean@2", "rich@2", "plain@2"]
    vectors = model.transform(store)
    for layer, weight, parts in ((6, 1.0, model.parts_[:3]), (2, 0.5, model.parts_[3:])):
        alone = OneVec(layers=layer).fit(store).transform(store)
        block = vectors[:, parts[0]["first"] : parts[-1]["last"]]
        np.testing.assert_allclose(block, weight * alone, atol=1e-5)
    assert not model.verdict_.beats_mean
    np.testing.assert_array_equal(model.transform(store.layer(4)), vectors)
    np.testing.assert_array_equal(load(model.save(tmp_path / "m")).transform(store), vectors)
    held = {layer: [state(each, layer) for each in tokens] for layer in (2, 6)}
    np.testing.assert_allclose(model.transform(held), vectors, atol=1e-5)
    mapped = OneVec(layers={6: 1.0, 2: 0.5}, parts=dict(WEIGHTS)).fit(held)
    assert mapped.layers_ == [6, 2] and mapped.fingerprint_ is None
    np.testing.assert_allclose(mapped.transform(held), vectors, atol=1e-5)
    assert OneVec(parts=["mean"]).fit(held).layers_ == [6]
    means = model.transform_baselines(store)["mean"]
    np.testing.assert_allclose(means, native_mean(held[6]), atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (5, "got the layer 5: choose from 2, 4, 6"),
        ("last,", "got the layer ''"),
        (True, "got the layer True"),
        ([], r"got layers=\[\]: name at least one"),
        ("last=much", "write NAME or NAME=WEIGHT"),
        ({6: 0}, "give at least one of them a weight above 0"),
    ],
)
def test_wrong_layers_are_one_sentence(asked, words, store):
    with pytest.raises(InputError, match=words) as caught:
        OneVec(parts=["mean"], layers=asked).fit(store)
    assert "\n" not in str(caught.value)


def test_layers_of_arrays(tokens):
    for layers in ("last", -1, ["last"], np.array([-1])):
        assert OneVec(parts=["mean"], layers=layers).fit(tokens).layers_ == [-1]
    for layers in ("middle", 4, "all", {-1: 1.0}, ["last", "middle"], 1.5, np.array([4, 2])):
        with pytest.raises(InputError, match="with bare arrays, which have one layer"):
            OneVec(layers=layers).fit(tokens)


def test_a_fingerprint_of_several_layers_refuses_another_encoder(store, tokens, tmp_path):
    model = OneVec(parts=["mean"], layers="last,middle").fit(store)
    other = written(tmp_path / "other", tokens, fingerprint="xyz")
    with pytest.raises(StoreError, match="made by encoder xyz"):
        model.transform(other)
    model.set_params(check_encoder=False).transform(other)
    model.set_params(check_encoder=True)
    mixed = {6: store, 4: other.layer(4)}
    with pytest.raises(StoreError, match="made by encoder"):
        model.transform(mixed)
    np.testing.assert_array_equal(
        model.transform({4: store.layer(4), 6: store}), model.transform(store)
    )
    fewer = written(tmp_path / "fewer", tokens, layers=[6])
    with pytest.raises((InputError, StoreError), match="4"):
        model.transform(fewer)


# --- the classification token -------------------------------------------------------------------


def test_a_store_without_classification_tokens_is_refused(tokens, tmp_path):
    store = written(tmp_path / "s", tokens, cls=False)
    with pytest.raises(InputError, match="has no classification token"):
        OneVec(parts=["mean", "cls"]).fit(store)


# --- keeping the mean ---------------------------------------------------------------------------


def of_one_token():
    return [each[:1] for each in drawn(60)]


def test_a_kept_mean_is_shortened_by_pca(tmp_path):
    tokens = of_one_token()
    for dim in (5, np.int64(5)):
        model = OneVec(dim).fit(tokens)
        assert "Its 12 dimensions are shortened to the leading 5." in model.verdict_.sentence
        mean = native_mean(tokens)
        _, _, axes = np.linalg.svd(mean - mean.mean(0), full_matrices=False)
        wanted = (mean - mean.mean(0)) @ axes[:5].T
        np.testing.assert_allclose(np.abs(model.transform(tokens)), np.abs(wanted), atol=1e-4)
    assert OneVec("auto").fit(tokens).transform(tokens).shape == (60, DIM)


# --- fewer dimensions ---------------------------------------------------------------------------


def test_dim_beyond_the_mean_keeps_the_promise_and_beyond_the_whole_changes_nothing(tokens, model):
    said = OneVec(20).fit(tokens).verdict_
    assert "are shortened to 20" in said.sentence and "no longer" not in said.sentence
    wide = OneVec(500).fit(tokens)
    np.testing.assert_array_equal(wide.transform(tokens), model.transform(tokens))
    assert wide.verdict_.shorter is None and "shortened" not in wide.verdict_.sentence


def test_dim_auto_looks_along_principal_axes(tokens):
    """That of a whole narrower than 256 dimensions too, whose first columns are the mean."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(300, 2))
    made = [
        np.hstack([0.01 * rng.normal(size=(8, 14)), kind * rng.normal(size=(8, 2))])
        for kind in kinds
    ]
    model = OneVec("auto").fit(made)
    curve = model.verdict_.dimensions
    width = model.vector_.width
    assert curve[-1]["dim"] == width and curve[-1]["neighbours"] == pytest.approx(1, abs=0.05)
    shares = [entry["neighbours"] for entry in curve]
    assert np.diff(shares).min() > -0.02
    found = model.transform(made)
    fewest = next(entry["dim"] for entry in curve if entry["neighbours"] >= 0.88)
    assert found.shape == (300, fewest)
    assert fewest == width or model.verdict_.shorter.dim == fewest


# --- nuisance -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    rng = np.random.default_rng(0)
    session = rng.integers(0, 3, 300)
    shifts = rng.normal(size=(3, DIM)) * 2
    tokens = [
        (rng.normal(size=(n, DIM)) + shifts[s]).astype(np.float32)
        for n, s in zip(rng.integers(3, 20, size=300), session, strict=True)
    ]
    path = tmp_path_factory.mktemp("sessions") / "store"
    names = [f"s{each}" for each in session]
    return written(path, tokens, layers=[6], session=names), session


def read_group(block, groups):
    """Share of held-out sequences whose group a linear model reads."""
    levels = (groups[:, None] == np.unique(groups)).astype(float)
    block = np.hstack([block, np.ones((len(block), 1))])
    known, new = slice(0, 200), slice(200, None)
    map_ = np.linalg.lstsq(block[known], levels[known], rcond=None)[0]
    return float(((block[new] @ map_).argmax(1) == groups[new]).mean())


@pytest.mark.parametrize("name", POOLED)
def test_a_nuisance_cannot_be_read_from_any_part(name, sessions):
    store, session = sessions
    plain = OneVec(parts=[name]).fit(store).transform(store)
    clean = OneVec(parts=[name], nuisance=["session"]).fit(store)
    assert read_group(clean.transform(store), session) < 0.5
    assert read_group(plain, session) > 0.9 or name == "moments"


# --- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"parts": "mean=0.5,std|vlad"},
        {"dim": 7},
        {"dim": "auto"},
        {"nuisance": ["length"]},
        {"parts": ["extremes", "moments"]},
        {"export": "sentence-transformers"},
        {"pooler": "mean|std"},
        {"random_state": 3},
    ],
    ids=str,
)
def test_fits_are_the_same_again_saved_and_pickled(settings, tokens, tmp_path):
    model = OneVec(**settings).fit(tokens)
    vectors = model.transform(tokens)
    np.testing.assert_array_equal(clone(model).fit(tokens).transform(tokens), vectors)
    for again in (load(model.save(tmp_path / "m")), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(again.transform(tokens), vectors)
        assert again.verdict_ == model.verdict_ and again.parts_ == model.parts_
        assert again.get_params() == model.get_params() and again.layers_ == model.layers_
    json.dumps(model.verdict_.as_dict())


# --- claims -------------------------------------------------------------------------------------


@pytest.fixture
def all_gained(monkeypatch):
    """A table of which every row gained, so that the data alone decide."""
    rows = [
        {"kind": kind, "encoder": f"e{at}", "task": "t", "gain": 5.0 + at}
        | {"dim": 64.0, "length": 20.0, "icc": 0.1, "norm_cv": 0.1}
        for at in range(12)
        for kind in ("encoder", "frames")
    ]
    monkeypatch.setattr(measured, "table", lambda: {"made_by": {}, "rows": rows})


@pytest.mark.usefixtures("all_gained")
def test_spreads_that_tell_sequences_apart_are_claimed(easy_tokens):
    assert OneVec().fit(easy_tokens[0]).verdict_.beats_mean
    assert not OneVec(8).fit(easy_tokens[0]).verdict_.beats_mean
    assert not OneVec(parts=["mean", "rich"]).fit(easy_tokens[0]).verdict_.beats_mean


@pytest.mark.usefixtures("all_gained")
@pytest.mark.parametrize("seed", range(6))
def test_noise_and_what_the_mean_holds_are_never_claimed(seed):
    rng = np.random.default_rng(seed)
    noise = [rng.normal(size=(n, 16)) for n in rng.integers(2, 30, size=250)]
    held = [rng.normal(size=(1, 16)) * 3 + 0.1 * rng.normal(size=(n, 16)) for n in range(4, 204)]
    for tokens in (noise, held):
        said = OneVec(random_state=seed).fit(tokens).verdict_
        assert not said.beats_mean, said.sentence
        assert "no win is claimed" in said.sentence


# --- cost ---------------------------------------------------------------------------------------


def test_what_many_parts_cost_grows_with_their_number():
    """Sums of a layer are taken once for all parts, and no part looks at another."""
    seen = []

    class Counting(dict):
        def __getitem__(self, name):
            seen.append(name)
            return super().__getitem__(name)

    rng = np.random.default_rng(0)
    features = {"mean": rng.normal(size=(50, 5)), "std": rng.normal(size=(50, 5))}
    counts = []
    for number in (4, 8):
        seen.clear()
        asked = [(f"p{at}", -1, Part(Recipe(("std",), 0.5, 0.5), 4, "")) for at in range(number)]
        vector = Vector.fit(asked, {-1: Counting(features)}, token_dim=20)
        vector.transform({-1: Counting(features)})
        counts.append(len(seen))
        assert vector.width == sum(part.width for part in vector.parts) == 4 * number
    assert counts[1] <= 2 * counts[0]


def test_each_block_of_a_layer_is_pooled_once(tokens, monkeypatch):
    model = OneVec(parts=["mean", "rich", "plain", "extremes", "dct|std"]).fit(tokens)
    calls = []
    for name in ("Mean", "Std", "DCT"):
        kind = next(kind for kind in POOLERS.values() if kind.__name__.lower() == name.lower())
        forward = kind.forward
        monkeypatch.setattr(
            kind,
            "forward",
            lambda self, X, forward=forward, name=name: calls.append(name) or forward(self, X),
        )
    with torch.inference_mode():
        model.transform(tokens)
    assert {name: calls.count(name) for name in set(calls)} == {"Mean": 2, "Std": 2, "DCT": 2}


def test_the_example_of_the_class_runs():
    import doctest

    found = doctest.DocTestFinder().find(OneVec, "OneVec", globs={})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    results = [runner.run(each) for each in found if each.examples]
    assert results and all(result.failed == 0 for result in results)


# --- how the whole is shortened -----------------------------------------------------------------


@pytest.mark.parametrize("name", REDUCERS)
def test_every_reducer_shortens_the_whole(name, tokens, tmp_path):
    model = OneVec(8, reduce=name).fit(tokens)
    vectors = model.transform(tokens)
    assert vectors.shape == (len(tokens), 8) and np.isfinite(vectors).all()
    assert "are shortened to 8" in model.verdict_.sentence
    np.testing.assert_array_equal(load(model.save(tmp_path / "m")).transform(tokens), vectors)
    module = TokensToVector(model.vector_, model.blocks_)
    assert difference(module(Ragged.from_list(tokens)).numpy(), vectors) < 1e-4
    other = OneVec(8, reduce=name, random_state=1).fit(tokens).transform(tokens)
    assert name in ("pca", "whitening") or not np.allclose(other, vectors)


def test_random_signs_keep_distances_on_average(tokens):
    whole = OneVec().fit(tokens).transform(tokens)
    short = OneVec(24, reduce="rademacher").fit(tokens).transform(tokens)
    far = [
        ((v[:, None] - v[None]) ** 2).sum(-1)[np.triu_indices(len(v), 1)] for v in (whole, short)
    ]
    assert (far[1] / far[0]).mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "settings",
    [{"reduce": "svd"}, {"reduce": "rademacher"}, {"reduce": "sparse", "dim": "auto"},
     {"reduce": "gaussian", "dim": 4, "pooler": "mean|std"}],
)  # fmt: skip
def test_wrong_reducers_are_one_sentence(settings, tokens):
    with pytest.raises(InputError, match="got reduce="):
        OneVec(**settings).fit(tokens)


# --- layers that agree --------------------------------------------------------------------------


def test_layers_auto_weighs_by_agreement(tokens):
    """Of three inner layers the two whose neighbours are the last one's stand beside it."""
    rng = np.random.default_rng(0)
    noisy = [each + 0.1 * rng.normal(size=each.shape) for each in tokens]
    other = [rng.normal(size=each.shape) for each in tokens]
    layers = {1: other, 2: noisy, 3: tokens, 4: tokens}
    model = OneVec(layers="auto").fit(layers)
    weights = {part["layer"]: part["weight"] for part in model.parts_ if part["name"][:4] == "mean"}
    assert list(weights) == [4, 3, 2] and weights[4] == 1
    assert weights[3] > weights[2] > 0
    assert weights[3] ** 2 + weights[2] ** 2 == pytest.approx(0.36)
    assert model.layers_ == [4, 3, 2] and not model.verdict_.beats_mean
    alone = OneVec(layers="auto").fit(tokens).transform(tokens)
    np.testing.assert_array_equal(alone, OneVec().fit(tokens).transform(tokens))
