"""Waymo Open Dataset v2: ``waymo/[training/]<component>/<segment>.parquet`` (`formats.waymo_segments`).

Where the root has a folder ``training/`` it alone is read; name another split's folder to read that.

The published "1/5 Waymo" is every fifth of the 158,081 training frames, 31,617; the 31,632 of its table is that, filled
up by repeated frames to whole batches of 24.
"""

from pathlib import Path
from typing import ClassVar, Literal, get_args

from pydantic import Field

from simipu_core.data.formats.scans import Scan
from simipu_core.data.frames import Frame, Listing
from simipu_core.data.sources.base import Found, Official, Source, Typical
from simipu_core.errors import SimipuError

Camera = Literal["front", "front_left", "front_right", "side_left", "side_right"]
Lidar = Literal["top", "front", "side_left", "side_right", "rear"]
LICENCE = "Waymo Dataset License Agreement for Non-Commercial Use"
TYPICAL = Typical((1280, 1920), 490_000, 490_000, 380_000, 0, 100_000)
TRAINING_FRAMES = 158_081
_TRAINING_SEGMENTS, _VALIDATION_SEGMENTS = 798, 202


class Waymo(Source):
    """Waymo Open Dataset v2 in Parquet, waymo/: drives with five cameras and five LiDARs, without depth maps."""

    kind: Literal["waymo"] = "waymo"
    camera: Camera = "front"
    """The camera whose images are read."""
    lidars: tuple[Lidar, ...] = Field(get_args(Lidar), min_length=1)
    """The LiDARs whose points are read."""
    returns: Literal["both", "first"] = "both"
    """The returns of each pulse that are read."""

    expected: ClassVar = "waymo/[training/]camera_image/<segment>.parquet"
    licence: ClassVar = LICENCE
    typical: ClassVar = TYPICAL

    def find(self, root: Path) -> Path | None:
        """Folder of the components at or below the root, if there.

        Raises:
            SimipuError: there are only the tfrecord files of v1.
        """
        folders = (root / self.kind / "training", root / self.kind, root / "training", root)
        found = next((folder for folder in folders if any((folder / "camera_image").glob("[!.]*.parquet"))), None)
        if found is None and any(root.rglob("*.tfrecord")):
            raise SimipuError(
                f"{root}: holds Waymo v1 .tfrecord files, which are not read; download the same segments as v2 Parquet "
                "components (camera_image, camera_calibration, lidar, lidar_calibration, lidar_pose, vehicle_pose; "
                "bucket waymo_open_dataset_v_2_0_1)."
            )
        return found

    def each_frame(self, folder: Path) -> Listing:
        """Frames of the camera in all segments, by segment name and time; what cannot be listed is Rejected."""
        from simipu_core.data.formats.waymo_segments import segment_frames

        return segment_frames(folder, self.kind, self.camera, self.lidars, self.returns)

    @classmethod
    def read_file(cls, file: Path) -> bytes:
        """An image record, as JPEG."""
        from simipu_core.data.formats.waymo_segments import read_image

        return read_image(file)

    @classmethod
    def read_scan(cls, file: Path) -> Scan:
        """The points of a LiDAR record: the LiDARs and returns that its reference names, TOP first."""
        from simipu_core.data.formats.waymo_segments import read_scan

        return read_scan(file)

    @classmethod
    def container(cls, file: Path) -> Path:
        """The component of a record."""
        return file.with_name(file.name.partition("#")[0])

    def official(self, found: Found, root: Path) -> list[Official]:
        """Segments and frames of the training split, or segments of the validation split."""
        return official_split(found, self.every)

    def published(self) -> tuple[int, int] | None:
        """Frames of the training split."""
        return (self.thinned(TRAINING_FRAMES), 0) if self.split == "none" else None


def official_split(found: Found, every: int) -> list[Official]:
    """Numbers of the split that the first frame lies in.

    Args:
        found: frames of one camera.
        every: which frames were listed, see `Source.every`.
    """
    segments = len({frame.sequence for frame in found})
    first = next((frame.image if isinstance(frame, Frame) else frame.file for frame in found), Path())
    if "validation" in first.parts:
        return [Official("Waymo validation segments", _VALIDATION_SEGMENTS, segments)]
    frames = f"Waymo training frames of one camera{f', every {every}th' if every > 1 else ''}"
    return [
        Official("Waymo training segments", _TRAINING_SEGMENTS, segments),
        Official(frames, -(-TRAINING_FRAMES // every), len(found)),
    ]
