"""Scans in many formats, written here independently of what reads them."""

import io
from typing import Any

import laspy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Points = NDArray[np.float32]


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    return buffer.getvalue()


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def las(points: Points, *, packed: bool = False, version: str = "1.2", point_format: int = 0) -> bytes:
    """Steps of 0.1 mm; intensity 0–65535."""
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales = np.full(3, 1e-4)
    header.offsets = np.array([5.0, -3.0, 1.0])
    file = laspy.LasData(header)
    file.x, file.y, file.z = points[:, :3].T.astype(np.float64)
    file.intensity = np.rint(points[:, 3] * 65535).astype(np.uint16)
    buffer = io.BytesIO()
    file.write(buffer, do_compress=packed)
    return buffer.getvalue()


def pcd(points: Points, encoding: str) -> bytes:
    """x, y and z in float32, padding of five bytes, intensity in float32, ring in uint16."""
    fields = [("x", "F", 4, 1), ("y", "F", 4, 1), ("z", "F", 4, 1), ("_", "U", 1, 5), ("intensity", "F", 4, 1)]
    fields.append(("ring", "U", 2, 1))
    table = np.zeros(len(points), [(name, f"<{kind.lower()}{size}", (count,)) for name, kind, size, count in fields])
    for index, name in enumerate(("x", "y", "z", "intensity")):
        table[name][:, 0] = points[:, index]
    columns = list(zip(*fields, strict=True))
    header = "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n" + "".join(
        f"{label} {' '.join(map(str, values))}\n"
        for label, values in zip(("FIELDS", "TYPE", "SIZE", "COUNT"), columns, strict=True)
    )
    header += f"WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {encoding}\n"
    if encoding == "ascii":
        lines = (" ".join(str(value) for name in table.dtype.names or () for value in row[name]) for row in table)
        return (header + "".join(f"{line}\n" for line in lines)).encode()
    if encoding == "binary":
        return header.encode() + table.tobytes()
    plain = b"".join(table[name].tobytes() for name in table.dtype.names or ())
    packed = lzf(plain)
    return header.encode() + len(packed).to_bytes(4, "little") + len(plain).to_bytes(4, "little") + packed


def ply(points: Points, encoding: str, comment: str = "") -> bytes:
    """x, y and z in float32, a ring in uint8, intensity in float64 under CloudCompare's name; then two faces."""
    order = ">" if encoding == "binary_big_endian" else "<"
    table = np.zeros(len(points), [("x", f"{order}f4"), ("y", f"{order}f4"), ("z", f"{order}f4"), ("ring", "u1"),
                                   ("intensity", f"{order}f8")])  # fmt: skip
    for index, name in enumerate(("x", "y", "z", "intensity")):
        table[name] = points[:, index]
    header = f"ply\nformat {encoding} 1.0\n{comment}element vertex {len(points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "property uchar ring\nproperty double scalar_Intensity\n"
    header += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    if encoding == "ascii":
        rows = (" ".join(str(value) for value in row.tolist()) for row in table)
        return (header + "".join(f"{row}\n" for row in rows) + "3 0 1 2\n3 1 2 3\n").encode()
    return header.encode() + table.tobytes() + 2 * (b"\x03" + bytes(12))


def lzf(data: bytes) -> bytes:
    """Pack bytes as LZF does: runs of plain bytes, and references to the last place that began alike."""
    packed, plain, seen, position = bytearray(), bytearray(), dict[bytes, int](), 0

    def flush() -> None:
        for start in range(0, len(plain), 32):
            run = plain[start : start + 32]
            packed.append(len(run) - 1)
            packed.extend(run)
        plain.clear()

    while position < len(data):
        start = data[position : position + 3]
        before, seen[start] = seen.get(start, -1), position
        back = position - before - 1
        if before < 0 or back >= 1 << 13 or len(start) < 3:
            plain.append(data[position])
            position += 1
            continue
        length = 3
        while length < 264 and position + length < len(data) and data[before + length] == data[position + length]:
            length += 1
        flush()
        packed.append((min(length - 2, 7) << 5) | (back >> 8))
        if length - 2 >= 7:
            packed.append(length - 2 - 7)
        packed.append(back & 255)
        position += length
    flush()
    return bytes(packed)
