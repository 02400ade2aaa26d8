"""Load of the machine during a step, where ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true`` asks for it."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from simipu_core.errors import SimipuError

Log = Callable[[Mapping[str, float], int | None], None]
_INTERVAL = 10.0


@contextmanager
def recorded(log: Log) -> Iterator[None]:
    """Record CPU, memory, disk, network and, with nvidia-ml-py installed, GPU load every ten seconds of the block.

    Names are MLflow's own (``system/…``), so its page shows them apart; so are the variables that change the interval
    (``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL``, seconds) and tell machines apart (``MLFLOW_SYSTEM_METRICS_NODE_ID``).

    Args:
        log: takes numbers and the index of the sample.

    Raises:
        SimipuError: psutil is not installed.
    """
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() not in ("true", "1"):
        yield
        return
    monitors = _monitors()
    done = threading.Event()
    sampler = threading.Thread(target=_sample, args=(monitors, log, done), name="simipu-system-metrics", daemon=True)
    sampler.start()
    try:
        yield
    finally:
        done.set()
        sampler.join()


def _monitors() -> list[Any]:
    try:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    except ImportError:
        raise SimipuError(
            "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is set, but psutil is not installed; install it or unset that."
        ) from None
    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]  # type: ignore[no-untyped-call]
    try:
        monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]
    except Exception:  # no NVIDIA GPU, driver or library: each raises in its own way
        return monitors
    return monitors


def _sample(monitors: list[Any], log: Log, done: threading.Event) -> None:
    interval = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", _INTERVAL))
    node = os.environ.get("MLFLOW_SYSTEM_METRICS_NODE_ID")
    prefix = f"system/{node}/" if node else "system/"
    step = 0
    while not done.wait(interval):
        values: dict[str, float] = {}
        for monitor in monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        log({prefix + name: value for name, value in values.items()}, step)
        step += 1
