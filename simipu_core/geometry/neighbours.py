"""Ball query: the neighbours of each centre, several radii in one pass over a cell grid."""

from collections.abc import Sequence
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

_MAX_CELLS_PER_AXIS = 256


def ball_query(
    xyz: NDArray[np.float32],
    centres: NDArray[np.float32],
    radii: Sequence[float],
    num_neighbours: Sequence[int],
    *,
    ring: bool,
    order: Literal["first", "nearest"],
) -> list[NDArray[np.int32]]:
    """Neighbours of each centre within each radius (reference section 2.1).

    Radius i takes points with ``low ≤ distance < radii[i]``, where low is 0, or ``radii[i-1]`` with `ring`; a point
    that coincides with the centre always qualifies. Too many candidates are cut to the first in index order or to
    the nearest; too few are filled up with the first one kept.

    Args:
        xyz: points (N, 3), metres.
        centres: query points (M, 3), metres; each must coincide with a point of `xyz`.
        radii: ascending ball radii, metres.
        num_neighbours: neighbours K_i per radius.
        ring: rings instead of full balls.
        order: which candidates to keep, and their order.

    Returns:
        one array (M, K_i) of indices into `xyz` per radius.
    """
    cell = np.maximum(np.float32(radii[-1]), np.ptp(xyz, axis=0) / _MAX_CELLS_PER_AXIS).astype(np.float32)
    origin = xyz.min(axis=0)
    cells = np.floor((xyz - origin) / cell).astype(np.int64)
    shape = cells.max(axis=0) + 1
    flat = np.ravel_multi_index((cells[:, 0], cells[:, 1], cells[:, 2]), tuple(shape))
    members = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[members], np.arange(np.prod(shape) + 1))
    high = np.square(np.asarray(radii, np.float32))
    low = np.concatenate([np.zeros(1, np.float32), high[:-1]]) if ring else np.zeros_like(high)
    counts = np.asarray(num_neighbours, np.int64)
    found = _query(xyz, centres, origin, cell, shape, members, starts, low, high, counts, order == "nearest")
    offsets = np.cumsum(counts)[:-1]
    return [np.ascontiguousarray(part) for part in np.split(found, offsets, axis=1)]


@numba.njit(cache=True, nogil=True)
def _query(xyz, centres, origin, cell, shape, members, starts, low, high, counts, nearest):  # type: ignore[no-untyped-def] # pragma: no cover
    num_centres, num_radii = len(centres), len(high)
    offsets = np.zeros(num_radii + 1, np.int64)
    offsets[1:] = np.cumsum(counts)
    found = np.empty((num_centres, offsets[-1]), np.int32)
    keys = np.empty(offsets[-1], np.float32)
    filled = np.empty(num_radii, np.int64)
    for m in range(num_centres):
        filled[:] = 0
        x, y, z = centres[m]
        first = np.empty(3, np.int64)
        last = np.empty(3, np.int64)
        for axis in range(3):
            home = int(np.floor((centres[m, axis] - origin[axis]) / cell[axis]))
            first[axis] = max(home - 1, 0)
            last[axis] = min(home + 2, shape[axis])
        for i in range(first[0], last[0]):
            for j in range(first[1], last[1]):
                row = (i * shape[1] + j) * shape[2]
                for slot in range(starts[row + first[2]], starts[row + last[2]]):
                    index = members[slot]
                    dx, dy, dz = xyz[index, 0] - x, xyz[index, 1] - y, xyz[index, 2] - z
                    distance = dx * dx + dy * dy + dz * dz
                    if distance >= high[num_radii - 1]:
                        continue
                    for r in range(num_radii):
                        if distance >= high[r] or (distance < low[r] and distance != 0):
                            continue
                        key = distance if nearest else np.float32(index)
                        begin, used = offsets[r], filled[r]
                        if used == counts[r]:
                            worst = begin + used - 1
                            if key > keys[worst] or (key == keys[worst] and index > found[m, worst]):
                                continue
                            position = worst
                        else:
                            position = begin + used
                            filled[r] += 1
                        while position > begin and (
                            keys[position - 1] > key or (keys[position - 1] == key and found[m, position - 1] > index)
                        ):
                            keys[position] = keys[position - 1]
                            found[m, position] = found[m, position - 1]
                            position -= 1
                        keys[position] = key
                        found[m, position] = index
        for r in range(num_radii):
            begin = offsets[r]
            for position in range(begin + filled[r], offsets[r + 1]):
                found[m, position] = found[m, begin]
    return found
