import pytest

from simipu_core.errors import SimipuError
from simipu_core.geometry.crops import EIGEN_NYU, NYU_CROP, Crop, garg_crop, kb_crop


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(375, 1242, 23, 13), (376, 1241, 24, 12), (374, 1238, 22, 11), (370, 1226, 18, 5), (370, 1224, 18, 4)],
)
def test_kb_margins(height: int, width: int, top: int, left: int) -> None:
    """docs/method.md, "Depth augmentation"."""
    assert kb_crop(height, width) == Crop(top, top + 352, left, left + 1216)
    assert kb_crop(height, width).bottom == height


def test_garg_rectangles() -> None:
    """docs/method.md, "Protocols"."""
    assert garg_crop(352, 1216) == Crop(143, 349, 43, 1172)
    assert garg_crop(375, 1242) == Crop(153, 371, 44, 1197)
    assert garg_crop(375, 1242) == Crop(130, 348, 31, 1184).inside(kb_crop(375, 1242))


def test_nyu_rectangles() -> None:
    assert NYU_CROP.size == (427, 565)
    assert EIGEN_NYU.size == (426, 560)


def test_a_small_frame_is_refused() -> None:
    with pytest.raises(SimipuError, match="96×320, smaller than the KITTI benchmark crop"):
        kb_crop(96, 320)
