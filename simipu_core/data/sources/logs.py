"""Own recordings: ``logs/<sequence>/{images/<camera>/<name>.png, scans/<lidar>/<name>.bin, calibration.yaml}``.

Images are .png or .jpg, scans have one of `CLOUD_SUFFIXES`. ``calibration.yaml`` (`log_calibration`) lies in the
sequence, or in ``logs/`` for all that have none. Where it states a `time_unit`, names are times, and of each camera
those images and scans are paired that are each other's nearest in time; the faster sensor's others are left out and
counted. Without it an image and its scan have the same name. ``depth/<camera>/<name>`` may hold a depth map for an
image of this name, in one of `DEPTH_SUFFIXES`.

Symbolic links are followed: a root may be a farm of links. Names of sequences, sensors and files consist of letters,
digits, ``.``, ``_``, ``+`` and ``-``.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from simipu_core.config.data import SyntheticConfig
from simipu_core.data.formats.log_calibration import (
    PER_SECOND,
    Camera,
    LogCalibration,
    calibration_of,
    read_calibration,
)
from simipu_core.data.formats.scans import CLOUD_SUFFIXES, Scan, measured
from simipu_core.data.frames import (
    ARCHIVES,
    DEPTH_SUFFIXES,
    FLOAT_SCALE,
    IMAGE_SUFFIXES,
    BrokenFrameError,
    Files,
    Frame,
    Listing,
    Rejected,
    attempt,
    files_by_stem,
    flat,
    is_hidden,
    natural,
)
from simipu_core.data.sources.base import Source
from simipu_core.errors import SimipuError

NAME = "logs"
_SOUND_NAME = re.compile(r"[A-Za-z0-9._+-]+")
_TIME = re.compile(r"[0-9]+(\.[0-9]{1,12})?")
"""A time, perhaps of decimal seconds."""
_MOST_DIGITS = 19
_OTHER_UNIT = 500
"""Ratio of times of images and scans that only another unit explains."""
_READ = f"{', '.join(CLOUD_SUFFIXES[:-1])} or {CLOUD_SUFFIXES[-1]}"


class Logs(Source):
    """Own recordings, logs/: any cameras and LiDARs, with a calibration (docs/data.md)."""

    kind: Literal["logs"] = "logs"
    cameras: tuple[str, ...] = ()
    """The cameras whose images are read, by folder name; empty: all."""
    lidar: str | None = None
    """The LiDAR whose scans are read, by folder name; may be left out where there is one."""

    expected: ClassVar = "logs/<sequence>/images/<camera>"
    licence: ClassVar = "that of the logs' owner"

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        for old, new in (("log_cameras", "cameras"), ("log_lidar", "lidar")):
            if isinstance(values, dict) and old in values:
                raise ValueError(f"{old} is called `{new}` now: write that instead")
        return values

    def is_at(self, folder: Path) -> bool:
        """Whether a folder holds sequences."""
        return bool(_sequences(folder))

    def each_frame(self, folder: Path) -> Listing:
        """Frames of all sequences, by sequence, time and camera; those without a partner or calibration as Rejected."""
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in ARCHIVES and not (folder / path.name.split(".")[0]).is_dir():
                print(f"{self.kind}/{path.name} is not read; unpack it if it holds a sequence", flush=True)
        for path in _sequences(folder):
            if is_sound_name(path.name):
                yield from _Sequence(path, self.cameras, self.lidar).frames()
            else:
                name = path.name.encode("ascii", "backslashreplace").decode()
                reason = "the folder's name has other characters than letters, digits and . _ + -"
                yield Rejected(f"{self.kind}/{name}", name, path.with_name(name), reason)

    @classmethod
    def read_scan(cls, file: Path) -> Scan:
        """The points of a scan, read as the calibration says."""
        return _parse_scan(file, cls.read_file(file))

    @classmethod
    def read_depth(cls, file: Path) -> bytes:
        """A depth map of any of `DEPTH_SUFFIXES`, read as the calibration says, as a 16-bit PNG."""
        calibration = calibration_of(file.parents[2])
        camera = read_calibration(calibration).cameras.get(file.parent.name)
        if camera is None:
            raise BrokenFrameError(calibration, f"has no camera {file.parent.name}")
        from simipu_core.data.formats.depth_maps import as_depth_png

        try:
            return as_depth_png(cls.read_file(file), file.suffix.lower(), camera.invalid_depths)
        except SimipuError as error:
            raise BrokenFrameError(file, str(error)) from None

    def rendered(self, world: SyntheticConfig) -> list[str]:
        """Of what `simipu synthesize` writes."""
        return [f"{log:04d}" for log in range(world.logs) for _ in range(world.frames_per_drive)]


def is_sound_name(name: str) -> bool:
    """Whether a sequence, sensor or file may be called so."""
    return _SOUND_NAME.fullmatch(name) is not None and set(name) != {"."}


def _parse_scan(file: Path, data: bytes) -> Scan:
    """Points of a scan as the calibration says they are to be read.

    Args:
        file: where it lies: its folder names the LiDAR.
        data: its content.

    Raises:
        BrokenFrameError: it does not hold sound points, or the calibration does not fit.
    """
    sequence, name = file.parents[2], file.parent.name
    calibration = read_calibration(calibration_of(sequence))
    lidar = calibration.lidars.get(name)
    if lidar is None:
        raise BrokenFrameError(calibration_of(sequence), f"has no LiDAR {name}")
    from simipu_core.data.formats.clouds import parse_cloud

    digest = hashlib.sha256(data)
    digest.update(repr((lidar.columns, lidar.reflectance_scale)).encode())
    try:
        points, dropped = measured(parse_cloud(data, file.suffix.lower(), lidar.columns, lidar.reflectance_scale))
    except SimipuError as error:
        raise BrokenFrameError(file, str(error)) from None
    return Scan(points, digest.hexdigest(), dropped)


def mutual_nearest(first: list[int], second: list[int]) -> list[tuple[int, int]]:
    """Pairs of indices of times that are each other's nearest.

    Args:
        first: ascending times.
        second: ascending times.

    Returns:
        (index in `first`, index in `second`), ascending; each index at most once.
    """
    forward, backward = _nearest(first, second), _nearest(second, first)
    return [(index, other) for index, other in enumerate(forward) if backward[other] == index]


class _Sequence:
    def __init__(self, folder: Path, cameras: tuple[str, ...], lidar: str | None) -> None:
        self._folder, self._cameras, self._lidar = folder, cameras, lidar
        self._prefix = f"{NAME}/{folder.name}"

    def frames(self) -> Iterator[Frame | Rejected]:
        names = self._cameras or tuple(_folders(self._folder / "images"))
        images = {name: files_by_stem(self._folder / "images" / name, *IMAGE_SUFFIXES) for name in names}
        file = calibration_of(self._folder)
        try:
            calibration = read_calibration(file)
            lidar = self._choose_lidar(file, calibration)
            for name in names:
                if name not in calibration.cameras:
                    raise BrokenFrameError(file, f"has no camera {name}")
                if not images[name]:
                    raise BrokenFrameError(self._folder / "images" / name, "holds no .png or .jpg image")
        except BrokenFrameError as error:
            yield from self._reject_all(images, error)
            return
        scans = files_by_stem(self._folder / "scans" / lidar, *CLOUD_SUFFIXES)
        found = []
        for name in names:
            maps = files_by_stem(self._folder / "depth" / name, *DEPTH_SUFFIXES)
            try:
                pairs = self._by_time(images[name], scans, calibration) if calibration.time_unit else None
            except BrokenFrameError as error:
                yield from self._reject_all({name: images[name]}, error)
                continue
            for image, scan in pairs or [(stem, stem) for stem in {**images[name], **scans}]:
                sample_id = f"{self._prefix}/{name}/{image}"
                make = partial(
                    self._frame, sample_id, name, lidar, calibration, (images[name], image), (scans, scan), maps
                )
                order = _time_us(image, calibration) or 0
                found.append(((order, natural(image), name), attempt(sample_id, self._folder.name, make)))
        for _, frame in sorted(found, key=lambda entry: entry[0]):
            yield frame

    def _choose_lidar(self, file: Path, calibration: LogCalibration) -> str:
        name = self._lidar or next(iter(calibration.lidars))
        if self._lidar is None and len(calibration.lidars) > 1:
            raise BrokenFrameError(file, f"has the LiDARs {', '.join(calibration.lidars)}: name one in `lidar`")
        if name not in calibration.lidars:
            raise BrokenFrameError(file, f"has no LiDAR {name}")
        return name

    def _reject_all(self, images: Mapping[str, Files], error: BrokenFrameError) -> Iterator[Rejected]:
        """Every image is lost, and counts."""
        ids = [f"{self._prefix}/{name}/{stem}" for name, found in images.items() for stem in found]
        for sample_id in ids or [self._prefix]:
            yield Rejected(sample_id, self._folder.name, error.file, error.reason)

    def _by_time(self, images: Files, scans: Files, calibration: LogCalibration) -> list[tuple[str, str]]:
        """Names of images and scans that belong together; those that are no time stand with themselves."""
        odd = [name for name in (*images, *scans) if _time_us(name, calibration) is None]
        clock = {name: time for name in (*images, *scans) if (time := _time_us(name, calibration)) is not None}
        seen = sorted((name for name in images if name in clock), key=clock.__getitem__)
        scanned = sorted((name for name in scans if name in clock), key=clock.__getitem__)
        if not seen or not scanned:
            return [(name, name) for name in {**images, **scans}]
        image, scan = (clock[each[len(each) // 2]] for each in (seen, scanned))
        if max(image, scan) > _OTHER_UNIT * max(min(image, scan), 1):
            raise BrokenFrameError(
                self._folder,
                f"images are named in another unit of time than scans ({seen[0]} and {scanned[0]}), or by another "
                "clock",
            )
        nearest = mutual_nearest([clock[name] for name in seen], [clock[name] for name in scanned])
        if len(nearest) < max(len(seen), len(scanned)):
            print(
                f"{self._prefix}: {len(nearest)} pairs of {len(seen)} images and {len(scanned)} scans; the others are "
                "not each other's nearest in time",
                flush=True,
            )
        return [(seen[image], scanned[scan]) for image, scan in nearest] + [(name, name) for name in odd]

    def _frame(
        self,
        sample_id: str,
        camera: str,
        lidar: str,
        calibration: LogCalibration,
        image: tuple[Files, str],
        scan: tuple[Files, str],
        maps: Files,
    ) -> Frame:
        images, scans = self._folder / "images" / camera, self._folder / "scans" / lidar
        for (_, name), folder in ((image, images), (scan, scans)):
            if not is_sound_name(name):
                shown = name.encode("ascii", "backslashreplace").decode()
                raise BrokenFrameError(folder / shown, "its name has other characters than letters, digits and . _ + -")
            if calibration.time_unit and _time_us(name, calibration) is None:
                raise BrokenFrameError(folder / name, f"its name is no time in {calibration.time_unit}")
        taken, scanned = image[0].find(image[1]), scan[0].find(scan[1])
        if taken is None:
            reason = f"the scan {scan[0][scan[1]].name} has no such image{image[0].instead(image[1])}"
            raise BrokenFrameError(images / f"{image[1]}.png", reason)
        if scanned is None:
            reason = f"the image {taken.name} has no such scan of {_READ}{scan[0].instead(scan[1])}"
            raise BrokenFrameError(scans / scan[1], reason)
        seen = calibration.cameras[camera]
        lens = seen.distortion
        depth = maps.find(image[1])
        if depth and depth.suffix.lower() == ".png" and seen.depth_scale is None:
            raise BrokenFrameError(depth, f"the camera {camera} has no depth_scale: metres = value / depth_scale")
        return Frame(
            sample_id=sample_id,
            source=NAME,
            sequence=self._folder.name,
            image=taken,
            intrinsics=flat(seen.matrix()),
            points=scanned,
            lidar_to_camera=flat(calibration.lidar_to_camera(lidar, camera)),
            timestamp_us=_time_us(image[1], calibration),
            points_timestamp_us=_time_us(scan[1], calibration),
            size=seen.size,
            lens=lens.model if lens else None,
            distortion=lens.coefficients if lens else None,
            depth=depth,
            depth_scale=_depth_scale(depth, seen) if depth else None,
        )


def _depth_scale(depth: Path, camera: Camera) -> float | None:
    """Steps a metre of a depth map as `Logs.read_depth` gives it."""
    return camera.depth_scale if depth.suffix.lower() == ".png" else FLOAT_SCALE


def _time_us(name: str, calibration: LogCalibration) -> int | None:
    if calibration.time_unit is None or not _TIME.fullmatch(name) or len(name.partition(".")[0]) > _MOST_DIGITS:
        return None
    time = int(Decimal(name) * 1_000_000 / PER_SECOND[calibration.time_unit])
    return time if time < 1 << 62 else None


def _nearest(times: list[int], others: list[int]) -> list[int]:
    """For each time the index of the nearest of the others, the earlier of two."""
    result = []
    for time in times:
        after = bisect_left(others, time)
        candidates = range(max(after - 1, 0), min(after + 1, len(others)))
        result.append(min(candidates, key=lambda index: abs(others[index] - time)))
    return result


def _sequences(folder: Path) -> list[Path]:
    return [folder / name for name in _folders(folder) if (folder / name / "images").is_dir()]


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, in natural order, but hidden ones."""
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path)), key=natural)
