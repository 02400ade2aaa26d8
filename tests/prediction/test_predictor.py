"""The public way to a depth: same numbers as evaluation, any size, any focal length."""

import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import simipu_core
from simipu_core.config import EvaluateConfig, InputConfig
from simipu_core.data.images import decode_depth, decode_image
from simipu_core.errors import SimipuError
from simipu_core.evaluation.metrics import METRICS, depth_metrics
from simipu_core.evaluation.protocols import valid_pixels
from simipu_core.models.image_encoder import image_encoder
from simipu_core.models.weights import EncoderSpec, save_weights
from simipu_core.prediction.predictor import Predictor, load
from simipu_core.stages.evaluate import evaluate
from tests.prediction.conftest import FOCAL
from tests.samples import HEIGHT, INTRINSICS, WIDTH, depth_row, write_shards

IMAGE = decode_image(depth_row(3)["image"])


def predict_silently(predictor: Predictor, image: np.ndarray, intrinsics: object = None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return predictor.predict(image, intrinsics)  # type: ignore[arg-type]


@pytest.mark.parametrize("flip", [True, False])
def test_it_gives_the_numbers_of_evaluate(model: Path, tmp_path: Path, flip: bool) -> None:
    rows = [depth_row(index) for index in (5, 6)]
    depth = write_shards(tmp_path / "depth", "depth", train=[depth_row(9)], eval=rows)
    config = EvaluateConfig(protocols=("whole_frame",), panels=0, flip=flip, device="cpu")
    evaluate(model, depth, config, tmp_path / "report")
    scored = pq.read_table(tmp_path / "report/per_image.parquet").to_pylist()
    predictor = simipu_core.load(model, device="cpu")
    for row, expected in zip(rows, (one for one in scored if one["predictor"] == "model"), strict=True):
        made = predictor.predict(decode_image(row["image"]), row["intrinsics"], flip=flip)
        truth = decode_depth(row["depth"], row["depth_scale"])
        valid = valid_pixels("whole_frame", truth, config.depth_range)
        found = depth_metrics(truth[valid], made[valid])
        assert {name: found[name] for name in METRICS} == pytest.approx(
            {name: expected[name] for name in METRICS}, rel=1e-6
        )


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (200, 60), (480, 640), (1200, 90), (37, 1000)])
def test_the_answer_has_the_pictures_size_and_is_bounded(predictor: Predictor, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    depth = predict_silently(predictor, image)
    assert depth.shape == size
    assert depth.dtype == np.float32
    assert ((depth > 0) & (depth <= 80)).all()


def test_an_enlarged_picture_has_nearly_the_same_depth(predictor: Predictor) -> None:
    """It is shrunk to the training's size, and the answer is enlarged."""
    large = np.repeat(np.repeat(IMAGE, 3, 0), 3, 1)
    depth, expected = predict_silently(predictor, large), predict_silently(predictor, IMAGE)
    assert np.median(np.abs(depth[1::3, 1::3] / expected - 1)) < 0.01  # borders differ: corners are aligned
    focal = FOCAL * 3
    scaled = predict_silently(predictor, large, (focal, focal, WIDTH * 1.5, HEIGHT * 1.5))
    np.testing.assert_allclose(scaled, depth, rtol=1e-6)


def test_depths_go_with_the_focal_length(predictor: Predictor) -> None:
    depth = predict_silently(predictor, IMAGE)
    np.testing.assert_array_equal(predictor.predict(IMAGE, INTRINSICS), depth)
    np.testing.assert_allclose(predictor.predict(IMAGE, (2 * FOCAL, 2 * FOCAL, 47, 20)), 2 * depth, rtol=1e-6)
    np.testing.assert_allclose(predictor.predict(IMAGE, (FOCAL / 2, FOCAL / 2, 47, 20)), depth / 2, rtol=1e-6)


def test_without_intrinsics_it_warns_once(model: Path) -> None:
    predictor = load(model, device="cpu")
    with pytest.warns(UserWarning, match=r"right only for a camera like the training's \(fx 60 pixels at 48×96\)"):
        predictor.predict(IMAGE)
    predictor.predict(IMAGE)  # a second warning would be an error


def test_half_precision_is_near(model: Path) -> None:
    expected, made = (
        load(model, device="cpu", precision=precision).predict(IMAGE, INTRINSICS) for precision in ("fp32", "bf16")
    )
    assert not np.array_equal(made, expected)
    np.testing.assert_allclose(made, expected, rtol=0.05)


@pytest.mark.parametrize(
    ("image", "intrinsics", "message"),
    [
        (IMAGE[..., 0], None, r"the image is uint8 \(48, 96\); give \(H, W, 3\) uint8 RGB"),
        (IMAGE / 255, None, "the image is float64"),
        (IMAGE[:20], INTRINSICS, "the image is 20×96 pixels, too small .*at least 32×32"),
        (IMAGE, (60, 60, 640, 360), "the image is 48×96 pixels, and the centre cx=640, cy=360 .* lies outside"),
        (IMAGE, (60, 60), "intrinsics are fx, fy, cx, cy"),
        (IMAGE, (0, 60, 47, 20), "intrinsics are fx, fy, cx, cy"),
    ],
)
def test_what_cannot_be_predicted_on_is_told(
    predictor: Predictor, image: np.ndarray, intrinsics: object, message: str
) -> None:
    with pytest.raises(SimipuError, match=message):
        predictor.predict(image, intrinsics)  # type: ignore[arg-type]


def test_models_of_other_kinds_and_devices_are_refused(model: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder.safetensors"
    save_weights(image_encoder("resnet18"), encoder, EncoderSpec(name="resnet18", norm_eps=1e-5, input=InputConfig()))
    shards = write_shards(tmp_path / "depth", "depth", train=[depth_row(1)], eval=[depth_row(2)])
    for place, message in (
        (encoder, "encoder.safetensors: carries no DepthNetSpec"),
        (shards, "holds depth, but depth_net is needed here"),
        (tmp_path / "nothing", "nothing: no such file or folder; give weights"),
        ("models:/a/b/c", "write models:/NAME@champion"),
    ):
        with pytest.raises(SimipuError, match=message):
            load(place)
    with pytest.raises(SimipuError, match="device is `tpu`; set it to"):
        load(model, device="tpu")
    with pytest.raises(SimipuError, match="device is `cuda:99`, but"):
        load(model, device="cuda:99")


def test_a_registry_that_is_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(SimipuError, match="nothing answers there; start it"):
        load("models:/simipu-depth@champion")
