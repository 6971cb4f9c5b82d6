"""Peers: what others would do with the same frozen token vectors, without labels, run for real.

`PEERS` take token vectors: ``fit(tokens, *, dim, seed, budget)`` returns an object whose
``transform(tokens)`` gives float32 vectors. `TEXT_PEERS` take raw text and train the encoder:
``fit(texts, *, layers, seed, budget)`` returns an object with ``encode(texts)``. Trained peers
stop after ``budget`` seconds; the others ignore it. Closed-form features wider than ``dim`` are
brought to ``dim`` by PCA; narrower ones stay as they are.

Packages are used where they exist (pytorch-lifestream, PyG, sentence-transformers); the optimal
transport peers and BERT-whitening are written anew from their papers. Nothing here uses onevec's
own poolers or projections, only its token container.
"""

from __future__ import annotations

import importlib
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor

from onevec.ragged import Ragged
from onevec.segment import segment_sum
from onevec.tokens.batches import Tokens, cut_by_budget, iter_batches
from onevec.tokens.huggingface import quiet
from protocol.producer import DIM, Context, Result
from protocol.ready_made import MINILM_LAYERS, minilm

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model is a local folder

_BATCH_VALUES = 2**23  # of one batch, per intermediate array: 32 MiB in fp32
_FIT_VALUES = 2**26  # of the features that PCA sees: 256 MiB in fp32
_SAMPLE_TOKENS = 50_000  # for k-means
_EXACT_WIDTH = 1_024  # wider covariances are not decomposed exactly


class PeerError(RuntimeError):
    """A peer that cannot run on these data; the message says why."""


@dataclass(frozen=True)
class Peer:
    """One competitor.

    Attributes
    ----------
    source : str
        The paper or the package whose method this is.
    package : str
        The module that it needs; empty if nothing beyond the project's own dependencies.
    stochastic : bool
        Whether the seed matters.
    trained : bool
        Whether it uses its time budget.
    """

    name: str
    source: str
    fit: Callable[..., Any]
    package: str = ""
    stochastic: bool = False
    trained: bool = False

    def ready(self) -> Peer:
        """Import the package, which can take longer than a fit; a timer starts after it."""
        if self.package:
            _load(self.package)
        return self


def _load(module: str) -> Any:
    """Import a package without what it says about deprecated parts of torch and of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return importlib.import_module(module)


# --- batches, samples, PCA ----------------------------------------------------------------------


def _batches(tokens: Tokens, rows: np.ndarray, inner: int, width: int) -> Iterator[Ragged]:
    """Go through rows in order; neither ``inner`` values per token nor ``width`` outgrow memory."""
    lengths = tokens.lengths.cpu().numpy()[rows]
    inner = max(inner, tokens.dim)
    loads = np.maximum(lengths, -(-width // inner))
    for first, last in cut_by_budget(loads, max(1, _BATCH_VALUES // inner)):
        batch = tokens[rows[first:last]]
        yield batch.with_values(batch.values.float())


def _sample(tokens: Tokens, seed: int) -> Float[Tensor, "tokens dim"]:
    """Draw token vectors from sequences drawn at random."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(tokens))
    total = np.cumsum(tokens.lengths.cpu().numpy()[rows])
    enough = int(np.searchsorted(total, 2 * _SAMPLE_TOKENS)) + 1
    values = tokens[np.sort(rows[:enough])].values
    picked = np.sort(rng.permutation(len(values))[:_SAMPLE_TOKENS])
    return values[torch.from_numpy(picked)].float()


class Pooled:
    """Closed-form features of each sequence, brought to ``dim`` by PCA where they are wider.

    ``pool`` takes one batch; ``inner`` is how many values it holds per token, ``width`` how many
    it returns per sequence: they bound the batches.
    """

    def __init__(self, pool: Callable[[Ragged], Any], inner: int, width: int):
        self.pool = pool
        self.inner = inner
        self.width = width
        self.mean: np.ndarray | None = None
        self.axes: np.ndarray | None = None

    def features(self, tokens: Tokens, rows: np.ndarray) -> Iterator[np.ndarray]:
        for batch in _batches(tokens, rows, self.inner, self.width):
            with torch.inference_mode():
                block = np.asarray(self.pool(batch), dtype=np.float32)
            if not np.isfinite(block).all():
                raise PeerError("its features overflow: they hold NaN or infinity")
            yield block

    def fit(self, tokens: Tokens, dim: int) -> Pooled:
        rows = np.arange(len(tokens))
        most = max(dim, _FIT_VALUES // self.width)
        if len(rows) > most:
            rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
        features = np.concatenate(list(self.features(tokens, rows)))
        if not (np.ptp(features, 0) > 0).any():
            raise PeerError("its features are the same for every sequence")
        if features.shape[1] > dim:
            self.mean, self.axes = _principal(features, dim)
        return self

    def transform(self, tokens: Tokens) -> Float[np.ndarray, "seqs dim"]:
        blocks = self.features(tokens, np.arange(len(tokens)))
        if self.axes is None:
            return np.concatenate(list(blocks))
        reduced = [(block - self.mean) @ self.axes for block in blocks]
        return np.concatenate(reduced).astype(np.float32)


def _principal(features: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and leading axes; of very wide features by the randomised method, seeded."""
    exact = features.shape[1] <= _EXACT_WIDTH
    pca = PCA(
        min(dim, len(features)),
        svd_solver="covariance_eigh" if exact else "randomized",
        iterated_power="auto" if exact else 7,
        random_state=0,
    ).fit(features.astype(np.float64) if exact else features)
    return pca.mean_.astype(np.float32), pca.components_.T.astype(np.float32)


# --- PyG's operators without parameters ---------------------------------------------------------


_PNA = ["mean", "min", "max", "std"]
# Operator by name: PyG's module, the lengths of the fitted sequences, the tokens' dimension.
_PYG: dict[str, Callable[[Any, np.ndarray, int], Any]] = {
    "mean": lambda aggr, lengths, dim: aggr.MeanAggregation(),
    "sum": lambda aggr, lengths, dim: aggr.SumAggregation(),
    "max": lambda aggr, lengths, dim: aggr.MaxAggregation(),
    "min": lambda aggr, lengths, dim: aggr.MinAggregation(),
    "mul": lambda aggr, lengths, dim: aggr.MulAggregation(),
    "var": lambda aggr, lengths, dim: aggr.VarAggregation(),
    "std": lambda aggr, lengths, dim: aggr.StdAggregation(),
    "median": lambda aggr, lengths, dim: aggr.MedianAggregation(),
    "quantile": lambda aggr, lengths, dim: aggr.QuantileAggregation([0.25, 0.5, 0.75]),
    # Its default p = 1 is the mean; GeM's customary 3 makes it an operator of its own. Its default
    # ceiling of 100 also cuts the mean of cubes, so that nothing above 4.6 would come out.
    "powermean": lambda aggr, lengths, dim: aggr.PowerMeanAggregation(3.0, clamp_max=None),
    "softmax": lambda aggr, lengths, dim: aggr.SoftmaxAggregation(t=1.0, learn=False),
    "variance_preserving": lambda aggr, lengths, dim: aggr.VariancePreservingAggregation(),
    "sort": lambda aggr, lengths, dim: aggr.SortAggregation(_sort_count(lengths, dim)),
    "multi": lambda aggr, lengths, dim: aggr.MultiAggregation(["mean", "std", "max", "min"]),
    # The tower of principal neighbourhood aggregation (Corso et al. 2020), scaled by length.
    "pna": lambda aggr, lengths, dim: aggr.DegreeScalerAggregation(
        _PNA, ["identity", "amplification", "attenuation"], torch.from_numpy(np.bincount(lengths))
    ),
}
_PYG_WIDTH = {"quantile": 3, "multi": 4, "pna": 12}
# Sorting a whole batch is slower than sequence by sequence, and "sort" pads a batch inside.
_SINGLY = ("median", "quantile", "sort")


def _sort_count(lengths: np.ndarray, dim: int) -> int:
    """DGCNN's rule: 60 % of the sequences have that many tokens; at most 4,096 values in all."""
    return int(np.clip(np.quantile(lengths, 0.4), 1, max(1, 4_096 // dim)))


def _fit_pyg(
    name: str,
    tokens: Tokens,
    *,
    dim: int = 64,
    seed: int = 0,
    budget: float = 60.0,
) -> Pooled:
    lengths = tokens.lengths.cpu().numpy()
    aggr = _load("torch_geometric.nn.aggr")
    operator = _PYG[name](aggr, lengths, tokens.dim)

    def together(batch: Ragged) -> Tensor:
        return operator(batch.values, index=batch.rows, dim_size=len(batch))

    def singly(batch: Ragged) -> Tensor:
        ones = [operator(x, torch.zeros(len(x), dtype=torch.int64), dim_size=1) for x in batch]
        return torch.cat(ones)

    width = tokens.dim * (operator.k if name == "sort" else _PYG_WIDTH.get(name, 1))
    pooled = Pooled(singly if name in _SINGLY else together, 4 * tokens.dim, width)
    return pooled.fit(tokens, dim)


# --- optimal transport --------------------------------------------------------------------------


def _fit_swe(
    tokens: Tokens,
    *,
    dim: int = 64,
    seed: int = 0,
    budget: float = 60.0,
    slices: int = 128,
    points: int = 100,
) -> Pooled:
    """Sliced-Wasserstein embedding with slices and references as drawn, nothing learned.

    Naderializadeh et al. 2021 (PSWE); NaderiAlizadeh & Singh 2025. A sequence's tokens are
    projected to random unit directions; per direction the embedding is the Monge displacement of
    evenly spaced references to the projections' quantiles. The papers then learn with labels how
    to weigh the references; here PCA takes that place. 128 slices (the second paper's protein
    interactions), 100 references (all its other tasks).
    """
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(tokens.dim, slices)).astype(np.float32)
    theta /= np.linalg.norm(theta, axis=0)
    reference = np.linspace(-1, 1, points, dtype=np.float32)
    levels = np.arange(1, points + 1) / (points + 1)

    def pool(batch: Ragged) -> np.ndarray:
        projected = np.ascontiguousarray((batch.values.numpy() @ theta).T)
        ends = batch.lengths.cumsum(0).tolist()
        out = np.empty((len(batch), slices, points), np.float32)
        for row, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
            ordered = np.sort(projected[:, first:last], axis=1)
            out[row] = reference - _quantiles(ordered, levels)
        return out.reshape(len(batch), -1)

    return Pooled(pool, slices, slices * points).fit(tokens, dim)


def _quantiles(ordered: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Interpolate sorted rows that stand at the levels i / (n + 1).

    The ends are held: the authors' code extrapolates there, which one token does not allow.
    """
    count = ordered.shape[1]
    place = np.clip(levels * (count + 1) - 1, 0, count - 1)
    low = np.minimum(place.astype(int), max(count - 2, 0))
    high = np.minimum(low + 1, count - 1)
    share = (place - low).astype(np.float32)
    return ordered[:, low] * (1 - share) + ordered[:, high] * share


def _plan(logits: Float[Tensor, "tokens refs"], batch: Ragged, rounds: int = 100) -> Tensor:
    """Sinkhorn's entropic plan between each sequence's tokens and the references.

    ``logits`` are similarities, or negative costs, over the regularisation. Tokens weigh 1 / n
    each, references the same each. Columns are returned with sum 1: as averages of tokens.
    The number of rounds is fixed and sequences go one by one: a batch changes nothing.
    """
    scores = logits.numpy().astype(np.float64)
    # A token's own offset does not change the plan; the floor keeps the scalings finite.
    kernel = np.exp(np.maximum(scores - scores.max(1, keepdims=True), -230.0))
    ends = batch.lengths.cumsum(0).tolist()
    for first, last in zip([0, *ends], ends, strict=False):
        part = kernel[first:last]
        columns = np.ones(part.shape[1])
        for _ in range(rounds):
            weights = 1 / (last - first) / (part @ columns)
            columns = 1 / (part.shape[1] * (weights @ part))
        part *= weights[:, None] * (columns * part.shape[1])
    return torch.from_numpy(kernel.astype(np.float32))


def _transported(plan: Tensor, values: Tensor, batch: Ragged) -> Float[Tensor, "seqs refs dim"]:
    """Average of the tokens that go to each reference."""
    parts = [segment_sum(plan[:, [j]] * values, batch.lengths) for j in range(plan.shape[1])]
    return torch.stack(parts, 1)


def _spherical_kmeans(points: Tensor, count: int, seed: int, rounds: int = 20) -> Tensor:
    """K-means of directions: centres of norm 1. Empty clusters keep their centre."""
    points = torch.nn.functional.normalize(points)
    start = np.random.default_rng(seed).permutation(len(points))[:count]
    centres = points[torch.from_numpy(start)]
    for _ in range(rounds):
        nearest = (points @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        moved = sums.norm(dim=1, keepdim=True) > 1e-6
        centres = torch.where(moved, torch.nn.functional.normalize(sums), centres)
    return centres


def _nystrom(anchors: Tensor, sigma: float) -> Callable[[Tensor], Tensor]:
    """Feature map of ‖x‖‖y‖ exp((cos(x, y) − 1) / σ²) on the span of the anchors' features."""
    values, vectors = torch.linalg.eigh(torch.exp((anchors @ anchors.T - 1) / sigma**2))
    # An anchor close to another makes the inverse root explode: bounded, as in the authors' code.
    root = vectors @ torch.diag(1 / (values.clamp_min(0).sqrt() + 1e-2)) @ vectors.T

    def features(x: Tensor) -> Tensor:
        norm = x.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return norm * (torch.exp((x / norm @ anchors.T - 1) / sigma**2) @ root)

    return features


def _fit_otk(
    tokens: Tokens,
    *,
    dim: int = 64,
    seed: int = 0,
    budget: float = 60.0,
    references: int = 10,
    anchors: int = 128,
    eps: float = 0.1,
    sigma: float = 0.4,
) -> Pooled:
    """Optimal-transport kernel embedding, fitted without labels (Mialon et al. 2021).

    Tokens go through a Gaussian kernel's Nyström features (anchors by spherical k-means), are
    transported to k-means references in that space by an entropic plan, and averaged by
    reference. The authors' code gives the settings: σ 0.4 and 128 anchors for text, Sinkhorn's
    ε 0.1 and 10 references as in its module. Tokens are scaled by one number to a root mean
    square norm of 1, or ε would mean something else for every encoder.
    """
    sample = _sample(tokens, seed)
    scale = float(sample.norm(dim=1).square().mean().sqrt()) or 1.0
    sample /= scale
    features = _nystrom(_spherical_kmeans(sample, anchors, seed), sigma)
    centres = _spherical_kmeans(features(sample), references, seed)

    def pool(batch: Ragged) -> Tensor:
        mapped = features(batch.values / scale)
        plan = _plan(mapped @ centres.T / eps, batch)
        return _transported(plan, mapped, batch).flatten(1)

    inner = max(tokens.dim, 4 * len(centres), centres.shape[1])
    return Pooled(pool, inner, centres.numel()).fit(tokens, dim)


def _fit_wegl(
    tokens: Tokens,
    *,
    dim: int = 64,
    seed: int = 0,
    budget: float = 60.0,
    most: int = 64,
    eps: float = 0.02,
) -> Pooled:
    """Linear optimal-transport embedding (Kolouri et al. 2021, WEGL).

    As in the authors' code, tokens are standardised and brought to 20 principal components, the
    template is k-means with as many centres as a sequence has tokens on average (here at most
    64), and the embedding is the barycentric displacement of the template. Their exact linear
    program per sequence is replaced by an entropic plan with ε = 2 % of the mean cost.
    """
    sample = _sample(tokens, seed).numpy()
    shift, spread = sample.mean(0), sample.std(0)
    spread[spread == 0] = 1.0
    axes = np.eye(tokens.dim, dtype=np.float32)
    if tokens.dim > 20 and len(sample) > 20:
        axes = _principal((sample - shift) / spread, 20)[1]
    reduced = ((sample - shift) / spread) @ axes
    lengths = tokens.lengths.cpu().numpy()
    count = min(round(float(lengths.mean())), most, len(np.unique(reduced, axis=0)))
    kmeans = KMeans(max(1, count), n_init=1, random_state=seed).fit(reduced)
    template = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
    to_axes = torch.from_numpy((axes / spread[:, None]).astype(np.float32))
    start = torch.from_numpy(shift)
    unit = eps * float(torch.cdist(torch.from_numpy(reduced[:2_000]), template).square().mean())

    def pool(batch: Ragged) -> Tensor:
        values = (batch.values - start) @ to_axes
        plan = _plan(torch.cdist(values, template).square() / -max(unit, 1e-12), batch)
        return (_transported(plan, values, batch) - template).flatten(1)

    return Pooled(pool, 4 * len(template), template.numel()).fit(tokens, dim)


# --- BERT-whitening -----------------------------------------------------------------------------


def _fit_bert_whitening(
    tokens: Tokens,
    *,
    dim: int = 64,
    seed: int = 0,
    budget: float = 60.0,
) -> Pooled:
    """Mean, then whitening by the covariance's SVD without shrinkage (Su et al. 2021).

    W = U Λ^(−1/2), its first ``dim`` columns. Directions in which the train split does not vary
    at all, which the paper never meets, are left out: they would be divided by zero.
    """

    def mean(batch: Ragged) -> Tensor:
        return segment_sum(batch.values, batch.lengths) / batch.lengths[:, None]

    pooled = Pooled(mean, tokens.dim, tokens.dim)
    blocks = pooled.features(tokens, np.arange(len(tokens)))
    vectors = np.concatenate(list(blocks)).astype(np.float64)
    u, s, _ = np.linalg.svd(np.atleast_2d(np.cov(vectors.T)))
    if not s[0] > 0:
        raise PeerError("its features are the same for every sequence")
    keep = min(dim, int((s > 1e-12 * s[0]).sum()))
    pooled.mean = vectors.mean(0)
    pooled.axes = u[:, :keep] / np.sqrt(s[:keep])
    return pooled


# --- pytorch-lifestream -------------------------------------------------------------------------


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that the packages draw from, and put them back."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def _records(batch: Ragged) -> list[dict[str, Tensor]]:
    """Sequences as pytorch-lifestream's feature dicts."""
    return [{"event_time": torch.arange(len(x)), "tokens": x.float()} for x in batch]


def _trx_encoder(dim: int, projection: int = 0) -> Any:
    """Ready token vectors as events: passed through, and normalised over real tokens only."""
    from ptls.nn import TrxEncoder
    from ptls.nn.trx_encoder.encoders import IdentityEncoder

    return TrxEncoder(
        custom_embeddings={"tokens": IdentityEncoder(dim)},
        use_batch_norm_with_lens=True,
        linear_projection_size=projection,
    )


class AttentionPooler(torch.nn.Module):
    """One learned query per head over linear keys, masked, averaging linear values.

    A sequence encoder for pytorch-lifestream's ``SeqEncoderContainer``; the package has none with
    attention pooling.
    """

    def __init__(self, input_size: int, hidden_size: int, is_reduce_sequence: bool = True):
        super().__init__()
        self.is_reduce_sequence = is_reduce_sequence
        self.embedding_size = hidden_size
        self.heads = 4 if hidden_size % 4 == 0 else 1
        self.query = torch.nn.Parameter(torch.randn(hidden_size))
        self.key = torch.nn.Linear(input_size, hidden_size)
        self.value = torch.nn.Linear(input_size, hidden_size)

    def forward(self, x: Any) -> Float[Tensor, "seqs hidden"]:
        size = x.payload.shape[:2]
        keys = (self.key(x.payload) * self.query).view(*size, self.heads, -1)
        scores = keys.sum(-1) / keys.shape[-1] ** 0.5
        pad = torch.arange(size[1]) >= x.seq_lens[:, None]
        weights = scores.masked_fill(pad[..., None], -torch.inf).softmax(1)
        values = self.value(x.payload).view(*size, self.heads, -1)
        return (weights[..., None] * values).sum(1).flatten(1)


class Encoded:
    """A trained pytorch-lifestream sequence encoder."""

    def __init__(self, encoder: Any, dim: int, steps: int):
        self.encoder = encoder.eval()
        self.dim = dim
        self.steps = steps

    @torch.inference_mode()
    def transform(self, tokens: Tokens) -> Float[np.ndarray, "seqs dim"]:
        from ptls.data_load.utils import collate_feature_dict

        out = np.empty((len(tokens), self.dim), np.float32)
        for rows, batch in iter_batches(tokens, max(1, _BATCH_VALUES // 4 // tokens.dim), True):
            out[rows] = self.encoder(collate_feature_dict(_records(batch))).numpy()
        return out


def _optimizers() -> dict[str, Any]:
    """Adam and the decay by epoch of the package's own age-group example."""
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=30, gamma=0.9025)
    return {
        "optimizer_partial": partial(torch.optim.Adam, lr=1e-3),
        "lr_scheduler_partial": schedule,
    }


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Whole batches; a smaller one only where there is nothing else."""
    for first in range(0, max(1, len(rows) - size + 1), size):
        yield np.sort(rows[first : first + size])


def _train(
    module: Any,
    tokens: Tokens,
    rows: np.ndarray,
    make_batch: Callable[[list[dict[str, Tensor]]], tuple[Any, Any]],
    *,
    seed: int,
    budget: float,
) -> int:
    """Train for ``budget`` seconds, at least one step; return the number of steps.

    The package's own module, loss, batches and optimizers, without Lightning's trainer: it cannot
    stop by the clock within an epoch without its progress bars and checkpoints.
    """
    deadline = time.process_time() + budget
    (optimizer,), (scheduler,) = module.configure_optimizers()
    rng = np.random.default_rng(seed)
    module.train()
    steps = 0
    while True:
        for chunk in _chunks(rng.permutation(rows), 64):
            outputs = module.shared_step(*make_batch(_records(tokens[chunk])))
            loss = module._loss(*outputs)
            if not bool(torch.isfinite(loss)):
                raise PeerError(f"training diverged at step {steps}: its loss is {float(loss)}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if time.process_time() > deadline:
                return steps
        scheduler.step()


def _long_enough(tokens: Tokens, least: int) -> np.ndarray:
    kept = np.flatnonzero(tokens.lengths.cpu().numpy() >= least)
    if len(kept) < 2:
        raise PeerError(
            f"{len(kept)} of {len(tokens)} sequences have {least} tokens or more: it needs two"
        )
    return kept


def _fit_coles(
    tokens: Tokens,
    *,
    dim: int = 64,
    seed: int = 0,
    budget: float = 60.0,
) -> Encoded:
    """CoLES (Babaev et al. 2022): slices of one sequence attract, of others repel.

    The package's defaults and examples: 5 slices of 15 to 150 tokens, contrastive loss with
    margin 0.5 and the 5 hardest negatives, Adam 0.001, batches of 64. ``short_seq_crop_rate`` is
    its knob for short sequences, whose slices would otherwise all be the whole sequence. One
    token cannot be sliced: such sequences are left out of training.
    """
    from ptls.frames.coles import ColesDataset, CoLESModule
    from ptls.frames.coles.losses import ContrastiveLoss
    from ptls.frames.coles.sampling_strategies import HardNegativePairSelector
    from ptls.frames.coles.split_strategy import SampleSlices
    from ptls.nn.head import Head
    from ptls.nn.seq_encoder.containers import SeqEncoderContainer

    kept = _long_enough(tokens, 2)
    splitter = SampleSlices(5, 15, 150, short_seq_crop_rate=0.5)

    def slices(records: list[dict[str, Tensor]]) -> tuple[Any, Any]:
        dataset = ColesDataset(records, splitter)
        return dataset.collate_fn([dataset[row] for row in range(len(dataset))])

    with _seeded(seed):
        encoder = SeqEncoderContainer(
            _trx_encoder(tokens.dim), AttentionPooler, None, {"hidden_size": dim}
        )
        loss = ContrastiveLoss(0.5, HardNegativePairSelector(neg_count=5))
        module = CoLESModule(encoder, Head(use_norm_encoder=True), loss, **_optimizers())
        steps = _train(module, tokens, kept, slices, seed=seed, budget=budget)
    return Encoded(encoder, dim, steps)


def _fit_cpc(
    tokens: Tokens,
    *,
    dim: int = 64,
    seed: int = 0,
    budget: float = 60.0,
) -> Encoded:
    """Contrastive predictive coding (van den Oord et al. 2018) as in pytorch-lifestream.

    The package takes nothing but a recurrent encoder here (``CpcModule`` raises on others;
    ``CpcV2Module``, which would pool, reads an attribute that its encoders no longer have), and
    its loss never sees a pooled vector: an attention pooler would stay untrained. So the vector
    is what its documentation names, the last state of a GRU. 6 steps ahead (fewer where half the
    sequences are shorter), 40 negatives, Adam 0.001, batches of 64: its examples. Slices of 100
    to 150 tokens instead of their 600 and more: three times the steps in a minute on one core.
    """
    from ptls.frames.cpc import CpcDataset, CpcModule
    from ptls.nn import RnnSeqEncoder

    middle = int(np.median(tokens.lengths.cpu().numpy()))
    ahead = int(np.clip(middle - 1, 1, 6))
    kept = _long_enough(tokens, ahead + 1)
    negatives = min(40, (ahead + 1) * min(len(kept), 64))  # drawn without replacement

    def slices(records: list[dict[str, Tensor]]) -> tuple[Any, Any]:
        dataset = CpcDataset(records, min_len=100, max_len=150)
        return dataset.collate_fn([dataset[row] for row in range(len(dataset))])

    with _seeded(seed):
        encoder = RnnSeqEncoder(_trx_encoder(tokens.dim, dim), hidden_size=dim, type="gru")
        module = CpcModule(
            seq_encoder=encoder,
            n_negatives=negatives,
            n_forward_steps=ahead,
            **_optimizers(),
        )
        steps = _train(module, tokens, kept, slices, seed=seed, budget=budget)
    encoder.is_reduce_sequence = True
    return Encoded(encoder, dim, steps)


# --- sentence-transformers, on raw text ---------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars, load reports and deprecations of Hugging Face's packages."""
    with quiet(), warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        yield


class TextEncoder:
    """A trained sentence-transformers model."""

    def __init__(self, model: Any, steps: int):
        self.model = model.eval()
        self.steps = steps

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        with _quiet():
            vectors = self.model.encode(list(texts), batch_size=64, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def _minilm(layers: int | None) -> Any:
    """All-MiniLM-L6-v2 from its package, cut after its first ``layers`` layers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm()), device="cpu", local_files_only=True)
    if layers is not None:
        bert = model.transformers_model
        bert.encoder.layer = bert.encoder.layer[:layers]
        bert.config.num_hidden_layers = layers
    return model


def _train_text(
    model: Any,
    loss: torch.nn.Module,
    texts: Sequence[str],
    pairs: Callable[[list[str]], tuple[list[str], list[str]]],
    *,
    size: int,
    rate: float,
    seed: int,
    budget: float,
) -> int:
    """One epoch, or ``budget`` seconds if they are over before; return the number of steps.

    What sentence-transformers' trainer does by default: AdamW, gradients clipped to norm 1, the
    rate warmed up over a tenth and then lowered to 0 - over the time where that is the limit.
    """
    begin = time.process_time()
    optimizer = torch.optim.AdamW(loss.parameters(), lr=rate, weight_decay=0.0)
    order = np.random.default_rng(seed).permutation(len(texts))
    total = -(-len(texts) // size)
    loss.train()
    for step in range(total):
        gone = max(step / total, (time.process_time() - begin) / max(budget, 1e-9))
        if step and gone >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = rate * min(max(gone, 0.5 / total) / 0.1, max(0.0, 1 - gone) / 0.9)
        sides = pairs([texts[row] for row in order[step * size : (step + 1) * size]])
        value = loss([model.preprocess(side) for side in sides], None)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        optimizer.step()
    return total


def _with_length(model: Any, length: int) -> int:
    """Set the most tokens of a text and return what it was."""
    before, model.max_seq_length = model.max_seq_length, length
    return before


def fit_simcse(
    texts: Sequence[str], *, layers: int | None = None, seed: int = 0, budget: float = 60.0
) -> TextEncoder:
    """SimCSE (Gao et al. 2021) by sentence-transformers' recipe, the encoder unfrozen.

    A text is its own positive under another dropout mask, the rest of the batch are negatives:
    ``MultipleNegativesRankingLoss``, batches of 128, 32 tokens, rate 5e-5.
    """
    with _seeded(seed), _quiet():
        model = _minilm(layers)
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        whole = _with_length(model, 32)
        steps = _train_text(
            model,
            MultipleNegativesRankingLoss(model),
            _with_words(texts),
            lambda side: (side, side),
            size=128,
            rate=5e-5,
            seed=seed,
            budget=budget,
        )
        _with_length(model, whole)
    return TextEncoder(model, steps)


def fit_tsdae(
    texts: Sequence[str], *, layers: int | None = None, seed: int = 0, budget: float = 60.0
) -> TextEncoder:
    """TSDAE (Wang et al. 2021) by sentence-transformers' recipe, the encoder unfrozen.

    A decoder with tied weights rebuilds the text from the vector of a copy that lost 60 % of its
    words: ``DenoisingAutoEncoderLoss``, batches of 8, 75 tokens, rate 3e-5. Words are what stands
    between blanks (the package's own noise needs nltk); pooling stays the model's mean.
    """
    rng = np.random.default_rng(seed)
    with _seeded(seed), _quiet(), tempfile.TemporaryDirectory() as folder:
        model = _minilm(layers)
        whole = _with_length(model, 75)
        steps = _train_text(
            model,
            _tsdae_loss(model, Path(folder)),
            _with_words(texts),
            lambda side: ([_delete(text, rng) for text in side], side),
            size=8,
            rate=3e-5,
            seed=seed,
            budget=budget,
        )
        _with_length(model, whole)
    return TextEncoder(model, steps)


def _tsdae_loss(model: Any, folder: Path) -> torch.nn.Module:
    """Build the loss on a saved copy of the (cut) encoder: it loads its decoder from a path."""
    from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss

    bert = model.transformers_model
    bert.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    bert.config._name_or_path = str(folder)
    try:
        return DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True)
    except Exception as error:
        raise PeerError(
            f"sentence-transformers cannot build TSDAE's decoder: {type(error).__name__}: {error}"
        ) from error


def _delete(text: str, rng: np.random.Generator, share: float = 0.6) -> str:
    """Drop words at random; one at least stays."""
    words = text.split()
    kept = rng.random(len(words)) > share
    kept[rng.integers(len(words))] |= not kept.any()
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


def _with_words(texts: Iterable[str]) -> list[str]:
    kept = [text for text in texts if text.strip()]
    if len(kept) < 2:
        raise PeerError(f"{len(kept)} texts hold words: it needs two")
    return kept


# --- the tables ---------------------------------------------------------------------------------

_PTLS = "pytorch-lifestream 0.7"
_ALL = [
    Peer(
        "coles",
        f"Babaev et al. 2022, SIGMOD ({_PTLS})",
        _fit_coles,
        "ptls.frames.coles",
        stochastic=True,
        trained=True,
    ),
    Peer(
        "cpc",
        f"van den Oord et al. 2018, arXiv:1807.03748 ({_PTLS})",
        _fit_cpc,
        "ptls.frames.cpc",
        stochastic=True,
        trained=True,
    ),
    *(
        Peer(f"pyg_{name}", "PyG nn.aggr", partial(_fit_pyg, name), "torch_geometric.nn.aggr")
        for name in _PYG
    ),
    Peer(
        "swe",
        "Naderializadeh et al. 2021, NeurIPS; NaderiAlizadeh & Singh 2025",
        _fit_swe,
        stochastic=True,
    ),
    Peer("otk", "Mialon et al. 2021, ICLR", _fit_otk, stochastic=True),
    Peer("wegl", "Kolouri et al. 2021, ICLR", _fit_wegl, stochastic=True),
    Peer("bert_whitening", "Su et al. 2021, arXiv:2103.15316", _fit_bert_whitening),
]
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}

TEXT_PEERS: dict[str, Peer] = {
    "simcse": Peer(
        "simcse",
        "Gao et al. 2021, EMNLP (sentence-transformers 6.2)",
        fit_simcse,
        "sentence_transformers",
        stochastic=True,
        trained=True,
    ),
    "tsdae": Peer(
        "tsdae",
        "Wang et al. 2021, Findings of EMNLP (sentence-transformers 6.2)",
        fit_tsdae,
        "sentence_transformers",
        stochastic=True,
        trained=True,
    ),
}


def run(context: Context, seed: int, name: str) -> Iterator[Result]:
    """Fit a peer of `PEERS` to the stored tokens."""
    ready = PEERS[name].ready()
    began = time.process_time()
    fitted = ready.fit(context.train, dim=DIM, seed=seed, budget=context.budget)
    seconds = time.process_time() - began
    yield Result(name, fitted.transform(context.train), fitted.transform(context.test), seconds)


def run_on_text(context: Context, seed: int, name: str) -> Iterator[Result]:
    """Fit a peer of `TEXT_PEERS`, the encoder unfrozen, to the raw text."""
    layer = MINILM_LAYERS[context.encoder]
    layers = None if layer == max(MINILM_LAYERS.values()) else layer  # the last: all of them
    ready = TEXT_PEERS[name].ready()
    began = time.process_time()
    fitted = ready.fit(context.unit.train, layers=layers, seed=seed, budget=context.budget)
    seconds = time.process_time() - began
    yield Result(name, fitted.encode(context.unit.train), fitted.encode(context.unit.test), seconds)
