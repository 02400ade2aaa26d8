"""KITTI object and KITTI raw together: every image-LiDAR pair that KITTI has."""

from pathlib import Path
from typing import ClassVar, Literal

from simipu_core.config.data import SyntheticConfig
from simipu_core.data.frames import Listing
from simipu_core.data.sources.kitti_object import KittiObject
from simipu_core.data.sources.kitti_raw import KittiRaw
from simipu_core.data.sources.kitti_shared import KittiSource


class Kitti(KittiSource):
    """KITTI object and KITTI raw together, kitti_object/, kitti_raw/ or both; object frames come first."""

    kind: Literal["kitti"] = "kitti"
    drives_only: bool = False
    """Read the object frames only where there is no raw drive."""

    expected: ClassVar = "kitti_object/training/image_2 or kitti_raw/<date>/<drive>_sync/image_02"

    def find(self, root: Path) -> Path:
        """The root: the two layouts find themselves in it."""
        return root

    def each_frame(self, folder: Path) -> Listing:
        """Frames of both layouts."""
        objects, drives = KittiObject(), KittiRaw()
        objects_at, drives_at = objects.find(folder), drives.find(folder)
        if objects_at and not (drives_at and self.drives_only):
            yield from objects.each_frame(objects_at)
        if drives_at:
            yield from drives.each_frame(drives_at)

    def rendered(self, world: SyntheticConfig) -> list[str]:
        """Of what `simipu synthesize` writes."""
        drives = self.rendered_drives(world)
        objects = [] if self.split == "eigen" or (self.drives_only and drives) else ["objects"] * world.object_frames
        return objects + drives
