"""Measured frames made up for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from simipu_core.checking.survey import DepthFacts, FrameFacts, Survey
from simipu_core.config import PairConfig
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.schema import FrameRow
from tests.sources import any_source


def facts(
    index: int, split: str = "train", sequence: str = "drive", depth: DepthFacts | None = None, **row: Any
) -> FrameFacts:
    """A sound frame; `row` changes its catalogue row."""
    values: FrameRow = {
        "sample_id": f"made/{sequence}/{index:04d}",
        "source": "made",
        "sequence": sequence,
        "timestamp_us": 1_000_000 + 100_000 * index,
        "points_timestamp_us": 1_004_000 + 100_000 * index,
        "image": f"{index}.png",
        "image_sha256": f"{sequence}{index}",
        "points": None,
        "points_sha256": None,
        "num_points": None,
        "num_dropped": None,
        "depth": None,
        "depth_sha256": None,
        "depth_scale": None,
        "intrinsics": (700.0, 0.0, 600.0, 0.0, 700.0, 170.0, 0.0, 0.0, 1.0),
        "height": 375,
        "width": 1242,
        "lens": None,
        "distortion": None,
        "lidar_to_camera": None,
    }
    picture = bytes((7 * index + 13 * place + 5 * sum(sequence.encode())) % 256 for place in range(512))
    return FrameFacts(
        row=cast(FrameRow, values | row),
        split=split,
        thumbnail=picture,
        contrast=50.0,
        is_grey=False,
        is_misnamed=False,
        outside=False,
        depth=depth,
    )


def survey(measured: Sequence[FrameFacts], total: int | None = None, **settings: Any) -> Survey:
    """A source that holds these frames, listed so often that there are `total`."""
    listed: list[tuple[Frame | Rejected, str]] = [
        (Frame(each.sample_id, "made", each.sequence, Path("i.png"), (1.0,) * 9), each.split) for each in measured
    ]
    if total is not None:
        listed = [listed[0]] * total
    source = any_source(**{"kind": "kitti_object", **settings})
    return Survey(source, PairConfig(), Path("root"), False, listed, measured, list(measured), [])
