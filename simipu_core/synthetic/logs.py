"""Drives in the layout of own logs, each with another format of scans and another scale of intensity."""

from io import BytesIO
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from simipu_core.synthetic import writers
from simipu_core.synthetic.calibration import object_camera
from simipu_core.synthetic.lidar import Scan

FORMATS = (("bin", 1.0), ("npy", 255.0), ("pcd", 255.0), ("parquet", 65535.0), ("las", 65535.0))
"""Suffix and raw intensity of reflectance 1, one after the other."""
CAMERA, LIDAR = "front", "top"
_FRAME_NS = 100_000_000
_EPOCH_NS = 1_600_000_000_000_000_000
_IMAGE_DELAY_NS = 5_000_000
_LAS_STEP = 0.001
_LAS_DATE = "2000-01-01"


def sequence_name(index: int) -> str:
    """Folder of a log."""
    return f"drive_{index:04d}"


def file_names(index: int, frame: int) -> tuple[str, str]:
    """Names of an image and of its scan below the log's folder."""
    start = _EPOCH_NS + (600 * index) * 1_000_000_000 + frame * _FRAME_NS
    suffix, _ = FORMATS[index % len(FORMATS)]
    return f"images/{CAMERA}/{start + _IMAGE_DELAY_NS}.png", f"scans/{LIDAR}/{start}.{suffix}"


def lay_out(root: Path, index: int, size: tuple[int, int]) -> None:
    """Make the folders of a log and write its calibration."""
    folder = root / "logs" / sequence_name(index)
    for name in (f"images/{CAMERA}", f"scans/{LIDAR}"):
        (folder / name).mkdir(parents=True)
    camera, (suffix, scale) = object_camera(size), FORMATS[index % len(FORMATS)]
    (fx, _, cx), (_, fy, cy), _ = camera.intrinsics.tolist()
    columns = ["x", "y", "z", "intensity", "ring"] if suffix == "bin" else ["x", "y", "z", "intensity"]
    values = {
        "time_unit": "ns",
        "cameras": {
            CAMERA: {
                "size": list(size),
                "fx": fx,
                "fy": fy,
                "cx": cx,
                "cy": cy,
                "lidar_to_camera": {"matrix": camera.lidar_to_camera.tolist()},
            }
        },
        "lidars": {LIDAR: {"columns": columns, "reflectance_scale": scale}},
    }
    (folder / "calibration.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def write_frame(root: Path, index: int, frame: int, image: NDArray[np.uint8], scan: Scan) -> None:
    """Write an image (H, W, 3) RGB and its scan."""
    folder = root / "logs" / sequence_name(index)
    image_name, scan_name = file_names(index, frame)
    writers.write_image(folder / image_name, image)
    suffix, scale = FORMATS[index % len(FORMATS)]
    points = scan.points.astype(np.float32)
    points[:, 3] *= scale
    if suffix == "bin":
        data = np.column_stack((points, scan.beam)).astype("<f4").tobytes()
    else:
        data = {"npy": _npy, "pcd": _pcd, "parquet": _parquet, "las": _las}[suffix](points)
    (folder / scan_name).write_bytes(data)


def _npy(points: NDArray[np.float32]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, points, allow_pickle=False)
    return buffer.getvalue()


def _pcd(points: NDArray[np.float32]) -> bytes:
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\n"
        f"COUNT 1 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA binary\n"
    )
    return header.encode() + points.astype("<f4").tobytes()


def _parquet(points: NDArray[np.float32]) -> bytes:
    columns: dict[str, Any] = {name: points[:, i] for i, name in enumerate("xyz")}
    buffer = BytesIO()
    pq.write_table(pa.table({**columns, "intensity": np.rint(points[:, 3]).astype(np.uint16)}), buffer)
    return buffer.getvalue()


def _las(points: NDArray[np.float32]) -> bytes:
    header = laspy.LasHeader(version="1.2", point_format=0)
    header.scales = np.full(3, _LAS_STEP)
    header.creation_date = np.datetime64(_LAS_DATE).item()
    file = laspy.LasData(header)
    file.x, file.y, file.z = points[:, :3].T.astype(np.float64)
    file.intensity = np.rint(points[:, 3]).astype(np.uint16)
    buffer = BytesIO()
    file.write(buffer)
    return buffer.getvalue()
