"""Train on several nodes: a TrainJob of Kubeflow Trainer (2.2 or newer) that this step starts and waits for.

The step itself only waits, and takes the result. The job's pods run this module under torchrun, read the shards from
object storage and write the artifact there.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from simipu_core import project, storage
from simipu_core.artifacts import MANIFEST, local_artifact, sha256_text
from simipu_core.config import FinetuneConfig, LoopConfig, PretrainConfig, validate
from simipu_core.errors import InterruptionError, SimipuError, plain_errors
from simipu_core.files import new_folder
from simipu_core.stages.trainer import TrainJob
from simipu_core.tracking.run import Run, SilentRun

TRAIN_JOB = "SIMIPU_TRAIN_JOB"
"""Environment variable with the job's `spec` as JSON, all but what is trained."""
CALL = "SIMIPU_CALL"
"""Environment variable of the job's pods: what they are to train, as JSON of a `Call`."""
PATCHES = "simipu"
"""Manager of what `spec.runtimePatches` change."""
LAST_WORDS = Path("/dev/termination-log")
"""What a container leaves here stands in its pod's status."""
_COMMAND = ["torchrun", "-m", "simipu_core.stages.train_job"]
"""torchrun takes the nodes' addresses and numbers from the variables PET_* that Kubeflow Trainer sets."""
_HANDED_ON = ("MLFLOW_TRACKING_URI",)
"""Variables that the pods get from the step where the job's `spec` does not name them."""


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


def requested() -> dict[str, Any]:
    """The job's `spec`, all but what is trained.

    Raises:
        SimipuError: the step was not told.
    """
    text = os.environ.get(TRAIN_JOB)
    if not text:
        raise SimipuError(f"{TRAIN_JOB} is not set; compile the pipeline with a cluster.yaml that names nodes.")
    spec: dict[str, Any] = json.loads(text)
    return spec


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
    result of one that has ended, or else starts one anew, which goes on from its last checkpoint. A job whose pods are
    killed or lost is replaced as often as `SIMIPU_RETRY` says (see :mod:`simipu_core.stages.attempts`); what a pod
    refuses is not tried again. With the step ends a job that is under way, by SIGTERM too: its pods then write a
    checkpoint. Once its result is taken, the job is deleted.

    Args:
        spec: answer of :func:`requested`.
        stage: which one.
        config: its section.
        shards: their address in S3.
        out: local artifact directory to write.
        run: where the stage is recorded; the job's first process goes on with it.
        encoder: address in S3 of the encoder to start from.

    Raises:
        SimipuError: artifacts or checkpoints are not in S3, there is no Kubeflow Trainer or it refuses the job, a pod
            refused what it is to train, or it was asked to end.
        InterruptionError: the job failed for another reason, and no attempt is left.
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
    call.out = str(result)

    def is_done() -> bool:
        storage.forget_listings()
        return (result / MANIFEST).is_file()

    variables = {CALL: call.model_dump_json(), "SIMIPU_STEP": os.environ.get("SIMIPU_STEP", stage)}
    if run.run_id:
        variables["MLFLOW_RUN_ID"] = run.run_id
    job = TrainJob(name, _filled(spec, variables), is_done)
    if not is_done():
        job.finish()
    with new_folder(out) as folder:
        shutil.copytree(local_artifact(result), folder, dirs_exist_ok=True)
    job.remove_ended()


def _address(uri: str) -> str:
    """The address in S3 of a pipeline artifact."""
    address = uri.replace("minio://", "s3://", 1)
    if not address.startswith("s3://"):
        raise SimipuError(f"{uri}: training on several nodes needs artifacts in S3; set the pipeline root to s3://….")
    return address


def _filled(spec: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """The `spec` with what is trained."""
    trainer = dict(spec["trainer"])
    known = {variable["name"] for variable in trainer["env"]}
    handed_on = {name: os.environ[name] for name in _HANDED_ON if name in os.environ and name not in known}
    own = [{"name": name, "value": value} for name, value in {**handed_on, **variables}.items()]
    return {**spec, "trainer": {**trainer, "command": _COMMAND, "env": [*trainer["env"], *own]}}


def pod_patch(labels: Mapping[str, str], spec: Mapping[str, Any]) -> dict[str, Any]:
    """A patch of the runtime's pods, one of the `runtimePatches` of a TrainJob.

    Args:
        labels: of the pods.
        spec: fields of the pods, of those that may be patched.
    """
    pod = {"metadata": {"labels": dict(labels)}, "spec": dict(spec)}
    jobs = [{"name": "node", "template": {"spec": {"template": pod}}}]
    return {"manager": PATCHES, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}


@contextmanager
def _last_words() -> Iterator[None]:
    """Leave why the process ends where the waiting step finds it, which may not read logs."""
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str) and LAST_WORDS.exists():
            with suppress(OSError), LAST_WORDS.open("a", encoding="utf-8") as file:  # each process of a node
                file.write(f"{end.code}\n")
        raise


@contextmanager
def _plain_interruptions() -> Iterator[None]:
    """End without the ``error: `` by which the waiting step knows what no further attempt can mend."""
    try:
        yield
    except InterruptionError as error:
        sys.exit(f"interrupted: {error}")


def main() -> None:
    """What every process of the job does; the first one records."""
    from simipu_core.tracking.mlflow_run import step

    call = Call.model_validate_json(os.environ[CALL])
    is_first = os.environ["RANK"] == "0"
    track = step(os.environ["SIMIPU_STEP"]) if is_first else nullcontext(SilentRun())
    with _last_words(), plain_errors(), _plain_interruptions(), track as run:
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
