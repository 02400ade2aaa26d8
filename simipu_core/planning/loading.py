"""What the loader makes in a second of one core, from what was measured (`benchmarks/bench_loader.py`)."""

from simipu_core.config import PairConfig, PointEncoderConfig, PretrainConfig
from simipu_core.config.section import Size

_MEASURED: Size = (375, 1242)
_IMAGE_MS = {
    "pairs": {"source": 15.3, "jpeg": 8.10, "raw": 8.42},
    "depth": {"source": 16.1, "jpeg": 8.94, "raw": 5.31},
}
"""Milliseconds of a core for a sample without its neighbourhoods, by use and encoding."""
_GEOMETRY_MS = 80.0
"""Those of the neighbourhoods of both views, at the default levels."""


def pair_rate(config: PretrainConfig, packing: PairConfig, frame: Size) -> float:
    """Pre-training samples a second and core.

    Args:
        config: the whole stage.
        packing: how images are encoded.
        frame: height and width of the camera's images.
    """
    seconds = _IMAGE_MS["pairs"][packing.image_encoding] * _share(frame) / 1e3
    if config.has_contrast:
        seconds += _GEOMETRY_MS / 1e3 * _gathered(config.point_encoder) / _gathered(PointEncoderConfig())
    return 1 / seconds


def depth_rate(packing: PairConfig, frame: Size) -> float:
    """Fine-tuning samples a second and core; arguments as above."""
    return 1e3 / (_IMAGE_MS["depth"][packing.image_encoding] * _share(frame))


def _share(frame: Size) -> float:
    return frame[0] * frame[1] / (_MEASURED[0] * _MEASURED[1])


def _gathered(encoder: PointEncoderConfig) -> int:
    """Neighbours of all levels that the loader finds."""
    levels = encoder.levels if encoder.sampling == "distance" else encoder.levels[:1]
    return sum(level.num_points * sum(level.num_neighbours) for level in levels)
