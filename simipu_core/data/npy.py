"""NumPy's own file format from untrusted bytes: a header of plain literals, then exactly the array."""

import ast
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simipu_core.errors import SimipuError

MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 4096


def parse_npy(data: bytes) -> NDArray[Any]:
    """The array of a ``.npy`` file, read-only, without copying; nothing inside the file is run.

    Raises:
        SimipuError: another format, Python objects, or more or fewer bytes than its shape says; a reason to be put
            after the file's name.
    """
    start = 10 if data[6:7] == b"\x01" else 12
    length = int.from_bytes(data[8:start], "little")
    if not data.startswith(MAGIC) or data[6:7] not in (b"\x01", b"\x02", b"\x03") or length > _LONGEST_HEADER:
        raise SimipuError("not a .npy array")
    try:
        header = ast.literal_eval(data[start : start + length].decode("utf-8").strip())
        dtype = np.lib.format.descr_to_dtype(header["descr"])
        shape, is_fortran = header["shape"], header["fortran_order"]
        is_sound = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    except Exception:  # literals and types of every wrong kind, each with an error of its own
        is_sound = False
    if not is_sound or dtype.itemsize == 0 or len(shape) > 8:
        raise SimipuError("damaged .npy header")
    if dtype.hasobject:
        raise SimipuError("holds Python objects, which are not read; save the array with a numeric dtype")
    if math.prod(shape) * dtype.itemsize != len(data) - start - length:
        raise SimipuError(f"holds {len(data) - start - length} bytes, which do not fill its shape {shape} of {dtype}")
    values = np.frombuffer(data, dtype, offset=start + length)
    return values.reshape(shape, order="F" if is_fortran else "C")
