from pathlib import Path

import pytest
import torch

from simipu_core.artifacts import write_artifact
from simipu_core.config import DepthAugmentConfig, FinetuneConfig
from simipu_core.models.depth_net import build_depth_net, save_depth_net


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
