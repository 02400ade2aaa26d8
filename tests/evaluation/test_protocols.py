import numpy as np
import pytest

from simipu_core.config import Protocol
from simipu_core.errors import SimipuError
from simipu_core.evaluation.protocols import region, valid_pixels
from simipu_core.geometry.crops import Crop


def test_regions_of_a_kitti_frame() -> None:
    """The toolbox's region is Garg's fractions of the KB crop, BTS's those of the full frame.

    See docs/method.md, "Protocols".
    """
    assert region("garg_kb_crop", 375, 1242) == Crop(23 + 143, 23 + 349, 13 + 43, 13 + 1172)
    assert region("garg_full_frame", 375, 1242) == Crop(153, 371, 44, 1197)
    assert region("whole_frame", 375, 1242) == Crop(0, 375, 0, 1242)
    assert region("eigen_nyu", 480, 640) == Crop(45, 471, 41, 601)


@pytest.mark.parametrize("protocol", ["garg_kb_crop", "garg_full_frame", "whole_frame"])
def test_only_depths_strictly_inside_the_range_count(protocol: Protocol) -> None:
    truth = np.full((375, 1242), 10, np.float32)
    truth[:, ::2] = 80.0
    truth[::2] = 0.0
    mask = valid_pixels(protocol, truth, (1e-3, 80))
    assert (truth[mask] == 10).all()
    crop = region(protocol, 375, 1242)
    assert mask.sum() == (crop.cut(truth) == 10).sum()


def test_small_frames_cannot_be_scored_on_the_kb_crop() -> None:
    with pytest.raises(SimipuError, match="fixed_crop `none` and the protocol `whole_frame`"):
        region("garg_kb_crop", 96, 320)
