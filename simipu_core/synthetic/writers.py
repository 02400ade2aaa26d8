"""Files in the genuine layouts of KITTI object, KITTI raw, KITTI depth and NYU."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.synthetic.camera import Camera
from simipu_core.synthetic.noise import fraction
from simipu_core.synthetic.scene import Floats

DATE = "2000_01_01"
"""Date folder of the drives in the KITTI raw layout."""
_TOP_BEAM = np.deg2rad(2.0)
_FARTHEST = 85.0


def drive_name(index: int) -> str:
    """Folder of a drive."""
    return f"{DATE}_drive_{index:04d}_sync"


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image as .png or .jpg."""
    _write(path, image[..., ::-1])


def write_scan(path: Path, points: Floats) -> None:
    """Write (M, 4) points as little-endian float32."""
    path.write_bytes(points.astype("<f4").tobytes())


def write_depth(path: Path, depth: Floats, scale: float) -> None:
    """Write metres × scale as 16-bit PNG; what is not finite or does not fit becomes 0, no measurement."""
    values = np.rint(np.where(np.isfinite(depth), depth, 0) * scale)
    _write(path, np.where(values <= 65535, values, 0).astype(np.uint16))


def _write(path: Path, pixels: NDArray[Any]) -> None:
    done, data = cv2.imencode(path.suffix, pixels)
    if not done:
        raise OSError(f"cannot encode {path.name}")
    path.write_bytes(data.tobytes())


def semi_dense(depth: Floats, camera: Camera, rng: np.random.Generator) -> Floats:
    """Thin an exact depth map as KITTI's accumulated ground truth is thin.

    Keeps rows along the LiDAR's scan lines below its top beam and nearer than 85 m, with random losses that grow
    with distance: about 20–30 % of the pixels.

    Args:
        depth: (H, W) metres, inf for the sky.
        camera: the camera that sees it.
        rng: source of the losses.

    Returns:
        (H, W) metres, 0 where nothing is kept.
    """
    known = np.isfinite(depth) & (depth < _FARTHEST)
    metres = np.where(known, depth, 1.0)
    rays = camera.pixel_rays(np.eye(4))
    x, y, z = rays * metres + camera.position(np.eye(4)).astype(np.float32)[:, None, None]
    elevation = np.arctan2(z, np.hypot(x, y))
    scan_line = fraction(elevation * float(camera.intrinsics[1, 1]) / 3) < 0.42
    kept = rng.random(depth.shape, np.float32) < 0.95 - 0.4 * metres / _FARTHEST
    return np.where(known & scan_line & kept & (elevation < _TOP_BEAM), depth, 0)


def timestamps(drive: int, frames: int, delay_ns: int, rng: np.random.Generator) -> str:
    """Text of a KITTI raw `timestamps.txt`: ten frames a second with some jitter.

    Args:
        drive: index; drives start a minute apart.
        frames: number of lines.
        delay_ns: the sensor's delay, nanoseconds.
        rng: source of the jitter.
    """
    lines = []
    for frame in range(frames):
        nanoseconds = frame * 100_000_000 + delay_ns + int(rng.integers(2_000_000))
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        time = datetime(2000, 1, 1, 12, tzinfo=UTC) + timedelta(minutes=drive, seconds=seconds)
        lines.append(f"{time:%Y-%m-%d %H:%M:%S}.{rest:09d}\n")
    return "".join(lines)
