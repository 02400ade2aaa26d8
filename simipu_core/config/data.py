"""Sections of the data: the synthetic world, sources, packing."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from simipu_core.config.section import Range, Section, Size

_DEFAULT_ROOT = "data/raw"


class SyntheticConfig(Section):
    """The ray-cast world that `simipu synthesize` renders to genuine KITTI, NYU, Waymo and nuScenes files."""

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
    nuscenes_scenes: int = Field(0, ge=0)
    """Number of drives written as nuScenes tables and samples, with six cameras and LIDAR_TOP."""
    nuscenes_frames: int = Field(4, ge=1)
    """Keyframes of each nuScenes scene, half a second apart; the vehicle moves between scan and images."""
    labelled_images: int = Field(0, ge=0)
    """Number of room images written to a labelled NYU file (480×640), four of each room."""
    logs: int = Field(0, ge=0)
    """Number of drives written in the layout of own logs, with `frames_per_drive` frames each; the scan's format
    changes from drive to drive: .bin, .npy, .pcd, .parquet, .las."""
    image_size: Size = (96, 320)
    """Height and width of the street camera's image, pixels."""
    lidar_points: int = Field(20000, ge=640)
    """LiDAR rays of one full turn over all 64 beams; drop-outs and sky leave somewhat fewer points."""
    seed: int = Field(0, ge=0)
    """Seed of the world; the same seed gives the same files."""


_WaymoCamera = Literal["front", "front_left", "front_right", "side_left", "side_right"]
_NuscenesCamera = Literal["front", "front_left", "front_right", "back", "back_left", "back_right"]
_CAMERAS = {"waymo": _WaymoCamera, "waymo_kitti": _WaymoCamera, "nuscenes": _NuscenesCamera}
WaymoLidar = Literal["top", "front", "side_left", "side_right", "rear"]


class SourceConfig(Section):
    """Where raw frames come from and how they are split."""

    kind: Literal[
        "mixed",
        "kitti",
        "kitti_object",
        "kitti_raw",
        "kitti_depth",
        "nyu",
        "nyu_labelled",
        "waymo",
        "waymo_kitti",
        "nuscenes",
        "logs",
    ] = "kitti"
    """Layout: `kitti` reads kitti_object/ and kitti_raw/ together; `kitti_depth` is raw images with official
    ground truth in kitti_depth/; `nyu` is the sync folders, `nyu_labelled` the .mat file of 1,449 images; `waymo` is
    the Waymo Open Dataset v2 in Parquet; `waymo_kitti` is a conversion of Waymo to the KITTI object layout;
    `nuscenes` is the keyframes of nuScenes v1.0; `logs` is own recordings (docs/data.md); `mixed` reads several, listed
    in `sources`."""
    sources: tuple["SourceConfig", ...] = ()
    """With `mixed`: what is read together, each with its own kind and settings, all below the one `root`. How often
    training sees each is a matter of its `source_weights`."""
    root: str = _DEFAULT_ROOT
    """Folder, or s3://bucket/prefix, that holds the layout's folder, which is named like the kind (kitti_object/, nyu/,
    …), or that folder itself."""
    drives_only: bool = False
    """With `kitti`: read the object frames only where there is no raw drive."""
    frames: Literal["training", "train_half", "train_half_and_testing"] = "training"
    """With `kitti_object`: all 7,481 frames of training/; the 3,712 of them that ImageSets/train.txt lists (the
    published choice); or those and the 7,518 of testing/, 11,230 in all."""
    camera: Literal[_WaymoCamera, _NuscenesCamera] = "front"
    """With `waymo`, `waymo_kitti` and `nuscenes`: the camera whose images are read; the side ones are Waymo's, the
    back ones nuScenes'."""
    lidars: tuple[WaymoLidar, ...] = Field(get_args(WaymoLidar), min_length=1)
    """With `waymo`: the LiDARs whose points are read."""
    returns: Literal["both", "first"] = "both"
    """With `waymo`: the returns of each pulse that are read."""
    lists: tuple[str, ...] = ()
    """With `nyu`: text files below the root that list the frames to read, one a line: image, depth map and, perhaps,
    focal length, apart by spaces or commas, such as nyudepthv2_train_files_with_gt.txt. None: all frames are read."""
    depth: Literal["raw", "in_painted"] = "raw"
    """With `nyu_labelled`: depth as measured, with holes, or with its holes filled by the data set's authors."""
    log_cameras: tuple[str, ...] = ()
    """With `logs`: the cameras whose images are read, by folder name; empty: all."""
    log_lidar: str | None = None
    """With `logs`: the LiDAR whose scans are read, by folder name; may be left out where there is one."""
    every: int = Field(1, ge=1)
    """Read every so many-th frame, counted over all sequences in order (published for Waymo: 5)."""
    split: Literal["none", "eigen", "nyu_official", "within_sequence", "by_sequence", "folders"] = "none"
    """`none`: all frames train · `eigen`: the Eigen split of KITTI raw · `nyu_official`: 795 of the labelled NYU
    images train, 654 evaluate · `within_sequence`: the first
    `train_share` of each sequence trains, the rest evaluates · `by_sequence`: whole sequences ·
    `folders`: what lies under a folder called `test` evaluates (NYU official_splits)."""
    train_share: float = Field(2 / 3, gt=0, lt=1)
    """Share of frames or sequences that train, for `within_sequence` and `by_sequence`."""
    max_broken_share: float = Field(0.05, ge=0, le=1)
    """Largest tolerated share of broken frames, 0–1; more stops the step."""

    @model_validator(mode="after")
    def _choices_fit_the_kind(self) -> Self:
        if (self.kind == "mixed") != bool(self.sources):
            raise ValueError("kind: mixed and a list of sources go together")
        mixed = [source.kind for source in self.sources]
        if "mixed" in mixed or len(set(mixed)) < len(mixed):
            raise ValueError("sources must be of different kinds, none of them mixed")
        if any(source.root != _DEFAULT_ROOT for source in self.sources):
            raise ValueError("sources have no root of their own; all lie below the root of the mixed source")
        kinds = {
            "frames": ("kitti_object",),
            "camera": tuple(_CAMERAS),
            "lidars": ("waymo",),
            "returns": ("waymo",),
            "lists": ("nyu",),
            "depth": ("nyu_labelled",),
            "log_cameras": ("logs",),
            "log_lidar": ("logs",),
        }
        for name, fitting in kinds.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and self.kind not in fitting:
                shown = ", ".join(value) if isinstance(value, tuple) else value
                raise ValueError(f"{name}: {shown} goes with kind: {' or '.join(fitting)} only, not {self.kind}")
        cameras = get_args(_CAMERAS.get(self.kind, _WaymoCamera))
        if self.camera not in cameras:
            raise ValueError(f"camera: {self.camera} is none of kind: {self.kind}, which has {', '.join(cameras)}")
        if self.split == "nyu_official" and self.kind != "nyu_labelled":
            raise ValueError(f"split: nyu_official goes with kind: nyu_labelled only, not {self.kind}")
        return self

    @property
    def parts(self) -> tuple["SourceConfig", ...]:
        """The sources that are read: this one, or those that it mixes."""
        return self.sources or (self,)


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
