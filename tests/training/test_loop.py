import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from simipu_core.config import LoopConfig
from simipu_core.errors import SimipuError
from simipu_core.tracking.run import SilentRun
from simipu_core.training.checkpoint import Checkpoints, TrainingState, checkpoints_for
from simipu_core.training.loop import fit

CPU = torch.device("cpu")
CONFIG = LoopConfig(epochs=1, batch_size=2, checkpoint_every=3, log_every=2)


@dataclass(frozen=True)
class Numbers:
    values: Tensor
    sample_ids: list[str]


class Recorder(SilentRun):
    def __init__(self) -> None:
        self.steps: dict[int | None, Mapping[str, float]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.steps[step] = metrics


def load(steps: range) -> Iterator[Numbers]:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        yield Numbers(torch.randn(4, 3, generator=generator), [f"s{step}"])


def new_state() -> TrainingState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1))
    first, last = AdamW(model[0].parameters(), 0.1), SGD(model[1:].parameters(), 0.1, momentum=0.9)
    return TrainingState(
        model, [first, last], [OneCycleLR(first, 0.1, total_steps=20, cycle_momentum=False), StepLR(last, 4, 0.5)]
    )


def train(state: TrainingState, steps: int = 20, **options: object) -> Recorder:
    recorder = Recorder()

    def compute(batch: Numbers) -> dict[str, Tensor]:
        return {"loss": (state.model(batch.values) - batch.values.sum(dim=1, keepdim=True)).square().mean()}

    fit("test", state, load, compute, CONFIG, steps=steps, device=CPU, run=recorder, **options)  # type: ignore[arg-type]
    return recorder


class KilledError(Exception): ...


def test_it_learns_and_logs() -> None:
    recorder = train(new_state())
    assert set(recorder.steps) == {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19}
    assert recorder.steps[19]["loss"] < 0.5 * recorder.steps[0]["loss"]
    assert {"loss", "lr"} <= recorder.steps[0].keys()


@pytest.mark.parametrize("killed_at", [1, 3, 8, 19])
def test_a_killed_run_goes_on_bit_exactly(tmp_path: Path, killed_at: int) -> None:
    undisturbed = new_state()
    train(undisturbed)

    store = Checkpoints(tmp_path)
    broken = new_state()

    def compute(batch: Numbers) -> dict[str, Tensor]:
        if batch.sample_ids == [f"s{killed_at}"]:
            raise KilledError
        return {"loss": (broken.model(batch.values) - batch.values.sum(dim=1, keepdim=True)).square().mean()}

    with pytest.raises(KilledError):
        fit("test", broken, load, compute, CONFIG, steps=20, device=CPU, run=SilentRun(), checkpoints=store)
    resumed = new_state()
    recorder = train(resumed, checkpoints=store)
    assert min(step for step in recorder.steps if step is not None) >= killed_at // 3 * 3
    for name, tensor in undisturbed.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    assert json.dumps(resumed.values()) == json.dumps(undisturbed.values())


def test_damaged_checkpoints_are_passed_over_and_old_ones_removed(tmp_path: Path) -> None:
    state, store = new_state(), Checkpoints(tmp_path)
    for step in (3, 6, 9):
        store.save(step, state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000009"]
    (tmp_path / "step-00000009" / "state.safetensors").write_bytes(b"damaged")
    assert store.resume(new_state()) == 6
    (tmp_path / "step-00000006" / "state.json").write_text("{")
    assert store.resume(new_state()) == 0
    store.clear()
    assert not tmp_path.exists()


def test_checkpoints_are_kept_apart_by_what_decides_the_result(tmp_path: Path) -> None:
    def folder(config: LoopConfig, digest: str) -> Path:
        store = checkpoints_for(tmp_path, "pretrain", config, {"pairs": digest})
        assert store
        return store.folder

    assert folder(CONFIG, "a") == folder(CONFIG, "a")
    assert len({folder(CONFIG, "a"), folder(CONFIG, "b"), folder(LoopConfig(epochs=2, batch_size=2), "a")}) == 3
    assert checkpoints_for(None, "pretrain", CONFIG, {}) is None


def test_divergence_stops_with_the_samples_named() -> None:
    state = new_state()

    def compute(batch: Numbers) -> dict[str, Tensor]:
        scale = float("nan") if batch.sample_ids == ["s4"] else 1.0
        return {"loss": state.model(batch.values).mean() * scale}

    with pytest.raises(SimipuError, match=r"test: the loss is nan at step 4 \(samples s4\)"):
        fit("test", state, load, compute, CONFIG, steps=20, device=CPU, run=SilentRun())


def test_gradients_are_clipped() -> None:
    recorder = train(new_state(), steps=1, clip_norm=1e-6)
    free = train(new_state(), steps=1, clip_norm=1e6)
    assert recorder.steps[0]["gradient_norm"] == pytest.approx(free.steps[0]["gradient_norm"])
    clipped, plain = new_state(), new_state()
    train(clipped, steps=1, clip_norm=1e-6)
    train(plain, steps=1)
    last = "model/3.weight"
    start = new_state().tensors()[last]
    assert (clipped.tensors()[last] - start).abs().max() < 1e-5 < (plain.tensors()[last] - start).abs().max()
