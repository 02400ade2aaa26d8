import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simipu_core.cli.weights import Input
from simipu_core.cli.weights import Layout as LayoutOption
from simipu_core.config import FinetuneConfig, InputConfig
from simipu_core.config.backbones import BACKBONES
from simipu_core.config.presets import PRESETS
from simipu_core.errors import SimipuError
from simipu_core.models.depth_net import build_depth_net, save_depth_net
from simipu_core.models.foreign import CONVENTIONS, PREFIXES, Layout, read_encoder, write_encoder
from simipu_core.models.image_encoder import image_encoder
from simipu_core.models.weights import EncoderSpec, save_weights

Tensors = dict[str, Tensor]
RGB, BGR = CONVENTIONS["imagenet"], CONVENTIONS["simipu"]


@functools.cache
def classifier(name: str) -> Tensors:
    """Torchvision's own network, with statistics that are not those of a new one."""
    torch.manual_seed(0)
    net: nn.Module = getattr(torchvision.models, name)(weights=None).train()
    with torch.no_grad():
        net(torch.randn(2, 3, 64, 64))
    return dict(net.state_dict())


def bare(name: str = "resnet18") -> Tensors:
    return {key: tensor for key, tensor in classifier(name).items() if not key.startswith("fc.")}


def named(prefix: str, *others: str, name: str = "resnet18") -> Tensors:
    return {prefix + key: tensor for key, tensor in bare(name).items()} | {key: torch.zeros(2) for key in others}


def saved(file: Path, content: Any) -> Path:
    if file.suffix == ".safetensors":
        save_file(content, file)
    else:
        torch.save(content, file)
    return file


def assert_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)


# -- what is recognised ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "layout", "convention", "num_others"),
    [
        (named("img_backbone.", "pts_backbone.a", "mlp_cross_img.0.weight", "queue"), "simipu", BGR, 3),
        (named("img_backbone."), "simipu", BGR, 0),
        (named("backbone."), "openmmlab", BGR, 0),
        (named("backbone.", "decode_head.conv_depth.weight"), "openmmlab", RGB, 1),
        (named("backbone.", "head.fc.weight", "head.fc.bias"), "openmmlab", RGB, 2),
        (named("backbone.", "neck.lateral_convs.0.conv.weight", "bbox_head.a"), "openmmlab", None, 2),
        (classifier("resnet18"), "torchvision", RGB, 2),
        (bare(), "torchvision", None, 0),
    ],
    ids=["detector", "image part", "converted", "depther", "mm classifier", "mm detector", "classifier", "headless"],
)
@pytest.mark.parametrize("wrap", ["flat", "state_dict", "model", "module"])
def test_layouts_are_recognised(
    tmp_path: Path, content: Tensors, layout: str, convention: InputConfig | None, num_others: int, wrap: str
) -> None:
    wrapped: Any = {
        "flat": content,
        "state_dict": {"meta": {"epoch": 50, "mmdet_version": "2.11.0"}, "state_dict": content, "optimizer": {}},
        "model": {"model": content, "epoch": 3},
        "module": {"state_dict": {f"module.{key}": tensor for key, tensor in content.items()}},
    }[wrap]
    found = read_encoder(saved(tmp_path / "x.pth", wrapped))
    assert (found.layout, found.name, found.num_others) == (layout, "resnet18", num_others)
    assert found.input == convention
    assert (found.has_counters, found.is_stated) == (True, False)
    assert_equal(found.tensors, bare())


@pytest.mark.parametrize("name", BACKBONES)
def test_architectures_are_recognised(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path / "x.safetensors", timm.create_model(name).state_dict())
    assert read_encoder(file).name == name


@pytest.mark.parametrize("prefix", ["img_backbone.", "backbone.", ""])
def test_a_resnet50_has_318_tensors_under_every_name(tmp_path: Path, prefix: str) -> None:
    """docs/method.md, "Acceptance numbers": 53 convolutions and five tensors of each of 53 BatchNorms."""
    found = read_encoder(saved(tmp_path / "x.pth", named(prefix, name="resnet50")))
    assert len(found.tensors) == 318
    image_encoder("resnet50").load_state_dict(found.tensors)


def test_the_loading_trap() -> None:
    """docs/method.md, "Weights":
    `backbone.*` names into a bare module; a lenient load takes nothing and says nothing."""
    lenient = image_encoder("resnet18").load_state_dict(named("backbone."), strict=False)
    assert set(lenient.missing_keys) == {key for key in bare() if not key.endswith("num_batches_tracked")}


def test_the_loading_trap_is_shut(tmp_path: Path) -> None:
    file = saved(tmp_path / "SimIPU_kitti_50e.pth", {"state_dict": named("backbone.", name="resnet50")})
    config = FinetuneConfig(
        init="checkpoint", init_file=str(file), allow_input_mismatch=True, decoder_channels=(8, 8, 8, 8)
    )
    loaded = build_depth_net(config, None).encoder.state_dict()
    assert len(loaded) == 318
    assert_equal(loaded, bare("resnet50"))


@pytest.mark.parametrize("new_format", [True, False])
def test_old_files_without_counters(tmp_path: Path, new_format: bool) -> None:
    """As torchvision's resnet50-19c8e357.pth: 265 encoder tensors and fc, in PyTorch's first file format."""
    old = {key: tensor for key, tensor in classifier("resnet50").items() if not key.endswith("num_batches_tracked")}
    assert len(old) == 265 + 2
    torch.save(old, tmp_path / "x.pth", _use_new_zipfile_serialization=new_format)
    found = read_encoder(tmp_path / "x.pth")
    assert len(found.tensors) == 318
    assert (found.has_counters, found.num_others) == (False, 2)
    assert found.tensors["bn1.num_batches_tracked"] == 0
    assert_equal({key: found.tensors[key] for key in old if not key.startswith("fc.")}, bare_of(old))


def bare_of(tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith("fc.")}


def test_what_the_file_states_goes_before_its_layout(tmp_path: Path) -> None:
    spec = EncoderSpec(name="resnet18", norm_eps=2e-3, input=InputConfig(channels="bgr"))
    save_weights(image_encoder("resnet18"), tmp_path / "encoder.safetensors", spec)
    found = read_encoder(tmp_path / "encoder.safetensors")
    assert (found.is_stated, found.norm_eps, found.input) == (True, 2e-3, InputConfig(channels="bgr"))


def test_the_encoder_of_a_depth_net(tmp_path: Path) -> None:
    config = FinetuneConfig(encoder_name="resnet18", init="kaiming_zero_gamma", decoder_channels=(8, 8, 8, 8))
    net = build_depth_net(config, None)
    save_depth_net(net, tmp_path / "model.safetensors")
    found = read_encoder(tmp_path / "model.safetensors")
    assert (found.layout, found.input, found.is_stated) == ("depth_net", config.input, True)
    assert_equal(found.tensors, net.encoder.state_dict())


# -- what is refused -------------------------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key not in names}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            without("backbone.bn1.bias", "backbone.layer4.1.conv2.weight"),
            "(openmmlab layout, resnet18): 2 of 120 tensors are missing: bn1.bias, layer4.1.conv2.weight.",
        ),
        (without("backbone.bn1.num_batches_tracked"), "1 of 120 tensors are missing: bn1.num_batches_tracked."),
        (lambda t: t | {"backbone.layer1.0.se.weight": torch.zeros(1)}, "1 of 120 tensors are unexpected: layer1.0.se"),
        (lambda t: t | {"backbone.conv1.weight": torch.zeros(64, 1, 7, 7)}, "1 of 120 tensors are of another shape"),
        (
            lambda t: {key: value for key, value in t.items() if ".layer4.1." not in key},
            f"is none of {', '.join(BACKBONES)}; give one of them, whole.",
        ),
        (lambda t: {f"net.{key}": value for key, value in t.items()}, "holds no ResNet under any known layout"),
    ],
)
def test_an_incomplete_encoder_is_refused(tmp_path: Path, damage: Callable[[Tensors], Tensors], message: str) -> None:
    file = saved(tmp_path / "x.pth", {"state_dict": damage(named("backbone."))})
    with pytest.raises(SimipuError) as caught:
        read_encoder(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


class Harmful:
    """Runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("new_format", [True, False])
def test_no_code_of_a_file_is_run(tmp_path: Path, new_format: bool) -> None:
    content = {"state_dict": named("backbone."), "meta": Harmful(tmp_path / "touched")}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(SimipuError, match="code from inside it would have to run"):
        read_encoder(tmp_path / "x.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pth", None, "no such weights file"),
        ("x.safetensors", None, "no such weights file"),
        ("x.pth", b"", "not a PyTorch file"),
        ("x.pth", b"<html>not found</html>", "not a PyTorch file"),
        ("x.pth", b"PK\x03\x04 cut short", "not a PyTorch file"),
        ("x.safetensors", b"nonsense", "not a readable safetensors file"),
        ("x.h5", b"", "weights are .safetensors, .pth or .pt files"),
        ("x.pth", pickle.dumps({"a": np.zeros(3)}), "not a PyTorch file"),
        ("x.pth", pickle.dumps({"a": np.zeros(3)}, protocol=2), "code from inside it would have to run"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SimipuError, match=message) as caught:
        read_encoder(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"epoch": 3}, {"state_dict": {}}])
def test_files_without_named_tensors_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(SimipuError, match="holds no named tensors"):
        read_encoder(saved(tmp_path / "x.pt", content))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    data = saved(tmp_path / "x.pth", named("backbone.")).read_bytes()
    (tmp_path / "x.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(SimipuError, match="copy or make it again"):
        read_encoder(tmp_path / "x.pth")


# -- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("layout", get_args(Layout))
def test_written_encoders_read_back(tmp_path: Path, layout: Layout, suffix: str) -> None:
    """With their input convention, wherever the format has a place for it."""
    spec = EncoderSpec(name="resnet18", norm_eps=2e-3, input=InputConfig(mean=(1.0, 2.0, 3.0)))
    encoder = image_encoder("resnet18")
    save_weights(encoder, tmp_path / "encoder.safetensors", spec)
    out = tmp_path / "deeper" / f"out{suffix}"
    write_encoder(read_encoder(tmp_path / "encoder.safetensors"), layout, out)
    found = read_encoder(out)
    assert_equal(found.tensors, encoder.state_dict())
    assert PREFIXES[layout] == PREFIXES.get(found.layout)  # type: ignore[call-overload]
    has_place = suffix == ".safetensors" or PREFIXES[layout] != ""
    assert found.input == (spec.input if has_place else None)
    assert found.norm_eps == (spec.norm_eps if has_place else 1e-5)
    assert [file.name for file in out.parent.iterdir()] == [out.name]


def encoder_file(folder: Path) -> Path:
    spec = EncoderSpec(name="resnet18", norm_eps=1e-5, input=RGB)
    encoder = image_encoder("resnet18")
    encoder.load_state_dict(bare())
    save_weights(encoder, folder / "encoder.safetensors", spec)
    return folder / "encoder.safetensors"


def test_torchvision_and_timm_load_them_strictly_and_compute_the_same(tmp_path: Path) -> None:
    for layout in ("torchvision", "timm"):
        write_encoder(read_encoder(encoder_file(tmp_path)), layout, tmp_path / f"{layout}.pth")
    image = torch.rand(1, 3, 64, 64)
    ours = image_encoder("resnet18").eval()
    ours.load_state_dict(bare())
    theirs = torchvision.models.resnet18(weights=None)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(torch.load(tmp_path / "torchvision.pth", weights_only=True))
    pooled = ours(image)[-1].mean((2, 3))
    torch.testing.assert_close(theirs.eval()(image), pooled)
    net = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / "timm.pth"))
    torch.testing.assert_close(net.eval()(image), pooled)


def test_openmmlab_finds_them_by_its_prefix(tmp_path: Path) -> None:
    """What mmcv's `Pretrained` does: take `state_dict`, keep what begins with the prefix, drop the prefix."""
    write_encoder(read_encoder(encoder_file(tmp_path)), "openmmlab", tmp_path / "x.pth")
    content = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    prefix = "backbone."
    assert_equal({key[len(prefix) :]: value for key, value in content.items() if key.startswith(prefix)}, bare())


def test_a_file_is_never_overwritten_or_left_half_done(tmp_path: Path) -> None:
    weights = read_encoder(encoder_file(tmp_path))
    with pytest.raises(SimipuError, match="already exists"):
        write_encoder(weights, "timm", tmp_path / "encoder.safetensors")
    with pytest.raises(SimipuError, match=r"weights are \.safetensors"):
        write_encoder(weights, "timm", tmp_path / "x.bin")
    (tmp_path / "file").touch()
    with pytest.raises(SimipuError, match="cannot be written"):
        write_encoder(weights, "timm", tmp_path / "file" / "x.pth")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["encoder.safetensors", "file"]


def test_safetensors_have_the_prefix_too(tmp_path: Path) -> None:
    write_encoder(read_encoder(encoder_file(tmp_path)), "simipu", tmp_path / "x.safetensors")
    assert_equal(load_file(tmp_path / "x.safetensors"), named("img_backbone."))


# -- one truth -------------------------------------------------------------------------------------------------------


def test_options_of_the_command_are_those_of_the_layouts() -> None:
    assert [layout.value for layout in LayoutOption] == list(get_args(Layout)) == list(PREFIXES)
    assert [choice.value for choice in Input] == list(CONVENTIONS)


def test_simipus_convention_is_that_of_the_reference_preset() -> None:
    assert InputConfig(**PRESETS["reference"]["pretrain"]["input"]) == BGR
