"""Raw frames, artifacts, checkpoints and DVC in an S3 server with signatures on, from the first step to the last."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simipu_core.artifacts import read_manifest
from simipu_core.storage import S3Path
from tests.e2e.conftest import Python
from tests.proxy import Fault, Proxy, proxy
from tests.servers import SeaweedFS, seaweedfs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

BUCKET = "s3://checkpoints"
Simipu = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def network(server: SeaweedFS) -> Iterator[Proxy]:
    """Between the clients and the server."""
    with proxy(server.environment["AWS_ENDPOINT_URL"]) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def settings(server: SeaweedFS, network: Proxy) -> Iterator[dict[str, str]]:
    """The usual AWS settings, which all processes inherit."""
    wanted = server.environment | {"AWS_ENDPOINT_URL": network.url, "AWS_MAX_ATTEMPTS": "3"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(name, value)
        yield wanted


@pytest.fixture(scope="module")
def simipu(project: Path) -> Simipu:
    """Runs the command line in the clone."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        program = "from simipu_core.cli import main; main()"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(
            command, cwd=project, env=os.environ | environment, capture_output=True, text=True, check=False
        )

    return run


def succeeds(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def fails(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not any(word in done.stdout + done.stderr for word in ("simipu-secret", "Signature="))


@pytest.fixture(scope="module")
def raw(project: Path, simipu: Simipu) -> str:
    """Address of raw frames."""
    from simipu_core.storage import s3

    succeeds(simipu("synthesize", "--out", "world"))
    for path in (project / "world").rglob("*"):
        if path.is_file():
            name = path.relative_to(project / "world").as_posix()
            s3.client().upload_file(str(path), BUCKET.removeprefix("s3://"), f"raw/{name}")
    return f"{BUCKET}/raw"


@pytest.fixture(scope="module")
def remote(project: Path, python: Python) -> str:
    """Address of the DVC remote."""
    (project / "data").mkdir(exist_ok=True)
    succeeds(python("dvc", "remote", "add", "--default", "--force", "store", f"{BUCKET}/dvc"))
    return f"{BUCKET}/dvc"


def test_every_step_reads_and_writes_the_bucket(raw: str, simipu: Simipu, network: Proxy, project: Path) -> None:
    def step(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return simipu(*arguments, "--no-track", **environment)

    ingest = ("ingest", "depth", "--root", raw, "--out", f"{BUCKET}/frames")
    fails(step(*ingest, AWS_SECRET_ACCESS_KEY="wrong"), "access is refused (SignatureDoesNotMatch)")
    network.faults.append(Fault("cut", "/raw/kitti_depth/train/", times=99))
    fails(step(*ingest), "the connection broke off")
    network.faults.clear()
    assert not (S3Path.at(f"{BUCKET}/frames") / "manifest.json").exists()
    network.faults.append(Fault("cut", "/raw/kitti_depth/train/", times=2))
    network.faults.append(Fault("error", "manifest.json", times=1))
    succeeds(step(*ingest))

    pair = ("pair", "depth", f"{BUCKET}/frames", "--out", f"{BUCKET}/depth")
    fails(step(*pair, AWS_ACCESS_KEY_ID="nobody"), "access is refused (InvalidAccessKeyId)")
    network.faults.append(Fault("error", "depth/train-00000.parquet", times=99))
    fails(step(*pair), "the server is overloaded or failing (SlowDown)")
    network.faults.clear()
    succeeds(step(*pair))

    checkpoints = {"SIMIPU_CHECKPOINTS": f"{BUCKET}/training"}
    init = ("--set", "finetune.init=kaiming_zero_gamma")
    succeeds(step("finetune", f"{BUCKET}/depth", "--out", f"{BUCKET}/net", *init, **checkpoints))
    succeeds(step("evaluate", f"{BUCKET}/net", f"{BUCKET}/depth", "--out", f"{BUCKET}/report"))
    report = read_manifest(S3Path.at(f"{BUCKET}/report"), "report")
    net = read_manifest(S3Path.at(f"{BUCKET}/net"), "depth_net")
    assert report.inputs["model"] == net.digest
    assert not list(project.glob("build/cache/outgoing/*"))


def test_dvc_pushes_what_the_pipeline_reads(project: Path, python: Python, remote: str) -> None:
    changes = ("finetune.init=kaiming_zero_gamma", "finetune.scratch_control=false", "evaluate.panels=0")
    succeeds(python("pipelines", "local", *(argument for change in changes for argument in ("--set", change))))
    fetched = list((project / "build/cache").glob("dvc-*"))
    assert len(fetched) == 1
    md5 = fetched[0].name.removeprefix("dvc-")
    assert md5 in (project / "dvc.lock").read_text(encoding="utf-8")
    assert (S3Path.at(f"{remote}/files/md5") / md5[:2] / f"{md5[2:]}.dir").is_file()
    (manifest,) = {read_manifest(path).origin for path in project.glob("build/pipeline/*/ingest*/catalogue")}
    assert manifest == f"{remote}/files/md5/{md5[:2]}/{md5[2:]}.dir"


def test_shards_are_pushed_and_pulled(project: Path, python: Python, remote: str) -> None:
    assert remote
    succeeds(python("dvc", "repro", "--quiet", "depth@demo"))
    shards = project / "data/shards/demo/depth"
    made = read_manifest(shards, "depth")
    succeeds(python("dvc", "push", "--quiet", "depth@demo"))
    for folder in (shards, project / ".dvc/cache"):
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    succeeds(python("dvc", "pull", "--quiet", "depth@demo"))
    assert read_manifest(shards, "depth") == made


@pytest.mark.parametrize("how", ["--to-remote", "--no-download"])
def test_raw_frames_are_imported_as_a_pointer(
    how: str, raw: str, remote: str, project: Path, python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.raw import raw_uris
    from simipu_core import storage
    from simipu_core.experiment import load_experiment

    name = f"data/frames{how}"
    succeeds(python("dvc", "import-url", how, raw, name))
    assert not (project / name).exists()
    monkeypatch.chdir(project)
    overrides = [f"{section}.root={name}" for section in ("pretrain_data", "depth_data")]
    uris: dict[str, Any] = raw_uris(load_experiment(project / "params.yaml", overrides))
    address = uris["data_depth"]
    assert address.startswith(f"{remote}/files/md5/" if how == "--to-remote" else f"{raw}#")
    folder = storage.resolve(address)
    assert (folder / "synthetic.json").read_bytes() == (project / "world/synthetic.json").read_bytes()
