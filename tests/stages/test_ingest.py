import errno
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from simipu_core import storage
from simipu_core.artifacts import read_manifest, sha256_file
from simipu_core.config.section import ANY_SIZE, SizeRange
from simipu_core.data.catalogue import examine, read_frames
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.schema import CATALOGUE
from simipu_core.data.sources import Source
from simipu_core.errors import SimipuError
from simipu_core.stages.ingest import ingest
from simipu_core.tracking.run import SilentRun
from tests.data import files
from tests.sources import any_source
from tests.worlds import World, synthesize


def source(root: Path, **settings: Any) -> Source:
    return any_source(**{"kind": "kitti_object", "root": str(root), **settings})


class RecordingRun(SilentRun):
    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.update(metrics)


def test_a_catalogue_describes_every_frame(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path / "raw", 4)
    run = RecordingRun()
    manifest = ingest(source(tmp_path / "raw", split="within_sequence"), tmp_path / "out", run=run)
    rows = read_frames(tmp_path / "out")
    assert [row["sample_id"] for row in rows] == [f"kitti_object/{index:06d}" for index in range(4)]
    assert [row["split"] for row in rows] == ["train"] * 3 + ["eval"]
    row = rows[1]
    assert row["image"] == "kitti_object/training/image_2/000001.png"
    assert row["image_sha256"] == sha256_file(training / "image_2/000001.png")
    assert row["points_sha256"] == sha256_file(training / "velodyne/000001.bin")
    assert (row["height"], row["width"], row["num_points"]) == (files.HEIGHT, files.WIDTH, 800)
    assert (row["depth"], row["depth_sha256"], row["depth_scale"], row["timestamp_us"]) == (None,) * 4
    assert len(row["intrinsics"]) == 9
    assert len(row["lidar_to_camera"] or ()) == 16
    schema = pq.read_schema(tmp_path / "out/frames.parquet")
    assert (schema.names, schema.metadata) == (CATALOGUE.names, CATALOGUE.metadata)
    assert json.loads((tmp_path / "out/rejected.json").read_text()) == []
    expected = {"frames": 4, "broken": 0, "train": 3, "eval": 1, "with_scan": 4, "with_depth": 0}
    assert expected.items() <= manifest.counts.items()
    assert run.metrics == manifest.counts
    assert manifest.licence == "CC BY-NC-SA 3.0 (KITTI)"


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("intrinsics", (1.0,) * 4),
        ("intrinsics", (float("nan"),) * 9),
        ("lidar_to_camera", (1.0,) * 12),
        ("lidar_to_camera", (float("inf"),) * 16),
    ],
)
def test_a_matrix_of_another_size_breaks_its_frame(tmp_path: Path, name: str, numbers: tuple[float, ...]) -> None:
    """As a new source may make them."""
    files.kitti_object(tmp_path, 1)
    (frame,) = source(tmp_path).list_frames(tmp_path)
    assert isinstance(frame, Frame)
    found = examine(tmp_path, replace(frame, **{name: numbers}))  # type: ignore[arg-type]
    size = {"intrinsics": 9, "lidar_to_camera": 16}[name]
    assert isinstance(found, Rejected)
    assert (found.file, found.reason) == (frame.image, f"its {name} is not {size} finite numbers")


def test_frames_without_scans_are_read_back(tmp_path: Path) -> None:
    files.nyu(tmp_path / "nyu", {"train/den": [0, 1], "test/den": [2]})
    manifest = ingest(source(tmp_path, kind="nyu", split="folders"), tmp_path / "out")
    rows = read_frames(tmp_path / "out")
    assert [(row["split"], row["depth_scale"], row["points"], row["lidar_to_camera"]) for row in rows] == [
        ("eval", 1000, None, None),
        ("train", 1000, None, None),
        ("train", 1000, None, None),
    ]
    assert manifest.licence == "NYU Depth v2 (no licence stated)"


def test_mixed_sources_lie_below_one_root(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 4)
    files.nyu(tmp_path / "raw/nyu", {"train/den": [0], "test/den": [1]})
    parts = [{"kind": "kitti_object", "every": 2}, {"kind": "nyu", "split": "folders"}]
    mixed = source(tmp_path / "raw", kind="mixed", sources=parts)
    manifest = ingest(any_source(**mixed.model_dump(mode="json")), tmp_path / "out")
    assert [(row["sample_id"], row["split"]) for row in read_frames(tmp_path / "out")] == [
        ("kitti_object/000000", "train"),
        ("kitti_object/000002", "train"),
        ("nyu/test/den/rgb_00001", "eval"),
        ("nyu/train/den/rgb_00000", "train"),
    ]
    assert manifest.licence == "CC BY-NC-SA 3.0 (KITTI); NYU Depth v2 (no licence stated)"
    overlapping = source(tmp_path / "raw", kind="mixed", sources=[{"kind": "kitti"}, {"kind": "kitti_object"}])
    with pytest.raises(SimipuError, match=r"^kitti_object/000000: two sources read this frame;"):
        ingest(overlapping, tmp_path / "other")


def test_waymo_brings_its_own_licence(tmp_path: Path) -> None:
    config = World(object_frames=0, drives=0, waymo_segments=1, waymo_frames=2, image_size=(32, 48), lidar_points=640)
    synthesize(config, tmp_path / "raw", workers=0)
    assert (
        ingest(source(tmp_path / "raw", kind="waymo"), tmp_path / "made").licence == "generated data, no restrictions"
    )
    (tmp_path / "raw/synthetic.json").unlink()
    assert "Waymo" in ingest(source(tmp_path / "raw", kind="waymo"), tmp_path / "real").licence


def test_the_digest_depends_on_content_not_on_place(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "here", 3)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here = ingest(source(tmp_path / "here"), tmp_path / "one")
    there = ingest(source(tmp_path / "unused"), tmp_path / "two", root=storage.pin(tmp_path / "there"))
    assert here.digest == there.digest
    assert here.origin == str(tmp_path / "here")
    assert there.origin == storage.pin(tmp_path / "there")
    files.write(tmp_path / "here/kitti_object/training/image_2/000001.png", files.image(99))
    assert ingest(source(tmp_path / "here"), tmp_path / "three").digest != here.digest


def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = files.kitti_object(tmp_path / "raw", 10)
    files.write(training / "velodyne/000004.bin", b"")
    files.write(training / "image_2/000002.png", b"")
    settings = source(tmp_path / "raw", max_broken_share=0.5)
    alone = ingest(settings, tmp_path / "alone")
    monkeypatch.setattr("simipu_core.parallel._FEWEST", 1)
    assert ingest(settings, tmp_path / "together").digest == alone.digest
    assert alone.counts["broken"] == 2


def test_synthetic_data_brings_its_own_licence(tmp_path: Path) -> None:
    files.kitti_object(tmp_path, 2)
    files.write(tmp_path / "synthetic.json", json.dumps({"licence": "CC0-1.0"}))
    assert ingest(source(tmp_path), tmp_path / "out").licence == "CC0-1.0"
    files.write(tmp_path / "synthetic.json", "{}")
    with pytest.raises(SimipuError, match="states no licence"):
        ingest(source(tmp_path), tmp_path / "again")


def truncate_scan(training: Path) -> None:
    scan = training / "velodyne/000001.bin"
    files.write(scan, scan.read_bytes()[:-7])


def truncate_image(training: Path) -> None:
    image = training / "image_2/000001.png"
    files.write(image, image.read_bytes()[:-500])


def put_nan(training: Path) -> None:
    points = files.scan()
    points[:, 1] = np.nan
    files.write(training / "velodyne/000001.bin", points.tobytes())


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated scan": (truncate_scan, "velodyne/000001.bin", "truncated (12793 bytes are no whole number of"),
    "empty scan": (lambda at: files.write(at / "velodyne/000001.bin", b""), "velodyne/000001.bin", "empty (0 bytes)"),
    "scan of NaN alone": (put_nan, "velodyne/000001.bin", "has no measured points (800 are not finite, 0 lie at the"),
    "empty image": (lambda at: files.write(at / "image_2/000001.png", b""), "image_2/000001.png", "empty (0 bytes)"),
    "truncated image": (truncate_image, "image_2/000001.png", "truncated PNG image"),
    "corrupt image": (
        lambda at: files.write(at / "image_2/000001.png", b"GIF89a"),
        "image_2/000001.png",
        "not a PNG or JPEG image",
    ),
    "calib without a line": (
        lambda at: files.write(at / "calib/000001.txt", "P2: 1 2 3\n"),
        "calib/000001.txt",
        "the line Tr_velo_to_cam is missing",
    ),
    "calib with words": (
        lambda at: files.write(at / "calib/000001.txt", files.object_calibration().replace("P2: 60.0", "P2: sixty")),
        "calib/000001.txt",
        "the line P2 is not 12 numbers",
    ),
    "image without scan": (
        lambda at: (at / "velodyne/000001.bin").unlink(),
        "velodyne/000001.bin",
        "the image 000001.png has no such scan",
    ),
    "scan without image": (
        lambda at: (at / "image_2/000001.png").unlink(),
        "image_2/000001.png",
        "the scan 000001.bin has no such image",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_frame_is_skipped_and_listed_or_stops_the_step(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, file, reason = DAMAGE[damage]
    break_it(files.kitti_object(tmp_path / "raw", 4))
    manifest = ingest(source(tmp_path / "raw", max_broken_share=0.25), tmp_path / "tolerant")
    assert (manifest.counts["frames"], manifest.counts["broken"]) == (3, 1)
    assert f"skipped 1 of 4 frames, listed in rejected.json (kitti_object/training/{file}: " in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "tolerant/rejected.json").read_text())
    assert entry["sample_id"] == "kitti_object/000001"
    assert entry["file"] == f"kitti_object/training/{file}"
    assert entry["reason"].startswith(reason)

    with pytest.raises(SimipuError) as stopped:
        ingest(source(tmp_path / "raw"), tmp_path / "strict")
    message = str(stopped.value)
    assert "1 of 4 frames are broken" in message
    assert f"{file}: {reason}" in message
    assert message.endswith("mend or remove these files.")
    assert "\n" not in message
    assert not [path for path in tmp_path.iterdir() if "strict" in path.name]


def test_a_depth_map_of_another_size_is_broken(tmp_path: Path) -> None:
    files.nyu(tmp_path / "nyu", {"den": [0, 1]})
    files.write(tmp_path / "nyu/den/sync_depth_00001.png", files.depth(size=(10, 10)))
    with pytest.raises(SimipuError, match=r"sync_depth_00001.png: 10×10 pixels, but its image is 24×80"):
        ingest(source(tmp_path, kind="nyu"), tmp_path / "out")


def test_many_broken_frames_are_shortened(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path / "raw", 6)
    for image in (training / "image_2").iterdir():
        files.write(image, b"")
    with pytest.raises(SimipuError, match=r"6 of 6 frames are broken.*000000.png and 5 more: empty .0 bytes.\)"):
        ingest(source(tmp_path / "raw"), tmp_path / "out")
    with pytest.raises(SimipuError, match="every frame is broken"):
        ingest(source(tmp_path / "raw", max_broken_share=1), tmp_path / "out")


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(SimipuError, match="holds no kitti_object frames"):
        ingest(source(tmp_path / "raw"), tmp_path / "out")
    with pytest.raises(SimipuError, match=r"no such folder; set `root`"):
        ingest(source(tmp_path / "nowhere"), tmp_path / "out")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.kitti_object(tmp_path / "raw", 2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("simipu_core.data.catalogue.pq.write_table", full)
    with pytest.raises(SimipuError, match=r"the disk is full.*free space"):
        ingest(source(tmp_path / "raw"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_catalogue_artifact_is_whole(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 2)
    manifest = ingest(source(tmp_path / "raw"), tmp_path / "out")
    assert read_manifest(tmp_path / "out", "catalogue") == manifest
    assert set(manifest.files) == {"frames.parquet", "rejected.json"}


@pytest.mark.parametrize(
    ("sizes", "fitting"),
    [
        (((352, 1216), (400, 1300)), "352×1216 to 400×1300"),  # a smaller camera than KITTI's
        (((1, 1), (20, 1300)), "1×1 to 20×1300"),
        (((352, 640), ANY_SIZE[1]), "352×640 and more"),
    ],
)
def test_images_that_do_not_fit_the_crops_are_refused_before_any_training(
    tmp_path: Path, sizes: SizeRange, fitting: str
) -> None:
    files.kitti_object(tmp_path / "raw", 2)
    with pytest.raises(SimipuError) as refused:
        ingest(source(tmp_path / "raw", image_sizes=sizes), tmp_path / "out")
    assert (
        f"image_2/000000.png and 1 more: {files.HEIGHT}×{files.WIDTH} pixels, but finetune.augment and "
        f"evaluate.protocols are set for {fitting}; leave out what belongs to another camera (fixed_crop, protocols), "
        "or lower finetune.augment.crop" in str(refused.value)
    )
