"""The poolers on padded batches: one function per entry of the table of poolers.

Each reads the fitted pooler and gives what the pooler gives; tests/export compares them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, linear, normalize

from onevec.export.padded import LOW, Batch, Padded
from onevec.poolers.covariance import signed_sqrt, upper_triangle
from onevec.poolers.fitting import mixture_posterior, nearest, soft_assignment, squared_distances
from onevec.poolers.random_features import fourier_features
from onevec.poolers.sets import LOG_POWER
from onevec.segment import safe_sqrt


def _statistics(pooler: Any, t: Padded) -> Tensor:
    return torch.cat([t.mean(t.values), t.std(t.values)], dim=1)


def _minimum(t: Padded) -> Tensor:
    return -t.maximum(-t.values)


def _moments(pooler: Any, t: Padded) -> Tensor:
    centred, std = t.centre(t.values), t.std(t.values)
    flat = std == 0
    scaled = centred / std.masked_fill(flat, 1.0).unsqueeze(1)
    found = [t.mean(scaled**order) - 3.0 * (order == 4) for order in pooler.orders]
    return torch.cat([moment.masked_fill(flat, 0.0) for moment in found], dim=1)


def _power_means(pooler: Any, t: Padded) -> Tensor:
    found = []
    for power in pooler.powers:
        mean = t.mean(t.values.sign() * t.values.abs() ** power)
        found.append(mean.sign() * mean.abs() ** (1.0 / power))
    return torch.cat(found, dim=1)


def _sorted(t: Padded, values: Batch) -> Batch:
    ordered = values.masked_fill(~t.mask.unsqueeze(-1), math.inf).sort(dim=1).values
    return ordered.masked_fill(~t.mask.unsqueeze(-1), 0.0)


def _quantiles(pooler: Any, t: Padded) -> Tensor:
    ordered, last = _sorted(t, t.values), (t.lengths - 1).clamp(min=0).unsqueeze(1)
    place = torch.tensor(pooler.levels, device=last.device) * last
    low = place.floor()
    high = torch.minimum(low + 1, last)

    def pick(where: Tensor) -> Tensor:
        index = where.long().unsqueeze(-1).expand(-1, -1, ordered.shape[2])
        return ordered.gather(1, index)

    lower = pick(low)
    return (lower + (place - low).unsqueeze(-1) * (pick(high) - lower)).flatten(1)


def _pna(pooler: Any, t: Padded) -> Tensor:
    tower = torch.cat([t.mean(t.values), t.std(t.values), t.maximum(t.values), _minimum(t)], dim=1)
    if not pooler.length_scalers:
        return tower
    scale = (t.lengths.clamp(min=1).log1p() / pooler.delta).unsqueeze(1)
    return torch.cat([tower, tower * scale, tower / scale], dim=1)


def _vocabulary(pooler: Any, t: Padded) -> Tensor:
    assert t.ids is not None, "the graph was made with token ids"
    return pooler.weight[t.ids.clamp(0, pooler.vocabulary)]


def _sif(pooler: Any, t: Padded) -> Tensor:
    return t.mean(t.values * _vocabulary(pooler, t).unsqueeze(-1))


def _codeword_weighted(pooler: Any, t: Padded) -> Tensor:
    share = t.each(lambda tokens: soft_assignment(tokens, pooler.book, pooler.scale))
    return t.weighted(share @ pooler.weight)


def _covariance(pooler: Any, t: Padded) -> Tensor:
    z = (t.values - pooler.mean) @ pooler.basis
    if pooler.centre == "sequence":
        z = t.centre(z)
    moments = t.outer(z, z) / t.lengths.clamp(min=1).view(-1, 1, 1)
    found = upper_triangle(moments)
    return signed_sqrt(found) if pooler.signed_root else found


def _correlation(pooler: Any, t: Padded) -> Tensor:
    z = t.centre((t.values - pooler.mean) @ pooler.basis)
    std = safe_sqrt(t.mean(z**2))
    z = z * torch.where(std > 0, 1.0 / std.where(std > 0, torch.ones_like(std)), 0.0).unsqueeze(1)
    found = t.outer(z, z) / t.lengths.clamp(min=1).view(-1, 1, 1)
    row, column = torch.triu_indices(*found.shape[1:], offset=1)
    return found[:, row, column]


def _assigned(pooler: Any, t: Padded) -> Float[Tensor, "seqs longest codes"]:
    """Return each token's share in the codewords, soft or all to the nearest."""
    if pooler.soft:
        return t.each(lambda tokens: soft_assignment(tokens, pooler.book, pooler.scale))
    code = t.each(lambda tokens: nearest(tokens, pooler.book))
    return (code.unsqueeze(-1) == torch.arange(len(pooler.book))).float()


def _residuals(t: Padded, book: Tensor, share: Tensor) -> Tensor:
    offset = book.mean(0)
    total = t.outer(share, t.values - offset)
    total = total - t.sum(share).unsqueeze(-1) * (book - offset)
    return total / t.lengths.clamp(min=1).view(-1, 1, 1)


def _vlad(pooler: Any, t: Padded) -> Tensor:
    blocks = _residuals(t, pooler.book, _assigned(pooler, t))
    return (normalize(blocks, dim=-1) if pooler.intra_normalise else blocks).flatten(1)


def _net_vlad(pooler: Any, t: Padded) -> Tensor:
    scaled = (t.values - pooler.offset) / pooler.unit
    share = linear(scaled, pooler.weight, pooler.bias).softmax(-1)
    blocks = _residuals(t.with_values(scaled), pooler.centres, share) * pooler.unit
    return (normalize(blocks, dim=-1) if pooler.intra_normalise else blocks).flatten(1)


def _fisher(pooler: Any, t: Padded) -> Tensor:
    weights, means, variances = pooler.weights, pooler.means, pooler.variances
    t = t.with_values((t.values - pooler.centre) / pooler.spread)
    share = t.each(lambda tokens: mixture_posterior(tokens, weights, means, variances))
    count, root = t.lengths.clamp(min=1).view(-1, 1, 1), weights.sqrt().unsqueeze(1)
    mass = t.mean(share).unsqueeze(-1)
    first, second = t.outer(share, t.values) / count, t.outer(share, t.values**2) / count
    by_mean = (first - mass * means) / variances.sqrt() / root
    squares = second - 2 * means * first + mass * means**2
    by_std = (squares / variances - mass) / (root * 2.0**0.5)
    vector = torch.cat([by_mean, by_std], dim=1).flatten(1)
    vector = signed_sqrt(vector) if pooler.power else vector
    return normalize(vector, dim=1) if pooler.normalise else vector


def _transport(pooler: Any, t: Padded, book: Tensor) -> Tensor:
    centred = t.with_values(t.values - pooler.centre)
    score = centred.each(lambda tokens: -squared_distances(tokens, book))
    plan = _sinkhorn(score / (pooler.scale * pooler.epsilon), t, pooler.iterations)
    return t.outer(plan, centred.values).flatten(1) * pooler.references**0.5


def _kernel_transport(pooler: Any, t: Padded) -> Tensor:
    features = t.each(pooler.features)
    plan = _sinkhorn(features @ pooler.book.T / pooler.epsilon, t, pooler.iterations)
    return t.outer(plan, features).flatten(1) * pooler.references**0.5


def _sinkhorn(score: Tensor, t: Padded, iterations: int) -> Tensor:
    """`sinkhorn_plan` of padded sequences."""
    token = -t.lengths.clamp(min=1).log().view(-1, 1, 1)
    column, row = torch.zeros_like(score[:, :1]), torch.zeros_like(score[..., :1])
    padding = ~t.mask.unsqueeze(-1)
    for _ in range(iterations):
        row = token - (score + column).logsumexp(-1, keepdim=True)
        found = (score + row).masked_fill(padding, LOW).logsumexp(1, keepdim=True)
        column = -math.log(score.shape[-1]) - found
    return (score + row + column).masked_fill(padding, LOW).exp()


def _bins(t: Padded, bins: int) -> Float[Tensor, "seqs longest bins"]:
    count = t.lengths.clamp(min=1).view(-1, 1, 1)
    begin = t.position.view(1, -1, 1) / count * bins
    part = torch.arange(bins, device=count.device)
    overlap = torch.minimum(begin + bins / count, part + 1.0) - torch.maximum(begin, part + 0.0)
    return overlap.clamp(min=0)


def _sliced(pooler: Any, t: Padded, directions: Tensor, reference: Tensor) -> Tensor:
    found = t.outer(_bins(t, pooler.points), _sorted(t, t.values @ directions))
    present = t.mask.any(1).view(-1, 1, 1)
    return ((found - reference) * present).flatten(1) / pooler.dim_out**0.5


def _random_projection(pooler: Any, t: Padded) -> Tensor:
    change = {"none": lambda x: x, "relu": torch.relu, "tanh": torch.tanh}[pooler.nonlinearity]
    features = change(t.values @ pooler.matrix)
    return t.mean(features) if pooler.reduce == "mean" else t.maximum(features)


def _dct(pooler: Any, t: Padded) -> Tensor:
    count = t.lengths.clamp(min=1).view(-1, 1, 1)
    phase = (t.position.view(1, -1, 1) + 0.5) / count
    order = torch.arange(pooler.count, device=count.device)
    return t.outer((math.pi * phase * order).cos() / count, t.values).flatten(1)


def _lagged(pooler: Any, t: Padded) -> Tensor:
    z = t.with_values((t.values - pooler.mean) @ pooler.basis)
    parts = []
    for lag in pooler.lags:
        pairs, later = z.pairs(lag), z.shifted(z.values, lag)
        parts.append((pairs.outer(z.values, later) / _count(pairs)).flatten(1))
    if pooler.differences:
        parts.append(z.pairs(1).mean((z.shifted(z.values, 1) - z.values).abs()))
    return torch.cat(parts, dim=1)


def _count(t: Padded) -> Float[Tensor, "seqs 1 1"]:
    return t.lengths.clamp(min=1).view(-1, 1, 1)


def _bigrams(pooler: Any, t: Padded) -> Tensor:
    share, pairs = _assigned(pooler, t), t.pairs(1)
    counts = pairs.outer(share, t.shifted(share, 1)) / _count(pairs)
    return counts.flatten(1) * pooler.weight


def _windows(t: Padded, values: Batch, taps: int, dilation: int) -> Batch:
    places = [(tap - taps // 2) * dilation for tap in range(taps)]
    return torch.cat([t.shifted(values, place) for place in places], dim=-1)


def _random_convolutions(pooler: Any, t: Padded) -> Tensor:
    z = (t.values - pooler.centre) @ pooler.basis
    parts = pooler.weight.tensor_split(pooler.dilations, dim=1)
    found = [_windows(t, z, pooler.taps, 2**k) @ part for k, part in enumerate(parts)]
    output = torch.cat(found, dim=-1)
    return torch.cat([t.mean((output > pooler.threshold).float()), t.maximum(output)], dim=1)


def _attention(pooler: Any, t: Padded) -> Tensor:
    scores = pooler.scorer.weight(_scored(pooler, t))
    return t.sum(t.values * t.softmax(scores))


def _scored(pooler: Any, t: Padded) -> Batch:
    standard, scorer = pooler._standard(t.values), pooler.scorer
    hidden = scorer.hidden(standard).tanh()
    return hidden if scorer.gate is None else hidden * scorer.gate(standard).sigmoid()


def _attentive_statistics(pooler: Any, t: Padded) -> Tensor:
    weights = t.softmax(pooler.scorer.weight(_scored(pooler, t)))
    centred = t.centre(t.values)
    shift = t.sum(centred * weights)
    std = safe_sqrt(t.sum((centred - shift.unsqueeze(1)) ** 2 * weights))
    return torch.cat([t.mean(t.values) + shift, std], dim=1)


def _blockwise(pooler: Any, t: Padded, values: Batch, scores: Batch) -> Tensor:
    return t.sum(values * t.softmax(scores)[..., pooler.block])


def _query_attention(pooler: Any, t: Padded) -> Tensor:
    scores = linear(pooler._standard(t.values), pooler.query / pooler.dim_in**0.5)
    values = t.values if pooler.value is None else pooler._step(pooler.value, t.values)
    return _blockwise(pooler, t, values, scores)


def _multihead_attention(pooler: Any, t: Padded) -> Tensor:
    values = pooler._step(pooler.value, t.values)
    head = pooler.block.unsqueeze(1) == torch.arange(min(pooler.heads, pooler.dim_in))
    head = (head / head.sum(0).sqrt()).T
    keys = pooler.key(pooler._standard(t.values))
    queries = pooler.query(pooler.seed)
    found = [_blockwise(pooler, t, values, linear(keys, head * query)) for query in queries]
    mixed = pooler._step(pooler.output, torch.stack(found, dim=1))
    return pooler._step(pooler.feed_forward, mixed).flatten(1) * t.mask.any(1, keepdim=True)


def _latent_attention(pooler: Any, t: Padded) -> Tensor:
    scores = linear(pooler._standard(t.values), pooler.latent / pooler.dim_in**0.5)
    features = gelu(pooler.inner(linear(scores.softmax(-1), pooler.latent.T)))
    return t.mean(t.values) + pooler.spread * pooler.outer(t.mean(features))


def _deep_sets(pooler: Any, t: Padded) -> Tensor:
    mean = t.mean(pooler._step(pooler.before, t.values))
    return pooler._step(pooler.after, mean) * t.mask.any(1, keepdim=True)


def _power_mean(pooler: Any, t: Padded) -> Tensor:
    positive = ((t.values - pooler.low) / pooler.spread).clamp(min=0) + pooler.margin
    power = pooler.log_power.clamp(-LOG_POWER, LOG_POWER).exp()
    peak = t.maximum(positive).clamp(min=pooler.margin)
    ratio = (positive / peak.unsqueeze(1)).clamp(max=1.0)
    excess = peak * (t.mean(ratio**power) ** (1.0 / power) - t.mean(ratio))
    return t.mean(t.values) + pooler.spread * excess * t.mask.any(1, keepdim=True)


def _token_graph(pooler: Any, t: Padded) -> Tensor:
    states = pooler._states(pooler._standard(t.values), t.mask)
    hidden = pooler.scorer.hidden(states).tanh()
    weights = t.softmax(pooler.scorer.weight(hidden))
    added = pooler.project(t.sum(states * weights))
    return t.sum(t.values * weights) + pooler.spread * added


def _convolution(pooler: Any, t: Padded) -> Tensor:
    windows = _windows(t, pooler._standard(t.values), pooler.taps, 1)
    features = gelu(pooler.kernel(windows))
    pooled = torch.cat([t.mean(features), t.maximum(features)], dim=1)
    return t.mean(t.values) + pooler.spread * pooler.project(pooled)


def _recurrent(pooler: Any, t: Padded) -> Tensor:
    readings = [pooler._standard(t.values)]
    if pooler.bidirectional:
        back = (t.lengths.unsqueeze(1) - 1 - t.position).clamp(min=0).long().unsqueeze(-1)
        readings.append(readings[0].gather(1, back.expand(readings[0].shape)))
    # Padding comes last, after every state that is kept.
    states = [unit(read)[0] for unit, read in zip(pooler.units, readings, strict=True)]
    pooled = torch.cat([t.mean(state) for state in states], dim=1)
    return t.mean(t.values) + pooler.spread * pooler.project(pooled)


def _parts(pooler: Any, t: Padded) -> Tensor:
    members = zip(pooler.blocks.names, pooler.blocks.members, strict=True)
    return torch.cat([PADDED[name](member, t) for name, member in members], dim=1)


def _evened(pooler: Any, t: Padded) -> Tensor:
    return pooler.even(_parts(pooler, t)) * t.mask.any(1, keepdim=True)


def _residual(pooler: Any, t: Padded) -> Tensor:
    blocks = _parts(pooler, t)
    added = pooler.spread * pooler.head((blocks - pooler.centre) / pooler.spread)
    return blocks + added * t.mask.any(1, keepdim=True)


def _last(pooler: Any, t: Padded) -> Tensor:
    return t.sum(t.values * (t.position == t.lengths.unsqueeze(1) - 1).unsqueeze(-1))


def _wasserstein_trained(pooler: Any, t: Padded) -> Tensor:
    directions = normalize(pooler.directions, dim=0)
    return _sliced(pooler, t, directions, pooler.reference * pooler.unit)


PADDED: dict[str, Callable[[Any, Padded], Tensor]] = {
    "mean": lambda pooler, t: t.mean(t.values),
    "first": lambda pooler, t: t.kept(t.values)[:, 0],
    "last": _last,
    "max": lambda pooler, t: t.maximum(t.values),
    "min": lambda pooler, t: _minimum(t),
    "std": lambda pooler, t: t.std(t.values),
    "statistics": _statistics,
    "moments": _moments,
    "power_means": _power_means,
    "quantiles": _quantiles,
    "pna": _pna,
    "position_weighted": lambda pooler, t: t.weighted((t.position + 1).expand(t.mask.shape)),
    "sif": _sif,
    "idf": lambda pooler, t: t.weighted(_vocabulary(pooler, t)),
    "codeword_sif": _codeword_weighted,
    "codeword_idf": _codeword_weighted,
    "covariance": _covariance,
    "correlation": _correlation,
    "bag": lambda pooler, t: t.mean(_assigned(pooler, t)),
    "vlad": _vlad,
    "fisher": _fisher,
    "optimal_transport": lambda pooler, t: _transport(pooler, t, pooler.book),
    "kernel_transport": _kernel_transport,
    "sliced_wasserstein": lambda pooler, t: _sliced(pooler, t, pooler.directions, pooler.reference),
    "kernel_mean": lambda pooler, t: t.mean(
        t.each(lambda tokens: fourier_features(tokens, pooler.frequencies))
    ),
    "random_projection": _random_projection,
    "dct": _dct,
    "segment_means": lambda pooler, t: t.outer(_bins(t, pooler.parts), t.values).flatten(1),
    "lagged_covariance": _lagged,
    "bigrams": _bigrams,
    "random_convolutions": _random_convolutions,
    "evened": _evened,
    "attention": _attention,
    "gated_attention": _attention,
    "attentive_statistics": _attentive_statistics,
    "query_attention": _query_attention,
    "multihead_attention": _multihead_attention,
    "latent_attention": _latent_attention,
    "deep_sets": _deep_sets,
    "power_mean": _power_mean,
    "trained_transport": lambda pooler, t: _transport(pooler, t, pooler.book * pooler.scale.sqrt()),
    "trained_sliced_wasserstein": _wasserstein_trained,
    "netvlad": _net_vlad,
    "token_graph": _token_graph,
    "recurrent": _recurrent,
    "convolution": _convolution,
    "residual": _residual,
}
