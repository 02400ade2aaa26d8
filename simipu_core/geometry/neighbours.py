"""Ball query: the neighbours of each centre, several radii in one pass over a cell grid."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simipu_core.compiled import compiled
from simipu_core.errors import SimipuError

_MAX_CELLS_PER_AXIS = 256
_MARGIN = np.float32(1.0001)
"""Of a cell beyond the radius. Rounding shifts a point by at most 2⁻²³ of 256 cells, so that without it a neighbour
could lie two cells away."""


def ball_query(
    xyz: NDArray[np.float32],
    centres: NDArray[np.float32],
    radii: Sequence[float],
    num_neighbours: Sequence[int],
    *,
    ring: bool,
    order: Literal["first", "nearest"],
) -> list[NDArray[np.int32]]:
    """Neighbours of each centre within each radius (docs/method.md, "Neighbourhoods").

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

    Raises:
        SimipuError: a number is not finite, or a centre is none of the points.
    """
    for name, values in (("point", xyz), ("centre", centres)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise SimipuError(f"{name} {row} of a neighbourhood query is {values[row]}; drop what is not finite first.")
    origin, cell, shape, members, starts = _grid(xyz, np.float32(radii[-1]))
    high = np.square(np.asarray(radii, np.float32))
    low = np.concatenate([np.zeros(1, np.float32), high[:-1]]) if ring else np.zeros_like(high)
    counts = np.asarray(num_neighbours, np.int64)
    placed = np.ascontiguousarray(xyz[members].T)
    found = _query(centres, origin, cell, shape, members, starts, placed, low, high, counts, order == "nearest")
    if (found < 0).any():
        row = int(np.flatnonzero((found < 0).any(axis=1))[0])
        raise SimipuError(f"centre {row} of a neighbourhood query, {centres[row]}, is none of its points.")
    offsets = np.cumsum(counts)[:-1]
    return [np.ascontiguousarray(part) for part in np.split(found, offsets, axis=1)]


@compiled
def _grid(xyz, radius):  # type: ignore[no-untyped-def] # pragma: no cover
    """Cells larger than the radius: corner, cell sides, cells per axis, rows by cell, and each cell's first row."""
    origin, far = xyz[0].copy(), xyz[0].copy()
    for n in range(len(xyz)):
        for axis in range(3):
            origin[axis] = min(origin[axis], xyz[n, axis])
            far[axis] = max(far[axis], xyz[n, axis])
    cell = np.maximum(radius, (far - origin) / np.float32(_MAX_CELLS_PER_AXIS)) * _MARGIN
    shape = np.floor((far - origin) / cell).astype(np.int64) + 1
    homes = np.empty(len(xyz), np.int64)
    starts = np.zeros(shape[0] * shape[1] * shape[2] + 1, np.int64)
    for n in range(len(xyz)):
        home = 0
        for axis in range(3):
            home = home * shape[axis] + int((xyz[n, axis] - origin[axis]) / cell[axis])
        homes[n] = home
        starts[home + 1] += 1
    starts = np.cumsum(starts)
    members = np.empty(len(xyz), np.int64)
    free = starts[:-1].copy()
    for n in range(len(xyz)):
        members[free[homes[n]]] = n
        free[homes[n]] += 1
    return origin, cell, shape, members, starts


@compiled
def _query(centres, origin, cell, shape, members, starts, placed, low, high, counts, nearest):  # type: ignore[no-untyped-def] # pragma: no cover
    """Neighbours by a key that holds the distance, where it counts, above the point's index.

    Points are measured and sorted into rings without branches, which processors cannot foresee here.
    """
    num_radii = len(high)
    offsets = np.zeros(num_radii + 1, np.int64)
    offsets[1:] = np.cumsum(counts)
    found = np.empty((len(centres), offsets[-1]), np.int32)
    near = np.empty(len(members) + 1, np.int64)
    distances = np.empty(len(members) + 1, np.float32)
    bits = distances.view(np.int32)  # those of numbers that are not negative sort as the numbers do
    keys = np.empty((num_radii, len(members) + 1), np.int64)
    filled = np.empty(num_radii, np.int64)
    first = np.empty(3, np.int64)
    last = np.empty(3, np.int64)
    xs, ys, zs = placed
    furthest, is_ring = high[num_radii - 1], low[num_radii - 1] > 0
    for m in range(len(centres)):
        x, y, z = centres[m]
        for axis in range(3):
            home = int(np.floor((centres[m, axis] - origin[axis]) / cell[axis]))
            first[axis] = min(max(home - 1, 0), shape[axis])
            last[axis] = min(max(home + 2, 0), shape[axis])
        num = 0
        for i in range(first[0], last[0]):
            for j in range(first[1], last[1]):
                row = (i * shape[1] + j) * shape[2]
                for slot in range(starts[row + first[2]], starts[row + last[2]]):
                    dx, dy, dz = xs[slot] - x, ys[slot] - y, zs[slot] - z
                    distance = dx * dx + dy * dy + dz * dz
                    distances[num], near[num] = distance, members[slot]
                    num += distance < furthest
        filled[:] = 0
        for n in range(num):
            distance, key = distances[n], near[n]
            if nearest:
                key |= np.int64(bits[n]) << 32
            if is_ring and distance > 0:
                r = 0
                for outer in range(num_radii - 1):
                    r += distance >= high[outer]
                keys[r, filled[r]] = key
                filled[r] += 1
            else:
                for r in range(num_radii):
                    keys[r, filled[r]] = key
                    filled[r] += distance < high[r]
        for r in range(num_radii):
            begin, kept = offsets[r], min(filled[r], counts[r])
            if kept < filled[r]:
                _least_first(keys[r], filled[r], kept)
            _sort(keys[r], kept)
            found[m, begin] = -1
            for n in range(kept):
                found[m, begin + n] = keys[r, n] & 0xFFFFFFFF
            for position in range(begin + kept, offsets[r + 1]):
                found[m, position] = found[m, begin]
    return found


@compiled
def _least_first(keys, end, num):  # type: ignore[no-untyped-def] # pragma: no cover
    """Move the `num` least of ``keys[:end]`` to the front (Hoare's selection)."""
    begin = 0
    while end - begin > 1:
        pivot, i, j = keys[(begin + end) >> 1], begin, end - 1
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if num <= j:
            end = j + 1
        elif num >= i:
            begin = i
        else:
            return


@compiled
def _sort(keys, num):  # type: ignore[no-untyped-def] # pragma: no cover
    """Sort ``keys[:num]``, which are few."""
    for n in range(1, num):
        key, position = keys[n], n
        while position > 0 and keys[position - 1] > key:
            keys[position] = keys[position - 1]
            position -= 1
        keys[position] = key
