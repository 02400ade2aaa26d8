"""The synthetic world in layouts that tests alone need: Waymo v2, nuScenes and the labelled NYU file."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import numpy as np
from pydantic import Field

from simipu_core.config import SyntheticConfig
from simipu_core.synthetic import synthesize as synthesize_layouts
from simipu_core.synthetic.render import Lens
from simipu_core.synthetic.street import Street, make_street
from simipu_core.synthetic.world import VIEWS_PER_ROOM, random_lens, room_views
from tests.worlds import nuscenes, nyu_labelled, waymo

WAYMO, NUSCENES, LABELLED = 4, 5, 6
"""Seeds of the parts of the world, beside those of `simipu_core.synthetic.world.Part`."""


class World(SyntheticConfig):
    """What `simipu synthesize` renders, and more."""

    object_frames: int = Field(0, ge=0)
    drives: int = Field(0, ge=0)
    waymo_segments: int = Field(0, ge=0)
    """Number of drives written as Waymo v2 Parquet components, with one TOP and one short-range LiDAR."""
    waymo_frames: int = Field(8, ge=1)
    """Frames of each Waymo segment; the vehicle moves between and within them."""
    nuscenes_scenes: int = Field(0, ge=0)
    """Number of drives written as nuScenes tables and samples, with six cameras and LIDAR_TOP."""
    nuscenes_frames: int = Field(4, ge=1)
    """Keyframes of each nuScenes scene, half a second apart; the vehicle moves between scan and images."""
    labelled_images: int = Field(0, ge=0)
    """Number of room images written to a labelled NYU file (480×640), four of each room."""


def synthesize(config: World, out: Path, workers: int | None = None) -> None:
    """Render the world; `workers` is of what `simipu synthesize` renders, the rest is rendered in this process."""
    common = config.model_dump(include=set(SyntheticConfig.model_fields))
    synthesize_layouts(SyntheticConfig.model_validate(common), out, workers)
    for index in range(config.waymo_segments):
        _write_segment(config, out / "waymo/training", index)
    if config.nuscenes_scenes:
        streets = [nuscenes_scene(config, index)[0] for index in range(config.nuscenes_scenes)]
        nuscenes.write_tables(out / "nuscenes", streets, config.nuscenes_frames, config.image_size)
    for index in range(config.nuscenes_scenes):
        for frame in range(config.nuscenes_frames):
            _write_keyframe(config, out / "nuscenes", index, frame)
    if config.labelled_images:
        _write_labelled(config, out / "nyu_labelled")


def segment_scene(config: World, index: int) -> tuple[Street, Lens]:
    """The street of a Waymo segment, and its camera's lens."""
    rng = np.random.default_rng([config.seed, WAYMO, index])
    return make_street(rng, config.waymo_frames), random_lens(rng, config.image_size)


@lru_cache(maxsize=2)
def nuscenes_scene(config: World, index: int) -> tuple[Street, Lens]:
    """The street of a nuScenes scene, and its cameras' lens."""
    rng = np.random.default_rng([config.seed, NUSCENES, index])
    return make_street(rng, config.nuscenes_frames * nuscenes.STEPS), random_lens(rng, config.image_size)


def _write_segment(config: World, folder: Path, index: int) -> None:
    for name in waymo.SCHEMAS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    street, lens = segment_scene(config, index)
    waymo.write_segment(
        folder,
        index,
        street,
        lens,
        np.random.default_rng([config.seed, WAYMO, index, 1]),
        frames=config.waymo_frames,
        image_size=config.image_size,
        num_rays=config.lidar_points,
    )


def _write_keyframe(config: World, folder: Path, index: int, frame: int) -> None:
    street, lens = nuscenes_scene(config, index)
    nuscenes.write_keyframe(
        folder,
        index,
        frame,
        street,
        lens,
        np.random.default_rng([config.seed, NUSCENES, index, frame + 1]),
        image_size=config.image_size,
        num_rays=config.lidar_points,
    )


def _write_labelled(config: World, folder: Path) -> None:
    folder.mkdir()
    numbers = range(config.labelled_images)
    rooms: Iterator[int] = iter(range(-(-len(numbers) // VIEWS_PER_ROOM)))
    views = list(islice(chain.from_iterable(room_views(config, LABELLED, room) for room in rooms), len(numbers)))
    scenes = [f"room_{number // VIEWS_PER_ROOM:04d}" for number in numbers]
    images, depths = [image for image, _ in views], [depth for _, depth in views]
    nyu_labelled.write(folder / nyu_labelled.FILE, scenes, images, depths)
