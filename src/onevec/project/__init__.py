"""4. Vectors to shorter, better vectors: scikit-learn transformers from statistics that add up."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from onevec.errors import InputError
from onevec.project.base import Linear, Projection
from onevec.project.linear import PCA, Center, RemoveTopComponents, Whitening
from onevec.project.moments import Moments, RowSample, oas_shrinkage
from onevec.project.plain import Normalize, Truncate
from onevec.project.quantise import BinaryQuantize, Int8Quantize, hamming
from onevec.project.random_projection import (
    GaussianProjection,
    RademacherProjection,
    SparseProjection,
    johnson_lindenstrauss_dim,
)
from onevec.project.within import GroupedMoments, WithinWhitening

PROJECTIONS: dict[str, type[Projection]] = {
    "center": Center,
    "pca": PCA,
    "whitening": Whitening,
    "within_whitening": WithinWhitening,
    "remove_top": RemoveTopComponents,
    "rademacher": RademacherProjection,
    "sparse": SparseProjection,
    "gaussian": GaussianProjection,
    "truncate": Truncate,
    "normalize": Normalize,
    "int8": Int8Quantize,
    "binary": BinaryQuantize,
}

# Those that make of vectors as many dimensions as are asked for.
REDUCERS = ("pca", "whitening", "rademacher", "sparse", "gaussian")

__all__ = [
    "PCA",
    "PROJECTIONS",
    "REDUCERS",
    "BinaryQuantize",
    "Center",
    "GaussianProjection",
    "GroupedMoments",
    "Int8Quantize",
    "Linear",
    "Moments",
    "Normalize",
    "Projection",
    "RademacherProjection",
    "RemoveTopComponents",
    "RowSample",
    "SparseProjection",
    "Truncate",
    "Whitening",
    "WithinWhitening",
    "hamming",
    "johnson_lindenstrauss_dim",
    "load_projection",
    "make_reducer",
    "oas_shrinkage",
    "projection_state",
]


def make_reducer(name: str, random_state: int) -> Linear:
    """Make an entry of `REDUCERS`; whitening shrinks small eigenvalues, which noise owns."""
    options: dict[str, Any] = {"whitening": {"shrinkage": "auto"}, "pca": {}}.get(
        name, {"random_state": random_state}
    )
    made = PROJECTIONS[name](**options)
    assert isinstance(made, Linear), "what shortens a vector is a linear map"
    return made


def projection_state(projection: Projection) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Return the name in `PROJECTIONS`, the parameters (fit for JSON) and the fitted arrays.

    Raises
    ------
    InputError
        If it is no projection of the table, or a parameter (such as a ``RandomState``) cannot be
        written as JSON.
    """
    names = [name for name, kind in PROJECTIONS.items() if type(projection) is kind]
    if not names:
        raise InputError(
            f"cannot save a {type(projection).__name__}: it must be one of the projections "
            f"{', '.join(PROJECTIONS)}"
        )
    params = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in projection.get_params(deep=False).items()
    }
    try:
        json.dumps(params, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"cannot save the parameters of {type(projection).__name__} as JSON ({error}): use "
            "plain numbers and text, for random_state an integer"
        ) from None
    return names[0], params, projection.state()


def load_projection(
    name: str, params: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Projection:
    """Rebuild a projection from `projection_state`; it transforms exactly as before."""
    if name not in PROJECTIONS:
        raise InputError(
            f"got the projection {name!r}: known are {', '.join(PROJECTIONS)}; the file is of a "
            "newer version or damaged"
        )
    kind = PROJECTIONS[name]
    unknown = set(params) - set(kind().get_params())
    if unknown:
        raise InputError(
            f"the projection {name!r} has no parameter {', '.join(sorted(unknown))}: the file is "
            "of another version or damaged"
        )
    return kind(**params).load_state(arrays)
