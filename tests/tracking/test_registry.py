from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from simipu_core.artifacts import write_artifact
from simipu_core.config import DepthAugmentConfig, FinetuneConfig, TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.evaluation.report import Report
from simipu_core.inference import predict_depth
from simipu_core.models.depth_net import build_depth_net, load_depth_net, save_depth_net
from simipu_core.tracking.mlflow_run import step, tracking_uri
from simipu_core.tracking.registry import ModelVersion, aliases, promote, register

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

REPORT = Report(
    headline="whole_frame",
    num_images=2,
    flip=True,
    metrics={"whole_frame": {"abs_rel": 0.125, "rmse": 3.0}},
    baselines={},
    model_digest="m" * 64,
    data_digest="d" * 64,
)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A depth net with random weights, as an artifact."""
    torch.manual_seed(0)
    config = FinetuneConfig(
        encoder_name="resnet18",
        init="kaiming_zero_gamma",
        decoder_channels=(8, 8, 8, 8),
        augment=DepthAugmentConfig(fixed_crop="none"),
    )
    out = tmp_path_factory.mktemp("net") / "net"
    with write_artifact(out, "depth_net", inputs={}, parameters={}, licence="none") as draft:
        save_depth_net(build_depth_net(config, None), draft.path / "model.safetensors")
    return out


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
    assert {metric.key: metric.value for metric in logged.metrics or []} == {
        "whole_frame/abs_rel": 0.125,
        "whole_frame/rmse": 3.0,
    }
    suffixes = {file.suffix for file in (store / "artifacts").rglob("*") if file.is_file()}
    assert suffixes.isdisjoint({".pkl", ".pickle", ".pt", ".pth"})

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(tracking_uri())
    served = mlflow.pyfunc.load_model("models:/served@challenger")
    for height, width in ((32, 64), (64, 96)):
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        depth = served.predict(images)
        assert depth.shape == (2, height, width)
        assert depth.dtype == np.float32
        expected = predict_depth(load_depth_net(net / "model.safetensors"), images[1])
        np.testing.assert_allclose(depth[1], expected, rtol=1e-5)
    with pytest.raises(MlflowException, match="expected shape"):
        served.predict(np.zeros((1, 32, 64, 4), np.uint8))


def test_promotion_keeps_the_former_champion(store: Path, net: Path) -> None:
    assert store.is_dir()
    config = TrackingConfig(mlflow_experiment="promotion", model_name="promoted")
    first, second = version_of(net, config), version_of(net, config)
    assert (first.version, second.version) == (1, 2)
    assert (aliases(first), aliases(second)) == ("", "challenger")

    assert promote(1, config).alias == "champion"
    assert aliases(first) == "champion"
    promote(2, config)
    assert (aliases(first), aliases(second)) == ("previous", "challenger, champion")
    promote(2, config)  # again: the former champion is not forgotten
    assert (aliases(first), aliases(second)) == ("previous", "challenger, champion")


def test_only_registered_versions_can_be_promoted(store: Path) -> None:
    assert store.parent.is_dir()
    with pytest.raises(SimipuError, match="nothing has no version 4"):
        promote(4, TrackingConfig(mlflow_experiment="promotion", model_name="nothing"))


def test_a_deleted_version_has_no_alias(store: Path) -> None:
    assert store.parent.is_dir()
    assert aliases(ModelVersion(name="gone", version=3, alias="challenger")) == ""


def test_only_depth_nets_are_registered(store: Path, tmp_path: Path) -> None:
    assert store.parent.is_dir()
    with (
        pytest.raises(SimipuError, match="not an artifact"),
        step("evaluate", "refused") as run,
    ):
        register(run, tmp_path, REPORT, TrackingConfig(), "demo")
