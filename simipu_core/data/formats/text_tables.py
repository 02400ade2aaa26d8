"""Tables of numbers as lines of text."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from simipu_core.errors import SimipuError


def parse_lines(body: bytes, rows: int, columns: int) -> NDArray[np.float64]:
    """(rows, columns) float64 of the first lines of a text.

    Args:
        body: numbers apart by spaces.
        rows: lines to read.
        columns: numbers a line.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    if len(body) + 1 < 2 * columns * rows:  # a digit and a space each
        raise SimipuError(f"is too short for the {rows} points that its header says")
    try:
        table = np.loadtxt(BytesIO(body), np.float64, comments=None, ndmin=2, max_rows=rows)
    except (ValueError, UserWarning):  # UserWarning: no line at all, where warnings are errors
        raise SimipuError("has a line that is not numbers, or lines of different lengths") from None
    if table.shape != (rows, columns):
        raise SimipuError(f"has {table.shape[0]} lines of {table.shape[1]} numbers, not {rows} of {columns}")
    return table
