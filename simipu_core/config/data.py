"""Sections of the data: the synthetic world, sources, packing."""

from typing import Literal, Self

from pydantic import Field, model_validator

from simipu_core.config.section import Range, Section, Size


class SyntheticConfig(Section):
    """The ray-cast world that `simipu synthesize` renders to genuine KITTI, NYU and Waymo files."""

    object_frames: int = Field(256, ge=0)
    """Number of independent street scenes written in the KITTI object layout."""
    drives: int = Field(8, ge=0)
    """Number of drives written in the KITTI raw layout with official-style depth ground truth."""
    frames_per_drive: int = Field(24, ge=1)
    """Frames of each drive; the camera moves between them."""
    rooms: int = Field(0, ge=0)
    """Number of furnished rooms written in the NYU sync layout (480×640)."""
    waymo_segments: int = Field(0, ge=0)
    """Number of drives written as Waymo v2 Parquet components, with one TOP and one short-range LiDAR."""
    waymo_frames: int = Field(8, ge=1)
    """Frames of each Waymo segment; the vehicle moves between and within them."""
    logs: int = Field(0, ge=0)
    """Number of drives written in the layout of own logs, with `frames_per_drive` frames each; the scan's format
    changes from drive to drive: .bin, .npy, .pcd, .parquet, .las."""
    image_size: Size = (96, 320)
    """Height and width of the street camera's image, pixels."""
    lidar_points: int = Field(20000, ge=640)
    """LiDAR rays of one full turn over all 64 beams; drop-outs and sky leave somewhat fewer points."""
    seed: int = Field(0, ge=0)
    """Seed of the world; the same seed gives the same files."""


class SourceConfig(Section):
    """Where raw frames come from and how they are split."""

    kind: Literal["kitti", "kitti_object", "kitti_raw", "kitti_depth", "nyu", "waymo", "waymo_kitti", "logs"] = "kitti"
    """Layout: `kitti` reads kitti_object/ and kitti_raw/ together; `kitti_depth` is raw images with official
    ground truth in kitti_depth/; `nyu` is the sync folders; `waymo` is the Waymo Open Dataset v2 in Parquet;
    `waymo_kitti` is a conversion of Waymo to the KITTI object layout; `logs` is own recordings (docs/data.md)."""
    root: str = "data/raw"
    """Folder that holds the layout's folder, which is named like the kind (kitti_object/, nyu/, …), or that folder
    itself."""
    drives_only: bool = False
    """With `kitti`: read the object frames only where there is no raw drive."""
    frames: Literal["training", "train_half", "train_half_and_testing"] = "training"
    """With `kitti_object`: all 7,481 frames of training/; the 3,712 of them that ImageSets/train.txt lists (the
    published choice); or those and the 7,518 of testing/, 11,230 in all."""
    camera: Literal["front", "front_left", "front_right", "side_left", "side_right"] = "front"
    """With `waymo` and `waymo_kitti`: the camera whose images are read."""
    log_cameras: tuple[str, ...] = ()
    """With `logs`: the cameras whose images are read, by folder name; empty: all."""
    log_lidar: str | None = None
    """With `logs`: the LiDAR whose scans are read, by folder name; may be left out where there is one."""
    every: int = Field(1, ge=1)
    """Read every so many-th frame, counted over all sequences in order (published for Waymo: 5)."""
    split: Literal["none", "eigen", "within_sequence", "by_sequence", "folders"] = "none"
    """`none`: all frames train · `eigen`: the Eigen split of KITTI raw · `within_sequence`: the first
    `train_share` of each sequence trains, the rest evaluates · `by_sequence`: whole sequences ·
    `folders`: what lies under a folder called `test` evaluates (NYU official_splits)."""
    train_share: float = Field(2 / 3, gt=0, lt=1)
    """Share of frames or sequences that train, for `within_sequence` and `by_sequence`."""
    max_broken_share: float = Field(0.05, ge=0, le=1)
    """Largest tolerated share of broken frames, 0–1; more stops the step."""

    @model_validator(mode="after")
    def _choices_fit_the_kind(self) -> Self:
        if self.frames != "training" and self.kind != "kitti_object":
            raise ValueError(f"frames: {self.frames} goes with kind: kitti_object only, not {self.kind}")
        if self.camera != "front" and self.kind not in ("waymo", "waymo_kitti"):
            raise ValueError(f"camera: {self.camera} goes with kind: waymo or waymo_kitti only, not {self.kind}")
        if (self.log_cameras or self.log_lidar) and self.kind != "logs":
            raise ValueError(f"log_cameras and log_lidar go with kind: logs only, not {self.kind}")
        return self


class PairConfig(Section):
    """How frames become self-contained shards."""

    image_encoding: Literal["source", "jpeg", "raw"] = "source"
    """`source` keeps the camera's file bytes · `jpeg` re-encodes at quality 95 (a third of a PNG, read twice as fast,
    not lossless) · `raw` keeps the pixels of images and depth maps, with LZ4 (lossless, 1.8 times a PNG, read three
    times as fast)."""
    depth_from: Literal["official", "projected_lidar"] = "official"
    """Depth labels: official ground-truth files, or the LiDAR scan projected with occlusion removed."""
    depth_range: Range = (0.001, 100.0)
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
