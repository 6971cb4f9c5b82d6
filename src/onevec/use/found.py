"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float


@dataclass(frozen=True)
class Found:
    """What a search found: the nearest first, ties by the order of the index.

    Attributes
    ----------
    queries : list of str
        Names of the queries.
    ids : object ndarray, shape (queries, found)
        ``found`` is k, or less where the index, or the filter, has fewer rows.
    scores : float32 ndarray, shape (queries, found)
        Cosine, dot product, or minus the Euclidean distance: the larger the nearer.
    metadata : pyarrow.Table
        Metadata of the hits, query by query: (queries * found) rows.
    """

    queries: list[str]
    ids: np.ndarray
    scores: Float[np.ndarray, "queries found"]
    metadata: pa.Table

    def table(self, **columns: Float[np.ndarray, "queries found"]) -> pa.Table:
        """Return one row per hit: query, rank from 1, id, score, further columns, metadata."""
        found = self.ids.shape[1]
        own = {
            "query": pa.array(np.repeat(np.array(self.queries, object), found), pa.large_string()),
            "rank": np.tile(np.arange(1, found + 1), len(self.queries)),
            "id": pa.array(self.ids.ravel(), pa.large_string()),
            "score": self.scores.ravel(),
            **{name: values.ravel() for name, values in columns.items()},
        }
        for name in self.metadata.column_names:
            own[f"metadata_{name}" if name in own else name] = self.metadata[name]
        return pa.table(own)
