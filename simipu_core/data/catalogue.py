"""The catalogue: one row a sound frame, with paths, checksums, times and calibration; no pixels."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simipu_core.config.section import ANY_SIZE, Size, SizeRange
from simipu_core.data.formats.scans import Scan
from simipu_core.data.frames import BrokenFrameError, Frame, Rejected, by_cause, natural
from simipu_core.data.images import UPRIGHT, check_depth, check_image, orientation
from simipu_core.data.parquet import PARQUET_ERRORS
from simipu_core.data.schema import CATALOGUE, CatalogueRow, FrameRow
from simipu_core.data.shards import check_format
from simipu_core.data.sources import source_named
from simipu_core.errors import SimipuError
from simipu_core.geometry.poses import rotation_error
from simipu_core.storage import StorageError

FRAMES_FILE = "frames.parquet"
REJECTED_FILE = "rejected.json"
SYNTHETIC_FILE = "synthetic.json"
"""Lies at the root of a rendered data set and states its licence."""
RAW_DATA_GONE = "put the raw data of this catalogue back there, or run ingest again"
"""What to do where its origin is no folder."""
_LATEST_US = 1 << 62
_TRANSFORM = 16
"""Numbers of a 4×4 matrix."""

_RIGID_TOLERANCE = 0.01
"""Largest entry of R·Rᵀ − 1 of a rotation R."""


@dataclass(frozen=True, slots=True)
class Content:
    """A sound frame's row and what its files hold."""

    row: FrameRow
    image: bytes
    scan: Scan | None
    depth: bytes | None


def examine(root: Path, frame: Frame, sizes: SizeRange = ANY_SIZE) -> FrameRow | Rejected:
    """Open every file of a frame and check it.

    Args:
        root: folder the paths in the catalogue are relative to.
        frame: candidate from a source.
        sizes: of images that are taken.

    Returns:
        Its row but for the split, or what is wrong with the frame.

    Raises:
        StorageError: storage fails, which says nothing about the frame.
    """
    content = read_content(root, frame, sizes)
    return content if isinstance(content, Rejected) else content.row


def read_content(root: Path, frame: Frame, sizes: SizeRange = ANY_SIZE) -> Content | Rejected:
    """The same as :func:`examine`, with what was read."""
    source, file, scan, depth = source_named(frame.source), frame.image, None, None
    try:
        files = [path for path in (frame.image, frame.points, frame.depth) if path]
        if not all(path.name.isprintable() for path in files):
            raise SimipuError("its name holds characters that cannot be printed")
        if outside := [path for path in files if not path.is_relative_to(root) or ".." in path.relative_to(root).parts]:
            raise SimipuError(f"{outside[0].name} lies outside the root")
        if not all(abs(time) < _LATEST_US for time in (frame.timestamp_us, frame.points_timestamp_us) if time):
            raise SimipuError("was taken at a time that no clock shows")
        image = source.read_file(file)
        height, width = size = check_image(image)
        if frame.size and size != frame.size:
            tag = " (its EXIF tag turns it, which is not followed)" if orientation(image) > UPRIGHT else ""
            raise SimipuError("{}×{} pixels, but its calibration is for {}×{}{}".format(*size, *frame.size, tag))
        _check_size(size, sizes)
        _check_matrices(frame)
        if frame.points:
            _check_rigid(frame)
            scan = source.read_scan(frame.points)
        if frame.depth:
            file = frame.depth
            depth = source.read_depth(file)
            check_depth(depth, size)
    except BrokenFrameError as error:
        return Rejected(frame.sample_id, frame.sequence, error.file, error.reason)
    except StorageError:
        raise
    except SimipuError as error:
        return Rejected(frame.sample_id, frame.sequence, file, str(error))
    row: FrameRow = {
        "sample_id": frame.sample_id,
        "source": frame.source,
        "sequence": frame.sequence,
        "timestamp_us": frame.timestamp_us,
        "points_timestamp_us": frame.points_timestamp_us,
        "image": _relative(frame.image, root),
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "height": height,
        "width": width,
        "points": _relative(frame.points, root) if frame.points else None,
        "points_sha256": scan.sha256 if scan else None,
        "num_points": len(scan.points) if scan else None,
        "num_dropped": sum(scan.dropped) if scan else None,
        "depth": _relative(frame.depth, root) if frame.depth else None,
        "depth_sha256": hashlib.sha256(depth).hexdigest() if depth is not None else None,
        "depth_scale": frame.depth_scale,
        "intrinsics": frame.intrinsics,
        "lens": frame.lens,
        "distortion": frame.distortion,
        "lidar_to_camera": frame.lidar_to_camera,
    }
    return Content(row, image, scan, depth)


def check_broken_share(broken: list[Rejected], total: int, largest: float, setting: str, root: Path) -> None:
    """Name the broken frames; stop where they are too many.

    Raises:
        SimipuError: naming the first few files and reasons, the setting, and the mend.
    """
    causes = by_cause(broken, lambda file: _shown(file, root))
    shown = [*causes[:3], *([f"and {len(causes) - 3} more causes"] if len(causes) > 3 else [])]
    if len(broken) <= largest * total:
        if broken:
            print(
                f"skipped {len(broken)} of {total} frames, listed in {REJECTED_FILE} ({'; '.join(shown)})", flush=True
            )
        return
    raise SimipuError(
        f"{root}: {len(broken)} of {total} frames are broken, more than the share of {largest:g} that {setting} allows "
        f"({'; '.join(shown)}); mend or remove these files."
    )


def write_frames(rows: Iterable[CatalogueRow], folder: Path) -> None:
    """Write ``frames.parquet``, in natural order of sample_id."""
    in_order = sorted(rows, key=lambda row: natural(row["sample_id"]))
    pq.write_table(pa.Table.from_pylist(in_order, schema=CATALOGUE), folder / FRAMES_FILE)


def read_frames(folder: Path) -> list[CatalogueRow]:
    """Rows of a catalogue, in natural order of sample_id.

    Raises:
        SimipuError: written in another format, damaged, with a path that leads out of the data's root, or with a
            calibration that is no 4×4 matrix.
    """
    file = folder / FRAMES_FILE
    try:
        table = pq.ParquetFile(file).read(use_threads=False)
        check_format(table.schema, CATALOGUE, file)
        rows: list[CatalogueRow] = table.to_pylist()
    except PARQUET_ERRORS:
        raise SimipuError(f"{file}: cannot be read as Parquet (damaged or truncated); run ingest again.") from None
    for path in (path for row in rows for path in (row["image"], row["points"], row["depth"]) if path):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise SimipuError(f"{file}: the path {path} leads out of the root of its data; run ingest again.")
    for row in rows:
        if (matrix := row["lidar_to_camera"]) is not None and len(matrix) != _TRANSFORM:
            raise SimipuError(
                f"{file}: lidar_to_camera of {row['sample_id']} has {len(matrix)} numbers, not {_TRANSFORM}; "
                "run ingest again."
            )
    return rows


def write_rejected(broken: list[Rejected], folder: Path, root: Path) -> None:
    """Write ``rejected.json``: sample_id, file (relative to the root) and reason of each broken frame."""
    entries = [
        {"sample_id": each.sample_id, "file": _relative(each.file, root), "reason": each.reason} for each in broken
    ]
    text = json.dumps(sorted(entries, key=lambda entry: natural(entry["sample_id"])), indent=1, ensure_ascii=False)
    (folder / REJECTED_FILE).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _check_size(size: Size, sizes: SizeRange) -> None:
    (least, largest), (height, width) = sizes, size
    if not (least[0] <= height <= largest[0] and least[1] <= width <= largest[1]):
        fitting = "{}×{}".format(*least) + (f" to {largest[0]}×{largest[1]}" if largest != ANY_SIZE[1] else " and more")
        raise SimipuError(
            f"{height}×{width} pixels, but finetune.augment and evaluate.protocols are set for {fitting}; leave out "
            "what belongs to another camera (fixed_crop, protocols), or lower finetune.augment.crop"
        )


def _check_matrices(frame: Frame) -> None:
    matrices = (("intrinsics", frame.intrinsics, 9), ("lidar_to_camera", frame.lidar_to_camera, _TRANSFORM))
    for name, numbers, size in matrices:
        if numbers is not None and not (len(numbers) == size and np.isfinite(numbers).all()):
            raise BrokenFrameError(frame.image, f"its {name} is not {size} finite numbers")


def _check_rigid(frame: Frame) -> None:
    """Refuse a calibration that mirrors, scales or shears; a rotation written with few digits passes."""
    if frame.points is None or frame.lidar_to_camera is None:
        return
    motion = np.reshape(frame.lidar_to_camera, (4, 4))
    is_mirrored = np.linalg.det(motion[:3, :3]) < 0
    if is_mirrored or rotation_error(motion) > _RIGID_TOLERANCE:
        fault = "mirrors it" if is_mirrored else "is no rigid motion"
        raise BrokenFrameError(frame.points, f"the calibration from this scan to its camera {fault}")


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _shown(file: Path, root: Path) -> str:
    """A path for people; bytes of its name that are no text are written as escapes."""
    return _relative(file, root).encode(errors="backslashreplace").decode()
