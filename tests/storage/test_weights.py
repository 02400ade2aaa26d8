"""Weights files in a bucket."""

from pathlib import Path

import pytest
import torch

from simipu_core.config import InputConfig
from simipu_core.errors import SimipuError
from simipu_core.models.image_encoder import image_encoder
from simipu_core.models.initialise import initialise, pin, weights_digest
from simipu_core.models.weights import EncoderSpec, save_weights
from tests.proxy import Fault, Proxy
from tests.storage.conftest import Upload


def write(file: Path) -> torch.nn.Module:
    """An encoder of random weights."""
    encoder = image_encoder("resnet18")
    file.parent.mkdir(exist_ok=True)
    save_weights(encoder, file, EncoderSpec(name="resnet18", norm_eps=1e-5, input=InputConfig()))
    return encoder


def load(init_file: str) -> torch.nn.Module:
    encoder = image_encoder("resnet18")
    initialise(encoder, "resnet18", "checkpoint", init_file, InputConfig())
    return encoder


def test_they_are_fetched_once_and_pinned_by_content(tmp_path: Path, upload: Upload, weed: Proxy) -> None:
    file = tmp_path / "weights" / "encoder.safetensors"
    expected = write(file).state_dict()
    address = f"{upload(file.parent)}/encoder.safetensors"
    pinned = pin(address)
    assert pinned.startswith(f"{address}#")
    assert weights_digest(pinned) == weights_digest(str(file))
    for init_file in (address, pinned):
        loaded = load(init_file).state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in expected.items())
    assert sum(request.startswith("GET") and "encoder.safetensors" in request for request in weed.requests) == 1

    write(file)
    upload(file.parent)
    with pytest.raises(SimipuError, match=rf"^{address}: changed since the run was submitted"):
        load(pinned)
    assert not torch.equal(load(address).state_dict()["conv1.weight"], expected["conv1.weight"])


def test_missing_ones_and_a_failing_server_are_named(tmp_path: Path, upload: Upload, weed: Proxy) -> None:
    file = tmp_path / "weights" / "encoder.safetensors"
    write(file)
    folder = upload(file.parent)
    with pytest.raises(SimipuError, match=r"other\.safetensors: no such weights file"):
        load(f"{folder}/other.safetensors")
    weed.faults.append(Fault("error", times=99))
    with pytest.raises(SimipuError, match="overloaded or failing"):
        load(f"{folder}/encoder.safetensors")
