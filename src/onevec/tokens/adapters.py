"""Recognise an encoder and open it; sentence-transformers and ONNX."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onevec.errors import InputError, MissingExtraError
from onevec.ragged import Ragged
from onevec.tokens.chunks import LayeredTokens
from onevec.tokens.frames import FRAMES, FrameEncoder
from onevec.tokens.frozen import CallableEncoder, FrozenEncoder, Options, hash_weights
from onevec.tokens.huggingface import (
    HuggingFaceAudio,
    HuggingFaceImage,
    HuggingFaceText,
    hidden_states,
    is_causal,
    load_part,
    quiet,
    text_limit,
)
from onevec.tokens.media import Picture, Sound
from onevec.tokens.text import TextEncoder, sensible

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def kind_of(sequences: Any) -> str:
    """Return what raw sequences are: ``text``, ``waveform``, ``image``, ``tokens`` or ``other``.

    Raises
    ------
    InputError
        If the first one is a list that is no array, such as a pair of a name and an array.
    """
    if isinstance(sequences, Ragged):
        return "tokens"
    head = sequences[0]
    kinds = {str: "text", LayeredTokens: "tokens", Sound: "waveform", Picture: "image"}
    kind = next((kind for known, kind in kinds.items() if isinstance(head, known)), None)
    if kind is not None or type(head).__module__.startswith("PIL."):
        return kind or "image"
    shape = getattr(head, "shape", None)
    if shape is None and isinstance(head, list | tuple):
        shape = _shape_of(head)
    if shape is None or len(shape) == 0:
        return "other"
    return {1: "waveform", 2: "tokens", 3: "image"}.get(len(shape), "other")


def _shape_of(entry: list[Any] | tuple[Any, ...]) -> tuple[int, ...] | None:
    """Return the shape of nested lists of numbers; None for lists of other things."""
    kinds = list(dict.fromkeys(type(each).__name__ for each in entry))
    try:
        array = np.asarray(entry)
    except ValueError:  # entries of several lengths or kinds
        array = np.empty(0, object)
    if len(entry) and array.dtype.kind not in "fiub":
        if all(isinstance(each, str) for each in entry):
            what, rule = f"{len(entry)} texts", "pass one text per sequence; join words with blanks"
        else:
            what = f"{' and '.join(kinds[:3])}, which make no array"
            rule = (
                'pass one text, one recording as {"array": samples, "sampling_rate": rate} or one '
                "(n, dim) array per sequence, and names as ids="
            )
        raise InputError(f"the first sequence is a {type(entry).__name__} of {what}: {rule}")
    return array.shape


def open_encoder(encoder: Any, kind: str, options: Options) -> FrozenEncoder | None:
    """Open an encoder for sequences of a kind; None where vectors are ready.

    Raises
    ------
    InputError
        If there is no such encoder, or it does not read sequences of this kind.
    """
    if encoder is None:
        if kind == "tokens":
            return None
        if kind == "text":
            raise InputError(
                "got raw text without an encoder: name one, such as "
                'encode(sequences, "folder-or-hub-name") or OneVec(encoder="folder-or-hub-name")'
            )
        if kind in ("waveform", "image"):
            what, frames = {"waveform": ("recordings", "logmel"), "image": ("images", "patches")}[
                kind
            ]
            raise InputError(
                f'got {what} without an encoder: name one, or take frames="{frames}" '
                f"(--frames {frames})"
            )
        raise InputError(
            "got no token vectors and no encoder: pass one (n, dim) array per sequence, or raw "
            "sequences and an encoder"
        )
    if isinstance(encoder, str | Path):
        return _open_path(str(encoder), kind, options)
    if type(encoder).__module__.startswith("sentence_transformers"):
        return SentenceTransformerEncoder(encoder, _name_of(encoder), options)
    if isinstance(encoder, torch.nn.Module):
        raise InputError(
            f"got a {type(encoder).__name__} as encoder, which does not say how to prepare its "
            "input: pass its folder, or a function from a list of sequences to a list of "
            "(n, dim) arrays"
        )
    if callable(encoder):
        return CallableEncoder(encoder)
    raise InputError(
        f"got a {type(encoder).__name__} as encoder: pass a folder, a hub name, a "
        "SentenceTransformer, an ONNX file or a function"
    )


def _check_reads_waveforms(path: Path) -> None:
    if path.is_dir() and not any((path / file).is_file() for file in _PROCESSORS):
        raise InputError(
            f"got 1-D arrays of numbers for {path}, which has no feature extractor and so reads no "
            "waveforms: pass text; vocabulary numbers go back through the tokenizer first"
        )


def _open_path(name: str, kind: str, options: Options) -> FrozenEncoder:  # noqa: PLR0911
    path = Path(name)
    if (path / FRAMES).is_file():
        if kind != "tokens":
            raise InputError(
                f"got {kind} for {name}, which reads frames: pass one (n, dim) array per sequence"
            )
        return FrameEncoder(name, options)
    if kind == "tokens":
        raise InputError(
            "got token vectors and an encoder of other input: leave the encoder out for ready "
            "(n, dim) arrays"
        )
    if path.is_file() and path.suffix == ".onnx":
        return OnnxEncoder(path, options)
    if path.is_dir():
        if (path / "modules.json").is_file():
            return SentenceTransformerEncoder(_load_sentence_transformer(path), name, options)
        found = [*path.glob("*.onnx"), *path.glob("onnx/*.onnx")]
        if found and not any(w for pattern in _WEIGHTS for w in path.glob(pattern)):
            best = [file for file in found if file.name == "model.onnx"] or sorted(found)
            return OnnxEncoder(best[0], options)
        if not (path / "config.json").is_file():
            raise InputError(
                f"the folder {path} holds no encoder (no config.json, modules.json or .onnx "
                "file): pass a folder that save_pretrained wrote"
            )
    elif path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(
            f"there is no encoder {name!r}: pass a folder that save_pretrained wrote, an .onnx "
            "file or a hub name"
        )
    _check_reads(path, kind)
    if kind == "waveform":
        _check_reads_waveforms(path)
        return HuggingFaceAudio(name, options)
    if kind == "image" or (kind == "text" and _reads_images(path)):
        return HuggingFaceImage(name, options)
    if kind == "text":
        return HuggingFaceText(name, options)
    raise InputError(
        f"cannot tell what these sequences are for {name!r}: pass text, 1-D waveforms, or images"
    )


def _check_reads(path: Path, kind: str) -> None:
    """Refuse text for an encoder of recordings, and the like, where its folder tells."""
    processor: dict[str, Any] = {}
    for name in _PROCESSORS:
        if (path / name).is_file():
            with suppress(
                ValueError, TypeError
            ):  # what is wrong with it is said where it is loaded
                held = json.loads((path / name).read_text())
                processor |= {**held, **held.get("feature_extractor", {})}
    words = {"text": "text", "image": "images", "waveform": "recordings"}
    reads = {
        "text": any(path.glob("tokenizer*")) or any(path.glob("vocab*")),
        "image": bool({"image_processor_type", "image_mean", "image_processor"} & set(processor)),
        "waveform": "sampling_rate" in processor,
    }
    known = [words[each] for each, does in reads.items() if does]
    # Text may name the files of images; of waveforms for text `_check_reads_waveforms` says more.
    spared = {"text": reads["image"], "waveform": not reads["image"]}
    fits = reads.get(kind, True) or spared.get(kind, False)
    if known and not fits:
        raise InputError(
            f"got {words[kind]} for {path}, which reads {' and '.join(known)}: pass those, or "
            "another encoder"
        )


def _reads_images(path: Path) -> bool:
    """Whether a folder has an image processor and no tokenizer: text then names image files."""
    return (path / "preprocessor_config.json").is_file() and not any(path.glob("tokenizer*"))


def _name_of(model: Any) -> str:
    card = getattr(model, "model_card_data", None)
    return getattr(card, "base_model", None) or type(model).__name__


def _load_sentence_transformer(path: Path) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "hf") from error
    try:
        with quiet():
            return SentenceTransformer(str(path), device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot load the sentence-transformers folder {path} ({reason})"
        ) from error


class SentenceTransformerEncoder(TextEncoder):
    """The first module of a `SentenceTransformer`; pooling and what follows are set aside."""

    def __init__(self, model: Any, name: str, options: Options):
        self.name = name
        self._first = model[0]
        self._model: Any = getattr(self._first, "auto_model", None)
        tokenizer = getattr(self._first, "tokenizer", None)
        if self._model is None or tokenizer is None:
            raise InputError(
                f"the first module of {name} is a {type(self._first).__name__}, which gives no "
                "token vectors: pass a SentenceTransformer that starts with a transformer"
            )
        self._first.eval()
        self.depth = getattr(self._model.config.get_text_config(), "num_hidden_layers", None)
        limit, hard = text_limit(self._model, tokenizer)
        own = sensible(getattr(self._first, "max_seq_length", None))
        if own is not None:
            limit = own if limit is None else min(own, limit)
        accepts = set(inspect.signature(self._model.forward).parameters)
        causal = is_causal(self._model)
        super().__init__(tokenizer, limit, accepts, options, hard, causal=causal)
        self.fingerprint = hash_weights(self._model, tokenizer.get_vocab())
        self._first.to(options.device)

    def hidden(self, features: dict[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
        """Run the first module, or its transformer for an inner layer."""
        if any(layer not in (-1, self.depth) for layer in layers):
            return hidden_states(self._model, features, layers, self.depth, self.options)
        device = torch.device(self.options.device)
        features = {name: tensor.to(device) for name, tensor in features.items()}
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=self.options.precision == "bf16"),
        ):
            output = self._first({**features, "modality": "text"})
        return {layer: output["token_embeddings"] for layer in layers}


class OnnxEncoder(TextEncoder):
    """An ONNX file with a tokenizer beside it, or in the folder above."""

    def __init__(self, path: Path, options: Options):
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "onnx") from error
        self.name = str(path)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own, all bare Exception
            reason = str(error).splitlines()[0]
            raise InputError(
                f"cannot read the ONNX encoder {path} ({reason}): check that the file is whole, "
                "and that its external data lies beside it"
            ) from error
        folders = [folder for folder in (path.parent, path.parent.parent) if _has_tokenizer(folder)]
        if not folders:
            raise InputError(
                f"there is no tokenizer beside {path}: put tokenizer.json and "
                "tokenizer_config.json into its folder"
            )
        tokenizer = load_part("AutoTokenizer", str(folders[0]))
        limit = sensible(tokenizer.model_max_length)
        config = folders[0] / "config.json"
        if config.is_file():
            loaded = load_part("AutoConfig", str(folders[0]))
            known = sensible(getattr(loaded, "max_position_embeddings", None))
            limit = known if limit is None else min(limit, known or limit)
        names = {entry.name for entry in self._session.get_inputs()}
        if "input_ids" not in names:
            raise InputError(f"{path} has the inputs {sorted(names)}: it needs input_ids")
        self._output = self._token_output(path)
        super().__init__(tokenizer, limit, names, options)
        self.fingerprint = _hash_files(path, tokenizer.get_vocab())

    def _token_output(self, path: Path) -> str:
        outputs = self._session.get_outputs()
        for wanted in ("last_hidden_state", "token_embeddings"):
            if any(entry.name == wanted for entry in outputs):
                return wanted
        wide = [entry.name for entry in outputs if entry.shape and len(entry.shape) == 3]
        if not wide:
            raise InputError(
                f"{path} has the outputs {[entry.name for entry in outputs]}, none of shape "
                "(sequences, tokens, dim): export the encoder without its pooling"
            )
        return wide[0]

    def hidden(self, features: dict[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
        """Run the session."""
        inputs = {name: tensor.numpy() for name, tensor in features.items()}
        (output,) = self._session.run([self._output], inputs)
        return {layer: torch.from_numpy(np.asarray(output)) for layer in layers}


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))


def _hash_files(path: Path, vocabulary: dict[str, int]) -> str:
    digest = hashlib.sha256()
    for file in [path, *sorted(path.parent.glob(path.stem + "*data"))]:
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    for entry, number in sorted(vocabulary.items()):
        digest.update(f"{entry}\t{number}\n".encode())
    return "sha256:" + digest.hexdigest()
