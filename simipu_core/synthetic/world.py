"""The whole synthetic world as files: every frame is one job, every job knows its own random numbers."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.config import SyntheticConfig
from simipu_core.files import new_folder
from simipu_core.parallel import map_frames
from simipu_core.synthetic import logs, writers
from simipu_core.synthetic.calibration import object_calibration, object_camera, raw_calibration, raw_camera
from simipu_core.synthetic.lidar import scan
from simipu_core.synthetic.render import Lens, render_depth, render_image
from simipu_core.synthetic.room import make_room, nyu_camera
from simipu_core.synthetic.street import Street, make_street

LICENCE = "generated data, no restrictions"
VIEWS_PER_ROOM = 4
_SMALL_IMAGE = 100_000
"""Pixels up to which an image is worth four rays a pixel."""


class Part(IntEnum):
    """Parts of the world; the number seeds its scenes."""

    OBJECT = 0
    DRIVE = 1
    ROOM = 2
    CLOCK = 3
    LOG = 7


@dataclass(frozen=True)
class Job:
    """One frame of a street or log, or one room."""

    part: Part
    index: int
    frame: int = 0


def synthesize(config: SyntheticConfig, out: Path, workers: int | None = None) -> None:
    """Render a world of streets and rooms to KITTI and NYU files, and own logs.

    The files depend on the configuration alone, not on the number of workers. The folder `out` appears, whole, at
    the end.

    Args:
        config: sizes, counts and seed.
        out: folder to make; must not exist or be empty.
        workers: processes; by default one a CPU, or none (in this process) for few frames.

    Raises:
        SimipuError: `out` is not empty, cannot be written, or a worker died.
    """
    with new_folder(out) as draft:
        jobs = _lay_out(config, draft)
        with closing(map_frames(partial(_render, config, draft), jobs, "synthesize", workers)) as rendered:
            for _ in rendered:
                pass


def object_scene(config: SyntheticConfig, index: int) -> tuple[Street, Lens]:
    """The street of a KITTI object frame, and its camera's lens."""
    rng = np.random.default_rng([config.seed, Part.OBJECT, index])
    return make_street(rng), random_lens(rng, config.image_size)


@lru_cache(maxsize=2)
def drive_scene(config: SyntheticConfig, index: int) -> tuple[Street, Lens]:
    """The street of a drive, and its camera's lens."""
    rng = np.random.default_rng([config.seed, Part.DRIVE, index])
    return make_street(rng, config.frames_per_drive), random_lens(rng, config.image_size)


@lru_cache(maxsize=2)
def log_scene(config: SyntheticConfig, index: int) -> tuple[Street, Lens]:
    """The street of an own log, and its camera's lens."""
    rng = np.random.default_rng([config.seed, Part.LOG, index])
    return make_street(rng, config.frames_per_drive), random_lens(rng, config.image_size)


def random_lens(rng: np.random.Generator, size: tuple[int, int]) -> Lens:
    """The lens of a camera whose images have so many rows and columns."""
    red, blue = rng.uniform(0.93, 1.07, 2)
    return Lens(
        exposure=rng.uniform(0.7, 1.15),
        white_balance=(red, 1.0, blue),
        noise=rng.uniform(0.004, 0.014),
        supersampling=2 if size[0] * size[1] <= _SMALL_IMAGE else 1,
    )


def _frame_rng(config: SyntheticConfig, job: Job) -> np.random.Generator:
    """Random numbers of one frame; trailing zeros would not change a seed, hence + 1."""
    return np.random.default_rng([config.seed, job.part, job.index, job.frame + 1])


def _lay_out(config: SyntheticConfig, root: Path) -> list[Job]:
    """Make the folders and everything that is not rendered; list what is."""
    about = {"generator": "simipu synthetic world", "config": config.model_dump(mode="json"), "licence": LICENCE}
    (root / "synthetic.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    jobs = [Job(Part.OBJECT, index) for index in range(config.object_frames)]
    if config.object_frames:
        for folder in ("image_2", "velodyne", "calib"):
            (root / "kitti_object" / "training" / folder).mkdir(parents=True)
    if config.drives:
        date = root / "kitti_raw" / writers.DATE
        date.mkdir(parents=True)
        for name, text in raw_calibration(config.image_size).items():
            (date / name).write_text(text, encoding="utf-8")
    for drive in range(config.drives):
        raw, truth = _drive_folders(root, drive)
        rng = np.random.default_rng([config.seed, Part.CLOCK, drive])
        for sensor, delay in ((raw / "image_02", 9_000_000), (raw / "velodyne_points", 4_000_000)):
            (sensor / "data").mkdir(parents=True)
            clock = writers.timestamps(drive, config.frames_per_drive, delay, rng)
            (sensor / "timestamps.txt").write_text(clock, encoding="utf-8")
        truth.mkdir(parents=True)
        jobs += [Job(Part.DRIVE, drive, frame) for frame in range(config.frames_per_drive)]
    for room in range(config.rooms):
        _room_folder(root, room).mkdir(parents=True)
        jobs.append(Job(Part.ROOM, room))
    for index in range(config.logs):
        logs.lay_out(root, index, config.image_size)
        jobs += [Job(Part.LOG, index, frame) for frame in range(config.frames_per_drive)]
    return jobs


def _drive_folders(root: Path, drive: int) -> tuple[Path, Path]:
    """Folder of the raw drive and of its ground truth."""
    name = writers.drive_name(drive)
    truth = root / "kitti_depth" / "train" / name / "proj_depth" / "groundtruth" / "image_02"
    return root / "kitti_raw" / writers.DATE / name, truth


def _room_folder(root: Path, room: int) -> Path:
    """Every third room is a test scene."""
    name = f"room_{room:04d}"
    return root / "nyu" / "official_splits" / "test" / name if room % 3 == 2 else root / "nyu" / name


def _render(config: SyntheticConfig, root: Path, job: Job) -> None:
    parts = {
        Part.OBJECT: _render_object,
        Part.DRIVE: _render_drive,
        Part.ROOM: _render_room,
        Part.LOG: _render_log,
    }
    parts[job.part](config, root, job)


def _render_object(config: SyntheticConfig, root: Path, job: Job) -> None:
    folder, name = root / "kitti_object" / "training", f"{job.index:06d}"
    street, lens = object_scene(config, job.index)
    scene, pose = street.at(0)
    rng = _frame_rng(config, job)
    image = render_image(scene, object_camera(config.image_size), pose, lens, rng)
    writers.write_image(folder / "image_2" / f"{name}.png", image)
    writers.write_scan(folder / "velodyne" / f"{name}.bin", scan(scene, pose, config.lidar_points, rng).points)
    (folder / "calib" / f"{name}.txt").write_text(object_calibration(config.image_size), encoding="utf-8")


def _render_drive(config: SyntheticConfig, root: Path, job: Job) -> None:
    raw, truth = _drive_folders(root, job.index)
    name = f"{job.frame:010d}"
    street, lens = drive_scene(config, job.index)
    scene, pose = street.at(job.frame)
    camera, rng = raw_camera(config.image_size), _frame_rng(config, job)
    image = render_image(scene, camera, pose, lens, rng)
    writers.write_image(raw / "image_02" / "data" / f"{name}.png", image)
    points = scan(scene, pose, config.lidar_points, rng).points
    writers.write_scan(raw / "velodyne_points" / "data" / f"{name}.bin", points)
    depth = writers.semi_dense(render_depth(scene, camera, pose), camera, rng)
    writers.write_depth(truth / f"{name}.png", depth, 256)


def _render_room(config: SyntheticConfig, root: Path, job: Job) -> None:
    folder = _room_folder(root, job.index)
    for view, (image, depth) in enumerate(room_views(config, Part.ROOM, job.index)):
        writers.write_image(folder / f"rgb_{view:05d}.jpg", image)
        writers.write_depth(folder / f"sync_depth_{view:05d}.png", depth, 1000)


def room_views(
    config: SyntheticConfig, part: int, room: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Photograph (480, 640, 3) and exact depth (480, 640), metres, of each view of a room."""
    rng, camera = np.random.default_rng([config.seed, part, room]), nyu_camera()
    for scene, pose in make_room(rng, VIEWS_PER_ROOM):
        lens = random_lens(rng, camera.size)
        yield render_image(scene, camera, pose, lens, rng), render_depth(scene, camera, pose)


def _render_log(config: SyntheticConfig, root: Path, job: Job) -> None:
    street, lens = log_scene(config, job.index)
    scene, pose = street.at(job.frame)
    rng = _frame_rng(config, job)
    image = render_image(scene, object_camera(config.image_size), pose, lens, rng)
    logs.write_frame(root, job.index, job.frame, image, scan(scene, pose, config.lidar_points, rng))
