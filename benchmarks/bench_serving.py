"""Requests a second, and how long they take, of the real server on this machine: `simipu serve`, over HTTP.

A bounded number of requests, each with one JPEG picture of KITTI's size, from several clients at a time; each sends its
next request when the last was answered. The network is that of `bench_predict` with random weights, flip included. The
clients run beside the server on the same cores. `python -m benchmarks.bench_serving address=http://HOST:PORT/invocations
requests=200 clients=8` asks a server that is there, and stores nothing.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.bench_predict import pictures
from benchmarks.measure import store
from simipu_core.artifacts import write_artifact
from simipu_core.config import FinetuneConfig, TrackingConfig
from simipu_core.evaluation.report import Report
from simipu_core.models.depth_net import build_depth_net, save_depth_net

PATIENCE = 240.0


def register(folder: Path) -> None:
    """A registered version in a store of its own."""
    from simipu_core.tracking import registry
    from simipu_core.tracking.mlflow_run import step

    config = FinetuneConfig(encoder_name="resnet18", decoder_channels=(256, 128, 64, 32), init="torch_default")
    with write_artifact(folder / "net", "depth_net", inputs={}, parameters={}, licence="made up") as draft:
        save_depth_net(build_depth_net(config, None), draft.path / "model.safetensors")
    report = Report(
        headline="whole_frame",
        num_images=1,
        flip=True,
        metrics={"whole_frame": {"abs_rel": 0.0, "rmse": 0.0}},
        baselines={},
        model_digest="",
        data_digest="",
    )
    tracking = TrackingConfig(mlflow_experiment="serving", model_name="depth")
    with step("evaluate", "serving") as run:
        registry.register(run, folder / "net", report, tracking, "serving")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a real server of that version."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from simipu_core.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "models:/depth@challenger", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit((folder / "log").read_text())
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def answers(port: int) -> bool:
    """Whether the server is ready."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


def load(address: str, body: bytes, requests: int, clients: int) -> dict[str, float]:
    """Send requests and measure; every answer must be one depth."""

    def ask(_: int) -> float:
        begun = time.perf_counter()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            (prediction,) = json.load(answer)["predictions"]
        assert prediction["depth"]
        return time.perf_counter() - begun

    ask(0)
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        taken = list(pool.map(ask, range(requests)))
    return {
        "requests_per_second": requests / (time.perf_counter() - begun),
        "median_seconds": float(np.median(taken)),
        "p95_seconds": float(np.percentile(taken, 95)),
    }


def main(address: str = "", requests: int = 40, clients: int = 4) -> None:
    """Measure, print and store."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        pictures(folder, 1)
        image = base64.b64encode((folder / "0000.jpg").read_bytes()).decode("ascii")
        body = json.dumps({"dataframe_records": [{"image": image}]}).encode()
        if address:
            print(load(address, body, requests, clients))
            return
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow/mlflow.db"
        os.environ["SIMIPU_CACHE"] = str(folder / "cache")
        register(folder)
        with served(folder) as own:
            measured = load(own, body, requests, clients)
        result = {"load_average": os.getloadavg()[0], "requests": requests, "clients": clients, **measured}
    store("serving", result)


if __name__ == "__main__":
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(**{name: int(value) if value.isdigit() else value for name, value in options.items()})  # type: ignore[arg-type]
