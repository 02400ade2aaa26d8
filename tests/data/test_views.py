import cv2
import numpy as np
import pytest
import torch

from simipu_core.config import ContrastConfig, ImageViewConfig, PointEncoderConfig, PointViewConfig
from simipu_core.data.views import PairBatch, PairViews, resized
from simipu_core.errors import SimipuError
from simipu_core.geometry.cameras import project
from simipu_core.geometry.rigid import draw_augmentation
from tests.samples import HEIGHT, INTRINSICS, LIDAR_TO_CAMERA, WIDTH, pair_row, tiny_pretrain


def views(contrast: ContrastConfig, seed: int = 0, **changes: object) -> PairBatch:
    return PairViews(tiny_pretrain(contrast, **changes))([pair_row(seed)], [np.random.default_rng(seed)])


@pytest.mark.parametrize(
    ("long_side", "short_side", "expected"), [(640, 192, (192, 636)), (2400, 720, (720, 2385)), (1500, 300, (300, 994))]
)
def test_published_resizes(long_side: int, short_side: int, expected: tuple[int, int]) -> None:
    """Reference section 1.2: a 375×1242 image."""
    assert resized(375, 1242, long_side, short_side) == expected


def test_same_generator_same_batch() -> None:
    a, b = views(ContrastConfig(), 3), views(ContrastConfig(), 3)
    torch.testing.assert_close(a.images, b.images)
    torch.testing.assert_close(a.augmented.xyz, b.augmented.xyz)
    other = PairViews(tiny_pretrain())([pair_row(3)], [np.random.default_rng(4)])
    assert not torch.equal(a.original.xyz, other.original.xyz)


def test_index_pairs_are_the_same_points() -> None:
    batch = views(ContrastConfig())
    assert batch.match[0].tolist() == list(range(64))
    assert batch.match_distance.max() < 1e-4
    torch.testing.assert_close(batch.original.features, batch.augmented.features)


@pytest.mark.parametrize("pairing", ["mutual_nearest", "hungarian"])
def test_matched_pairs_lie_where_they_say(pairing: str) -> None:
    """The distances are those between original points and the un-augmented points of the other view."""
    config = tiny_pretrain(ContrastConfig(pairing=pairing))
    row, seed = pair_row(1), 11
    batch = PairViews(config)([row], [np.random.default_rng(seed)])
    rng = np.random.default_rng(seed)
    cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
    low, high = np.split(np.array(config.points.point_range), 2)
    in_range = ((cloud[:, :3] > low) & (cloud[:, :3] < high)).all(axis=1)
    rng.choice(np.flatnonzero(in_range), 256, replace=in_range.sum() < 256)
    augmentation = draw_augmentation(config.points, rng)
    place = augmentation.invert(batch.augmented.xyz[0].numpy())
    kept = batch.match[0] >= 0
    distance = np.linalg.norm(batch.original.xyz[0, :64].numpy() - place[batch.match[0]], axis=1)
    np.testing.assert_allclose(batch.match_distance[0][kept], distance[kept], atol=1e-3)
    assert 0.2 < kept.float().mean() <= 1
    assert (pairing == "hungarian") == bool(kept.all())


def test_points_are_in_farthest_point_order() -> None:
    xyz = views(ContrastConfig()).original.xyz[0].numpy().astype(np.float64)
    for row in (1, 10, 60, 127):
        distances = np.linalg.norm(xyz[:, None] - xyz[:row], axis=2).min(axis=1)
        assert distances[row] == pytest.approx(distances.max(), rel=1e-5)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("sampling", ["half_pixel", "align_corners"])
def test_pixels_follow_the_image_through_resize_and_flip(flip: float, sampling: str) -> None:
    """A bright dot painted where a point projects is found where the point's pixel says."""
    row = pair_row(5)
    cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
    uv, _ = project(cloud[:, :3], LIDAR_TO_CAMERA, INTRINSICS)
    config = tiny_pretrain(
        ContrastConfig(feature_sampling=sampling),
        points=PointViewConfig(num_points=256, flip=flip),
        image=ImageViewConfig(long_side=(384, 384), short_side=(192, 192)),
    )
    first = PairViews(config)([row], [np.random.default_rng(0)])
    centre = np.flatnonzero((cloud[:, :3] == first.original.xyz[0, 0].numpy()).all(axis=1))[0]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    column, line = np.rint(uv[centre]).astype(int)
    image[line, column] = 255
    row["image"] = bytes(cv2.imencode(".png", image)[1])
    batch = PairViews(config)([row], [np.random.default_rng(0)])
    shown = batch.images[0, 0].numpy().astype(np.float64)
    found = np.array([(shown.sum(0) @ np.arange(shown.shape[1])), shown.sum(1) @ np.arange(shown.shape[0])])
    np.testing.assert_allclose(batch.pixels[0, 0], found / shown.sum(), atol=4.1)  # one source pixel is four here


def test_hidden_points_are_marked() -> None:
    row = pair_row(7)
    cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
    shadow = cloud.copy()
    camera = (LIDAR_TO_CAMERA[:3, :3] @ cloud[:, :3].T).T + LIDAR_TO_CAMERA[:3, 3]
    shadow[:, :3] = (camera * 1.5 - LIDAR_TO_CAMERA[:3, 3]) @ LIDAR_TO_CAMERA[:3, :3]  # same pixels, farther
    row["points"] = np.concatenate([cloud, shadow]).astype("<f4").tobytes()
    batch = PairViews(tiny_pretrain())([row], [np.random.default_rng(0)])
    near = {tuple(point) for point in cloud[:, :3].tolist()}
    is_near = np.array([tuple(point) in near for point in batch.original.xyz[0, :64].tolist()])
    assert not batch.is_visible[0, ~is_near].any()
    assert batch.is_visible[0, is_near].float().mean() > 0.5


def test_few_points_are_repeated_and_none_is_refused() -> None:
    row = pair_row(2, num_points=100)
    batch = PairViews(tiny_pretrain())([row], [np.random.default_rng(0)])
    assert len(np.unique(batch.original.xyz[0], axis=0)) <= 100
    narrow = tiny_pretrain(points=PointViewConfig(num_points=256, point_range=(500, 500, 500, 501, 501, 501)))
    with pytest.raises(SimipuError, match="sample-2: no LiDAR point lies in"):
        PairViews(narrow)([row], [np.random.default_rng(0)])


def test_absolute_coordinates_among_the_features() -> None:
    encoder = tiny_pretrain().point_encoder.model_dump() | {"input_features": "reflectance_xyz"}
    batch = views(ContrastConfig(), point_encoder=PointEncoderConfig(**encoder))
    assert batch.original.features.shape == (1, 256, 4)
    torch.testing.assert_close(batch.augmented.features[..., 1:] * torch.tensor([70.4, 40.0, 3.0]), batch.augmented.xyz)
