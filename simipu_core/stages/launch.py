"""Run a training stage: in this process, in a process for each GPU of this machine, and again after an interruption."""

import inspect
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simipu_core.errors import InterruptionError, SimipuError, StoppedError, machine_errors
from simipu_core.files import temporary_folder, write_file
from simipu_core.stages import attempts
from simipu_core.termination import termination
from simipu_core.tracking.run import Run, SilentRun

PROCESSES = "SIMIPU_PROCESSES"
"""Environment variable with the number of processes of a training step: that of its GPUs."""
_REFUSED = os.EX_IOERR
"""Exit code of a process that could not leave its message."""
_SHUTDOWN_SECONDS = 120  # after SIGTERM, for the step under way and its checkpoint


def launch(stage: Callable[..., object], *arguments: Any, run: Run, **named: Any) -> None:
    """Call a training stage as ``SIMIPU_PROCESSES`` says: directly, or in several processes as torchrun would.

    The processes share every batch (see :mod:`simipu_core.training.distributed`); the first one records into `run`.
    A request to end is passed on to all of them. Where ``SIMIPU_RETRY`` asks for further attempts, a single process is
    a child too: when one dies of a signal or an exit code, all are started again and go on from the last checkpoint
    (see :mod:`simipu_core.stages.attempts`). What the stage refuses is never tried again.

    Args:
        stage: a function at the top level of a module, with a keyword `run`.
        arguments: of the stage, by position.
        run: where the stage is recorded.
        named: its other keyword arguments.

    Raises:
        SimipuError: what the stage raises.
        InterruptionError: one of the processes died, and no attempt is left.
    """
    num = _num_processes()
    if num == 1 and attempts.requested() is None:
        stage(*arguments, run=run, **named)
        return
    call = _Call(stage, arguments, named, run.run_id)

    def attempt() -> None:
        with temporary_folder("ranks") as folder:
            if num == 1:
                _run_child(call, folder)
            else:
                _run_ranks(call, num, folder)

    attempts.repeat(attempt, stage.__name__)


@dataclass(frozen=True)
class _Call:
    """What every process does."""

    stage: Callable[..., object]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    run_id: str | None

    def __call__(self, run: Run) -> None:
        self.stage(*self.arguments, run=run, **self.named)

    @property
    def out(self) -> Path | None:
        """The artifact that the stage writes."""
        found = inspect.signature(self.stage).bind_partial(*self.arguments, **self.named).arguments.get("out")
        return found if isinstance(found, Path) else None


def _run_child(call: _Call, folder: Path) -> None:
    """One attempt in one child process."""
    child = multiprocessing.get_context("spawn").Process(target=_rank, args=(call, folder))

    def pass_on() -> None:
        if child.pid is not None:
            child.terminate()

    with termination(pass_on) as ending:
        child.start()
        try:
            if ending.is_asked:  # before there was a child to tell
                child.terminate()
            while child.is_alive() and not ending.is_asked:
                child.join(0.5)
            if ending.is_asked:
                child.join(_SHUTDOWN_SECONDS)
        finally:
            child.kill()
            child.join()
        if ending.is_asked and child.exitcode:
            sentence = _first(folder, "*.error", "*.interrupted") or f"stopped by {ending.name}."
            raise StoppedError(sentence, ending.signal)
    if child.exitcode:
        raise _failure(folder, [(0, child.exitcode)])


def _run_ranks(call: _Call, num: int, folder: Path) -> None:
    """One attempt in `num` processes."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=folder.name,
        local_addr="localhost",
        max_restarts=0,
        start_method="spawn",
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torchrun's own report of a failure; ours is below
    try:
        elastic_launch(config, _rank)(call, folder)
    except SignalException as error:
        by = signal.Signals(error.sigval)
        raise StoppedError(_first(folder, "*.error", "*.interrupted") or f"stopped by {by.name}.", by) from None
    except ChildFailedError as error:
        deaths = [(failure.local_rank, failure.exitcode) for failure in error.failures.values()]
        raise _failure(folder, deaths) from None
    finally:
        logging.disable(before)


def _num_processes() -> int:
    text = os.environ.get(PROCESSES, "1")
    if not text.isdecimal() or int(text) < 1:
        raise SimipuError(f"{PROCESSES}={text}: must be the number of training processes, 1 or more.")
    return int(text)


def _rank(call: _Call, folder: Path) -> None:
    """One of the processes."""
    rank = os.environ.get("RANK", "0")
    try:
        with machine_errors():
            if rank == "0" and call.run_id:
                from simipu_core.tracking.mlflow_run import step

                os.environ["MLFLOW_RUN_ID"] = call.run_id
                with step(os.environ.get("SIMIPU_STEP", call.stage.__name__), out=call.out) as run:
                    call(run)
            else:
                call(SilentRun())
    except SimipuError as error:
        kind = "interrupted" if isinstance(error, InterruptionError) else "error"
        try:
            write_file(folder / f"{rank}.{kind}", str(error).encode())
        except OSError:  # this disk is full, too
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(_REFUSED)
        sys.exit(1)


def _first(folder: Path, *patterns: str) -> str | None:
    """Message of the process that failed first, of those by the first pattern that fits any."""
    for pattern in patterns:
        if files := sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime):
            return files[0].read_text(encoding="utf-8")
    return None


def _failure(folder: Path, deaths: Iterable[tuple[int, int]]) -> SimipuError:
    """Why processes ended, by rank and exit code: what one refused, or how one died, which the others only noticed."""
    if message := _first(folder, "*.error"):
        return SimipuError(message)
    for rank, exit_code in deaths:
        if exit_code == _REFUSED:
            return SimipuError(f"training process {rank} stopped; the lines above say why.")
        if not (folder / f"{rank}.interrupted").exists():
            return InterruptionError(_death(rank, exit_code))
    return InterruptionError(_first(folder, "*.interrupted") or "the training processes ended.")


def _death(rank: int, exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            f"training process {rank} was killed, most likely for want of memory; give the step more (or a smaller "
            "batch_size, or fewer workers) and run it again: it goes on from its last checkpoint."
        )
    how = f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
    return f"training process {rank} ended {how}; the lines above say why."
