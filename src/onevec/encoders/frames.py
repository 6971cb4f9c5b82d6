"""Dense sequences: frames, and a transformer that reads them and guesses their clusters.

Targets are k-means clusters of the standardised frames, as in the first pass of HuBERT (Hsu et
al. 2021). Whole spans are hidden, since neighbouring frames often overlap and would give a single
one away (wav2vec 2.0, Baevski et al. 2020).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.encoders.batches import FlatTokens, TokenWriter, Window
from onevec.encoders.body import Body, Mask, Material, PaddedBatch, States, pad
from onevec.encoders.corpus import Corpus, sequences_of
from onevec.encoders.settings import Pretraining, backbone
from onevec.errors import InputError
from onevec.ragged import Ragged
from onevec.tokens.frames import FRAMES, FrameInput

QUANTISED = "quantised"  # the tokenizer of frames: clusters are read too, not only guessed
_CLUSTERS = 256
_PER_CLUSTER = 20  # frames that a cluster needs on average
_SAMPLE = 50_000  # frames that k-means sees
_SPAN = 5  # frames hidden together


class FrameBody(Body):
    """`FrameInput` before ModernBERT, or with ``causal`` before Llama's layers."""

    def __init__(self, settings: Pretraining, entry: FrameInput, clusters: int, dropout: float):
        super().__init__()
        from transformers import LlamaModel, ModernBertModel

        self.dim, self.guesses = settings.shape.dim, clusters
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
        # Its table of token embeddings has one row, which nothing reads.
        config: Any = backbone(
            settings.shape, 1, {"pad_token_id": 0, **ids}, causal=settings.causal, dropout=dropout
        )
        self.entry = entry
        self.blank = nn.Parameter(torch.randn(self.dim) * 0.02)
        self.network: Any = (LlamaModel if settings.causal else ModernBertModel)(config)
        self.head = nn.Linear(self.dim, clusters)

    def embed(self, inputs: Tensor, hidden: Mask | None = None) -> States:
        """Standardise and map frames; hidden ones are blank."""
        embedded = self.entry(inputs)
        return embedded if hidden is None else torch.where(hidden[..., None], self.blank, embedded)

    def run(self, embedded: States, attention: Mask) -> States:
        """Return the last states."""
        return self.network(inputs_embeds=embedded, attention_mask=attention).last_hidden_state

    def guess(self, states: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens guesses"]:
        """Return logits of the clusters."""
        return self.head(states)


class Frames(Material):
    """A corpus of frames with their clusters."""

    kind = "frames"
    framing = 0

    def __init__(self, corpus: Corpus, settings: Pretraining, dropout: float):
        train = _write(corpus, "train")
        shift, scale = _moments(train.values)
        kmeans = _clusters(
            (_sample(train.values, settings.random_state) - shift) / scale, settings.random_state
        )
        count = len(kmeans.cluster_centers_)
        words = (
            torch.from_numpy(kmeans.cluster_centers_) if settings.tokenizer == QUANTISED else None
        )
        self._entry = FrameInput(shift, scale, settings.shape.dim, words)
        self.body = body = FrameBody(settings, self._entry, count, dropout)
        self._network = body.network
        self.train = _with_clusters(corpus, "train", train, self._entry, kmeans)
        apart = _write(corpus, "held_out")
        self.held_out = _with_clusters(corpus, "held_out", apart, self._entry, kmeans)
        self.about = {"frame_dim": train.values.shape[1], "clusters": count}

    def collate(self, windows: Sequence[Window]) -> PaddedBatch:
        """Pad; the last column is the cluster."""
        padded = pad([frames for _, frames in windows])
        lengths = torch.tensor([len(frames) for _, frames in windows])[:, None]
        attention = torch.arange(padded.shape[1]) < lengths
        return PaddedBatch(
            inputs=padded[..., :-1],
            attention=attention,
            content=attention,
            targets=padded[..., -1].long(),
            rows=torch.tensor([row for row, _ in windows]),
        )

    def pick(
        self, content: Mask, rate: float, generator: torch.Generator
    ) -> tuple[Mask, Float[Tensor, "seqs width"]]:
        """Pick spans; a span has one fate."""
        return draw_spans(content, rate, generator)

    def noise(self, batch: PaddedBatch, generator: torch.Generator) -> Tensor:
        """Draw from the frames of the batch."""
        real = batch.inputs[batch.attention]
        return real[torch.randint(len(real), batch.attention.shape, generator=generator)]

    def save(self, folder: Path, dtype: torch.dtype, head: bool) -> None:
        """Write the backbone as a Hugging Face folder, and how frames enter it beside it."""
        from safetensors.torch import save_file

        self._network.to(dtype).save_pretrained(folder)
        save_file(self._entry.cpu().state_dict(), folder / FRAMES)


def draw_spans(
    attention: Mask, rate: float, generator: torch.Generator
) -> tuple[Mask, Float[Tensor, "seqs width"]]:
    """Pick about ``rate`` of the real positions in spans; a span has one fate in [0, 1)."""
    seqs, width = attention.shape
    # A position is picked when any of the _SPAN starts that reach it is drawn.
    starts = torch.rand((seqs, width + _SPAN - 1), generator=generator)
    drawn = starts < 1 - (1 - rate) ** (1 / _SPAN)
    fates = torch.rand((seqs, width + _SPAN - 1), generator=generator)
    picked = drawn.unfold(1, _SPAN, 1).any(-1) & attention
    fate = fates.masked_fill(~drawn, 1.0).unfold(1, _SPAN, 1).amin(-1)
    if not bool(picked.any()):  # a tiny batch may draw none, and a mean over none is NaN
        picked[0, 0] = True
        fate[0, 0] = 0.0
    return picked, fate


def frames_fingerprint(tokens: Ragged) -> str:
    """SHA-256 of lengths and values in fp32: the manifest's ``corpus_sha256``."""
    return _fingerprint(tokens.lengths.tolist(), [tokens.values.float().contiguous().numpy()])


def frames_in_order_fingerprint(corpus: Corpus) -> str:
    """Return the `frames_fingerprint` of a corpus, read one by one."""
    return _fingerprint([len(frames) for frames in corpus.in_order()], corpus.in_order())


def _fingerprint(lengths: Sequence[int], values: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256(np.array(lengths, dtype=np.int64).tobytes())
    for part in values:
        digest.update(np.ascontiguousarray(part, dtype=np.float32).tobytes())
    return digest.hexdigest()


def _write(corpus: Corpus, part: str) -> FlatTokens:
    dataset = getattr(corpus, part)
    first = next(sequences_of(dataset.select([0])))
    writer = TokenWriter(corpus.folder / f"{part}.frames", np.float32, first.shape[1])
    for frames in sequences_of(dataset):
        writer.append(frames)
    return writer.close(dataset["row"][:])


def _moments(values: Float[Tensor, "tokens dim"]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per dimension; 1 where there is none."""
    total = torch.zeros(2, values.shape[1], dtype=torch.float64)
    about = values[0].double()  # sums of squares about a value of the data lose nothing
    for part in values.split(65_536):
        apart = part.double() - about
        total += torch.stack([apart.sum(0), (apart**2).sum(0)])
    mean, square = total / len(values)
    scale = (square - mean**2).clamp(min=0).sqrt()
    return (about + mean).float(), torch.where(scale > 0, scale, 1.0).float()


def _sample(values: Float[Tensor, "tokens dim"], seed: int) -> Float[Tensor, "sample dim"]:
    rng = np.random.default_rng(seed)
    size = min(_SAMPLE, len(values))
    return values[torch.from_numpy(np.sort(rng.choice(len(values), size, replace=False)))]


def _clusters(sample: Float[Tensor, "sample dim"], seed: int) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    points = sample.clamp(-10, 10).numpy()
    distinct = len(np.unique(points, axis=0))
    if distinct < 2:
        raise InputError("all frames are equal: there is nothing to learn from them")
    count = min(_CLUSTERS, max(2, len(points) // _PER_CLUSTER), distinct)
    options: dict[str, Any] = {"random_state": seed, "batch_size": 4_096, "n_init": 3}
    return MiniBatchKMeans(count, **options).fit(points)


def _with_clusters(
    corpus: Corpus, part: str, flat: FlatTokens, entry: FrameInput, kmeans: Any
) -> FlatTokens:
    """Put each frame's cluster beside it: they travel together."""
    columns = flat.values.shape[1] + 1
    writer = TokenWriter(corpus.folder / f"{part}.clustered", np.float32, columns)
    for values in flat.values.split(65_536):
        clusters = kmeans.predict(entry.standardise(values).numpy())
        writer.append(np.concatenate([values.numpy(), clusters[:, None]], 1))
    (corpus.folder / f"{part}.frames").unlink()
    whole = writer.close([])
    return FlatTokens(whole.values, flat.lengths, flat.rows)
