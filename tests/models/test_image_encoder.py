import torch
from torch import nn

from simipu_core.config import InputConfig
from simipu_core.models.image_encoder import STRIDES, Normalize, feature_channels, image_encoder


def test_resnet50_has_the_318_tensors_of_torchvision() -> None:
    """docs/method.md, "Acceptance numbers"."""
    encoder = image_encoder("resnet50")
    tensors = encoder.state_dict()
    assert len(tensors) == 318
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 23_508_032
    assert {"conv1.weight", "bn1.running_var", "layer4.2.bn3.num_batches_tracked"} <= tensors.keys()
    assert feature_channels(encoder) == [64, 256, 512, 1024, 2048]


def test_level_sizes() -> None:
    """docs/method.md, "Image encoder"."""
    maps = image_encoder("resnet18").eval()(torch.zeros(1, 3, 96, 128))
    assert [tuple(m.shape[-2:]) for m in maps] == [(96 // s, 128 // s) for s in STRIDES]


def test_built_from_kaiming_with_zeroed_branches() -> None:
    torch.manual_seed(0)
    encoder = image_encoder("resnet50", norm_eps=1e-3, norm_momentum=0.01)
    assert not encoder.get_parameter("layer1.0.bn3.weight").any()
    # Kaiming normal over fan-out: std sqrt(2 / (64·49))
    std = encoder.get_parameter("conv1.weight").std().item()
    torch.testing.assert_close(std, (2 / (64 * 49)) ** 0.5, rtol=0.05, atol=0)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_input_conventions() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    bgr = InputConfig(channels="bgr", mean=(103.53, 116.28, 123.675), std=(1, 1, 1))
    torch.testing.assert_close(Normalize(bgr)(image).flatten(), torch.tensor([30 - 103.53, 20 - 116.28, 10 - 123.675]))
    torch.testing.assert_close(Normalize(InputConfig())(image).flatten()[0].item(), (10 - 123.675) / 58.395)
