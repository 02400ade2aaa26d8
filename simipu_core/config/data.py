"""Sections of the data: the synthetic world, packing. Each source's stands with it in `data.sources`."""

from typing import Literal

from pydantic import Field

from simipu_core.config.section import DepthRange, Section, Seed, Size


class SyntheticConfig(Section):
    """The ray-cast world that `simipu synthesize` renders to genuine KITTI and NYU files, and to own logs."""

    object_frames: int = Field(256, ge=0)
    """Number of independent street scenes written in the KITTI object layout."""
    drives: int = Field(8, ge=0)
    """Number of drives written in the KITTI raw layout with official-style depth ground truth."""
    frames_per_drive: int = Field(24, ge=1)
    """Frames of each drive; the camera moves between them."""
    rooms: int = Field(0, ge=0)
    """Number of furnished rooms written in the NYU sync layout (480×640)."""
    logs: int = Field(0, ge=0)
    """Number of drives written in the layout of own logs, with `frames_per_drive` frames each; the scan's format
    changes from drive to drive: .bin, .npy, .pcd, .parquet, .las."""
    image_size: Size = (96, 320)
    """Height and width of the street camera's image, pixels."""
    lidar_points: int = Field(20000, ge=640)
    """LiDAR rays of one full turn over all 64 beams; drop-outs and sky leave somewhat fewer points."""
    seed: Seed = 0
    """Seed of the world; the same seed gives the same files."""


class PairConfig(Section):
    """How frames become self-contained shards."""

    image_encoding: Literal["source", "jpeg", "raw"] = "source"
    """`source` keeps the camera's file bytes · `jpeg` re-encodes at quality 95 (a third of a PNG, read twice as fast,
    not lossless) · `raw` keeps the pixels of images and depth maps, with LZ4 (lossless, 1.8 times a PNG, read three
    times as fast)."""
    depth_from: Literal["official", "projected_lidar"] = "official"
    """Depth labels: official ground-truth files, or the LiDAR scan projected with occlusion removed."""
    depth_range: DepthRange = (0.001, 100.0)
    """Depths kept, metres along the optical axis, exclusive."""
    min_points: int = Field(256, ge=1)
    """Fewest LiDAR points inside the image for a frame to be usable."""
    max_sync_ms: float = Field(50.0, gt=0)
    """Largest time difference between image and scan where both have timestamps, milliseconds."""
    occlusion_margin: float = Field(0.05, ge=0, lt=1)
    """A projected point is hidden when a neighbouring point is nearer by more than this share of its depth."""
    max_broken_share: float = Field(0.05, ge=0, le=1)
    """Largest tolerated share of frames that cannot be paired, 0–1; more stops the step."""
    rows_per_group: int = Field(16, ge=1, le=256)
    """Rows of one Parquet row group: the unit of shuffling and reading."""
    shard_mb: int = Field(384, ge=1)
    """Size at which a new shard file is begun, megabytes."""
