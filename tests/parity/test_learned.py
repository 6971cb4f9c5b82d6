"""Learned poolers, away from their start, against loops over sequences in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import erf

from onevec.poolers.random_features import dilated_windows
from onevec.poolers.segments import RaggedSegments
from onevec.poolers.sequence import segment_convolution
from onevec.ragged import Ragged
from tests.parity.common import agrees, buffers, fit, ragged, softmax

SAMPLE = ragged((30, 5, 12, 50, 1, 8), seed=5)


def trained(name, sample=SAMPLE, noise=0.4, **options):
    """Return a pooler with every parameter moved, and its state as float64 arrays."""
    pooler = fit(name, sample, **options).requires_grad_(False)
    source = torch.Generator().manual_seed(3)
    for parameter in pooler.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=source), alpha=noise)
    return pooler, buffers(pooler)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def mlp(state, name, x):
    return gelu(x @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"]) @ (
        state[f"{name}.2.weight"].T
    )


def scaled(state, x):
    return (x - state["centre"]) / state["spread"]


def scores_of(state, x, gated=False):
    hidden = np.tanh(x @ state["scorer.hidden.weight"].T + state["scorer.hidden.bias"])
    if gated:
        gate = x @ state["scorer.gate.weight"].T + state["scorer.gate.bias"]
        hidden = hidden / (1 + np.exp(-gate))
    return hidden @ state["scorer.weight.weight"][0]


def test_tokens_are_standardised_by_the_sample():
    _, state = trained("attention", hidden=4)
    values = SAMPLE.values.double().numpy()
    np.testing.assert_allclose(state["centre"], values.mean(0), atol=1e-6)
    np.testing.assert_allclose(state["spread"], values.std(0), rtol=1e-5)
    flat = Ragged(SAMPLE.values * torch.tensor([1.0, 2.0, 0.0, 1.0, 3.0]), SAMPLE.lengths)
    _, state = trained("attention", flat, hidden=4)
    varying = state["spread"][[0, 1, 3, 4]]
    assert state["spread"][2] == pytest.approx(np.sqrt((varying**2).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["attention", "gated_attention"])
def test_attention(name):
    pooler, state = trained(name, hidden=4)
    gated = name == "gated_attention"
    agrees(pooler, ragged(), lambda x: softmax(scores_of(state, scaled(state, x), gated)) @ x)


def test_attentive_statistics():
    pooler, state = trained("attentive_statistics", hidden=4)

    def formula(x):
        weight = softmax(scores_of(state, scaled(state, x)))
        mean = weight @ x
        return np.concatenate([mean, np.sqrt(weight @ (x - mean) ** 2)])

    agrees(pooler, ragged(), formula)


@pytest.mark.parametrize("values", ["identity", "linear"])
def test_query_attention_with_blocks_of_unequal_width(values):
    pooler, state = trained("query_attention", queries=3, values=values)

    def formula(x):
        keys = scaled(state, x)
        put = x + state["spread"] * (keys @ state["value.weight"].T) if values == "linear" else x
        blocks = np.array_split(np.arange(5), 3)  # 2, 2 and 1 channels
        return np.concatenate(
            [
                softmax(keys @ query / np.sqrt(5)) @ put[:, block]
                for query, block in zip(state["query"], blocks, strict=True)
            ]
        )

    agrees(pooler, ragged(), formula)


def residual_map(state, name):
    """Return weight and bias of ``h + spread * W ((h - centre) / spread)``."""
    inner = state["spread"][:, None] * state[f"{name}.weight"] / state["spread"]
    return np.eye(len(inner)) + inner, -inner @ state["centre"]


def test_multihead_attention_is_torchs():
    sample, tokens = ragged((30, 5, 12, 50), dim=6, seed=5), ragged(dim=6)
    pooler, state = trained("multihead_attention", sample, heads=3, seeds=2, hidden=7)
    torchs = torch.nn.MultiheadAttention(6, 3, batch_first=True, dtype=torch.float64)
    value, output = residual_map(state, "value"), residual_map(state, "output")
    weights = [state["query.weight"], state["key.weight"] / state["spread"], value[0]]
    biases = [np.zeros(6), np.ones(6), value[1]]  # a key's bias is lost in the softmax
    torchs.load_state_dict(
        {
            "in_proj_weight": torch.from_numpy(np.concatenate(weights)),
            "in_proj_bias": torch.from_numpy(np.concatenate(biases)),
            "out_proj.weight": torch.from_numpy(output[0]),
            "out_proj.bias": torch.from_numpy(output[1]),
        }
    )
    seeds = torch.from_numpy(state["seed"])[None]

    def formula(x):
        both = torch.from_numpy(x)[None]
        with torch.no_grad():
            mixed = torchs(seeds, both, both, need_weights=False)[0][0].numpy()
        return mixed + state["spread"] * mlp(state, "feed_forward", scaled(state, mixed))

    agrees(pooler, tokens, formula)


def test_multihead_attention_with_heads_of_unequal_width():
    pooler, state = trained("multihead_attention", heads=2, hidden=7)

    def formula(x):
        values, (weight, bias) = scaled(state, x), residual_map(state, "value")
        query = state["query.weight"] @ state["seed"][0]
        keys, values = values @ state["key.weight"].T, x @ weight.T + bias
        heads = [
            softmax(keys[:, head] @ query[head] / np.sqrt(len(head))) @ values[:, head]
            for head in (np.arange(3), np.arange(3, 5))
        ]
        weight, bias = residual_map(state, "output")
        mixed = weight @ np.concatenate(heads) + bias
        return mixed + state["spread"] * mlp(state, "feed_forward", scaled(state, mixed))

    agrees(pooler, ragged(), formula)


def test_latent_attention():
    pooler, state = trained("latent_attention", latents=4, hidden=7)

    def formula(x):
        out = []
        for token in x:
            weight = softmax(state["latent"] @ scaled(state, token) / np.sqrt(5))
            inner = gelu(state["inner.weight"] @ (weight @ state["latent"]) + state["inner.bias"])
            out.append(token + state["spread"] * (state["outer.weight"] @ inner))
        return np.mean(out, axis=0)

    agrees(pooler, ragged(), formula)


def test_deep_sets():
    pooler, state = trained("deep_sets", hidden=7)

    def formula(x):
        mean = (x + state["spread"] * mlp(state, "before", scaled(state, x))).mean(0)
        return mean + state["spread"] * mlp(state, "after", scaled(state, mean))

    agrees(pooler, ragged(), formula)


def test_power_mean():
    pooler, state = trained("power_mean", margin=0.2)
    np.testing.assert_allclose(state["low"], SAMPLE.values.double().numpy().min(0))
    power = np.exp(state["log_power"])

    def formula(x):
        positive = (x - state["low"]) / state["spread"] + 0.2
        return state["low"] + state["spread"] * ((positive**power).mean(0) ** (1 / power) - 0.2)

    agrees(pooler, SAMPLE, formula)  # none of these is below the least of the sample


def test_power_mean_goes_from_the_geometric_mean_to_the_maximum():
    pooler = fit("power_mean", SAMPLE).requires_grad_(False)
    tokens = SAMPLE[[0, 3]]
    found = []
    for log_power in (-9.0, -1.0, 0.0, 1.0, 9.0):  # the ends are held at 1/20 and 20
        pooler.log_power.fill_(log_power)
        found.append(pooler(tokens))
    assert all((high > low).all() for low, high in pairwise(found))
    for row, part in enumerate(tokens):
        positive = (part - pooler.low) / pooler.spread + pooler.margin
        ends = [(vector[row] - pooler.low) / pooler.spread + pooler.margin for vector in found]
        peak, least = positive.amax(0), len(part) ** -0.05  # (1/n)^(1/20)
        assert (ends[-1] < peak).all()
        assert (ends[-1] > peak * least).all()
        assert (ends[0] > positive.log().mean(0).exp()).all()


def with_layers(tokens, seed):
    earlier = np.random.default_rng(seed).normal(size=(len(tokens.values), 2, 5)) * [[9.0], [0.2]]
    layers = torch.cat([torch.from_numpy(earlier).float(), tokens.values[:, None]], dim=1)
    return Ragged(tokens.values, tokens.lengths, {"layers": layers})


def test_layer_mix():
    sample, tokens = with_layers(SAMPLE, 1), with_layers(ragged(), 2)
    pooler, state = trained("layer_mix", sample)
    layers = sample.fields["layers"].double().numpy()
    spread = np.sqrt(layers.var(0).mean(1))
    np.testing.assert_allclose(state["ratio"], spread[-1] / spread, rtol=1e-5)
    weight = state["weight"] * state["ratio"]
    parts = tokens.fields["layers"].double().split(tokens.lengths.tolist())
    expected = np.stack([np.einsum("l,nld->d", weight, part) / len(part) for part in parts])
    np.testing.assert_allclose(pooler(tokens).numpy(), expected, atol=2e-5)


def test_trained_transport_is_sinkhorn_in_the_plain_domain():
    pooler, state = trained("trained_transport", references=3, epsilon=2.0, iterations=10)
    book = state["book"] * np.sqrt(state["scale"])

    def formula(x):
        x = x - state["centre"]
        cost = ((x[:, None] - book[None]) ** 2).sum(-1) / state["scale"]
        kernel = np.exp(-cost / 2.0)
        right = np.ones(3)
        for _ in range(10):
            left = 1 / len(x) / (kernel @ right)
            right = 1 / 3 / (kernel.T @ left)
        return np.sqrt(3) * (left[:, None] * kernel * right[None]).T @ x

    agrees(pooler, ragged(), formula)


def test_trained_sliced_wasserstein_is_the_integrated_quantile_function():
    pooler, state = trained("trained_sliced_wasserstein", slices=6, points=4)
    directions = state["directions"] / np.linalg.norm(state["directions"], axis=0)

    def formula(x):
        ordered = np.sort(x @ directions, axis=0).repeat(4, axis=0)  # 4 n equal parts of [0, 1]
        parts = ordered.reshape(4, len(x), 6).mean(1)
        return (parts - state["reference"] * state["unit"]) / np.sqrt(24)

    agrees(pooler, ragged(), formula)


@pytest.mark.parametrize("intra_normalise", [False, True])
def test_netvlad(intra_normalise):
    pooler, state = trained("netvlad", codes=3, intra_normalise=intra_normalise)

    def formula(x):
        blocks = np.zeros((3, 5))
        for token in (x - state["offset"]) / state["unit"]:
            share = softmax(state["weight"] @ token + state["bias"])
            blocks += share[:, None] * (token - state["centres"]) / len(x)
        if intra_normalise:
            return blocks / np.linalg.norm(blocks, axis=1, keepdims=True)
        return blocks * state["unit"]

    agrees(pooler, ragged(), formula)


@pytest.mark.parametrize("threshold", [0.3, -0.5])
def test_token_graph(threshold):
    pooler, state = trained("token_graph", hidden=4, rounds=2, threshold=threshold)

    def formula(x):
        nodes = scaled(state, x)
        unit = nodes / np.linalg.norm(nodes, axis=1, keepdims=True)
        states = gelu(nodes @ state["embed.weight"].T + state["embed.bias"])
        for number in range(2):
            around = [states[unit @ token >= threshold].mean(0) for token in unit]
            both = np.concatenate([states, np.stack(around)], axis=1)
            weight, bias = (state[f"layers.{number}.{kind}"] for kind in ("weight", "bias"))
            states = gelu(both @ weight.T + bias)
        weight = softmax(scores_of(state, states))
        return weight @ (x + state["spread"] * (states @ state["project.weight"].T))

    agrees(pooler, ragged(), formula)


def test_a_token_graph_of_orthogonal_or_zero_tokens_has_only_self_loops():
    """Then a token's state depends on it alone: no message passes."""
    pooler, _ = trained("token_graph", hidden=4, rounds=1, threshold=0.9)
    pooler.scorer.weight.weight.zero_()  # equal weights: what is left is each token's own state
    values = pooler.centre + torch.diag(torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0])) * pooler.spread
    together = pooler(Ragged(values, torch.tensor([5])))
    apart = pooler(Ragged(values, torch.ones(5).long())).mean(0, keepdim=True)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_is_torchs_on_each_sequence_alone(bidirectional):
    pooler, state = trained("recurrent", hidden=4, bidirectional=bidirectional)
    single = torch.nn.GRU(5, 4, batch_first=True, bidirectional=bidirectional).double()
    single.load_state_dict(
        {
            key + suffix: value.double()
            for unit, suffix in zip(pooler.units, ("", "_reverse"), strict=False)
            for key, value in unit.state_dict().items()
        }
    )

    def formula(x):
        with torch.no_grad():
            states = single(torch.from_numpy(scaled(state, x))[None])[0][0].numpy()
        return x.mean(0) + state["spread"] * (state["project.weight"] @ states.mean(0))

    agrees(pooler, ragged(), formula)


def test_convolution_is_torchs_on_each_sequence_alone():
    pooler, state = trained("convolution", channels=4, taps=5)
    weight = torch.from_numpy(state["kernel.weight"]).view(4, 5, 5).transpose(1, 2)
    bias = torch.from_numpy(state["kernel.bias"])

    def formula(x):
        series = torch.from_numpy(scaled(state, x).T.copy())
        features = gelu(torch.nn.functional.conv1d(series, weight, bias, padding=2).numpy())
        pooled = np.concatenate([features.mean(1), features.max(1)])
        return x.mean(0) + state["spread"] * (state["project.weight"] @ pooled)

    agrees(pooler, ragged(), formula)


def test_convolution_is_windows_times_the_weight():
    source = torch.Generator().manual_seed(0)
    tokens = RaggedSegments(ragged().values, ragged().lengths)
    weight, bias = torch.randn(3, 35, generator=source), torch.randn(3, generator=source)
    expected = dilated_windows(tokens, tokens.values, 7, 1) @ weight.T + bias
    found = segment_convolution(tokens, tokens.values, weight, bias)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_residual():
    pooler, state = trained("residual", hidden=7)
    parts = fit("residual", SAMPLE, hidden=7).requires_grad_(False)  # as started
    blocks = parts(SAMPLE).double().numpy()
    np.testing.assert_allclose(state["centre"], blocks.mean(0), atol=1e-5)
    np.testing.assert_allclose(state["spread"], blocks.std(0), rtol=1e-4)
    tokens = ragged()
    closed = parts(tokens).double().numpy()
    expected = closed + state["spread"] * mlp(state, "head", scaled(state, closed))
    np.testing.assert_allclose(pooler(tokens).numpy(), expected, atol=5e-5, rtol=2e-5)
