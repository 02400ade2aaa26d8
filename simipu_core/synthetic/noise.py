"""Fractal noise for textures: a tile made once from a fixed seed and looked up by position."""

from functools import cache

import numpy as np

from simipu_core.synthetic.scene import Floats

_TILE = 512


@cache
def _tile() -> Floats:
    frequency = np.fft.fftfreq(_TILE)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    radius[0, 0] = np.inf
    spectrum = np.fft.fft2(np.random.default_rng(7).standard_normal((_TILE, _TILE))) / radius**0.9
    tile = np.fft.ifft2(spectrum).real
    return np.asarray(np.clip(tile / tile.std() / 2.5, -1, 1), np.float32)


def noise(u: Floats, v: Floats, scale: float) -> Floats:
    """Noise of about −1…1 and mean 0 that repeats after 512 steps.

    Args:
        u: (M,) positions, metres.
        v: (M,) positions, metres.
        scale: steps per metre; features range from one step to hundreds.
    """
    rows = (u * scale).astype(np.int64) & (_TILE - 1)
    columns = (v * scale).astype(np.int64) & (_TILE - 1)
    return np.asarray(_tile()[rows, columns])


def fraction(x: Floats) -> Floats:
    """Fractional part, 0–1, of negative numbers too."""
    return np.asarray(x - np.floor(x))


def sharpness(footprint: Floats, feature: float) -> Floats:
    """How much of a feature's contrast survives in a pixel that covers `footprint` metres, 0–1."""
    return np.asarray(np.clip(1.5 - footprint / feature, 0, 1))
