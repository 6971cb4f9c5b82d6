"""Projections: parity with published formulas and scikit-learn, and metamorphic facts."""

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn import decomposition
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import pairwise_distances
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from onevec.errors import InputError
from onevec.project import (
    PCA,
    BinaryQuantize,
    Center,
    GaussianProjection,
    GroupedMoments,
    Int8Quantize,
    Moments,
    Normalize,
    RademacherProjection,
    RemoveTopComponents,
    SparseProjection,
    Truncate,
    Whitening,
    WithinWhitening,
    hamming,
    johnson_lindenstrauss_dim,
    oas_shrinkage,
)

LINEAR = [
    Center(),
    PCA(4),
    Whitening(5, power=0.7, shrinkage="auto"),
    WithinWhitening(4),
    RemoveTopComponents(2),
    RademacherProjection(4),
    SparseProjection(6),
    GaussianProjection(4),
    Truncate(3),
]


@pytest.fixture(name="X")
def vectors():
    rng = np.random.default_rng(1)
    return rng.normal(size=(400, 10)) @ rng.normal(size=(10, 10)) + 5 * rng.normal(size=10)


def covariance(Y):
    return np.cov(Y.astype(np.float64).T)


# Whitening and PCA


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batches", [1, 7, 400])
def test_whitened_training_rows_have_zero_mean_and_identity_covariance(X, dtype, batches):
    X = X.astype(dtype)
    whitening = Whitening()
    for batch in np.array_split(X, batches):
        whitening.partial_fit(batch)
    Y = whitening.transform(X)
    assert Y.dtype == dtype
    np.testing.assert_allclose(Y.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(covariance(Y), np.eye(10), atol=1e-4)


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_identity_covariance_of_badly_conditioned_float32_rows(condition):
    rng = np.random.default_rng(0)
    turn = ortho_group.rvs(30, random_state=0)
    X = (rng.normal(size=(2000, 30)) * np.geomspace(1, 1 / condition, 30)) @ turn + 0.1
    Y = Whitening().fit_transform(X.astype(np.float32))
    np.testing.assert_allclose(covariance(Y), np.eye(30), atol=1e-4)


def test_rank_deficient_rows_whiten_on_their_span_and_give_zero_beyond(X):
    wide = np.concatenate([X[:, :4], X[:, :4] @ np.ones((4, 2)), np.full((400, 2), 3.0)], axis=1)
    whitening = Whitening().fit(wide)
    Y = whitening.transform(wide)
    assert whitening.rank_ == 4
    np.testing.assert_allclose(covariance(Y), np.diag([1.0] * 4 + [0.0] * 4), atol=1e-4)
    np.testing.assert_array_equal(Y[:, 4:], 0)
    np.testing.assert_allclose(whitening.inverse_transform(Y), wide, atol=1e-8)


@pytest.mark.parametrize("constant", [0.0, 1 / 3, 1e6 / 3])
def test_rows_that_are_all_equal_give_zero(constant):
    X = np.full((1000, 5), constant)
    for projection in (Whitening(), PCA(), WithinWhitening(), Whitening(shrinkage="auto")):
        for batch in np.array_split(X, 3):
            projection.partial_fit(batch)
        np.testing.assert_array_equal(projection.transform(X + 1), 0)


def test_fewer_rows_than_columns(X):
    few = X[:6]
    whitening = Whitening().fit(few)
    assert whitening.rank_ == 5
    Y = whitening.transform(few)
    np.testing.assert_allclose(covariance(Y), np.diag([1.0] * 5 + [0.0] * 5), atol=1e-4)
    shrunk = Whitening(shrinkage="auto").fit(few)
    assert shrunk.rank_ == 10
    assert np.isfinite(shrunk.transform(X)).all()


@pytest.mark.parametrize("kept", [1, 4, 10])
def test_parity_with_scikit_learn(X, kept):
    ours, theirs = PCA(kept).fit(X), decomposition.PCA(kept, svd_solver="full").fit(X)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), atol=1e-9)
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-9)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_)
    white = decomposition.PCA(kept, whiten=True, svd_solver="full").fit(X)
    np.testing.assert_allclose(Whitening(kept).fit(X).transform(X), white.transform(X), atol=1e-9)


def test_power_is_the_exponent_of_the_variance(X):
    v = np.linalg.eigvalsh(np.cov(X.T))[::-1]
    for power in (0.0, 0.5, 1.0):
        Y = Whitening(power=power).fit_transform(X)
        np.testing.assert_allclose(covariance(Y), np.diag(v ** (1 - power)), atol=1e-9 * v[0])
    np.testing.assert_allclose(
        Whitening(power=0.5).fit_transform(X), PCA().fit_transform(X) * v**-0.25, atol=1e-9
    )
    np.testing.assert_array_equal(Whitening(power=0.0).fit_transform(X), PCA().fit_transform(X))


def test_shrinkage_enters_the_variance(X):
    S = np.cov(X.T)
    weight = oas_shrinkage(S, len(X))
    auto, by_hand = Whitening(shrinkage="auto").fit(X), Whitening(shrinkage=weight).fit(X)
    assert auto.shrinkage_ == pytest.approx(weight)
    np.testing.assert_allclose(auto.transform(X), by_hand.transform(X))
    shrunk = 0.7 * S + 0.3 * np.trace(S) / 10 * np.eye(10)
    matrix = Whitening(shrinkage=0.3).fit(X).matrix_
    np.testing.assert_allclose(matrix.T @ shrunk @ matrix, np.eye(10), atol=1e-9)
    whole = Whitening(shrinkage=1.0).fit(X)  # a rotation, scaled
    gram = whole.matrix_ @ whole.matrix_.T
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(10), atol=1e-9)


def test_whitening_forgets_any_invertible_linear_map_up_to_rotation(X):
    A = np.random.default_rng(5).normal(size=(10, 10))
    one, other = Whitening().fit_transform(X), Whitening().fit_transform(X @ A - 3)
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-7)


def test_signs_and_order_of_rows(X):
    shuffled = np.random.default_rng(0).permutation(X)
    a, b = Whitening().fit(X), Whitening().fit(shuffled)
    np.testing.assert_allclose(a.transform(X), b.transform(X), atol=1e-8)
    peak = np.abs(a.inverse_).argmax(axis=1)
    assert (PCA().fit(X).components_[np.arange(10), peak] > 0).all()


def test_moments_may_be_shared(X):
    moments = Moments.of([X[:200]])
    one = PCA(3).fit_moments(moments)
    one.partial_fit(X[200:])
    assert moments.count == 200
    np.testing.assert_allclose(one.transform(X), PCA(3).fit(X).transform(X), atol=1e-9)


def test_partial_fit_waits_for_the_second_row(X):
    projection = PCA(1).partial_fit(X[:1])
    with pytest.raises(ValueError, match="not fitted"):
        projection.transform(X)
    assert projection.partial_fit(X[1:2]).transform(X).shape == (400, 1)


@pytest.mark.parametrize(
    ("projection", "message"),
    [
        (Whitening(power=-1), "power=-1: it must be a number from 0.0 to 2.0"),
        (Whitening(power=np.nan), "power=nan"),
        (Whitening(shrinkage="much"), "shrinkage='much': it must be 'auto' or a number"),
        (Whitening(shrinkage=1.5), "shrinkage=1.5: it must be a number from 0.0 to 1.0"),
        (Whitening(eps="small"), "eps='small'"),
        (WithinWhitening(power=True), "power=True"),
        (RemoveTopComponents(11), "n_removed=11 for vectors of n_features = 10"),
        (SparseProjection(2, density=0.0), "density=0.0"),
        (GaussianProjection(eps=1.0), "0 < eps < 1"),
        (Int8Quantize(percentile=101), "percentile=101"),
        (BinaryQuantize("middle"), "threshold='middle': it must be 'mean', 'median' or 'zero'"),
    ],
)
def test_parameters_that_break_a_rule(X, projection, message):
    with pytest.raises(InputError, match=message):
        projection.fit(X)


@pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((0, 4)), np.array([["a", "b"]])])
def test_arrays_of_another_kind(bad):
    with pytest.raises(InputError):
        PCA().fit(bad)


# Between and within groups


@pytest.fixture
def grouped():
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 40, 800)
    centres = rng.normal(size=(40, 6)) * np.array([3, 1, 1, 0.1, 0.1, 0.1])
    noise = rng.normal(size=(800, 6)) @ rng.normal(size=(6, 6))
    return centres[ids] + noise + 10, ids


def within_covariance(Y, ids):
    centred = np.concatenate([Y[ids == g] - Y[ids == g].mean(axis=0) for g in np.unique(ids)])
    return centred.T @ centred / (len(Y) - len(np.unique(ids)))


def test_covariance_within_groups_becomes_the_identity(grouped):
    X, ids = grouped
    whitening = WithinWhitening(shrinkage=0.0).fit(X, groups=ids)
    Y = whitening.transform(X)
    np.testing.assert_allclose(within_covariance(Y, ids), np.eye(6), atol=1e-4)
    np.testing.assert_allclose(whitening.inverse_transform(Y), X, atol=1e-9)
    assert (np.diff(whitening.between_variance_) <= 0).all()


@pytest.mark.parametrize("kept", [1, 3, 6])
def test_is_linear_discriminant_analysis(grouped, kept):
    X, ids = grouped
    reference = LinearDiscriminantAnalysis(n_components=kept).fit(X, ids).transform(X)
    ours = WithinWhitening(kept, shrinkage=0.0).fit_transform(X, groups=ids)
    reference *= np.sqrt((800 - 40) / 800)  # scikit-learn divides by n here, not by n - groups
    signs = np.sign((reference * ours).sum(axis=0))
    np.testing.assert_allclose(ours, reference * signs, atol=1e-8)


def test_views_in_batches_give_what_all_views_give(grouped):
    X, ids = grouped
    order = np.argsort(ids)
    X, ids = X[order], ids[order]
    whole = WithinWhitening(3).fit(X, groups=ids)
    parts, moments = WithinWhitening(3), GroupedMoments(6)
    for first, last in [(0, 1), (1, 15), (15, 40)]:  # the first batch has a single group
        chosen = (ids >= first) & (ids < last)
        parts.partial_fit(X[chosen], groups=ids[chosen])
        moments.update(X[chosen], ids[chosen])
    ready = WithinWhitening(3).fit_moments(moments)
    for other in (parts, ready):
        np.testing.assert_allclose(other.transform(X), whole.transform(X), atol=1e-8)


def test_labels_are_never_read(grouped):
    X, ids = grouped
    np.testing.assert_array_equal(
        WithinWhitening().fit(X, ids).transform(X), WithinWhitening().fit(X).transform(X)
    )


def test_without_groups_it_is_pca_scaled(X):
    ratio = WithinWhitening(4).fit_transform(X) / PCA(4).fit_transform(X)
    np.testing.assert_allclose(ratio, ratio[0, 0])


def test_finds_the_direction_that_is_stable_within():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(100), 4)
    X = rng.normal(size=(400, 5))
    X[:, 2] = rng.normal(size=100)[ids] + 0.1 * rng.normal(size=400)
    found = WithinWhitening(1).fit(X, groups=ids).matrix_[:, 0]
    assert abs(found[2]) / np.linalg.norm(found) > 0.98
    exact = X * [10, 10, 1, 10, 10]
    exact[:, 2] = np.round(exact[:, 2])[ids * 4]  # not at all variable within
    Y = WithinWhitening(1, shrinkage=0.0).fit_transform(exact, groups=ids)
    assert np.isfinite(Y).all()
    assert abs(np.corrcoef(Y[:, 0], exact[:, 2])[0, 1]) > 0.999


def test_group_errors(X):
    with pytest.raises(InputError, match=r"groups of shape \(3,\) for 400 rows"):
        WithinWhitening().fit(X, groups=[1, 2, 3])
    with pytest.raises(InputError, match="got 1 group: it needs at least 2"):
        WithinWhitening().fit(X, groups=np.zeros(400))


# Centre, top components, truncate, normalise


def test_top_components_are_gone(X):
    Y = RemoveTopComponents(3).fit_transform(X)
    v = np.linalg.eigvalsh(np.cov(X.T))[::-1]
    left = np.linalg.eigvalsh(covariance(Y))[::-1]
    np.testing.assert_allclose(left, [*v[3:], 0, 0, 0], atol=1e-9)
    # Mu and Viswanath, algorithm 1, with the axes of scikit-learn's PCA
    axes = decomposition.PCA(3, svd_solver="full").fit(X).components_
    centred = X - X.mean(axis=0)
    np.testing.assert_allclose(Y, centred - centred @ axes.T @ axes, atol=1e-9)
    again = RemoveTopComponents(3).fit(X)
    np.testing.assert_allclose(again.transform(again.inverse_transform(Y)), Y, atol=1e-9)
    wide = np.random.default_rng(0).normal(size=(10, 250))
    assert len(RemoveTopComponents().fit(wide).components_) == 2


@pytest.mark.parametrize("projection", LINEAR, ids=repr)
def test_affine_is_what_transform_does(X, projection):
    projection.fit(X)
    matrix, bias = projection.affine()
    np.testing.assert_allclose(X @ matrix + bias, projection.transform(X), atol=1e-9)


@pytest.mark.parametrize("projection", LINEAR, ids=repr)
def test_projecting_the_inverse_changes_nothing(X, projection):
    Y = projection.fit(X).transform(X)
    back = projection.inverse_transform(Y)
    assert back.shape == X.shape
    np.testing.assert_allclose(projection.transform(back), Y, atol=1e-8)
    with pytest.raises(InputError, match="inverse_transform got an array of shape"):
        projection.inverse_transform(Y[:, :1])


def test_normalised_rows():
    X = np.array([[3.0, 4.0], [0.0, 0.0], [1e-300, 0.0], [1e300, 1e300]])
    Y = Normalize().fit_transform(X)
    np.testing.assert_allclose(Y, [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5, 0.5**0.5]])
    single = Normalize().fit_transform(np.array([[1e30, 0], [0, 1e-40]], dtype=np.float32))
    np.testing.assert_array_equal(single, np.eye(2, dtype=np.float32))


# Random projections


def test_bound_is_the_published_one():
    assert johnson_lindenstrauss_dim(1000, 0.5) == johnson_lindenstrauss_min_dim(1000, eps=0.5)
    assert johnson_lindenstrauss_dim(1000, 0.5) == int(4 * np.log(1000) / (0.125 - 0.125 / 3))
    assert johnson_lindenstrauss_dim(1) == 1
    for wrong in [(0, 0.1), (10, 0.0), (10, 1.0)]:
        with pytest.raises(InputError, match="the bound needs"):
            johnson_lindenstrauss_dim(*wrong)


@pytest.mark.parametrize(
    "projection",
    [
        RademacherProjection(eps=0.5),
        SparseProjection(eps=0.5),
        SparseProjection(density="auto", eps=0.5),
        GaussianProjection(eps=0.5),
    ],
    ids=repr,
)
def test_distances_are_kept_as_the_lemma_says(projection):
    X = np.random.default_rng(0).normal(size=(100, 1000))
    Y = projection.fit_transform(X)
    assert Y.shape[1] == johnson_lindenstrauss_dim(100, 0.5) == 221
    pairs = np.triu_indices(100, 1)
    ratio = (pairwise_distances(Y)[pairs] / pairwise_distances(X)[pairs]) ** 2
    assert ratio.min() > 0.5
    assert ratio.max() < 1.5
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    # The variance of a squared length is 2 / k for Gaussian entries, and near it for signs.
    assert ratio.std() == pytest.approx(np.sqrt(2 / 221), rel=0.25)


def test_entries_are_the_published_ones():
    X = np.zeros((2, 600))
    signs = RademacherProjection(100).fit(X).matrix_
    np.testing.assert_allclose(np.abs(signs), 0.1)
    assert (signs > 0).mean() == pytest.approx(0.5, abs=0.01)
    sparse = SparseProjection(100).fit(X).matrix_
    value = np.sqrt(3 / 100)
    assert np.allclose(np.unique(sparse), [-value, 0, value])
    for sign, share in [(-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)]:
        assert (np.sign(sparse) == sign).mean() == pytest.approx(share, abs=0.01)
    very = SparseProjection(100, density="auto").fit(X).matrix_
    assert (very != 0).mean() == pytest.approx(600**-0.5, abs=0.005)
    assert np.abs(very).max() == pytest.approx(600**0.25 / 10)
    normal = GaussianProjection(100).fit(X).matrix_
    assert normal.std() == pytest.approx(0.1, rel=0.02)


def test_matrix_is_decided_by_the_seed_and_the_first_batch(X):
    for kind in (RademacherProjection, SparseProjection, GaussianProjection):
        a, b, c = (kind(3, random_state=seed).fit(X).matrix_ for seed in (0, 0, 1))
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
        stream = kind(3, random_state=None).partial_fit(X[:9])
        drawn = stream.matrix_
        assert stream.partial_fit(X[9:]).matrix_ is drawn


# Fewer bytes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_error_of_int8_is_at_most_half_a_step(X, dtype):
    X = X.astype(dtype)
    quantise = Int8Quantize().fit(X)
    q = quantise.transform(X)
    assert q.dtype == np.int8
    assert np.abs(q).max(axis=0).tolist() == [127] * 10
    back = quantise.inverse_transform(q)
    assert back.dtype == np.float32
    assert (np.abs(back - X) <= quantise.scale_ / 2 * (1 + 1e-4)).all()
    np.testing.assert_array_equal(quantise.transform(back), q)
    np.testing.assert_array_equal(quantise.transform(X * 1e9), 127 * np.sign(X))


def test_int8_percentile_cuts_outliers(X):
    X[7] *= 1000
    plain, cut = Int8Quantize().fit(X), Int8Quantize(percentile=99.0).fit(X)
    np.testing.assert_allclose(cut.scale_, np.percentile(np.abs(X), 99, axis=0) / 127)
    rest = np.delete(np.arange(400), 7)

    def error(quantise):
        return np.abs(quantise.inverse_transform(quantise.transform(X)) - X)[rest].mean()

    assert error(cut) < error(plain) / 20


def test_int8_of_a_dimension_of_zeros(X):
    X[:, 1] = 0
    quantise = Int8Quantize().fit(X)
    assert (quantise.inverse_transform(quantise.transform(X))[:, 1] == 0).all()


@pytest.mark.parametrize("threshold", ["mean", "median", "zero"])
def test_bits_stand_for_the_side_of_the_threshold(X, threshold):
    level = {"mean": X.mean(axis=0), "median": np.median(X, axis=0), "zero": np.zeros(10)}
    loose = BinaryQuantize(threshold, packed=False).fit_transform(X)
    np.testing.assert_array_equal(loose, level[threshold] < X)
    packed = BinaryQuantize(threshold).fit_transform(X)
    assert packed.shape == (400, 2)
    assert packed.dtype == loose.dtype == np.uint8
    np.testing.assert_array_equal(np.unpackbits(packed, axis=1, count=10), loose)
    expected = (loose[:50, None] != loose[None]).sum(axis=2)
    np.testing.assert_array_equal(hamming(packed[:50], packed), expected)


def test_hamming_refuses_what_is_not_packed_bits():
    bits = np.zeros((2, 3), dtype=np.uint8)
    for a, b in [(bits, bits.astype(int)), (bits, bits[:, :2]), (bits[0], bits)]:
        with pytest.raises(InputError, match="needs two uint8 arrays of the same width"):
            hamming(a, b)


def test_bits_of_the_angle(X):
    """Signs of Gaussian projections differ with chance angle / pi (Charikar 2002)."""
    a, b = np.random.default_rng(0).normal(size=(2, 200))
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    wide = np.random.default_rng(1).normal(size=(20_000, 200)) @ np.stack([a, b]).T
    bits = BinaryQuantize("zero").fit_transform(wide.T)
    share = hamming(bits[:1], bits[1:])[0, 0] / 20_000
    assert share == pytest.approx(angle / np.pi, abs=4 * 0.5 / np.sqrt(20_000))
