"""Recordings and images: from files, from their bytes, and as `datasets` and torchcodec give them.

A recording is read at once and mixed to one channel; it always knows its rate. An image stays
closed until it is needed, since a few photos fill the memory that thousands of patches take.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from onevec.errors import InputError, MissingExtraError

AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MEDIA = (*AUDIO, *IMAGES)
_AUDIO_STARTS = (b"fLaC", b"OggS", b"ID3", b".snd", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
_CONTAINERS = {b"WAVE": b"RIFF", b"AIFF": b"FORM", b"AIFC": b"FORM"}  # RIFF also holds WebP
_STREAMED = 0x7FFFFFF0  # from this on the size in a WAV header is none, but a mark of streams
_KEYS = {"array", "bytes", "path", "sampling_rate"}  # of what `datasets` gives
_RATE_RULE = 'pass {"array": samples, "sampling_rate": rate} per recording, or files'


@dataclass(frozen=True, eq=False)
class Sound:
    """A recording of one channel.

    Attributes
    ----------
    samples : float32 ndarray, shape (samples,)
        Between -1 and 1.
    rate : int
        Samples per second.
    channels : int
        How many were mixed.

    Examples
    --------
    >>> Sound(np.zeros(8000, np.float32), 8000).at(16000).shape
    (16000,)
    """

    samples: Float[np.ndarray, " samples"]
    rate: int
    channels: int = 1

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate

    def at(self, rate: int) -> Float[np.ndarray, " samples"]:
        """Return the samples at another rate, by a polyphase filter without aliasing."""
        if rate == self.rate:
            return self.samples
        from scipy.signal import resample_poly

        common = gcd(rate, self.rate)
        return resample_poly(self.samples, rate // common, self.rate // common).astype(np.float32)

    def tobytes(self) -> bytes:
        """Return what tells this recording from another."""
        return f"{self.rate} {self.channels} ".encode() + self.samples.tobytes()

    @classmethod
    def of(cls, samples: Num[np.ndarray, ...], rate: Any, where: str) -> Sound:
        """Check samples and their rate, and mix channels, which are the shorter axis.

        Raises
        ------
        InputError
            If the rate is not known, or the samples are none.
        """
        if not isinstance(rate, int | float | np.number) or not rate > 0 or rate != int(rate):
            got = "no sampling rate" if rate is None else f"the sampling rate {rate!r}"
            raise InputError(f"{where} has {got}, which must be known: {_RATE_RULE}")
        wave = np.asarray(samples)
        if wave.dtype in (np.int16, np.int32):  # as PCM files hold them
            wave = wave / -float(np.iinfo(wave.dtype).min)
        if wave.dtype.kind not in "fiu" or wave.ndim not in (1, 2) or 0 in wave.shape:
            raise InputError(
                f"{where} has samples of dtype {wave.dtype} and shape {wave.shape}: a recording "
                "has at least one sample, as (samples,) or (channels, samples)"
            )
        channels = 1 if wave.ndim == 1 else min(wave.shape)
        if wave.ndim == 2:
            wave = wave.mean(int(np.argmin(wave.shape)), dtype=np.float64)
        wave = np.ascontiguousarray(wave, dtype=np.float32)
        if not np.isfinite(wave).all():
            raise InputError(f"{where} holds NaN or infinity: leave it out or repair it")
        return cls(wave, int(rate), channels)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is opened when it is needed: a file, or its bytes."""

    source: Path | bytes
    name: str

    def open(self) -> Any:
        """Return a Pillow image, upright as its camera says.

        Raises
        ------
        InputError
            If it is no image that Pillow can read.
        """
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise MissingExtraError("pillow", "files") from error
        held = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        try:
            with Image.open(held) as image:
                return ImageOps.exif_transpose(image)
        except (
            OSError, ValueError, SyntaxError, Image.DecompressionBombError
        ) as error:  # fmt: skip
            raise InputError(
                f"{self.name} cannot be read as an image ({first_line(error)}): leave it out or "
                "repair it"
            ) from error

    def tobytes(self) -> bytes:
        """Return what tells this image from another."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def as_rgb(image: Any) -> Any:
    """Return a Pillow image in RGB; 16 bits are scaled to 8, where Pillow itself would clip."""
    if image.mode.startswith("I") and image.getextrema()[1] > 255:
        from PIL import Image

        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).astype(np.uint8))
    return image.convert("RGB")


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, without its full stop."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def read_sound(source: Path | bytes, where: str) -> Sound:
    """Read an audio file, or its bytes.

    Raises
    ------
    InputError
        If it is damaged, empty, or of a format that libsndfile does not know.
    """
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError("soundfile", "files") from error
    _check_whole(source, where)
    try:
        held = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        samples, rate = soundfile.read(held, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        reason = getattr(error, "error_string", "").rstrip(".") or first_line(error)
        raise InputError(
            f"{where} cannot be read as audio ({reason}): leave it out, or convert it "
            "to .wav or .flac"
        ) from error
    if not len(samples):
        raise InputError(f"{where} holds no samples: leave it out")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)
    checked = Sound.of(mono, rate, where)
    return Sound(checked.samples, checked.rate, samples.shape[1])


def _check_whole(source: Path | bytes, where: str) -> None:
    """Refuse a WAV file that ends early, which libsndfile reads as if it were short."""
    if isinstance(source, bytes):
        start, size = source[:12], len(source)
    else:
        with source.open("rb") as file:
            start, size = file.read(12), source.stat().st_size
    said = int.from_bytes(start[4:8], "little") + 8
    if start[:4] == b"RIFF" and start[8:] == b"WAVE" and size < said < _STREAMED:
        raise InputError(
            f"{where} is cut: {size:,} of {said:,} bytes are there; copy it again or leave it out"
        )


def is_sound(start: bytes) -> bool:
    """Whether a file is audio, by its first bytes."""
    return start.startswith(_AUDIO_STARTS) or (
        start[8:12] in _CONTAINERS and start.startswith(_CONTAINERS[start[8:12]])
    )


def open_file(path: Path, name: str | None = None) -> Sound | Picture:
    """Read an audio file, or name an image file, by what its ending or its first bytes say."""
    name = str(path) if name is None else name
    if not path.is_file():
        raise InputError(f"there is no file {path}: pass paths that exist")
    if path.suffix.lower() in IMAGES:
        return Picture(path, name)
    with path.open("rb") as file:
        audio = path.suffix.lower() in AUDIO or is_sound(file.read(12))
    return read_sound(path, name) if audio else Picture(path, name)


def is_media(value: Any) -> bool:
    """Whether a value is a recording or an image as a file, bytes or a decoder gives it."""
    if isinstance(value, Mapping):
        keys = set(value)
        return keys >= {"array", "sampling_rate"} or (
            bool(keys & {"array", "bytes", "path"}) and keys <= _KEYS
        )
    return isinstance(value, Path | bytes) or hasattr(value, "get_all_samples")


def as_media(value: Any, where: str) -> Any:
    """Make a `Sound` or `Picture` of what `is_media` knows; return anything else as it is.

    Parameters
    ----------
    value : mapping, bytes, Path, decoder or anything else
        What a column of `datasets` holds: ``{"array", "sampling_rate"}``, ``{"bytes", "path"}``,
        torchcodec's ``AudioDecoder``.
    where : str
        What it is, for messages.
    """
    if isinstance(value, Path):
        return open_file(value)
    if isinstance(value, bytes):
        return _of_bytes(value, where)
    if hasattr(value, "get_all_samples"):
        decoded = value.get_all_samples()
        return Sound.of(np.asarray(decoded.data), decoded.sample_rate, where)
    return _of_mapping(value, where) if is_media(value) else value


def _of_mapping(value: Mapping[str, Any], where: str) -> Any:
    if value.get("array") is not None:
        return Sound.of(np.asarray(value["array"]), value.get("sampling_rate"), where)
    if value.get("bytes") is not None:
        return _of_bytes(value["bytes"], where)
    if value.get("path"):
        return open_file(Path(value["path"]))
    raise InputError(f"{where} is empty: every row needs its recording or image; drop it")


def _of_bytes(content: bytes, where: str) -> Any:
    if is_sound(content[:12]):
        return read_sound(content, where)
    text = _text(content)
    return Picture(content, where) if text is None else text


def _text(content: bytes) -> str | None:
    """Return text that some writers of tables keep as bytes; None for what is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if all(each.isprintable() or each in "\t\r\n" for each in text) else None
