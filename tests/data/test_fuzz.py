"""Whatever the bytes: a valid frame or value, or one clear error; in bounded memory, and nothing is run.

Damaged copies of valid files go through the parsers themselves, and through whole sources: listing, examining,
packing. Any exception other than the project's own, and any memory beyond the limit set here, fails.
"""

import json
import pickle
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simipu_core.artifacts import read_manifest
from simipu_core.data import catalogue
from simipu_core.data.formats import waymo_segments
from simipu_core.data.formats.clouds import parse_cloud
from simipu_core.data.images import decode_depth, decode_image
from simipu_core.data.npy import parse_npy
from simipu_core.data.schema import CatalogueRow
from simipu_core.data.sources import nyu_labelled
from simipu_core.errors import SimipuError
from simipu_core.experiment import load_experiment
from simipu_core.models.foreign import read_encoder
from simipu_core.parallel import map_frames
from simipu_core.stages.ingest import ingest
from tests.data import clouds, files
from tests.data.parsers import PARSERS, SMALL, attempt, shards
from tests.sources import any_source
from tests.torture.fuzz import Parser

ROOM = 1 << 30
"""Bytes of address space that parsers may take beyond what the process has."""
quick = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
few = settings(quick, max_examples=25)


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    list(map_frames(str, [0], "start", workers=1))  # workers have bounds of their own, and take no others from here
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    """What parsers replace, so as to list in this process, whose memory is little, is put back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waymo_segments, "map_frames", vars(waymo_segments)["map_frames"])
        patch.setattr(nyu_labelled, "apart", vars(nyu_labelled)["apart"])
        yield


@pytest.mark.parametrize("name", [name for name in PARSERS if not name.startswith("bag") and ".laz" not in name])
def test_damaged_bytes_are_read_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    cases = PARSERS[name](tmp_path)
    rng = Random(name)
    taken = {attempt(case, rng) for case in cases for _ in range(max(10, 50 // len(cases)))}
    assert False in taken or name.startswith(("source", "checkpoint"))  # which leave out frames, or steps


@pytest.mark.parametrize("name", ["scan new.laz", "scan old.laz"])
def test_readers_that_may_abort_are_read_by_workers(name: str, tmp_path: Path) -> None:
    parser = Parser(name, tmp_path / "parser", inputs=50)
    trial = parser.attack(Random(0))
    parser.close()
    assert trial.broken == ()
    assert sum(trial.seen.values()) == trial.blows == 50
    assert trial.seen["refused"]


@pytest.mark.parametrize("size", [(60_000, 60_000), (1 << 20, 1 << 10), (2**31 - 1, 2**31 - 1), (0, 5)])
def test_forged_image_sizes_are_refused_before_anything_is_allocated(size: tuple[int, int]) -> None:
    png = bytearray(files.image(0, ".png", SMALL))
    png[16:24] = b"".join(side.to_bytes(4, "big") for side in size[::-1])
    jpeg = bytearray(files.image(0, ".jpg", SMALL))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xff\xff\xff\xff"
    for data in (bytes(png), bytes(jpeg)):
        for read in (decode_image, partial(decode_depth, scale=1.0)):
            with pytest.raises(SimipuError, match="up to 64 million are read"):
                read(data)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret"])
def test_manifests_and_catalogues_do_not_lead_out_of_their_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = shards(tmp_path, "pairs")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 6, "sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SimipuError, match="leads out of the folder"):
        read_manifest(folder)

    files.kitti_object(tmp_path / "raw", 1)
    ingest(any_source(kind="kitti_object", root=str(tmp_path / "raw")), tmp_path / "frames")
    (row,) = catalogue.read_frames(tmp_path / "frames")
    for kind in ("image", "points"):
        catalogue.write_frames([cast(CatalogueRow, row | {kind: name})], tmp_path / "frames")
        with pytest.raises(SimipuError, match="leads out of the root of its data"):
            catalogue.read_frames(tmp_path / "frames")
    catalogue.write_frames([row | {"lidar_to_camera": [1.0] * 12}], tmp_path / "frames")
    with pytest.raises(SimipuError, match=r"lidar_to_camera of kitti_object/\S+ has 12 numbers, not 16; run ingest"):
        catalogue.read_frames(tmp_path / "frames")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def experiment(tmp_path: Path, text: str | bytes) -> Any:
    file = tmp_path / "e.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_experiment(file)


def test_experiments_of_any_values(tmp_path: Path) -> None:
    sections = ["synthetic", "pretrain_data", "pair", "pretrain", "finetune", "evaluate", "tracking", "preset"]

    @settings(quick, max_examples=100)
    @given(st.dictionaries(st.sampled_from(sections), VALUES, max_size=3))
    def check(values: dict[str, Any]) -> None:
        try:
            experiment(tmp_path, yaml.safe_dump({"experiment": "x", **values}))
        except SimipuError:
            return

    check()


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "experiment: " + "[" * 50_000,
        "experiment: !!python/object/apply:os.system ['echo run']",
        "experiment: !!timestamp x",
        "experiment: " + "9" * 10_000,
        "? {a: 1}\n: 2",
        "experiment: 2001-99-99",
        "&a [*a]",
        "experiment: \x00",
        "experiment: demo\npretrain: [1]",
        "#" * (1 << 21),
    ],
)
def test_hostile_yaml_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(SimipuError) as refused:
        experiment(tmp_path, text)
    assert len(str(refused.value)) < 1000


class _Runs:
    """What a hostile pickle would run."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (Path(self.target), "was run")

    def __init__(self, target: str) -> None:
        self.target = target


def test_nothing_inside_a_file_is_run(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    hostile = _Runs(str(sign))
    pickled = pickle.dumps(hostile)
    torch.save({"state_dict": {"layer1.0.conv1.weight": hostile}}, tmp_path / "new.pth")
    torch.save({"layer1.0.conv1.weight": hostile}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickled)
    (tmp_path / "tensors.safetensors").write_bytes(pickled)
    for file in tmp_path.iterdir():
        with pytest.raises(SimipuError):
            read_encoder(file)
    objects = np.empty((1, 4), object)
    objects[:] = hostile
    for data in (clouds.npy(objects), pickled):
        for read in (parse_npy, partial(parse_cloud, suffix=".npy"), decode_image):
            with pytest.raises(SimipuError):
                read(data)
    assert not sign.exists()
    pickle.loads(pickled)
    assert sign.exists()  # the pickle is a working one


def test_opencv_can_crash_on_nothing_here() -> None:
    """The limit on memory holds for what is allocated outside Python too: this is how a forged size would show."""
    with pytest.raises((MemoryError, cv2.error)):
        np.asarray(cv2.resize(np.zeros((2, 2), np.uint8), (65_000, 65_000)))
