"""Small made-up shard rows and sizes for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from simipu_core.artifacts import Manifest, sha256_file, write_artifact
from simipu_core.config import (
    ContrastConfig,
    HeadConfig,
    ImageEncoderConfig,
    ImageViewConfig,
    PointEncoderConfig,
    PointViewConfig,
    PretrainConfig,
    SetAbstractionConfig,
)
from simipu_core.data.schema import DEPTH, PAIRS, DepthRow, PairRow
from simipu_core.data.shards import ShardWriter
from simipu_core.evaluation.report import Report
from simipu_core.geometry.cameras import in_image, project
from simipu_core.geometry.visibility import cell_size, visible

HEIGHT, WIDTH = 48, 96
INTRINSICS = np.array([[60.0, 0, 47.5], [0, 60.0, 20.0], [0, 0, 1]])
# camera axes from sensor axes: x = -y, y = -z, z = x
LIDAR_TO_CAMERA = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.2], [0, 0, 0, 1]])


def pair_row(seed: int, num_points: int = 600) -> PairRow:
    """A row of pair shards: noise image, random points inside the image at 4–40 m."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(4, 40, num_points)
    uv = rng.uniform([0, 12], [WIDTH - 1, HEIGHT - 1], (num_points, 2))
    camera = np.column_stack([(uv - INTRINSICS[:2, 2]) / 60.0 * depth[:, None], depth])
    xyz = (camera - LIDAR_TO_CAMERA[:3, 3]) @ LIDAR_TO_CAMERA[:3, :3]
    points = np.column_stack([xyz, rng.uniform(0, 1, num_points)]).astype("<f4")
    return {
        "sample_id": f"sample-{seed}",
        "source": "made_up",
        "sequence": "s",
        "timestamp_us": None,
        "image": _png(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)),
        "height": HEIGHT,
        "width": WIDTH,
        "intrinsics": INTRINSICS.ravel().tolist(),
        "lidar_to_camera": LIDAR_TO_CAMERA.ravel().tolist(),
        "points": points.tobytes(),
        "visible": visible_column(points),
    }


def visible_column(points: np.ndarray[Any, Any]) -> bytes:
    """Which points of a scan, (N, 4), the camera sees, as pair rows hold it."""
    uv, depth = project(points[:, :3], LIDAR_TO_CAMERA, INTRINSICS)
    seen = in_image(uv, depth, HEIGHT, WIDTH)
    seen[seen] = visible(uv[seen], depth[seen], HEIGHT, WIDTH, 0.05, cell_size(INTRINSICS))
    return np.packbits(seen).tobytes()


def depth_row(seed: int, height: int = HEIGHT, width: int = WIDTH, sequence: str = "s") -> DepthRow:
    """A row of depth shards: bright is near, a fifth of the pixels measured."""
    rng = np.random.default_rng(seed)
    depth = np.tile(np.linspace(40, 4, height)[:, None], (1, width)) * rng.uniform(0.8, 1.2)
    grey = (255 * 4 / depth).clip(0, 255)[..., None] + rng.normal(0, 3, (height, width, 3))
    depth[rng.random((height, width)) > 0.2] = 0
    return {
        "sample_id": f"frame-{seed}",
        "source": "made_up",
        "sequence": sequence,
        "timestamp_us": None,
        "image": _png(grey.clip(0, 255).astype(np.uint8)),
        "height": height,
        "width": width,
        "intrinsics": INTRINSICS.ravel().tolist(),
        "depth": _png(np.rint(depth * 256).astype(np.uint16)),
        "depth_scale": 256.0,
        "depth_origin": "rendered",
    }


def tiny_pretrain(contrast: ContrastConfig | None = None, **changes: Any) -> PretrainConfig:
    """Pre-training sizes at which a step takes a fraction of a second."""
    level = {"mlps": ((8, 16), (8, 16)), "num_neighbours": (4, 8)}
    settings: dict[str, Any] = {
        "points": PointViewConfig(num_points=256),
        "image": ImageViewConfig(long_side=(64, 96), short_side=(32, 48)),
        "point_encoder": PointEncoderConfig(
            levels=(
                SetAbstractionConfig(num_points=128, radii=(1.0, 3.0), out_channels=16, **level),
                SetAbstractionConfig(num_points=64, radii=(3.0, 8.0), out_channels=32, **level),
            )
        ),
        "image_encoder": ImageEncoderConfig(name="resnet18", init="kaiming_zero_gamma"),
        "heads": HeadConfig(point_hidden=32, image_hidden=32, out_channels=16),
        "contrast": contrast or ContrastConfig(),
        "batch_size": 2,
        "epochs": 1,
        "workers": 0,
    }
    return PretrainConfig(**(settings | changes))


def _png(image: np.ndarray[Any, Any]) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def write_shards(out: Path, kind: Literal["pairs", "depth"], **rows: Sequence[PairRow | DepthRow]) -> Path:
    """Write rows, by file prefix (`pairs`, or `train` and `eval`), as an artifact of `kind`."""
    schema = PAIRS if kind == "pairs" else DEPTH
    with write_artifact(out, kind, inputs={}, parameters={}, licence="made up") as draft:
        for prefix, values in rows.items():
            with ShardWriter(draft.path, prefix, schema, rows_per_group=4, shard_mb=1) as writer:
                for row in values:
                    writer.write(row)
        draft.counts["median_depth_train"] = 12.0
    return out


def write_report(out: Path, abs_rel: float, protocol: str = "eigen_nyu", **others: float) -> Path:
    """Write an evaluation with one score, or some, as an artifact of kind `report`."""
    report = Report(
        headline=protocol,
        num_images=3,
        flip=True,
        metrics={protocol: {"abs_rel": abs_rel, **others}},
        baselines={"constant_depth": {protocol: {"abs_rel": 0.5}}},
        model_digest="",
        data_digest="",
    )
    with write_artifact(out, "report", inputs={}, parameters={"abs_rel": abs_rel}, licence="made up") as draft:
        (draft.path / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    return out


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file of an artifact, shards included, with its manifest."""
    assert {name: sha256_file(folder / name) for name in manifest.files} == {
        name: entry.sha256 for name, entry in manifest.files.items()
    }
