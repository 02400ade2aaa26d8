"""Train on several nodes: a TrainJob of Kubeflow Trainer that this step starts, waits for, and takes the result of.

The step itself only waits. The job's pods run this module under torchrun, read the shards from object storage and write
the artifact there.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from simipu_core import project, storage
from simipu_core.artifacts import MANIFEST, local_artifact, sha256_text
from simipu_core.config import FinetuneConfig, LoopConfig, PretrainConfig, validate
from simipu_core.errors import SimipuError, plain_errors
from simipu_core.files import new_folder
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.guards import termination

TRAIN_JOB = "SIMIPU_TRAIN_JOB"
"""Environment variable with the job's `spec` as JSON, all but what is trained; unset, the step trains itself."""
CALL = "SIMIPU_CALL"
"""Environment variable of the job's pods: what they are to train, as JSON of a `Call`."""
_COMMAND = ["torchrun", "-m", "simipu_core.stages.train_job"]
"""torchrun takes the nodes' addresses and numbers from the variables PET_* that Kubeflow Trainer sets."""
_GROUP = {"group": "trainer.kubeflow.org", "version": "v1alpha1", "plural": "trainjobs"}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POLL_S = 5.0
_PATIENCE_S = 900.0  # for an API server that does not answer
_LAST_LINES = 30


class Call(BaseModel):
    """What the pods train."""

    stage: Literal["pretrain", "finetune"]
    config: dict[str, Any]
    """The stage's section."""
    shards: str
    """Address of the shards."""
    encoder: str | None
    """Address of the encoder to start from."""
    out: str
    """Where the artifact is written."""
    checkpoints: str


def requested() -> dict[str, Any] | None:
    """The job's `spec`, where this step is to train on several nodes."""
    text = os.environ.get(TRAIN_JOB)
    return json.loads(text) if text else None


def train(
    spec: Mapping[str, Any],
    stage: Literal["pretrain", "finetune"],
    config: LoopConfig,
    shards: str,
    out: Path,
    *,
    run: Run,
    encoder: str | None = None,
) -> None:
    """Train on the nodes of a TrainJob.

    The job is named after everything that decides its result: a repeated step finds the one that is under way, the
    result of one that has ended, or else starts one anew, which goes on from its last checkpoint. SIGTERM ends the
    job, whose pods then write a checkpoint.

    Args:
        spec: answer of :func:`requested`.
        stage: which one.
        config: its section.
        shards: their address in S3.
        out: local artifact directory to write.
        run: where the stage is recorded; the job's first process goes on with it.
        encoder: address in S3 of the encoder to start from.

    Raises:
        SimipuError: artifacts or checkpoints are not in S3, there is no Kubeflow Trainer, the job failed, or SIGTERM
            was received.
    """
    root = project.checkpoints()
    if isinstance(root, Path):
        raise SimipuError(
            "training on several nodes needs checkpoints that they all reach; set SIMIPU_CHECKPOINTS to "
            "s3://bucket/prefix."
        )
    call = Call(
        stage=stage,
        config=config.model_dump(mode="json"),
        shards=_address(shards),
        encoder=encoder and _address(encoder),
        out="",
        checkpoints=root,
    )
    digest = sha256_text(json.dumps([spec, call.model_dump()], sort_keys=True))
    name = f"simipu-{stage}-{digest[:16]}"
    result = storage.place(f"{root}/{name}")
    if not (result / MANIFEST).is_file():
        call.out = str(result)
        variables = {CALL: call.model_dump_json(), "SIMIPU_STEP": os.environ.get("SIMIPU_STEP", stage)}
        if run.run_id:
            variables["MLFLOW_RUN_ID"] = run.run_id
        _Job(name, _filled(spec, variables)).finish()
        storage.forget_listings()
    with new_folder(out) as folder:
        shutil.copytree(local_artifact(result), folder, dirs_exist_ok=True)


def _address(uri: str) -> str:
    """The address in S3 of a pipeline artifact."""
    address = uri.replace("minio://", "s3://", 1)
    if not address.startswith("s3://"):
        raise SimipuError(f"{uri}: training on several nodes needs artifacts in S3; set the pipeline root to s3://….")
    return address


def _filled(spec: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    trainer = dict(spec["trainer"])
    own = [{"name": name, "value": value} for name, value in variables.items()]
    return {**spec, "trainer": {**trainer, "command": _COMMAND, "env": [*trainer["env"], *own]}}


class _Job:
    """One TrainJob, by name."""

    def __init__(self, name: str, spec: dict[str, Any]) -> None:
        from kubernetes import client, config

        self.name, self.spec = name, spec
        try:
            config.load_incluster_config() if _NAMESPACE.is_file() else config.load_kube_config()
        except config.ConfigException:
            raise SimipuError("there is no Kubernetes cluster here to train on; set nodes to 1.") from None
        self.namespace = _namespace()
        self._where = {**_GROUP, "namespace": self.namespace}
        self._jobs, self._pods = client.CustomObjectsApi(), client.CoreV1Api()

    def finish(self) -> None:
        """Start the job if it is not there, and wait until it is complete."""
        with termination() as ending:
            if self._outcome(self._read()) == "Failed":
                self._delete()
            self._create()
            shown, answered = "", time.monotonic()
            while True:
                try:
                    job = self._read()
                    answered = time.monotonic()
                except _AwayError as error:
                    if time.monotonic() - answered > _PATIENCE_S:
                        raise SimipuError(f"{error}; run the step again, which finds the job.") from None
                    job = {}
                if job is None:
                    raise SimipuError(f"TrainJob {self.name}: was deleted; run the step again.")
                outcome = self._outcome(job)
                if outcome == "Complete":
                    return
                if outcome == "Failed":
                    raise SimipuError(f"TrainJob {self.name}: {self._reason(job)}")
                if outcome and outcome != shown:
                    print(f"TrainJob {self.name}: {outcome.lower()}", flush=True)
                    shown = outcome
                self._wait(ending)

    def _wait(self, ending: Any) -> None:
        until = time.monotonic() + _POLL_S
        while time.monotonic() < until:
            if ending.is_asked:
                self._delete()
                raise SimipuError(f"stopped by SIGTERM, and TrainJob {self.name} with it: run it again to go on.")
            time.sleep(min(0.2, _POLL_S))

    def _create(self) -> None:
        body = {
            "apiVersion": f"{_GROUP['group']}/{_GROUP['version']}",
            "kind": "TrainJob",
            "metadata": {"name": self.name, "labels": {"app.kubernetes.io/part-of": "simipu"}},
            "spec": self.spec,
        }
        made = self._call(self._jobs.create_namespaced_custom_object, **self._where, body=body, allowed=409)
        print(f"TrainJob {self.name}: {'started' if made else 'is there already'}", flush=True)

    def _read(self) -> dict[str, Any] | None:
        job: dict[str, Any] | None = self._call(
            self._jobs.get_namespaced_custom_object, **self._where, name=self.name, allowed=404
        )
        return job

    def _delete(self) -> None:
        """Delete the job and wait until it is gone, its pods included."""
        self._call(
            self._jobs.delete_namespaced_custom_object,
            **self._where,
            name=self.name,
            propagation_policy="Foreground",
            allowed=404,
        )
        until = time.monotonic() + _PATIENCE_S
        while self._read() is not None and time.monotonic() < until:
            time.sleep(min(1.0, _POLL_S))

    @staticmethod
    def _outcome(job: Mapping[str, Any] | None) -> str:
        """`Complete`, `Failed`, `Suspended`, or `Running`; nothing where there is no job."""
        if not job:
            return ""
        holds = {c["type"] for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"}
        return next((state for state in ("Complete", "Failed", "Suspended") if state in holds), "Running")

    def _reason(self, job: Mapping[str, Any]) -> str:
        """The error in a pod's log, or else the job's own message."""
        (failed,) = [c for c in job["status"]["conditions"] if c["type"] == "Failed"]
        selector = f"jobset.sigs.k8s.io/jobset-name={self.name}"
        pods = self._call(self._pods.list_namespaced_pod, self.namespace, label_selector=selector, allowed=404)
        dead = [pod for pod in pods.items if pod.status.phase == "Failed"] if pods else []
        for pod in dead:
            log = self._call(
                self._pods.read_namespaced_pod_log,
                pod.metadata.name,
                self.namespace,
                tail_lines=_LAST_LINES,
                allowed=404,
            )
            print(f"--- {pod.metadata.name}\n{log or ''}", flush=True)
            errors = [line for line in (log or "").splitlines() if line.startswith("error: ")]
            if errors:
                return errors[0].removeprefix("error: ")
        return f"failed ({failed.get('reason', '')}: {failed.get('message', '')}); see the lines above."

    def _call(self, method: Any, *arguments: Any, allowed: int, **named: Any) -> Any:
        """Answer of the API server; None where it answers with the status `allowed`."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return method(*arguments, **named, _request_timeout=30)
        except HTTPError as error:
            raise _AwayError(f"the Kubernetes API server does not answer ({type(error).__name__})") from None
        except ApiException as error:
            if error.status == allowed:
                return None
            message = _message(error.body) or str(error.reason)
            if error.status == 404:
                raise SimipuError(
                    "this cluster has no Kubeflow Trainer (no resource trainjobs.trainer.kubeflow.org); install it, or "
                    "set nodes to 1."
                ) from None
            if error.status in (401, 403):
                raise SimipuError(
                    f"TrainJob: {message}; give the step's service account deploy/trainer/role.yaml."
                ) from None
            if error.status >= 500 or error.status == 429:
                raise _AwayError(f"the Kubernetes API server is failing ({error.status} {message})") from None
            raise SimipuError(f"TrainJob: refused ({error.status}): {message}") from None


class _AwayError(SimipuError):
    """The API server could not be asked."""


def _namespace() -> str:
    from kubernetes import config

    if _NAMESPACE.is_file():
        return _NAMESPACE.read_text(encoding="ascii").strip()
    _, active = config.list_kube_config_contexts()
    return str(active["context"].get("namespace", "default"))


def _message(body: Any) -> str:
    try:
        return " ".join(str(json.loads(body)["message"]).split())
    except (ValueError, TypeError, KeyError):
        return ""


def main() -> None:
    """What every process of the job does; the first one records."""
    from simipu_core.tracking.mlflow_run import step

    call = Call.model_validate_json(os.environ[CALL])
    is_first = os.environ["RANK"] == "0"
    with plain_errors(), step(os.environ["SIMIPU_STEP"]) if is_first else nullcontext(SilentRun()) as run:
        shards, out = storage.place(call.shards), storage.place(call.out)
        if call.stage == "pretrain":
            from simipu_core.stages.pretrain import pretrain

            section = validate(PretrainConfig, call.config, call.stage)
            pretrain(shards, section, out, run=run, checkpoints=call.checkpoints)
        else:
            from simipu_core.stages.finetune import finetune

            encoder = storage.place(call.encoder) if call.encoder else None
            chosen = validate(FinetuneConfig, call.config, call.stage)
            finetune(shards, chosen, out, encoder=encoder, run=run, checkpoints=call.checkpoints)


if __name__ == "__main__":
    main()
