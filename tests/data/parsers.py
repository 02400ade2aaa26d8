"""Every parser of bytes that come from elsewhere, with valid bytes to be damaged.

A reader returns, or raises `SimipuError`; whatever else it does is a fault.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
import yaml
from rosbags.rosbag2 import StoragePlugin

from pipelines.cluster import load_cluster
from simipu_core.artifacts import Manifest, read_manifest
from simipu_core.data import bags, catalogue
from simipu_core.data.formats.clouds import parse_cloud
from simipu_core.data.formats.depth_maps import as_depth_png
from simipu_core.data.formats.log_calibration import read_calibration
from simipu_core.data.formats.scans import measured
from simipu_core.data.frames import BrokenFrameError
from simipu_core.data.images import check_depth, check_image, decode_depth, decode_image, encode_raw
from simipu_core.data.npy import parse_npy
from simipu_core.data.schema import CATALOGUE
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from simipu_core.experiment import load_experiment
from simipu_core.models.foreign import read_encoder
from simipu_core.models.weights import EncoderSpec, read_safetensors, read_spec, save_tensors
from simipu_core.prediction.intrinsics import read_intrinsics
from simipu_core.stages.ingest import ingest
from simipu_core.tracking.delivery import Entry, read_entries
from simipu_core.training.checkpoint import Checkpoints, TrainingState
from tests import samples
from tests.data import files, test_bags
from tests.data.mutations import mutate
from tests.data.test_logs import calibration
from tests.data.trees import KINDS, POINTS, SCANS, list_in_this_process, read_tree, write_tree
from tests.sources import any_source

ROOT = Path(__file__).parents[2]
SMALL = (12, 40)
SPEC = EncoderSpec(name="resnet18", norm_eps=1e-5, input=samples.tiny_pretrain().input)
EXPERIMENT = yaml.safe_dump(
    {
        "experiment": "demo",
        "preset": "reference",
        "pretrain_data": {"kind": "logs", "lidar": "top"},
        "pretrain": {"epochs": 3, "image_encoder": {"name": "resnet18"}, "points": {"num_points": 4096}},
        "finetune": {"encoder_name": "resnet18", "schedule": {"max_lr": 1e-3}},
    }
).encode()


class Case(NamedTuple):
    """Valid bytes and what reads them."""

    valid: bytes
    read: Callable[[bytes], object]


Prepare = Callable[[Path], list[Case]]
"""Given an empty folder, which is kept, the cases of a parser."""


def short(error: SimipuError) -> None:
    """A message that a person can read: one line, of bounded length."""
    assert len(str(error)) < 1000
    assert "\n" not in str(error)


def replace(file: Path, data: bytes) -> None:
    """Write a new file in place of an old one, which a reader may still have open."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def attempt(case: Case, rng: Random) -> bool:
    """Read damaged bytes; whether they were taken.

    Raises:
        Exception: of any kind but `SimipuError`: a fault.
    """
    try:
        case.read(mutate(case.valid, rng))
    except SimipuError as error:
        short(error)
        return False
    return True


def shards(folder: Path, kind: Literal["pairs", "depth"]) -> Path:
    """Write an artifact of a few rows."""
    rows = [samples.pair_row(0, 50), samples.pair_row(1, 50)] if kind == "pairs" else [samples.depth_row(0)]
    return samples.write_shards(folder / "shards", kind, **{"pairs" if kind == "pairs" else "train": rows})


def _bytes(valid: bytes, *readers: Callable[[bytes], object]) -> Prepare:
    """Bytes that several readers read."""
    return lambda _: [Case(valid, reader) for reader in readers]


def _file(name: str, valid: bytes, *readers: Callable[[Path], object]) -> Prepare:
    """A file that several readers read."""

    def prepare(folder: Path) -> list[Case]:
        def read(data: bytes, reader: Callable[[Path], object]) -> None:
            replace(folder / name, data)
            reader(folder / name)

        return [Case(valid, partial(read, reader=reader)) for reader in readers]

    return prepare


def _scan(name: str) -> Prepare:
    suffix = name[name.rindex(".") :]

    def read(data: bytes) -> None:
        points, _ = measured(parse_cloud(data, suffix, scale=65535 if ".la" in suffix else 1.0))
        assert points.dtype == np.float32
        assert points.shape[1] == 4
        assert np.isfinite(points).all()
        assert points[:, 3].min() >= 0
        assert points[:, 3].max() <= 1
        assert data != SCANS[name] or len(points) == len(POINTS)

    return _bytes(SCANS[name], read)


def _decoded(data: bytes) -> None:
    assert decode_image(data).shape[2] == 3


def _depth_maps(_: Path) -> list[Case]:
    raw = encode_raw(np.arange(480, dtype=np.uint16).reshape(SMALL))
    readers = (partial(decode_depth, scale=256.0), decode_image, parse_npy)
    valid = files.depth(0, SMALL)
    cases = [Case(data, read) for data in (valid, raw) for read in readers]
    metres = np.arange(480, dtype=np.float32).reshape(SMALL) / 4
    formats = ((".png", valid), (".npy", encode_raw(metres)), (".tif", bytes(cv2.imencode(".tif", metres)[1])))
    own = [Case(data, partial(as_depth_png, suffix=suffix)) for suffix, data in formats]
    return [Case(valid, partial(check_depth, size=SMALL)), *cases, *own]


def _tree(kind: str) -> Prepare:
    """A whole source, any of whose files is damaged."""

    def prepare(folder: Path) -> list[Case]:
        list_in_this_process()
        whole = {path: path.read_bytes() for path in write_tree(kind, folder)}
        assert read_tree(kind, folder) > 0

        def read(data: bytes, file: Path) -> None:
            replace(file, data)
            try:
                read_tree(kind, folder)
            finally:
                replace(file, whole[file])

        return [Case(valid, partial(read, file=file)) for file, valid in whole.items()]

    return prepare


def _shards(kind: Literal["pairs", "depth"]) -> Prepare:
    def prepare(folder: Path) -> list[Case]:
        made = shards(folder, kind)
        (file,) = made.glob("*.parquet")
        valid, manifest = file.read_bytes(), json.loads((made / "manifest.json").read_text())
        del manifest["files"][file.name]["footer_sha256"]  # so that the damage is read at all

        def read(data: bytes) -> None:
            replace(file, data)
            manifest["files"][file.name]["bytes"] = len(data)
            (made / "manifest.json").write_text(Manifest.model_validate(manifest).summed().model_dump_json())
            opened = Shards(made, "pairs") if kind == "pairs" else Shards(made, "depth", "train")
            for index in range(min(len(opened), 4)):
                assert set(opened.row(index)) >= {"sample_id", "image"}
            opened.column("sample_id")

        return [Case(valid, read)]

    return prepare


def _manifest(folder: Path) -> list[Case]:
    file = shards(folder, "pairs") / "manifest.json"
    return _file("shards/manifest.json", file.read_bytes(), lambda file: read_manifest(file.parent))(folder)


def _catalogue(folder: Path) -> list[Case]:
    files.kitti_object(folder / "raw", 2)
    ingest(any_source(kind="kitti_object", root=str(folder / "raw")), folder / "frames")
    file = folder / "frames/frames.parquet"

    def read(data: bytes) -> None:
        replace(file, data)
        assert all(set(row) == set(CATALOGUE.names) for row in catalogue.read_frames(folder / "frames"))

    return [Case(file.read_bytes(), read)]


def _safetensors(folder: Path) -> list[Case]:
    file = folder / "w.safetensors"
    save_tensors({"a.weight": torch.ones(3, 4), "b": torch.zeros(5, dtype=torch.int64)}, file, SPEC)
    readers: tuple[Callable[[Path], object], ...] = (
        read_safetensors,
        partial(read_spec, spec=EncoderSpec),
        read_encoder,
    )
    return _file(file.name, file.read_bytes(), *readers)(folder)


def _torch_file(folder: Path, *, old: bool) -> list[Case]:
    file = folder / "w.pth"
    torch.save({"layer1.0.a": torch.ones(3, 4)}, file, _use_new_zipfile_serialization=not old)
    return _file(file.name, file.read_bytes(), read_encoder)(folder)


def training_state() -> TrainingState:
    """The state of a small network after a step."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return TrainingState(model, [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)])


def _checkpoints(folder: Path) -> list[Case]:
    checkpoints = Checkpoints(folder / "c")
    checkpoints.save(7, training_state())
    whole = {path: path.read_bytes() for path in (folder / "c").iterdir()}
    assert len(whole) == 2

    def read(data: bytes, file: Path) -> None:
        replace(file, data)
        try:
            assert checkpoints.resume(training_state()) in (0, 7)
        finally:
            replace(file, whole[file])

    return [Case(valid, partial(read, file=file)) for file, valid in whole.items()]


def _bag(storage: StoragePlugin | None) -> Prepare:
    """A bag of ROS 2, or of ROS 1; this process is the one that reads."""

    def prepare(folder: Path) -> list[Case]:
        if storage:
            bag = test_bags.write(folder / "drive", test_bags.drive(), storage)
            (file,) = (path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))
        else:
            bag = file = test_bags.write_ros_1(folder / "drive.bag", test_bags.drive())
        valid = file.read_bytes()

        def read(data: bytes) -> None:
            replace(file, data)
            out = folder / "raw"
            try:
                list(bags._import(bag, out / "logs/drive", test_bags.SETTINGS, 1 << 26))
            finally:
                shutil.rmtree(out, ignore_errors=True)

        return [Case(valid, read)]

    return prepare


def _log_calibration(file: Path) -> None:
    try:
        read_calibration(file)
    except BrokenFrameError as error:  # which rejects frames
        raise SimipuError(str(error)) from None


_UNSENT = "".join(
    Entry(run_id="a" * 32, kind="metrics", metrics=((f"loss{index}", 0.5, 1, index),)).line() for index in range(5)
).encode()

_INTRINSICS = b'{"fx": 721.5, "fy": 721.5, "cx": 609.6, "cy": 172.9, "size": [375, 1242]}'

PARSERS: dict[str, Prepare] = {
    **{f"scan {name}": _scan(name) for name in SCANS},
    **{f"image{suffix}": _bytes(files.image(0, suffix, SMALL), check_image, _decoded) for suffix in (".png", ".jpg")},
    "depth maps": _depth_maps,
    **{f"source {kind}": _tree(kind) for kind in KINDS},
    "bag db3": _bag(StoragePlugin.SQLITE3),
    "bag mcap": _bag(StoragePlugin.MCAP),
    "bag ros 1": _bag(None),
    "log calibration": _file("calibration.yaml", calibration().encode(), _log_calibration),
    "intrinsics": _file("camera.json", _INTRINSICS, lambda file: read_intrinsics(str(file))),
    "catalogue": _catalogue,
    "manifest": _manifest,
    "shards of pairs": _shards("pairs"),
    "shards of depth": _shards("depth"),
    "safetensors": _safetensors,
    "torch zip": partial(_torch_file, old=False),
    "torch pickle": partial(_torch_file, old=True),
    "checkpoint": _checkpoints,
    "experiment": _file("e.yaml", EXPERIMENT, load_experiment),
    "cluster.yaml": _file("cluster.yaml", (ROOT / "cluster.yaml").read_bytes(), load_cluster),
    "unsent entries": _file("u.jsonl", _UNSENT, lambda file: list(read_entries(file))),
}
