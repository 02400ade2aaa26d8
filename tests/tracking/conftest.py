import uuid
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from simipu_core.artifacts import write_artifact
from simipu_core.config import DepthAugmentConfig, FinetuneConfig, TrackingConfig
from simipu_core.models.depth_net import build_depth_net, save_depth_net
from simipu_core.tracking import promotion
from simipu_core.tracking.mlflow_run import tracking_uri
from simipu_core.tracking.signing import SIGNING_KEY, TRUSTED_KEYS
from tests.tracking.versions import register


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of one sqlite store for all tests: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'store' / 'mlflow.db'}"


@pytest.fixture
def store(database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store is in use; no run is open around the test. Returns its folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("SIMIPU_CACHE", str(Path(database.removeprefix("sqlite:///")).parents[1] / "cache"))
    for name in ("MLFLOW_RUN_ID", "SIMIPU_PARENT_RUN_ID", "SIMIPU_PIPELINE_RUN", "SIMIPU_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    return Path(database.removeprefix("sqlite:///")).parent


@pytest.fixture
def client(store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of the store; ada promotes, without a key, and nothing is waited for."""
    assert store.name == "store"
    monkeypatch.setenv("SIMIPU_USER", "ada")
    monkeypatch.setattr(promotion, "_SETTLING", 1)
    for name in (SIGNING_KEY, TRUSTED_KEYS):
        monkeypatch.delenv(name, raising=False)
    return MlflowClient(tracking_uri())


@pytest.fixture
def config(store: Path, tmp_path: Path) -> TrackingConfig:
    """A registered model of its own with four versions; the gate passed 1 and 2, failed 3, did not judge 4."""
    assert store.name == "store"
    client = MlflowClient(tracking_uri())
    config = TrackingConfig(model_name=f"depth-{uuid.uuid4().hex[:6]}")
    client.create_registered_model(config.model_name)
    for gate in ("passed", "passed", "failed", None):
        register(client, config, tmp_path, gate)
    return config


@pytest.fixture(scope="session")
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
    parameters = config.model_dump(mode="json")
    with write_artifact(out, "depth_net", inputs={"depth": "d" * 64}, parameters=parameters, licence="CC0") as draft:
        save_depth_net(build_depth_net(config, None), draft.path / "model.safetensors")
        draft.counts.update(steps=12)
    return out
