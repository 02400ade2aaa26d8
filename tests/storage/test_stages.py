"""Ingest and pair on frames and artifacts in S3."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simipu_core.artifacts import local_artifact, read_manifest
from simipu_core.checking.report import Report
from simipu_core.cli import app, main
from simipu_core.config import PairConfig
from simipu_core.data.frames import Frame
from simipu_core.stages.check import check
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import Target, pair
from simipu_core.storage import S3Path, StorageError
from simipu_core.storage.s3_path import forget_listings
from tests.proxy import Fault, Proxy
from tests.sources import any_source
from tests.storage.conftest import Upload
from tests.worlds import World, synthesize

pytestmark = pytest.mark.slow

WORLD = World(
    object_frames=3,
    drives=2,
    frames_per_drive=2,
    rooms=1,
    waymo_segments=1,
    waymo_frames=2,
    nuscenes_scenes=1,
    nuscenes_frames=2,
    labelled_images=2,
    logs=2,
    image_size=(48, 96),
    lidar_points=6400,
)
CONFIG = PairConfig(min_points=1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "raw"
    synthesize(WORLD, folder, workers=0)
    return folder


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("kitti_object", "pairs"),
        ("kitti", "pairs"),
        ("kitti_depth", "depth"),
        ("nyu", "depth"),
        ("nyu_labelled", "depth"),
        ("waymo", "pairs"),
        ("nuscenes", "pairs"),
        ("logs", "pairs"),
    ],
)
def test_frames_in_s3_give_what_local_ones_give(
    kind: str, target: Target, world: Path, bucket: S3Path, upload: Upload, weed: Proxy, tmp_path: Path
) -> None:
    source = any_source(kind=kind, root=str(world))
    if target == "depth":
        source = source.model_copy(update={"split": "within_sequence"})
    root = upload(world, "raw")
    here = ingest(source, tmp_path / "catalogue")
    there = ingest(source, bucket / "catalogue", root=str(root))
    assert there.digest == here.digest
    assert there.licence == here.licence
    assert there.origin == str(root)
    packed = pair(tmp_path / "catalogue", CONFIG, target, tmp_path / "shards")
    repacked = pair(bucket / "catalogue", CONFIG, target, bucket / "shards")
    assert repacked.digest == packed.digest
    assert repacked.files == packed.files
    assert read_manifest(local_artifact(bucket / "shards"), target) == repacked


def test_frames_in_s3_are_checked_like_local_ones(world: Path, upload: Upload, tmp_path: Path) -> None:
    root = upload(world, "raw")
    here = check(any_source(kind="kitti_object", root=str(world)), PairConfig())
    words = ["check", "--kind", "kitti_object", "--root", str(root), "--out", str(tmp_path / "check")]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == here.has_faults, ended.output
    there = Report.model_validate_json((tmp_path / "check/check.json").read_text())
    assert there.findings == here.findings
    assert there.root == str(root)
    assert (there.frames, there.broken) == (3, ())


@pytest.mark.parametrize(
    ("kind", "file"),
    [("nyu_labelled", "nyu_labelled/nyu_depth_v2_labeled.mat"), ("logs", "logs/drive_0000/calibration.yaml")],
)
def test_a_network_that_fails_is_no_damaged_file(
    kind: str, file: str, world: Path, upload: Upload, weed: Proxy, tmp_path: Path
) -> None:
    root = upload(world, "raw")
    source = any_source(kind=kind, max_broken_share=1.0)
    weed.faults.append(Fault("cut", f"GET /{root.bucket}/{root.key}/{file}", times=99))
    with pytest.raises(StorageError, match="the connection broke off"):
        ingest(source, tmp_path / "out", root=str(root))


def test_a_frame_takes_no_more_requests_than_it_has_files(
    world: Path, upload: Upload, weed: Proxy, tmp_path: Path
) -> None:
    source = any_source(kind="kitti_object")
    root = upload(world, "raw")
    forget_listings()
    found = source.list_frames(root)
    assert all(isinstance(frame, Frame) for frame in found)
    listings = [request for request in weed.requests if "list-type=2" in request]
    assert len(weed.requests) - len(listings) == len(found)  # one calibration a frame
    assert len(listings) <= 5
    weed.requests.clear()
    ingest(source, tmp_path / "catalogue", root=str(root))
    reads = [request for request in weed.requests if "list-type=2" not in request]
    assert len(reads) == 3 * len(found) + 1  # calibration, image and scan; synthetic.json
    assert len(weed.requests) - len(reads) <= 7
    weed.requests.clear()
    pair(tmp_path / "catalogue", CONFIG, "pairs", tmp_path / "pairs")
    reads = [request for request in weed.requests if "list-type=2" not in request]
    assert len(reads) == 2 * len(found)
    assert len(weed.requests) - len(reads) <= 1


def test_processes_read_side_by_side(
    world: Path, upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = any_source(kind="kitti_object", root=str(upload(world, "raw")))
    alone = ingest(source, tmp_path / "alone")
    monkeypatch.setattr("simipu_core.parallel._FEWEST", 1)
    assert ingest(source, tmp_path / "together").digest == alone.digest


def test_the_command_line_takes_addresses(
    world: Path,
    bucket: S3Path,
    upload: Upload,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def simipu(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["simipu", *arguments, "-e", str(tmp_path / "settings.yaml"), "--no-track"])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text(
        "experiment: remote\npretrain_data: {kind: kitti_object}\npair: {min_points: 1}\n"
    )
    root = upload(world, "raw")
    catalogue, pairs = f"{bucket}/catalogue", f"{bucket}/pairs"
    assert not simipu("ingest", "pretrain", "--root", str(root), "--out", catalogue)
    assert "3 sound frames" in (tmp_path / "build/catalogue.html").read_text(encoding="utf-8")
    assert not simipu("pair", "pretrain", catalogue, "--out", pairs)
    assert f"{pairs}: pairs · frames 3" in capsys.readouterr().out
    assert read_manifest(S3Path.at(pairs), "pairs").counts["frames"] == 3
    assert simipu("pair", "pretrain", catalogue, "--out", pairs) == (
        f"error: {pairs}: already exists; remove it or choose another output folder."
    )
