"""What is written of predictions: pictures, arrays, clouds, videos, tables."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simipu_core.data.images import NO_DEPTH, encode_depth, encode_jpeg, encode_raw
from simipu_core.errors import SimipuError
from simipu_core.evaluation.panels import colour
from simipu_core.files import put_in_place, write_file
from simipu_core.prediction.inputs import Clip
from simipu_core.prediction.intrinsics import Intrinsics
from simipu_core.prediction.videos import VideoWriter

DEPTH_SCALE = 256.0
"""Values of a metre in 16-bit PNG files, as KITTI has them."""
_FARTHEST = (NO_DEPTH - 1) / DEPTH_SCALE
_NOTES = MappingProxyType({"depth_scale": f"{DEPTH_SCALE:g}", "unit": "metres = value / 256; 0: no answer"})
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200)
_ROWS_PER_GROUP = 64
_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
_TABLE = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("intrinsics", pa.list_(pa.float64())),  # 3×3 row-major; null where they are not known
        pa.field("depth", pa.binary(), nullable=False),  # 16-bit PNG
        pa.field("depth_scale", pa.float64(), nullable=False),  # metres = value / depth_scale, 0 = no answer
    ]
)


class Save(StrEnum):
    """Kinds of outputs."""

    COLOUR = "colour"
    PNG = "png"
    NPY = "npy"
    PLY = "ply"
    VIDEO = "video"
    PARQUET = "parquet"


@dataclass(frozen=True)
class Prediction:
    """The depth of a frame, and what is needed to write it."""

    name: str
    source: str
    depth: NDArray[np.float32]
    """(H, W) metres, NaN where there is no answer."""
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    intrinsics: Intrinsics | None
    clip: Clip | None


def depth_png(depth: NDArray[np.float32]) -> bytes:
    """Depth (H, W), metres, as a 16-bit PNG that states its scale; 0 where there is no answer.

    What is farther than 16 bits tell, 256 m, is written as that.
    """
    return encode_depth(np.minimum(np.nan_to_num(depth), _FARTHEST), DEPTH_SCALE, _NOTES)


def legend(width: int, max_depth: float) -> NDArray[np.uint8]:
    """The colours of depths from 1 m to `max_depth` with their numbers, RGB (h, width, 3)."""
    bar = max(6, width // 60)
    size = max(0.35, width / 2400)
    (_, letters), _ = cv2.getTextSize("0", cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    depths = np.geomspace(1, max_depth, width, dtype=np.float32)
    picture = np.zeros((bar + 2 * letters, width, 3), np.uint8)
    picture[:bar] = colour(np.tile(depths, (bar, 1)), max_depth)
    free = 0
    for tick in (*(tick for tick in _TICKS if tick < max_depth), max_depth):
        words = f"{tick:g} m"
        (length, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        middle = round(np.log(tick) / np.log(max_depth) * (width - 1))
        start = min(max(middle - length // 2, 0), width - length)
        if start >= free:
            cv2.putText(picture, words, (start, bar + letters * 3 // 2), cv2.FONT_HERSHEY_SIMPLEX, size, (255,) * 3, 1)
            free = start + length + letters
    return picture


def coloured(depth: NDArray[np.float32], max_depth: float) -> NDArray[np.uint8]:
    """Depth (H, W), metres, in colours over their legend, RGB (h, W, 3); black where there is no answer."""
    return np.concatenate([colour(depth, max_depth), legend(depth.shape[1], max_depth)])


def beside(prediction: Prediction, max_depth: float) -> NDArray[np.uint8]:
    """Image and depth in colours side by side, or one below the other where they are wide; RGB."""
    height, width = prediction.depth.shape
    axis = 0 if width > 2 * height else 1
    parts = np.concatenate([prediction.image, colour(prediction.depth, max_depth)], axis)
    return np.concatenate([parts, legend(parts.shape[1], max_depth)])


def cloud(depth: NDArray[np.float32], image: NDArray[np.uint8], intrinsics: Intrinsics) -> bytes:
    """A coloured point cloud as binary .ply: metres in the camera's frame (x right, y down, z forward).

    Args:
        depth: (H, W) metres; pixels without an answer are left out.
        image: (H, W, 3) RGB.
        intrinsics: of the camera.
    """
    rows, columns = np.nonzero(np.isfinite(depth))
    z = depth[rows, columns]
    vertices = np.empty(len(z), _VERTEX)
    vertices["xyz"][:, 0] = (columns - intrinsics.cx) / intrinsics.fx * z
    vertices["xyz"][:, 1] = (rows - intrinsics.cy) / intrinsics.fy * z
    vertices["xyz"][:, 2] = z
    vertices["rgb"] = image[rows, columns]
    properties = [f"property float {name}" for name in "xyz"] + [
        f"property uchar {name}" for name in ("red", "green", "blue")
    ]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(z)}", *properties, "end_header\n"]
    return "\n".join(lines).encode("ascii") + vertices.tobytes()


class Outputs:
    """Files below a folder, `KIND/NAME.suffix`; each appears whole or not at all.

    Per-frame files may be written from several threads; videos and the table take frames in order from one.
    Use as a context manager: what is a file of many frames appears when the block ends without an error, or when the
    next video begins.
    """

    def __init__(self, folder: Path, kinds: Collection[Save], max_depth: float, *, overwrite: bool = False) -> None:
        self._folder = folder
        self._kinds = kinds
        self._overwrite = overwrite
        self._max_depth = max_depth
        self._video: tuple[Clip, VideoWriter] | None = None
        self._table: _Table | None = None
        self._is_table_there = self._is_there(self._table_file)
        self._is_video_there: tuple[Clip | None, bool] = (None, False)
        self._per_frame: Mapping[Save, tuple[str, Callable[[Prediction], bytes]]] = {
            Save.COLOUR: (".jpg", lambda made: encode_jpeg(coloured(made.depth, max_depth))),
            Save.PNG: (".png", lambda made: depth_png(made.depth)),
            Save.NPY: (".npy", lambda made: encode_raw(made.depth)),
            Save.PLY: (".ply", _cloud_of),
        }

    @property
    def _table_file(self) -> Path:
        return self._folder / "depth.parquet"

    def missing(self, name: str, clip: Clip | None, *, has_intrinsics: bool) -> frozenset[Save]:
        """Kinds that are asked for, can be made of a frame, and are not there yet."""
        wanted: set[Save] = set()
        for kind in self.possible(clip, has_intrinsics=has_intrinsics):
            if kind is Save.VIDEO:
                is_there = clip is not None and self._has_video(clip)
            elif kind is Save.PARQUET:
                is_there = self._is_table_there
            else:
                is_there = self._is_there(self._file(kind, name))
            if not is_there:
                wanted.add(kind)
        return frozenset(wanted)

    def possible(self, clip: Clip | None, *, has_intrinsics: bool) -> frozenset[Save]:
        """Kinds that are asked for and can be made of a frame."""
        impossible = {Save.VIDEO: clip is None, Save.PLY: not has_intrinsics}
        return frozenset(kind for kind in self._kinds if not impossible.get(kind))

    def write_files(self, made: Prediction, kinds: Collection[Save]) -> None:
        """Write the files that a frame has for itself.

        Raises:
            OSError: the disk is full or not writable.
        """
        for kind in kinds:
            if kind in self._per_frame:
                write_file(self._file(kind, made.name), self._per_frame[kind][1](made))

    def write_in_order(self, made: Prediction, kinds: Collection[Save]) -> None:
        """Add a frame to its video and to the table.

        Raises:
            SimipuError: no video can be written here.
            OSError: the disk is full or not writable.
        """
        if Save.PARQUET in kinds:
            if self._table is None:
                self._table = _Table(self._table_file)
            self._table.write(made)
        if Save.VIDEO in kinds and made.clip:
            if self._video is None or self._video[0] != made.clip:
                self._finish_video()
                self._video = made.clip, VideoWriter(self._video_file(made.clip), made.clip.rate)
            self._video[1].write(beside(made, self._max_depth))

    def _has_video(self, clip: Clip) -> bool:
        if self._is_video_there[0] != clip:  # once a video: it must not change while it is being made
            self._is_video_there = clip, self._is_there(self._video_file(clip))
        return self._is_video_there[1]

    def _video_file(self, clip: Clip) -> Path:
        return self._folder / Save.VIDEO / f"{clip.name}.mp4"

    def _file(self, kind: Save, name: str) -> Path:
        return self._folder / kind / f"{name}{self._per_frame[kind][0]}"

    def _is_there(self, file: Path) -> bool:
        return not self._overwrite and file.is_file()

    def _finish_video(self, error: BaseException | None = None) -> None:
        if self._video:
            self._video[1].__exit__(type(error) if error else None, error, None)
            self._video = None

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._finish_video(error)
        if self._table:
            self._table.close(is_whole=error is None)


class _Table:
    """Rows of :data:`_TABLE`, in a file that appears when it is closed whole."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._draft = file.with_name(f".{file.name}.partial")
        self._writer = pq.ParquetWriter(self._draft, _TABLE)
        self._rows: list[dict[str, object]] = []

    def write(self, made: Prediction) -> None:
        height, width = made.depth.shape
        self._rows.append(
            {
                "name": made.name,
                "source": made.source,
                "height": height,
                "width": width,
                "intrinsics": made.intrinsics.matrix() if made.intrinsics else None,
                "depth": depth_png(made.depth),
                "depth_scale": DEPTH_SCALE,
            }
        )
        if len(self._rows) == _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=_TABLE))
            self._rows = []

    def close(self, *, is_whole: bool) -> None:
        if is_whole:
            self._flush()
        self._writer.close()
        if is_whole:
            put_in_place(self._draft, self._file)
        else:
            self._draft.unlink(missing_ok=True)


def _cloud_of(made: Prediction) -> bytes:
    if made.intrinsics is None:
        raise SimipuError(f"{made.source}: has no intrinsics, which a point cloud needs; give --intrinsics.")
    return cloud(made.depth, made.image, made.intrinsics)
