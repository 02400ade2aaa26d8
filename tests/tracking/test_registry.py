import base64
import math
import os
import textwrap
import zlib
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from simipu_core.config import EvaluateConfig, PromotionConfig, TrackingConfig
from simipu_core.data.images import decode_depth, encode_png
from simipu_core.errors import SimipuError
from simipu_core.evaluation.gate import Decision
from simipu_core.evaluation.report import ChampionScores, Report
from simipu_core.inference import predict_depth
from simipu_core.models.depth_net import load_depth_net
from simipu_core.stages.release import Release, release
from simipu_core.tracking import promotion, promotion_log
from simipu_core.tracking.mlflow_run import step, tracking_uri
from simipu_core.tracking.registry import ModelVersion, _shortened, aliases, register
from tests.prediction.pictures import pixels
from tests.samples import depth_row, write_shards

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def encoded(image: NDArray[np.uint8]) -> str:
    """A picture as requests hold it."""
    return base64.b64encode(encode_png(image)).decode("ascii")


REPORT = Report(
    headline="whole_frame",
    num_images=2,
    flip=True,
    metrics={"whole_frame": {"abs_rel": 0.125, "rmse": 3.0}},
    baselines={},
    model_digest="m" * 64,
    data_digest="d" * 64,
)


BAD: list[tuple[dict[str, list[Any]], dict[str, Any], str]] = [
    *(
        ({"image": [text]}, {}, "picture 0 is no base64; encode the bytes of a PNG or JPEG file.")
        for text in ("x!", "ä", "data:image/png;base64,AAAA")
    ),
    ({"image": ["AAAA"]}, {}, "picture 0 cannot be read: not a PNG or JPEG image."),
    ({"image": [encoded(pixels(0, 8, 8))]}, {}, "picture 0 is 8×8 pixels, too small to see depth in"),
    ({"image": [None]}, {}, "picture 0 is not there; give image"),
    ({"pixels": [[[1, 2], [3]]]}, {}, "picture 0 is no picture"),
    *(
        (
            {"pixels": [[[[value, 0, 0]] * 32] * 32]},
            {},
            "picture 0 is no picture; give height × width × 3 whole numbers",
        )
        for value in (256, -1, 0.5, math.nan, math.inf, 10**400, "red")
    ),
    ({"picture": ["AAAA"]}, {}, "there is no picture in the request"),
    ({"image": [encoded(pixels(0))]}, {"encoding": "tiff"}, "encoding is 'tiff'; choose png or zlib"),
    ({"image": [encoded(pixels(0))]}, {"intrinsics": [60.0]}, "intrinsics are fx, fy, cx, cy in pixels"),
    ({"image": [encoded(pixels(0))]}, {"intrinsics": [60.0, 60.0, 500.0, 20.0]}, "picture 0 .* lies outside"),
]
"""Requests that cannot be answered, and why."""


def version_of(net: Path, config: TrackingConfig) -> ModelVersion:
    with step("evaluate", config.mlflow_experiment) as run:
        return register(run, net, REPORT, config, "demo")


def test_a_registered_model_serves_without_pickle(store: Path, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrackingConfig(mlflow_experiment="serving", model_name="served")
    made = version_of(net, config)
    assert (made.name, made.version, made.alias) == ("served", 1, "challenger")

    client = MlflowClient(tracking_uri())
    registered = client.get_model_version("served", "1")
    assert registered.tags["experiment"] == "demo"
    assert registered.tags["abs_rel"] == "0.125"
    assert registered.tags["protocol"] == "whole_frame"
    assert registered.tags["data_digest"] == "d" * 64
    assert registered.run_id is not None
    run = client.get_run(registered.run_id)
    assert run.info.status == "FINISHED"
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert logged.experiment_id == run.info.experiment_id
    assert {metric.key: metric.value for metric in logged.metrics or []} == {
        "whole_frame/abs_rel": 0.125,
        "whole_frame/rmse": 3.0,
    }
    suffixes = {file.suffix for file in (store / "artifacts").rglob("*") if file.is_file()}
    assert suffixes.isdisjoint({".pkl", ".pickle", ".pt", ".pth"})

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(tracking_uri())
    served = mlflow.pyfunc.load_model("models:/served@challenger")
    images = [pixels(seed, height, width) for seed, (height, width) in enumerate(((32, 64), (64, 96)))]
    expected = [predict_depth(load_depth_net(net / "model.safetensors"), image) for image in images]
    broken_lines = "\n".join(textwrap.wrap(encoded(images[0]), 76))
    sent = pd.DataFrame({"image": [broken_lines, None], "pixels": [None, images[1].tolist()]})
    for answer, depth in zip(served.predict(sent), expected, strict=True):
        assert (answer["encoding"], answer["scale"], answer["height"], answer["width"]) == ("png", 256, *depth.shape)
        np.testing.assert_allclose(decode_depth(base64.b64decode(answer["depth"]), 256), depth, atol=0.002)
    for answer, depth in zip(served.predict(sent, params={"encoding": "zlib"}), expected, strict=True):
        metres = np.frombuffer(zlib.decompress(base64.b64decode(answer["depth"])), "<f4").reshape(depth.shape)
        np.testing.assert_allclose(metres, depth, rtol=1e-5)
    for request, params, reason in BAD:
        with pytest.raises(MlflowException, match=reason):
            served.predict(pd.DataFrame(request), params=params)
    assert served.input_example is not None
    assert len(served.predict(served.input_example)) == 1


def test_the_model_card_tells_what_it_is(store: Path, net: Path) -> None:
    assert store.parent.is_dir()
    config = TrackingConfig(mlflow_experiment="cards", model_name="described")
    decision = Decision(passed=False, reason="it is worse", protocol="whole_frame", abs_rel=0.125, champion_version=7)
    report = REPORT.model_copy(
        update={
            "decision": decision,
            "intervals": {"whole_frame": (0.1, 0.15)},
            "champion": ChampionScores(version=7, metrics={"whole_frame": {"abs_rel": 0.0625}}),
            "baselines": {"constant_depth": {"whole_frame": {"abs_rel": 0.5}}},
        }
    )
    with step("evaluate", "cards") as run:
        made = register(run, net, report, config, "night")
    client = MlflowClient(tracking_uri())
    version = client.get_model_version("described", str(made.version))
    card = Path(mlflow.artifacts.download_artifacts(run_id=run.id, artifact_path="model_card.md")).read_text()
    assert version.description == card
    for words in (
        "# Monocular depth: night",
        "resnet18 encoder",
        "| whole_frame (headline) | 0.1250 | 0.1000–0.1500 | 3.000 | nan | 0.5000 | 0.0625 |",
        "champion (version 7)",
        "Gate: not passed; it is worse.",
        "taken as rgb with mean (123.675, 116.28, 103.53)",
        "Training data licence: CC0.",
        "init kaiming_zero_gamma; epochs 24; batch_size 16",
        "12 steps",
        "Not for decisions on which safety depends",
    ):
        assert words in " ".join(card.split()), words
    assert version.tags["gate"] == "failed"
    assert version.tags["gate_reason"] == "it is worse"


def test_long_cards_are_shortened_in_the_description() -> None:
    shown = _shortened("x" * 9000)
    assert len(shown) == 5000
    assert shown.endswith("the rest is in model_card.md of the run.")


def test_registering_leaves_an_adopted_run_open(store: Path, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubeflow ends it, and later steps of the process adopt it too."""
    assert store.parent.is_dir()
    client = MlflowClient(tracking_uri())
    config = TrackingConfig(mlflow_experiment="adopting", model_name="adopted")
    given = client.create_run(client.create_experiment("adopting")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    made = version_of(net, config)
    assert client.get_model_version("adopted", str(made.version)).run_id == given
    assert client.get_run(given).info.status == "RUNNING"
    assert os.environ["MLFLOW_RUN_ID"] == given


def test_a_not_finite_score_is_registered_as_it_is(store: Path, net: Path) -> None:
    assert store.parent.is_dir()
    config = TrackingConfig(mlflow_experiment="nan", model_name="broken")
    report = REPORT.model_copy(update={"metrics": {"whole_frame": {"abs_rel": math.nan, "rmse": math.nan}}})
    with step("evaluate", "nan") as run:
        made = register(run, net, report, config, "demo")
    assert MlflowClient(tracking_uri()).get_model_version("broken", str(made.version)).tags["abs_rel"] == "nan"


def test_a_deleted_version_has_no_alias(store: Path) -> None:
    assert store.parent.is_dir()
    assert aliases(ModelVersion(name="gone", version=3, alias="challenger")) == ""


@pytest.mark.parametrize(
    "killed_at",
    [
        "simipu_core.stages.release.register",
        "simipu_core.tracking.promotion._apply",
        pytest.param("simipu_core.stages.release.set_outcome", marks=pytest.mark.slow),
    ],
)
def test_a_release_that_was_killed_is_completed_by_its_repetition(
    store: Path, net: Path, tmp_path: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.parent.is_dir()
    rules = PromotionConfig(mode="promote", max_abs_rel=1000.0, resamples=100)
    config = TrackingConfig(mlflow_experiment="killed", model_name=killed_at.rpartition(".")[2], promotion=rules)
    depth = write_shards(tmp_path / "depth", "depth", train=[depth_row(9)], eval=[depth_row(0)])
    evaluating = EvaluateConfig(protocols=("whole_frame",), panels=0, flip=False)

    def kill(*_: Any, **__: Any) -> None:
        raise SystemExit(137)

    def attempt() -> Release:
        with step("evaluate", "killed") as run:
            return release(net, depth, evaluating, config, tmp_path / "report", experiment="demo", run=run)

    with monkeypatch.context() as killing:
        killing.setattr(killed_at, kill)
        with pytest.raises(SystemExit):
            attempt()
    for _ in range(2):
        made = attempt()
        assert (made.promoted, made.model.version, made.model.alias) == (True, 1, "champion")
        assert "passed the gate" in made.outcome
    client = MlflowClient(tracking_uri())
    assert len(client.search_model_versions(f"name = '{config.model_name}'")) == 1
    assert len(promotion_log.read(client, config.model_name).entries) == 1
    other = evaluating.model_copy(update={"flip": True})
    with pytest.raises(SimipuError, match="report: already exists"), step("evaluate", "killed") as run:
        release(net, depth, other, config, tmp_path / "report", experiment="demo", run=run)


def test_the_embedded_store_gives_the_champion_and_is_the_only_one(
    store: Path, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").touch()
    (tmp_path / "mlruns").symlink_to(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    config = TrackingConfig(mlflow_experiment="embedded", model_name="embedded")
    passed = Decision(passed=True, reason="it is better", protocol="whole_frame", abs_rel=0.125, champion_version=None)
    with step("evaluate", "embedded") as run:
        register(run, net, REPORT.model_copy(update={"decision": passed}), config, "demo")
    promotion.promote(1, config)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type] # as it is in a new process
    with promotion.champion(config) as champion:
        assert champion
        assert champion.problem is None
        assert champion.weights
        assert champion.weights.read_bytes() == (net / "model.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "mlruns"}


def test_only_depth_nets_are_registered(store: Path, tmp_path: Path) -> None:
    assert store.parent.is_dir()
    with (
        pytest.raises(SimipuError, match="not an artifact"),
        step("evaluate", "refused") as run,
    ):
        register(run, tmp_path, REPORT, TrackingConfig(), "demo")
