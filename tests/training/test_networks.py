import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simipu_core.config import LoopConfig
from simipu_core.data.views import PairViews
from simipu_core.losses.sig_loss import sig_loss
from simipu_core.models.simipu import SimIPU
from simipu_core.training.checkpoint import TrainingState
from simipu_core.training.devices import autocast, set_arithmetic
from simipu_core.training.networks import prepare
from tests.samples import pair_row, tiny_pretrain
from tests.training.toy import ALONE, new_state, squared_error, train

CPU = torch.device("cpu")


class Two(nn.Module):
    """An encoder whose stages are called one by one, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 4, 3)})
        self.head = nn.Linear(4, 1)

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.encoder.values():
            images = stage(images)
        result: Tensor = self.head(images.mean(dim=(2, 3)))
        return result


@pytest.fixture
def _defaults_after() -> Iterator[None]:
    yield
    set_arithmetic(config(precision="tf32"))
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("_defaults_after")
def test_arithmetic_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for precision, is_rounded in (("fp32", False), ("tf32", True), ("bf16", True), ("fp32", False)):
        prepare(nn.Linear(2, 2), config(precision=precision), ALONE)
        flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        assert flags == (is_rounded, is_rounded)
        assert not torch.are_deterministic_algorithms_enabled()
    prepare(nn.Linear(2, 2), config(deterministic=True), ALONE)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def config(**changes: Any) -> LoopConfig:
    return LoopConfig(epochs=1, batch_size=2, **changes)


def test_channels_last_changes_the_memory_order_alone() -> None:
    torch.manual_seed(0)
    model, images = Two(), torch.randn(2, 3, 8, 8)
    before, names = model(images), list(model.state_dict())
    prepare(model, config(channels_last=True), ALONE)
    assert model.encoder["a"](images).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model(images), before, atol=1e-6)
    assert list(model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_modules_compute_the_same_under_the_same_names() -> None:
    torch.manual_seed(0)
    model, images = Two(), torch.randn(2, 3, 8, 8)
    before, names = model(images), list(model.state_dict())
    prepare(model, config(compile=True), ALONE)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert torch.allclose(model(images), before, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert list(model.state_dict()) == names


def test_mixed_precision_is_around_the_networks_and_not_in_the_losses() -> None:
    torch.manual_seed(0)
    net, images = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Softplus()), torch.rand(2, 1, 8, 8)
    depth = torch.rand(2, 1, 8, 8) + 1
    with autocast("bf16", CPU):
        prediction = net(images)
        loss = sig_loss(prediction, depth)
    assert prediction.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sig_loss(prediction.float(), depth).item(), rel=1e-6)
    with autocast("fp32", CPU):
        assert net(images).dtype == torch.float32


def test_training_in_bf16_keeps_weights_and_slots_in_fp32() -> None:
    seen = set()
    state = new_state()
    compute = squared_error(state)
    state.model.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
    recorder = train(state, compute, config=config(precision="bf16"), steps=20)
    assert seen == {torch.bfloat16}
    floats = {tensor.dtype for tensor in state.tensors().values() if tensor.is_floating_point()}
    assert floats == {torch.float32}
    assert recorder.steps[19]["loss"] < recorder.steps[0]["loss"]


def test_momentum_free_sgd_can_be_saved() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state = TrainingState(model, [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 5)])
    train(state, steps=2)
    assert state.tensors().keys() == {"random/cpu", "model/weight", "model/bias"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_pre_training_takes_images_of_any_size_and_any_number_of_rows() -> None:
    settings = tiny_pretrain(compile=True)
    torch.manual_seed(0)
    plain, compiled = SimIPU(settings), SimIPU(settings)
    compiled.load_state_dict(plain.state_dict())
    prepare(compiled, settings, ALONE)
    views = PairViews(settings)
    batch = views([pair_row(1), pair_row(2)], [np.random.default_rng(seed) for seed in (1, 2)])
    for height, width, num_visible in ((64, 96, 256), (32, 64, 200), (32, 64, 100)):
        is_visible = batch.is_visible & (torch.arange(256) < num_visible)
        shown = replace(batch, images=batch.images[..., :height, :width], is_visible=is_visible)
        losses = [model(shown).loss for model in (plain, compiled)]
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
