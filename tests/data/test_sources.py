import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest

from simipu_core import storage
from simipu_core.data.catalogue import read_frames
from simipu_core.data.formats.json_tables import records
from simipu_core.data.frames import BrokenFrameError, Frame, Rejected, by_cause
from simipu_core.data.sources import source_named
from simipu_core.data.sources.kitti_depth import DEFAULT_INTRINSICS
from simipu_core.data.sources.kitti_object import KittiObject
from simipu_core.data.sources.nyu import INTRINSICS
from simipu_core.errors import SimipuError
from simipu_core.stages.ingest import ingest
from simipu_core.yaml_files import read_yaml
from tests.data import files
from tests.data.test_logs import log
from tests.sources import any_source

Kind = Literal["kitti", "kitti_object", "kitti_raw", "kitti_depth", "nyu", "waymo", "waymo_kitti"]
OTHER_DRIVE = "2011_09_28_drive_0002_sync"


def listing(root: Path, kind: Kind, **settings: object) -> list[Frame | Rejected]:
    return any_source(kind=kind, **settings).list_frames(root)


def sound(root: Path, kind: Kind, **settings: object) -> list[Frame]:
    found = listing(root, kind, **settings)
    assert not [each for each in found if isinstance(each, Rejected)]
    return [each for each in found if isinstance(each, Frame)]


def broken(root: Path, kind: Kind) -> list[tuple[str, str, str]]:
    found = [each for each in listing(root, kind) if isinstance(each, Rejected)]
    return [(each.sample_id, each.file.relative_to(root).as_posix(), each.reason) for each in found]


def assert_projects_like_kitti(frame: Frame) -> None:
    assert frame.lidar_to_camera is not None
    intrinsics = files.homogeneous(np.reshape(frame.intrinsics, (3, 3)))
    product = intrinsics @ np.reshape(frame.lidar_to_camera, (4, 4))
    np.testing.assert_allclose(product, files.PROJECTION, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at", ["", "kitti_object"])
def test_kitti_object_lists_frames_under_the_root_or_the_layout_folder(tmp_path: Path, at: str) -> None:
    training = files.kitti_object(tmp_path, 3)
    frames = sound(tmp_path / at, "kitti_object")
    assert [frame.sample_id for frame in frames] == [f"kitti_object/{index:06d}" for index in range(3)]
    assert frames[2].image == training / "image_2/000002.png"
    assert frames[2].points == training / "velodyne/000002.bin"
    assert frames[2].timestamp_us is None
    assert_projects_like_kitti(frames[0])


def test_kitti_object_names_the_missing_half_of_a_pair(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path, 3)
    (training / "velodyne/000000.bin").unlink()
    (training / "image_2/000002.png").unlink()
    folder = "kitti_object/training"
    assert broken(tmp_path, "kitti_object") == [
        ("kitti_object/000000", f"{folder}/velodyne/000000.bin", "the image 000000.png has no such scan"),
        ("kitti_object/000002", f"{folder}/image_2/000002.png", "the scan 000002.bin has no such image"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "the calibration file is missing"),
        (files.object_calibration().replace("P2", "P9"), "the line P2 is missing"),
        (
            files.object_calibration().replace("R0_rect: 0.9999", "R0_rect: 0,9999"),
            "the line R0_rect is not 9 numbers; write its decimal commas as points",
        ),
        (files.object_calibration().replace("R0_rect: 0.9999", "R0_rect:"), "the line R0_rect is not 9 numbers"),
        (files.object_calibration().replace("cam: 0.007", "cam: nan"), "the line Tr_velo_to_cam is not 12 numbers"),
        (files.object_calibration().replace("P2: 60.0", "P2: 0.0"), "the line P2 is no camera matrix"),
        (b"P2: \xe4", "the calibration file cannot be read as text; save it as UTF-8"),
    ],
)
def test_a_broken_calibration_is_named_with_its_line(tmp_path: Path, text: str | None, reason: str) -> None:
    calib = files.kitti_object(tmp_path, 2) / "calib/000001.txt"
    calib.unlink() if text is None else files.write(calib, text)
    file = "kitti_object/training/calib/000001.txt"
    assert broken(tmp_path, "kitti_object") == [("kitti_object/000001", file, reason)]


@pytest.mark.parametrize("name", ["000001{}.part", ".000001{}.Xa3fGh", "000001.bmp", "000001{}.crdownload"])
def test_what_lies_in_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    training = files.kitti_object(tmp_path, 3)
    for file in (training / "image_2/000001.png", training / "velodyne/000002.bin"):
        file.rename(file.with_name(name.replace("000001", file.stem).format(file.suffix)))
    assert [reason for *_, reason in broken(tmp_path, "kitti_object")] == [
        f"the scan 000001.bin has no such image; there is only {name.format('.png')}",
        f"the image 000002.png has no such scan; there is only {name.replace('000001', '000002').format('.bin')}",
    ]


def test_folders_of_another_name_and_archives_are_named(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path, 1)
    (training / "velodyne").rename(training / "Velodyne")
    ((*_, reason),) = broken(tmp_path, "kitti_object")
    assert reason == "the image 000000.png has no such scan; there is no folder velodyne, only Velodyne"
    files.write(training / "image_2.zip", b"PK")
    (training / "image_2").rename(training / "elsewhere")
    (training / "Velodyne").rename(training / "velodyne")
    ((*_, reason),) = broken(tmp_path, "kitti_object")
    assert reason == "the scan 000000.bin has no such image; there is no folder image_2, only image_2.zip"
    training.rename(training.with_name("Training"))
    with pytest.raises(SimipuError, match=r"training/image_2; Training must be called training\); set `root`"):
        listing(tmp_path, "kitti_object")
    files.write(tmp_path / "training.tar.gz", b"\x1f\x8b")
    (tmp_path / "kitti_object").rename(tmp_path / "more")
    (tmp_path / "more/Training").rename(tmp_path / "more/training")
    with pytest.raises(SimipuError, match=r"training/image_2; they lie in more\)"):
        listing(tmp_path, "kitti_object")
    (tmp_path / "more/training").rename(tmp_path / "more/Training")
    with pytest.raises(SimipuError, match=r"training/image_2; training.tar.gz must be unpacked first\)"):
        listing(tmp_path, "kitti_object")
    with pytest.raises(SimipuError, match=r"training.tar.gz: is a file, which must be unpacked if it is an archive;"):
        storage.resolve(str(tmp_path / "training.tar.gz"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><title>401 Unauthorized</title>", "is a web page"),
        (b"<HTML>", "is a web page"),
    ],
)
def test_what_stands_in_place_of_files_of_any_format_is_told(tmp_path: Path, data: bytes, reason: str) -> None:
    for name in ("a.png", "a.bin"):
        with pytest.raises(BrokenFrameError, match=reason):
            KittiObject.read_file(files.write(tmp_path / name, data))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_texts_as_windows_writes_them_are_read(tmp_path: Path, encoding: str) -> None:
    training = files.kitti_object(tmp_path, 1)
    text = files.object_calibration().replace("\n", "\r\n")
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    files.write(training / "calib/000000.txt", (mark + text).encode(encoding))
    assert_projects_like_kitti(sound(tmp_path, "kitti_object")[0])


def test_calibrations_of_another_suffix_are_named(tmp_path: Path) -> None:
    calib = files.kitti_object(tmp_path, 1) / "calib/000000.txt"
    calib.rename(calib.with_suffix(".TXT"))
    assert broken(tmp_path, "kitti_object")[0][2] == "the calibration file is missing; there is only 000000.TXT"
    own = log(tmp_path, ["0"]) / "calibration.yaml"
    for place in (own, own.parents[1] / own.name):
        own = own.rename(place.with_suffix(".yml"))
        (lost,) = any_source(kind="logs").list_frames(tmp_path)
        assert isinstance(lost, Rejected)
        assert lost.reason == "the calibration file is missing; rename calibration.yml"


def test_pipes_and_devices_in_place_of_files_are_refused_without_waiting_for_them(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path, 3)
    pipe, device = (training / f"calib/{index:06d}.txt" for index in range(2))
    for calib in (pipe, device):
        calib.unlink()
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    assert [reason for *_, reason in broken(tmp_path, "kitti_object")] == [
        "the calibration file cannot be read (is no regular file)"
    ] * 2
    os.mkfifo(tmp_path / "table.json")
    with pytest.raises(SimipuError, match=r"table\.json: cannot be read as a JSON array"):
        next(records(tmp_path / "table.json"))
    drive = "2011_09_26_drive_0001_sync"
    os.mkfifo(files.kitti_raw(tmp_path, {drive: [0]}) / f"2011_09_26/{drive}/image_02/timestamps.txt")
    assert sound(tmp_path, "kitti_raw")[0].timestamp_us is None


def kitti_halves(root: Path) -> Path:
    """Six training frames of which three are listed, one of them lost, and two of testing/."""
    layout = files.kitti_object(root, 6).parent
    files.kitti_object(root / "more", 2).rename(layout / "testing")
    files.write(layout / "ImageSets/train.txt", "000000\n000003\n000009\n")
    return layout


def test_kitti_object_frame_sets(tmp_path: Path) -> None:
    kitti_halves(tmp_path)
    assert len(sound(tmp_path, "kitti_object")) == 6
    half = ["kitti_object/000000", "kitti_object/000003", "kitti_object/000009"]
    listed = listing(tmp_path, "kitti_object", frames="train_half")
    assert [frame.sample_id for frame in listed] == half
    assert [frame.reason for frame in listed if isinstance(frame, Rejected)] == ["the image is missing"]
    union = listing(tmp_path, "kitti_object", frames="train_half_and_testing")
    testing = ["kitti_object/testing/000000", "kitti_object/testing/000001"]
    assert [frame.sample_id for frame in union] == [*half, *testing]
    last = union[-1]
    assert isinstance(last, Frame)
    assert last.image == tmp_path / "kitti_object/testing/image_2/000001.png"


def test_frame_sets_say_what_is_missing(tmp_path: Path) -> None:
    layout = kitti_halves(tmp_path)
    (layout / "testing").rename(layout / "elsewhere")
    with pytest.raises(SimipuError, match=r"testing: no such folder; download KITTI's testing images"):
        listing(tmp_path, "kitti_object", frames="train_half_and_testing")
    (layout / "ImageSets/train.txt").unlink()
    with pytest.raises(SimipuError, match=r"ImageSets/train.txt: cannot be read; .* 3,712 .*MMDetection3D"):
        listing(tmp_path, "kitti_object", frames="train_half")


def waymo_kitti(root: Path) -> Path:
    """Two training frames of a conversion, seen by cameras 0 and 3, and one validation frame."""
    training = root / "waymo_kitti/training"
    calibration = "".join(
        files.line(f"P{camera}", np.hstack((files.P2[:, :3] + 10 * camera * np.eye(3, 3, 2), np.zeros((3, 1)))))
        + files.line(f"Tr_velo_to_cam_{camera}", files.VELO_TO_CAM)
        for camera in range(5)
    )
    for index, stem in enumerate(("0123000", "0124007", "1000000")):
        for camera in (0, 3):
            files.write(training / f"image_{camera}/{stem}.png", files.image(index))
        points = np.column_stack((files.scan(index)[:, :3], files.scan(index)[:, 3:] * 1000, np.zeros((800, 2))))
        files.write(training / f"velodyne/{stem}.bin", points.astype("<f4").tobytes())
        files.write(training / f"calib/{stem}.txt", calibration + files.line("R0_rect", np.eye(3)))
    return training


@pytest.mark.parametrize(("camera", "index"), [("front", 0), ("side_left", 3)])
def test_waymo_kitti_reads_its_training_ids_of_one_camera(tmp_path: Path, camera: str, index: int) -> None:
    training = waymo_kitti(tmp_path)
    frames = sound(tmp_path, "waymo_kitti", camera=camera)
    assert [frame.sample_id for frame in frames] == ["waymo_kitti/0123000", "waymo_kitti/0124007"]
    assert [frame.sequence for frame in frames] == ["0123", "0124"]
    assert frames[1].image == training / f"image_{index}/0124007.png"
    assert frames[0].intrinsics[2] == files.P2[0, 2] + 10 * index
    assert frames[0].lidar_to_camera == pytest.approx(files.homogeneous(files.VELO_TO_CAM).ravel().tolist())


def test_waymo_kitti_scans_are_six_floats_a_point(tmp_path: Path) -> None:
    waymo_kitti(tmp_path)
    frame = sound(tmp_path, "waymo_kitti")[0]
    assert frame.points is not None
    points = source_named(frame.source).read_scan(frame.points).points
    np.testing.assert_array_equal(points[:, :3], files.scan(0)[:, :3])
    np.testing.assert_allclose(points[:, 3], np.tanh(files.scan(0)[:, 3] * 1000), rtol=1e-6)
    files.write(frame.points, bytes(25))
    with pytest.raises(BrokenFrameError, match=r"truncated \(25 bytes are no whole number of 24-byte points"):
        source_named(frame.source).read_scan(frame.points)


def test_every_keeps_each_so_many_th_frame(tmp_path: Path) -> None:
    files.kitti_raw(tmp_path, {files.DRIVE: range(4), OTHER_DRIVE: range(3)})
    stems = [frame.sample_id[-12:] for frame in listing(tmp_path, "kitti_raw", every=3)]
    assert stems == ["c/0000000000", "c/0000000003", "c/0000000002"]


@pytest.mark.parametrize("at", ["", "kitti_raw"])
def test_kitti_raw_lists_synchronised_drives_without_timestamps(tmp_path: Path, at: str) -> None:
    raw = files.kitti_raw(tmp_path, {OTHER_DRIVE: [0], files.DRIVE: [2, 4]})
    files.write(raw / "2011_09_26/2011_09_26_drive_0001_extract/image_02/data/0000000000.png", files.image())
    files.write(raw / "2011_09_26" / files.DRIVE / "oxts/data/0000000002.txt", "1 2 3")
    frames = sound(tmp_path / at, "kitti_raw")
    assert [frame.sample_id for frame in frames] == [
        f"kitti_raw/{files.DRIVE}/0000000002",
        f"kitti_raw/{files.DRIVE}/0000000004",
        f"kitti_raw/{OTHER_DRIVE}/0000000000",
    ]
    assert [frame.sequence for frame in frames] == [files.DRIVE, files.DRIVE, OTHER_DRIVE]
    assert frames[0].timestamp_us is None
    assert_projects_like_kitti(frames[0])


def test_kitti_raw_reads_times_by_frame_number(tmp_path: Path) -> None:
    drive = files.kitti_raw(tmp_path, {files.DRIVE: [0, 2]}) / "2011_09_26" / files.DRIVE
    times = [f"2011-09-26 13:02:25.{index}64360375\n" for index in range(3)]
    files.write(drive / "image_02/timestamps.txt", "".join(times))
    files.write(drive / "velodyne_points/timestamps.txt", "".join([times[1], "\n", "\n"]))
    first, last = sound(tmp_path, "kitti_raw")
    assert first.timestamp_us == 1317042145_064360
    assert first.points_timestamp_us == 1317042145_164360
    assert last.timestamp_us == 1317042145_264360
    assert last.points_timestamp_us is None


def test_kitti_raw_names_missing_scans_and_broken_times(tmp_path: Path) -> None:
    drive = files.kitti_raw(tmp_path, {files.DRIVE: [0, 1]}) / "2011_09_26" / files.DRIVE
    (drive / "velodyne_points/data/0000000001.bin").unlink()
    files.write(drive / "image_02/timestamps.txt", "yesterday\n")
    assert [
        (file.removeprefix(f"kitti_raw/2011_09_26/{files.DRIVE}/"), why)
        for _, file, why in broken(tmp_path, "kitti_raw")
    ] == [
        ("image_02/timestamps.txt", "line 1 is not a time such as 2011-09-26 13:02:25.594360375"),
        ("velodyne_points/data/0000000001.bin", "the image 0000000001.png has no such scan"),
    ]


def test_a_date_without_calibration_breaks_its_frames_only(tmp_path: Path) -> None:
    raw = files.kitti_raw(tmp_path, {files.DRIVE: [0], OTHER_DRIVE: [0]})
    (raw / "2011_09_28/calib_velo_to_cam.txt").unlink()
    assert broken(tmp_path, "kitti_raw") == [
        (
            f"kitti_raw/{OTHER_DRIVE}/0000000000",
            "kitti_raw/2011_09_28/calib_velo_to_cam.txt",
            "the calibration file is missing",
        )
    ]


@pytest.mark.parametrize("truth", ["kitti_depth", "kitti_depth/train", "data_depth_annotated/val", "gt_depth", ""])
@pytest.mark.parametrize("scans", [True, False])
def test_kitti_depth_lists_frames_with_ground_truth(tmp_path: Path, truth: str, scans: bool) -> None:
    files.kitti_raw(tmp_path, {files.DRIVE: range(4)}, scans=scans)
    files.kitti_truth(tmp_path / truth, {files.DRIVE: [1, 2]})
    first, second = sound(tmp_path, "kitti_depth")
    assert first.sample_id == f"kitti_depth/{files.DRIVE}/0000000001"
    assert first.image.name == "0000000001.png"
    assert second.depth is not None
    assert second.depth.is_relative_to(tmp_path / truth)
    assert second.depth_scale == 256
    assert (second.points is not None) == (second.lidar_to_camera is not None) == scans


def test_kitti_depth_names_ground_truth_without_image(tmp_path: Path) -> None:
    files.kitti_raw(tmp_path, {files.DRIVE: [1]})
    files.kitti_truth(tmp_path / "kitti_depth/train", {files.DRIVE: [1, 2], OTHER_DRIVE: [5]})
    assert [(sample_id, why) for sample_id, _, why in broken(tmp_path, "kitti_depth")] == [
        (f"kitti_depth/{files.DRIVE}/0000000002", "the image is missing"),
        (f"kitti_depth/{OTHER_DRIVE}/0000000005", "the ground truth 0000000005.png has no such drive"),
    ]


def test_kitti_depth_reads_the_flat_sample_with_default_intrinsics(tmp_path: Path) -> None:
    files.write(tmp_path / "kitti_depth/rgb/0000000005.png", files.image())
    files.write(tmp_path / "kitti_depth/groundtruth/0000000005.png", files.depth())
    (frame,) = sound(tmp_path, "kitti_depth")
    assert frame.intrinsics == DEFAULT_INTRINSICS
    files.write(tmp_path / "kitti_depth/groundtruth/0000000006.png", files.depth())
    assert broken(tmp_path, "kitti_depth")[0][1:] == (
        "kitti_depth/rgb/0000000006.png",
        "the ground truth has no such image",
    )


@pytest.mark.parametrize("at", ["", "nyu"])
def test_nyu_lists_scenes_at_any_depth(tmp_path: Path, at: str) -> None:
    files.nyu(tmp_path / "nyu", {"sync/kitchen_0001": [0, 10], "official_splits/test/bath": [45]})
    frames = sound(tmp_path / at, "nyu")
    assert [frame.sample_id for frame in frames] == [
        "nyu/official_splits/test/bath/rgb_00045",
        "nyu/sync/kitchen_0001/rgb_00000",
        "nyu/sync/kitchen_0001/rgb_00010",
    ]
    assert frames[0].intrinsics == INTRINSICS
    assert frames[0].depth_scale == 1000
    assert frames[0].points is None


def test_nyu_names_images_without_depth(tmp_path: Path) -> None:
    files.nyu(tmp_path / "nyu", {"den": [0]})
    (tmp_path / "nyu/den/sync_depth_00000.png").unlink()
    assert broken(tmp_path, "nyu") == [
        ("nyu/den/rgb_00000", "nyu/den/sync_depth_00000.png", "the image rgb_00000.jpg has no such depth map")
    ]


def test_kitti_reads_both_layouts_or_only_drives(tmp_path: Path) -> None:
    files.kitti_object(tmp_path, 2)
    assert len(sound(tmp_path, "kitti", drives_only=True)) == 2
    files.kitti_raw(tmp_path, {files.DRIVE: range(3)})
    assert [frame.source for frame in sound(tmp_path, "kitti")] == ["kitti_object"] * 2 + ["kitti_raw"] * 3
    assert len(sound(tmp_path, "kitti", drives_only=True)) == 3


@pytest.mark.parametrize("kind", get_args(Kind))
def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(SimipuError, match=rf"holds no {kind} frames \(looked for .*; set `root`"):
        listing(tmp_path, kind)


@pytest.mark.real_data
def test_reads_every_real_sample(real_data: Path) -> None:
    assert len(sound(real_data, "kitti")) == 34
    assert len(sound(real_data, "kitti_depth")) == 2
    assert len(sound(real_data, "nyu")) == 2


def test_naming_the_sources_loads_no_library_that_reads_them() -> None:
    code = "import sys, simipu_core.experiment; print(*(name for name in sys.argv[1:] if name in sys.modules))"
    heavy = ("pyarrow", "h5py", "laspy", "numba", "cv2", "scipy", "boto3", "torch")
    ended = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert ended.stdout == "\n"


@pytest.mark.parametrize("file", ["calib_cam_to_cam.txt", "calib_velo_to_cam.txt"])
def test_a_byte_order_mark_is_no_part_of_a_calibration(tmp_path: Path, file: str) -> None:
    folder = files.kitti_raw(tmp_path, {files.DRIVE: [0]})
    source = any_source(kind="kitti_raw")
    (plain,) = source.list_frames(tmp_path)
    calibration = folder / files.DRIVE[:10] / file
    labels = calibration.read_bytes().replace(b"calib_time: 15-Mar-2012 11:37:16\n", b"")
    calibration.write_bytes(b"\xef\xbb\xbf" + labels)
    (marked,) = source.list_frames(tmp_path)
    assert isinstance(marked, Frame)
    assert marked == plain


def test_a_byte_order_mark_is_no_part_of_times_lists_or_yaml(tmp_path: Path) -> None:
    drive = files.kitti_raw(tmp_path, {files.DRIVE: [0]}) / files.DRIVE[:10] / files.DRIVE
    files.write(drive / "image_02/timestamps.txt", b"\xef\xbb\xbf2011-09-26 13:02:25.594360375\n")
    (frame,) = any_source(kind="kitti_raw").list_frames(tmp_path)
    assert isinstance(frame, Frame)
    assert frame.timestamp_us == 1317042145594360
    files.nyu(tmp_path / "nyu", {"den": [0, 1]})
    files.write(tmp_path / "nyu/list.txt", b"\xef\xbb\xbfden/rgb_00001.jpg den/sync_depth_00001.png\n")
    (frame,) = any_source(kind="nyu", lists=("list.txt",)).list_frames(tmp_path)
    assert isinstance(frame, Frame)
    assert frame.sample_id == "nyu/den/rgb_00001"
    assert read_yaml(files.write(tmp_path / "calibration.yaml", b"\xef\xbb\xbftime_unit: ns\n")) == {"time_unit": "ns"}
    assert list(records(files.write(tmp_path / "table.json", b'\xef\xbb\xbf[{"token": "a"}]'))) == [{"token": "a"}]


def test_frames_that_are_broken_alike_are_named_once(tmp_path: Path) -> None:
    broken = [Rejected(f"a/{index}", "a", tmp_path / f"{index}.txt", "the line P2 is missing") for index in range(9)]
    broken.insert(0, Rejected("a/9", "a", tmp_path / "9.png", "empty (0 bytes)"))
    broken += [Rejected("a/10", "a", tmp_path / "9.png", "empty (0 bytes)")]
    told = by_cause(broken, lambda file: file.name)
    assert told == ["0.txt and 8 more: the line P2 is missing", "9.png: empty (0 bytes)"]


UNPADDED: dict[str, tuple[Callable[[Path], object], dict[str, object]]] = {
    "logs": (lambda root: log(root, list(map(str, range(12)))), {"split": "within_sequence", "train_share": 0.75}),
    "kitti_object": (lambda root: files.kitti_object(root, 12), {}),
    "kitti_raw": (lambda root: files.kitti_raw(root, {files.DRIVE: range(12)}), {}),
}


@pytest.mark.parametrize("kind", UNPADDED)
def test_frames_without_padding_keep_their_order_through_ingest(tmp_path: Path, kind: str) -> None:
    """``2.png`` comes before ``10.png``, in the catalogue and where a sequence is cut into training and evaluation."""
    write, settings = UNPADDED[kind]
    write(tmp_path / "raw")
    for file in (tmp_path / "raw").rglob("*"):
        if file.stem.isdigit():
            file.rename(file.with_stem(str(int(file.stem))))
    ingest(any_source(kind=kind, **settings), tmp_path / "frames", root=str(tmp_path / "raw"))
    rows = read_frames(tmp_path / "frames")
    assert [row["sample_id"].rpartition("/")[2] for row in rows] == [str(index) for index in range(12)]
    if "split" in settings:
        assert [row["split"] for row in rows] == ["train"] * 9 + ["eval"] * 3
