"""Two gloo processes against one process that sees the same rows."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simipu_core.config import LoopConfig
from simipu_core.errors import SimipuError
from simipu_core.training.checkpoint import Checkpoints, TrainingState
from simipu_core.training.distributed import Ranks, join
from simipu_core.training.loop import fit
from simipu_core.training.norms import synchronise_norms
from tests.training.ranks import rank_file, run_ranks
from tests.training.toy import ALONE, Numbers, Recorder, load, new_state, squared_error

STEPS = 6


def toy(ranks: Ranks, folder: Path, name: str, **changes: Any) -> None:
    """Train the toy, each rank on its micro-batches of each step; the first one's losses and all states are written."""
    config = LoopConfig(epochs=1, batch_size=4, log_every=1, **changes)
    state = new_state()
    synchronise_norms(state.model, config.sync_norm, ranks)
    state = TrainingState(ranks.share_gradients(state.model), state.optimizers, state.schedulers)
    num = ranks.world_size * config.accumulate
    recorder = Recorder()

    def share(steps: range) -> Any:
        for number, micro_batch in enumerate(load(steps, num)):
            if number % num // config.accumulate == ranks.rank:
                yield micro_batch

    fit("toy", state, share, squared_error(state), config, steps=STEPS, run=recorder, ranks=ranks, clip_norm=1.0)
    save_file(state.tensors(), folder / f"{name}-{ranks.rank}.safetensors")
    if ranks.is_first:
        losses = [recorder.steps[step]["loss"] for step in range(STEPS)]
        (folder / f"{name}.json").write_text(json.dumps(losses))


def norms(ranks: Ranks, folder: Path) -> None:
    """Two differently sized halves of a batch through synchronised layers, forward and backward."""
    for dims, layer in (((), nn.BatchNorm1d(3)), ((4, 5), nn.BatchNorm2d(3, eps=1e-3, momentum=0.3))):
        whole = rows(dims)
        model = nn.Sequential(layer)
        synchronise_norms(model, "all", ranks)
        half = (whole[:4] if ranks.is_first else whole[4:]).clone().requires_grad_()
        output = model(half)
        (output * weights(dims)[:4] if ranks.is_first else output * weights(dims)[4:]).sum().backward()
        assert half.grad is not None
        save_file(
            {"output": output.detach(), "gradient": half.grad, **model.state_dict()},
            folder / f"norm{len(dims)}-{ranks.rank}.safetensors",
        )


def rows(dims: tuple[int, ...]) -> Tensor:
    return 3 + 2 * torch.randn(10, 3, *dims, generator=torch.Generator().manual_seed(0))


def weights(dims: tuple[int, ...]) -> Tensor:
    return torch.randn(10, 3, *dims, generator=torch.Generator().manual_seed(1))


def scenarios(folder: Path) -> None:
    """Everything that goes well, in one pair of processes."""
    with join("cpu") as ranks:
        toy(ranks, folder, "plain")
        toy(ranks, folder, "accumulated", accumulate=2)
        toy(ranks, folder, "synchronised", sync_norm="all")
        norms(ranks, folder)
        assert ranks.from_first(lambda: ranks.rank) == 0
        synchronised = nn.ModuleDict({"encoder": nn.BatchNorm1d(2), "decoder": nn.BatchNorm1d(2)})
        synchronise_norms(synchronised, "image_encoder", ranks)
        assert [type(child).__name__ for child in synchronised.children()] == ["RankBatchNorm", "BatchNorm1d"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    assert run_ranks(scenarios, folder) == ["", ""]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    toy(ALONE, folder, "whole")
    toy(ALONE, folder, "plain", accumulate=2)
    toy(ALONE, folder, "accumulated", accumulate=4)
    return folder


@pytest.mark.parametrize("name", ["plain", "accumulated"])
def test_two_ranks_are_one_process_with_twice_the_micro_batches(one: Path, two: Path, name: str) -> None:
    """BatchNorm per micro-batch on both sides; two terms add up to the same bits in any order, four do not."""
    losses = [json.loads((folder / f"{name}.json").read_text()) for folder in (one, two)]
    tolerance = 0.0 if name == "plain" else 1e-5
    assert losses[1] == pytest.approx(losses[0], rel=tolerance, abs=0)
    expected = load_file(one / f"{name}-0.safetensors")
    for rank in (0, 1):
        found = load_file(two / f"{name}-{rank}.safetensors")
        for key, tensor in expected.items():
            if "running" not in key and "tracked" not in key:  # each rank remembers its own statistics
                assert torch.allclose(tensor.double(), found[key].double(), rtol=tolerance, atol=tolerance), key


def test_synchronised_norms_make_two_ranks_one_process_with_the_whole_batch(one: Path, two: Path) -> None:
    losses = [json.loads((one / "whole.json").read_text()), json.loads((two / "synchronised.json").read_text())]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    expected = load_file(one / "whole-0.safetensors")
    for rank in (0, 1):
        found = load_file(two / f"synchronised-{rank}.safetensors")
        for key, tensor in expected.items():
            if key.startswith("model/"):
                assert torch.allclose(tensor, found[key], rtol=1e-4, atol=1e-5), key


@pytest.mark.parametrize("dims", [(), (4, 5)])
def test_batchnorm_over_ranks_is_batchnorm_over_the_whole_batch(two: Path, dims: tuple[int, ...]) -> None:
    layer: nn.Module = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3) if dims else nn.BatchNorm1d(3)
    whole = rows(dims).requires_grad_()
    output = nn.Sequential(layer)(whole)
    (output * weights(dims)).sum().backward()
    halves = [load_file(two / f"norm{len(dims)}-{rank}.safetensors") for rank in (0, 1)]
    assert whole.grad is not None
    assert torch.allclose(torch.cat([half["output"] for half in halves]), output, atol=1e-5)
    assert torch.allclose(torch.cat([half["gradient"] for half in halves]), whole.grad, atol=1e-5)
    for half in halves:
        for name, tensor in layer.state_dict().items():
            assert torch.allclose(half[f"0.{name}"], tensor, atol=1e-5), name


def troubled(folder: Path, trouble: str) -> None:
    """The second rank meets trouble at step 2."""
    with join("cpu") as ranks:
        state = new_state()
        state = TrainingState(ranks.share_gradients(state.model), state.optimizers, state.schedulers)
        error = squared_error(state)

        def compute(batch: Numbers) -> Any:
            loss, values = error(batch)
            if ranks.is_first or not batch.sample_ids[0].startswith("s2-"):
                return loss, values
            if trouble == "nan":
                return loss * torch.nan, values
            if trouble == "sigterm":
                os.kill(os.getpid(), signal.SIGTERM)
                return loss, values
            raise SimipuError("row 7 is broken.")

        store = Checkpoints(folder if trouble != "elsewhere" else rank_file(folder, "own"))
        if trouble == "elsewhere" and ranks.is_first:
            store.save(2, state)
        config = LoopConfig(epochs=1, batch_size=4)
        share = lambda steps: (m for n, m in enumerate(load(steps, 2)) if n % 2 == ranks.rank)  # noqa: E731
        fit("toy", state, share, compute, config, steps=9, run=Recorder(), ranks=ranks, checkpoints=store)


def test_a_bad_loss_on_one_rank_stops_all_and_names_its_samples(tmp_path: Path) -> None:
    first, second = run_ranks(troubled, tmp_path, "nan")
    assert first == "SimipuError: toy: another rank's loss is not finite at step 2; it names the samples."
    assert second.startswith("SimipuError: toy: the loss is nan at step 2 (samples s2-1); ")


def test_sigterm_on_one_rank_stops_all_at_the_same_step_with_a_checkpoint(tmp_path: Path) -> None:
    errors = run_ranks(troubled, tmp_path, "sigterm")
    assert all(e.startswith("StoppedError: toy: stopped by SIGTERM after step 3 of 9, saved in ") for e in errors), (
        errors
    )
    assert Checkpoints(tmp_path).steps() == [3]


def test_an_error_on_one_rank_does_not_hang_the_others(tmp_path: Path) -> None:
    first, second = run_ranks(troubled, tmp_path, "broken row")
    assert second == "SimipuError: row 7 is broken."
    assert first.startswith("InterruptionError: rank 0: another rank stopped or does not answer")


def test_ranks_that_see_different_checkpoints_are_told(tmp_path: Path) -> None:
    first, second = run_ranks(troubled, tmp_path, "elsewhere")
    assert "toy: rank 1 sees other checkpoints than the first one in " in second
    assert first.startswith("InterruptionError: rank 0: another rank stopped")


def test_without_torchrun_this_is_the_only_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join("cpu") as ranks:
        assert ranks == ALONE
        assert ranks.from_first(lambda: 3) == 3
        model = nn.Linear(1, 1)
        assert ranks.share_gradients(model) is model
