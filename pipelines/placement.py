"""Settings of a cluster on the tasks of a Kubeflow pipeline."""

import json
from typing import Any

from kfp import dsl, kubernetes

from pipelines.cluster import TRAINING, Cluster, StepSettings
from pipelines.pods import resources, variables, variables_from
from simipu_core.stages.attempts import NODE, RETRY
from simipu_core.stages.launch import PROCESSES
from simipu_core.stages.train_job import TRAIN_JOB, pod_patch

RUN_ID = "SIMIPU_PIPELINE_RUN"
NODE_NAME = "metadata.annotations['workflows.argoproj.io/node-name']"
"""Field of a pod by which a step knows whether it was started again."""
SCRATCH = "/scratch"
TMP = "/tmp"  # noqa: S108 (each pod has its own)
_WAITING: dict[str, Any] = {
    "cpu_request": "50m",
    "cpu_limit": None,
    "memory_request": "256Mi",
    "memory_limit": "1Gi",
    "gpus": 0,
    "shm": None,
    "node_selector": {},
    "tolerations": (),
}
"""What a step needs while others train for it."""


def place(task: dsl.PipelineTask, component: str, cluster: Cluster) -> None:
    """Say where a task runs and with what. None of it but the image is part of what Kubeflow's cache compares.

    The id of the run reaches the task by the downward API: as an input it would defeat the cache.

    Args:
        task: task of the pipeline.
        component: which component it is.
        cluster: settings.

    Raises:
        SimipuError: the image is not pinned.
    """
    step = cluster.step(component)
    if step.nodes > 1:
        task.set_env_variable(TRAIN_JOB, json.dumps(train_job(component, cluster), sort_keys=True))
        step = step.model_copy(update=_WAITING)
    task.set_container_image(cluster.image_of(component))
    _resources(task, step)
    task.set_retry(
        step.retry.times,
        backoff_duration=f"{step.retry.wait}s",
        backoff_factor=step.retry.factor,
        backoff_max_duration=f"{step.retry.within}s",
    )
    kubernetes.set_timeout(task, step.timeout)
    kubernetes.set_image_pull_policy(task, cluster.pull_policy)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
    kubernetes.set_security_context(
        task, run_as_user=cluster.run_as.user, run_as_group=cluster.run_as.group, run_as_non_root=True
    )
    for key, value in step.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in step.tolerations:
        kubernetes.add_toleration(task, toleration.key, toleration.operator, toleration.value, toleration.effect)
    for key, value in {**cluster.labels, **step.labels}.items():
        kubernetes.add_pod_label(task, key, value)
    for name, value in environment(component, cluster).items():
        task.set_env_variable(name, value)
    kubernetes.use_field_path_as_env(task, RUN_ID, "metadata.labels['pipeline/runid']")
    if component in TRAINING:
        task.set_env_variable(RETRY, step.retry.model_dump_json())
        kubernetes.use_field_path_as_env(task, NODE, NODE_NAME)
    for source in cluster.config_maps_of(component):
        keys = {key: variable for variable, key in source.keys.items()}
        kubernetes.use_config_map_as_env(task, source.name, keys, optional=source.optional)
    for source in cluster.secrets_of(component):
        keys = {key: variable for variable, key in source.keys.items()}
        kubernetes.use_secret_as_env(task, source.name, keys, optional=source.optional)


def train_job(component: str, cluster: Cluster) -> dict[str, Any]:
    """What a training step on several nodes starts: the `spec` of a TrainJob, all but what is trained."""
    step = cluster.step(component)
    plain = environment(component, cluster)
    plain.pop(PROCESSES)  # torchrun is told by the job
    pod: dict[str, Any] = {"securityContext": {"runAsNonRoot": True, "runAsUser": cluster.run_as.user}}
    if cluster.run_as.group:
        pod["securityContext"]["runAsGroup"] = cluster.run_as.group
    if cluster.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    return {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", **cluster.training_runtime.model_dump()},
        "runtimePatches": [pod_patch({**cluster.labels, **step.labels}, pod)],
        "activeDeadlineSeconds": step.timeout,
        "trainer": {
            "image": cluster.image_of(component),
            "numNodes": step.nodes,
            "numProcPerNode": max(1, step.gpus),
            "resourcesPerNode": resources(step),
            "env": [*variables(plain), *variables_from(component, cluster)],
        },
    }


def environment(component: str, cluster: Cluster) -> dict[str, str]:
    """Plain environment variables of a step."""
    step = cluster.step(component)
    variables = {
        "SIMIPU_IMAGE": cluster.image_of(component),
        "HOME": TMP,
        "SIMIPU_CACHE": f"{SCRATCH if step.scratch else TMP}/cache",  # the image's own folders may be read-only
        "PYTHONUNBUFFERED": "1",
    }
    if component in TRAINING:
        variables[PROCESSES] = str(max(1, step.gpus))
    if step.scratch:
        variables["TMPDIR"] = SCRATCH
    return {**variables, **cluster.environment}


def _resources(task: dsl.PipelineTask, step: StepSettings) -> None:
    task.set_cpu_request(step.cpu_request)
    if step.cpu_limit:
        task.set_cpu_limit(step.cpu_limit)
    task.set_memory_request(step.memory_request)
    task.set_memory_limit(step.memory_limit)
    if step.gpus:
        task.set_accelerator_type(step.gpu_resource)
        task.set_accelerator_limit(step.gpus)
    kubernetes.empty_dir_mount(task, "tmp", TMP)
    if step.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=step.shm)  # noqa: S108
    if step.scratch:
        kubernetes.empty_dir_mount(task, "scratch", SCRATCH, size_limit=step.scratch)
