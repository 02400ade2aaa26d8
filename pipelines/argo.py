"""The pipeline as a plain Argo Workflow, for clusters without Kubeflow: each step calls the command `simipu`.

Argo keeps no cache of steps and knows no typed artifacts; every step's result goes to the cluster's default artifact
repository. Its retries also cover lost nodes.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from pipelines.cluster import TRAINING, Cluster, StepSettings
from pipelines.dag import NAME
from pipelines.form import fields, handed_singly, title
from pipelines.placement import RUN_ID, SCRATCH, environment
from pipelines.pods import resources, variables, variables_from
from pipelines.steps import Step, steps
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment

_INPUTS, _OUTPUTS, _SETTINGS = "/inputs", "/outputs", "/settings/experiment.yaml"
_MADE = {
    "ingest": "catalogue",
    "pair": "shards",
    "pretrain": "encoder",
    "finetune": "model",
    "evaluate": "report",
    "table": "results",
}
_SECTIONS = ("pretrain", "finetune", "tracking")


def workflow(rows: Sequence[Experiment], cluster: Cluster) -> dict[str, Any]:
    """A resource of kind Workflow, whose parameters are those of the form in Kubeflow.

    Args:
        rows: one experiment, or those of a sweep.
        cluster: where the steps run.

    Raises:
        SimipuError: the image is not pinned, the experiments do not go into one sweep, or training is to be on several
            nodes.
    """
    if several := [name for name in TRAINING if cluster.step(name).nodes > 1]:
        raise SimipuError(f"steps.{several[0]}.nodes: only Kubeflow's pipelines train on several nodes; set it to 1.")
    road, form = steps(rows), fields(rows, cluster.data)
    name = title(rows)
    metadata: dict[str, Any] = {"generateName": f"{NAME}-{_dns(name)}-"}
    if cluster.namespace:
        metadata["namespace"] = cluster.namespace
    spec: dict[str, Any] = {
        "entrypoint": NAME,
        "arguments": {
            "parameters": [
                {"name": field.name, "description": field.meaning}
                | ({} if field.default is None else {"value": _text(field.name, field.default)})
                for field in form
            ]
        },
        "podMetadata": {"labels": {"app.kubernetes.io/part-of": NAME, **cluster.labels}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.run_as.user,
            "fsGroup": cluster.run_as.group or cluster.run_as.user,
        },
        "ttlStrategy": {f"secondsAfter{end}": cluster.keep_finished for end in ("Completion", "Success", "Failure")},
        "templates": [{"name": NAME, "dag": {"tasks": [_task(step) for step in road]}}]
        + [_template(step, cluster) for step in road],
    }
    if cluster.pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in cluster.pull_secrets]
    if cluster.service_account:
        spec["serviceAccountName"] = cluster.service_account
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": spec}


def _task(step: Step) -> dict[str, Any]:
    made = {name: (_dns(source.step), source.output) for name, source in step.artifacts.items()}
    task: dict[str, Any] = {"name": _dns(step.name), "template": _dns(step.name)}
    if made:
        task["dependencies"] = sorted({above for above, _ in made.values()})
        task["arguments"] = {
            "artifacts": [
                {"name": _dns(name), "from": f"{{{{tasks.{above}.outputs.artifacts.{output}}}}}"}
                for name, (above, output) in made.items()
            ]
        }
    return task


def _template(step: Step, cluster: Cluster) -> dict[str, Any]:
    settings = cluster.step(step.component)
    made = _MADE[step.component]
    volumes: list[dict[str, Any]] = [{"name": "outputs", "emptyDir": {}}]
    mounts = [{"name": "outputs", "mountPath": _OUTPUTS}]
    if settings.shm:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shm}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    if settings.scratch:
        volumes.append({"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch}})
        mounts.append({"name": "scratch", "mountPath": SCRATCH})
    template: dict[str, Any] = {
        "name": _dns(step.name),
        "inputs": {
            "artifacts": [
                {"name": "settings", "path": _SETTINGS, "raw": {"data": _settings(step.row)}},
                *({"name": _dns(name), "path": f"{_INPUTS}/{name}"} for name in step.artifacts),
            ]
        },
        "outputs": {"artifacts": [{"name": made, "path": f"{_OUTPUTS}/{made}", "archive": {"none": {}}}]},
        "activeDeadlineSeconds": settings.timeout,
        "retryStrategy": {
            "limit": settings.retry.times,
            "retryPolicy": "Always",
            "backoff": {
                "duration": f"{settings.retry.wait}s",
                "factor": settings.retry.factor,
                "maxDuration": f"{settings.retry.within}s",
            },
        },
        "volumes": volumes,
        "container": {
            "image": cluster.image_of(step.component),
            "imagePullPolicy": cluster.pull_policy,
            "command": _command(step, settings),
            "args": _arguments(step),
            "env": _environment(step, cluster),
            "resources": resources(settings),
            "volumeMounts": mounts,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        },
    }
    if settings.labels:
        template["metadata"] = {"labels": settings.labels}
    if settings.node_selector:
        template["nodeSelector"] = settings.node_selector
    if settings.tolerations:
        template["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in settings.tolerations]
    return template


def _command(step: Step, settings: StepSettings) -> list[str]:
    if step.component not in TRAINING or settings.gpus <= 1:
        return ["simipu"]
    torchrun = ["python", "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={settings.gpus}"]
    return [*torchrun, "--no-python", "simipu"]


def _arguments(step: Step) -> list[str]:
    out = ["--out", f"{_OUTPUTS}/{_MADE[step.component]}"]
    if step.component == "table":
        reports = [f"{name}={_INPUTS}/report_{place}" for place, name in enumerate(step.constants["rows"], 1)]
        return ["table", *reports, *out]
    given = {name: f"{_INPUTS}/{name}" for name in step.artifacts}
    words = {
        "ingest": ["ingest", step.branch],
        "pair": ["pair", step.branch],
        "pretrain": ["pretrain"],
        "finetune": ["finetune"],
        "evaluate": ["evaluate"],
    }[step.component]
    places = [given.pop(name) for name in ("catalogue", "pairs", "model", "depth") if name in given]
    options = [word for name, place in given.items() for word in (f"--{name}", place)]
    if "uri" in step.parameters:
        options += ["--root", _parameter(step.parameters["uri"])]
    changes = [f"{key}={_parameter(dial)}" for key, dial in _turned(step).items()]
    if "init" in step.constants:
        changes += [f"finetune.init={step.constants['init']}", "finetune.init_file=null"]
    sets = [word for change in changes for word in ("--set", change)]
    return [*words, *places, *options, "--experiment", _SETTINGS, *sets, *out]


def _turned(step: Step) -> dict[str, str]:
    """Settings of the step that the form holds: dotted key → parameter."""
    keys = {f"{section}.{key}": given for section in _SECTIONS for given, key in handed_singly(section).items()}
    if step.component not in TRAINING:
        return {}
    own = {key: given for key, given in keys.items() if key.startswith(f"{step.component}.")}
    return {key: step.parameters[given] for key, given in own.items() if given in step.parameters}


def _environment(step: Step, cluster: Cluster) -> list[dict[str, Any]]:
    plain = environment(step.component, cluster)
    plain.pop("SIMIPU_PROCESSES", None)  # torchrun is part of the command
    label = "metadata.labels['workflows.argoproj.io/workflow']"
    run_id = {"name": RUN_ID, "valueFrom": {"fieldRef": {"fieldPath": label}}}
    return [*variables(plain), run_id, *variables_from(cluster)]


def _settings(row: Experiment) -> str:
    return yaml.safe_dump(row.model_dump(mode="json"), sort_keys=False)


def _parameter(name: str) -> str:
    return f"{{{{workflow.parameters.{name}}}}}"


def _text(name: str, default: str | int | float) -> str:
    return "null" if (name, default) == ("finetune_max_frames", 0) else str(default)


def _dns(name: str) -> str:
    return name.replace("_", "-").lower()
