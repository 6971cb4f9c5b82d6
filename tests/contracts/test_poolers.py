"""What every pooler promises, over the whole table."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from onevec.errors import InputError
from onevec.poolers import POOLERS, Concat, base, make_pooler
from onevec.ragged import Ragged

DIM = 6
SMALL = {
    "codeword_sif": {"codes": 8},
    "codeword_idf": {"codes": 8},
    "bag": {"codes": 8},
    "vlad": {"codes": 4},
    "fisher": {"codes": 3},
    "optimal_transport": {"references": 3},
    "kernel_transport": {"references": 3, "anchors": 9, "width": 5},
    "sliced_wasserstein": {"slices": 5, "points": 4},
    "kernel_mean": {"features": 16},
    "random_projection": {"features": 9},
    "lagged_covariance": {"rank": 3, "lags": [1, 2]},
    "bigrams": {"codes": 4},
    "random_convolutions": {"kernels": 8},
    "attention": {"hidden": 5},
    "gated_attention": {"hidden": 5},
    "attentive_statistics": {"hidden": 5},
    "query_attention": {"queries": 4},
    "multihead_attention": {"heads": 4, "hidden": 7},
    "latent_attention": {"latents": 5, "hidden": 7},
    "deep_sets": {"hidden": 7},
    "trained_transport": {"references": 3},
    "trained_sliced_wasserstein": {"slices": 5, "points": 4},
    "netvlad": {"codes": 4},
    "token_graph": {"hidden": 7},
    "recurrent": {"hidden": 7},
    "convolution": {"channels": 7, "taps": 5},
    "residual": {"hidden": 7},
}
VARIANTS = {
    "power_means": {"powers": [0.5, 1.0, 5.0]},
    "moments": {"orders": [3, 4, 5]},
    "pna": {"length_scalers": True},
    "covariance": {"rank": 3, "whiten": False, "centre": "sample", "signed_root": True},
    "bag": {"codes": 8, "soft": False},
    "vlad": {"codes": 4, "soft": True, "intra_normalise": True},
    "fisher": {"codes": 3, "power": False, "normalise": False},
    "random_projection": {"features": 9, "nonlinearity": "tanh", "reduce": "max"},
    "bigrams": {"codes": 4, "soft": True},
    "dct": {"count": 7},
    "whitened_parts": {"parts": [["sif", {}], ["vlad", {"codes": 3}]], "power": 1.0, "width": 4},
    "query_attention": {"queries": 9, "values": "linear"},
    "multihead_attention": {"heads": 9, "seeds": 2, "hidden": 7},
    "netvlad": {"codes": 4, "intra_normalise": True},
    "token_graph": {"hidden": 7, "rounds": 1, "threshold": -0.2},
    "recurrent": {"hidden": 7, "bidirectional": True},
    "residual": {"parts": [["idf", {}], ["vlad", {"codes": 3}]], "hidden": 7},
}
CONCAT = {"parts": [["mean", {}], ["sif", {}], ["vlad", {"codes": 3}], ["dct", {"count": 2}]]}

LEARNED_CONCAT = {"parts": [["attention", {"hidden": 3}], ["std", {}], ["netvlad", {"codes": 3}]]}

COUNTS = {"bag-variant", "bigrams"}  # counts of nearest codewords: piecewise constant
PERTURBED = " perturbed"  # a learned pooler, some way from its start


def over(cases):
    return pytest.mark.parametrize(
        ("name", "options"), [pytest.param(*CASES[case], id=case) for case in cases]
    )


def make(name, options):
    kind = name.removesuffix(PERTURBED)
    return Concat(**options) if kind == "concat" else POOLERS[kind](**options)


def perturbed(pooler, noise=0.3):
    """Move every parameter, those that start at zero too."""
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in pooler.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=source), alpha=noise)
    return pooler


def fit(name, options, sample, seed=0):
    pooler = make(name, options).fit(sample, random_state=seed)
    return perturbed(pooler) if name.endswith(PERTURBED) else pooler


STARTED = {
    **{name: (name, SMALL.get(name, {})) for name in POOLERS},
    **{f"{name}-variant": (name, options) for name, options in VARIANTS.items()},
    "concat": ("concat", CONCAT),
    "concat-learned": ("concat", LEARNED_CONCAT),
}
LEARNED = [case for case in STARTED if make(*STARTED[case]).learned]
CASES = STARTED | {
    f"{case}-perturbed": (STARTED[case][0] + PERTURBED, STARTED[case][1]) for case in LEARNED
}

every = over(CASES)
learned = over(LEARNED)
distributional = over([case for case in CASES if make(*CASES[case]).distributional])
smooth = over([case for case in CASES if case not in COUNTS])


def ragged(lengths, seed=0, scale=1.0):
    source = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    total = int(lengths.sum())
    mix = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(7))
    values = torch.randn(total, DIM, generator=source) @ mix + 0.5
    ids = torch.randint(0, 12, (total,), generator=source)
    earlier = torch.randn(total, 2, DIM, generator=source) * torch.tensor([3.0, 0.5]).view(-1, 1)
    layers = torch.cat([earlier, values.unsqueeze(1)], dim=1) * scale
    return Ragged(values * scale, lengths, {"ids": ids, "layers": layers})


def constant(value, lengths, dim=DIM):
    lengths = torch.tensor(lengths)
    values = torch.full((int(lengths.sum()), dim), value)
    ids = torch.ones(len(values)).long()
    return Ragged(values, lengths, {"ids": ids, "layers": values.unsqueeze(1).expand(-1, 3, -1)})


def fitted(name, options, seed=0, scale=1.0):
    sample = ragged([9, 4, 17, 1, 30, 6, 12, 25], seed=11, scale=scale)
    return fit(name, options, sample, seed)


def twice(tokens: Ragged) -> Ragged:
    """Repeat every sequence after itself."""
    order = torch.arange(len(tokens)).repeat_interleave(2)
    both = tokens[order]
    return Ragged(both.values, tokens.lengths * 2, both.fields)


def gradient(pooler, tokens: Ragged):
    values = tokens.values.clone().requires_grad_()
    out = pooler(tokens.with_values(values))
    if out.requires_grad:
        (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return out.detach(), values.grad if values.grad is not None else torch.zeros_like(values)


def start(pooler):
    """Make the closed-form pooler that a learned one starts as."""
    return make_pooler(pooler.starts_as, pooler.start_options)


@every
def test_width_dtype_and_finite(name, options):
    pooler = fitted(name, options)
    out = pooler(ragged([1, 2, 5, 40]))
    assert out.shape == (4, pooler.dim_out)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert pooler.dim_in == DIM


@every
def test_batch_composition_does_not_matter(name, options, monkeypatch):
    pooler = fitted(name, options)
    tokens = ragged([3, 1, 0, 8, 8, 2, 50, 7])
    together = pooler(tokens)
    for row in range(len(tokens)):
        assert_close(pooler(tokens[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)
    shuffled = torch.tensor([6, 0, 3, 2, 7, 1, 4, 5])
    assert_close(pooler(tokens[shuffled]), together[shuffled], atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(base, "CHUNK_TOKENS", 4)
    assert_close(pooler(tokens), together, atol=1e-5, rtol=1e-5)


@every
def test_order_is_seen_exactly_where_declared(name, options):
    pooler = fitted(name, options)
    tokens = ragged([20])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    fields = {key: field[order] for key, field in tokens.fields.items()}
    moved = Ragged(tokens.values[order], tokens.lengths, fields)
    started = pooler.learned and not name.endswith(PERTURBED)
    if (start(pooler) if started else pooler).order_free:
        assert_close(pooler(moved), pooler(tokens), atol=1e-5, rtol=1e-4)
    else:
        assert (pooler(moved) - pooler(tokens)).abs().max() > 1e-2


@distributional
def test_repetition_changes_nothing_where_declared(name, options):
    pooler = fitted(name, options)
    tokens = ragged([1, 2, 3, 7, 20])
    assert_close(pooler(twice(tokens)), pooler(tokens), atol=2e-5, rtol=1e-4)


@every
def test_distributional_poolers_are_order_free(name, options):
    pooler = make(name, options)
    assert pooler.order_free or not pooler.distributional


@every
def test_empty_sequences_give_zeros_and_finite_gradients(name, options):
    pooler = fitted(name, options)
    out, grad = gradient(pooler, ragged([0, 4, 0, 0, 1, 0]))
    assert_close(out[[0, 2, 3, 5]], torch.zeros(4, pooler.dim_out), atol=0, rtol=0)
    assert out.isfinite().all()
    assert grad.isfinite().all()
    nothing = pooler(ragged([0, 0]))
    assert_close(nothing, torch.zeros(2, pooler.dim_out), atol=0, rtol=0)
    assert pooler(ragged([4])[0:0]).shape == (0, pooler.dim_out)


@every
def test_short_and_constant_sequences_are_finite_with_gradients(name, options):
    pooler = fitted(name, options)
    for tokens in (ragged([1]), ragged([2]), constant(0.37, [1, 2, 6])):
        out, grad = gradient(pooler, tokens)
        assert out.isfinite().all()
        assert grad.isfinite().all()


@smooth
def test_gradients_reach_the_tokens(name, options):
    _, grad = gradient(fitted(name, options), ragged([5, 9]))
    assert grad.abs().max() > 0


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_accumulated_in_fp32(name, options, dtype):
    pooler = fitted(name, options)
    tokens = ragged([1, 3, 40])
    rounded = tokens.with_values(tokens.values.to(dtype))
    out = pooler(rounded)
    assert out.dtype == torch.float32
    assert_close(out, pooler(rounded.with_values(rounded.values.float())))


@every
def test_scale_extremes_stay_finite(name, options):
    for scale in (1e4, 1e-4):
        for pooler in (fitted(name, options), fitted(name, options, scale=scale)):
            out, grad = gradient(pooler, ragged([1, 2, 30], scale=scale))
            assert out.isfinite().all()
            assert grad.isfinite().all()


@every
def test_rebuilt_from_options_and_state(name, options):
    pooler = fitted(name, options)
    rebuilt = type(pooler)(**json.loads(json.dumps(pooler.options))).build(DIM)
    assert rebuilt.dim_out == pooler.dim_out
    rebuilt.load_state_dict(pooler.state_dict())
    tokens = ragged([1, 5, 12])
    assert_close(rebuilt(tokens), pooler(tokens), atol=0, rtol=0)
    assert json.dumps(rebuilt.options) == json.dumps(pooler.options)


@every
def test_same_seed_same_pooler(name, options):
    tokens = ragged([3, 9])
    again = fitted(name, options, seed=np.int64(0))
    assert_close(fitted(name, options)(tokens), again(tokens), atol=0, rtol=0)


@pytest.mark.parametrize(
    "name", ["sliced_wasserstein", "kernel_mean", "random_projection", "random_convolutions"]
)
def test_another_seed_another_pooler(name):
    tokens = ragged([3, 9])
    first, other = (fitted(name, SMALL[name], seed=seed)(tokens) for seed in (0, 1))
    assert (first - other).abs().max() > 1e-3


@every
def test_samples_too_small_for_a_codebook(name, options):
    """One token, three tokens, and a sample of one repeated token all give the full width."""
    tokens = ragged([1, 4, 9])
    width = fitted(name, options).dim_out
    for sample in (ragged([1]), ragged([1, 2]), constant(1.0, [5, 15])):
        pooler = fit(name, options, sample)
        assert pooler.dim_out == width
        out, grad = gradient(pooler, tokens)
        assert out.isfinite().all()
        assert grad.isfinite().all()


@every
def test_half_precision_samples_can_be_fitted(name, options):
    sample = ragged([9, 4, 17])
    pooler = fit(name, options, sample.with_values(sample.values.half()))
    assert pooler(ragged([2, 3])).isfinite().all()


@pytest.mark.parametrize("name", [name for name in POOLERS if POOLERS[name].needs])
def test_a_missing_field_is_named(name):
    tokens = ragged([3, 4])
    bare = Ragged(tokens.values, tokens.lengths)
    message = f"reads the token field '{POOLERS[name].needs[0]}'"
    with pytest.raises(InputError, match=message):
        POOLERS[name]().fit(bare)
    with pytest.raises(InputError, match=message):
        POOLERS[name]().fit(tokens)(bare)


@every
def test_misuse_is_one_sentence(name, options):
    with pytest.raises(InputError, match="is not fitted"):
        make(name, options)(ragged([3]))
    other = constant(1.0, [3], dim=DIM + 1)
    with pytest.raises(InputError, match=f"dimension {DIM} and got dimension {DIM + 1}"):
        fitted(name, options)(other)
    with pytest.raises(InputError, match="without a single token"):
        make(name, options).fit(ragged([0]))


BAD = {
    "moments": {"orders": [2]},
    "power_means": {"powers": [0]},
    "quantiles": {"levels": [1.5]},
    "sif": {"smooth": 0},
    "idf": {"vocabulary": -1},
    "codeword_sif": {"smooth": -1},
    "codeword_idf": {"codes": 1},
    "covariance": {"centre": "batch"},
    "correlation": {"rank": 1},
    "bag": {"codes": 1},
    "vlad": {"codes": 0},
    "fisher": {"codes": 0},
    "optimal_transport": {"epsilon": 0},
    "kernel_transport": {"anchors": 9, "width": 10},
    "sliced_wasserstein": {"points": 0},
    "kernel_mean": {"features": 3},
    "random_projection": {"reduce": "sum"},
    "dct": {"count": 0},
    "segment_means": {"parts": 0},
    "lagged_covariance": {"lags": [0]},
    "bigrams": {"codes": 1},
    "random_convolutions": {"taps": 4},
    "whitened_parts": {"power": 2},
    "attention": {"hidden": 0},
    "gated_attention": {"hidden": 0},
    "attentive_statistics": {"hidden": 0},
    "query_attention": {"values": "keys"},
    "multihead_attention": {"seeds": 0},
    "latent_attention": {"latents": 1},
    "deep_sets": {"hidden": 0},
    "power_mean": {"margin": 0},
    "layer_mix": {"layers": -1},
    "trained_transport": {"iterations": 0},
    "trained_sliced_wasserstein": {"slices": 0},
    "netvlad": {"codes": 1},
    "token_graph": {"threshold": 1},
    "recurrent": {"hidden": 0},
    "convolution": {"taps": 4},
    "residual": {"parts": "mean|attention"},
}


@pytest.mark.parametrize("name", POOLERS)
def test_bad_options_are_refused(name):
    if name in BAD:
        with pytest.raises(InputError, match=r"got .*: "):
            POOLERS[name](**BAD[name])
    else:
        assert not set(POOLERS[name].option_names) - {"length_scalers"}
    with pytest.raises(InputError, match="it takes"):
        make_pooler(name, {name: {"no_such_option": 1}})


@learned
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_learned_poolers_start_as_declared(name, options, scale):
    sample = ragged([9, 4, 17, 1, 30, 6, 12, 25], seed=11, scale=scale)
    pooler = make(name, options).fit(sample, random_state=3)
    closed = start(pooler).fit(sample, random_state=3)
    assert not closed.learned
    assert closed.dim_out == pooler.dim_out
    for tokens in (ragged([1, 2, 0, 5, 40], scale=scale), constant(0.37 * scale, [1, 6])):
        expected = closed(tokens)
        size = 1.0 if options.get("intra_normalise") else scale  # not the tokens' size then
        assert_close(pooler(tokens), expected, atol=1e-5 * size, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(pooler(tokens), expected, atol=1e-5 * size, rtol=1e-5)


@learned
def test_three_steps_move_every_parameter_and_the_result(name, options):
    pooler, tokens = fitted(name, options), ragged([1, 2, 5, 40, 12, 7])
    before = pooler(tokens).detach()
    weight = torch.randn(before.shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(pooler.parameters(), lr=1e-2)
    reached = set()
    for _ in range(3):
        optimizer.zero_grad()
        (pooler(tokens).tanh() * weight).sum().backward()
        for key, parameter in pooler.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            reached |= {key} if parameter.grad.abs().max() > 0 else set()
        optimizer.step()
    assert reached == {key for key, _ in pooler.named_parameters()}
    assert (pooler(tokens) - before).abs().max() > 1e-4


@learned
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_reaches_linear_layers_only(name, options, dtype):
    pooler = fitted(name + PERTURBED, options)
    tokens = ragged([1, 2, 5, 40])
    tokens = tokens.with_values(tokens.values.to(dtype))
    expected, seen = pooler(tokens).detach(), set()
    linear = [module for module in pooler.modules() if isinstance(module, torch.nn.Linear)]
    for module in linear:
        module.register_forward_hook(lambda *args: seen.add(args[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found, grad = gradient(pooler, tokens)
    assert found.dtype == torch.float32
    assert grad.isfinite().all()
    assert seen == ({torch.bfloat16} if linear else set())
    assert_close(found, expected, atol=0.05 * float(expected.abs().max()), rtol=0.05)
    if not pooler.mixed_precision:
        assert_close(found, expected)


@learned
def test_building_and_fitting_leave_the_global_generator_alone(name, options):
    state = torch.get_rng_state()
    fitted(name, options)
    make(name, options).build(DIM)
    assert torch.equal(torch.get_rng_state(), state)


@learned
def test_a_second_fit_begins_anew(name, options):
    first = ragged([5, 9], seed=4, scale=3.0)
    tokens = ragged([3, 7])
    again = make(name, options).fit(first)
    again = again.fit(ragged([9, 4, 17, 1, 30, 6, 12, 25], seed=11))
    assert_close(again(tokens), fitted(name, options)(tokens), atol=0, rtol=0)


UNDRAWN = ("query_attention", "power_mean", "layer_mix", "netvlad")


@over(case for case in LEARNED if not case.startswith(UNDRAWN))
def test_first_parameters_follow_the_seed(name, options):
    first, same, other = (fitted(name, options, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_layers_of_another_shape_are_refused():
    tokens = ragged([3, 4])
    pooler = make("layer_mix", {}).fit(tokens)
    assert pooler.options == {"layers": 3}
    for layers in (tokens.fields["layers"][:, :2], tokens.values):
        other = Ragged(tokens.values, tokens.lengths, {"layers": layers})
        with pytest.raises(InputError, match=r"must be \(tokens, layers, dim\) = \(7, 3, 6\)"):
            pooler(other)


def test_a_concat_of_learned_poolers_starts_as_their_starts():
    pooler = make_pooler("attention|std|netvlad", {"netvlad": {"codes": 3}})
    assert pooler.starts_as == "mean|std|vlad"
    assert pooler.start_options["vlad"]["codes"] == 3
    assert make_pooler("mean|std").starts_as is None
    with pytest.raises(InputError, match="'vlad' twice"):
        _ = make_pooler("netvlad|vlad", {"netvlad": {"codes": 3}}).start_options
    with pytest.raises(InputError, match="'dct' twice"):
        POOLERS["residual"](parts=[("dct", {"count": 2}), ("dct", {"count": 3})])


def test_concat_is_its_parts_side_by_side():
    sample, tokens = ragged([9, 4, 17, 12]), ragged([3, 7])
    both = make_pooler("mean | vlad+dct", {"vlad": {"codes": 3}}).fit(sample, random_state=5)
    assert isinstance(both, Concat)
    parts = [
        POOLERS[name](**options).fit(sample, random_state=5)(tokens)
        for name, options in [("mean", {}), ("vlad", {"codes": 3}), ("dct", {})]
    ]
    assert_close(both(tokens), torch.cat(parts, dim=1), atol=0, rtol=0)
    assert both.slices == [slice(0, 6), slice(6, 24), slice(24, 48)]
    assert not both.order_free
    assert not both.distributional
    assert make_pooler("mean|std").distributional
    assert make_pooler("mean|sif").needs == ("ids",)


def test_make_pooler_errors():
    assert type(make_pooler(" vlad ")) is POOLERS["vlad"]
    with pytest.raises(InputError, match="did you mean 'vlad'"):
        make_pooler("mean|vladd")
    with pytest.raises(InputError, match="choose from mean"):
        make_pooler("")
    with pytest.raises(InputError, match="options for std"):
        make_pooler("mean", {"std": {}})
    with pytest.raises(InputError, match="no parts"):
        Concat([])


def test_import_brings_neither_scikit_learn_nor_scipy():
    code = "import sys, onevec.poolers; print({'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@every
def test_docstrings_state_the_shape(name, options):
    assert "(seqs, " in (type(make(name, options)).__doc__ or "")
