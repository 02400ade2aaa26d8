"""Run a function in two processes that train together over gloo on the loopback address."""

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

_PATIENCE = 180.0


def run_ranks(function: Callable[..., None], *arguments: Any, num_ranks: int = 2) -> list[str]:
    """What went wrong on each rank, in order: its error's type and message, or nothing.

    Args:
        function: at the top level of a module.
        arguments: of the function, picklable.
        num_ranks: number of processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", function.__module__])  # imported once, not by every process
    answers = context.SimpleQueue()
    processes = [
        context.Process(target=_rank, args=(rank, num_ranks, port, answers, function, arguments))
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_PATIENCE)
    stuck = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in stuck:
        processes[rank].kill()
    assert not stuck, f"ranks {stuck} hang"
    errors = dict(answers.get() for _ in processes)
    return [errors[rank] for rank in range(num_ranks)]


def _rank(
    rank: int, num_ranks: int, port: int, answers: Any, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    import torch

    torch.set_num_threads(1)
    try:
        function(*arguments)
    except Exception as error:
        traceback.print_exc()
        answers.put((rank, f"{type(error).__name__}: {error}"))
    else:
        answers.put((rank, ""))


def rank_file(folder: Path, name: str) -> Path:
    """A file of this rank's own."""
    return folder / f"{name}-{os.environ['RANK']}"
