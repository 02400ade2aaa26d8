"""Synthetic frames of KITTI's size, as files and as shards."""

from pathlib import Path

from benchmarks.recipes import Folder
from simipu_core.config import PairConfig, SyntheticConfig
from simipu_core.config.section import Size
from simipu_core.data.sources.kitti_depth import KittiDepth
from simipu_core.data.sources.kitti_object import KittiObject
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from simipu_core.synthetic import synthesize

_OBJECTS = KittiObject()
_DRIVES = KittiDepth(split="by_sequence", train_share=0.99)


def render(folder: Path, num_frames: int, size: Size = (375, 1242), points: int = 120_000) -> Folder:
    """Render as many object frames, and as many training frames with ground truth, by default as large as KITTI's."""
    world = SyntheticConfig(
        object_frames=num_frames,
        drives=num_frames + 1,  # the last one is for evaluation
        frames_per_drive=1,
        image_size=size,
        lidar_points=points,
    )
    synthesize(world, folder)
    return Folder(
        images=sorted(folder.glob("kitti_object/training/image_2/*.png")),
        scans=sorted(folder.glob("kitti_object/training/velodyne/*.bin")),
        calibrations=sorted(folder.glob("kitti_object/training/calib/*.txt")),
        depths=[],
    )


def depth_files(folder: Path, num_frames: int) -> Folder:
    """The training frames with ground truth."""
    return Folder(
        images=sorted(folder.glob("kitti_raw/*/*/image_02/data/*.png"))[:num_frames],
        depths=sorted(folder.glob("kitti_depth/**/groundtruth/image_02/*.png"))[:num_frames],
        scans=[],
        calibrations=[],
    )


def pack(raw: Path, out: Path, config: PairConfig) -> tuple[Path, Path]:
    """Pair and depth shards of what was rendered."""
    for name, source, target in (("pairs", _OBJECTS, "pairs"), ("depth", _DRIVES, "depth")):
        ingest(source, out / f"{name}_frames", root=str(raw))
        pair(out / f"{name}_frames", config, target, out / name)  # type: ignore[arg-type]
    return out / "pairs", out / "depth"
