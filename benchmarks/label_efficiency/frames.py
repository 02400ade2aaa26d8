"""The frames that a study shares: shards of street and validation drives, other domains, dense depth, classes."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.label_efficiency import domains
from benchmarks.label_efficiency.studies import Job, Study
from simipu_core import synthetic
from simipu_core.artifacts import write_artifact
from simipu_core.config import SyntheticConfig
from simipu_core.data.images import decode_depth, encode_depth, encode_png
from simipu_core.data.schema import DEPTH, DepthRow, PairRow
from simipu_core.data.shards import Shards, ShardWriter
from simipu_core.experiment import Experiment
from simipu_core.files import new_folder
from simipu_core.parallel import map_frames
from simipu_core.stages import ingest, pair
from simipu_core.synthetic.calibration import object_camera, raw_camera
from simipu_core.synthetic.raycast import NONE
from simipu_core.synthetic.render import render_depth, render_solids
from simipu_core.synthetic.scene import Material
from simipu_core.synthetic.world import LICENCE, drive_scene, object_scene

_SCALE = 256.0
_FARTHEST = 100.0
"""Depths are kept to there, as `pair.depth_range` does, metres."""
PROBE_STRIDE = 4
"""Pixels of the net's input from one class label to the next."""
_PROBE_FRAMES = 64

CLASSES = ("sky", "ground", "building", "vegetation", "vehicle", "other")
_CLASS_OF = np.full(len(Material) + 1, CLASSES.index("other"), np.uint8)  # the last one is the sky's
for _name, _materials in {
    "sky": (NONE,),
    "ground": (Material.GROUND,),
    "building": (Material.FACADE, Material.ROOF, Material.BRICK),
    "vegetation": (Material.BARK, Material.FOLIAGE),
    "vehicle": (Material.CAR_BODY, Material.CAR_CABIN, Material.WHEEL),
}.items():
    _CLASS_OF[list(_materials)] = CLASSES.index(_name)


def needed(study: Study, jobs: Iterable[Job]) -> list[str]:
    """Names of the frames that some jobs need."""
    names: set[str] = set()
    for job in jobs:
        names |= {"validation"} if job.seed == 0 and len(study.scales) > 1 else set()
        for row, column in job.cells(study):
            names |= {"nothing": set(), "pairs": {"pairs"}, "dense": {"dense"}}[row.learns_from]
            names |= {column.frames} | ({"classes"} if column.asks == "classes" else set())
    return sorted(names)


def prepare(study: Study, names: Iterable[str], folder: Path, data: str | None = None) -> None:
    """Make the frames that are not there yet.

    Args:
        study: whose.
        names: of :func:`needed`.
        folder: where they lie, one folder each.
        data: folder of real frames; None renders.
    """
    for name in names:
        if not (folder / name).exists():
            if maker := MAKERS.get(name):
                maker(study, folder, data)
            else:
                _domain(name, study, folder)


def _shards(name: str, target: Literal["pairs", "depth"], study: Study, folder: Path, data: str | None) -> None:
    """Pack one target of the pipeline, from its own world or from real frames."""
    experiment = study.shared(study.validation if name == "validation" else ())
    raw = data
    if raw is None:
        place = folder / ("raw_validation" if name == "validation" else "raw")
        if not place.is_dir():
            synthetic.synthesize(experiment.synthetic, place)
        raw = str(place)
    source = experiment.pretrain_data if target == "pairs" else experiment.depth_data
    catalogue = folder / f"catalogue_{name}"
    shutil.rmtree(catalogue, ignore_errors=True)
    ingest.ingest(source, catalogue, root=raw)
    pair.pair(catalogue, experiment.pair, target, folder / name)


def _domain(name: str, study: Study, folder: Path) -> None:
    """Frames of another domain."""
    config = study.shared().synthetic
    splits = zip(("train", "eval"), study.domain_frames, strict=True)
    work = [(split, index) for split, number in splits for index in range(number)]
    with closing(map_frames(partial(_taken, name, config), work, name)) as rows:
        _write(folder / name, rows, {"domain": name, "world": config.model_dump(mode="json")})


def _taken(name: str, config: SyntheticConfig, frame: tuple[str, int]) -> tuple[str, DepthRow]:
    split, index = frame
    taken = domains.take(name, config, split, index)
    depth = taken.label if split == "train" else taken.truth
    return split, _row(f"{name}/{split}_{index:04d}/0", encode_png(taken.image), taken.intrinsics, depth)


def _dense(study: Study, folder: Path, data: str | None) -> None:
    """The frames of pre-training with the depth of every pixel."""
    prepare(study, ["pairs"], folder, data)
    config, pairs = study.shared().synthetic, Shards[PairRow](folder / "pairs", "pairs")
    frames = [pairs.row(index) for index in range(len(pairs))]
    work = [(frame["sample_id"], frame["image"], frame["intrinsics"]) for frame in frames]
    with closing(map_frames(partial(_rendered, config), work, "dense depth")) as rows:
        _write(folder / "dense", rows, {"dense": config.model_dump(mode="json")})


def _rendered(config: SyntheticConfig, frame: tuple[str, bytes, Any]) -> tuple[str, DepthRow]:
    sample_id, image, intrinsics = frame
    street, _ = object_scene(config, int(sample_id.rpartition("/")[2]))
    scene, pose = street.at(0)
    depth = render_depth(scene, object_camera(config.image_size), pose)
    return "train", _row(f"dense/{sample_id}", image, np.reshape(intrinsics, (3, 3)), depth)


def _row(sample_id: str, image: bytes, intrinsics: NDArray[np.float64], depth: NDArray[np.floating[Any]]) -> DepthRow:
    kept = np.where(np.isfinite(depth) & (depth < _FARTHEST), depth, 0)
    source, sequence = sample_id.split("/")[0], sample_id.rpartition("/")[0]
    return {
        "sample_id": sample_id,
        "source": source,
        "sequence": sequence,
        "timestamp_us": None,
        "image": image,
        "height": depth.shape[0],
        "width": depth.shape[1],
        "intrinsics": intrinsics.ravel().tolist(),
        "depth": encode_depth(kept, _SCALE),
        "depth_scale": _SCALE,
        "depth_origin": "rendered",
    }


def _write(out: Path, rows: Iterator[tuple[str, DepthRow]], parameters: dict[str, Any]) -> None:
    medians = []
    with (
        write_artifact(out, "depth", inputs={}, parameters=parameters, licence=LICENCE) as draft,
        ExitStack() as stack,
    ):
        writers = {
            split: stack.enter_context(ShardWriter(draft.path, split, DEPTH, rows_per_group=16, shard_mb=384))
            for split in ("train", "eval")
        }
        for split, row in rows:
            writers[split].write(row)
            if split == "train":
                depth = decode_depth(row["depth"], row["depth_scale"])
                medians.append(float(np.median(depth[depth > 0])))
        draft.counts["median_depth_train"] = float(np.median(medians))


def _classes(study: Study, folder: Path, data: str | None) -> None:
    """Classes of street frames on the grid of the probe: of some that train, and of all that are scored."""
    prepare(study, ["street"], folder, data)
    experiment = study.shared()
    arrays: dict[str, NDArray[Any]] = {}
    for split in ("train", "eval"):
        shards = Shards[DepthRow](folder / "street", "depth", split)  # type: ignore[arg-type]
        number = min(_PROBE_FRAMES, len(shards)) if split == "train" else len(shards)
        chosen = np.arange(number) * len(shards) // number
        ids = [shards.row(int(index))["sample_id"] for index in chosen]
        arrays |= {f"{split}_rows": chosen, split: np.stack([_class_map(experiment, name) for name in ids])}
    with new_folder(folder / "classes") as draft:
        np.savez(draft / "classes.npz", **arrays)  # type: ignore[arg-type]


def _class_map(experiment: Experiment, sample_id: str) -> NDArray[np.uint8]:
    """Classes of a rendered frame of a drive, seen through the middles of the probe's cells, (h, w)."""
    _, drive, frame = sample_id.split("/")
    config = experiment.synthetic
    street, _ = drive_scene(config, int(drive.split("_drive_")[1][:4]))
    scene, pose = street.at(int(frame))
    cell = PROBE_STRIDE / experiment.finetune.input_scale
    scale = np.diag([1 / cell, 1 / cell, 1.0])
    scale[:2, 2] = (1 / cell - 1) / 2
    camera = raw_camera(config.image_size)
    size = (int(config.image_size[0] // cell), int(config.image_size[1] // cell))
    solids = render_solids(scene, replace(camera, intrinsics=scale @ camera.intrinsics, size=size), pose)
    return _CLASS_OF[np.where(solids == NONE, NONE, scene.solids.material[solids])]


MAKERS: dict[str, Callable[[Study, Path, str | None], None]] = {
    "pairs": partial(_shards, "pairs", "pairs"),
    "street": partial(_shards, "street", "depth"),
    "validation": partial(_shards, "validation", "depth"),
    "dense": _dense,
    "classes": _classes,
}
"""How frames are made; all other names are domains."""
