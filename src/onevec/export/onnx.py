"""A fitted model as one ONNX graph, with its encoder or without, checked in onnxruntime."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

import onevec
from onevec.card import model_card
from onevec.errors import InputError, MissingExtraError
from onevec.estimator import OneVec
from onevec.export.encoder import (
    TextEncoders,
    framing_of,
    hub_name,
    open_text_encoder,
    sample_texts,
    transformer_of,
    vectors_of,
)
from onevec.files import appears_whole, check_target
from onevec.poolers.segments import PaddedSegments
from onevec.poolers.spec import is_own, kind_of
from onevec.ragged import Ragged
from onevec.vector.module import (
    TOLERANCE,
    TokensToVector,
    difference,
    layer_words,
    with_cls,
)

MANIFEST, GRAPH = "onevec.json", "model.onnx"
_ONE_FILE = 1_500_000_000  # bytes; beyond 2 GB a graph cannot be one file


def to_onnx(
    model: OneVec,
    out: str | Path,
    *,
    encoder: Any = None,
    layer: int | None = None,
    special_tokens: bool = False,
    max_length: int | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a folder with one graph, ``model.onnx``, to the final vector in fp32.

    With an encoder the graph has the inputs ``input_ids`` and ``attention_mask``, int64 of shape
    (batch, tokens), as its tokenizer (which stands in the folder) makes them with padding on the
    right; special tokens are left out inside the graph. Without one it has ``tokens``, float32
    of shape (batch, tokens, dim), and ``mask``, int64 of shape (batch, tokens): ones, then
    zeros; and ``ids`` too where a pooler weights vocabulary entries. A model of several hidden
    states has ``tokens`` of shape (batch, tokens, layers, dim), in the order of ``layers`` in the
    manifest; one that reads the classification token has ``cls`` too, float32 of shape
    (batch, layers, dim). The output is ``vector``, float32 of shape (batch, dim). The first two
    axes are dynamic.

    Parameters
    ----------
    model : OneVec
        Fitted.
    out : path
        The folder to write. It appears whole, after the check, or not at all.
    encoder : path, str or SentenceTransformer, optional
        A text encoder, as for `to_sentence_transformers`.
    layer, special_tokens, max_length, licence
        As for `to_sentence_transformers`; of no use without an encoder.
    overwrite : bool
        Replace an export that stands at ``out``.

    Returns
    -------
    dict
        ``path``, ``inputs``, ``difference`` (the largest of the check in onnxruntime on ragged
        batches, in units of the vectors' root mean square norm), ``dim``, ``max_length``,
        ``layer``.

    Raises
    ------
    InputError
        If a pooler cannot be written as a graph, or the vectors differ by more than 1e-4;
        nothing is left then.
    StoreError
        If the encoder is not the one that the model was fitted with.

    Notes
    -----
    An empty sequence, which `transform` refuses, gets the vector of features that are all zero.
    Hard assignments (VLAD, bag, bigrams) may go to another codeword where two are equally near.
    """
    _check_packages()
    check_is_fitted(model, "vector_")
    if encoder is None and (layer, special_tokens, max_length) != (None, False, None):
        raise InputError(
            "got layer, special_tokens or max_length without an encoder: they are of no use there"
        )
    target = check_target(
        out, overwrite, what="ONNX export", ours=lambda at: (at / MANIFEST).is_file()
    )
    graph = VectorGraph(model)
    _check_own_poolers(graph.head)
    facts: dict[str, Any] = {"format": 1, "road": "onnx", "dim": model.vector_.dim_out}
    if encoder is None:
        whole: nn.Module = graph
        batches = list(_token_batches(model, graph.head))
        facts |= {"layers": graph.head.layers}
    else:
        frozen = open_text_encoder(model, encoder, layer, special_tokens, max_length)
        tokenizer = _tokenizer_of(frozen)
        whole = TextGraph(frozen, graph)
        batches = list(_text_batches(model, frozen, tokenizer))
        facts |= {"layer": layer_words(frozen.options.layers), "max_length": frozen.limit}
        facts |= {"encoder": hub_name(frozen.name) or Path(frozen.name).name}
    facts |= {"inputs": list(batches[0][0]), "onevec": onevec.__version__}
    with appears_whole(target) as part:
        part.mkdir()
        try:
            _export(whole, _example(batches), part / GRAPH)
        except Exception as error:  # of the exporter's many classes
            next_step = (
                "fit with another pooler"
                if encoder is None
                else "export it without the encoder, and run that one by its own means"
            )
            raise InputError(
                f"torch's exporter cannot write this model as a graph ({type(error).__name__}): "
                f"{next_step}"
            ) from error
        facts["difference"] = _check(part / GRAPH, batches)
        if facts["difference"] > TOLERANCE:
            raise InputError(
                f"the graph's vectors differ by {facts['difference']:.0e} of their norm from the "
                f"model's, more than {TOLERANCE:.0e}: nothing was written; check that encoder and "
                "layer are those of the fit"
            )
        if encoder is not None:
            tokenizer.save_pretrained(str(part))
        (part / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n")
        (part / "README.md").write_text(model_card(model._state()[0], facts, licence=licence))
    return {"path": str(out), **facts}


def _check_packages() -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "onnx") from error


class VectorGraph(nn.Module):
    """Padded token vectors to the final vector."""

    def __init__(self, model: OneVec):
        super().__init__()
        self.head = TokensToVector(model.vector_, model.blocks_)

    def forward(
        self, tokens: Tensor, mask: Tensor, ids: Tensor | None = None, cls: Tensor | None = None
    ) -> Tensor:
        """Return (batch, dim)."""
        there, pooled = mask > 0, {}
        fields = {} if ids is None else {"ids": ids.flatten()}
        pools = zip(self.head.layers, self.head.each_layer(), strict=True)
        for place, (layer, pool) in enumerate(pools):
            values = tokens if tokens.ndim == 3 else tokens[:, :, place]
            values = values.masked_fill(~there.unsqueeze(-1), 0.0).flatten(0, 1)
            pooled[layer] = pool.pool(PaddedSegments(values, there, fields))
        held = {}
        for layer in self.head.cls_layers:
            assert cls is not None, "a part reads the classification token"
            held[layer] = cls[:, self.head.layers.index(layer)]
        return self.head.reduce(with_cls(pooled, self.head.cls_layers, held))


class TextGraph(nn.Module):
    """Token ids to the final vector."""

    def __init__(self, frozen: TextEncoders, graph: VectorGraph):
        super().__init__()
        # Not named `graph`: the exporter's own modules have an attribute of that name.
        self.encoder, self.vector = transformer_of(frozen), graph
        self.layers, self.depth = frozen.options.layers, frozen.depth
        self.head, self.tail = (len(ids) for ids in framing_of(frozen))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (batch, dim)."""
        inner = [layer for layer in self.layers if layer not in (-1, self.depth)]
        wide = {"output_hidden_states": True} if inner else {}
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **wide)
        # The last one comes after a final normalisation, if there is one.
        hidden = [
            (output.hidden_states[at] if at in inner else output.last_hidden_state).float()
            for at in self.layers
        ]
        states = hidden[0] if len(hidden) == 1 else torch.stack(hidden, dim=2)
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        content = place < attention_mask.sum(1, keepdim=True) - self.tail
        # Content stands first: the special tokens in front go to the end, where the mask is 0. Cut
        # off, a batch could be one token long, for which the exporter writes another graph.
        whole = (states, content & (place >= self.head), input_ids)
        tokens, mask, ids = (torch.roll(part, -self.head, dims=1) for part in whole)
        cls = torch.stack([each[:, 0] for each in hidden], dim=1)
        return self.vector(tokens, mask.long(), ids, cls if self.vector.head.cls_layers else None)


Batch = tuple[dict[str, Tensor], np.ndarray]


def _token_batches(model: OneVec, head: TokensToVector) -> Iterator[Batch]:
    """Make ragged batches of tokens like the fitted ones, with the model's vectors."""
    source = torch.Generator().manual_seed(0)
    for lengths in ([7], [1, 9], [3, 1, 5], [17, 2, 30, 1], [12, 4, 4, 26, 11]):
        longest = max(lengths)
        mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
        ids = torch.randint(0, 50, mask.shape, generator=source)
        several, held, cls = [], {}, {}
        for layer in head.layers:
            blocks = model.blocks_[layer]
            shift, scale = blocks.scaler.shift, blocks.scaler.scale
            spread = scale.where(scale.isfinite(), torch.zeros(()))
            drawn = torch.randn(len(lengths), longest + 1, len(shift), generator=source)
            drawn = drawn * spread + shift
            tokens, cls[layer] = drawn[:, 1:], drawn[:, 0]
            several.append(tokens)
            held[layer] = Ragged(tokens[mask], torch.tensor(lengths), {"ids": ids[mask]})
        stacked = several[0] if len(several) == 1 else torch.stack(several, dim=2)
        given = {"tokens": stacked.contiguous(), "mask": mask.long()}
        given |= {"ids": ids} if head.needs_ids else {}
        read = {layer: cls[layer].numpy() for layer in head.cls_layers}
        if read:
            given["cls"] = torch.stack([cls[layer] for layer in head.layers], dim=1)
        yield given, model.transform_states(held, read)


def _check_own_poolers(head: TokensToVector) -> None:
    """Raise `InputError` where a user's own pooler does not do the same on padded sequences."""
    source, lengths = torch.Generator().manual_seed(0), torch.tensor([3, 1, 5])
    mask = torch.arange(7) < lengths.unsqueeze(1)
    for pooler in (each for pool in head.each_layer() for each in pool.each() if is_own(each)):
        values = torch.randn(*mask.shape, pooler.dim_in, generator=source)
        ids = torch.randint(0, 50, mask.shape, generator=source)
        padded = PaddedSegments(values.flatten(0, 1), mask, {"ids": ids.flatten()})
        wanted = pooler(Ragged(values[mask], lengths, {"ids": ids[mask]}))
        try:
            found = pooler.pool(padded)
            wrong = "" if torch.allclose(found, wanted, atol=1e-4, rtol=1e-4) else "other values"
        except Exception as error:  # of whatever it does
            wrong = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if wrong:
            raise InputError(
                f"the pooler {kind_of(pooler)} does not give on padded sequences, as graphs have "
                f"them, what it gives on ragged ones ({wrong}): write its _pool with the methods "
                "of onevec.poolers.Segments alone"
            )


def _tokenizer_of(frozen: TextEncoders) -> Any:
    """Return the tokenizer that goes with the graph: pads on the right, cuts as the fit did."""
    tokenizer = copy.deepcopy(frozen.tokenizer)
    tokenizer.padding_side = "right"
    if frozen.limit is not None:
        tokenizer.model_max_length = frozen.limit
    return tokenizer


def _text_batches(model: OneVec, frozen: TextEncoders, tokenizer: Any) -> Iterator[Batch]:
    texts = sample_texts(frozen)
    wanted = vectors_of(model, frozen, texts)
    order = np.random.default_rng(0).permutation(len(texts))
    sizes, first = [1, 2, 3, 4, 5], 0
    while first < len(order):
        rows = order[first : first + sizes[0]]
        batch = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=frozen.limit is not None,
            return_tensors="pt",
            verbose=False,
        )
        yield {name: batch[name] for name in ("input_ids", "attention_mask")}, wanted[rows]
        first, sizes = first + sizes[0], [*sizes[1:], sizes[0]]


def _example(batches: list[Batch]) -> dict[str, Tensor]:
    """Return the largest batch: sizes 0 and 1 are special to the exporter."""
    return max(
        (inputs for inputs, _ in batches), key=lambda each: next(iter(each.values())).numel()
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence what the exporter says of itself."""
    speaker = logging.getLogger("torch.onnx")
    level = speaker.level
    speaker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        speaker.setLevel(level)


def _export(graph: nn.Module, example: dict[str, Tensor], path: Path) -> None:
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    first = {0: torch.export.Dim.DYNAMIC}
    size = sum(held.numel() * held.element_size() for held in graph.state_dict().values())
    with _quietly(), torch.no_grad():
        torch.onnx.export(
            graph.eval(),
            kwargs=dict(example),
            f=str(path),
            input_names=list(example),
            output_names=["vector"],
            dynamic_shapes={name: first if name == "cls" else axes for name in example},
            dynamo=True,
            external_data=size > _ONE_FILE,
            verbose=False,
        )


def _check(path: Path, batches: list[Batch]) -> float:
    """Run the batches in onnxruntime and return the largest difference."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    found = []
    for inputs, _ in batches:
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        found.append(np.asarray(session.run(["vector"], given)[0]))
    return difference(np.concatenate(found), np.concatenate([wanted for _, wanted in batches]))
