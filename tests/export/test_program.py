"""Programs of columns, and the chains made of them, against the functions that they write."""

import numpy as np
import pytest
import torch
from torch import nn

from onevec.export.program import Columns, Program, stacked


def run(program, wanted, inputs):
    """Compute what the layers leave, as `Dense` computes: act(x W + b), plus x R."""
    layers, places = program.layers(wanted)
    values = torch.from_numpy(inputs)
    for activation, parts in layers:
        weight, bias = (torch.from_numpy(parts[name]) for name in ("weight", "bias"))
        out = activation()(values @ weight.T + bias)
        if "residual" in parts:
            assert weight.shape[0] != weight.shape[1], "`Dense` would add its whole input"
            out = out + values @ torch.from_numpy(parts["residual"]).T
        values = out
    assert set(wanted) <= set(places) and (np.diff(places) > 0).all()
    return values.numpy()[:, np.searchsorted(places, wanted)]


@pytest.mark.parametrize("seed", range(8))
def test_columns_made_in_steps_are_what_the_steps_say(seed):
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 6))
    inputs = rng.normal(size=(7, width))
    program, values = Program(width), inputs
    kinds = [nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.GELU, nn.GLU]
    for kind in rng.choice(len(kinds), size=3):
        activation = kinds[kind]
        known = np.arange(program.width)
        size = int(rng.integers(1, 5))
        made = [
            Columns.of(
                np.sort(rng.choice(known, size=rng.integers(1, len(known) + 1), replace=False))
            )
            for _ in range(2)
        ]
        made = [c.map(rng.normal(size=(size, len(c.bias))), rng.normal(size=size)) for c in made]
        first, second = (values[:, c.places] @ c.matrix.T + c.bias for c in made)
        if activation is nn.GLU:
            out = first / (1 + np.exp(-second))
            columns = program.add(activation, made[0], gates=made[1])
        else:
            out = activation()(torch.from_numpy(first)).numpy() + second - made[1].bias
            columns = program.add(activation, made[0], added=made[1].linear())
        values = np.hstack([values, out])
        assert columns.places.tolist() == list(range(program.width - size, program.width))
    wanted = np.sort(
        rng.choice(program.width, size=rng.integers(1, program.width + 1), replace=False)
    )
    wanted = np.union1d(wanted, [program.width - 1])
    np.testing.assert_allclose(
        run(program, wanted, inputs), values[:, wanted], rtol=1e-9, atol=1e-9
    )


def test_stacked_columns_read_each_its_own():
    left = Columns.of(np.array([0, 2])).map(np.array([[1.0, 2.0]]), 3.0)
    right = Columns.of(np.array([1, 2])).map(np.array([[4.0, 5.0]]))
    both = stacked([left, right])
    assert both.places.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(both.matrix, [[1, 0, 2], [0, 4, 5]])
    np.testing.assert_array_equal(both.bias, [3, 0])
    np.testing.assert_array_equal(left.plus(right).over(both.places), [[1, 4, 7]])
