import os
import signal
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from simipu_core.errors import SimipuError
from simipu_core.training.checkpoint import Checkpoints, TrainingState
from simipu_core.training.loop import Values
from tests.training.toy import CONFIG, Numbers, assert_equal_states, layers, load, new_state, squared_error, train


class KilledError(Exception): ...


def disturbed(
    state: TrainingState, at: int, change: Callable[[Tensor], Tensor]
) -> Callable[[Numbers], tuple[Tensor, Callable[[], Values]]]:
    """The toy's loss, changed at one step."""
    compute = squared_error(state)

    def changed(batch: Numbers) -> tuple[Tensor, Callable[[], Values]]:
        loss, values = compute(batch)
        return (change(loss) if batch.sample_ids[0].startswith(f"s{at}") else loss), values

    return changed


def test_it_learns_and_logs() -> None:
    recorder = train(new_state())
    assert set(recorder.steps) == {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19}
    assert recorder.steps[19]["loss"] < 0.7 * recorder.steps[0]["loss"]
    assert recorder.steps[0].keys() == {"loss", "gradient_norm", "lr", "largest"}


def test_a_training_that_fails_closes_its_loader_at_once() -> None:
    closed: list[bool] = []

    def watched(steps: range) -> Generator[Numbers, None, None]:
        try:
            yield from load(steps)
        finally:
            closed.append(True)

    def fail(batch: Numbers) -> tuple[Tensor, Callable[[], Values]]:
        raise KilledError(batch)

    with pytest.raises(KilledError) as kept:
        train(new_state(), fail, load=watched)
    assert kept.tb
    assert closed == [True]


def test_values_are_computed_on_logged_steps_only() -> None:
    state, calls = new_state(), []
    compute = squared_error(state)

    def counted(batch: Numbers) -> tuple[Tensor, Callable[[], Values]]:
        loss, _ = compute(batch)
        return loss, lambda: calls.append(batch.sample_ids[0]) or {}  # type: ignore[func-returns-value]

    train(state, counted, steps=6)
    assert calls == ["s0", "s2", "s4", "s5"]


@pytest.mark.parametrize("killed_at", [1, 3, 8, 19])
def test_a_killed_run_goes_on_bit_exactly(tmp_path: Path, killed_at: int) -> None:
    def noisy(state: TrainingState) -> Callable[[Numbers], tuple[Tensor, Callable[[], Values]]]:
        compute = squared_error(state)
        return lambda batch: compute(Numbers(batch.values + 0.01 * torch.randn(8, 3), batch.sample_ids))

    undisturbed = new_state()
    train(undisturbed, noisy(undisturbed))

    broken = new_state()

    def kill(batch: Numbers) -> tuple[Tensor, Callable[[], Values]]:
        if batch.sample_ids == [f"s{killed_at}"]:
            raise KilledError
        return noisy(broken)(batch)

    with pytest.raises(KilledError):
        train(broken, kill, checkpoints=Checkpoints(tmp_path))
    torch.manual_seed(99)
    resumed = new_state()
    recorder = train(resumed, noisy(resumed), checkpoints=Checkpoints(tmp_path))
    assert min(step for step in recorder.steps if step is not None) >= killed_at // 3 * 3
    assert_equal_states(resumed, undisturbed)


def test_what_after_step_changes_is_resumed_and_logged(tmp_path: Path) -> None:
    def averaged(store: Checkpoints, kill_at: int | None = None) -> TrainingState:
        state = new_state()
        trained = layers(state)
        average = nn.Linear(3, 5).requires_grad_(False)
        state.model.add_module("average", average)

        def follow(steps_done: int) -> dict[str, float]:
            if steps_done == kill_at:
                raise KilledError
            average.weight.lerp_(trained.get_parameter("0.weight").detach(), 0.1)
            return {"probe": 0.5} if steps_done % 8 == 0 else {}

        compute = squared_error(TrainingState(trained, [], []))
        recorder = train(state, compute, checkpoints=store, after_step=follow)
        assert recorder.steps[15].keys() == {"probe"}
        return state

    whole = averaged(Checkpoints(tmp_path / "whole"))
    with pytest.raises(KilledError):
        averaged(Checkpoints(tmp_path / "killed"), kill_at=8)
    assert_equal_states(averaged(Checkpoints(tmp_path / "killed")), whole)


def test_accumulated_micro_batches_are_one_batch() -> None:
    """Without BatchNorm the mean over equal micro-batches is the mean over the batch."""
    whole, cut = new_state(norm=False), new_state(norm=False)
    one = train(whole, steps=6)
    config = CONFIG.model_copy(update={"accumulate": 2})
    two = train(cut, steps=6, config=config, load=lambda steps: load(steps, num=2))
    for name, tensor in whole.tensors().items():
        assert torch.allclose(tensor.float(), cut.tensors()[name].float(), atol=1e-5), name
    for step, values in one.steps.items():
        assert two.steps[step]["loss"] == pytest.approx(values["loss"], rel=1e-5)
        assert two.steps[step]["gradient_norm"] == pytest.approx(values["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("num", [1, 2])
def test_a_loss_that_is_not_finite_stops_with_the_samples_named(num: int) -> None:
    state = new_state(norm=False)
    config = CONFIG.model_copy(update={"accumulate": num})
    names = "s4" if num == 1 else "s4-0, s4-1"
    before: dict[str, Tensor] = {}
    bad = disturbed(state, 4, lambda loss: loss * torch.nan)

    def note(batch: Numbers) -> tuple[Tensor, Callable[[], Values]]:
        before.update({name: tensor.clone() for name, tensor in state.model.state_dict().items()})
        return bad(batch)

    with pytest.raises(SimipuError, match=rf"^test: the loss is nan at step 4 \(samples {names}\); look"):
        train(state, note, config=config, load=lambda steps: load(steps, num=num))
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(tensor, before[name]), "the step must not be applied"


def test_a_gradient_that_is_not_finite_stops() -> None:
    state = new_state()

    def endless_slope(loss: Tensor) -> Tensor:
        return loss.detach() + (loss - loss.detach()).abs().sqrt()

    with pytest.raises(SimipuError, match=r"the gradient norm is (nan|inf) at step 2 \(samples s2\)"):
        train(state, disturbed(state, 2, endless_slope))


def test_divergence_stops_and_a_bad_start_does_not() -> None:
    state = new_state()
    with pytest.raises(SimipuError, match=r"more than divergence_factor 20 times .* at step 15 \(samples s15\)"):
        train(state, disturbed(state, 15, lambda loss: loss * 1e4))
    early = new_state()
    train(early, disturbed(early, 1, lambda loss: loss * 1e3), clip_norm=0.1)


def test_unused_parameters_are_refused_and_frozen_ones_are_not() -> None:
    state = new_state()
    state.model.add_module("idle", nn.Linear(2, 2))
    compute = squared_error(TrainingState(layers(state), [], []))
    with pytest.raises(SimipuError, match=r"the loss does not reach idle.weight, idle.bias;"):
        train(state, compute)
    state.model.get_submodule("idle").requires_grad_(False)
    train(state, compute)


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


def test_sigterm_saves_at_once_and_the_restart_goes_on(tmp_path: Path) -> None:
    undisturbed = new_state()
    train(undisturbed)
    stopped, handler = new_state(), signal.getsignal(signal.SIGTERM)

    def terminated(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    compute = disturbed(stopped, 4, terminated)
    with pytest.raises(SimipuError, match=rf"^test: stopped by SIGTERM after step 5 of 20, saved in {tmp_path}: run"):
        train(stopped, compute, checkpoints=Checkpoints(tmp_path))
    assert signal.getsignal(signal.SIGTERM) is handler
    assert Checkpoints(tmp_path).steps() == [5, 3]
    resumed = new_state()
    recorder = train(resumed, checkpoints=Checkpoints(tmp_path))
    assert min(step for step in recorder.steps if step is not None) == 6
    assert_equal_states(resumed, undisturbed)
    with pytest.raises(SimipuError, match=r"after step 5 of 20, and nothing was saved\."):
        train(stopped := new_state(), disturbed(stopped, 4, terminated))


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    failures: list[Exception] = []

    def run() -> None:
        try:
            train(new_state(), steps=2)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures


def test_a_single_value_for_batchnorm_is_told_in_one_sentence() -> None:
    state = new_state()

    def compute(batch: Numbers) -> tuple[Tensor, Callable[[], Values]]:
        return state.model(batch.values[:1]).mean(), dict

    with pytest.raises(SimipuError) as caught:
        train(state, compute, steps=1)
    assert str(caught.value) == (
        "test: a micro-batch of 1 (s0) leaves BatchNorm a single value, of shape 1×5; take larger images or "
        "micro-batches (a larger batch_size, fewer processes or a smaller accumulate)."
    )
