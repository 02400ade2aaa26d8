"""Polygon files (.ply): the vertices, ascii or binary of either byte order."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.formats.text_tables import parse_lines
from simipu_core.errors import SimipuError

_LONGEST_HEADER = 1 << 16
_MOST_PROPERTIES = 1 << 10
_C_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"}
_TYPES = {
    **_C_TYPES,
    "double": "f8",
    **{np.dtype(kind).name: kind for kind in (*_C_TYPES.values(), "f8")},
}
"""NumPy's types by both of their names, ``uchar`` and ``uint8``."""
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_PREFIX = "scalar_"
"""Put by CloudCompare before the names of what is no coordinate."""


@dataclass
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str]] = field(default_factory=list)
    """Name and type of each."""
    has_lists: bool = False


def parse(data: bytes, most_points: int) -> dict[str, NDArray[Any]]:
    """Properties of the vertices, (N,) each, by name in lower case.

    Args:
        data: content of the file.
        most_points: refuse more.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    encoding, elements, start = _parse_header(data)
    before = []
    for element in elements:
        if element.name == "vertex":
            break
        before.append(element)
    else:
        raise SimipuError("has no element vertex in its .ply header")
    if not 0 < element.count <= most_points:
        raise SimipuError(f"says it has {element.count} points; 1 to {most_points} are read")
    if any(each.has_lists for each in (*before, element)):
        raise SimipuError("has lists in or before its vertices; save it as a point cloud without faces")
    names = [name.lower().removeprefix(_PREFIX) for name, _ in element.properties]
    if len(set(names)) < len(names):
        raise SimipuError("has two properties of one name in its .ply header")
    if encoding == "ascii":
        lines = data[start:].split(b"\n", skipped := sum(each.count for each in before))
        table = parse_lines(lines[-1] if len(lines) > skipped else b"", element.count, len(names))
        return {name: table[:, index] for index, name in enumerate(names)}
    order = _ORDERS[encoding]
    start += sum(each.count * _layout(order, each).itemsize for each in before)
    layout = _layout(order, element)
    if (size := element.count * layout.itemsize) > len(data) - start:
        raise SimipuError(f"has {max(len(data) - start, 0)} bytes of points, but its header asks for {size}")
    points: NDArray[Any] = np.frombuffer(data, layout, element.count, start)
    return {name: points[f"{index}"] for index, name in enumerate(names)}


def _layout(order: str, element: _Element) -> np.dtype[Any]:
    return np.dtype([(f"{index}", order + kind) for index, (_, kind) in enumerate(element.properties)])


def _parse_header(data: bytes) -> tuple[str, list[_Element], int]:
    end = data.find(b"end_header", 0, _LONGEST_HEADER)
    start = data.find(b"\n", end) + 1
    if not data.startswith(b"ply") or end < 0 or not start:
        raise SimipuError("not a .ply file (it has no header)")
    encoding, elements = "", list[_Element]()
    try:
        for line in data[:end].decode("ascii").splitlines()[1:]:
            match line.split():
                case ["format", kind, "1.0"] if kind in _ORDERS:
                    encoding = kind
                case ["element", name, count] if count.isdigit() and len(count) < 13:
                    elements.append(_Element(name, int(count)))
                case ["property", "list", _, _, _]:
                    elements[-1].has_lists = True
                case ["property", kind, name]:
                    elements[-1].properties.append((name, _TYPES[kind]))
                case [] | ["comment" | "obj_info", *_]:
                    pass
                case _:
                    raise ValueError(line)
    except (ValueError, KeyError, IndexError):
        raise SimipuError("has a damaged .ply header (format, element or property)") from None
    properties = sum(len(each.properties) for each in elements)
    if not encoding or properties > _MOST_PROPERTIES:
        raise SimipuError("has a damaged .ply header (format, element or property)")
    return encoding, elements, start
