"""A step that has a TrainJob train for it, against a server that speaks Kubernetes' protocol."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simipu_core import project
from simipu_core.artifacts import read_manifest, write_artifact
from simipu_core.config import ContrastConfig, PretrainConfig
from simipu_core.errors import SimipuError
from simipu_core.stages import train_job
from simipu_core.stages.pretrain import pretrain
from simipu_core.tracking.run import SilentRun
from tests.samples import pair_row, tiny_pretrain, write_shards
from tests.servers import SeaweedFS, seaweedfs
from tests.trainer_api import TrainerApi, trainer_api

SPEC: dict[str, Any] = {
    "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "simipu"},
    "activeDeadlineSeconds": 3600,
    "trainer": {
        "image": "registry.example/simipu@sha256:" + "0" * 64,
        "numNodes": 2,
        "numProcPerNode": 1,
        "resourcesPerNode": {"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": "1"}},
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "GLOO_SOCKET_IFNAME", "value": "lo"}],
    },
}
CONFIG = tiny_pretrain(ContrastConfig(group_size=2), epochs=2, batch_size=4, workers=0)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def api(tmp_path: Path, s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerApi]:
    monkeypatch.setattr(train_job, "_POLL_S", 0.02)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", f"s3://{s3.bucket}/{tmp_path.name}")
    monkeypatch.setenv("SIMIPU_CACHE", str(tmp_path / "cache"))
    with trainer_api(tmp_path) as served:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(served.kubeconfig))
        yield served


def train(out: Path, config: PretrainConfig = CONFIG, uri: str = "s3://shards/pairs") -> None:
    train_job.train(SPEC, "pretrain", config, uri, out, run=SilentRun())


def call_of(job: dict[str, Any]) -> train_job.Call:
    """What the pods are told."""
    (text,) = [given["value"] for given in job["spec"]["trainer"]["env"] if given["name"] == "SIMIPU_CALL"]
    return train_job.Call.model_validate_json(text)


def finish(api: TrainerApi, job: dict[str, Any]) -> None:
    """What the job's pods would do: write the artifact, then end."""
    from simipu_core import storage

    with write_artifact(storage.place(call_of(job).out), "encoder", inputs={}, parameters={}, licence="none") as draft:
        (draft.path / "encoder.safetensors").write_bytes(b"weights")
    api.settle(job["metadata"]["name"], "Complete")


def test_the_job_says_what_is_trained_and_its_result_is_taken(api: TrainerApi, tmp_path: Path) -> None:
    api.on_create = lambda job: finish(api, job)
    train(tmp_path / "encoder", uri="minio://shards/pairs")
    (job,) = api.created
    trainer = job["spec"]["trainer"]
    call = call_of(job)
    assert (call.stage, call.shards, call.encoder) == ("pretrain", "s3://shards/pairs", None)
    assert PretrainConfig.model_validate(call.config) == CONFIG
    assert SPEC["trainer"]["env"][0] in trainer["env"]
    assert {key: value for key, value in job["spec"].items() if key != "trainer"} == {
        key: value for key, value in SPEC.items() if key != "trainer"
    }
    assert (tmp_path / "encoder" / "encoder.safetensors").read_bytes() == b"weights"
    assert read_manifest(tmp_path / "encoder", "encoder")


def test_a_repeated_step_takes_the_result_that_is_there(api: TrainerApi, tmp_path: Path) -> None:
    api.on_create = lambda job: finish(api, job)
    train(tmp_path / "first")
    train(tmp_path / "second")
    assert len(api.created) == 1
    train(tmp_path / "third", CONFIG.model_copy(update={"seed": 1}))
    assert len({job["metadata"]["name"] for job in api.created}) == 2


def test_a_job_under_way_is_waited_for_and_a_failed_one_is_replaced(
    api: TrainerApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.on_create = lambda job: api.settle(job["metadata"]["name"], "Failed", "node lost")
    with pytest.raises(SimipuError, match=r"TrainJob simipu-pretrain-\w+: failed \(Test: node lost\)"):
        train(tmp_path / "encoder")
    (name,) = api.jobs

    def suspended_then_done(job: dict[str, Any]) -> None:
        job["status"] = {"conditions": [{"type": "Suspended", "status": "True"}]}

        def resume() -> None:
            job["status"] = {}
            finish(api, job)

        threading.Timer(0.3, resume).start()

    api.on_create = suspended_then_done
    train(tmp_path / "encoder")
    assert api.deleted == [name]
    assert "suspended" in capsys.readouterr().out

    other = CONFIG.model_copy(update={"seed": 2})
    api.on_create = lambda job: None
    threading.Timer(0.3, lambda: finish(api, api.created[-1])).start()
    train(tmp_path / "other", other)
    assert len(api.created) == 3


def test_what_a_pod_said_is_the_error(api: TrainerApi, tmp_path: Path) -> None:
    def fail(job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        api.logs = {
            f"{name}-node-0-0": "warming up\n",
            f"{name}-node-0-1": "x\nerror: train: NaN in step 3; mend it.\n",
        }
        api.settle(name, "Failed")

    api.on_create = fail
    with pytest.raises(SimipuError, match=r"TrainJob simipu-pretrain-\w+: train: NaN in step 3; mend it\.$"):
        train(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


def test_sigterm_ends_the_job(api: TrainerApi, tmp_path: Path) -> None:
    api.on_create = lambda job: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SimipuError, match=r"stopped by SIGTERM, and TrainJob .* with it: run it again to go on"):
        train(tmp_path / "encoder")
    assert api.deleted == [api.created[0]["metadata"]["name"]]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((403, "trainjobs is forbidden"), r"trainjobs is forbidden; give the step's service account deploy/trainer"),
        ((400, "spec.trainer is wrong"), r"refused \(400\): spec.trainer is wrong"),
    ],
)
def test_refusals_are_told(api: TrainerApi, tmp_path: Path, fault: tuple[int, str], said: str) -> None:
    api.fault = fault
    with pytest.raises(SimipuError, match=said):
        train(tmp_path / "encoder")


def test_a_cluster_without_the_trainer_is_told(api: TrainerApi, tmp_path: Path) -> None:
    api.fault = (404, "")
    with pytest.raises(SimipuError, match="has no Kubeflow Trainer"):
        train(tmp_path / "encoder")


def test_a_failing_server_is_asked_again(api: TrainerApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_for_a_while(job: dict[str, Any]) -> None:
        def later() -> None:
            api.fault = (503, "overloaded")
            threading.Timer(0.3, mend).start()

        def mend() -> None:
            api.fault = None
            finish(api, job)

        threading.Timer(0.1, later).start()

    api.on_create = fail_for_a_while
    train(tmp_path / "encoder")
    assert len(api.created) == 1

    monkeypatch.setattr(train_job, "_PATIENCE_S", 0.2)
    api.on_create = lambda job: threading.Timer(0.1, lambda: setattr(api, "fault", (503, "overloaded"))).start()
    with pytest.raises(SimipuError, match=r"API server is failing .503 overloaded.; run the step again"):
        train(tmp_path / "other", CONFIG.model_copy(update={"seed": 3}))


def test_places_that_the_nodes_do_not_reach_are_refused(
    api: TrainerApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SimipuError, match=r"/pairs: training on several nodes needs artifacts in S3"):
        train(tmp_path / "encoder", uri="/pipeline/pairs")
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", str(tmp_path))
    assert isinstance(project.checkpoints(), Path)
    with pytest.raises(SimipuError, match="set SIMIPU_CHECKPOINTS to s3://bucket/prefix"):
        train(tmp_path / "encoder")
    assert api.created == []


@pytest.mark.slow
def test_two_nodes_train_as_one_process_with_two_micro_batches(api: TrainerApi, s3: SeaweedFS, tmp_path: Path) -> None:
    """Real processes under torchrun, each "node" one; shards, checkpoints and result in S3."""
    pairs = write_shards(tmp_path / "pairs", "pairs", pairs=[pair_row(i) for i in range(8)])
    uri = f"s3://{s3.bucket}/{tmp_path.name}-pairs"
    for file in pairs.iterdir():
        _upload(s3, file, uri)
    api.on_create = api.execute
    train(tmp_path / "two", uri=uri)
    pretrain(pairs, CONFIG.model_copy(update={"accumulate": 2}), tmp_path / "one")
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / name / "encoder.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        if "running" not in name and "num_batches" not in name:
            assert (tensor - two[name]).abs().max() < 1e-4, name
    assert read_manifest(tmp_path / "two").inputs == read_manifest(tmp_path / "one").inputs


def _upload(s3: SeaweedFS, file: Path, uri: str) -> None:
    import boto3

    client = boto3.client("s3")
    client.upload_file(str(file), s3.bucket, f"{uri.removeprefix(f's3://{s3.bucket}/')}/{file.name}")
