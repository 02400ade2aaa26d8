"""Whatever the bytes: a valid frame or value, or one clear error; in bounded memory, and nothing is run.

Damaged copies of valid files go through the parsers themselves, and through whole sources: listing, examining,
packing. Any exception other than the project's own, and any memory beyond the limit set here, fails.
"""

import json
import pickle
import resource
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simipu_core.artifacts import read_manifest
from simipu_core.config import PairConfig
from simipu_core.data import catalogue
from simipu_core.data.formats.clouds import parse_cloud
from simipu_core.data.formats.scans import measured
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.images import check_depth, check_image, decode_depth, decode_image, encode_raw
from simipu_core.data.npy import parse_npy
from simipu_core.data.pairing import Packed, pack_depth, pack_pair
from simipu_core.data.schema import CATALOGUE, CatalogueRow, FrameRow
from simipu_core.data.shards import Shards
from simipu_core.data.sources import source_named
from simipu_core.errors import SimipuError
from simipu_core.experiment import load_experiment
from simipu_core.models.foreign import read_encoder
from simipu_core.models.weights import EncoderSpec, read_safetensors, read_spec, save_tensors
from simipu_core.parallel import map_frames
from simipu_core.stages.ingest import ingest
from simipu_core.training.checkpoint import Checkpoints, TrainingState
from tests import samples
from tests.data import clouds, files
from tests.data.mutations import damaged
from tests.data.test_logs import calibration
from tests.sources import any_source
from tests.worlds import World, synthesize

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


def here(work: Callable[[Any], Any], items: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
    yield from map(work, items)


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    """Listing happens in this process, whose memory is little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simipu_core.data.formats.waymo_segments.map_frames", here)
        patch.setattr("simipu_core.data.sources.nyu_labelled.apart", lambda work, *arguments: work(*arguments))
        yield


def replace(file: Path, data: bytes) -> None:
    """Write a new file in place of an old one, which a reader may still have open."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def short(error: SimipuError) -> None:
    """A message that a person can read: one line, of bounded length."""
    assert len(str(error)) < 1000
    assert "\n" not in str(error)


POINTS = files.scan(0, 40, 20)
XYZI = {name: POINTS[:, index] for index, name in enumerate(("x", "y", "z", "intensity"))}
SCANS = {
    "plain.bin": POINTS.tobytes(),
    "plain.npy": clouds.npy(POINTS),
    "ascii.pcd": clouds.pcd(POINTS, "ascii"),
    "binary.pcd": clouds.pcd(POINTS, "binary"),
    "compressed.pcd": clouds.pcd(POINTS, "binary_compressed"),
    "ascii.ply": clouds.ply(POINTS, "ascii"),
    "binary.ply": clouds.ply(POINTS, "binary_little_endian"),
    "plain.parquet": clouds.parquet(XYZI),
    "zstd.parquet": clouds.parquet(XYZI, compression="zstd"),
    "old.las": clouds.las(POINTS),
    "new.laz": clouds.las(POINTS, packed=True, version="1.4", point_format=7),
    "old.laz": clouds.las(POINTS, packed=True),
}
SMALL = (12, 40)


def parsed(suffix: str, data: bytes) -> Any:
    """Points of a scan, or the error."""
    try:
        return measured(parse_cloud(data, suffix, scale=65535 if ".la" in suffix else 1.0))[0]
    except SimipuError as error:
        return error


@pytest.mark.parametrize("name", SCANS)
def test_scans(name: str) -> None:
    suffix, cases = name[name.rindex(".") :], [SCANS[name]]

    @quick
    @given(damaged(SCANS[name]))
    def collect(data: bytes) -> None:
        cases.append(data)

    collect()
    parse = partial(parsed, suffix)
    is_spared = suffix == ".laz"  # its reader may abort
    results = list(map_frames(parse, cases, name, rejected=lambda *_: POINTS) if is_spared else map(parse, cases))
    assert len(results[0]) == len(POINTS)
    for points in results:
        if isinstance(points, SimipuError):
            short(points)
            continue
        assert points.dtype == np.float32
        assert points.shape[1] == 4
        assert np.isfinite(points).all()
        assert points[:, 3].min() >= 0
        assert points[:, 3].max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images(suffix: str) -> None:
    valid = files.image(0, suffix, SMALL)
    assert check_image(valid) == SMALL

    @quick
    @given(damaged(valid))
    def check(data: bytes) -> None:
        for read in (check_image, decode_image):
            try:
                found = read(data)
            except SimipuError:
                continue
            assert isinstance(found, tuple) or found.shape[2] == 3

    check()


def test_depth_maps_and_raw_pixels() -> None:
    valid = files.depth(0, SMALL)
    check_depth(valid, SMALL)
    raw = encode_raw(np.arange(480, dtype=np.uint16).reshape(SMALL))
    assert decode_depth(raw, 256).shape == SMALL

    @quick
    @given(st.one_of(damaged(valid), damaged(raw)))
    def check(data: bytes) -> None:
        for read in (partial(check_depth, size=SMALL), partial(decode_depth, scale=256.0), decode_image, parse_npy):
            try:
                read(data)
            except SimipuError:
                continue

    check()


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


def write_trees(root: Path) -> dict[str, Path]:
    """A tiny data set of every kind."""
    files.kitti_object(root, 1)
    files.kitti_raw(root, {files.DRIVE: range(1)})
    drive = root / "kitti_raw/2011_09_26" / files.DRIVE
    for sensor in ("image_02", "velodyne_points"):
        files.write(drive / sensor / "timestamps.txt", "2011-09-26 13:02:25.9\n")
    files.kitti_truth(root / "kitti_depth/train", {files.DRIVE: range(1)})
    files.nyu(root / "nyu", {"kitchen": range(1)})
    for name in ("plain.bin", "compressed.pcd", "zstd.parquet", "old.las"):
        data = SCANS[name]
        folder, suffix = root / "logs" / name.replace(".", "_"), name[name.rindex(".") :]
        scale = 65535 if ".la" in name else 1
        distortion = {"model": "plumb_bob", "coefficients": [0.1, 0, 0, 0]}
        files.write(
            folder / "calibration.yaml",
            calibration(time_unit="ms", lidars__top__reflectance_scale=scale, cameras__front__distortion=distortion),
        )
        files.write(folder / "images/front/1010.jpg", files.image(0, ".jpg"))
        files.write(folder / f"scans/top/1000{suffix}", data)
    world = World(
        object_frames=0,
        drives=0,
        waymo_segments=1,
        waymo_frames=1,
        nuscenes_scenes=1,
        nuscenes_frames=1,
        labelled_images=2,
        image_size=(32, 64),
        lidar_points=640,
    )
    synthesize(world, root / "world", workers=0)
    return {"waymo": root / "world", "nuscenes": root / "world", "nyu_labelled": root / "world"}


KINDS = ("kitti_object", "kitti_raw", "kitti_depth", "nyu", "logs", "waymo", "nuscenes", "nyu_labelled")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trees")
    return dict.fromkeys(KINDS, root) | write_trees(root)


def assert_sound(row: FrameRow, frame: Frame) -> None:
    assert pa.Table.from_pylist([{**row, "split": "train"}], schema=CATALOGUE).num_rows == 1
    assert row["height"] > 0
    assert row["width"] > 0
    assert np.isfinite(row["intrinsics"]).all()
    assert row["intrinsics"][0] > 0
    if frame.points:
        assert frame.lidar_to_camera is not None
        turn = np.reshape(frame.lidar_to_camera, (4, 4))[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=0.02)
        points = source_named(frame.source).read_scan(frame.points).points
        assert np.isfinite(points).all()


def run_source(kind: str, root: Path) -> int:
    """List, examine and pack; every outcome but a sound row, a named rejection or one sentence is an error.

    Returns:
        number of sound rows.
    """
    sound = 0
    try:
        found = any_source(kind=kind, root=str(root)).list_frames(root)
    except SimipuError:
        return 0
    config = PairConfig(min_points=1)
    for frame in found:
        outcome = catalogue.examine(root, frame) if isinstance(frame, Frame) else frame
        if isinstance(outcome, Rejected):
            assert outcome.reason
            assert "\n" not in outcome.reason
            continue
        assert isinstance(frame, Frame)
        assert_sound(outcome, frame)
        sound += 1
        row: CatalogueRow = {**outcome, "split": "train"}
        if frame.points:
            assert isinstance(pack_pair(root, config, row), Packed | Rejected)
        if frame.depth:
            assert isinstance(pack_depth(root, config, "official", row), Packed | Rejected)
    return sound


@pytest.mark.parametrize("kind", KINDS)
def test_sources_survive_damage_to_any_of_their_files(trees: dict[str, Path], kind: str) -> None:
    root = trees[kind]
    folder = root if kind == "kitti_depth" else root / kind
    inside = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "synthetic.json"]
    chosen = [path for path in inside if kind != "kitti_depth" or "kitti_depth" in path.parts or "calib" in path.name]
    whole = {path: path.read_bytes() for path in chosen}
    assert len(whole) >= (1 if kind == "nyu_labelled" else 2)
    assert run_source(kind, root) > 0
    examples = settings(quick, max_examples=max(10, 60 // len(whole)))
    for file, data in whole.items():

        def check(damage: bytes, file: Path) -> None:
            replace(file, damage)
            run_source(kind, root)

        examples(given(damage=damaged(data), file=st.just(file))(check))()
        replace(file, data)


def artifact(tmp_path: Path, kind: Literal["pairs", "depth"]) -> Path:
    rows = [samples.pair_row(0, 50), samples.pair_row(1, 50)] if kind == "pairs" else [samples.depth_row(0)]
    return samples.write_shards(tmp_path / "shards", kind, **{"pairs" if kind == "pairs" else "train": rows})


@pytest.mark.parametrize("kind", ["pairs", "depth"])
def test_shards(tmp_path: Path, kind: Literal["pairs", "depth"]) -> None:
    folder = artifact(tmp_path, kind)
    (file,) = folder.glob("*.parquet")
    valid, manifest = file.read_bytes(), json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"], manifest["files"][file.name]["footer_sha256"]  # so that the damage is read at all

    @quick
    @given(damaged(valid))
    def check(data: bytes) -> None:
        replace(file, data)
        manifest["files"][file.name]["bytes"] = len(data)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        try:
            shards = Shards(folder, "pairs") if kind == "pairs" else Shards(folder, "depth", "train")
            for index in range(min(len(shards), 4)):
                assert set(shards.row(index)) >= {"sample_id", "image"}
            shards.column("sample_id")
        except SimipuError as error:
            short(error)

    check()


def test_manifests(tmp_path: Path) -> None:
    folder = artifact(tmp_path, "pairs")
    file = folder / "manifest.json"
    valid = file.read_bytes()

    @quick
    @given(st.one_of(damaged(valid), st.integers(1, 100_000).map(lambda depth: b"[" * depth)))
    def check(data: bytes) -> None:
        file.write_bytes(data)
        try:
            read_manifest(folder)
        except SimipuError:
            return

    check()


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret"])
def test_manifests_and_catalogues_do_not_lead_out_of_their_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = artifact(tmp_path, "pairs")
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


def test_catalogues(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 2)
    ingest(any_source(kind="kitti_object", root=str(tmp_path / "raw")), tmp_path / "frames")
    file = tmp_path / "frames/frames.parquet"
    assert len(catalogue.read_frames(tmp_path / "frames")) == 2

    @quick
    @given(damaged(file.read_bytes()))
    def check(data: bytes) -> None:
        replace(file, data)
        try:
            rows = catalogue.read_frames(tmp_path / "frames")
        except SimipuError:
            return
        assert all(set(row) == set(CATALOGUE.names) for row in rows)

    check()


EXPERIMENT = yaml.safe_dump(
    {
        "experiment": "demo",
        "preset": "reference",
        "pretrain_data": {"kind": "logs", "lidar": "top"},
        "pretrain": {"epochs": 3, "image_encoder": {"name": "resnet18"}, "points": {"num_points": 4096}},
        "finetune": {"encoder_name": "resnet18", "schedule": {"max_lr": 1e-3}},
    }
).encode()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def experiment(tmp_path: Path, text: str | bytes) -> Any:
    file = tmp_path / "e.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_experiment(file)


def test_experiments(tmp_path: Path) -> None:
    experiment(tmp_path, EXPERIMENT)

    @settings(quick, max_examples=150)
    @given(damaged(EXPERIMENT))
    def check(data: bytes) -> None:
        try:
            experiment(tmp_path, data)
        except SimipuError as error:
            short(error)

    check()


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


SPEC = EncoderSpec(name="resnet18", norm_eps=1e-5, input=samples.tiny_pretrain().input)


def test_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_tensors({"a.weight": torch.ones(3, 4), "b": torch.zeros(5, dtype=torch.int64)}, file, SPEC)
    valid = file.read_bytes()

    @settings(quick, max_examples=150)
    @given(damaged(valid))
    def check(data: bytes) -> None:
        replace(file, data)
        for read in (read_safetensors, partial(read_spec, spec=EncoderSpec), read_encoder):
            try:
                read(file)
            except SimipuError as error:
                short(error)

    check()


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


@pytest.mark.parametrize("old", [False, True])
def test_torch_files(tmp_path: Path, old: bool) -> None:
    file = tmp_path / "w.pth"
    torch.save({"layer1.0.a": torch.ones(3, 4)}, file, _use_new_zipfile_serialization=not old)

    @quick
    @given(damaged(file.read_bytes()))
    def check(data: bytes) -> None:
        replace(file, data)
        try:
            read_encoder(file)
        except SimipuError as error:
            short(error)

    check()


def test_checkpoints(tmp_path: Path) -> None:
    def state() -> TrainingState:
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return TrainingState(model, [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)])

    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(7, state())
    assert checkpoints.resume(state()) == 7
    whole = {path: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    assert len(whole) == 2
    for file, data in whole.items():

        def check(damage: bytes, file: Path) -> None:
            replace(file, damage)
            try:
                assert checkpoints.resume(state()) in (0, 7)
            except SimipuError:
                return

        few(given(damage=damaged(data), file=st.just(file))(check))()
        replace(file, data)


def test_opencv_can_crash_on_nothing_here() -> None:
    """The limit on memory holds for what is allocated outside Python too: this is how a forged size would show."""
    with pytest.raises((MemoryError, cv2.error)):
        np.asarray(cv2.resize(np.zeros((2, 2), np.uint8), (65_000, 65_000)))
