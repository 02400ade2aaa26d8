"""Small real inputs that are laid out oddly: read right, or refused with their cause."""

from pathlib import Path

import pytest

from simipu_core.data.catalogue import examine
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.images import bits_used, decode_image
from tests.sources import any_source

pytestmark = pytest.mark.real_data


STUB = 100
"""Bytes below which a file stands for that of the sound sample."""


def laid_out(real_data: Path, case: str, root: Path) -> Path:
    """The case; what is a stub in it comes from the first frame of KITTI."""
    for file in (path for path in (real_data / "faults" / case).rglob("*") if path.is_file() and path.name != "README"):
        path = root / file.relative_to(real_data / "faults" / case)
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = real_data / path.relative_to(root).with_stem("000000")
        is_stub = file.stat().st_size < STUB and not file.name.startswith("._")
        path.write_bytes((sound if is_stub else file).read_bytes())
    return root


def examined(root: Path, kind: str) -> list[tuple[Frame | Rejected, object]]:
    found = any_source(kind=kind).list_frames(root)
    return [(frame, examine(root, frame) if isinstance(frame, Frame) else frame) for frame in found]


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("calib_bom", "kitti_object"),
        ("mac_apple_double", "kitti_object"),
        ("png16_12bit", "kitti_object"),
        ("pcl18_padded_pcd", "logs"),
        ("ply_scan", "logs"),
    ],
)
def test_odd_but_sound_inputs_are_read(real_data: Path, tmp_path: Path, case: str, kind: str) -> None:
    ((frame, row),) = examined(laid_out(real_data, case, tmp_path), kind)
    assert not isinstance(row, Rejected), row
    if case == "png16_12bit":
        assert isinstance(frame, Frame)
        data = frame.image.read_bytes()
        assert bits_used(data) == 12
        assert decode_image(data).mean() > 50


def test_five_floats_a_point_are_told(real_data: Path, tmp_path: Path) -> None:
    ((_, row),) = examined(laid_out(real_data, "velodyne_5floats", tmp_path), "kitti_object")
    assert isinstance(row, Rejected)
    assert row.reason.startswith("has 5 floats a point, as its numbers repeat; this layout's points are 4")
