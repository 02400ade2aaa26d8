"""`simipu serve`: the real server, asked as strangers would ask it."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simipu_core.config import TrackingConfig
from simipu_core.data.images import decode_depth, encode_jpeg, encode_png
from simipu_core.prediction.predictor import load
from simipu_core.tracking import serve as serving
from simipu_core.tracking.mlflow_run import step
from simipu_core.tracking.registry import register
from tests.prediction.pictures import pixels
from tests.tracking.test_registry import REPORT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
ROOT = Path(__file__).parents[2]
_PROGRAM = "from simipu_core.cli import main; main()"


def test_the_server_finds_its_programs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow starts uvicorn by its name, which is on nobody's path."""
    assert store.parent.is_dir()
    started: list[list[str]] = []
    monkeypatch.setattr(serving, "registered_weights", lambda address: open(os.devnull))  # noqa: PTH123, SIM115

    def become(program: str, command: list[str]) -> None:
        assert program == sys.executable
        started.append(command)
        raise SystemExit

    monkeypatch.setattr("os.execv", become)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit):
        serving.serve("models:/served/1", host="0.0.0.0", port=81, workers=3)
    assert (Path(os.environ["PATH"].split(os.pathsep)[0]) / "uvicorn").is_file()
    assert started[0][:4] == [sys.executable, "-m", "mlflow", "models"]
    assert started[0][-6:] == ["--host", "0.0.0.0", "--port", "81", "--workers", "3"]


@pytest.fixture
def address(store: Path, net: Path) -> Iterator[str]:
    """Of a real server of a registered net, started as people do, without `.venv/bin` on the path."""
    with step("evaluate", "served") as run:
        register(run, net, REPORT, TrackingConfig(mlflow_experiment="served", model_name="on-http"), "demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", _PROGRAM, "serve", "models:/on-http@challenger", "--port", str(port)]
    log = store.parent / "serve.log"
    with log.open("wb") as written:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PATH": "/usr/bin:/bin"},
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(address: str, body: bytes) -> tuple[int, Any]:
    """Status and JSON of an answer; NaN and Infinity, which are no JSON, are refused."""
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    return status, json.loads(text, parse_constant=pytest.fail)


@pytest.mark.slow
def test_real_requests_are_answered_or_refused_with_a_reason(address: str, net: Path) -> None:
    predictor = load(net, device="cpu")
    image = pixels(1, 50, 70)
    png, jpeg = (base64.b64encode(encode(image)).decode("ascii") for encode in (encode_png, encode_jpeg))
    expected = predictor.predict(image)
    for request in (
        {"dataframe_records": [{"image": png}, {"image": jpeg}]},
        {"dataframe_split": {"columns": ["image"], "data": [[png]]}},
        {"inputs": {"image": [png]}},
        {"instances": [{"image": png}]},
        {"dataframe_records": [{"pixels": image.tolist()}, {"image": png}]},
        {"inputs": {"pixels": [image.tolist()]}},
    ):
        for params in ({}, {"encoding": "zlib", "intrinsics": [60, 60, 35, 25]}):
            status, answer = ask(address, json.dumps({**request, "params": params}).encode())
            assert status == 200, answer
            first = answer["predictions"][0]
            data = base64.b64decode(first["depth"])
            if params:
                depth = np.frombuffer(zlib.decompress(data), "<f4").reshape(first["height"], first["width"])
            else:
                depth = np.asarray(decode_depth(data, first["scale"]), np.float32)
            np.testing.assert_allclose(depth, expected, atol=0.003)
    _, answer = ask(address, json.dumps({"inputs": {"image": [png]}, "params": {"flip": False}}).encode())
    depth = decode_depth(base64.b64decode(answer["predictions"][0]["depth"]), 256)
    np.testing.assert_allclose(depth, predictor.predict(image, flip=False), atol=0.003)

    small = base64.b64encode(encode_png(pixels(0, 8, 8))).decode("ascii")
    for body, reason in (
        (b"{", "Ensure that input is a valid JSON formatted string"),
        (b"{}", "The input must be a JSON dictionary with exactly one of the input fields"),
        (json.dumps({"inputs": {"image": [small]}}).encode(), "picture 0 is 8×8 pixels, too small to see depth in"),
        (json.dumps({"inputs": {"image": ["AAAA"]}}).encode(), "picture 0 cannot be read: not a PNG or JPEG image."),
        (
            json.dumps({"inputs": {"image": [png]}, "params": {"encoding": "tiff"}}).encode(),
            "encoding is 'tiff'; choose png or zlib.",
        ),
        (
            json.dumps({"inputs": {"image": [png]}, "params": {"intrinsics": [60, 60, 700, 20]}}).encode(),
            "picture 0 is 50×70 pixels, and the centre cx=700",
        ),
    ):
        status, answer = ask(address, body)
        assert status == 400, answer
        assert reason in answer["message"]
