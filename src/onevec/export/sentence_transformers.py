"""A fitted model and its encoder as one sentence-transformers folder, checked by round trip."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

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
    vectors_of,
)
from onevec.export.native import Chain, native_chain
from onevec.files import appears_whole, check_target
from onevec.poolers.spec import kind_of
from onevec.tokens.adapters import SentenceTransformerEncoder, _load_sentence_transformer
from onevec.tokens.huggingface import quiet
from onevec.vector.module import TOLERANCE, difference, layer_words
from onevec.vector.native import why_not_native

MANIFEST = "onevec.json"
ROADS = ("auto", "native", "module")
_LEAST = (6,)  # of sentence-transformers: residual connections, layers, requirements


def to_sentence_transformers(
    model: OneVec,
    encoder: Any,
    out: str | Path,
    *,
    layer: int | None = None,
    road: str = "auto",
    special_tokens: bool = False,
    max_length: int | None = None,
    samples: Sequence[str] | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a folder that ``SentenceTransformer(path)`` opens and that gives the same vectors.

    Parameters
    ----------
    model : OneVec
        Fitted on token vectors of ``encoder``.
    encoder : path, str or SentenceTransformer
        The text encoder: a Hugging Face or sentence-transformers folder, or a hub name. It is
        copied into the folder, in fp32.
    out : path
        The folder to write. It appears whole, after the check, or not at all.
    layer : int, optional
        Which hidden state the model was fitted on, as for `onevec.encode`; a model that was fitted
        to a store, or to a mapping of hidden states, knows, else it is the last.
    road : {"auto", "native", "module"}
        "native" writes modules that sentence-transformers itself brings: the folder needs
        neither onevec nor ``trust_remote_code=True``. "module" writes `OneVecPooling`, which
        needs both and carries every model. "auto" is native where it can be.
    special_tokens : bool
        Whether the model was fitted on tokens with the special ones kept.
    max_length : int, optional
        Longest input, special tokens included; the encoder's own limit when not given. Longer
        texts are truncated, also where the model was fitted on windows.
    samples : sequence of str, optional
        Texts for the check; else texts are drawn from the tokenizer's vocabulary.
    licence : str, optional
        For the card: an identifier of the hub such as ``"apache-2.0"``.
    overwrite : bool
        Replace an export that stands at ``out``.

    Returns
    -------
    dict
        ``path``, ``road`` ("native" or "module"), ``reason`` (why it is not native, or ""),
        ``difference`` (the largest of the check, in units of the vectors' root mean square
        norm), ``dim``, ``max_length``, ``layer``.

    Raises
    ------
    InputError
        If the encoder reads no text, the road does not exist for this model, or the vectors
        differ by more than 1e-4; nothing is left then.
    StoreError
        If the encoder is not the one that the model was fitted with.

    Notes
    -----
    A text without a token, which `onevec.encode` refuses, gets the vector of features that are
    all zero. Natively special tokens are left out by their ids: one that is written out inside a
    text is left out too.
    """
    _check_version()
    check_is_fitted(model, "vector_")
    if samples is not None and not len(samples):
        raise InputError("got no samples: leave them out, or pass some texts for the check")
    if road not in ROADS:
        raise InputError(f"got road={road!r}: choose one of {', '.join(ROADS)}")
    target = check_target(
        out,
        overwrite,
        what="sentence-transformers export",
        ours=lambda at: (at / MANIFEST).is_file(),
    )
    reason = _why_not_native(model)
    if road == "native" and reason:
        raise InputError(
            f'{reason}: leave road="native" (--road native) out, or fit another pooler'
        )
    frozen = open_text_encoder(model, encoder, layer, special_tokens, max_length)
    texts = list(samples) if samples is not None else sample_texts(frozen)
    wanted = vectors_of(model, frozen, texts)
    facts: dict[str, Any] = {
        "format": 1,
        "dim": int(wanted.shape[1]),
        "layer": layer_words(frozen.options.layers),
        "special_tokens": special_tokens,
        "max_length": frozen.limit,
        "encoder": hub_name(frozen.name) or Path(frozen.name).name,
        "fingerprint": frozen.fingerprint,
        "onevec": onevec.__version__,
    }
    roads = [each for each in ("native", "module") if road in ("auto", each)]
    if reason and "native" in roads:
        roads.remove("native")
    with appears_whole(target) as part:
        for each in roads:
            shutil.rmtree(part, ignore_errors=True)
            _write(model, encoder, frozen, part, each)
            facts |= {"road": each, "reason": reason}
            facts["difference"] = difference(_reopened(part, texts, each), wanted)
            if facts["difference"] <= TOLERANCE:
                break
            reason = f"its native chain is off by {facts['difference']:.0e}"
        else:
            raise InputError(
                f"the exported vectors differ by {facts['difference']:.0e} of their norm from the "
                f"model's, more than {TOLERANCE:.0e}: nothing was written; check that encoder and "
                'layer are those of the fit, or pass road="module"'
            )
        (part / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n")
        card = model_card(
            model._state()[0], facts, licence=licence, base_model=hub_name(frozen.name)
        )
        (part / "README.md").write_text(card)
    return {"path": str(out), **facts}


def _why_not_native(model: OneVec) -> str:
    """Return why a model has no native chain; "" if it has one."""
    parts = model.vector_.parts
    if len(model.layers_) > 1:
        return "the model reads several layers, and sentence-transformers' modules pool one"
    if model.vector_.cls_layers:
        return "the model reads the classification token beside the others"
    poolers = [
        model.blocks_[layer].poolers[name]
        for layer, names in model.vector_.blocks.items()
        for name in names
    ]
    named = ((kind_of(pooler), pooler.options) for pooler in poolers)
    unit = (each.reduction for each in parts if each.reduction is not None)
    scaled = any(each.length is None for each in parts) or any(each.recipe.unit for each in unit)
    return why_not_native(named, scaled)


def opened_by(facts: Mapping[str, Any]) -> str:
    """Say in a sentence what an export needs to be opened."""
    if facts["road"] == "native":
        return f'opened by plain SentenceTransformer("{facts["path"]}"), without onevec'
    return (
        f'opened by SentenceTransformer("{facts["path"]}", trust_remote_code=True) where onevec is '
        f"installed, because {facts['reason'] or 'the road was chosen'}"
    )


def _check_version() -> None:
    try:
        import sentence_transformers
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "hf") from error
    version = sentence_transformers.__version__
    if tuple(int(part) for part in version.split(".")[:1]) < _LEAST:
        raise InputError(
            f"got sentence-transformers {version}: the export needs {_LEAST[0]} or newer; "
            "pip install -U sentence-transformers"
        )


def _write(model: OneVec, encoder: Any, frozen: TextEncoders, part: Path, road: str) -> None:
    from sentence_transformers import SentenceTransformer

    first = _first_module(encoder, frozen)
    head, tail = framing_of(frozen)
    if road == "native":
        rest = modules_of(native_chain(model), _token_weights(frozen, head, tail))
        requirements = {"sentence-transformers": f">={_LEAST[0]}"}
    else:
        from onevec.export.sentence_transformers_module import OneVecPooling

        layers = frozen.options.layers
        rest = [OneVecPooling(model, len(head), len(tail), layers if len(layers) > 1 else None)]
        requirements = {"onevec": f">={onevec.__version__}"}
    with quiet():
        SentenceTransformer(modules=[first, *rest], device="cpu").save(
            str(part), create_model_card=False
        )
    config = part / "config_sentence_transformers.json"
    told = json.loads(config.read_text()) | {"requirements": requirements}
    config.write_text(json.dumps(told, indent=2) + "\n")


def _first_module(encoder: Any, frozen: TextEncoders) -> Any:
    """Return the encoder as sentence-transformers' first module, at the layer of the fit."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    first: Any
    if isinstance(frozen, SentenceTransformerEncoder):
        opened = encoder if not isinstance(encoder, str | Path) else None
        first = copy.deepcopy((opened or _load_sentence_transformer(Path(encoder)))[0])
    else:
        with quiet():
            first = Transformer(frozen.name, model_kwargs={"dtype": torch.float32})
    dtype = next(first.parameters()).dtype
    if dtype != torch.float32:
        raise InputError(f"got an encoder in {dtype}: load it in float32")
    layers = list(frozen.options.layers)
    if len(layers) > 1:  # one pass gives all of them, as `all_layer_embeddings`
        first.model.config.output_hidden_states = True
    elif layers[0] not in (-1, frozen.depth):
        how: Any = {"method": "forward", "method_output_name": ("hidden_states", layers[0])}
        first.modality_config = {"text": how}
        first.module_output_name = "token_embeddings"
    if frozen.limit is not None:
        first.max_seq_length = frozen.limit
    return first


def _token_weights(frozen: TextEncoders, head: list[int], tail: list[int]) -> TokenWeights:
    entries = frozen.tokenizer.get_vocab()
    names = {number: entry for entry, number in entries.items()}
    vocabulary = [names.get(at, f"unused id {at}") for at in range(max(names) + 1)]
    return TokenWeights(vocabulary, sorted({*head, *tail}))


@dataclass(frozen=True)
class TokenWeights:
    """Makes `WordWeights`.

    Attributes
    ----------
    vocabulary : list of str
        Entries in the order of their ids.
    out : list of int
        Ids with weight 0.
    """

    vocabulary: list[str]
    out: list[int]

    def modules(self, weights: tuple[np.ndarray, ...]) -> list[Any]:
        """Return a module for each table of weights; one that only leaves tokens out for none."""
        from sentence_transformers.sentence_transformer.modules import WordWeights

        tables = weights or ((np.ones(1),) if self.out else ())
        made = []
        for table in tables:
            of = table[np.minimum(np.arange(len(self.vocabulary)), len(table) - 1)]
            of[self.out] = 0.0
            of_entry = dict(zip(self.vocabulary, of.tolist(), strict=True))
            made.append(WordWeights(self.vocabulary, of_entry))
        return made


def modules_of(chain: Chain, weights: TokenWeights) -> list[Any]:
    """Return the modules of a chain, after the first."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    modes: Any = chain.modes

    return [
        *(_dense(activation, parts, "token_embeddings") for activation, parts in chain.tokens),
        *weights.modules(chain.weights),
        Pooling(chain.width, modes),
        *([Normalize()] if chain.normalise else []),
        *(_dense(activation, parts, "sentence_embedding") for activation, parts in chain.sequences),
        _dense(
            torch.nn.Identity, {"weight": chain.matrix, "bias": chain.bias}, "sentence_embedding"
        ),
    ]


def _dense(activation: type[torch.nn.Module], parts: dict[str, np.ndarray], key: str) -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense

    tensors = {name: torch.from_numpy(part.astype(np.float32)) for name, part in parts.items()}
    wide, narrow = tensors["weight"].shape
    made = Dense(
        narrow,
        wide,
        activation_function=activation(),
        init_weight=tensors["weight"],
        init_bias=tensors["bias"],
        module_input_name=key,
        use_residual="residual" in tensors,
    )
    if "residual" in tensors:
        made.residual.weight = torch.nn.Parameter(tensors["residual"])
    return made


def _reopened(part: Path, texts: list[str], road: str) -> np.ndarray:
    """Open the written folder as a user does, and encode."""
    from sentence_transformers import SentenceTransformer

    with quiet():
        opened = SentenceTransformer(
            str(part), device="cpu", local_files_only=True, trust_remote_code=road == "module"
        )
        return opened.encode(texts, batch_size=8, show_progress_bar=False)
