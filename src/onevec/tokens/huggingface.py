"""Encoders that `transformers.AutoModel` loads: text, audio and image."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onevec.errors import InputError, MissingExtraError
from onevec.tokens.frozen import FrozenEncoder, Options, Piece, States, hash_weights
from onevec.tokens.media import Picture, Sound, as_rgb, first_line
from onevec.tokens.text import TextEncoder, sensible

_WINDOW, _HOP = 400, 160  # samples of a mel frame and between two, at 16 kHz
_CLASS_TOKENS = {"cls_token", "class_embedding"}  # what image models call the token in front


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' loading report: heads that are set aside are no news here."""
    from transformers.utils import logging as reports

    level = reports.get_verbosity()
    bars = reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()


def load_part(kind: str, name: str) -> Any:
    """Load ``transformers.<kind>`` from a folder or hub name; one sentence when it fails."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error
    # The hub client logs its retries; the sentence below says what matters.
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"local_files_only": _is_here(name)}
    if kind == "AutoModel":
        options |= {"dtype": torch.float32, "output_loading_info": True}
    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(name, **options)
    except ImportError as error:
        raise InputError(f"cannot load the encoder {name!r}: {first_line(error)}") from error
    except Exception as error:  # also what the reader of a damaged weights file raises
        raise InputError(
            f"cannot load {kind} from {name!r} ({first_line(error)}): pass a folder that "
            "save_pretrained wrote, or a hub name that is in the cache or can be reached"
        ) from error
    finally:
        hub.setLevel(level)


def _is_here(name: str) -> bool:
    """Whether a folder, or the hub's cache, has the model; else the hub must, and be reached.

    Asked first because loading from a hub that is out of reach retries for a minute.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if Path(name).is_dir():
        return True
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return True
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # classes of the client's HTTP library, which changes
        raise InputError(
            f"there is no encoder {name!r}: it is no folder here and not in the hub's cache, and "
            f"the hub does not have it or is out of reach ({first_line(error)}); check the name, "
            "or pass a folder"
        ) from error
    return False


class AutoEncoder:
    """A model in evaluation mode, and its hidden states by layer."""

    def __init__(self, name: str, options: Options, part: str | None = None):
        model, report = load_part("AutoModel", name)
        side = None if part is None else getattr(model, part, None)
        if side is not None:  # one side of a two-sided model, as CLIP
            model = side
        unread = ("pooler",)
        if (
            hasattr(model, "decoder") and model.get_encoder() is not model
        ):  # T5's folder may deny it
            model, unread = model.get_encoder(), ("pooler", "decoder")
        keys = report.get("missing_keys", ())
        missing = [key for key in keys if not any(each in key for each in unread)]
        if missing:
            warnings.warn(
                f"{len(missing)} weights of {name} are not in its file and are random (such as "
                f"{sorted(missing)[0]}): this is not the trained encoder; check the folder",
                stacklevel=2,
            )
        self.model = model.eval().requires_grad_(False)
        self.config = self.model.config
        self.options = options
        self.accepts = set(inspect.signature(self.model.forward).parameters)

    @property
    def depth(self) -> int | None:
        """Number of layers, if the configuration says."""
        config = self.config.get_text_config() if part_of(self.config) else self.config
        for name in ("num_hidden_layers", "encoder_layers", "num_layers"):
            if isinstance(getattr(config, name, None), int):
                return getattr(config, name)
        return None

    def to_device(self) -> None:
        """Move the model to the device of the options."""
        self.model.to(self.options.device)

    def hidden(self, features: dict[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
        """Run the model; see `hidden_states`."""
        return hidden_states(self.model, features, layers, self.depth, self.options)


def part_of(config: Any) -> bool:
    """Whether a configuration is made of several (text, vision …)."""
    return bool(getattr(config, "sub_configs", None))


def hidden_states(
    model: torch.nn.Module,
    features: dict[str, Tensor],
    layers: Sequence[int],
    depth: int | None,
    options: Options,
) -> dict[int, Float[Tensor, "seqs width dim"]]:
    """Run a transformers model and return the asked layers.

    The last layer is ``last_hidden_state``, hence after a final normalisation if there is one.
    """
    inner = any(layer not in (-1, depth) for layer in layers)
    device = torch.device(options.device)
    features = {name: tensor.to(device) for name, tensor in features.items()}
    wide = {"output_hidden_states": True} if inner else {}
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"),
    ):
        output = model(**features, **wide)
    found = {}
    for layer in layers:
        last = layer in (-1, depth)
        found[layer] = output.last_hidden_state if last else output.hidden_states[layer]
    return found


class HuggingFaceText(TextEncoder):
    """A model with a tokenizer: language, protein, DNA, chemistry …"""

    def __init__(self, name: str, options: Options):
        self.name = name
        self._auto = AutoEncoder(name, options, "text_model")
        tokenizer = load_part("AutoTokenizer", name)
        self.depth = self._auto.depth
        limit, hard = text_limit(self._auto.model, tokenizer)
        causal = is_causal(self._auto.model)
        super().__init__(tokenizer, limit, self._auto.accepts, options, hard, causal=causal)
        self.fingerprint = hash_weights(self._auto.model, tokenizer.get_vocab())
        self._auto.to_device()

    def hidden(self, features: dict[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
        """Run the model."""
        return self._auto.hidden(features, layers)


def is_causal(model: torch.nn.Module) -> bool:
    """Whether a token attends only to itself and to those before it."""
    return any(getattr(module, "is_causal", False) for module in model.modules())


def text_limit(model: torch.nn.Module, tokenizer: Any) -> tuple[int | None, bool]:
    """Return the longest input of a model, and whether positions beyond it do not exist."""
    limits = [sensible(tokenizer.model_max_length)]
    hard = False
    config = getattr(model, "config", None)
    if config is not None:
        limits.append(sensible(getattr(config, "max_position_embeddings", None)))
    for name, module in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("position_embeddings", "wpe") and isinstance(module, torch.nn.Embedding):
            # RoBERTa and its kin count positions from padding_idx + 1.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - skipped)
            hard = True
    known = [limit for limit in limits if limit is not None]
    return (min(known) if known else None), hard


class HuggingFaceAudio(FrozenEncoder):
    """A model with a feature extractor: waveforms in, frames out.

    Only waveforms of one length share a batch: some models normalise over time, padding included.
    ``max_length`` counts samples here. Extractors that pad every waveform to one length (Whisper
    to 30 s, AST to 10 s) give frames of nothing, which are left out.
    """

    def __init__(self, name: str, options: Options):
        self.name = name
        self.options = options
        self._auto = AutoEncoder(name, options)
        self.depth = self._auto.depth
        self.extractor = load_part("AutoFeatureExtractor", name)
        self._unknown_rate = self._mixed = 0
        self.rate = getattr(self.extractor, "sampling_rate", None)
        self._whole = self._padded_length()
        limits = [n for n in (options.max_length, self._whole) if n is not None]
        self.limit = min(limits, default=None)
        if options.long == "window":
            raise InputError(
                f'got long="window" for {self.name}, which reads audio: windows are for text; '
                'split the waveforms, or use long="truncate"'
            )
        self.fingerprint = hash_weights(self._auto.model, None)
        self._auto.to_device()

    def _padded_length(self) -> int | None:
        """Samples that every waveform is padded or cut to; None where it keeps its length."""
        samples = getattr(self.extractor, "n_samples", None)  # Whisper
        frames = getattr(self.extractor, "max_length", None)
        if samples is None and isinstance(frames, int) and hasattr(self.extractor, "num_mel_bins"):
            return _WINDOW + (frames - 1) * _HOP  # AST
        return samples

    def _real(self, length: int, tokens: int) -> Tensor | slice:
        """Which tokens come from a waveform of so many samples, and not from padding."""
        if self._whole is None:
            return slice(None)
        config = self._auto.config
        if not hasattr(config, "time_stride"):
            return slice(max(1, math.ceil(tokens * length / self._whole)))
        # AST: two special tokens, then patches of the spectrogram, frequency by frequency.
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        times = (tokens - 2) // bands
        frames = 1 + max(0, length - _WINDOW) // _HOP
        kept = min(times, max(1, math.ceil(frames / config.time_stride)))
        return 2 + torch.arange(bands * times).reshape(bands, times)[:, :kept].flatten()

    def notes(self) -> list[str]:
        """Return what the user must know: how much was cut."""
        found = []
        if self._mixed:
            found.append(
                f"{self._mixed:,} recordings of several channels were mixed to one: pass the "
                "channels one by one to keep them apart"
            )
        if self._unknown_rate:
            found.append(
                f"{self._unknown_rate:,} waveforms do not say their sampling rate and were read at "
                f"{self.rate} Hz, that of {self.name}: pass files, or "
                '{"array": samples, "sampling_rate": rate}, of which any rate is right'
            )
        if not self.truncated or self.limit is None:
            return found
        return [
            *found,
            f"{self.truncated} waveforms were longer than {self.limit:,} samples "
            f"({self.limit / (self.rate or 1):.3g} s), which is the most that is read, and were "
            "cut: split them to keep all",
        ]

    def cut(self, sequences: list[Any], start: int) -> list[Piece]:
        """Check waveforms; cut what is too long."""
        pieces = []
        for row, sequence in enumerate(sequences):
            wave = self._wave(sequence, start + row)
            if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
                raise InputError(
                    f"sequence {start + row} (shape {wave.shape}) is no waveform: {self.name} "
                    "reads 1-D arrays of finite samples with at least one entry"
                )
            if self.limit is not None and len(wave) > self.limit:
                self.truncated += 1
                wave = wave[: self.limit]
            pieces.append(Piece(row, wave, 1 + len(wave) // 320, (0, 0), group=len(wave)))
        return pieces

    def _wave(self, sequence: Any, row: int) -> np.ndarray:
        """Return samples at the rate of the extractor."""
        if isinstance(sequence, Sound):
            self._mixed += sequence.channels > 1
            return sequence.samples if self.rate is None else sequence.at(self.rate)
        if isinstance(sequence, str | Picture):
            what = "text" if isinstance(sequence, str) else "an image"
            raise InputError(f"sequence {row} is {what}, and {self.name} reads recordings")
        self._unknown_rate += 1
        return np.asarray(sequence, dtype=np.float32)

    def run(self, pieces: list[Piece], layers: Sequence[int]) -> list[dict[int, States]]:
        """Extract features and run the model."""
        waves = [piece.inputs for piece in pieces]
        batch = self.extractor(waves, sampling_rate=self.rate, return_tensors="pt")
        features = {name: value for name, value in batch.items() if name in self._auto.accepts}
        try:
            outputs = self._auto.hidden(features, layers)
        except RuntimeError as error:
            raise InputError(
                f"{self.name} cannot read a waveform of {len(waves[0])} samples "
                f"({first_line(error)}): drop the ones that are too short"
            ) from error
        whole = {layer: output.float().cpu() for layer, output in outputs.items()}
        return [
            {k: States(v[row][self._real(len(wave), v.shape[1])].clone()) for k, v in whole.items()}
            for row, wave in enumerate(waves)
        ]


class HuggingFaceImage(FrozenEncoder):
    """A model with an image processor: images in, one vector per patch out."""

    def __init__(self, name: str, options: Options):
        self.name = name
        self.options = options
        self._auto = AutoEncoder(name, options, "vision_model")
        self.depth = self._auto.depth
        self.processor = load_part("AutoImageProcessor", name)
        parameters = {name.rsplit(".", 1)[-1] for name, _ in self._auto.model.named_parameters()}
        self._has_cls = bool(parameters & _CLASS_TOKENS)
        self.fingerprint = hash_weights(self._auto.model, None)
        self._auto.to_device()

    def cut(self, sequences: list[Any], start: int) -> list[Piece]:
        """Open, resize and normalise images."""
        pieces = []
        for row, sequence in enumerate(sequences):
            pixels = self._pixels(sequence, start + row)
            patches = self._patches(pixels) or 256
            pieces.append(Piece(row, pixels, patches, (0, 0), group=tuple(pixels.shape)))
        return pieces

    def _pixels(self, image: Any, row: int) -> Tensor:
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            raise MissingExtraError("pillow", "hf") from error
        if isinstance(image, Picture):
            image = image.open()
        try:
            if isinstance(image, str | Path):
                with Image.open(image) as opened:
                    image = as_rgb(opened)
            elif isinstance(image, Image.Image):
                image = as_rgb(image)
            return self.processor(images=[image], return_tensors="pt")["pixel_values"][0]
        except (OSError, UnidentifiedImageError, ValueError, TypeError) as error:
            raise InputError(
                f"sequence {row} cannot be read as an image ({first_line(error)}): {self.name} "
                "reads PIL images, (height, width, 3) arrays or paths of image files"
            ) from error

    def _patches(self, pixels: Tensor) -> int | None:
        size = getattr(self._auto.config, "patch_size", None)
        if not size:
            return None
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        return (pixels.shape[-2] // height) * (pixels.shape[-1] // width)

    def run(self, pieces: list[Piece], layers: Sequence[int]) -> list[dict[int, States]]:
        """Run the model; take class and register tokens, which stand in front, off."""
        features = {"pixel_values": torch.stack([piece.inputs for piece in pieces])}
        found: list[dict[int, States]] = [{} for _ in pieces]
        for layer, output in self._auto.hidden(features, layers).items():
            tokens, front = output.float().cpu(), None
            if tokens.ndim == 4:  # convolutional: (seqs, dim, height, width)
                tokens = tokens.flatten(2).transpose(1, 2)
            patches = self._patches(pieces[0].inputs)
            if not self.options.special_tokens and patches and 0 < patches < tokens.shape[1]:
                front, tokens = tokens[:, 0], tokens[:, -patches:]
            for row, states in enumerate(found):
                cls = front[row].clone() if front is not None and self._has_cls else None
                states[layer] = States(tokens[row].clone(), cls)
        return found
