"""How much inner hidden states weigh beside the last one, without labels.

A layer whose nearest neighbours are those of the last one says much the same, differently enough to
help. One whose neighbours are others may hold what the labels do not ask for. So layers weigh by
the square of the share of neighbours that they have in common with the last.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from onevec.judge.dimension import neighbours_kept

MOST_INNER = 2  # a vector of every layer of a deep encoder would be wide, and slow to make
TOGETHER = 0.6  # of all inner layers, beside the last at weight 1: see `onevec.tokens.layers`
SEQUENCES = 800  # the neighbours of more take seconds, and tell the same


def layer_weights(means: Mapping[int, Float[np.ndarray, "seqs _dim"]]) -> dict[int, float]:
    """Return hidden states with their weights: the last, and the inner ones that agree most.

    Parameters
    ----------
    means : mapping of int to ndarray, shape (seqs, dim)
        Means of the tokens of the same sequences by hidden state, the last one first.

    Returns
    -------
    dict of int to float
        In the same order. The last has weight 1; the others share `TOGETHER`: the squares of
        their weights add up to its square.

    Examples
    --------
    >>> import numpy as np
    >>> last, other = np.random.default_rng(0).normal(size=(2, 50, 8))
    >>> found = layer_weights({3: last, 2: last + 0.1 * other, 1: other})
    >>> {layer: round(weight, 2) for layer, weight in found.items()}
    {3: 1.0, 2: 0.6, 1: 0.04}
    """
    centred = {layer: each - each.mean(0) for layer, each in means.items()}
    (last, known), *others = centred.items()
    shares = {layer: neighbours_kept(known, each) for layer, each in others}
    kept = sorted(shares, key=lambda layer: shares[layer], reverse=True)[:MOST_INNER]
    size = float(np.sqrt(sum(shares[layer] ** 4 for layer in kept)))
    weights = {layer: TOGETHER * shares[layer] ** 2 / size for layer in kept if shares[layer]}
    return {last: 1.0} | {layer: weights[layer] for layer, _ in others if layer in weights}
