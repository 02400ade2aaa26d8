"""Real servers for tests, on this machine's loopback address only."""

import json
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_ACCESS, _SECRET = "simipu", "simipu-secret"
_PATIENCE = 60.0


@dataclass(frozen=True)
class SeaweedFS:
    """A running S3 server with one bucket."""

    bucket: str
    environment: dict[str, str]
    """What a client of it needs."""


@contextmanager
def seaweedfs(folder: Path) -> Iterator[SeaweedFS]:
    """Serve S3 from a folder."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.fail("SeaweedFS is not installed; run `make setup-dev`")
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    credentials = [{"accessKey": _ACCESS, "secretKey": _SECRET}]
    identities = [{"name": "simipu", "credentials": credentials, "actions": actions}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}), encoding="utf-8")
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
