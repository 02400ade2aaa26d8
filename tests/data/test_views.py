import cv2
import numpy as np
import pytest
import torch

from simipu_core.config import ContrastConfig, ImageViewConfig, PointEncoderConfig, PointViewConfig
from simipu_core.data.batches import PairBatch, PointView
from simipu_core.data.image_views import resized
from simipu_core.data.views import PairViews
from simipu_core.errors import SimipuError
from simipu_core.geometry.cameras import project
from tests.samples import HEIGHT, INTRINSICS, LIDAR_TO_CAMERA, WIDTH, pair_row, tiny_pretrain, visible_column


def views(contrast: ContrastConfig, seed: int = 0, **changes: object) -> PairBatch:
    return PairViews(tiny_pretrain(contrast, **changes))([pair_row(seed)], [np.random.default_rng(seed)])


@pytest.mark.parametrize(
    ("long_side", "short_side", "expected"), [(640, 192, (192, 636)), (2400, 720, (720, 2385)), (1500, 300, (300, 994))]
)
def test_published_resizes(long_side: int, short_side: int, expected: tuple[int, int]) -> None:
    """docs/method.md, "Image size": a 375×1242 image."""
    assert resized(375, 1242, long_side, short_side) == expected


def test_same_generator_same_batch() -> None:
    a, b = views(ContrastConfig(), 3), views(ContrastConfig(), 3)
    torch.testing.assert_close(a.images, b.images)
    torch.testing.assert_close(a.augmented.xyz, b.augmented.xyz)
    other = PairViews(tiny_pretrain())([pair_row(3)], [np.random.default_rng(4)])
    assert not torch.equal(a.original.xyz, other.original.xyz)


def test_index_pairs_are_the_same_points() -> None:
    batch = views(ContrastConfig())
    assert batch.match is not None
    assert batch.match[0].tolist() == list(range(64))
    for level, moved in zip(batch.original.levels, batch.augmented.levels, strict=True):
        torch.testing.assert_close(level.centres, moved.centres)
    torch.testing.assert_close(batch.original.xyz, batch.augmented_location, atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.original.features[..., 0], batch.augmented.features[..., 0])


@pytest.mark.parametrize("pairing", ["mutual_nearest", "hungarian"])
def test_matched_pairs_are_near_each_other(pairing: str) -> None:
    """Both views sample on their own; partners are those that a search over the un-augmented centres finds."""
    batch = views(ContrastConfig(pairing=pairing))
    assert batch.match is not None
    assert not torch.equal(batch.original.xyz, batch.augmented_location)
    a = last_centres(batch.original, batch.original.xyz)
    b = last_centres(batch.augmented, batch.augmented_location)
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")[0]
    kept = batch.match[0] >= 0
    assert 0.2 < kept.float().mean() <= 1
    assert (pairing == "hungarian") == bool(kept.all())
    if pairing == "hungarian":
        assert sorted(batch.match[0].tolist()) == list(range(64))
    else:
        torch.testing.assert_close(distances.min(dim=1).values[kept], distances[kept, batch.match[0][kept]])


def last_centres(view: PointView, xyz: torch.Tensor) -> torch.Tensor:
    for level in view.levels:
        xyz = xyz.gather(1, level.centres[..., None].expand(-1, -1, 3))
    return xyz


def test_augmented_location_undoes_the_augmentation() -> None:
    batch = views(ContrastConfig(pairing="hungarian"))
    ours = {tuple(point) for point in batch.original.xyz[0].round(decimals=2).tolist()}
    undone = {tuple(point) for point in batch.augmented_location[0].round(decimals=2).tolist()}
    assert len(ours & undone) > 0.9 * len(ours)  # the rest fell on the other side of a rounding border
    assert not torch.equal(batch.augmented.xyz, batch.augmented_location)


def test_every_level_keeps_farthest_point_picks() -> None:
    batch = views(ContrastConfig())
    xyz = batch.original.xyz[0].numpy().astype(np.float64)
    for level in batch.original.levels:
        xyz = xyz[level.centres[0]]
        for row in (1, 10, 60):
            distances = np.linalg.norm(xyz[:, None] - xyz[:row], axis=2).min(axis=1)
            assert distances[row] == pytest.approx(distances.max(), rel=1e-5)


def test_only_the_first_level_is_known_where_features_decide() -> None:
    config = tiny_pretrain().point_encoder
    encoder = PointEncoderConfig(levels=config.levels, sampling="feature_halves", neighbours="first")
    batch = views(ContrastConfig(pairing="hungarian"), point_encoder=encoder)
    assert len(batch.original.levels) == 1
    assert batch.match is None
    everywhere = views(ContrastConfig(pairing="hungarian"), point_encoder=PointEncoderConfig(levels=config.levels))
    torch.testing.assert_close(batch.original.levels[0].centres, everywhere.original.levels[0].centres)


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


def test_points_behind_the_camera_have_no_pixel() -> None:
    row = pair_row(4)
    cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4).copy()
    cloud[::2, :3] *= -1
    row["points"], row["visible"] = cloud.astype("<f4").tobytes(), visible_column(cloud)
    points = PointViewConfig(num_points=256, point_range=(-80, -80, -80, 80, 80, 80))
    batch = PairViews(tiny_pretrain(points=points))([row], [np.random.default_rng(0)])
    behind = batch.original.xyz[0, :, 0] < 0.2
    assert 0.2 < behind.float().mean() < 0.8
    assert batch.pixels[0, behind].abs().min() > 1e5
    assert not batch.is_visible[0, behind].any()


def test_colours_change_only_where_asked() -> None:
    plain = views(ContrastConfig(), image=ImageViewConfig(long_side=(96, 96), short_side=(48, 48)))
    bright = views(
        ContrastConfig(),
        image=ImageViewConfig(long_side=(96, 96), short_side=(48, 48), colour=1, brightness=(1.2, 1.2), gamma=(1, 1)),
    )
    torch.testing.assert_close(plain.pixels, bright.pixels)
    assert bright.images.float().mean() > 1.05 * plain.images.float().mean()


def test_hidden_points_are_marked() -> None:
    row = pair_row(7)
    cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
    shadow = cloud.copy()
    camera = (LIDAR_TO_CAMERA[:3, :3] @ cloud[:, :3].T).T + LIDAR_TO_CAMERA[:3, 3]
    shadow[:, :3] = (camera * 1.5 - LIDAR_TO_CAMERA[:3, 3]) @ LIDAR_TO_CAMERA[:3, :3]  # same pixels, farther
    both = np.concatenate([cloud, shadow])
    row["points"], row["visible"] = both.astype("<f4").tobytes(), visible_column(both)
    batch = PairViews(tiny_pretrain())([row], [np.random.default_rng(0)])
    near = {tuple(point) for point in cloud[:, :3].tolist()}
    is_near = np.array([tuple(point) in near for point in batch.original.xyz[0].tolist()])
    assert not batch.is_visible[0, ~is_near].any()
    assert batch.is_visible[0, is_near].float().mean() > 0.5


def test_few_points_are_repeated_and_none_is_refused() -> None:
    row = pair_row(2, num_points=100)
    batch = PairViews(tiny_pretrain())([row], [np.random.default_rng(0)])
    assert len(np.unique(batch.original.xyz[0], axis=0)) <= 100
    narrow = tiny_pretrain(points=PointViewConfig(num_points=256, point_range=(500, 500, 500, 501, 501, 501)))
    with pytest.raises(SimipuError, match="sample-2: no LiDAR point lies in"):
        PairViews(narrow)([row], [np.random.default_rng(0)])


def test_log_range_among_the_features() -> None:
    batch = views(ContrastConfig())
    assert batch.original.features.shape == (1, 256, 2)
    for view in (batch.original, batch.augmented):
        torch.testing.assert_close(81 ** view.features[..., 1] - 1, view.xyz.norm(dim=-1), rtol=1e-4, atol=1e-4)


def test_absolute_coordinates_among_the_features() -> None:
    levels = tiny_pretrain().point_encoder.levels
    encoder = PointEncoderConfig(levels=levels, input_features="reflectance_xyz")
    batch = views(ContrastConfig(), point_encoder=encoder)
    assert batch.original.features.shape == (1, 256, 4)
    torch.testing.assert_close(batch.augmented.features[..., 1:] * torch.tensor([70.4, 40.0, 3.0]), batch.augmented.xyz)
