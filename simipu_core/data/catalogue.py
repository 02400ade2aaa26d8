"""The catalogue: one row a sound frame, with paths, checksums, times and calibration; no pixels."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simipu_core.data.images import check_depth, check_image
from simipu_core.data.schema import CATALOGUE
from simipu_core.data.shards import check_format
from simipu_core.data.sources import Frame, Rejected
from simipu_core.errors import SimipuError

FRAMES_FILE = "frames.parquet"
REJECTED_FILE = "rejected.json"
POINT_BYTES = 16

Row = dict[str, Any]


def examine(root: Path, frame: Frame) -> Row | Rejected:
    """Open every file of a frame and check it.

    Args:
        root: folder the paths in the catalogue are relative to.
        frame: candidate from a source.

    Returns:
        A catalogue row without its split, or what is wrong with the frame.
    """
    row: Row = {
        "sample_id": frame.sample_id,
        "source": frame.source,
        "sequence": frame.sequence,
        "timestamp_us": frame.timestamp_us,
        "points_timestamp_us": frame.points_timestamp_us,
        "depth_scale": frame.depth_scale,
        "intrinsics": frame.intrinsics,
        "lidar_to_camera": frame.lidar_to_camera,
    }
    file = frame.image
    try:
        data = _read(file, row, "image", root)
        row["height"], row["width"] = check_image(data)
        if frame.points:
            file = frame.points
            row["num_points"] = check_scan(_read(file, row, "points", root))
        if frame.depth:
            file = frame.depth
            check_depth(_read(file, row, "depth", root), (row["height"], row["width"]))
    except SimipuError as error:
        return Rejected(frame.sample_id, frame.sequence, file, str(error))
    return row


def check_scan(data: bytes) -> int:
    """Check the bytes of a float32 N×4 scan; return N.

    Raises:
        SimipuError: what is wrong with it.
    """
    if not data:
        raise SimipuError("empty (0 bytes)")
    if len(data) % POINT_BYTES:
        raise SimipuError(f"truncated ({len(data)} bytes are no whole number of {POINT_BYTES}-byte points)")
    if bad := int((~np.isfinite(np.frombuffer(data, "<f4").reshape(-1, 4))).any(axis=1).sum()):
        raise SimipuError(f"has {bad} points that are not finite numbers")
    return len(data) // POINT_BYTES


def check_broken_share(broken: list[Rejected], total: int, largest: float, setting: str, root: Path) -> None:
    """Name the broken frames; stop where they are too many.

    Raises:
        SimipuError: naming the first few files and reasons, the setting, and the mend.
    """
    shown = [f"{_relative(each.file, root)}: {each.reason}" for each in broken[:3]]
    if len(broken) > len(shown):
        shown.append(f"and {len(broken) - len(shown)} more")
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


def write_frames(rows: Iterable[Row], folder: Path) -> None:
    """Write ``frames.parquet``, sorted by sample_id."""
    rows = sorted(rows, key=lambda row: str(row["sample_id"]))
    pq.write_table(pa.Table.from_pylist(rows, schema=CATALOGUE), folder / FRAMES_FILE)


def read_frames(folder: Path) -> list[Row]:
    """Rows of a catalogue, in order of sample_id.

    Raises:
        SimipuError: written in another format.
    """
    file = folder / FRAMES_FILE
    table = pq.read_table(file)
    check_format(table.schema, CATALOGUE, file)
    return list(table.to_pylist())


def write_rejected(broken: list[Rejected], folder: Path, root: Path) -> None:
    """Write ``rejected.json``: sample_id, file (relative to the root) and reason of each broken frame."""
    entries = [
        {"sample_id": each.sample_id, "file": _relative(each.file, root), "reason": each.reason} for each in broken
    ]
    text = json.dumps(sorted(entries, key=lambda entry: entry["sample_id"]), indent=1, ensure_ascii=False)
    (folder / REJECTED_FILE).write_text(text + "\n", encoding="utf-8")


def _read(file: Path, row: Row, kind: str, root: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SimipuError(f"cannot be read ({error.strerror})") from None
    row[kind] = _relative(file, root)
    row[f"{kind}_sha256"] = hashlib.sha256(data).hexdigest()
    return data


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()
