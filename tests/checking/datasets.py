"""Valid data sets of every kind of source, and how their parts are reached to be damaged."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simipu_core.config import SourceConfig, SyntheticConfig
from simipu_core.synthetic import synthesize
from tests.data import files

Part = Literal["image", "scan", "depth", "calibration", "times"]
Edit = Callable[[NDArray[np.float64]], NDArray[np.float64]]

WORLD = SyntheticConfig(
    object_frames=6,
    drives=2,
    frames_per_drive=3,
    rooms=1,
    waymo_segments=2,
    waymo_frames=3,
    image_size=(96, 320),
    lidar_points=20000,
)


def make_world(out: Path, *folders: str) -> None:
    """One folder that holds all the layouts, or those that are named; a file is the same in either."""
    needs = {
        "object_frames": ("kitti_object", "waymo_kitti"),
        "drives": ("kitti_raw", "kitti_depth"),
        "rooms": ("nyu",),
        "waymo_segments": ("waymo",),
    }
    absent = {part: 0 for part, layouts in needs.items() if folders and not set(layouts) & set(folders)}
    synthesize(WORLD.model_copy(update=absent), out, workers=0)
    if "object_frames" not in absent:
        _make_waymo_kitti(out)


def _make_waymo_kitti(out: Path) -> None:
    source, made = out / "kitti_object/training", out / "waymo_kitti/training"
    for index in range(WORLD.object_frames):
        name = f"0{index // 3:03d}{index % 3:03d}"
        scan = np.fromfile(source / f"velodyne/{index:06d}.bin", "<f4").reshape(-1, 4)
        scan[:, 3] = np.arctanh(scan[:, 3].clip(0, 0.999))
        six = np.concatenate([scan, np.zeros((len(scan), 2), np.float32)], axis=1)
        files.write(made / f"velodyne/{name}.bin", six.astype("<f4").tobytes())
        files.write(made / f"image_0/{name}.png", (source / f"image_2/{index:06d}.png").read_bytes())
        text = (source / f"calib/{index:06d}.txt").read_text()
        lines = dict(line.split(": ", 1) for line in text.splitlines() if line)
        lines |= {"P0": lines["P2"], "P1": lines["P3"], "Tr_velo_to_cam_0": lines["Tr_velo_to_cam"]}
        files.write(made / f"calib/{name}.txt", "".join(f"{label}: {rest}\n" for label, rest in lines.items()))


@dataclass(frozen=True)
class DataSet:
    """A kind of source whose parts are single files; one frame of it is the victim."""

    kind: str
    parts: dict[Part, str]
    """Files of the victim."""
    other: dict[Part, str]
    """The same parts of another frame."""
    folders: tuple[str, ...]
    """What of the world it needs."""
    target: Literal["pairs", "depth"] = "pairs"
    settings: dict[str, Any] = field(default_factory=dict)
    projections: tuple[str, str] = ("P2", "P3")
    """Calibration lines of the camera and of its neighbour."""
    extrinsics: str = "Tr_velo_to_cam"
    calibrations: str = ""
    """Glob of all calibration files with the extrinsics."""
    columns: int = 4
    """Floats of a point."""

    @property
    def name(self) -> str:
        return self.kind

    def source(self, **settings: Any) -> SourceConfig:
        return SourceConfig.model_validate({"kind": self.kind, **self.settings, **settings})

    def read(self, root: Path, part: Part, of: Literal["victim", "other"] = "victim") -> bytes:
        return (root / (self.parts if of == "victim" else self.other)[part]).read_bytes()

    def write(self, root: Path, part: Part, data: bytes) -> None:
        (root / self.parts[part]).write_bytes(data)

    def edit_points(self, root: Path, edit: Callable[[NDArray[np.float32]], None]) -> None:
        points = np.frombuffer(self.read(root, "scan"), "<f4").reshape(-1, self.columns).copy()
        edit(points)
        self.write(root, "scan", points.tobytes())

    def edit_extrinsics(self, root: Path, edit: Edit) -> None:
        """Replace the rotation (3, 3) from scanner to camera of all frames."""
        for file in root.glob(self.calibrations):
            self._edit_line(file, self.extrinsics, edit)

    def swap_cameras(self, root: Path) -> None:
        """Give the camera's calibration to its neighbour, for all frames."""
        one, other = self.projections
        for file in root.glob(str(Path(self.calibrations).parent / Path(self.parts["calibration"]).name[:1]) + "*.txt"):
            text = file.read_text()
            if f"{one}: " in text:
                swapped = text.replace(f"{one}: ", "#: ").replace(f"{other}: ", f"{one}: ").replace("#: ", f"{other}: ")
                file.write_text(swapped)

    def spoil_calibration(self, root: Path, spoil: Literal["drop", "nan"]) -> None:
        file = root / self.parts["calibration"]
        label = f"{self.projections[0]}: "
        lines = file.read_text().splitlines(keepends=True)
        nan = label + "nan " * 12 + "\n"
        file.write_text("".join((nan if spoil == "nan" else "") if s.startswith(label) else s for s in lines))

    def _edit_line(self, file: Path, label: str, edit: Edit) -> None:
        lines = file.read_text().splitlines()
        for index, line in enumerate(lines):
            if line.startswith(f"{label}: "):
                matrix = np.array(line.split()[1:], float).reshape(3, -1)
                matrix[:, :3] = edit(matrix[:, :3])
                lines[index] = f"{label}: " + " ".join(repr(float(value)) for value in matrix.ravel())
        file.write_text("\n".join(lines) + "\n")


class WaymoDataSet(DataSet):
    """Waymo v2: the parts of a frame are cells of Parquet components, the victim is the first row."""

    def read(self, root: Path, part: Part, of: Literal["victim", "other"] = "victim") -> bytes:
        return bytes(self._cells(root / self.parts[part])[0 if of == "victim" else 1])

    def write(self, root: Path, part: Part, data: bytes) -> None:
        self._edit(root / self.parts[part], "[CameraImageComponent].image", lambda cells: [data, *cells[1:]])

    def edit_points(self, root: Path, edit: Callable[[NDArray[np.float32]], None]) -> None:
        def change(cells: list[Any]) -> list[Any]:
            image = np.array(cells[0], np.float32).reshape(-1, 4)
            edit(image)
            return [image.ravel().tolist(), *cells[1:]]

        self._edit(root / self.parts["scan"], "[LiDARComponent].range_image_return1.values", change)

    def edit_extrinsics(self, root: Path, edit: Edit) -> None:
        def change(cells: list[Any]) -> list[Any]:
            matrices = [np.reshape(cell, (4, 4)).astype(float) for cell in cells]
            for matrix in matrices:
                matrix[:3, :3] = edit(matrix[:3, :3].T).T  # the file holds camera to vehicle
            return [matrix.ravel().tolist() for matrix in matrices]

        for file in root.glob(self.calibrations):
            self._edit(file, "[CameraCalibrationComponent].extrinsic.transform", change)

    def spoil_calibration(self, root: Path, spoil: Literal["drop", "nan"]) -> None:
        file, column = root / self.parts["calibration"], "[CameraCalibrationComponent].intrinsic.f_u"
        if spoil == "drop":
            pq.write_table(pq.read_table(file).drop_columns([column]), file)
        else:
            self._edit(file, column, lambda cells: [float("nan")] * len(cells))

    def _cells(self, file: Path) -> list[Any]:
        return list(pq.read_table(file)["[CameraImageComponent].image"].to_pylist())

    def _edit(self, file: Path, column: str, change: Callable[[list[Any]], list[Any]]) -> None:
        table = pq.read_table(file)
        index = table.schema.get_field_index(column)
        values = pa.array(change(table[column].to_pylist()), table.schema.field(index).type)
        pq.write_table(table.set_column(index, table.schema.field(index), values), file)


def _object(kind: str, images: str, names: tuple[str, str]) -> tuple[dict[Part, str], dict[Part, str]]:
    folder = f"{kind}/training"
    victim, other = (
        {
            "image": f"{folder}/{images}/{name}.png",
            "scan": f"{folder}/velodyne/{name}.bin",
            "calibration": f"{folder}/calib/{name}.txt",
        }
        for name in names
    )
    return victim, other  # type: ignore[return-value]


_DATE = "kitti_raw/2000_01_01"


def _drive(frame: int) -> dict[Part, str]:
    folder = f"{_DATE}/2000_01_01_drive_0000_sync"
    return {
        "image": f"{folder}/image_02/data/{frame:010d}.png",
        "scan": f"{folder}/velodyne_points/data/{frame:010d}.bin",
        "calibration": f"{_DATE}/calib_cam_to_cam.txt",
        "times": f"{folder}/image_02/timestamps.txt",
    }


def _truth(frame: int) -> dict[Part, str]:
    drive = "kitti_depth/train/2000_01_01_drive_0000_sync"
    return {**_drive(frame), "depth": f"{drive}/proj_depth/groundtruth/image_02/{frame:010d}.png"}


def _room(view: int) -> dict[Part, str]:
    return {"image": f"nyu/room_0000/rgb_{view:05d}.jpg", "depth": f"nyu/room_0000/sync_depth_{view:05d}.png"}


def _segment() -> dict[Part, str]:
    from simipu_core.synthetic.waymo import segment_name

    name = f"{segment_name(0)}.parquet"
    folders: dict[Part, str] = {"image": "camera_image", "scan": "lidar", "calibration": "camera_calibration"}
    return {part: f"waymo/training/{folder}/{name}" for part, folder in folders.items()}


_RAW: dict[str, Any] = {
    "projections": ("P_rect_02", "P_rect_03"),
    "extrinsics": "R",
    "calibrations": f"{_DATE}/calib_velo_to_cam.txt",
}

DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        "kitti_object",
        *_object("kitti_object", "image_2", ("000001", "000004")),
        folders=("kitti_object",),
        calibrations="kitti_object/training/calib/*.txt",
    ),
    DataSet("kitti_raw", _drive(1), _drive(2), folders=("kitti_raw",), **_RAW),
    DataSet(
        "kitti_depth",
        _truth(1),
        _truth(2),
        folders=("kitti_raw", "kitti_depth"),
        target="depth",
        settings={"split": "by_sequence"},
        **_RAW,
    ),
    DataSet("nyu", _room(1), _room(2), folders=("nyu",), target="depth", settings={"split": "within_sequence"}),
    WaymoDataSet(
        "waymo", _segment(), {}, folders=("waymo",), calibrations="waymo/training/camera_calibration/*.parquet"
    ),
    DataSet(
        "waymo_kitti",
        *_object("waymo_kitti", "image_0", ("0000001", "0001001")),
        folders=("waymo_kitti",),
        projections=("P0", "P1"),
        extrinsics="Tr_velo_to_cam_0",
        calibrations="waymo_kitti/training/calib/*.txt",
        columns=6,
    ),
)
"""One entry for each kind of source."""
