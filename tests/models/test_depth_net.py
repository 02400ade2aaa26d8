from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file

from simipu_core.config import DepthAugmentConfig, FinetuneConfig, InputConfig
from simipu_core.errors import SimipuError
from simipu_core.inference import predict_depth
from simipu_core.models.depth_net import build_depth_net, load_depth_net, save_depth_net
from simipu_core.models.image_encoder import image_encoder
from simipu_core.models.weights import EncoderSpec, save_weights

KITTI = FinetuneConfig(encoder_name="resnet18", decoder_channels=(32, 16, 16, 8), init="kaiming_zero_gamma")
SMALL = KITTI.model_copy(update={"augment": DepthAugmentConfig(fixed_crop="none")})
PRETRAINED = SMALL.model_copy(update={"init": "pretrained"})
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def save_encoder(file: Path, **changes: object) -> dict[str, torch.Tensor]:
    spec = EncoderSpec(**({"name": "resnet18", "norm_eps": 1e-5, "input": InputConfig()} | changes))
    encoder = image_encoder(spec.name)
    save_weights(encoder, file, spec)
    return encoder.state_dict()


def test_parameter_count_at_reference_size() -> None:
    """docs/method.md, "Acceptance numbers"."""
    net = build_depth_net(FinetuneConfig(init="torch_default"), None)
    assert sum(parameter.numel() for parameter in net.parameters()) == 77_770_689
    assert sum(parameter.numel() for parameter in net.decoder.parameters()) == 54_262_657


def test_output_is_bounded_and_at_stride_two() -> None:
    depth = build_depth_net(SMALL, None).eval()(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert depth.shape == (2, 1, 32, 48)
    assert ((depth > 0) & (depth < 80)).all()


def test_pretrained_encoder_arrives_whole(tmp_path: Path) -> None:
    tensors = save_encoder(tmp_path / "encoder.safetensors")
    net = build_depth_net(PRETRAINED, tmp_path / "encoder.safetensors")
    assert net.encoder.state_dict().keys() == tensors.keys()
    for name, tensor in net.encoder.state_dict().items():
        torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=0)


def test_an_encoder_is_given_if_and_only_if_it_is_the_start(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder.safetensors")
    with pytest.raises(SimipuError, match=r"give one with --encoder, or set finetune\.init"):
        build_depth_net(PRETRAINED, None)
    with pytest.raises(SimipuError, match=r"finetune\.init is `kaiming_zero_gamma`.*leave --encoder out"):
        build_depth_net(SMALL, tmp_path / "encoder.safetensors")


def test_starts_differ_in_the_encoder_alone(tmp_path: Path) -> None:
    """A control and what it is compared with have the same decoder."""
    file = tmp_path / "encoder.safetensors"
    save_encoder(file)
    starts = {
        "pretrained": (PRETRAINED, file),
        "checkpoint": (SMALL.model_copy(update={"init": "checkpoint", "init_file": str(file)}), None),
        "torch_default": (SMALL.model_copy(update={"init": "torch_default"}), None),
        "kaiming_zero_gamma": (SMALL, None),
    }
    nets = {}
    for name, (config, weights) in starts.items():
        torch.manual_seed(3)
        nets[name] = build_depth_net(config, weights)
    decoders = [torch.cat([p.flatten() for p in net.decoder.parameters()]) for net in nets.values()]
    for decoder in decoders[1:]:
        torch.testing.assert_close(decoder, decoders[0], rtol=0, atol=0)
    gains = {name: net.encoder.get_parameter("layer1.0.bn2.weight") for name, net in nets.items()}
    assert (gains["torch_default"] == 1).all()
    assert not gains["kaiming_zero_gamma"].any()
    first = {name: net.encoder.get_parameter("conv1.weight") for name, net in nets.items()}
    assert torch.equal(first["pretrained"], first["checkpoint"])
    assert not torch.equal(first["pretrained"], first["kaiming_zero_gamma"])


@pytest.mark.parametrize("damage", ["missing", "unexpected", "of another shape"])
def test_loading_is_strict(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "encoder.safetensors"
    save_encoder(file)
    tensors = load_file(file)
    if damage == "missing":
        del tensors["layer1.0.conv1.weight"]
    elif damage == "unexpected":
        tensors["backbone.conv1.weight"] = torch.zeros(1)
    else:
        tensors["conv1.weight"] = torch.zeros(3)
    spec = EncoderSpec(name="resnet18", norm_eps=1e-5, input=InputConfig())
    save_file(tensors, file, metadata={"simipu": spec.model_dump_json()})
    with pytest.raises(SimipuError, match=f"1 of 120 tensors are {damage}"):
        build_depth_net(PRETRAINED, file)


def test_another_architecture_or_convention_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    save_encoder(file, name="resnet34")
    with pytest.raises(SimipuError, match="holds a resnet34"):
        build_depth_net(PRETRAINED, file)
    save_encoder(file, input=InputConfig(channels="bgr"))
    with pytest.raises(SimipuError, match="allow_input_mismatch"):
        build_depth_net(PRETRAINED, file)
    build_depth_net(PRETRAINED.model_copy(update={"allow_input_mismatch": True}), file)


def test_batch_norm_is_the_same_whatever_the_encoder_was_made_with(tmp_path: Path) -> None:
    """docs/method.md, "Image encoder": pre-trained under 1e-3, fine-tuned under 1e-5."""
    save_encoder(tmp_path / "encoder.safetensors", norm_eps=1e-3)
    net = build_depth_net(PRETRAINED, tmp_path / "encoder.safetensors")
    assert {m.eps for m in net.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-5}


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(SimipuError, match="no such weights file"):
        load_depth_net(file)
    file.write_bytes(b"nonsense")
    with pytest.raises(SimipuError, match="not a readable safetensors file"):
        load_depth_net(file)
    save_encoder(file)
    with pytest.raises(SimipuError, match="carries no DepthNetSpec"):
        load_depth_net(file)


def test_saved_net_predicts_the_same(tmp_path: Path) -> None:
    net = build_depth_net(SMALL, None).eval()
    save_depth_net(net, tmp_path / "model.safetensors")
    loaded = load_depth_net(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(predict_depth(loaded, IMAGE), predict_depth(net, IMAGE))


def test_weights_of_older_versions_load(tmp_path: Path) -> None:
    net = build_depth_net(SMALL, None).eval()
    spec = net.spec.model_dump_json(exclude={"cameras"})
    save_file(net.state_dict(), tmp_path / "model.safetensors", metadata={"simipu": spec})
    assert load_depth_net(tmp_path / "model.safetensors").spec == net.spec


def test_prediction_equals_the_steps_of_the_protocol() -> None:
    """docs/method.md, "Prediction": clamp at half resolution, resize, un-mirror, mean of depths."""
    net = build_depth_net(SMALL.model_copy(update={"min_depth": 39.0}), None).eval()
    torch.nn.init.normal_(net.decoder.head.weight, std=0.5)

    def one(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> torch.Tensor:
        with torch.no_grad():
            half = net(torch.from_numpy(image.copy()).permute(2, 0, 1)[None]).clamp(39.0, 80.0)
        return F.interpolate(half, size=(64, 96), mode="bilinear", align_corners=True)[0, 0]

    plain, mirrored = one(IMAGE), one(IMAGE[:, ::-1]).flip(-1)
    np.testing.assert_allclose(predict_depth(net, IMAGE, flip=False), plain, rtol=1e-5)
    np.testing.assert_allclose(predict_depth(net, IMAGE), (plain + mirrored) / 2, rtol=1e-5)


def test_what_the_net_is_not_shown_is_not_predicted() -> None:
    config = KITTI.model_copy(update={"input_scale": 0.1})
    depth = predict_depth(build_depth_net(config, None).eval(), np.zeros((375, 1242, 3), np.uint8))
    assert depth.shape == (375, 1242)
    assert np.isnan(depth[:23]).all()
    assert np.isnan(depth[:, :13]).all()
    assert np.isfinite(depth[23:, 13 : 13 + 1216]).all()
