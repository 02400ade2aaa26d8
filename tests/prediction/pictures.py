"""Pictures and videos as files."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.samples import HEIGHT, WIDTH


def pixels(seed: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A smooth picture (H, W, 3), RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def picture(file: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """A PNG or JPEG file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), pixels(seed, *size)[..., ::-1])
    return file


def video(file: Path, seeds: Sequence[int], rate: float = 12.0) -> Path:
    """An .mp4 file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), rate, (WIDTH, HEIGHT))
    for seed in seeds:
        writer.write(pixels(seed)[..., ::-1])
    writer.release()
    return file
