"""Does a calibration put the LiDAR's edges on the image's edges?

Points where the scan jumps in depth or in reflectance should project onto image edges. Their score under the frame's
calibration is compared with the scores under deliberate changes of it: of a right calibration every change makes it
worse, of a wrong one some change makes it better. How far it stands out from the scores under calibrations that are
surely wrong says how much the frame can tell. Single frames are ambiguous; the mean over some ten is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from simipu_core.geometry.cameras import in_image, project

Floats = NDArray[np.floating]

_RANGE = (2.0, 60.0)
"""Distances of the points used, metres."""
_NEIGHBOURS = 4
_ROW_WEIGHT = 4.0
"""Elevation counts this many times as much as azimuth, so that neighbours lie on the same scan row."""
_FARTHEST_NEIGHBOUR = np.deg2rad(3)
_DEPTH_JUMP, _REFLECTANCE_JUMP = 0.1, 0.25
_EDGE_SHARE = 0.1
"""Share of the pixels that count as image edges."""
_REACH = 0.004
"""Distance at which the score of an edge falls to 1/e, share of the image's width."""
_FEWEST_POINTS = 30
ODD_TURN = "a turn"
"""Beginning of the names of turns that are no multiples of a right angle."""
_FEWEST_WRONG, _LEAST_SPREAD = 5, 0.02


class Camera(NamedTuple):
    """A calibration."""

    intrinsics: ArrayLike
    """(3, 3) camera metres to pixels."""
    lidar_to_camera: ArrayLike
    """(4, 4) sensor frame to camera frame, metres."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Scores of one frame, 0–1: 1 where all LiDAR edges lie on image edges."""

    unchanged: float
    """Under the frame's calibration."""
    chance: float
    """Of points scattered over the image's lower two thirds."""
    changed: dict[str, float]
    """Under each change, by its description."""
    standing: float | None = None
    """Standard deviations by which `unchanged` lies above the scores under calibrations that are surely wrong: near 0
    for a wrong one, some 2.5 for a right one; None where too few of them have points in the image."""


@cache
def changes() -> dict[str, NDArray[np.float64]]:
    """Transforms (4, 4) of the camera frame by the fault that each would undo."""
    made: dict[str, NDArray[np.float64]] = {}
    for name, axis in (("pitch", 0), ("yaw", 1), ("roll", 2)):
        for degrees in (-15, -8, -4, -2, -1, 1, 2, 4, 8, 15):
            vector = np.zeros(3)
            vector[axis] = np.deg2rad(degrees)
            made[f"{name} {degrees:+d}°"] = np.eye(4)
            made[f"{name} {degrees:+d}°"][:3, :3] = cv2.Rodrigues(vector)[0]
    for metres in (-0.54, 0.54):
        made[f"camera {metres:+.2f} m sideways (the other camera of a stereo pair)"] = np.eye(4)
        made[f"camera {metres:+.2f} m sideways (the other camera of a stereo pair)"][0, 3] = metres
    for percent in (-5, -2, 2, 5):
        made[f"focal length {percent:+d} %"] = np.diag([1 + percent / 100, 1 + percent / 100, 1, 1])
    return made | gross_changes()


@cache
def gross_changes() -> dict[str, NDArray[np.float64]]:
    """Turns about the upright axis, and mirrors: of a calibration that is right but for a little, all are wrong."""
    names = {90: "a quarter turn to the left", 180: "front and back exchanged", 270: "a quarter turn to the right"}
    made = {}
    for degrees in range(30, 360, 30):
        turn = np.eye(4)
        turn[:3, :3] = cv2.Rodrigues(np.array([0, -np.deg2rad(degrees), 0]))[0]
        made[names.get(degrees, f"{ODD_TURN} of {degrees}° to the left")] = turn
    mirror = np.diag([-1.0, 1, 1, 1])
    mirrored = {f"left and right mirrored, and {name}": mirror @ made[name] for name in names.values()}
    return made | {"left and right mirrored": mirror} | mirrored


def align(
    image: NDArray[np.uint8],
    points: Floats,
    camera: Camera,
    others: Mapping[str, Camera],
    stored: NDArray[np.uint8] | None = None,
) -> Alignment | None:
    """Score one frame.

    Args:
        image: (H, W, 3) RGB.
        points: (N, 4) x, y, z in metres, sensor frame, and reflectance 0–1.
        camera: the frame's calibration.
        others: calibrations of other frames, by name, to be tried as well.
        stored: the image as it was before it was undistorted, if it was.

    Returns:
        Scores; None where image or scan shows too few edges to tell.
    """
    near_edge = _near_edge(image)
    if near_edge is None:
        return None
    jumps = [edge for edge in _lidar_edges(points) if len(edge) >= _FEWEST_POINTS]
    unchanged = _score(near_edge, jumps, camera)
    if unchanged is None:
        return None
    transform = np.asarray(camera.lidar_to_camera, np.float64).reshape(4, 4)
    tried = {name: Camera(camera.intrinsics, change @ transform) for name, change in changes().items()}
    tried |= others
    scores = {name: _score(near_edge, jumps, each) for name, each in tried.items()}
    if stored is not None and (near_stored := _near_edge(stored)) is not None:
        scores["no undistortion (these images are rectified already)"] = _score(near_stored, jumps, camera)
    changed = {name: score for name, score in scores.items() if score is not None}
    chance = float(near_edge[len(near_edge) // 3 :].mean())
    wrong = [changed[name] for name in gross_changes() if name in changed]
    standing = None
    if len(wrong) >= _FEWEST_WRONG:
        standing = (unchanged - float(np.mean(wrong))) / max(float(np.std(wrong)), _LEAST_SPREAD)
    return Alignment(unchanged, chance, changed, standing)


def _near_edge(image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """1 on the strongest edges, falling off around them, (H, W)."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    threshold = np.quantile(gradient[len(gradient) // 3 :], 1 - _EDGE_SHARE)
    if threshold <= 1:
        return None
    distance = cv2.distanceTransform((gradient < threshold).astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(np.exp(-distance / (_REACH * image.shape[1])), np.float32)


def _lidar_edges(points: Floats) -> list[Floats]:
    """Points (M, 3) on the near side of depth jumps, and points where the reflectance of a surface jumps."""
    xyz = points[:, :3].astype(np.float64)
    distance = np.linalg.norm(xyz, axis=1)
    near, far = _RANGE
    kept = (distance > near) & (distance < far)
    if kept.sum() <= _NEIGHBOURS:
        return []
    xyz, distance, reflectance = xyz[kept], distance[kept], points[kept, 3]
    azimuth = np.arctan2(xyz[:, 1], xyz[:, 0])
    angles = np.column_stack((azimuth, _ROW_WEIGHT * np.arcsin(xyz[:, 2] / distance)))
    nearest = cKDTree(angles).query(angles, k=_NEIGHBOURS + 1, distance_upper_bound=_FARTHEST_NEIGHBOUR)
    gap, found = (np.asarray(each)[:, 1:] for each in nearest)  # the first is the point itself
    is_found = np.isfinite(gap)
    other = np.where(is_found, found, 0)
    jump = np.where(is_found, distance[other] / distance[:, None] - 1, 0)
    contrast = np.where(
        is_found & (np.abs(jump) < _DEPTH_JUMP / 2), np.abs(reflectance[other] - reflectance[:, None]), 0
    )
    return [xyz[jump.max(axis=1) > _DEPTH_JUMP], xyz[contrast.max(axis=1) > _REFLECTANCE_JUMP]]


def _score(near_edge: NDArray[np.float32], jumps: list[Floats], camera: Camera) -> float | None:
    """Mean over the kinds of jumps of the mean score of their points in the image; None where too few are in it."""
    height, width = near_edge.shape
    means = []
    for xyz in jumps:
        uv, depth = project(xyz, camera.lidar_to_camera, camera.intrinsics)
        inside = in_image(uv, depth, height - 1, width - 1)
        if inside.sum() >= _FEWEST_POINTS:
            columns, rows = np.rint(uv[inside]).astype(np.intp).T
            means.append(float(near_edge[rows, columns].mean()))
    return sum(means) / len(means) if means else None
