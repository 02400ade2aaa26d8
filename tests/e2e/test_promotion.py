"""Tracking and promotion against an MLflow server on PostgreSQL that keeps its artifacts in S3."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from simipu_core.artifacts import read_manifest, sha256_file, write_artifact
from simipu_core.config import (
    DepthAugmentConfig,
    EvaluateConfig,
    FinetuneConfig,
    OneCycleConfig,
    PromotionConfig,
    TrackingConfig,
)
from simipu_core.errors import SimipuError
from simipu_core.models.depth_net import DepthNetSpec
from simipu_core.models.weights import read_spec, save_tensors
from simipu_core.stages.finetune import finetune
from simipu_core.stages.release import Release, release
from simipu_core.tracking import mlflow_run, outbox, promotion_log
from simipu_core.tracking.mlflow_run import UNSENT, step
from simipu_core.tracking.pipeline_run import end_killed
from simipu_core.tracking.registry import WEIGHTS
from simipu_core.tracking.run import SilentRun
from tests.samples import depth_row, write_shards
from tests.servers import MlflowServer, mlflow_server, postgresql, seaweedfs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

BIN = Path(sys.executable).parent
NET = FinetuneConfig(
    epochs=2,
    batch_size=4,
    workers=0,
    log_every=1,
    encoder_name="resnet18",
    init="kaiming_zero_gamma",
    decoder_channels=(32, 16, 16, 8),
    augment=DepthAugmentConfig(fixed_crop="none", crop=None),
    schedule=OneCycleConfig(max_lr=1e-3),
    sig_lambda=1.0,
)
EVALUATE = EvaluateConfig(protocols=("whole_frame", "garg_full_frame"), panels=1, flip=False)
RULES = PromotionConfig(mode="promote", max_abs_rel=2.0)


class Service(NamedTuple):
    """The running server and what its clients need."""

    server: MlflowServer
    environment: dict[str, str]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("servers")
    with seaweedfs(folder) as s3, postgresql() as database:
        reach = {**s3.environment, "MLFLOW_S3_ENDPOINT_URL": s3.environment["AWS_ENDPOINT_URL"]}
        with mlflow_server(folder, database, f"s3://{s3.bucket}/mlflow", reach) as server:
            plain = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SIMIPU_"))}
            mine = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "SIMIPU_USER": "ada"}
            yield Service(server, plain | mine | {"OMP_NUM_THREADS": "1"})


@pytest.fixture
def client(service: Service, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """This process is a client, too; it holds no S3 credentials."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "SIMIPU_USER"):
        monkeypatch.setenv(name, service.environment[name])
    for name in ("MLFLOW_RUN_ID", "SIMIPU_PARENT_RUN_ID", "SIMIPU_PIPELINE_RUN", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    return MlflowClient(service.server.uri)


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve evaluation frames of four sequences."""
    train = [depth_row(index) for index in range(16)]
    evaluation = [depth_row(100 + index, sequence=f"drive {index // 3}") for index in range(12)]
    return write_shards(tmp_path_factory.mktemp("shards") / "depth", "depth", train=train, eval=evaluation)


@pytest.fixture(scope="module")
def nets(depth: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Depth nets that were trained for a short, a middling and a longer time, and one whose weights are NaN."""
    folder = tmp_path_factory.mktemp("nets")
    for name, epochs in (("worse", 2), ("fair", 6), ("better", 16)):
        finetune(depth, NET.model_copy(update={"epochs": epochs}), folder / name, encoder=None)
    weights = folder / "fair" / "model.safetensors"
    tensors = {
        name: tensor * math.nan if tensor.is_floating_point() else tensor for name, tensor in load_file(weights).items()
    }
    with write_artifact(folder / "nan", "depth_net", inputs={}, parameters={}, licence="made up") as draft:
        save_tensors(tensors, draft.path / "model.safetensors", read_spec(weights, DepthNetSpec))
    return {name: folder / name for name in ("worse", "fair", "better", "nan")}


def released(net: Path, depth: Path, out: Path, model: str) -> Release:
    tracking = TrackingConfig(mlflow_experiment=model, model_name=model, promotion=RULES)
    with step("evaluate", model, out=out) as run:
        return release(net, depth, EVALUATE, tracking, out, experiment="demo", run=run)


def aliases(client: MlflowClient, model: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model(model).aliases.items()}


def simipu(service: Service, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(BIN / "simipu"), *arguments]
    return subprocess.run(command, env=service.environment, capture_output=True, text=True, check=False)


KILLED = """
import os, signal
from simipu_core.tracking.mlflow_run import step

with step("pretrain") as run:
    print(run.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_steps_leave_open_is_ended(client: MlflowClient, service: Service) -> None:
    def kill() -> str:
        environment = service.environment | {"SIMIPU_PIPELINE_RUN": "7f3d"}
        command = [sys.executable, "-c", KILLED]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()

    first, second = kill(), kill()
    assert [client.get_run(run).info.status for run in (first, second)] == ["KILLED", "RUNNING"]
    parent = client.get_run(second).data.tags["mlflow.parentRunId"]
    assert sorted(end_killed("7f3d", "FAILED")) == ["pipeline 7f3d", "pretrain"]
    assert [client.get_run(run).info.status for run in (second, parent)] == ["KILLED", "FAILED"]


def test_only_a_better_model_becomes_champion(
    client: MlflowClient, service: Service, nets: dict[str, Path], depth: Path, tmp_path: Path
) -> None:
    model = "gated"
    first = released(nets["fair"], depth, tmp_path / "first", model)
    assert first.promoted, first.outcome
    assert aliases(client, model) == {"challenger": 1, "champion": 1}
    experiment = client.get_experiment_by_name(model)
    assert experiment is not None
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    assert client.search_logged_models(["0"]) == []  # MLflow's Default

    equal = released(nets["fair"], depth, tmp_path / "equal", model)
    assert equal.report.champion is not None
    assert equal.report.champion.metrics == equal.report.metrics  # the same weights, back from the registry
    assert (equal.promoted, equal.report.decision and equal.report.decision.relative_improvement) == (False, 0)

    worse = released(nets["worse"], depth, tmp_path / "worse", model)
    assert worse.report.decision is not None
    assert worse.report.decision.relative_improvement is not None
    assert worse.report.decision.relative_improvement < 0
    assert not worse.promoted

    broken = released(nets["nan"], depth, tmp_path / "nan", model)
    assert math.isnan(broken.report.abs_rel)
    assert "not finite" in broken.outcome
    assert not broken.promoted
    assert aliases(client, model) == {"challenger": 4, "champion": 1}

    better = released(nets["better"], depth, tmp_path / "better", model)
    assert better.promoted, better.outcome
    assert aliases(client, model) == {"challenger": 5, "champion": 5, "previous": 1}
    version = client.get_model_version(model, "5")
    assert version.tags["gate"] == "passed"
    assert version.tags["promoted_by"] == f"run {version.run_id}"
    assert "smaller than that of champion version 1" in version.tags["promoted_because"]
    assert (version.description or "").startswith("# Monocular depth: demo")
    assert version.run_id is not None
    assert client.get_run(version.run_id).data.tags["simipu.promotion"] == better.outcome

    listed = simipu(service, "models", "--set", f"tracking.model_name={model}")
    assert listed.returncode == 0, listed.stderr
    back = simipu(service, "rollback", "--reason", "fails in rain", "--set", f"tracking.model_name={model}")
    assert back.stdout == f"{model} version 1 is champion again, version 5 no longer\n", back.stderr
    assert client.get_model_version(model, "5").tags["rolled_back_by"] == "ada"
    assert aliases(client, model) == {"challenger": 5, "champion": 1}

    refused = simipu(service, "promote", "3", "--set", f"tracking.model_name={model}")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {model} version 3 did not pass the gate (its Abs Rel")
    forced = simipu(service, "promote", "3", "--reason", "for a test", "--set", f"tracking.model_name={model}")
    assert forced.returncode == 0, forced.stderr
    assert aliases(client, model) == {"challenger": 5, "champion": 3, "previous": 1}

    client.delete_model_version(model, "3")
    orphaned = released(nets["better"], depth, tmp_path / "orphaned", model)
    assert "version 3, the champion since" in orphaned.outcome
    assert not orphaned.promoted
    warned = simipu(service, "models", "--set", f"tracking.model_name={model}")
    assert "version 3, the champion since" in " ".join(warned.stdout.split())


_PROMOTER = """
import sys
from mlflow.tracking import MlflowClient
from simipu_core.config import TrackingConfig
from simipu_core.tracking.mlflow_run import tracking_uri
from simipu_core.tracking.promotion import promote, promote_instead_of
config = TrackingConfig(model_name=sys.argv[1])
source, run_id, digest = sys.argv[2:]
tags = {"gate": "passed", "weights_sha256": digest}
client = MlflowClient(tracking_uri())
print("ready", flush=True)
for line in sys.stdin:
    champion = int(line)
    made = int(client.create_model_version(config.model_name, source, run_id, tags).version)
    if champion:
        print(made, promote_instead_of(champion, made, config, reason="better", by="a run") or "won", flush=True)
    else:
        promote(made, config)
        print(made, "promoted", flush=True)
"""


class Promoter:
    """A process that registers a version and promotes it, each time it is told to."""

    def __init__(self, service: Service, *arguments: str) -> None:
        command = [sys.executable, "-c", _PROMOTER, *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=service.environment, stdin=pipe, stdout=pipe, text=True)

    def tell(self, champion: int) -> None:
        """Promote in the place of a champion, as the gate does; 0: whatever is champion, as people do."""
        assert self.process.stdin
        print(champion, file=self.process.stdin, flush=True)

    def answer(self) -> tuple[int, str]:
        """Version and outcome."""
        version, _, outcome = self.line().partition(" ")
        return int(version), outcome

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@pytest.fixture
def promoters(client: MlflowClient, service: Service, tmp_path: Path) -> Iterator[tuple[Promoter, Promoter]]:
    client.create_registered_model("raced")
    (weights := tmp_path / Path(WEIGHTS).name).write_bytes(b"weights")
    with step("evaluate", "raced") as run:
        client.log_artifact(run.id, str(weights), f"model/{Path(WEIGHTS).parent}")
    given = ("raced", f"{client.get_run(run.id).info.artifact_uri}/model", run.id, sha256_file(weights))
    pair = Promoter(service, *given), Promoter(service, *given)
    assert [promoter.line() for promoter in pair] == ["ready", "ready"]
    yield pair
    for promoter in pair:
        promoter.process.kill()
        promoter.process.communicate()


def test_promotions_that_race_lose_nothing(client: MlflowClient, promoters: tuple[Promoter, Promoter]) -> None:
    """Two processes, many times at the same moment: first as people promote, then as gates do."""
    promoted: list[int] = []
    for _ in range(10):
        for promoter in promoters:
            promoter.tell(0)
        for promoter in promoters:
            version, outcome = promoter.answer()
            assert outcome == "promoted"
            promoted.append(version)
        history = promotion_log.read(client, "raced")
        assert sorted(history.champions) == sorted(promoted)
        assert aliases(client, "raced")["champion"] == history.champions[-1]
        assert aliases(client, "raced")["previous"] == history.champions[-2]
    for _ in range(10):
        champion = aliases(client, "raced")["champion"]
        for promoter in promoters:
            promoter.tell(champion)
        outcomes = dict(promoter.answer() for promoter in promoters)
        (winner,) = [version for version, outcome in outcomes.items() if outcome == "won"]
        (refusal,) = [outcome for outcome in outcomes.values() if outcome != "won"]
        assert refusal == f"version {winner} became champion meanwhile; evaluate again to be compared with it"
        assert aliases(client, "raced") == {"champion": winner, "previous": champion}


class Interrupting(SilentRun):
    """Passes on to a run what a stage logs, and does things at given calls of `log_metrics`."""

    def __init__(self, run: mlflow_run.MlflowRun, at: dict[int, Any]) -> None:
        self.run = run
        self.run_id = run.run_id
        self.at = at
        self.calls = 0

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.run.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.at.get(self.calls, int)()
        self.calls += 1
        self.run.log_metrics(metrics, step)


def losses(client: MlflowClient, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "loss")]


def test_training_outlives_a_restart_of_the_server(
    client: MlflowClient,
    service: Service,
    depth: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(outbox, "SEND_EVERY", 0.1)
    out = tmp_path / "net"
    with step("finetune", "restarts", out=out) as run:
        interrupting = Interrupting(run, {2: service.server.stop, 6: service.server.start})
        finetune(depth, NET, out, encoder=None, run=interrupting)
    said = capfd.readouterr().err
    assert "does not take numbers now" in said
    assert "takes numbers again" in said
    made = client.get_run(run.id)
    assert made.info.status == "FINISHED"
    assert losses(client, run.id) == list(range(8))
    assert made.data.params["epochs"] == "2"
    assert not list(tmp_path.rglob(f"*{UNSENT}"))


def test_what_a_server_that_stays_away_did_not_take_is_sent_later(
    client: MlflowClient,
    service: Service,
    depth: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mlflow_run, "_PATIENCE", 2.0)
    out = tmp_path / "net"
    try:
        with step("finetune", "restarts", out=out) as run:
            finetune(depth, NET, out, encoder=None, run=Interrupting(run, {3: service.server.stop}))
        assert read_manifest(out, "depth_net").mlflow_run_id == run.id
        assert f"run `simipu tracking send {out / UNSENT}`" in capfd.readouterr().err
        again = simipu(service, "tracking", "send", str(out / UNSENT))
        assert again.returncode == 1
        assert again.stderr.startswith(f"error: MLflow at {service.server.uri} cannot be used")
        refused = simipu(service, "ingest", "depth", "--out", str(tmp_path / "frames"))
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"error: MLflow at {service.server.uri} cannot be used")
        assert refused.stderr.count("\n") == 1
        with pytest.raises(SimipuError, match="cannot be used"), step("finetune", "restarts"):
            pass
    finally:
        service.server.stop()
        service.server.start()
    assert client.get_run(run.id).info.status == "RUNNING"
    sent = simipu(service, "tracking", "send", str(out / UNSENT))
    assert sent.returncode == 0, sent.stderr
    assert client.get_run(run.id).info.status == "FINISHED"
    assert losses(client, run.id) == list(range(8))
    assert not (out / UNSENT).exists()


def test_a_whole_pipeline_run_is_tracked_and_promoted(client: MlflowClient, service: Service, project: Path) -> None:
    """All five steps; run again, they come from the cache and name the runs that made them."""
    environment = service.environment | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": f"{project}:{Path(__file__).parents[2]}",
        "SIMIPU_IMAGE": "simipu-python:test",
        "COLUMNS": "160",
    }
    changes = [
        "tracking.promotion.mode=promote",
        "tracking.promotion.max_abs_rel=5.0",
        "finetune.scratch_control=false",
    ]
    command = [sys.executable, "-m", "pipelines", "local"]
    for change in changes:
        command += ["--set", change]
    summaries = []
    for _ in range(2):
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "MLflow at" not in said, said  # nothing late, unsent or refused
        summaries.append(json.loads((project / "build" / "summary.json").read_text(encoding="utf-8")))
    assert aliases(client, "simipu-depth") == {"challenger": 1, "champion": 1}
    first, second = (client.get_run(summary["mlflow_run_id"]) for summary in summaries)
    children = {run.data.tags["simipu.step"]: run for run in below(client, first.info)}
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert children["pretrain"].data.tags["simipu.image"] == "simipu-python:test"
    assert children["evaluate"].data.metrics["promotion/passed"] == 1
    inputs = {each.dataset.name: each for each in children["finetune"].inputs.dataset_inputs}
    assert set(inputs) == {"depth", "encoder"}
    made_by = {tag.key: tag.value for tag in inputs["encoder"].tags}["simipu.made_by_run"]
    assert made_by == children["pretrain"].info.run_id
    (raw,) = children["ingest_depth"].inputs.dataset_inputs
    assert raw.dataset.digest.endswith(".dir")  # DVC's own
    assert len(raw.dataset.digest) == 36
    cached = {run.data.tags["simipu.step"]: run.data.tags["simipu.cached_from"] for run in below(client, second.info)}
    assert cached == {name: run.info.run_id for name, run in children.items()}
    assert client.get_model_version("simipu-depth", "1").tags["promoted_by"] == f"pipeline run {first.info.run_id}"


def below(client: MlflowClient, parent: Any) -> list[Any]:
    return list(client.search_runs([parent.experiment_id], f"tags.mlflow.parentRunId = '{parent.run_id}'"))
