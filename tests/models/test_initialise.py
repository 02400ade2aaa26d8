import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import timm
import torch
from torch import nn

from simipu_core.config import InputConfig
from simipu_core.config.backbones import BACKBONES
from simipu_core.errors import SimipuError
from simipu_core.models import hub
from simipu_core.models.foreign import CONVENTIONS
from simipu_core.models.image_encoder import image_encoder
from simipu_core.models.initialise import Init, initialise, pin, weights_digest, weights_source
from simipu_core.models.weights import EncoderSpec, save_weights
from tests.models.hub import HubServer

RGB, BGR = CONVENTIONS["imagenet"], CONVENTIONS["simipu"]


def start(init: Init, file: Path | str | None = None, expected: InputConfig = RGB, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    encoder = image_encoder("resnet18")
    initialise(encoder, "resnet18", init, str(file) if file else None, expected, **options)
    return encoder


def same(one: nn.Module, two: nn.Module) -> bool:
    tensors = two.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(7)
    return image_encoder("resnet18")


@pytest.fixture
def write(tmp_path: Path, trained: nn.Module) -> Callable[..., Path]:
    """Writes the trained encoder as SimIPU, as an ImageNet classifier, bare, or as this program does."""

    def write(kind: str) -> Path:
        file = tmp_path / f"{kind}.pth"
        tensors = trained.state_dict()
        if kind == "ours":
            file = tmp_path / "encoder.safetensors"
            save_weights(trained, file, EncoderSpec(name="resnet18", norm_eps=1e-3, input=RGB))
        elif kind == "simipu":
            torch.save({"state_dict": {f"img_backbone.{key}": tensor for key, tensor in tensors.items()}}, file)
        else:
            torch.save(tensors | ({"fc.bias": torch.zeros(1000)} if kind == "classifier" else {}), file)
        return file

    return write


def test_random_starts() -> None:
    kaiming, default = start("kaiming_zero_gamma"), start("torch_default")
    assert not kaiming.get_parameter("layer1.0.bn2.weight").any()
    assert (default.get_parameter("layer1.0.bn2.weight") == 1).all()
    # PyTorch's own: uniform within 1 / sqrt(3·49)
    bound = (3 * 49) ** -0.5
    assert 0.95 * bound < default.get_parameter("conv1.weight").abs().max() <= bound
    torch.manual_seed(0)
    assert same(kaiming, image_encoder("resnet18"))


@pytest.mark.parametrize(
    ("init", "kind", "expected"),
    [
        ("checkpoint", "ours", RGB),
        ("pretrained", "ours", RGB),
        ("checkpoint", "simipu", BGR),
        ("checkpoint", "classifier", RGB),
        ("imagenet", "classifier", RGB),
        ("imagenet", "bare", RGB),
        ("imagenet", "ours", RGB),
    ],
)
def test_files_load_whole(
    write: Callable[..., Path], trained: nn.Module, init: Init, kind: str, expected: InputConfig
) -> None:
    assert same(start(init, write(kind), expected), trained)


@pytest.mark.parametrize(
    ("init", "kind", "expected", "message"),
    [
        ("checkpoint", "ours", BGR, "was made on rgb input"),
        ("checkpoint", "simipu", RGB, "was made on bgr input"),
        ("checkpoint", "bare", RGB, "does not tell its input convention.*simipu weights import --input"),
        ("imagenet", "classifier", BGR, "was made on rgb input"),
        ("imagenet", "bare", BGR, "was made on rgb input"),
        ("imagenet", "simipu", BGR, "which is not ImageNet's convention; set init to `checkpoint`"),
    ],
)
def test_another_input_convention_is_refused(
    write: Callable[..., Path], trained: nn.Module, init: Init, kind: str, expected: InputConfig, message: str
) -> None:
    with pytest.raises(SimipuError, match=message):
        start(init, write(kind), expected)
    if "not ImageNet's" not in message:
        assert same(start(init, write(kind), expected, allow_input_mismatch=True), trained)


def test_another_architecture_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(SimipuError, match="holds a resnet18, but the configured encoder is a resnet34"):
        initialise(image_encoder("resnet34"), "resnet34", "imagenet", str(write("classifier")), RGB)


def test_a_checkpoint_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match="name them in init_file"):
        start("checkpoint")
    with pytest.raises(SimipuError, match=r"gone\.pth: no such weights file"):
        start("imagenet", tmp_path / "gone.pth")


def test_a_pinned_file_stands_for_its_content(
    write: Callable[..., Path], trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("classifier")
    monkeypatch.chdir(file.parent)
    pinned = pin(file.name)
    assert pinned.startswith(f"{file}#")
    assert pin(pinned) == pinned
    assert same(start("imagenet", pinned), trained)
    with file.open("ab") as opened:
        opened.write(b"more")
    with pytest.raises(SimipuError, match="changed since the run was submitted"):
        start("imagenet", pinned)


# -- ImageNet weights without a file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKBONES)
def test_they_are_timms_copy_of_torchvisions_first_weights(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[tuple[str, str]] = []

    def newest(repository: str, file: str) -> hub.HubFile:
        asked.append((repository, file))
        return hub.HubFile(repository, "0" * 40, file, "0" * 64)

    monkeypatch.setattr(hub, "newest", newest)
    assert weights_source(name, "imagenet", None) == f"hf://timm/{name}.tv_in1k@{'0' * 40}/model.safetensors#{'0' * 64}"
    known = timm.get_pretrained_cfg(f"{name}.tv_in1k")
    assert known is not None
    assert asked == [(known.hf_hub_id, "model.safetensors")]
    assert known.origin_url == "https://github.com/pytorch/vision"
    assert [255 * value for value in known.mean] == pytest.approx(RGB.mean)
    assert [255 * value for value in known.std] == pytest.approx(RGB.std)


def test_only_imagenet_asks_the_hub() -> None:
    for init in get_args(Init):
        assert weights_source("resnet18", init, "weights.pth") == "weights.pth"
        if init != "imagenet":
            assert weights_source("resnet18", init, None) is None


def test_they_are_loaded_from_the_hub_and_their_digest_is_recorded(
    write: Callable[..., Path], trained: nn.Module, hub_server: HubServer
) -> None:
    content = write("ours").read_bytes()
    hub_server.files["timm/resnet18.tv_in1k", "model.safetensors"] = content
    assert same(start("imagenet"), trained)
    source = weights_source("resnet18", "imagenet", None)
    assert source == hub_server.address("timm/resnet18.tv_in1k", "model.safetensors")
    assert weights_digest(source) == {"init_file": hashlib.sha256(content).hexdigest()}
    assert hub_server.downloads == 1
    assert pin(source) == source
    assert same(start("checkpoint", source), trained)


def test_others_are_not_loaded(write: Callable[..., Path], hub_server: HubServer) -> None:
    named = ("timm/resnet18.tv_in1k", "model.safetensors")
    hub_server.files[named] = write("ours").read_bytes()
    address = hub_server.address(*named)
    hub_server.files[named] = write("ours").read_bytes()[::-1]
    with pytest.raises(SimipuError, match=r"what came has the sha256 [0-9a-f]{64} and is not loaded"):
        start("imagenet", address)
    with pytest.raises(SimipuError, match="what came has the sha256"):
        weights_digest(address)


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"one")
    first = weights_digest(str(file))
    assert weights_digest(pin(str(file))) == first == {"init_file": hashlib.sha256(b"one").hexdigest()}
    file.write_bytes(b"two")
    assert weights_digest(str(file)) != first
    assert weights_digest(None) == {}
