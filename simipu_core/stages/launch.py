"""Run a training stage in this process, or in one process for each GPU of this machine."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simipu_core.errors import SimipuError
from simipu_core.tracking.run import Run, SilentRun

PROCESSES = "SIMIPU_PROCESSES"
"""Environment variable with the number of processes of a training step: that of its GPUs."""
_SHUTDOWN_SECONDS = 120  # after SIGTERM, for the step under way and its checkpoint


def launch(stage: Callable[..., object], *arguments: Any, run: Run, **named: Any) -> None:
    """Call a training stage as ``SIMIPU_PROCESSES`` says: directly, or in several processes as torchrun would.

    The processes share every batch (see :mod:`simipu_core.training.distributed`); the first one records into `run`.
    SIGTERM is passed on to all of them.

    Args:
        stage: a function at the top level of a module, with a keyword `run`.
        arguments: of the stage, by position.
        run: where the stage is recorded.
        named: its other keyword arguments.

    Raises:
        SimipuError: what the stage raises; or one of the processes died.
    """
    num = _num_processes()
    if num == 1:
        stage(*arguments, run=run, **named)
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="simipu-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=Path(folder).name,
            local_addr="localhost",
            max_restarts=0,
            start_method="spawn",
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # torchrun's own report of a failure; ours is below
        try:
            elastic_launch(config, _rank)(stage, arguments, named, run.run_id, Path(folder))
        except SignalException as error:
            raise SimipuError(
                _first_message(Path(folder)) or f"stopped by {signal.Signals(error.sigval).name}."
            ) from None
        except ChildFailedError as error:
            first = error.get_first_failure()[1]
            raise SimipuError(_first_message(Path(folder)) or _death(first.local_rank, first.exitcode)) from None
        finally:
            logging.disable(before)


def _num_processes() -> int:
    text = os.environ.get(PROCESSES, "1")
    if not text.isdecimal() or int(text) < 1:
        raise SimipuError(f"{PROCESSES}={text}: must be the number of training processes, 1 or more.")
    return int(text)


def _rank(
    stage: Callable[..., object], arguments: tuple[Any, ...], named: dict[str, Any], run_id: str | None, folder: Path
) -> None:
    """One of the processes."""
    rank = os.environ["RANK"]
    try:
        if rank == "0" and run_id:
            from simipu_core.tracking.mlflow_run import step

            os.environ["MLFLOW_RUN_ID"] = run_id
            with step(os.environ.get("SIMIPU_STEP", stage.__name__)) as run:
                stage(*arguments, run=run, **named)
        else:
            stage(*arguments, run=SilentRun(), **named)
    except SimipuError as error:
        partial = folder / f".{rank}"
        partial.write_text(str(error), encoding="utf-8")
        partial.replace(folder / rank)
        sys.exit(1)


def _first_message(folder: Path) -> str | None:
    """Error message of the process that failed first."""
    files = sorted((file for file in folder.iterdir() if file.name.isdecimal()), key=lambda file: file.stat().st_mtime)
    return files[0].read_text(encoding="utf-8") if files else None


def _death(rank: int, exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            f"training process {rank} was killed, most likely for want of memory; give the step more (or a smaller "
            "batch_size, or fewer workers) and run it again: it goes on from its last checkpoint."
        )
    how = f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
    return f"training process {rank} ended {how}; the lines above say why."
