"""Frames of the dense tasks: fixed, so that every method reads the same numbers.

A series shorter than a frame is padded by its last value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def windows(
    points: Float[np.ndarray, "steps channels"], size: int, hop: int
) -> Float[np.ndarray, "frames values"]:
    """Cut into windows of ``size`` steps every ``hop``, each flattened."""
    short = size - len(points)
    if short > 0:
        points = np.concatenate([points, np.repeat(points[-1:], short, 0)])
    starts = range(0, len(points) - size + 1, hop)
    return np.stack([points[i : i + size].ravel() for i in starts]).astype(np.float32)


def with_steps(points: Float[np.ndarray, "steps channels"]) -> Float[np.ndarray, "steps twice"]:
    """Values beside their first differences; the first difference is 0."""
    return np.concatenate([points, np.diff(points, axis=0, prepend=points[:1])], 1)


def pen(strokes: Sequence[Sequence[Sequence[float]]]) -> Float[np.ndarray, "frames 40"]:
    """Windows of 8 pen points, hop 4: x, y, Δx, Δy and whether the pen was up before."""
    rows = [(x, y, float(i == 0)) for stroke in strokes for i, (x, y, *_) in enumerate(stroke)]
    points = np.array(rows, dtype=np.float64)
    return windows(np.concatenate([with_steps(points[:, :2]), points[:, 2:]], 1), 8, 4)


def gesture(track: Float[np.ndarray, "16 2"]) -> Float[np.ndarray, "13 16"]:
    """Windows of 4 frames, hop 1: x, y, Δx, Δy."""
    return windows(with_steps(track.astype(np.float64)), 4, 1)


def series(channels: Sequence[Sequence[float]], size: int, hop: int) -> np.ndarray:
    """Windows over all channels: values and first differences."""
    return windows(with_steps(np.array(channels, dtype=np.float64).T), size, hop)


def patches(image: np.ndarray) -> Float[np.ndarray, "49 18"]:
    """4 x 4 patches of a 28 x 28 image: 16 pixels in [0, 1], then row and column in [0, 1]."""
    pixels = image.reshape(7, 4, 7, 4).transpose(0, 2, 1, 3).reshape(49, 16) / 255
    place = np.stack(np.divmod(np.arange(49), 7), 1) / 6
    return np.concatenate([pixels, place], 1).astype(np.float32)


def log_mel(wave: Float[np.ndarray, " samples"], rate: int = 8_000) -> Float[np.ndarray, "f 80"]:
    """40 log-mel energies (25 ms windows, 10 ms hop) and their deltas."""
    size, hop, points = rate // 40, rate // 100, 256
    wave = np.pad(wave, (0, max(0, size - len(wave))), mode="edge")
    starts = range(0, len(wave) - size + 1, hop)
    cut = np.stack([wave[i : i + size] for i in starts]) * np.hanning(size)
    power = np.abs(np.fft.rfft(cut, points)) ** 2
    mel = np.log(power @ _mel_filters(40, points, rate).T + 1e-6)
    delta = np.gradient(mel, axis=0) if len(mel) > 1 else np.zeros_like(mel)
    return np.concatenate([mel, delta], 1).astype(np.float32)


def _mel_filters(count: int, points: int, rate: int) -> Float[np.ndarray, "mels bins"]:
    """Triangles equally spaced on the mel scale from 50 Hz to half the rate."""
    low, high = (2_595 * np.log10(1 + f / 700) for f in (50, rate / 2))
    edges = 700 * (10 ** (np.linspace(low, high, count + 2) / 2_595) - 1)
    bins = np.fft.rfftfreq(points, 1 / rate)
    left, centre, right = (edges[i : i + count, None] for i in range(3))
    rise = (bins - left) / (centre - left)
    fall = (right - bins) / (right - centre)
    return np.maximum(0, np.minimum(rise, fall))
