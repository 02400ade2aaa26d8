from pathlib import Path

import pytest
import torch

from simipu_core.artifacts import write_artifact
from simipu_core.config import DepthAugmentConfig, FinetuneConfig
from simipu_core.models.depth_net import TrainingCameras, build_depth_net, save_depth_net
from simipu_core.prediction.predictor import Predictor, load
from tests.samples import HEIGHT, INTRINSICS, WIDTH

FOCAL = float(INTRINSICS[0, 0])
CAMERAS = TrainingCameras(
    size=(HEIGHT, WIDTH),
    fx=FOCAL,
    fy=FOCAL,
    focal_range=(FOCAL, FOCAL),
    side_range=((HEIGHT * WIDTH) ** 0.5, (HEIGHT * WIDTH) ** 0.5),
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A depth net with random weights, as fine-tuning on frames of `tests.samples` leaves it."""
    torch.manual_seed(0)
    config = FinetuneConfig(
        encoder_name="resnet18",
        init="torch_default",
        decoder_channels=(8, 8, 8, 8),
        augment=DepthAugmentConfig(fixed_crop="none"),
    )
    out = tmp_path_factory.mktemp("prediction") / "net"
    with write_artifact(out, "depth_net", inputs={}, parameters={}, licence="made up") as draft:
        save_depth_net(build_depth_net(config, None, cameras=CAMERAS), draft.path / "model.safetensors")
    return out


@pytest.fixture(scope="session")
def predictor(model: Path) -> Predictor:
    return load(model, device="cpu")
