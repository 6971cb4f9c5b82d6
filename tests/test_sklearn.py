"""OneVec as scikit-learn's users use it: pipelines, searches, cross-validation, named columns."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from onevec import OneVec, Ragged, encode, load

named = pytest.mark.skipif(
    not hasattr(OneVec, "get_feature_names_out"), reason="OneVec has no names of columns yet"
)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    kinds = rng.integers(3, size=150)
    spreads = np.where(rng.random((3, 10)) < 0.5, 0.3, 2.0)
    tokens = [rng.normal(size=(n, 10)) * spreads[k] for n, k in zip(
        rng.integers(12, 30, size=150), kinds, strict=True)]  # fmt: skip
    return [t.astype(np.float32) for t in tokens], kinds


def quick(**settings):
    return OneVec(**{"dim": 4, "pooler": "mean|std", **settings})


@pytest.fixture(params=["list", "ragged", "store"])
def sequences(request, data, tmp_path):
    if request.param == "list":
        return data[0]
    if request.param == "ragged":
        return Ragged.from_list(data[0])
    return encode(data[0], out=tmp_path / "store", progress=False)


def test_a_pipeline_takes_every_kind_of_sequences(sequences, data):
    kinds = data[1]
    X, X_test, y, y_test = train_test_split(sequences, kinds, random_state=0, stratify=kinds)
    pipeline = make_pipeline(quick(), StandardScaler(), LogisticRegression())
    assert pipeline.fit(X, y).score(X_test, y_test) > 0.9
    assert pipeline[:-1].transform(X_test).shape == (len(y_test), 4)


def test_cross_validation(sequences, data):
    scores = cross_val_score(make_pipeline(quick(), LogisticRegression()), sequences, data[1], cv=3)
    assert scores.min() > 0.85


def test_a_grid_over_parameters(data):
    pipeline = make_pipeline(quick(), KNeighborsClassifier())
    grid = {"onevec__dim": [1, 6], "onevec__effort": ["quick", "standard"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(*data)
    assert search.best_params_["onevec__dim"] == 6
    assert search.best_estimator_[0].transform(data[0]).shape == (150, 6)
    assert search.best_score_ > 0.85


@pytest.mark.slow  # each process imports torch
def test_in_several_processes(data):
    pipeline = make_pipeline(quick(), LogisticRegression())
    alone = cross_val_score(pipeline, Ragged.from_list(data[0]), data[1], cv=3)
    both = cross_val_score(pipeline, Ragged.from_list(data[0]), data[1], cv=3, n_jobs=2)
    np.testing.assert_allclose(both, alone)


def test_a_clone_is_unfitted_and_equal(data):
    model = quick(random_state=3, training={"steps": 5}).fit(data[0])
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "vector_")
    np.testing.assert_array_equal(copy.fit(data[0]).transform(data[0]), model.transform(data[0]))


def test_two_of_them_side_by_side(data):
    union = FeatureUnion([("mean", quick(pooler="mean", dim=3)), ("std", quick(pooler="std"))])
    assert union.fit_transform(data[0]).shape == (150, 7)


@named
def test_names_of_the_columns(data, tmp_path):
    model = quick().fit(data[0])
    assert model.get_feature_names_out().tolist() == [f"onevec{k}" for k in range(4)]
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.get_feature_names_out().tolist() == model.get_feature_names_out().tolist()
    # Fewer dimensions than asked for: names say what there is.
    narrow = OneVec(dim=64, pooler="mean").fit(data[0][:30])
    assert len(narrow.get_feature_names_out()) == narrow.transform(data[0][:5]).shape[1] < 64
    union = FeatureUnion([("a", quick(pooler="mean")), ("b", quick(pooler="std"))]).fit(data[0])
    assert union.get_feature_names_out().tolist()[3:5] == ["a__onevec3", "b__onevec0"]


@named
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_data_frames_come_out(container, sequences):
    frames = pytest.importorskip(container)
    model = quick().set_output(transform=container)
    frame = model.fit_transform(sequences)
    assert isinstance(frame, frames.DataFrame)
    assert list(frame.columns) == ["onevec0", "onevec1", "onevec2", "onevec3"]
    np.testing.assert_array_equal(
        frame.to_numpy(), clone(model).set_output(transform="default").fit_transform(sequences)
    )
    pipeline = make_pipeline(quick(), StandardScaler()).set_output(transform=container)
    assert list(pipeline.fit_transform(sequences).columns) == list(frame.columns)


def test_a_column_of_sequences_in_a_data_frame(data):
    """Sequences beside other columns: a ColumnTransformer hands OneVec the one column."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"tokens": data[0], "age": np.arange(150.0)})
    vector = make_pipeline(FunctionTransformer(list), quick())
    both = ColumnTransformer([("vector", vector, "tokens"), ("age", StandardScaler(), ["age"])])
    assert both.fit_transform(frame).shape == (150, 5)
