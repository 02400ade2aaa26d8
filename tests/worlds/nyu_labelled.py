"""Room images as the labelled NYU Depth v2: one MATLAB 7.3 file, its axes reversed as MATLAB's are in HDF5."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from simipu_core.synthetic.scene import Floats

FILE = "nyu_depth_v2_labeled.mat"
_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Sat Jan  1 12:00:00 2000 HDF5 schema 1.00 ."
_USER_BLOCK = 512
_BORDER = (8, 10)
"""Rows and columns at the edges where nothing is measured."""
_JUMP = 0.15
"""Difference between neighbouring pixels, as a share of the depth, beside which nothing is measured."""


def measured(depth: Floats) -> Floats:
    """Exact depth (H, W), metres, with 0 where a depth camera measures nothing: at edges of things and of the image."""
    result = np.where(np.isfinite(depth), depth, 0)
    for axis in (0, 1):
        step = np.abs(np.diff(depth, axis=axis)) > _JUMP * np.minimum(*_neighbours(depth, axis))
        before, after = _neighbours(result, axis)
        before[step], after[step] = 0, 0
    rows, columns = _BORDER
    result[:rows], result[-rows:], result[:, :columns], result[:, -columns:] = 0, 0, 0, 0
    return result


def write(file: Path, scenes: Sequence[str], images: Sequence[NDArray[np.uint8]], depths: Sequence[Floats]) -> None:
    """Write the file.

    Args:
        file: to make.
        scenes: name of each image's scene.
        images: (H, W, 3) RGB.
        depths: (H, W) exact depth, metres; as measured it gets holes.
    """
    with h5py.File(file, "w", userblock_size=_USER_BLOCK) as hdf5:
        _add(hdf5, "images", np.stack([image.transpose(2, 1, 0) for image in images]))
        _add(hdf5, "depths", np.stack([depth.T for depth in depths]).astype("<f4"))
        _add(hdf5, "rawDepths", np.stack([measured(depth).T for depth in depths]).astype("<f4"))
        letters = hdf5.create_group("#refs#")
        for name, texts in (("scenes", scenes), ("sceneTypes", [scene.rpartition("_")[0] for scene in scenes])):
            cells = hdf5.create_dataset(name, (1, len(texts)), h5py.ref_dtype)
            cells.attrs["MATLAB_class"] = np.bytes_("cell")
            for index, text in enumerate(texts):
                characters = np.array([[ord(letter)] for letter in text], "<u2")
                cell = letters.create_dataset(f"{name}{index}", data=characters)
                cell.attrs["MATLAB_class"] = np.bytes_("char")
                cells[0, index] = cell.ref
    with file.open("r+b") as stream:
        stream.write(_HEADER.ljust(124) + b"\0\2IM")


def _add(hdf5: Any, name: str, values: NDArray[Any]) -> None:
    data = hdf5.create_dataset(name, data=values, chunks=(1, *values.shape[1:]), compression="gzip", compression_opts=1)
    data.attrs["MATLAB_class"] = np.bytes_("uint8" if values.dtype == np.uint8 else "single")


def _neighbours(values: Floats, axis: int) -> tuple[Floats, Floats]:
    """Views of all but the last, and of all but the first, along an axis."""
    return (values[:-1], values[1:]) if axis == 0 else (values[:, :-1], values[:, 1:])
