"""All five steps, for real, submitted to a server that speaks Kubeflow's protocol: one run succeeds, one fails."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.kfp_server import KfpServer, kfp_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
TOKEN = "the-right-token"


@pytest.fixture(scope="module")
def server(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KfpServer]:
    folder = tmp_path_factory.mktemp("kfp")
    steps = {
        "PYTHONPATH": f"{project}:{ROOT}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "SIMIPU_CHECKPOINTS": str(folder / "checkpoints"),
    }
    with kfp_server(folder, namespaces={"team-a"}, environment=steps) as served:
        served.token = TOKEN
        yield served


def submit(project: Path, server: KfpServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SIMIPU_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{project}:{ROOT}",
        "SIMIPU_IMAGE": "simipu-python:test",
        "KFP_ENDPOINT": server.url,
        "KFP_NAMESPACE": "team-a",
        "KFP_TOKEN": TOKEN,
    }
    command = [sys.executable, "-m", "pipelines", "submit", "--wait", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_a_run_succeeds(project: Path, server: KfpServer) -> None:
    done = submit(project, server, "--set", "finetune.scratch_control=false")
    assert done.returncode == 0, done.stdout + done.stderr
    succeeded = re.findall(r"^(\w+) succeeded · ", done.stdout, re.MULTILINE)
    assert sorted(succeeded) == [
        "evaluate",
        "finetune",
        "ingest_depth",
        "ingest_pretrain",
        "pair_depth",
        "pair_pretrain",
        "pretrain",
    ]
    (run,) = server.backend.runs.values()
    outputs = server.backend.folder / "runs" / run.run_id / "outputs"
    assert list(outputs.rglob("report.json"))
    assert TOKEN not in done.stdout + done.stderr


def test_a_failing_step_says_why(project: Path, server: KfpServer) -> None:
    done = submit(project, server, "--set", "depth_data.split=none")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.match(r"error: \w+: .*the split leaves no eval frame", last)
