"""Functions that Numba compiles."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Have a function compiled, to run without the GIL.

    What is compiled is kept on the disk; where neither code nor home can be written, each process compiles it again.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except (RuntimeError, OSError):
        return numba.njit(nogil=True)(function)
