"""Valid data sets of every kind of source, and how their parts are reached to be damaged."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from simipu_core.data.sources import Source
from simipu_core.synthetic import logs
from tests.data import files
from tests.sources import any_source
from tests.worlds import World, nuscenes, synthesize
from tests.worlds.nyu_labelled import FILE as LABELLED

Part = Literal["image", "scan", "depth", "calibration", "times"]
Edit = Callable[[NDArray[np.float64]], NDArray[np.float64]]

WORLD = World(
    object_frames=6,
    drives=2,
    frames_per_drive=3,
    rooms=1,
    waymo_segments=2,
    waymo_frames=3,
    nuscenes_scenes=2,
    nuscenes_frames=3,
    labelled_images=8,
    logs=2,
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
        "nuscenes_scenes": ("nuscenes",),
        "labelled_images": ("nyu_labelled",),
        "logs": ("logs",),
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


def decoded(data: bytes) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of an image file."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


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

    def source(self, **settings: Any) -> Source:
        return any_source(kind=self.kind, **self.settings, **settings)

    def read(self, root: Path, part: Part, of: Literal["victim", "other"] = "victim") -> bytes:
        return (root / (self.parts if of == "victim" else self.other)[part]).read_bytes()

    def write(self, root: Path, part: Part, data: bytes) -> None:
        (root / self.parts[part]).write_bytes(data)

    def edit_image(self, root: Path, edit: Callable[[NDArray[np.uint8]], NDArray[np.unsignedinteger]]) -> None:
        old = self.read(root, "image")
        suffix = ".png" if old.startswith(b"\x89PNG") else ".jpg"
        self.write(root, "image", bytes(cv2.imencode(suffix, edit(decoded(old)))[1]))

    def edit_depth(self, root: Path, edit: Callable[[NDArray[np.uint16]], NDArray[np.integer]]) -> None:
        values = cv2.imdecode(np.frombuffer(self.read(root, "depth"), np.uint8), cv2.IMREAD_UNCHANGED)
        self.write(root, "depth", bytes(cv2.imencode(".png", edit(np.asarray(values, np.uint16)))[1]))

    def remove_depth(self, root: Path) -> None:
        (root / self.parts["depth"]).unlink()

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

    def swap_times(self, root: Path) -> None:
        """Exchange the times of the victim and of the frame after it."""
        file = root / self.parts["times"]
        lines = file.read_text().splitlines()
        lines[1], lines[2] = lines[2], lines[1]
        file.write_text("\n".join(lines) + "\n")

    def spoil_time(self, root: Path) -> None:
        file = root / self.parts["times"]
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0], "yesterday at noon", *lines[2:]]) + "\n")

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


class NuscenesDataSet(DataSet):
    """nuScenes: calibration and times are records of tables; the camera is CAM_FRONT."""

    def edit_extrinsics(self, root: Path, edit: Edit) -> None:
        rows = self._rows(root, "calibration")
        for row in self._of_channel(root, rows, "CAM_FRONT"):
            w, x, y, z = row["rotation"]
            turned = edit(Rotation.from_quat([x, y, z, w]).as_matrix().T).T  # the record holds camera to vehicle
            x, y, z, w = Rotation.from_matrix(turned).as_quat().tolist()
            row["rotation"] = [w, x, y, z]
        self._save(root, "calibration", rows)

    def scale_rotation(self, root: Path, factor: float) -> None:
        """Give the camera's quaternions another length."""
        rows = self._rows(root, "calibration")
        for row in self._of_channel(root, rows, "CAM_FRONT"):
            row["rotation"] = [factor * value for value in row["rotation"]]
        self._save(root, "calibration", rows)

    def swap_cameras(self, root: Path) -> None:
        rows = self._rows(root, "calibration")
        pairs = zip(
            self._of_channel(root, rows, "CAM_FRONT"), self._of_channel(root, rows, "CAM_FRONT_LEFT"), strict=True
        )
        for mine, other in pairs:
            for name in ("rotation", "translation", "camera_intrinsic"):
                mine[name], other[name] = other[name], mine[name]
        self._save(root, "calibration", rows)

    def spoil_calibration(self, root: Path, spoil: Literal["drop", "nan"]) -> None:
        rows = self._rows(root, "calibration")
        row = self._of_channel(root, rows, "CAM_FRONT")[0]
        if spoil == "drop":
            del row["camera_intrinsic"]
        else:
            row["camera_intrinsic"] = [[float("nan")] * 3] * 3
        self._save(root, "calibration", rows)

    def swap_times(self, root: Path) -> None:
        rows = self._rows(root, "times")
        mine, other = (
            next(row for row in rows if self.parts["image"].endswith(row["filename"])),
            next(row for row in rows if self.other["image"].endswith(row["filename"])),
        )
        mine["timestamp"], other["timestamp"] = other["timestamp"], mine["timestamp"]
        self._save(root, "times", rows)

    def spoil_time(self, root: Path) -> None:
        rows = self._rows(root, "times")
        next(row for row in rows if self.parts["image"].endswith(row["filename"]))["timestamp"] = "yesterday at noon"
        self._save(root, "times", rows)

    def _of_channel(self, root: Path, rows: list[dict[str, Any]], channel: str) -> list[dict[str, Any]]:
        """Records of a sensor, one a scene, in the order of the scenes."""
        sensors = json.loads((root / self.parts["calibration"]).with_name("sensor.json").read_text())
        (token,) = (row["token"] for row in sensors if row["channel"] == channel)
        return [row for row in rows if row["sensor_token"] == token]

    def _rows(self, root: Path, part: Part) -> list[dict[str, Any]]:
        return list(json.loads((root / self.parts[part]).read_text()))

    def _save(self, root: Path, part: Part, rows: list[dict[str, Any]]) -> None:
        (root / self.parts[part]).write_text(json.dumps(rows))


class NyuLabelledDataSet(DataSet):
    """NYU's labelled file: the parts of a frame are chunks of HDF5 variables, and all lie in one file."""

    victim, another = 3, 5
    variables: ClassVar[dict[Part, str]] = {"image": "images", "depth": "rawDepths"}

    def read(self, root: Path, part: Part, of: Literal["victim", "other"] = "victim") -> bytes:
        index = self.victim if of == "victim" else self.another
        with h5py.File(root / self.parts[part], "r") as hdf5:
            data = hdf5[self.variables[part]]
            return bytes(data.id.read_direct_chunk((index, *[0] * (data.ndim - 1)))[1])

    def write(self, root: Path, part: Part, data: bytes) -> None:
        with h5py.File(root / self.parts[part], "r+") as hdf5:
            variable = hdf5[self.variables[part]]
            variable.id.write_direct_chunk((self.victim, *[0] * (variable.ndim - 1)), data)

    def edit_image(self, root: Path, edit: Callable[[NDArray[np.uint8]], NDArray[np.unsignedinteger]]) -> None:
        with h5py.File(root / self.parts["image"], "r+") as hdf5:
            images = hdf5["images"]
            images[self.victim] = edit(images[self.victim].T).T

    def edit_depth(self, root: Path, edit: Callable[[NDArray[np.uint16]], NDArray[np.integer]]) -> None:
        """Where the type or size changes, that of the whole variable does."""
        with h5py.File(root / self.parts["depth"], "r+") as hdf5:
            depths = hdf5["rawDepths"]
            old = np.rint(depths[()] * 1000).astype(np.uint16)
            new = edit(old[self.victim].T).T
            if new.dtype == old.dtype and new.shape == old.shape[1:]:
                depths[self.victim] = new / np.float32(1000)
            else:
                del hdf5["rawDepths"]
                all_new = np.stack([edit(each.T).T for each in old])
                hdf5["rawDepths"] = all_new if new.dtype != old.dtype else all_new / np.float32(1000)

    def spoil_depth(self, root: Path, value: float) -> None:
        """Give one pixel another depth, metres."""
        with h5py.File(root / self.parts["depth"], "r+") as hdf5:
            hdf5["rawDepths"][self.victim, 320, 240] = value

    def remove_depth(self, root: Path) -> None:
        with h5py.File(root / self.parts["depth"], "r+") as hdf5:
            del hdf5["rawDepths"]


class LogsDataSet(DataSet):
    """Own logs: calibration is YAML, and times are names of files."""

    def edit_extrinsics(self, root: Path, edit: Edit) -> None:
        for file in root.glob(self.calibrations):
            values = yaml.safe_load(file.read_text())
            matrix = np.array(values["cameras"][logs.CAMERA]["lidar_to_camera"]["matrix"])
            matrix[:3, :3] = edit(matrix[:3, :3])
            values["cameras"][logs.CAMERA]["lidar_to_camera"]["matrix"] = matrix.tolist()
            file.write_text(yaml.safe_dump(values))

    def spoil_calibration(self, root: Path, spoil: Literal["drop", "nan"]) -> None:
        file = root / self.parts["calibration"]
        values = yaml.safe_load(file.read_text())
        if spoil == "drop":
            del values["cameras"][logs.CAMERA]["fx"]
        else:
            values["cameras"][logs.CAMERA]["fx"] = float("nan")
        file.write_text(yaml.safe_dump(values))

    def spoil_time(self, root: Path) -> None:
        file = root / self.parts["times"]
        file.rename(file.with_stem("yesterday_at_noon"))


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
    from tests.worlds.waymo import segment_name

    name = f"{segment_name(0)}.parquet"
    folders: dict[Part, str] = {"image": "camera_image", "scan": "lidar", "calibration": "camera_calibration"}
    return {part: f"waymo/training/{folder}/{name}" for part, folder in folders.items()}


def _keyframe(frame: int) -> dict[Part, str]:
    (front,) = (mount for mount in nuscenes.MOUNTS if mount.channel == "CAM_FRONT")
    return {
        "image": f"nuscenes/{nuscenes.file_name(front.channel, 0, frame, front.delay)}",
        "scan": f"nuscenes/{nuscenes.file_name(nuscenes.LIDAR, 0, frame)}",
        "calibration": f"nuscenes/{nuscenes.VERSION}/calibrated_sensor.json",
        "times": f"nuscenes/{nuscenes.VERSION}/sample_data.json",
    }


def _log(frame: int) -> dict[Part, str]:
    folder = f"logs/{logs.sequence_name(0)}"
    image, scan = (f"{folder}/{name}" for name in logs.file_names(0, frame))
    return {"image": image, "scan": scan, "calibration": f"{folder}/calibration.yaml", "times": image}


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
    NuscenesDataSet("nuscenes", _keyframe(1), _keyframe(2), folders=("nuscenes",), columns=5),
    NyuLabelledDataSet(
        "nyu_labelled",
        {"image": f"nyu_labelled/{LABELLED}", "depth": f"nyu_labelled/{LABELLED}"},
        {},
        folders=("nyu_labelled",),
        target="depth",
        settings={"split": "nyu_official"},
    ),
    LogsDataSet("logs", _log(1), _log(2), folders=("logs",), calibrations="logs/*/calibration.yaml", columns=5),
)
"""One entry for each kind of source that is no mixture of others."""
