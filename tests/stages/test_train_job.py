"""A step that has a TrainJob train for it, against a server that speaks Kubernetes' protocol."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simipu_core import project
from simipu_core.artifacts import read_manifest, write_artifact
from simipu_core.config import ContrastConfig, PretrainConfig
from simipu_core.errors import InterruptionError, SimipuError
from simipu_core.stages import train_job, trainer
from simipu_core.stages.pretrain import pretrain
from simipu_core.tracking.run import SilentRun
from tests.samples import pair_row, tiny_pretrain, write_shards
from tests.servers import SeaweedFS, seaweedfs
from tests.trainer_api import RECORDED, TrainerApi, TrainerHandler, container_status, trainer_api

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
RETRY = '{"times": 2, "wait": 0.05, "factor": 2, "within": 600}'
CONFIG = tiny_pretrain(ContrastConfig(group_size=2), epochs=2, batch_size=4, workers=0)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerApi]:
    monkeypatch.setattr(trainer, "_POLL_S", 0.02)
    with trainer_api(tmp_path) as served:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(served.kubeconfig))
        yield served


@pytest.fixture
def api(cluster: TrainerApi, tmp_path: Path, s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> TrainerApi:
    """The cluster, with an object store."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", f"s3://{s3.bucket}/{tmp_path.name}")
    monkeypatch.setenv("SIMIPU_CACHE", str(tmp_path / "cache"))
    return cluster


def train(out: Path, config: PretrainConfig = CONFIG, uri: str = "s3://shards/pairs") -> None:
    train_job.train(SPEC, "pretrain", config, uri, out, run=SilentRun())


def call_of(job: dict[str, Any]) -> train_job.Call:
    """What the pods are told."""
    (text,) = [given["value"] for given in job["spec"]["trainer"]["env"] if given["name"] == "SIMIPU_CALL"]
    return train_job.Call.model_validate_json(text)


def name_of(job: dict[str, Any]) -> str:
    return str(job["metadata"]["name"])


def finish(api: TrainerApi, job: dict[str, Any]) -> None:
    """What the job's pods would do: write the artifact, then end."""
    from simipu_core import storage

    with write_artifact(storage.place(call_of(job).out), "encoder", inputs={}, parameters={}, licence="none") as draft:
        (draft.path / "encoder.safetensors").write_bytes(b"weights")
    api.complete(name_of(job))


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
    api.grace = 0.3
    api.on_create = lambda job: api.fail(name_of(job), "nothing\n", "nothing\n")
    with pytest.raises(
        SimipuError, match=r"TrainJob simipu-pretrain-\w+: failed \(FailedJobs: jobset failed due to one"
    ):
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
    assert api.deleted[0] == (name, "Background")
    assert (api.restarted, api.hung) == ([], [])
    assert "suspended" in capsys.readouterr().out

    other = CONFIG.model_copy(update={"seed": 2})
    api.on_create = lambda job: None
    threading.Timer(0.3, lambda: finish(api, api.created[-1])).start()
    train(tmp_path / "other", other)
    assert len(api.created) == 3


def test_a_job_waits_for_the_pods_of_one_that_was_deleted(api: TrainerApi, tmp_path: Path) -> None:
    api.grace = 0.5

    def delete_and_make_again(job: dict[str, Any]) -> None:
        api.on_create = lambda job: finish(api, job)
        with api.lock:
            api.delete(name_of(job), "Background")

    api.on_create = delete_and_make_again
    with pytest.raises(InterruptionError, match="was deleted; run the step again"):
        train(tmp_path / "encoder")
    assert api.pods
    train(tmp_path / "encoder")
    assert (len(api.created), api.hung) == (2, [])


def test_a_result_that_is_taken_needs_its_job_no_more(api: TrainerApi, tmp_path: Path) -> None:
    api.on_create = lambda job: finish(api, job)
    train(tmp_path / "encoder")
    assert api.deleted == [(name_of(api.created[0]), "Background")]
    assert api.jobs == {}


def test_a_complete_job_whose_result_is_gone_is_run_again(
    api: TrainerApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.on_create = lambda job: api.complete(name_of(job))  # and its result is removed
    with pytest.raises(InterruptionError, match="is complete, but its result is not there"):
        train(tmp_path / "encoder")
    api.on_create = lambda job: finish(api, job)
    train(tmp_path / "encoder")
    assert len(api.created) == 2


def test_what_a_pod_refused_is_the_error_and_is_not_tried_again(
    api: TrainerApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMIPU_RETRY", RETRY)
    words = "error: batch_size 7 cannot be cut into 2 ranks times accumulate=1 equal micro-batches\n"
    api.on_create = lambda job: api.fail(name_of(job), words, words)
    with pytest.raises(
        SimipuError, match=r"^TrainJob simipu-pretrain-\w+: batch_size 7 cannot be cut into 2 ranks"
    ) as it:
        train(tmp_path / "encoder")
    assert not isinstance(it.value, InterruptionError)
    assert len(api.created) == 1
    assert not (tmp_path / "encoder").exists()


def test_a_pod_leaves_why_it_ends_where_the_step_finds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "termination-log"
    call = train_job.Call(
        stage="pretrain",
        config={"epochs": 0},
        shards="s3://bucket/pairs",
        encoder=None,
        out="s3://bucket/out",
        checkpoints="",
    )
    monkeypatch.setenv("SIMIPU_CALL", call.model_dump_json())
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(train_job, "LAST_WORDS", words)
    with pytest.raises(SystemExit, match="error: pretrain: `epochs`"):
        train_job.main()
    assert not words.exists()  # only the kubelet makes it
    words.touch()
    with pytest.raises(SystemExit):
        train_job.main()
    assert words.read_text().startswith("error: pretrain: `epochs`")


def test_what_a_pod_that_died_printed_last_is_shown(
    api: TrainerApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = (RECORDED / "node.batch-size.log").read_text().partition("\n")[2]  # an exit code, and no sentence
    api.on_create = lambda job: api.fail(name_of(job), log, log)
    with pytest.raises(InterruptionError, match="see the lines above"):
        train(tmp_path / "encoder")
    assert "exitcode  : 1" in capsys.readouterr().out


def test_pods_that_are_gone_with_what_they_said_are_told(api: TrainerApi, tmp_path: Path) -> None:
    assert api.runtime is not None
    (job,) = api.runtime["spec"]["template"]["spec"]["replicatedJobs"]
    del job["template"]["spec"]["template"]["spec"]["restartPolicy"]
    api.on_create = lambda job: api.fail(name_of(job), "error: no\n", "error: no\n")
    with pytest.raises(InterruptionError, match=r"its pods are gone .* the runtime lacks restartPolicy: Never"):
        train(tmp_path / "encoder")


OOM = json.loads((RECORDED / "pod.oom.json").read_text())["status"]
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (OOM, r"node-0-0-\w+: OOMKilled \(exit code 137\): raise memory_limit"),
        (EVICTED, r"node-0-0-\w+: Evicted: The node was low on resource: ephemeral-storage"),
        (
            {
                "phase": "Failed",
                "containerStatuses": [container_status(terminated={"exitCode": 139, "reason": "Error"})],
            },
            r"node-0-0-\w+: Error \(exit code 139\)",
        ),
    ],
)
def test_how_a_pod_died_is_told_and_it_is_tried_again_as_often_as_stated(
    api: TrainerApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv("SIMIPU_RETRY", RETRY)
    api.on_create = lambda job: api.fail(name_of(job), status=status)
    with pytest.raises(InterruptionError, match=told):
        train(tmp_path / "encoder")
    assert len(api.created) == 3
    assert (api.restarted, api.hung) == ([], [])


def test_a_job_that_took_too_long_is_not_tried_again(
    api: TrainerApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMIPU_RETRY", RETRY)
    message = "TrainJob exceeded its active deadline"
    api.on_create = lambda job: api.settle(name_of(job), "Failed", "DeadlineExceeded", message)
    with pytest.raises(SimipuError, match=rf"{message} \(DeadlineExceeded\)"):
        train(tmp_path / "encoder")
    assert len(api.created) == 1


def test_pods_that_cannot_start_are_told(api: TrainerApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = "0/1 nodes are available: 1 Insufficient cpu."
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
    missing = {"reason": "CreateContainerConfigError", "message": 'secret "simipu-object-store" not found'}

    def hold(job: dict[str, Any]) -> None:
        api.hold(name_of(job), {"phase": "Pending", "conditions": [unscheduled]})
        waiting = {"phase": "Pending", "containerStatuses": [container_status(waiting=missing)]}
        threading.Timer(0.3, api.hold, (name_of(job), waiting)).start()
        threading.Timer(0.6, api.hold, (name_of(job), {"phase": "Running"})).start()
        threading.Timer(0.9, finish, (api, job)).start()

    api.on_create = hold
    train(tmp_path / "encoder")
    lines = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["started", "0 of 2 pods running"]
    assert lines.count(f"Unschedulable: {why}") == 2  # pods
    assert lines.count(f"CreateContainerConfigError: {missing['message']}") == 2
    assert lines.count("2 of 2 pods running") == 1


def test_sigterm_deletes_the_job_at_once(api: TrainerApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_RETRY", RETRY)
    sent: list[float] = []

    def terminate(job: dict[str, Any]) -> None:
        api.slow = 3.0  # a request is under way when the signal comes

        def kill() -> None:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Timer(0.5, kill).start()
        threading.Thread(target=watch).start()

    def watch() -> None:
        while not api.deleted:
            time.sleep(0.01)
        sent.append(time.monotonic())

    api.on_create = terminate
    with pytest.raises(SimipuError, match=r"stopped by SIGTERM; run the step again to go on\.$"):
        train(tmp_path / "encoder")
    assert api.deleted == [(name_of(api.created[0]), "Background")]
    assert len(api.created) == 1
    assert sent[1] - sent[0] < 1.0


@pytest.mark.parametrize("end", ["fail", "delete", "complete"])
def test_a_result_that_is_there_is_taken_however_the_job_ended(cluster: TrainerApi, end: str) -> None:
    done: list[bool] = []

    def write_and_end(job: dict[str, Any]) -> None:
        done.append(True)
        if end == "delete":  # by another step, which has taken the result
            cluster.delete("j", "Background")
        else:
            getattr(cluster, end)("j")

    cluster.on_create = write_and_end
    trainer.TrainJob("j", SPEC, lambda: bool(done)).finish()
    assert len(cluster.created) == 1


def test_no_job_is_made_where_the_result_appeared_meanwhile(cluster: TrainerApi) -> None:
    answers = iter([False, True, True])
    trainer.TrainJob("j", SPEC, lambda: next(answers)).finish()
    assert cluster.created == []


AWAY = (503, "x")


@pytest.mark.parametrize(
    ("fault", "told", "is_deleted"),
    [
        ({"GET": AWAY}, r"stopped by SIGTERM; run the step again to go on\.$", True),
        ({"DELETE": AWAY}, r"stopped by SIGTERM; .* may still run; kubectl .* delete trainjob j ", False),
        ({"DELETE": (403, "no")}, r"stopped by SIGTERM; .* may still run; kubectl .* delete trainjob j ", False),
        ({}, r"stopped by SIGTERM; run the step again to go on\.$", True),
    ],
)
def test_a_step_that_is_stopped_deletes_its_job_or_says_that_it_may_still_run(
    cluster: TrainerApi,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, tuple[int, str]],
    told: str,
    is_deleted: bool,
) -> None:
    """Also between two attempts, which begin when the API server has not answered for long."""
    monkeypatch.setenv("SIMIPU_RETRY", '{"times": 2, "wait": 60, "factor": 2, "within": 600}')
    monkeypatch.setattr(trainer, "_PATIENCE_S", 0.1)

    def stop(_job: dict[str, Any]) -> None:
        threading.Timer(0.1, setattr, (cluster, "fault", fault)).start()
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM)).start()

    cluster.on_create = stop
    with pytest.raises(SimipuError, match=told):
        trainer.TrainJob("j", SPEC, lambda: False).finish()
    assert (len(cluster.deleted), len(cluster.jobs)) == ((1, 0) if is_deleted else (0, 1))


@pytest.mark.parametrize("patience", [5.0, 0.1])
def test_a_token_that_is_refused_may_just_be_renewed(
    cluster: TrainerApi, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(trainer, "_RENEWAL_S", patience)
    done: list[bool] = []

    def renew() -> None:
        cluster.fault = None
        done.append(True)
        cluster.complete("j")

    def refuse() -> None:
        cluster.fault = (401, "Unauthorized")
        if patience > 1:
            threading.Timer(0.3, renew).start()

    cluster.on_create = lambda job: threading.Timer(0.1, refuse).start()
    job = trainer.TrainJob("j", SPEC, lambda: bool(done))
    if patience > 1:
        job.finish()
    else:
        with pytest.raises(InterruptionError, match=r"does not know who asks \(401 Unauthorized\); .* may still run"):
            job.finish()
    assert len(cluster.created) == 1


@pytest.mark.parametrize("answer", [b"<html>log in</html>", b"\xff"])
def test_an_answer_that_is_none_of_the_servers_is_asked_for_again(
    cluster: TrainerApi, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(trainer, "_PATIENCE_S", 0.1)
    send = TrainerHandler._answer
    monkeypatch.setattr(TrainerHandler, "_answer", lambda handler, status, body: send(handler, 200, answer))
    with pytest.raises(InterruptionError, match="the Kubernetes API server does not answer"):
        trainer.TrainJob("j", SPEC, lambda: False).finish()


def test_the_pods_are_those_of_the_step(api: TrainerApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_PIPELINE_RUN", "f00d")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    pods: list[dict[str, Any]] = []

    def keep(job: dict[str, Any]) -> None:
        pods.extend(api.pods[pod] for pod in api.pods_of(name_of(job)))
        finish(api, job)

    api.on_create = keep
    patch = train_job.pod_patch({"team": "a"}, {"imagePullSecrets": [{"name": "registry-login"}]})
    train_job.train(
        {**SPEC, "runtimePatches": [patch]}, "pretrain", CONFIG, "s3://shards/pairs", tmp_path / "one", run=SilentRun()
    )
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"simipu-training"}
    assert pods[0]["spec"]["imagePullSecrets"] == [{"name": "registry-login"}]
    assert pods[0]["metadata"]["labels"]["team"] == "a"
    assert api.created[0]["metadata"]["labels"]["pipeline/runid"] == "f00d"
    variables = {variable["name"]: variable.get("value") for variable in api.created[0]["spec"]["trainer"]["env"]}
    assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_an_older_trainer_is_told(api: TrainerApi, tmp_path: Path) -> None:
    api.unknown = {"activeDeadlineSeconds"}
    with pytest.raises(SimipuError, match=r"does not know activeDeadlineSeconds of a TrainJob; bring it to 2\.2"):
        train(tmp_path / "encoder")
    assert api.jobs == {}


def recorded(name: str) -> str:
    return str(json.loads((RECORDED / "refusals.json").read_text())[name])


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            (403, recorded("no-role")),
            r'User "system:\S+" cannot get .*; give the step\'s service account deploy/trainer',
        ),
        ((400, "spec.trainer is wrong"), r"refused \(400\): spec.trainer is wrong"),
    ],
)
def test_refusals_are_told(api: TrainerApi, tmp_path: Path, fault: tuple[int, str], told: str) -> None:
    api.fault = fault
    with pytest.raises(SimipuError, match=told):
        train(tmp_path / "encoder")


def test_a_missing_runtime_is_told_with_its_mend(api: TrainerApi, tmp_path: Path) -> None:
    api.runtime = None
    told = (
        r"^TrainingRuntime simipu is not in namespace team-a; make it with kubectl apply -k deploy/standalone/trainer"
    )
    with pytest.raises(SimipuError, match=told):
        train(tmp_path / "encoder")


def test_what_an_admission_webhook_denies_is_told_without_advice_to_give_a_role(
    api: TrainerApi, tmp_path: Path
) -> None:
    own = {**SPEC["trainer"], "env": [{"name": "PET_NNODES", "value": "2"}]}
    with pytest.raises(SimipuError) as caught:
        train_job.train(
            {**SPEC, "trainer": own}, "pretrain", CONFIG, "s3://shards/pairs", tmp_path / "encoder", run=SilentRun()
        )
    message = str(caught.value)
    assert "denied the request: spec.trainer.env: must not have envs that are reserved" in message
    assert "role" not in message
    assert len(message) < 250


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

    monkeypatch.setattr(trainer, "_PATIENCE_S", 0.2)
    api.on_create = lambda job: threading.Timer(0.1, lambda: setattr(api, "fault", (503, "overloaded"))).start()
    with pytest.raises(SimipuError, match=r"API server is failing .503 overloaded.; run the step again"):
        train(tmp_path / "other", CONFIG.model_copy(update={"seed": 3}))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_server_or_webhook_that_is_away_when_the_job_begins_is_asked_again(
    api: TrainerApi, tmp_path: Path, method: str
) -> None:
    message = "Internal error occurred: failed calling webhook: connection refused"
    api.fault = {method: (500, message)}
    threading.Timer(0.3, lambda: setattr(api, "fault", None)).start()
    api.on_create = lambda job: finish(api, job)
    train(tmp_path / "encoder")
    assert len(api.created) == 1


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


def test_a_step_that_was_not_told_of_nodes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMIPU_TRAIN_JOB", raising=False)
    with pytest.raises(SimipuError, match=r"SIMIPU_TRAIN_JOB is not set; compile the pipeline with a cluster.yaml"):
        train_job.requested()


def test_waiting_takes_little_memory() -> None:
    """All that a waiting step imports; PyTorch alone would take more than it asks for."""
    modules = "simipu_core.stages.step simipu_core.stages.train_job simipu_core.tracking.mlflow_run kubernetes.client"
    code = f"import re, sys, {', '.join(modules.split())}\n"
    code += "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]\n"
    code += "print('torch' in sys.modules, peak)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    has_torch, kilobytes = done.stdout.split()
    assert has_torch == "False"
    assert int(kilobytes) < 256 * 1024


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


@pytest.mark.slow
def test_a_job_whose_node_is_killed_is_replaced_and_goes_on_from_its_checkpoint(
    api: TrainerApi, s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    monkeypatch.setenv("SIMIPU_RETRY", RETRY)
    pairs = write_shards(tmp_path / "pairs", "pairs", pairs=[pair_row(i) for i in range(8)])
    uri = f"s3://{s3.bucket}/{tmp_path.name}-pairs"
    for file in pairs.iterdir():
        _upload(s3, file, uri)
    client = boto3.client("s3")

    def kill(job: dict[str, Any]) -> None:
        prefix = f"{tmp_path.name}/pretrain-"
        while not client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("KeyCount"):
            time.sleep(0.1)
        api.kill(name_of(job), 1)

    def execute(job: dict[str, Any]) -> None:
        api.execute(job)
        if len(api.created) == 1:
            threading.Thread(target=kill, args=(job,), daemon=True).start()

    api.on_create, api.grace = execute, 2.0
    config = CONFIG.model_copy(update={"epochs": 10, "checkpoint_every": 1})
    train(tmp_path / "encoder", config, uri)
    assert (len(api.created), api.hung) == (2, [])
    assert read_manifest(tmp_path / "encoder", "encoder").counts["steps"] == 20
    steps = [int(step) for log in api.logs.values() for step in re.findall(r"pretrain (\d+)/20", log)]
    assert min(steps) > 1


def _upload(s3: SeaweedFS, file: Path, uri: str) -> None:
    import boto3

    client = boto3.client("s3")
    client.upload_file(str(file), s3.bucket, f"{uri.removeprefix(f's3://{s3.bucket}/')}/{file.name}")
