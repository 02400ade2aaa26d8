"""Point Cloud Data files (PCL's .pcd, version 0.7): ascii, binary, and binary_compressed, which is LZF."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simipu_core.compiled import compiled
from simipu_core.data.formats.text_tables import parse_lines
from simipu_core.errors import SimipuError

_LONGEST_HEADER = 1 << 16
_MOST_VALUES = 1 << 10
"""Of a point, over all its fields."""
_TYPES = {
    (kind, size): np.dtype(f"<{kind.lower()}{size}")
    for kind, sizes in (("I", (1, 2, 4, 8)), ("U", (1, 2, 4, 8)), ("F", (4, 8)))
    for size in sizes
}


@dataclass(frozen=True)
class _Header:
    names: list[str]
    types: list[np.dtype[Any]]
    counts: list[int]
    num_points: int
    encoding: str

    @property
    def stride(self) -> int:
        """Bytes of a point."""
        return sum(dtype.itemsize * count for dtype, count in zip(self.types, self.counts, strict=True))


def parse(data: bytes, most_points: int) -> dict[str, NDArray[Any]]:
    """Fields of one value a point, (N,) each, by name.

    Args:
        data: content of the file.
        most_points: refuse more.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    header, start = _parse_header(data)
    if not 0 < header.num_points <= most_points:
        raise SimipuError(f"says it has {header.num_points} points; 1 to {most_points} are read")
    body = memoryview(data)[start:]
    if header.encoding == "ascii":
        return _from_text(header, bytes(body))
    size = header.num_points * header.stride
    if header.encoding == "binary":
        if len(body) < size or body[size:].tobytes().strip(b"\0"):  # PCL up to 1.8 fills the last page of memory
            raise SimipuError(f"has {len(body)} bytes of points, but its header asks for {size}")
        fields = [(name, dtype, (count,)) for name, dtype, count in _unique(header)]
        table = np.frombuffer(body, np.dtype(fields), header.num_points)
        return {name: table[name][:, 0] for name, _, (count,) in fields if count == 1}
    return _from_columns(header, _decompress(body, size))


def _parse_header(data: bytes) -> tuple[_Header, int]:
    lines: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in lines:
        end = data.find(b"\n", position, _LONGEST_HEADER)
        if end < 0:
            raise SimipuError("not a .pcd file (it has no DATA line)")
        try:
            words = data[position:end].decode("ascii").split()
        except UnicodeDecodeError:
            raise SimipuError("not a .pcd file (its header is no text)") from None
        position = end + 1
        if words and not words[0].startswith("#"):
            lines[words[0]] = words[1:]
    names = lines.get("FIELDS", [])
    ones = ["1"] * len(names)
    sizes, kinds, counts = lines.get("SIZE", []), lines.get("TYPE", []), lines.get("COUNT", ones)
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts):
        raise SimipuError("has FIELDS, SIZE, TYPE and COUNT of different lengths in its header")
    try:
        types = [_TYPES[kind, _count(size)] for kind, size in zip(kinds, sizes, strict=True)]
        values = [_count(count) for count in counts]
        width, height = _count(*lines["WIDTH"]), _count(*lines.get("HEIGHT", ["1"]))
        num_points = _count(*lines.get("POINTS", [str(width * height)]))
        (encoding,) = lines["DATA"]
    except (KeyError, ValueError, TypeError):
        raise SimipuError("has a damaged .pcd header (WIDTH, HEIGHT, POINTS, SIZE, TYPE, COUNT or DATA)") from None
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise SimipuError(f"has DATA {encoding[:40]}; ascii, binary and binary_compressed are read")
    if num_points != width * height or not all(0 < count <= _MOST_VALUES for count in values):
        raise SimipuError("has a damaged .pcd header (POINTS is not WIDTH × HEIGHT, or a COUNT is out of range)")
    if sum(values) > _MOST_VALUES:
        raise SimipuError(f"has more than {_MOST_VALUES} values a point")
    return _Header(names, types, values, num_points, encoding), position


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        raise ValueError(text)
    return int(text)


def _unique(header: _Header) -> list[tuple[str, np.dtype[Any], int]]:
    """Fields under names of their own: padding is called `_` as often as it comes."""
    seen: set[str] = set()
    fields = []
    for index, (name, dtype, count) in enumerate(zip(header.names, header.types, header.counts, strict=True)):
        fields.append((f"#{index}" if name in seen or name.startswith("#") else name, dtype, count))
        seen.add(name)
    return fields


def _from_text(header: _Header, body: bytes) -> dict[str, NDArray[Any]]:
    table = parse_lines(body, header.num_points, sum(header.counts))
    starts = np.cumsum([0, *header.counts])
    return {name: table[:, starts[i]] for i, (name, _, count) in enumerate(_unique(header)) if count == 1}


def _from_columns(header: _Header, body: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Compressed files hold field after field, not point after point."""
    result, position = {}, 0
    for name, dtype, count in _unique(header):
        size = header.num_points * count * dtype.itemsize
        if count == 1:
            result[name] = body[position : position + size].view(dtype)
        position += size
    return result


def _decompress(body: memoryview, size: int) -> NDArray[np.uint8]:
    compressed, claimed = int.from_bytes(body[:4], "little"), int.from_bytes(body[4:8], "little")
    if len(body) < 8 or compressed > len(body) - 8:
        raise SimipuError(f"truncated ({len(body)} bytes of compressed points)")
    if claimed != size:
        raise SimipuError(f"says that it unpacks to {claimed} bytes, but its header asks for {size}")
    if size > compressed * _LARGEST_RATIO:
        raise SimipuError(f"cannot unpack {compressed} bytes to {size}")
    points = np.empty(size, np.uint8)
    if lzf_decompress(np.frombuffer(body, np.uint8, compressed, 8), points) != size:
        raise SimipuError("has damaged compressed points")
    return points


_LARGEST_RATIO = 88
"""An LZF reference of three bytes stands for 264 at most."""


@compiled
def lzf_decompress(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> int:
    """Unpack LZF into an array; returns the number of bytes written, or -1 where the stream is damaged.

    A byte below 32 is followed by that many and one more plain bytes. Any other is a reference: its upper three bits
    (7: plus the next byte) are a length less two, its lower five and the next byte how far back, less one.
    """
    read, written = 0, 0
    while read < source.size:
        control = np.int64(source[read])
        read += 1
        if control < 32:
            length = control + 1
            if read + length > source.size or written + length > target.size:
                return -1
            for _ in range(length):
                target[written] = source[read]
                read += 1
                written += 1
            continue
        length = control >> 5
        if length == 7:
            if read >= source.size:
                return -1
            length += np.int64(source[read])
            read += 1
        if read >= source.size:
            return -1
        origin = written - ((control & 31) << 8) - np.int64(source[read]) - 1
        read += 1
        length += 2
        if origin < 0 or written + length > target.size:
            return -1
        for _ in range(length):
            target[written] = target[origin]
            origin += 1
            written += 1
    return written
