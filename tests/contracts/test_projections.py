"""What holds for every projection of the table."""

import json

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from onevec.errors import InputError
from onevec.project import PROJECTIONS, Moments, load_projection, projection_state

VARIANTS = [
    *[kind() for kind in PROJECTIONS.values()],
    PROJECTIONS["pca"](n_components=2),
    PROJECTIONS["whitening"](n_components=1, power=0.5, shrinkage="auto"),
    PROJECTIONS["within_whitening"](n_components=1, shrinkage=0.1),
    PROJECTIONS["rademacher"](n_components=1),
    PROJECTIONS["sparse"](n_components=1, density="auto"),
    PROJECTIONS["truncate"](n_components=1),
    PROJECTIONS["int8"](percentile=99.0),
    PROJECTIONS["binary"](threshold="median", packed=False),
]
# What scikit-learn 1.9 collects for a transformer that keeps float32 (a quantiser does not: one
# less). Fewer, or none, means that a tag is wrong. One check of each skips itself: it compares
# array libraries and runs only where SCIPY_ARRAY_API is set.
LEAST_CHECKS = 47

checks = parametrize_with_checks(VARIANTS)


@checks
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_that_every_projection_is_checked():
    collected: dict[str, int] = {}
    for estimator, _ in checks.args[1]:
        collected[repr(estimator)] = collected.get(repr(estimator), 0) + 1
    assert {type(v) for v in VARIANTS} == set(PROJECTIONS.values())
    for variant in VARIANTS:
        keeps_dtype = bool(variant.__sklearn_tags__().transformer_tags.preserves_dtype)
        assert collected[repr(variant)] >= LEAST_CHECKS - (not keeps_dtype), variant


every = pytest.mark.parametrize("projection", [clone(v) for v in VARIANTS], ids=repr)


@pytest.fixture(name="X")
def vectors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(90, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)


@every
def test_a_stream_gives_what_all_rows_at_once_give(projection, X):
    streamed = clone(projection)
    if "auto" in str(projection.get_params().get("n_components")):
        streamed.set_params(n_components=5)  # "auto" is decided by the first batch
    at_once = clone(streamed).fit(X)
    for batch in np.array_split(X, [1, 2, 30, 31]):
        streamed.partial_fit(batch)
    a, b = at_once.transform(X), streamed.transform(X)
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=1e-9, atol=1e-9)


@every
def test_moments_alone_are_enough(projection, X):
    by_moments = clone(projection)
    if "sample_" in vars(clone(projection).fit(X)):
        with pytest.raises(InputError, match="order statistics do not add up"):
            by_moments.fit_moments(Moments.of([X]))
        return
    by_moments.fit_moments(Moments.of(np.array_split(X, 4)))
    one, other = clone(projection).fit_transform(X), by_moments.transform(X)
    np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-9, atol=1e-9)


@every
def test_moments_of_too_low_an_order_are_refused(projection, X):
    if projection.order > 0:
        with pytest.raises(InputError, match=f"needs order {projection.order}"):
            projection.fit_moments(Moments.of([X], order=projection.order - 1))


@every
def test_state_round_trip_is_exact(projection, X):
    projection = clone(projection).fit(X)
    name, params, arrays = projection_state(projection)
    assert all(type(a) is np.ndarray and a.dtype.kind in "fiu" for a in arrays.values())
    loaded = load_projection(name, json.loads(json.dumps(params)), arrays)
    np.testing.assert_array_equal(loaded.transform(X), projection.transform(X))
    assert list(loaded.get_feature_names_out()) == list(projection.get_feature_names_out())
    with pytest.raises(InputError, match="loaded without its moments"):
        loaded.partial_fit(X)
    with pytest.raises(InputError, match="incomplete"):
        load_projection(name, params, {})


@every
def test_float32_gives_what_float64_gives(projection, X):
    X = X.astype(np.float32)
    single = clone(projection).fit(X).transform(X)
    double = clone(projection).fit(X.astype(np.float64)).transform(X.astype(np.float64))
    kept = projection.__sklearn_tags__().transformer_tags.preserves_dtype
    assert single.dtype == (np.float32 if kept else double.dtype)
    np.testing.assert_allclose(single.astype(float), double.astype(float), rtol=1e-4, atol=1e-4)


@every
def test_names_and_width_agree(projection, X):
    out = clone(projection).fit(X)
    assert len(out.get_feature_names_out()) == out.transform(X).shape[1]


@every
def test_rows_do_not_depend_on_their_batch(projection, X):
    projection = clone(projection).fit(X)
    rows = np.concatenate([projection.transform(X[i : i + 1]) for i in range(len(X))])
    np.testing.assert_allclose(rows.astype(float), projection.transform(X).astype(float), atol=1e-9)


@every
def test_the_input_is_left_alone(projection, X):
    before = X.copy()
    out = clone(projection).fit(X).transform(X)
    out[:] = 0
    np.testing.assert_array_equal(X, before)


@every
def test_constant_columns_and_fewer_rows_than_columns(projection, X):
    X = X[:5].copy()
    X[:, 3] = 7.0
    out = clone(projection).fit(X).transform(X)
    assert out.shape[0] == 5
    assert np.isfinite(out.astype(float)).all()


@every
def test_one_row(projection, X):
    projection = clone(projection)
    if projection.least_rows == 1:
        assert np.isfinite(projection.fit(X[:1]).transform(X[:1]).astype(float)).all()
    else:
        with pytest.raises(InputError, match="n_samples = 1: it needs at least 2 rows; pass more"):
            projection.fit(X[:1])
        with pytest.raises(InputError, match="needs at least 2 rows"):
            projection.fit_moments(Moments.of([X[:1]]))


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(projection, X, bad):
    broken = X.copy()
    broken[4, 2] = bad
    fitted = clone(projection).fit(X)
    for call in (clone(projection).fit, clone(projection).partial_fit, fitted.transform):
        with pytest.raises(InputError, match=r"row 4 of X holds NaN or infinity \(1 of 90 rows"):
            call(broken)


@every
def test_another_width(projection, X):
    projection = clone(projection).fit(X)
    for call in (projection.transform, projection.partial_fit):
        with pytest.raises(InputError, match=r"X has 3 features, but .* is expecting 12 .*: pass"):
            call(X[:, :3])


@every
def test_too_many_components(projection, X):
    if "n_components" not in projection.get_params():
        return
    for wrong in (13, 0, -1, 2.0, "most", True):
        with pytest.raises(InputError, match=r"n_features = 12: .* integer from 1 to 12; choose"):
            clone(projection).set_params(n_components=wrong).fit(X)


@every
def test_in_a_pipeline(projection, X):
    pipeline = make_pipeline(PROJECTIONS["center"](), clone(projection))
    assert len(pipeline.fit(X).transform(X)) == len(X)


def test_what_cannot_be_saved_says_so(X):
    projection = PROJECTIONS["gaussian"](2, random_state=np.random.RandomState(0)).fit(X)
    with pytest.raises(InputError, match=r"as JSON .* an integer"):
        projection_state(projection)
    with pytest.raises(InputError, match="known are center, pca"):
        load_projection("nothing", {}, {})
    with pytest.raises(InputError, match="no parameter power"):
        load_projection("pca", {"power": 1}, {})


def test_numpy_scalars_are_saved_as_numbers(X):
    projection = PROJECTIONS["pca"](np.int64(2)).fit(X)
    assert json.dumps(projection_state(projection)[1]) == '{"n_components": 2}'
