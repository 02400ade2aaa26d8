from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from simipu_core.config import InputConfig
from simipu_core.errors import SimipuError
from simipu_core.models.weights import (
    EncoderSpec,
    check_tensors,
    load_weights,
    read_safetensors,
    read_spec,
    save_tensors,
    save_weights,
)

SPEC = EncoderSpec(name="resnet18", norm_eps=1e-3, input=InputConfig(channels="bgr"))


def test_weights_carry_their_specification(tmp_path: Path) -> None:
    made, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(made, tmp_path / "x.safetensors", SPEC)
    assert read_spec(tmp_path / "x.safetensors", EncoderSpec) == SPEC
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644
    load_weights(other, tmp_path / "x.safetensors")
    torch.testing.assert_close(other.weight, made.weight, rtol=0, atol=0)
    torch.testing.assert_close(other.bias, made.bias, rtol=0, atol=0)


def test_tensors_without_a_specification(tmp_path: Path) -> None:
    save_tensors({"a": torch.arange(6).view(2, 3).T}, tmp_path / "x.safetensors", None)  # not contiguous
    tensors, metadata = read_safetensors(tmp_path / "x.safetensors")
    assert tensors["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert metadata == {}
    with pytest.raises(SimipuError, match="carries no EncoderSpec"):
        read_spec(tmp_path / "x.safetensors", EncoderSpec)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, "1 of 2 tensors are missing: bias"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "gain": torch.zeros(1)}, "1 of 2 .* unexpected: gain"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(1)}, "2 of 2 tensors are of another shape: bias, weight"),
    ],
)
def test_loading_is_strict(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    net = nn.Linear(3, 2)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(SimipuError, match=message):
        load_weights(net, tmp_path / "x.safetensors")
    with pytest.raises(SimipuError, match=f"here: {message}"):
        check_tensors(tensors, net.state_dict(), "here")
