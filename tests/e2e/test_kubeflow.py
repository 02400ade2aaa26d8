"""All five steps, for real, submitted to a server that speaks Kubeflow's protocol.

One run succeeds, one fails, one has its training steps killed again and again.
"""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from simipu_core.storage import S3Path
from tests.clone import ROOT
from tests.kfp_server import KfpServer, kfp_server
from tests.servers import SeaweedFS, seaweedfs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
TOKEN = "the-right-token"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def server(project: Path, s3: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KfpServer]:
    """With checkpoints in S3."""
    folder = tmp_path_factory.mktemp("kfp")
    steps = {
        "PYTHONPATH": f"{project}:{ROOT}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "SIMIPU_CHECKPOINTS": checkpoints(s3),
        **s3.environment,
    }
    with kfp_server(folder, namespaces={"team-a"}, environment=steps) as served:
        served.token = TOKEN
        yield served


def checkpoints(s3: SeaweedFS) -> str:
    """Their address."""
    return f"s3://{s3.bucket}/training"


def start(project: Path, server: KfpServer, *arguments: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SIMIPU_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{project}:{ROOT}",
        "SIMIPU_IMAGE": f"registry.example/simipu-python@sha256:{0:064}",
        "KFP_ENDPOINT": server.url,
        "KFP_NAMESPACE": "team-a",
        "KFP_TOKEN": TOKEN,
    }
    command = [sys.executable, "-m", "pipelines", "submit", "--wait", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=project, env=environment, stdout=pipe, stderr=pipe, text=True)


def submit(project: Path, server: KfpServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(project, server, *arguments)
    out, error = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


SETTINGS = ("finetune.scratch_control=false", "pretrain.epochs=2", "finetune.epochs=6")
"""Twelve steps of each training."""
Run = tuple[subprocess.CompletedProcess[str], Path]


@pytest.fixture(scope="module")
def undisturbed(project: Path, server: KfpServer) -> Run:
    """A run, and the folder of its outputs."""
    done = submit(project, server, *changes(*SETTINGS))
    assert done.returncode == 0, done.stdout + done.stderr
    return done, outputs(server)


def changes(*settings: str) -> list[str]:
    return [argument for setting in settings for argument in ("--set", setting)]


def outputs(server: KfpServer) -> Path:
    """Of the newest run."""
    *_, run_id = server.backend.runs
    (folder,) = (server.backend.folder / "runs" / run_id / "outputs").iterdir()
    return folder


def test_a_run_succeeds(undisturbed: Run) -> None:
    done, outputs = undisturbed
    succeeded = re.findall(r"^(\w+) succeeded · ", done.stdout, re.MULTILINE)
    assert sorted(succeeded) == [
        "configure",
        "evaluate",
        "finetune",
        "ingest_depth",
        "ingest_pretrain",
        "pair_depth",
        "pair_pretrain",
        "pretrain",
    ]
    assert list(outputs.rglob("report.json"))
    assert sum("sound frames" in page.read_text(encoding="utf-8") for page in outputs.rglob("page")) == 2
    assert TOKEN not in done.stdout + done.stderr


def test_a_failing_step_says_why(project: Path, server: KfpServer) -> None:
    done = submit(project, server, *changes(*SETTINGS, "depth_data.split=none"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.match(r"error: \w+: .*the split leaves no eval frame", last)


# -- lost pods ---------------------------------------------------------------------------------------------------------

KEPT = 3
KILLS = {"pretrain": 2, "finetune": 2}
CHECKPOINTS = [f"{stage}.{one}" for stage in KILLS for one in ("checkpoint_every=1", f"keep_checkpoints={KEPT}")]
CLUSTER = "defaults: {timeout: 1h, retry: {times: 3, wait: 1s, factor: 1, within: 2h}}"


def test_killed_training_goes_on_from_object_storage(
    project: Path,
    s3: SeaweedFS,
    server: KfpServer,
    undisturbed: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGKILL to all processes of the pod, at random steps; its folders are not seen again, only S3 is."""
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    settings = ["--cluster", str(tmp_path / "cluster.yaml"), *changes(*SETTINGS, *CHECKPOINTS)]
    process = start(project, server, *settings)
    kill_pods(server, process, checkpoints(s3))
    out, error = process.communicate()
    assert process.returncode == 0, out + error
    for weights in ("pretrain/encoder/encoder.safetensors", "finetune/model/model.safetensors"):
        assert (outputs(server) / weights).read_bytes() == (undisturbed[1] / weights).read_bytes()


def kill_pods(server: KfpServer, process: "subprocess.Popen[str]", place: str) -> None:
    """Kill the training steps as often as `KILLS` says, each time later; what follows must go on, not begin anew."""
    rng = random.Random(seed := random.SystemRandom().randrange(1000))
    print(f"seed {seed}")
    for stage, number in KILLS.items():
        done = 0
        for target in sorted(rng.sample(range(2, 9), number)):
            while (newest := max(saved(place, stage, at_least=done - KEPT), default=0)) < target:
                assert process.poll() is None, process.communicate()
                time.sleep(0.1)
            victims = pod(server, stage)
            assert victims, f"{stage} ended before it could be killed at step {newest}"
            for victim in victims:
                victim.kill()
            psutil.wait_procs(victims, timeout=60)
            done = newest


def saved(place: str, stage: str, at_least: int) -> list[int]:
    """Steps of a stage that have a checkpoint."""
    files = [
        file for file, _ in S3Path.at(place).walk() if file.parent.name.startswith(stage) and file.suffix == ".json"
    ]
    steps = [int(file.stem.removeprefix("step-")) for file in files]
    assert all(step >= at_least for step in steps), f"{stage} did not go on from its checkpoint: {steps}"
    return steps


def pod(server: KfpServer, stage: str) -> list[psutil.Process]:
    """Processes of the step that is under way."""
    *_, execution = server.backend.executions.values()
    below = psutil.Process(execution.process.pid).children(recursive=True)
    roots = [process for process in below if f"--function_to_execute {stage}" in " ".join(process.cmdline())]
    return [*roots, *(child for root in roots for child in root.children(recursive=True))]
