"""The vector of parts: its columns, lengths, weights and layers, against the formulas."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from onevec import OneVec, Ragged, encode, load
from onevec.errors import InputError
from onevec.judge.measured import describe, estimate
from onevec.tokens.layers import open_layers
from onevec.tokens.store import TokenStore
from onevec.tokens.writer import TokenStoreWriter
from onevec.vector.blocks import Blocks, BlockSpec
from onevec.vector.fitted import FittedPart, Vector
from onevec.vector.parts import (
    BLOCKS,
    FRAME_WEIGHTS,
    PARTS,
    RICH,
    WEIGHTS,
    Part,
    chosen,
    frame_like,
    ready_frames,
    width_of,
)
from onevec.vector.reduction import Recipe, Reduction
from onevec.weights import read_weights

from .tokens.conftest import bert  # noqa: F401

DIM = 12


def made(count=150, dim=DIM, seed=0, least=1):
    """Sequences of 1 to 20 tokens, some of which repeat one token."""
    rng = np.random.default_rng(seed)
    tokens = [
        (rng.normal(size=(n, dim)) * rng.uniform(0.3, 2, dim) + rng.normal(size=dim))
        for n in rng.integers(least, 21, size=count)
    ]
    for row in range(0, count, 10):
        tokens[row] = np.repeat(tokens[row][:1], len(tokens[row]), axis=0)
    return [each.astype(np.float32) for each in tokens]


TOKENS = made()


@pytest.fixture(scope="module")
def fitted():
    return OneVec(parts={"mean": 1.0, "rich": 0.8, "plain": 0.5}).fit(TOKENS)


def columns(model, vectors):
    return {part["name"]: vectors[:, part["first"] : part["last"]] for part in model.parts_}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_columns_are_what_parts_say(fitted):
    vectors = fitted.transform(TOKENS)
    names = [(part["name"], part["layer"], part["weight"]) for part in fitted.parts_]
    assert names == [("mean", -1, 1.0), ("rich", -1, 0.8), ("plain", -1, 0.5)]
    ends = [part["last"] for part in fitted.parts_]
    assert [part["first"] for part in fitted.parts_] == [0, *ends[:-1]]
    assert ends[-1] == vectors.shape[1] == fitted.vector_.width == fitted.vector_.dim_out
    assert vectors.dtype == np.float32
    assert fitted.parts_[0]["about"] == "the mean of the tokens, as it is"


def test_every_part_of_every_sequence_has_its_weight_as_length(fitted):
    new = [*made(40, seed=1), np.zeros((1, DIM)), np.full((7, DIM), 3.0), 1e3 * np.ones((2, DIM))]
    for tokens in (TOKENS, new):
        found = columns(fitted, fitted.transform(tokens))
        for part in fitted.parts_:
            lengths = np.linalg.norm(found[part["name"]], axis=1)
            assert np.isfinite(lengths).all()
            whole = np.isclose(lengths, part["weight"], rtol=1e-5)
            assert (whole | (lengths == 0)).all(), part["name"]
            assert whole.mean() > 0.9


@pytest.mark.parametrize("count", [2, 3, 9])
@pytest.mark.parametrize("parts", ["mean,rich,plain", "extremes,moments", "std|vlad"])
def test_few_sequences_give_lengths_1_or_0(parts, count):
    tokens = made(count, seed=2)
    model = OneVec(parts=parts).fit(tokens)
    for block in columns(model, model.transform([*tokens, *TOKENS[:5]])).values():
        lengths = np.linalg.norm(block, axis=1)
        assert (np.isclose(lengths, 1, rtol=1e-5) | (lengths < 1e-3)).all()
    assert not model.verdict_.beats_mean


def test_sequences_that_repeat_one_token_are_as_long_as_others():
    rng = np.random.default_rng(0)
    tokens = [np.repeat(rng.normal(size=(1, 8)), n, axis=0) for n in rng.integers(1, 9, size=80)]
    model = OneVec().fit(tokens)
    for part, block in zip(
        model.parts_, columns(model, model.transform(tokens)).values(), strict=True
    ):
        lengths = np.linalg.norm(block, axis=1)
        assert (np.isclose(lengths, part["weight"], rtol=1e-5) | (lengths == 0)).all()


def test_the_mean_is_centred_scaled_and_not_rotated(fitted):
    means = np.stack([each.astype(np.float64).mean(0) for each in TOKENS])
    new = np.stack([each.astype(np.float64).mean(0) for each in made(30, seed=3)])
    found = columns(fitted, fitted.transform(made(30, seed=3)))["mean"]
    np.testing.assert_allclose(found, unit(new - means.mean(0)), atol=1e-5)
    heavier = OneVec(parts={"mean": 2.5}).fit(TOKENS).transform(TOKENS)
    np.testing.assert_allclose(heavier, 2.5 * unit(means - means.mean(0)), atol=1e-5)


def test_the_dot_product_is_the_weighted_sum_of_cosines(fitted):
    vectors = fitted.transform(TOKENS).astype(np.float64)
    wanted = sum(
        part["weight"] ** 2 * (unit(block) @ unit(block).T)
        for part, block in zip(fitted.parts_, columns(fitted, vectors).values(), strict=True)
    )
    np.testing.assert_allclose(vectors @ vectors.T, wanted, atol=1e-5)


def test_the_rotation_keeps_dot_products_and_evens_the_columns():
    tokens = Ragged.from_list(made(600, seed=4, least=4))
    features = Blocks.fit(tokens, {n: BLOCKS[n] for n in RICH.blocks}, 0).of(tokens)
    part = Part(RICH, 64, "wide")
    found = FittedPart.fit("rich", -1, part, features, token_dim=384)
    plain = Reduction(RICH).fit(features, found.width).transform(features).astype(np.float64)
    plain = plain - plain.mean(0)
    ours = found.transform(features)
    assert ours.shape == (600, 64)
    np.testing.assert_allclose(ours @ ours.T, unit(plain) @ unit(plain).T, atol=1e-4)
    spread, before = ours.var(0), plain.var(0)
    assert spread.max() / spread.min() < 4 < before.max() / before.min()
    again = FittedPart.fit("rich", -1, part, features, token_dim=384)
    np.testing.assert_array_equal(again.transform(features), ours)  # the rotation is seeded


def test_directions_in_which_nothing_varies_are_no_columns():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 20))
    found = FittedPart.fit("x", 0, Part(Recipe(("a",), 0.5, 0.5), 9, ""), {"a": low}, token_dim=99)
    assert found.width == 3
    constant = FittedPart.fit(
        "x", 0, Part(Recipe(("a",), 0.5, 0.5), 9, ""), {"a": np.ones((60, 5))}, token_dim=99
    )
    assert constant.width == 1 and not constant.transform({"a": np.ones((4, 5))}).any()


@pytest.mark.parametrize(
    ("dim", "width"), [(1, 6), (8, 6), (12, 6), (16, 11), (64, 173), (384, 256), (5_000, 256)]
)
def test_widths_follow_the_number_of_second_moments(dim, width):
    assert width_of(PARTS["rich"], dim) == width
    assert width == min(256, max(6, dim * (dim + 1) // 2 // 12))
    assert width_of(PARTS["mean"], dim) is None
    assert width_of(replace(PARTS["plain"], width=4), dim) == 4


def test_weights_scale_their_columns_alone(fitted):
    other = OneVec(parts={"mean": 1.0, "rich": 0.2, "plain": 0.5}).fit(TOKENS)
    ours, theirs = (columns(model, model.transform(TOKENS)) for model in (fitted, other))
    np.testing.assert_array_equal(ours["mean"], theirs["mean"])
    np.testing.assert_array_equal(ours["plain"], theirs["plain"])
    np.testing.assert_allclose(ours["rich"], 4 * theirs["rich"], atol=1e-6)
    without = OneVec(parts={"mean": 1.0, "rich": 0, "plain": 0.5}).fit(TOKENS)
    assert [part["name"] for part in without.parts_] == ["mean", "plain"]
    np.testing.assert_array_equal(
        without.transform(TOKENS), np.hstack([ours["mean"], ours["plain"]])
    )


# --- parts= ---------------------------------------------------------------------------------------
def names_and_weights(given):
    return {name: part.weight for name, part in chosen(given, WEIGHTS)[0].items()}


def test_ways_to_name_parts():
    assert names_and_weights(None) == WEIGHTS
    two = {"mean": 1.0, "rich": 0.6}
    for given in ("mean,rich=0.6", " mean , rich=.6", two, {"mean": 1, "rich": np.float32(0.6)}):
        assert names_and_weights(given) == pytest.approx(two)
    assert names_and_weights(["mean", "plain"]) == {"mean": 1, "plain": 1}
    assert names_and_weights("mean,plain=0") == {"mean": 1}
    assert names_and_weights({"mean": np.int64(2)}) == {"mean": 2}
    parts, specs = chosen({"std|dct": 0.5, "mean": 1}, WEIGHTS)
    assert parts["std|dct"].recipe == Recipe(("std", "own_dct"), 0.5, 0.5)
    assert specs == {
        "std": BlockSpec("std", {}),
        "own_dct": BlockSpec("dct", {}),
        "mean": BlockSpec("mean", {}, "raw"),
    }
    own = Part(Recipe(("covariance",), 0.0, 0.0), 5, "mine", weight=0.3)
    parts, specs = chosen({"mine": own}, WEIGHTS)
    assert parts == {"mine": own} and specs == {"covariance": BLOCKS["covariance"]}
    assert read_weights("last,middle=0.6", "layer") == {"last": 1.0, "middle": 0.6}


@pytest.mark.parametrize(
    ("given", "words"),
    [("meen", "the part 'meen': choose from mean, rich, plain"), ("", "the part ''"),
     ("rich=much", "the weight 'much' of part 'rich': write NAME or NAME=WEIGHT"),
     ({"rich": -1}, "the weight -1 of 'rich'"), ("rich=nan", "the weight nan of 'rich'"),
     ({"rich": "1"}, "the weight '1' of 'rich'"), ({"rich": True}, "the weight True"),
     ({"rich": float("inf")}, "the weight inf"), ({"rich": None}, "the weight None"),
     ("rich=0", "at least one part"), ([], "at least one part"), ({}, "at least one part"),
     (3, "got parts=3: pass names"), ([1], r"got parts=\[1\]: pass names"),
     ("attention", "which is trained: pass it as pooler='attention'"),
     ({"x": replace(PARTS["rich"], width=None)}, "come from one block"),
     ({"x": replace(PARTS["rich"], weight=-1.0)}, "the weight -1.0 of 'x'"),
     ({"x": Part(Recipe(("odd",), 0.5, 0.5), 9, "")}, "of the block 'odd': choose from mean")],
)  # fmt: skip
def test_parts_that_there_are_not(given, words):
    with pytest.raises(InputError, match=words) as caught:
        OneVec(parts=given).fit(TOKENS[:40])
    assert "\n" not in str(caught.value)


def test_a_pooler_alone_has_no_parts_beside_it():
    with pytest.raises(InputError, match="a named pooler is the whole vector"):
        OneVec(parts="mean", pooler="std").fit(TOKENS)


def test_frames_weigh_the_mean_less():
    rng = np.random.default_rng(0)
    frames = Ragged.from_list([rng.normal(size=(9, 16)) * rng.lognormal() for _ in range(50)])
    states = unit(rng.normal(size=(450, 16))).reshape(50, 9, 16)
    assert ready_frames(frames, None) and not ready_frames(frames, "an encoder")
    assert not ready_frames(Ragged.from_list(list(states)), None)
    assert frame_like(127, 0.13) and not frame_like(128, 0.13) and not frame_like(16, 0.12)
    for tokens, weights in ((frames, FRAME_WEIGHTS), (list(states), WEIGHTS)):
        model = OneVec().fit(tokens)
        assert {part["name"]: part["weight"] for part in model.parts_} == weights


# --- layers= --------------------------------------------------------------------------------------
def stacked(count=60, seed=5):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 15, size=count)
    return {layer: [rng.normal(size=(n, 8)) for n in lengths] for layer in (2, 6, 12)}


def test_layers_of_a_mapping_stand_side_by_side():
    tokens = stacked()
    model = OneVec(layers={12: 1.0, 6: 0.5}).fit(tokens)
    assert model.layers_ == [12, 6]
    names = [(part["name"], part["layer"]) for part in model.parts_]
    assert names == [("mean", 12), ("rich", 12), ("plain", 12)] + [
        (f"{name}@6", 6) for name in ("mean", "rich", "plain")
    ]
    weights = [part["weight"] for part in model.parts_]
    np.testing.assert_allclose(weights[3:], [0.5 * weight for weight in weights[:3]])
    found = model.transform(tokens)
    alone = [OneVec().fit(tokens[layer]).transform(tokens[layer]) for layer in (12, 6)]
    np.testing.assert_allclose(found, np.hstack([alone[0], 0.5 * alone[1]]), atol=1e-6)
    held = {layer: Ragged.from_list(tokens[layer]) for layer in (12, 6)}
    np.testing.assert_allclose(model.transform_states(held, {}), found, atol=1e-6)
    assert not model.verdict_.beats_mean
    with pytest.raises(InputError, match="got the layers 6, and the model was fitted to 12, 6"):
        model.transform({6: tokens[6]})
    with pytest.raises(InputError, match="the model reads the layers 12, 6, and bare arrays have"):
        model.transform(tokens[12])


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [(None, {12: 1}), ("last", {12: 1}), ("last,middle", {12: 1, 6: 0.6}), (2, {2: 1}),
     ("all", {12: 1, 6: 0.6 / 2**0.5, 2: 0.6 / 2**0.5}), ("12,2=0.3", {12: 1, 2: 0.3}),
     ([6, "last"], {12: 1, 6: 0.6}), ({6: 2.0, "last": None}, {12: 1, 6: 2.0}),
     ("last,middle=0", {12: 1}), (np.array([12, 2]), {12: 1, 2: 0.6}), (np.int64(6), {6: 1}),
     ({2, 12}, {12: 1, 2: 0.6}), ("middle,6=0.4", {6: 1})],
)  # fmt: skip
def test_ways_to_name_layers(asked, wanted):
    found, weights = open_layers(stacked(3), asked)
    assert weights == pytest.approx(wanted) and list(found) == list(wanted)


@pytest.mark.parametrize(
    ("asked", "words"),
    [(7, 'got the layer 7: choose from 2, 6, 12, "last"'), ("first", "got the layer 'first'"),
     ([], r"got layers=\[\]: name at least one"), ([[2]], r"got the layer '\[2\]'"),
     ("last=much", "the weight 'much' of layer"), ({12: -1}, "the weight -1 of layer 12"),
     (True, "got the layer True"), (1.5, "got the layer '1.5'"), ("", "got the layer ''")],
)  # fmt: skip
def test_layers_that_there_are_not(asked, words):
    with pytest.raises(InputError, match=words) as caught:
        OneVec(layers=asked).fit(stacked(3))
    assert "\n" not in str(caught.value)


def test_layers_must_hold_the_same_sequences():
    tokens = stacked()
    with pytest.raises(InputError, match="layer 12 does not hold the same sequences"):
        OneVec().fit(tokens | {12: tokens[12][1:]})
    with pytest.raises(InputError, match="as many dimensions"):
        OneVec().fit(tokens | {12: [each[:, :5] for each in tokens[12]]})
    with pytest.raises(InputError, match="empty mapping"):
        OneVec().fit({})
    with pytest.raises(InputError, match="whole numbers as keys"):
        OneVec().fit({"last": tokens[12]})
    with pytest.raises(InputError, match="with bare arrays, which have one layer"):
        OneVec(layers="last,middle").fit(TOKENS)
    with pytest.raises(InputError, match="which work on one layer"):
        OneVec(layers="last,middle", pooler="std").fit(tokens)


@pytest.fixture
def store(tmp_path):
    """Three layers and a classification token."""
    tokens, rng = stacked(), np.random.default_rng(6)
    lengths = [len(each) for each in tokens[2]]
    cls = {layer: rng.normal(size=(len(lengths), 8)).astype(np.float32) for layer in tokens}
    with TokenStoreWriter(tmp_path / "s", dtype="float32", layers=list(tokens)) as writer:
        writer.append({layer: Ragged.from_list(each) for layer, each in tokens.items()}, cls=cls)
    return TokenStore(tmp_path / "s"), tokens, cls


def test_layers_of_a_store_are_those_of_a_mapping(store, tmp_path):
    held, tokens, _ = store
    model = OneVec(layers="last,6").fit(held)
    assert model.layers_ == [12, 6]
    wanted = OneVec(layers="last,6").fit(tokens)
    np.testing.assert_allclose(model.transform(held), wanted.transform(tokens), atol=1e-5)
    again = load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(held), model.transform(held))
    np.testing.assert_allclose(again.transform(held.layer(2)), model.transform(held), atol=1e-6)
    assert again.verdict_ == model.verdict_ and again.parts_ == model.parts_


def test_the_classification_token_is_a_part(store, tmp_path):
    held, tokens, cls = store
    model = OneVec(parts="mean,cls=0.5").fit(held)
    found = columns(model, model.transform(held))["cls"]
    wanted = cls[12].astype(np.float64)
    np.testing.assert_allclose(found, 0.5 * unit(wanted - wanted.mean(0)), atol=1e-5)
    states = {12: Ragged.from_list(tokens[12])}
    np.testing.assert_allclose(
        model.transform_states(states, cls), model.transform(held), atol=1e-5
    )
    again = load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(held), model.transform(held))
    alone = OneVec(parts="cls", layers="last,6").fit(held)
    assert alone.transform(held).shape == (60, 16)
    assert load(alone.save(tmp_path / "alone")).layers_ == [12, 6]
    for act in (lambda: OneVec(parts="mean,cls").fit(TOKENS), lambda: model.transform(tokens)):
        with pytest.raises(InputError, match='the part "cls" with bare arrays'):
            act()


def test_a_real_encoder_with_two_layers(bert, tmp_path):  # noqa: F811
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACDEF"), size=n)) for n in rng.integers(1, 30, size=60)]
    held = encode(texts, bert, out=tmp_path / "s", layers="last,middle", progress=False)
    model = OneVec(layers="last,middle", parts="mean,rich,cls").fit(held)
    assert model.layers_ == [3, 1]
    assert [part["name"] for part in model.parts_][2:4] == ["cls", "mean@1"]
    again = load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(held), model.transform(held))
    one = encode(texts[:9], bert, out=tmp_path / "one", progress=False)
    with pytest.raises(InputError, match="layer") as caught:
        model.transform(one)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="got the layer 2: choose from 1, 3"):
        OneVec(layers=[2, 3]).fit(held)


# --- keep the mean --------------------------------------------------------------------------------
def few():
    return TOKENS[:20]


def one_token():
    return [each[:1] for each in TOKENS]


def all_alike():
    return [np.full((n, DIM), 0.7, np.float32) for n in range(1, 60)]


@pytest.mark.parametrize("tokens", [few, one_token, all_alike])
def test_keep_the_mean_is_the_native_mean_exactly(tokens, tmp_path):
    tokens = tokens()
    model = OneVec().fit(tokens)
    assert model.verdict_.choice == "the mean"
    assert model.verdict_.sentence.startswith("Keep the mean: ")
    assert not model.verdict_.beats_mean and model.verdict_.expected_gain is None
    assert [part["name"] for part in model.parts_] == ["mean"]
    found = model.transform(TOKENS)
    np.testing.assert_array_equal(found, model.transform_baselines(TOKENS)["mean"])
    np.testing.assert_allclose(found, [each.mean(0) for each in TOKENS], atol=1e-6)
    again = load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(TOKENS), found)
    assert again.verdict_ == model.verdict_
    short = OneVec(dim=3).fit(tokens)
    assert short.transform(TOKENS).shape == (len(TOKENS), 3)
    assert "Its 12 dimensions are shortened to the leading 3." in short.verdict_.sentence


def test_the_mean_that_is_kept_does_not_tell_the_nuisance(tmp_path):
    rng = np.random.default_rng(0)
    session = rng.integers(0, 2, 200)
    tokens = [rng.normal(size=(1, 6)) + 4 * np.eye(6)[:1] * group for group in session]
    with TokenStoreWriter(tmp_path / "s", dtype="float32") as writer:
        writer.append(tokens, metadata={"session": [f"s{group}" for group in session]})
    held = TokenStore(tmp_path / "s")
    model = OneVec(nuisance=["session"]).fit(held)
    assert model.verdict_.choice == "the mean"
    found = model.transform(held)
    apart = [np.abs(each[session == 1].mean(0) - each[session == 0].mean(0)).max()
             for each in (found, OneVec().fit(held).transform(held))]  # fmt: skip
    assert apart[0] < 1e-4 < 3 < apart[1]
    np.testing.assert_array_equal(load(model.save(tmp_path / "m")).transform(held), found)


# --- fewer dimensions -----------------------------------------------------------------------------
def test_fewer_dimensions_are_the_principal_axes_of_the_whole(tmp_path):
    whole = OneVec().fit(TOKENS).transform(TOKENS).astype(np.float64)
    model = OneVec(dim=7).fit(TOKENS)
    centred = whole - whole.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found = model.transform(TOKENS)
    np.testing.assert_allclose(np.abs(found), np.abs(centred @ axes[:7].T), atol=1e-4)
    said = model.verdict_
    assert said.shorter.dim == 7 and said.shorter.whole == whole.shape[1]
    assert 0 < said.shorter.neighbours <= 1
    assert f"Its {whole.shape[1]} dimensions are shortened to 7, which keeps" in said.sentence
    assert "no longer contains the mean whole" in said.sentence and not said.beats_mean
    again = load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(TOKENS), found)
    assert again.verdict_ == said
    wide = OneVec(dim=999).fit(TOKENS)
    assert wide.vector_.shorter is None and wide.verdict_.shorter is None
    told = OneVec(dim=7, parts="mean,rich").fit(TOKENS).verdict_.sentence
    assert "nothing is claimed" in told and "shortened to 7" in told


# --- saved ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "given",
    [{}, {"dim": "auto"}, {"parts": "mean,std|vlad=0.4"}, {"parts": "extremes,moments"},
     {"pooler": "mean|std"}, {"nuisance": ["length"]}, {"export": "sentence-transformers"}],
    ids=str,
)  # fmt: skip
def test_saved_and_opened_is_the_same(given, tmp_path):
    model = OneVec(**given).fit(TOKENS)
    again = load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(TOKENS), model.transform(TOKENS))
    assert again.parts_ == model.parts_ and again.verdict_ == model.verdict_
    assert again.get_params() == model.get_params()
    assert again.baselines_.keys() == model.baselines_.keys()
    state, ours = model.vector_.state()
    other, theirs = Vector.from_state(json.loads(json.dumps(state)), ours).state()
    assert other == state and ours.keys() == theirs.keys()


def test_an_affine_vector_for_other_programs():
    """Lengths are 1 on average only, so that every part is one affine map of its features."""
    model = OneVec(export="sentence-transformers").fit(TOKENS)
    for part, block in zip(
        model.parts_, columns(model, model.transform(TOKENS)).values(), strict=True
    ):
        sizes = np.linalg.norm(block, axis=1)
        assert np.sqrt((sizes**2).mean()) == pytest.approx(part["weight"], rel=1e-5)
        assert sizes.std() > 0.05


# --- what is measured -----------------------------------------------------------------------------
def rows(gains):
    """Each of its own encoder, the first nearest to `NEAR`."""
    return [
        {"kind": "frames", "encoder": f"e{at}", "gain": gain, "dim": 9.0 + at, "length": 5.0}
        | {"icc": 0.1, "norm_cv": 0.5}
        for at, gain in enumerate(gains)
    ]


NEAR = {"dim": 9.0, "length": 5.0, "icc": 0.1, "norm_cv": 0.5}


def test_the_estimate_is_a_weighted_quantile():
    same = [row | {"icc": 0.1} for row in rows(np.arange(1.0, 42.0))]
    found = estimate("frames", NEAR, same)
    assert found.rows == found.encoders == 41 and found.gain == pytest.approx(21)
    wanted = np.quantile(np.arange(1.0, 42.0), [0.05, 0.95], method="hazen")
    np.testing.assert_allclose([found.low, found.high], wanted)
    assert found.chance == 1
    losing = [row | {"gain": -1.0} for row in same[:10]]
    assert estimate("frames", NEAR, [*losing, *same[10:]]).chance == pytest.approx(31 / 41)
    assert estimate("encoder", NEAR, same) is None and estimate("frames", NEAR, same[:4]) is None


def test_an_encoder_with_many_rows_counts_less_for_each():
    many = [row | {"encoder": "one"} for row in rows([0.0] * 9)] + rows([6.0])
    found = estimate("frames", NEAR, many)
    assert found.encoders == 2 and found.gain == pytest.approx(6 / (9 / 3 + 1))


def test_rows_with_similar_tokens_count_most():
    far = [row | {"icc": 0.9} for row in rows([0.0] * 20)]
    near = [row | {"encoder": f"n{at}"} for at, row in enumerate(rows([8.0] * 20))]
    assert estimate("frames", NEAR, [*far, *near]).gain > 6.5
    beyond = estimate("frames", NEAR | {"icc": 9.0}, [*far, *near])
    assert beyond.gain == pytest.approx(estimate("frames", NEAR | {"icc": 0.9}, far + near).gain)


def test_what_is_said_of_tokens_that_say_little():
    one = describe(Ragged(torch.ones(3, 2), torch.tensor([1, 1, 1])))
    assert one == {"dim": 2.0, "length": 1.0, "icc": 0.0, "norm_cv": 0.0}
    alone = describe(Ragged(torch.tensor([[3.0], [1.0]]), torch.tensor([2])))
    assert alone == {"dim": 1.0, "length": 2.0, "icc": 0.0, "norm_cv": 0.5}
    constant = torch.tensor([[1.0, 5.0], [1.0, 5.0], [3.0, 5.0], [3.0, 5.0]])
    found = describe(Ragged(constant, torch.tensor([2, 2])))
    assert found["icc"] == 1.0  # of the feature that varies, which is the sequence's
    assert all(
        np.isfinite(value)
        for value in describe(Ragged(constant * 0, torch.tensor([2, 2]))).values()
    )


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_noise_never_claims(shift, monkeypatch):
    """Not even where every measured encoder gained."""
    best = [row | {"kind": kind} for row in rows([9.0] * 50) for kind in ("encoder", "frames")]
    monkeypatch.setattr("onevec.judge.measured.table", lambda: {"rows": best})
    rng = np.random.default_rng(int(shift))
    tokens = [rng.normal(size=(n, 16)) + shift for n in rng.integers(2, 40, size=300)]
    said = OneVec().fit(tokens).verdict_
    assert not said.beats_mean and said.interval == [9.0, 9.0]
    assert "nothing in these data tells one sequence from another" in said.sentence


def test_an_encoder_with_random_weights_is_told():
    """A layer norm without learned gains gives all tokens one length."""
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, 48)) + rng.normal(size=48) for n in rng.integers(4, 20, size=200)]
    tokens = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in tokens]
    said = OneVec().fit(tokens).verdict_
    assert not said.beats_mean and "check that its weights were loaded" in said.sentence
    assert "encoders with random weights" in said.sentence and said.chance < 1


def test_a_gain_is_claimed_where_all_agrees(easy_tokens, monkeypatch):
    best = [row | {"kind": kind} for row in rows([9.0] * 50) for kind in ("encoder", "frames")]
    monkeypatch.setattr("onevec.judge.measured.table", lambda: {"rows": best})
    said = OneVec().fit(easy_tokens[0]).verdict_
    assert said.beats_mean and said.expected_gain == 9.0
    assert (
        "It is better than the mean (chance above 99 %): on 50 measured tasks of 50 "
        in said.sentence
    )
    monkeypatch.setattr("onevec.judge.measured.table", lambda: {"rows": []})
    unknown = OneVec().fit(easy_tokens[0]).verdict_
    assert not unknown.beats_mean and unknown.expected_gain is None
    assert "no gain over the mean is promised" in unknown.sentence
