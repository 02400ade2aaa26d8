import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from simipu_core.artifacts import Manifest
from simipu_core.config import PairConfig
from simipu_core.data.images import decode_depth, decode_image, depth_values, image_size
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairViews
from simipu_core.errors import SimipuError
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import Target, pair
from tests.data import files
from tests.samples import tiny_pretrain
from tests.sources import any_source


def catalogue(folder: Path, **settings: Any) -> Path:
    out = folder / "catalogue"
    ingest(any_source(**{"kind": "kitti_object", "root": str(folder / "raw"), **settings}), out)
    return out


def pack(folder: Path, target: Target, name: str = "out", **settings: Any) -> Manifest:
    return pair(folder / "catalogue", PairConfig.model_validate(settings), target, folder / name)


def expected_points(index: int) -> np.ndarray:
    """Rows of a test scan inside the image, one by one with KITTI's own product."""
    kept = []
    for point in files.scan(index):
        x, y, z, _ = files.PROJECTION @ [*point[:3].astype(float), 1.0]
        if z > 0.001 and z < 100 and 0 <= x / z < files.WIDTH and 0 <= y / z < files.HEIGHT:
            kept.append(point)
    return np.array(kept)


def test_pairs_hold_the_image_and_the_points_in_its_frustum(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path / "raw", 3)
    catalogue(tmp_path)
    manifest = pack(tmp_path, "pairs")
    shards = Shards(tmp_path / "out", "pairs")
    rows = {row["sample_id"]: row for row in map(shards.row, range(3))}
    numbers, hidden = [len(expected_points(index)) for index in range(3)], []
    for index in range(3):
        row = rows[f"kitti_object/{index:06d}"]
        assert row["image"] == (training / f"image_2/{index:06d}.png").read_bytes()
        points = np.frombuffer(row["points"], "<f4").reshape(-1, 4)
        np.testing.assert_array_equal(points, expected_points(index))
        seen = np.unpackbits(np.frombuffer(row["visible"], np.uint8), count=len(points))
        hidden.append(1 - seen.mean())
    assert manifest.counts["frames"] == 3
    assert manifest.counts["mean_points_in_image"] == np.mean(numbers)
    assert manifest.counts["mean_share_in_image"] == pytest.approx(np.mean(numbers) / 800)
    assert manifest.counts["mean_share_occluded"] == pytest.approx(np.mean(hidden))
    assert 0 < np.mean(hidden) < 1
    assert manifest.licence == "CC BY-NC-SA 3.0 (KITTI)"


def test_raw_data_that_was_moved_is_told(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 3)
    catalogue(tmp_path)
    (tmp_path / "raw").rename(tmp_path / "moved")
    with pytest.raises(
        SimipuError, match=r"raw: no such folder; put the raw data of this catalogue back there, or run"
    ):
        pack(tmp_path, "pairs")


def test_raw_encoding_is_lossless(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 3)
    catalogue(tmp_path, split="within_sequence")
    for encoding in ("source", "raw"):
        pack(tmp_path, "depth", f"out_{encoding}", image_encoding=encoding, depth_from="projected_lidar")
    source, raw = (Shards(tmp_path / name, "depth", "train") for name in ("out_source", "out_raw"))
    for index in range(len(source)):
        ours, theirs = raw.row(index), source.row(index)
        assert ours["image"] != theirs["image"]
        np.testing.assert_array_equal(decode_image(ours["image"]), decode_image(theirs["image"]))
        np.testing.assert_array_equal(depth_values(ours["depth"]), depth_values(theirs["depth"]))


def test_jpeg_encoding_keeps_size_and_look(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path / "raw", 1)
    catalogue(tmp_path)
    pack(tmp_path, "pairs", image_encoding="jpeg")
    data = Shards(tmp_path / "out", "pairs").row(0)["image"]
    assert data.startswith(b"\xff\xd8")
    assert image_size(data) == (files.HEIGHT, files.WIDTH)
    original = decode_image((training / "image_2/000000.png").read_bytes())
    assert abs(decode_image(data).mean() - original.mean()) < 3


def test_pre_training_never_sees_what_the_split_keeps_for_evaluation(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 6)
    catalogue(tmp_path, split="within_sequence")
    pack(tmp_path, "pairs")
    names = Shards(tmp_path / "out", "pairs").column("sample_id")
    assert sorted(names) == [f"kitti_object/{index:06d}" for index in range(4)]


def test_official_depth_keeps_the_file_bytes(tmp_path: Path) -> None:
    files.kitti_raw(tmp_path / "raw", {files.DRIVE: range(6)}, scans=False)
    files.kitti_truth(tmp_path / "raw/kitti_depth/train", {files.DRIVE: range(6)})
    catalogue(tmp_path, kind="kitti_depth", split="within_sequence")
    manifest = pack(tmp_path, "depth")
    train, evaluate = (Shards(tmp_path / "out", "depth", split) for split in ("train", "eval"))
    assert (len(train), len(evaluate)) == (4, 2)
    row = evaluate.row(1)
    assert row["sample_id"] == f"kitti_depth/{files.DRIVE}/0000000005"
    assert row["depth"] == files.depth(5)
    assert (row["depth_scale"], row["depth_origin"]) == (256, "official")
    depths = np.concatenate([decode_depth(files.depth(index), 256).ravel() for index in range(4)])
    assert manifest.counts["median_depth_train"] == pytest.approx(np.median(depths[depths > 0]))
    assert (manifest.counts["train"], manifest.counts["eval"]) == (4, 2)


def test_ground_truth_of_a_synthetic_world_is_called_rendered(tmp_path: Path) -> None:
    files.nyu(tmp_path / "raw/nyu", {"a": [0], "b": [0]})
    files.write(tmp_path / "raw/synthetic.json", json.dumps({"licence": "CC0-1.0"}))
    catalogue(tmp_path, kind="nyu", split="by_sequence")
    pack(tmp_path, "depth")
    assert Shards(tmp_path / "out", "depth", "train").row(0)["depth_origin"] == "rendered"


def test_projected_lidar_puts_the_nearest_visible_point_on_each_pixel(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 3)
    catalogue(tmp_path, split="within_sequence")
    pack(tmp_path, "depth", depth_from="projected_lidar", occlusion_margin=0.99)  # so that visibility hides nothing
    row = Shards(tmp_path / "out", "depth", "eval").row(0)
    expected = np.full((files.HEIGHT, files.WIDTH), np.inf)
    for point in expected_points(2):
        x, y, z, _ = files.PROJECTION @ [*point[:3].astype(float), 1.0]
        column, line = round(x / z), round(y / z)
        if column < files.WIDTH and line < files.HEIGHT:
            expected[line, column] = min(expected[line, column], z)
    expected[np.isinf(expected)] = 0
    assert (row["depth_scale"], row["depth_origin"]) == (256, "projected_lidar")
    np.testing.assert_allclose(decode_depth(row["depth"], 256), expected, atol=0.5 / 256 + 1e-5)


def test_projected_lidar_drops_hidden_points(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 2)
    catalogue(tmp_path, split="within_sequence")
    settings = {"depth_from": "projected_lidar", "min_points": 10}
    kept = pack(tmp_path, "depth", "strict", occlusion_margin=0.05, **settings)
    everything = pack(tmp_path, "depth", "all", occlusion_margin=0.99, **settings)
    assert kept.counts["mean_depth_pixels"] < everything.counts["mean_depth_pixels"]


def test_output_is_equal_whatever_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = files.kitti_object(tmp_path / "raw", 10)
    files.write(training / "velodyne/000003.bin", files.scan(ahead=5).tobytes())
    catalogue(tmp_path)
    settings = {"rows_per_group": 4, "max_broken_share": 0.2}
    alone = pack(tmp_path, "pairs", "alone", **settings)
    monkeypatch.setattr("simipu_core.parallel._FEWEST", 1)
    assert pack(tmp_path, "pairs", "together", **settings).digest == alone.digest
    assert Shards(tmp_path / "alone", "pairs").group_sizes == [4, 4, 1]


def test_training_rows_mix_sequences(tmp_path: Path) -> None:
    files.kitti_raw(tmp_path / "raw", {files.DRIVE: range(8), "2011_09_26_drive_0002_sync": range(8)})
    catalogue(tmp_path, kind="kitti_raw")
    pack(tmp_path, "pairs")
    sequences = Shards(tmp_path / "out", "pairs").column("sequence")
    assert len(set(sequences[:8])) == 2


def test_a_scan_with_no_point_in_the_image_is_named(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path / "raw", 4)
    files.write(training / "velodyne/000001.bin", files.scan(ahead=0).tobytes())
    catalogue(tmp_path)
    sentence = "velodyne/000001.bin: has 0 of its 500 points in the image, fewer than pair.min_points=256"
    with pytest.raises(SimipuError, match=sentence):
        pack(tmp_path, "pairs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "raw"]
    assert pack(tmp_path, "pairs", max_broken_share=0.25).counts["broken"] == 1
    (entry,) = json.loads((tmp_path / "out/rejected.json").read_text())
    assert entry["sample_id"] == "kitti_object/000001"


def test_image_and_scan_too_far_apart_in_time_are_not_paired(tmp_path: Path) -> None:
    drive = files.kitti_raw(tmp_path / "raw", {files.DRIVE: range(2)}) / "2011_09_26" / files.DRIVE
    files.write(drive / "image_02/timestamps.txt", "2011-09-26 13:02:25.0\n2011-09-26 13:02:26.0\n")
    files.write(drive / "velodyne_points/timestamps.txt", "2011-09-26 13:02:25.049\n2011-09-26 13:02:26.081\n")
    catalogue(tmp_path, kind="kitti_raw")
    with pytest.raises(
        SimipuError, match=r"0000000001.bin: was taken 81 ms from its image, more than pair.max_sync_ms=50"
    ):
        pack(tmp_path, "pairs")
    assert pack(tmp_path, "pairs", max_sync_ms=100).counts["frames"] == 2


def test_raw_files_that_changed_or_vanished_are_named(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path / "raw", 2)
    catalogue(tmp_path)
    files.write(training / "image_2/000000.png", files.image(99))
    (training / "velodyne/000001.bin").unlink()
    with pytest.raises(SimipuError) as stopped:
        pack(tmp_path, "pairs")
    assert "image_2/000000.png: changed since it was ingested" in str(stopped.value)
    assert "velodyne/000001.bin: cannot be read (No such file or directory)" in str(stopped.value)
    with pytest.raises(SimipuError, match="could be packed"):
        pack(tmp_path, "pairs", max_broken_share=1)


def test_frames_that_lack_what_the_target_needs_are_refused_early(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 2)
    catalogue(tmp_path)
    with pytest.raises(SimipuError, match=r"no frame has official ground truth; set pair.depth_from"):
        pack(tmp_path, "depth")
    with pytest.raises(SimipuError, match=r"the split leaves no eval frame to pack; choose another `split`"):
        pack(tmp_path, "depth", depth_from="projected_lidar")


def test_depth_range_beyond_16_bits_is_refused(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path / "raw", 2)
    far = files.scan()
    far[:, :3] *= 20
    files.write(training / "velodyne/000001.bin", far.tobytes())
    catalogue(tmp_path, split="within_sequence")
    with pytest.raises(SimipuError, match=r"does not fit 16 bits.*lower pair.depth_range"):
        pack(tmp_path, "depth", depth_from="projected_lidar", depth_range=(0.1, 2000))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.kitti_object(tmp_path / "raw", 2)
    catalogue(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(SimipuError, match=r"the disk is full.*free space"):
        pack(tmp_path, "pairs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "raw"]


@pytest.mark.real_data
def test_real_frames_become_pairs_with_the_known_counts(real_data: Path, tmp_path: Path) -> None:
    ingest(any_source(kind="kitti_object", root=str(real_data)), tmp_path / "catalogue")
    pack(tmp_path, "pairs", depth_range=(0.0, 1000.0))
    shards = Shards(tmp_path / "out", "pairs")
    points = {row["sample_id"]: len(row["points"]) // 16 for row in map(shards.row, range(len(shards)))}
    assert points["kitti_object/000001"] == 18630
    assert points["kitti_object/000008"] == 17238


@pytest.mark.real_data
def test_real_drive_becomes_projected_depth(real_data: Path, tmp_path: Path) -> None:
    settings = any_source(kind="kitti", root=str(real_data), drives_only=True, split="within_sequence")
    ingest(settings, tmp_path / "catalogue")
    manifest = pack(tmp_path, "depth", depth_from="projected_lidar")
    assert (manifest.counts["train"], manifest.counts["eval"]) == (16, 8)
    assert 5 < manifest.counts["median_depth_train"] < 20


def test_what_training_sees_follows_the_occlusion_margin(tmp_path: Path) -> None:
    files.kitti_object(tmp_path / "raw", 3)
    catalogue(tmp_path)
    hidden = []
    for margin in (0.05, 0.99):
        pack(tmp_path, "pairs", f"out_{margin}", occlusion_margin=margin)
        shards = Shards(tmp_path / f"out_{margin}", "pairs")
        batch = PairViews(tiny_pretrain())([shards.row(0)], [np.random.default_rng(0)])
        hidden.append(int((~batch.is_visible).sum()))
    assert hidden[0] > hidden[1] == 0
