"""Frames without an encoder: log-mel energies of recordings, patches of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from onevec.errors import InputError, MissingExtraError
from onevec.tokens.media import Picture, Sound, as_rgb

_RATE = 16_000
_WINDOW, _HOP, _POINTS = 400, 160, 512  # 25 ms, 10 ms, and what the Fourier transform pads to
_MELS = 40
_FLOOR = 1e-6  # of an energy, before its logarithm
_PATCH = 8  # pixels on a side


def log_mel(sound: Any, row: int) -> Float[np.ndarray, "frames 40"]:
    """Return 40 log-mel energies per 10 ms, of windows of 25 ms, at 16 kHz.

    Parameters
    ----------
    sound : Sound
        Of any rate. One shorter than a window gives one frame.
    row : int
        Its number, for messages.

    Raises
    ------
    InputError
        For anything but a recording whose rate is known.
    """
    if not isinstance(sound, Sound):
        raise InputError(
            f'got frames="logmel" for sequence {row}, a {type(sound).__name__}: it takes '
            'recordings whose rate is known, as audio files or {"array", "sampling_rate"}'
        )
    wave = sound.at(_RATE)
    wave = np.pad(wave, (0, max(0, _WINDOW - len(wave))))
    cut = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(cut * np.hanning(_WINDOW), _POINTS)) ** 2
    return np.log(power @ _filters() + _FLOOR).astype(np.float32)


@cache
def _filters() -> Float[np.ndarray, "bins 40"]:
    try:
        from transformers.audio_utils import mel_filter_bank
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error
    return mel_filter_bank(_POINTS // 2 + 1, _MELS, 0.0, _RATE / 2, _RATE, mel_scale="htk")


def patches(image: Any, row: int) -> Float[np.ndarray, "patches 192"]:
    """Return patches of 8 x 8 pixels, red, green and blue in [0, 1], from left to right and down.

    Pixels beyond the last whole patch of a row or column are left out.

    Raises
    ------
    InputError
        For anything but an image of at least 8 x 8 pixels.
    """
    if isinstance(image, Picture):
        image = image.open()
    if not type(image).__module__.startswith("PIL."):
        raise InputError(
            f'got frames="patches" for sequence {row}, a {type(image).__name__}: it takes images, '
            "as files or from Pillow"
        )
    pixels = np.asarray(as_rgb(image), dtype=np.float32) / 255
    down, across = (size // _PATCH for size in pixels.shape[:2])
    if not (down and across):
        raise InputError(
            f"sequence {row} has {pixels.shape[1]} x {pixels.shape[0]} pixels: patches need at "
            f"least {_PATCH} x {_PATCH}; enlarge it or leave it out"
        )
    whole = pixels[: down * _PATCH, : across * _PATCH]
    cut = whole.reshape(down, _PATCH, across, _PATCH, 3).transpose(0, 2, 1, 3, 4)
    return cut.reshape(down * across, -1)


FRAMINGS: dict[str, Callable[[Any, int], np.ndarray]] = {"logmel": log_mel, "patches": patches}


def framing(name: str) -> Callable[[Any, int], np.ndarray]:
    """Return what cuts a sequence to frames; one sentence for a name that does not exist."""
    if name not in FRAMINGS:
        raise InputError(f"got frames={name!r}: choose from {', '.join(FRAMINGS)}")
    return FRAMINGS[name]
