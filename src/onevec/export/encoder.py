"""The text encoder of an export: opened, compared with the fitted one, and run for the check."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from onevec.errors import InputError, StoreError
from onevec.estimator import OneVec
from onevec.ragged import Ragged
from onevec.tokens.adapters import SentenceTransformerEncoder, open_encoder
from onevec.tokens.frozen import Options
from onevec.tokens.huggingface import HuggingFaceText
from onevec.tokens.layers import LAST
from onevec.tokens.store import made_from
from onevec.vector.module import check_poolers

TextEncoders = HuggingFaceText | SentenceTransformerEncoder


def open_text_encoder(
    model: OneVec, encoder: Any, layer: int | None, special_tokens: bool, max_length: int | None
) -> TextEncoders:
    """Open the encoder as `onevec.encode` does, and compare it with the fitted one."""
    check_poolers(model.blocks_)
    ours, held = made_from(model.fingerprint_)[0], model.layers_
    asked = tuple(held) if layer is None else (layer,)
    options = Options(asked, special_tokens, max_length)
    options.check()
    frozen = open_encoder(encoder, "text", options)
    if not isinstance(frozen, TextEncoders):
        raise InputError(
            f"got the encoder {encoder!r}: only text encoders of transformers or "
            "sentence-transformers can be exported; pass one, or export to onnx without an encoder"
        )
    layers = _known(frozen, asked)
    frozen.options = replace(options, layers=layers)
    if frozen.tokenizer.pad_token is None:
        raise InputError(
            f"the tokenizer of {frozen.name} has no padding token, which batches need: set one, "
            "such as tokenizer.pad_token = tokenizer.eos_token, and save the encoder again"
        )
    theirs = frozen.fingerprint
    if model.check_encoder and theirs and ours and theirs != ours:
        raise StoreError(
            f"the encoder {frozen.name} has the fingerprint {theirs[:14]}, the model was fitted to "
            f"{ours[:14]}: pass that encoder, or set check_encoder=False if you know they are the "
            "same"
        )
    told = held != [LAST] and (model.check_encoder or len(held) > 1)
    if layer is not None and told and layers != _known(frozen, held):
        raise StoreError(
            f"got layer {layer}, the model was fitted to layer {', '.join(map(str, held))} of its "
            "encoder: leave layer (--layer) out"
        )
    if model.vector_.cls_layers and not any(
        piece.cls is not None for piece in frozen.cut(sample_texts(frozen)[:1], 0)
    ):
        raise InputError(
            f"the model reads a classification token, and {frozen.name} puts none before a text: "
            "pass the encoder of the fit"
        )
    return frozen


def _known(frozen: TextEncoders, layers: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of an encoder's hidden states in the order of the model's."""
    return tuple(frozen.known_layers((each,))[0] for each in layers)


def sample_texts(frozen: TextEncoders) -> list[str]:
    """Draw texts of many lengths from a tokenizer's vocabulary, one longer than is read."""
    tokenizer = frozen.tokenizer
    special = set(tokenizer.all_special_ids)
    entries = [at for at in sorted(tokenizer.get_vocab().values()) if at not in special]
    rng = np.random.default_rng(0)
    lengths = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55]
    if frozen.limit is not None and frozen.limit <= 1_024:
        lengths.append(frozen.limit + 8)
    texts = []
    for length in lengths:
        ids = rng.choice(entries, size=length).tolist()
        texts += [tokenizer.decode(ids), "".join(tokenizer.convert_ids_to_tokens(ids))]
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    return [text for text, n in zip(texts, lengths, strict=True) if n > frozen.framing]


def vectors_of(
    model: OneVec, frozen: TextEncoders, texts: list[str]
) -> Float[np.ndarray, "texts dim"]:
    """Encode and transform, in fp32: what an export has to give."""
    layers = frozen.options.layers
    pieces = frozen.cut(texts, 0)
    states = [frozen.run([piece], list(layers))[0] for piece in pieces]
    ids = torch.cat([torch.from_numpy(np.asarray(frozen.token_ids(piece))) for piece in pieces])
    lengths = torch.tensor([len(each[layers[0]].tokens) for each in states])
    held, cls = {}, {}
    for name, layer in zip(model.layers_, layers, strict=True):
        values = torch.cat([each[layer].tokens for each in states])
        held[name] = Ragged(values, lengths, {"ids": ids})
        if name in model.vector_.cls_layers:
            fronts = [each[layer].cls for each in states]
            cls[name] = torch.stack([front for front in fronts if front is not None]).numpy()
    return model.transform_states(held, cls)


def framing_of(frozen: TextEncoders) -> tuple[list[int], list[int]]:
    """Return the ids of the special tokens put before and after a text, where they are left out."""
    if frozen.options.special_tokens or not frozen.framing:
        return [], []
    (piece,) = frozen.cut(sample_texts(frozen)[:1], 0)
    ids, (first, last) = piece.inputs["input_ids"].tolist(), piece.keep
    return ids[:first], ids[last:]


def hub_name(name: str) -> str | None:
    """Return an encoder's name if it is one of the hub; paths of this machine stay here."""
    return None if Path(name).exists() or name.count("/") != 1 else name


def transformer_of(frozen: TextEncoders) -> torch.nn.Module:
    """Return the transformers model of an encoder, ready to be traced."""
    model: Any = None
    if isinstance(frozen, SentenceTransformerEncoder):
        model = copy.deepcopy(frozen._model)  # it may be the user's
    model = frozen._auto.model if isinstance(frozen, HuggingFaceText) else model
    model.set_attn_implementation("eager")
    return model
