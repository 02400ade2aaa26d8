import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from simipu_core.data.formats import pcd
from simipu_core.data.formats.clouds import MOST_POINTS, parse_cloud
from simipu_core.data.formats.scans import CLOUD_SUFFIXES, Dropped, measured, parse_points
from simipu_core.errors import SimipuError
from tests.data import clouds as made
from tests.data import files

POINTS = files.scan()
XYZI = {name: POINTS[:, index] for index, name in enumerate(("x", "y", "z", "intensity"))}
FILES = {
    "binary.pcd": made.pcd(POINTS, "binary"),
    "ascii.pcd": made.pcd(POINTS, "ascii"),
    "compressed.pcd": made.pcd(POINTS, "binary_compressed"),
    "four.bin": POINTS.tobytes(),
    "float.npy": made.npy(POINTS),
    "double.npy": made.npy(POINTS.astype(np.float64)),
    "fortran.npy": made.npy(np.asfortranarray(POINTS)),
    "ascii.ply": made.ply(POINTS, "ascii"),
    "little.ply": made.ply(POINTS, "binary_little_endian"),
    "big.ply": made.ply(POINTS, "binary_big_endian", "comment by hand\nobj_info nothing\n"),
    "columns.parquet": made.parquet({"ring": np.arange(len(POINTS)), **XYZI}),
    "doubles.parquet": made.parquet({name: column.astype(np.float64) for name, column in XYZI.items()}),
}
PACKED = {
    "old.las": made.las(POINTS),
    "new.las": made.las(POINTS, version="1.4", point_format=6),
    "old.laz": made.las(POINTS, packed=True),
    "new.laz": made.las(POINTS, packed=True, version="1.4", point_format=7),
}


def suffix(name: str) -> str:
    return name[name.rindex(".") :]


@pytest.mark.parametrize("name", FILES)
def test_points_come_back_exactly(name: str) -> None:
    points = parse_cloud(FILES[name], suffix(name))
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, POINTS)


@pytest.mark.parametrize("name", PACKED)
def test_las_points_come_back_to_its_steps(name: str) -> None:
    points = parse_cloud(PACKED[name], suffix(name), scale=65535)
    np.testing.assert_allclose(points[:, :3], POINTS[:, :3], atol=0.6e-4)
    np.testing.assert_allclose(points[:, 3], POINTS[:, 3], atol=0.51 / 65535)


def test_columns_scale_and_a_lack_of_intensity() -> None:
    six = np.column_stack([POINTS[:, 3] * 255, np.arange(len(POINTS)), POINTS[:, :3], POINTS[:, 0]]).astype("<f4")
    names = ("intensity", "ring", "x", "y", "z", "time")
    for data, kind in ((six.tobytes(), ".bin"), (made.npy(six), ".npy")):
        np.testing.assert_allclose(parse_cloud(data, kind, names, 255), POINTS, rtol=1e-6)
    without = parse_cloud(POINTS[:, :3].tobytes(), ".bin", ("x", "y", "z"), None)
    np.testing.assert_array_equal(without, np.column_stack([POINTS[:, :3], np.zeros(len(POINTS))]))


def test_structured_arrays_name_their_columns() -> None:
    table = np.zeros(len(POINTS), [("t", "<u8"), ("intensity", "u1"), ("x", "<f8"), ("y", ">f4"), ("z", "<f2")])
    table["intensity"], table["x"], table["y"], table["z"] = np.rint(POINTS[:, 3] * 255), *POINTS[:, :3].T
    points = parse_cloud(made.npy(table), ".npy", scale=255)
    np.testing.assert_allclose(points, POINTS, rtol=1e-3, atol=0.003)


def spoilt() -> NDArray[np.float32]:
    """The points, with one that is NaN, one infinitely far, one without return, and one twice."""
    points = np.insert(POINTS, (5, 5, 7, 700), 0, axis=0)
    points[5, 1], points[6, 2], points[9], points[703] = np.nan, np.inf, (0, 0, 0, 0.5), POINTS[3]
    return points


@pytest.mark.parametrize("name", FILES)
def test_points_that_are_no_measurements_are_left_out_of_every_format_and_counted(name: str) -> None:
    points = spoilt()
    columns = {axis: points[:, index] for index, axis in enumerate(("x", "y", "z", "intensity"))}
    of_format: dict[str, Callable[[], bytes]] = {
        ".bin": points.tobytes,
        ".npy": lambda: made.npy(points),
        ".pcd": lambda: made.pcd(points, name.split(".")[0].replace("compressed", "binary_compressed")),
        ".ply": lambda: made.ply(points, "ascii" if name == "ascii.ply" else "binary_big_endian"),
        ".parquet": lambda: made.parquet(columns),
    }
    kept, dropped = measured(parse_cloud(of_format[suffix(name)](), suffix(name)))
    np.testing.assert_array_equal(kept, POINTS)
    assert dropped == Dropped(not_finite=2, at_origin=1, repeated=1)


def test_las_points_that_are_no_measurements_are_left_out() -> None:
    points = np.insert(POINTS, (5, 700), 0, axis=0)
    points[701] = POINTS[3]
    kept, dropped = measured(parse_cloud(made.las(points), ".las", scale=65535))
    assert len(kept) == len(POINTS)
    assert dropped == Dropped(at_origin=1, repeated=1)


def test_a_scan_without_a_measurement_is_refused_with_counts() -> None:
    points = np.zeros((10, 4), np.float32)
    points[:4, 0] = np.nan
    with pytest.raises(SimipuError, match=r"^has no measured points \(4 are not finite, 6 lie at the origin\)$"):
        measured(points)


def test_a_signalling_nan_is_a_nan() -> None:
    data = bytearray(POINTS.tobytes())
    data[0:4] = b"\x01\x00\x80\x7f"
    assert measured(parse_cloud(bytes(data), ".bin"))[1] == Dropped(not_finite=1)


@pytest.mark.parametrize(("columns", "scale"), [(4, None), (4, 255.0), (3, None)])
def test_five_floats_a_point_are_not_read_as_another_number(columns: int, scale: float | None) -> None:
    table = np.column_stack([POINTS[:780], np.arange(780) % 32])  # as nuScenes has it: a ring
    names = ("x", "y", "z", "intensity")[:columns]
    sentence = r"^has 5 floats a point, as its numbers repeat; name each of them in the LiDAR's `columns`$"
    with pytest.raises(SimipuError, match=sentence):
        parse_cloud(table.astype("<f4").tobytes(), ".bin", names, scale)
    with pytest.raises(SimipuError, match=r"^has 5 floats a point, as its numbers repeat; this layout's points are 4"):
        parse_points(table.astype("<f4").tobytes())


def test_pages_that_pcl_pads_files_to_are_no_points() -> None:
    padded = FILES["binary.pcd"] + bytes(4096)
    np.testing.assert_array_equal(parse_cloud(padded, ".pcd"), POINTS)
    with pytest.raises(SimipuError, match="bytes of points, but its header asks for"):
        parse_cloud(padded[:-1] + b"\1", ".pcd")


def damaged_pcd(before: bytes, after: bytes) -> bytes:
    assert before in FILES["binary.pcd"]
    return FILES["binary.pcd"].replace(before, after)


def las_with(position: int, format_: str, value: int) -> bytes:
    data = bytearray(PACKED["old.las"])
    struct.pack_into(format_, data, position, value)
    return bytes(data)


def npy_with(before: bytes, after: bytes) -> bytes:
    assert len(before) == len(after)
    return FILES["float.npy"].replace(before, after)


OBJECTS: NDArray[np.object_] = np.array([[{"x": 1}]], dtype=object)
REFUSED = [
    (".bin", b"", "empty (0 bytes)"),
    (".bin", POINTS.tobytes()[:-2], "no whole number of 16-byte points of x, y, z, intensity"),
    (".npy", made.npy(POINTS[:, :3]), "has the shape (800, 3), not (N, 4)"),
    (".npy", made.npy(POINTS[0]), "has the shape (4,), not (N, 4)"),
    (".npy", made.npy(POINTS.astype(np.complex64)), "has a column x of complex64"),
    (".npy", made.npy(OBJECTS), "holds Python objects, which are not read"),
    (".npy", npy_with(b"(800, 4), }    ", b"(8000000000,4)}"), "which do not fill its shape (8000000000, 4)"),
    (".npy", npy_with(b"(800, 4), }   ", b"(-800, -4), } "), "damaged .npy header"),
    (".npy", npy_with(b"'descr': '<f4'", b"'descr': ((((("), "damaged .npy header"),
    (".npy", b"PK\x03\x04", "not a .npy array"),
    (".pcd", damaged_pcd(b"POINTS 800", b"POINTS 900"), "POINTS is not WIDTH × HEIGHT"),
    (".pcd", damaged_pcd(b"800", b"900"), "bytes of points, but its header asks for 20700"),
    (".pcd", damaged_pcd(b"800", b"99999999999"), "says it has 99999999999 points"),
    (".pcd", damaged_pcd(b"800", b"-1"), "damaged .pcd header"),
    (".pcd", damaged_pcd(b"COUNT 1 1 1 5", b"COUNT 1 1 1 999999999"), "a COUNT is out of range"),
    (".pcd", damaged_pcd(b"SIZE 4", b"SIZE 3"), "damaged .pcd header"),
    (".pcd", damaged_pcd(b"FIELDS x", b"FIELDS u"), "has no column x (it has u, y, z"),
    (".pcd", damaged_pcd(b"intensity", b"rgb"), "set the LiDAR's reflectance_scale to null"),
    (".pcd", damaged_pcd(b"DATA binary", b"DATA zip"), "has DATA zip; ascii, binary and binary_compressed are read"),
    (".pcd", b"\n" * 200_000, "not a .pcd file (it has no DATA line)"),
    (".pcd", FILES["ascii.pcd"][:-9], "has a line that is not numbers, or lines of different lengths"),
    (".pcd", FILES["compressed.pcd"][:-1], "truncated"),
    (".ply", FILES["little.ply"][:-300], "bytes of points, but its header asks for 16800"),
    (".ply", FILES["ascii.ply"][:5000], "is too short for the 800 points that its header says"),
    (".ply", FILES["ascii.ply"].replace(b"float x", b"list uchar int x"), "has lists in or before its vertices"),
    (".ply", FILES["little.ply"].replace(b"vertex 800", b"vertex 99999999"), "says it has 99999999 points"),
    (".ply", FILES["little.ply"].replace(b"float x", b"quad x"), "has a damaged .ply header"),
    (".ply", FILES["little.ply"].replace(b"element vertex", b"element point"), "has no element vertex"),
    (".ply", b"solid", "not a .ply file"),
    (".las", PACKED["old.las"][:300], "bytes of points, but its header asks for 16000"),
    (".las", las_with(107, "<I", 4_000_000_000), f"1 to {MOST_POINTS} points are read"),
    (".las", las_with(105, "<H", 3), "damaged LAS header"),
    (".las", las_with(96, "<I", 4_000_000_000), "damaged LAS header"),
    (".laz", las_with(104, "<B", 0x80), "has packed points, but no LASzip record"),
    (".laz", PACKED["old.laz"][:-200], "has damaged LAZ points"),
    (".parquet", FILES["columns.parquet"][:-5], "cannot be read as Parquet"),
    (".parquet", made.parquet({**XYZI, "x": ["a"] * len(POINTS)}), "has a column x that is not one number a point"),
    (".parquet", made.parquet({**XYZI, "x": [None] * len(POINTS)}), "has a column x that is not one number a point"),
    (".parquet", made.parquet({**XYZI, "x": [None, *POINTS[1:, 0]]}), "has points without a value (null)"),
    (".parquet", made.parquet({"x": POINTS[:, 0]}), "has no column y (it has x)"),
    (".parquet", made.parquet({name: np.zeros(MOST_POINTS + 1) for name in XYZI}), "1 to 16777216 are read"),
]


@pytest.mark.parametrize(("kind", "data", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_damage_and_forged_sizes_are_refused_with_the_reason(kind: str, data: bytes, reason: str) -> None:
    with pytest.raises(SimipuError) as refused:
        parse_cloud(data, kind)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda points: points.astype("<f8").tobytes(), "holds float64, not little-endian float32"),
        (lambda points: (points / 3.0).astype("<f8").tobytes(), "holds float64, not little-endian float32"),
        (lambda points: points.astype(">f4").tobytes(), "holds big-endian float32, not little-endian float32"),
        (lambda points: "\n".join(f"{x:.3f} {y:.3f}" for x, y, *_ in points.tolist()).encode(), "is text"),
    ],
)
def test_numbers_of_another_type_are_told(write: Callable[[NDArray[np.float64]], bytes], reason: str) -> None:
    rng = np.random.default_rng(0)
    points = np.hstack([rng.uniform(-70, 70, (1000, 3)), rng.uniform(0, 1, (1000, 1))])
    points[::7, 3] = 0
    assert parse_points(points.astype("<f4").tobytes()).shape == (1000, 4)
    with pytest.raises(SimipuError, match=reason):
        parse_points(write(points.astype(np.float32).astype(np.float64)))


def test_a_wrong_scale_is_told_by_the_intensities() -> None:
    strong = POINTS * (1, 1, 1, 200)
    sentence = r"has intensities from .* to 199.*, but the LiDAR's reflectance_scale is 1: they must lie between"
    with pytest.raises(SimipuError, match=sentence):
        parse_cloud(strong.astype("<f4").tobytes(), ".bin")


def test_lzf_agrees_with_its_definition_and_never_leaves_its_arrays() -> None:
    text = np.frombuffer(b"abcabcabcabc" * 40 + bytes(500) + bytes(range(256)), np.uint8)
    packed = np.frombuffer(made.lzf(text.tobytes()), np.uint8)
    assert len(packed) < len(text) / 2
    out = np.zeros(len(text), np.uint8)
    assert pcd.lzf_decompress(packed, out) == len(text)
    np.testing.assert_array_equal(out, text)
    assert pcd.lzf_decompress(packed, np.zeros(len(text) - 1, np.uint8)) == -1
    assert pcd.lzf_decompress(packed[:-1], out) == -1
    before_the_start = np.array([0, 65, 0x20, 5], np.uint8)
    assert pcd.lzf_decompress(before_the_start, out) == -1


def test_every_suffix_has_a_file_here() -> None:
    assert {suffix(name) for name in (*FILES, *PACKED)} == set(CLOUD_SUFFIXES)
