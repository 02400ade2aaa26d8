from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from simipu_core.config import PairConfig
from simipu_core.data.catalogue import read_frames
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.images import decode_depth, decode_image, encode_png, encode_raw
from simipu_core.data.lenses import Lens, undistort
from simipu_core.data.pairing import Packed, pack_depth
from simipu_core.data.schema import DepthRow
from simipu_core.data.shards import Shards
from simipu_core.data.sources.logs import Logs, mutual_nearest
from simipu_core.errors import SimipuError
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from simipu_core.synthetic.calibration import rotation
from tests.data import clouds, files
from tests.sources import any_source

TURN = [[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]
SHIFT = [0.1, -0.2, -0.3]
MATRIX = [[*row, shift] for row, shift in zip(TURN, SHIFT, strict=True)] + [[0.0, 0.0, 0.0, 1.0]]
CAMERA = {"size": [files.HEIGHT, files.WIDTH], "fx": 60.0, "fy": 60.0, "cx": 40.0, "cy": 12.0}
CALIBRATION: dict[str, Any] = {
    "cameras": {"front": {**CAMERA, "lidar_to_camera": {"matrix": MATRIX}}},
    "lidars": {"top": {}},
}


def calibration(**changes: Any) -> str:
    """Text of a calibration; keys are paths joined by two underscores, None removes."""
    values = deepcopy(CALIBRATION)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is None:
            del node[last]
        else:
            node[last] = value
    return yaml.safe_dump(values)


def log(
    root: Path, names: list[str], *, sequence: str = "a", text: str = "", scan_names: list[str] | None = None
) -> Path:
    folder = root / "logs" / sequence
    files.write(folder / "calibration.yaml", text or calibration())
    for seed, name in enumerate(names):
        files.write(folder / f"images/front/{name}.png", files.image(seed))
    for seed, name in enumerate(scan_names if scan_names is not None else names):
        files.write(folder / f"scans/top/{name}.bin", files.scan(seed).tobytes())
    return folder


def listing(root: Path, **settings: Any) -> list[Frame | Rejected]:
    return any_source(kind="logs", root=str(root), **settings).list_frames(root)


def sound(root: Path, **settings: Any) -> list[Frame]:
    found = listing(root, **settings)
    assert not [each for each in found if isinstance(each, Rejected)]
    return [each for each in found if isinstance(each, Frame)]


@pytest.mark.parametrize("at", ["", "logs"])
def test_images_and_scans_of_one_name_are_a_frame(tmp_path: Path, at: str) -> None:
    folder = log(tmp_path, ["000000", "000001"])
    log(tmp_path, ["x"], sequence="b")
    frames = sound(tmp_path / at)
    assert [frame.sample_id for frame in frames] == ["logs/a/front/000000", "logs/a/front/000001", "logs/b/front/x"]
    first = frames[0]
    assert (first.sequence, first.source, first.timestamp_us) == ("a", "logs", None)
    assert (first.image, first.points) == (folder / "images/front/000000.png", folder / "scans/top/000000.bin")
    assert first.intrinsics == (60.0, 0.0, 40.0, 0.0, 60.0, 12.0, 0.0, 0.0, 1.0)
    np.testing.assert_array_equal(np.reshape(first.lidar_to_camera or (), (4, 4)), MATRIX)


def test_one_calibration_may_serve_all_sequences(tmp_path: Path) -> None:
    for sequence in "ab":
        folder = log(tmp_path, ["0"], sequence=sequence)
    (folder / "calibration.yaml").rename(tmp_path / "logs/calibration.yaml")
    own = calibration(cameras__front__fx=99.0)
    files.write(tmp_path / "logs/a/calibration.yaml", own)
    assert [frame.intrinsics[0] for frame in sound(tmp_path)] == [99.0, 60.0]


def test_a_partner_that_is_missing_is_named(tmp_path: Path) -> None:
    log(tmp_path, ["0", "1"], scan_names=["1", "2"])
    found = listing(tmp_path)
    assert [
        (each.file.relative_to(tmp_path).as_posix(), each.reason) for each in found if isinstance(each, Rejected)
    ] == [
        ("logs/a/scans/top/0", "the image 0.png has no such scan of .bin, .npy, .pcd, .ply, .parquet, .las or .laz"),
        ("logs/a/images/front/2.png", "the scan 2.bin has no such image"),
    ]


def test_times_pair_what_is_nearest_to_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A camera of 30 Hz with a LiDAR of 10 Hz: every third image has a scan."""
    log(
        tmp_path,
        [str(1_700_000_000_000_000_000 + index * 33_333_333) for index in range(9)],
        scan_names=[str(1_700_000_000_000_000_000 + index * 100_000_000 + 4_000_000) for index in range(3)],
        text=calibration(time_unit="ns"),
    )
    frames = sound(tmp_path)
    assert [frame.timestamp_us for frame in frames] == [1_700_000_000_000_000 + time for time in (0, 99_999, 199_999)]
    assert [frame.points_timestamp_us for frame in frames] == [
        1_700_000_000_000_000 + time for time in (4_000, 104_000, 204_000)
    ]
    assert "logs/a: 3 pairs of 9 images and 3 scans" in capsys.readouterr().out


def test_mutual_nearest_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = (sorted(rng.choice(1000, rng.integers(1, 30), replace=False).tolist()) for _ in range(2))
        apart = np.abs(np.subtract.outer(first, second))
        expected = [(i, int(apart[i].argmin())) for i in range(len(first)) if apart[:, apart[i].argmin()].argmin() == i]
        assert mutual_nearest(first, second) == expected


def test_names_that_are_no_time_are_rejected(tmp_path: Path) -> None:
    log(tmp_path, ["100", "frame7", "9" * 19], scan_names=["101"], text=calibration(time_unit="s"))
    found = listing(tmp_path)
    assert [each.sample_id for each in found if isinstance(each, Frame)] == ["logs/a/front/100"]
    reasons = {each.sample_id: each.reason for each in found if isinstance(each, Rejected)}
    assert reasons == dict.fromkeys(
        ("logs/a/front/frame7", "logs/a/front/9999999999999999999"), "its name is no time in s"
    )


def test_images_too_far_from_their_scan_are_not_packed(tmp_path: Path) -> None:
    text = calibration(time_unit="ms")
    log(tmp_path / "raw", ["0", "100"], scan_names=["20", "170"], text=text)
    ingest(any_source(kind="logs", root=str(tmp_path / "raw")), tmp_path / "frames")
    with pytest.raises(SimipuError, match=r"170.bin: was taken 70 ms from its image, more than pair.max_sync_ms=50"):
        pair(tmp_path / "frames", PairConfig(), "pairs", tmp_path / "pairs")


def quaternion_of(turn: NDArray[np.float64]) -> list[float]:
    """x, y, z, w from the axis that the rotation leaves in place."""
    angle = np.arccos((np.trace(turn) - 1) / 2)
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / (2 * np.sin(angle))
    return [*(axis * np.sin(angle / 2)).tolist(), float(np.cos(angle / 2))]


def test_every_way_to_place_a_camera_gives_the_same(tmp_path: Path) -> None:
    turn, shift = np.array(TURN), np.array(SHIFT)
    xyzw = quaternion_of(turn)
    back = {"translation": (-turn.T @ shift).tolist(), "quaternion_xyzw": quaternion_of(turn.T)}
    rise = np.eye(4)
    rise[2, 3] = 1.7  # the LiDAR stands above the vehicle's origin
    to_vehicle = (rise @ np.linalg.inv(MATRIX)).tolist()
    placed = [
        {"lidar_to_camera": {"translation": SHIFT, "quaternion_xyzw": xyzw}},
        {"lidar_to_camera": {"translation": SHIFT, "quaternion_wxyz": [xyzw[3], *xyzw[:3]]}},
        {"camera_to_lidar": back},
        {"camera_to_lidar": {"matrix": np.linalg.inv(MATRIX).tolist()}},
        {"camera_to_vehicle": {"matrix": to_vehicle}},
        {"vehicle_to_camera": {"matrix": np.linalg.inv(to_vehicle).tolist()}},
    ]
    lidars: list[dict[str, Any]] = [{}] * 4 + [{"lidar_to_vehicle": {"matrix": rise.tolist()}}]
    lidars.append({"vehicle_to_lidar": {"matrix": np.linalg.inv(rise).tolist()}})
    for index, (camera, lidar) in enumerate(zip(placed, lidars, strict=True)):
        text = calibration(cameras__front={**CAMERA, **camera}, lidars__top=lidar)
        log(tmp_path, ["0"], sequence=str(index), text=text)
    for frame in sound(tmp_path):
        np.testing.assert_allclose(np.reshape(frame.lidar_to_camera or (), (4, 4)), MATRIX, atol=1e-12)


def test_cameras_and_lidar_are_chosen(tmp_path: Path) -> None:
    placed = {"matrix": np.eye(4).tolist()}
    values = {
        "cameras": {name: {**CAMERA, "camera_to_vehicle": placed} for name in ("front", "rear")},
        "lidars": {name: {"lidar_to_vehicle": placed} for name in ("top", "side")},
    }
    folder = log(tmp_path, ["0", "1"], text=yaml.safe_dump(values))
    files.write(folder / "images/rear/1.png", files.image(5))
    both = listing(tmp_path)
    assert {each.reason for each in both if isinstance(each, Rejected)} == {
        "has the LiDARs side, top: name one in `lidar`"
    }
    assert [each.sample_id for each in both] == ["logs/a/front/0", "logs/a/front/1", "logs/a/rear/1"]
    frames = sound(tmp_path, lidar="top", cameras=("front",))
    assert [frame.sample_id for frame in frames] == ["logs/a/front/0", "logs/a/front/1"]
    mixed = listing(tmp_path, lidar="top")
    assert [each.sample_id for each in mixed] == [
        "logs/a/front/0", "logs/a/rear/0", "logs/a/front/1", "logs/a/rear/1",
    ]  # fmt: skip
    with pytest.raises(SimipuError, match="unknown key `lidar`"):
        any_source(kind="nyu", lidar="top")


DOUBLED = (2 * np.array(MATRIX)).tolist()
MILLIMETRES = [[*row[:3], 1000 * row[3]] for row in MATRIX]
BROKEN = {
    "the key cameras.front.fz is not known": calibration(cameras__front__fz=1),
    "cameras.front: give fx, fy, cx and cy, or `intrinsics`": calibration(cameras__front__cy=None),
    "the key cameras.front.size is missing": calibration(cameras__front__size=None),
    "cameras.front.fx: Input should be greater than 0": calibration(cameras__front__fx=-60.0),
    "is no camera matrix": calibration(
        cameras__front={
            "size": [24, 80],
            "intrinsics": [[60.0, 0, 40], [0, 60.0, 12], [0.1, 0, 1]],
            "lidar_to_camera": {"matrix": MATRIX},
        }
    ),
    "lies far outside the image of 24×80 pixels": calibration(cameras__front__cx=960.0),
    "give one of lidar_to_camera, camera_to_lidar": calibration(cameras__front__lidar_to_camera=None),
    "so the LiDAR top needs lidar_to_vehicle": calibration(
        cameras__front={**CAMERA, "vehicle_to_camera": {"matrix": MATRIX}}
    ),
    "goes with one LiDAR only": calibration(lidars__side={}),
    "is it transposed": calibration(cameras__front__lidar_to_camera__matrix=np.transpose(MATRIX).tolist()),
    "no rotation": calibration(cameras__front__lidar_to_camera__matrix=[*DOUBLED[:3], MATRIX[3]]),
    "mirrors": calibration(cameras__front__lidar_to_camera__matrix=[[-x for x in MATRIX[0]], *MATRIX[1:]]),
    "are these millimetres": calibration(cameras__front__lidar_to_camera__matrix=[*MILLIMETRES[:3], MATRIX[3]]),
    "the quaternion has length 1.2": calibration(
        cameras__front__lidar_to_camera={"translation": SHIFT, "quaternion_xyzw": [0, 0, 0, 1.2]}
    ),
    "give `matrix` alone, or `translation` with": calibration(cameras__front__lidar_to_camera={"translation": SHIFT}),
    "plumb_bob takes 4 or 5 coefficients, not 3": calibration(
        cameras__front__distortion={"model": "plumb_bob", "coefficients": [0.1, 0, 0]}
    ),
    "distortion.model: Input should be 'plumb_bob'": calibration(
        cameras__front__distortion={"model": "ftheta", "coefficients": [0.1, 0, 0, 0]}
    ),
    "time_unit: Input should be 'ns', 'us', 'ms' or 's'": calibration(time_unit="h"),
    "reflectance_scale: Input should be greater than 0": calibration(lidars__top__reflectance_scale=0),
    "`columns` must be 3 to 64 different names": calibration(lidars__top__columns=["x", "x", "y"]),
    "has no camera front": calibration(cameras__rear=CALIBRATION["cameras"]["front"], cameras__front=None),
    "not readable as YAML": "cameras: [",
    "holds more than 100000 values": f"a: &a [{'x, ' * 400}]\nb: &b [{'*a, ' * 400}]\nc: [{'*b, ' * 9}]",
    "nested too deeply": "[" * 5000,
    "names `time_unit` twice": "time_unit: ns\ntime_unit: us\n",
    "larger than 1 MiB": "#" * (1 << 21),
    "holds an alias to a part that holds itself": "a: &a [*a]",
}  # fmt: skip


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_calibration_rejects_every_image_and_says_why(tmp_path: Path, reason: str) -> None:
    log(tmp_path, ["0", "1"], text=BROKEN[reason])
    found = listing(tmp_path)
    assert [each.sample_id for each in found] == ["logs/a/front/0", "logs/a/front/1"]
    for each in found:
        assert isinstance(each, Rejected)
        assert reason in each.reason
        assert "\n" not in each.reason
        assert len(each.reason) < 500
        assert each.file == tmp_path / "logs/a/calibration.yaml"


def test_a_calibration_that_is_missing_is_named(tmp_path: Path) -> None:
    (log(tmp_path, ["0"]) / "calibration.yaml").unlink()
    (lost,) = listing(tmp_path)
    assert isinstance(lost, Rejected)
    assert lost.reason == "the calibration file is missing"


def test_images_of_another_size_than_calibrated_are_rejected(tmp_path: Path) -> None:
    folder = log(tmp_path, ["0", "1"])
    files.write(folder / "images/front/1.png", files.image(1, size=(12, 40)))
    source = any_source(kind="logs", root=str(tmp_path), max_broken_share=0.5)
    assert ingest(source, tmp_path / "out").counts["broken"] == 1
    said = (tmp_path / "out/rejected.json").read_text()
    assert "12×40 pixels, but its calibration is for 24×80" in said


def test_odd_names_and_hidden_folders(tmp_path: Path) -> None:
    folder = log(tmp_path, ["0"])
    log(tmp_path, ["0"], sequence=".b.partial")
    log(tmp_path, ["0"], sequence="c d")
    for name in (b"a.parquet#1.png", b"\xff.png"):
        files.write(folder / "images/front" / name.decode(errors="surrogateescape"), files.image())
    source = any_source(kind="logs", root=str(tmp_path), max_broken_share=0.8)
    counts = ingest(source, tmp_path / "out").counts
    assert (counts["frames"], counts["broken"]) == (1, 3)
    said = (tmp_path / "out/rejected.json").read_text()
    assert said.count("other characters than letters, digits and . _ + -") == 3


def test_a_sequence_that_is_still_packed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = log(tmp_path, ["0"]).parent
    for name in ("a.zip", "b.tar.gz"):
        files.write(folder / name, b"")
    assert [frame.sample_id for frame in sound(tmp_path)] == ["logs/a/front/0"]
    assert capsys.readouterr().out == "logs/b.tar.gz is not read; unpack it if it holds a sequence\n"


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", "lost+found", "#recycle"])
def test_folders_that_machines_add_are_no_sequences_and_no_cameras(tmp_path: Path, name: str) -> None:
    folder = log(tmp_path, ["0"])
    log(tmp_path, ["0"], sequence=name)
    (folder / "images" / name).mkdir()
    assert [frame.sample_id for frame in sound(tmp_path)] == ["logs/a/front/0"]


def test_scans_of_all_formats_lie_side_by_side(tmp_path: Path) -> None:
    folder = log(tmp_path, [str(index) for index in range(3)], scan_names=["0"])
    files.write(folder / "scans/top/1.pcd", clouds.pcd(files.scan(1), "binary_compressed"))
    files.write(folder / "scans/top/2.NPY", clouds.npy(files.scan(2)))
    for index, frame in enumerate(sound(tmp_path)):
        assert frame.points is not None
        np.testing.assert_array_equal(Logs.read_scan(frame.points).points, files.scan(index))


def test_a_scale_that_changes_after_ingest_is_noticed(tmp_path: Path) -> None:
    folder = log(tmp_path / "raw", ["0"])
    ingest(any_source(kind="logs", root=str(tmp_path / "raw")), tmp_path / "frames")
    files.write(folder / "calibration.yaml", calibration(lidars__top__reflectance_scale=2.0))
    with pytest.raises(SimipuError, match=r"0.bin: changed since it was ingested"):
        pair(tmp_path / "frames", PairConfig(), "pairs", tmp_path / "pairs")


LENSES: list[tuple[Lens, list[float]]] = [
    ("plumb_bob", [-0.3, 0.1, 0.002, -0.001, 0.01]),
    ("rational_polynomial", [-0.2, 0.05, 0.001, 0.001, 0.01, 0.02, 0.01, 0.0]),
    ("equidistant", [-0.02, 0.01, 0.001, -0.001]),
]


@pytest.mark.parametrize(("lens", "coefficients"), LENSES)
def test_undistorted_images_show_things_where_a_pinhole_camera_would(lens: Lens, coefficients: list[float]) -> None:
    """Spots are drawn where OpenCV's forward model says that the lens shows points of the world."""
    intrinsics = np.array([[300.0, 0, 320], [0, 310.0, 240], [0, 0, 1]])
    world = np.array([[x, y, 4.0] for x in (-2.4, -1.2, 0.1, 1.3, 2.5) for y in (-1.8, -0.7, 0.6, 1.9)])
    none, values = np.zeros(3), np.array(coefficients)
    if lens == "equidistant":
        seen = cv2.fisheye.projectPoints(world[:, None], none, none, intrinsics, values)[0][:, 0]
    else:
        seen = cv2.projectPoints(world, none, none, intrinsics, values)[0][:, 0]
    pinhole = world @ intrinsics.T
    pinhole = pinhole[:, :2] / pinhole[:, 2:]
    assert np.abs(seen - pinhole).max() > 5  # the lens is worth undoing
    rows, columns = np.mgrid[:480, :640]
    spots = sum(np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 18) for u, v in seen)
    image = np.repeat((255 * np.clip(spots, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)
    flat = undistort(image, tuple(intrinsics.ravel().tolist()), lens, tuple(coefficients))[..., 0].astype(float)
    for u, v in pinhole:
        near = (np.abs(columns - u) < 12) & (np.abs(rows - v) < 12)
        weight = flat[near]
        assert weight.sum() > 1000
        centre = np.array([columns[near] @ weight, rows[near] @ weight]) / weight.sum()
        np.testing.assert_allclose(centre, (u, v), atol=0.35)


@pytest.mark.parametrize("encoding", ["source", "jpeg", "raw"])
def test_packing_undistorts_images(tmp_path: Path, encoding: str) -> None:
    distortion = {"model": "plumb_bob", "coefficients": [-0.3, 0.1, 0, 0]}
    coarse = np.random.default_rng(0).integers(0, 256, (4, 12, 3), dtype=np.uint8)
    finer = cv2.resize(coarse, (files.WIDTH, files.HEIGHT), interpolation=cv2.INTER_CUBIC)
    smooth = encode_png(finer.astype(np.uint8))
    folder = log(tmp_path / "raw", ["0"], text=calibration(cameras__front__distortion=distortion))
    files.write(folder / "images/front/0.png", smooth)
    ingest(any_source(kind="logs", root=str(tmp_path / "raw")), tmp_path / "frames")
    pair(tmp_path / "frames", PairConfig.model_validate({"image_encoding": encoding}), "pairs", tmp_path / "pairs")
    packed = decode_image(Shards(tmp_path / "pairs", "pairs").row(0)["image"])
    original = decode_image((folder / "images/front/0.png").read_bytes())
    expected = undistort(original, (60.0, 0, 40.0, 0, 60.0, 12.0, 0, 0, 1), "plumb_bob", (-0.3, 0.1, 0, 0))
    assert np.abs(expected.astype(int) - original).mean() > 10
    off = np.abs(expected.astype(int) - packed)
    assert off.mean() < (4 if encoding == "jpeg" else 1e-9)


@pytest.mark.parametrize(("suffix", "scale"), [(".npy", 256.0), (".tif", 256.0), (".png", 10.0)])
def test_depth_maps_of_own_cameras_are_packed(tmp_path: Path, suffix: str, scale: float) -> None:
    text = calibration(cameras__front__depth_scale=10, cameras__front__invalid_depths=[90])
    folder = log(tmp_path, ["1", "2"], text=text)
    size = (files.HEIGHT, files.WIDTH)
    values = np.full(size, 90, np.uint8) if suffix == ".png" else np.full(size, 90, np.float32)
    values[0, :4] = (50, 0, 51, 52) if suffix == ".png" else (5.0, np.nan, 5.1, 5.2)
    data = encode_raw(values) if suffix == ".npy" else bytes(cv2.imencode(suffix, values)[1])
    files.write(folder / f"depth/front/1{suffix}", data)
    source = any_source(kind="logs", root=str(tmp_path))
    assert ingest(source, tmp_path / "frames").counts["with_depth"] == 1
    (row, _) = read_frames(tmp_path / "frames")
    packed = pack_depth(tmp_path, PairConfig(), "official", row)
    assert isinstance(packed, Packed)
    depth = cast(DepthRow, packed.row)
    assert (packed.num_points, depth["depth_scale"]) == (3, scale)
    np.testing.assert_allclose(decode_depth(depth["depth"], scale)[0, :5], [5, 0, 5.1, 5.2, 0], atol=0.002)


def test_a_png_of_depth_needs_its_scale(tmp_path: Path) -> None:
    folder = log(tmp_path, ["1"])
    files.write(folder / "depth/front/1.png", files.depth())
    (frame,) = listing(tmp_path)
    assert isinstance(frame, Rejected)
    assert frame.reason == "the camera front has no depth_scale: metres = value / depth_scale"


def test_names_may_be_decimal_seconds(tmp_path: Path) -> None:
    log(tmp_path, ["1532402927.612460", "1532402927.7"], text=calibration(time_unit="s"))
    assert [frame.timestamp_us for frame in sound(tmp_path)] == [1_532_402_927_612_460, 1_532_402_927_700_000]


def test_images_and_scans_in_different_units_of_time_are_refused(tmp_path: Path) -> None:
    text = calibration(time_unit="ns")
    log(tmp_path, ["1532402927612460"], text=text, scan_names=["1532402927612460000"])
    (frame,) = listing(tmp_path)
    assert isinstance(frame, Rejected)
    assert frame.reason == (
        "images are named in another unit of time than scans (1532402927612460 and 1532402927612460000), or by another "
        "clock"
    )


def test_a_quaternion_in_the_other_order_that_lays_the_camera_down_is_refused(tmp_path: Path) -> None:
    x, y, z, w = Rotation.from_matrix(np.array(TURN) @ rotation(0, 0, np.deg2rad(90))).as_quat().tolist()
    wrong = {"translation": SHIFT, "quaternion_xyzw": [w, x, y, z]}
    log(tmp_path, ["1"], text=calibration(cameras__front__lidar_to_camera=wrong))
    (frame,) = listing(tmp_path)
    assert isinstance(frame, Rejected)
    assert "the other order, real part first, lets it stand upright: write quaternion_wxyz" in frame.reason
