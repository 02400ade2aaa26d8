"""The compiled pipeline as a plain Argo Workflow, for clusters without Kubeflow.

Every task runs the command of its component, with the message that Kubeflow's launcher would hand it: parameters, and
artifacts as local paths. Argo keeps no cache of steps; every artifact goes to the cluster's default artifact
repository. Its retries also cover lost nodes; a step that ends by itself is not begun again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.cluster import TRAINING, Cluster, settings_of
from pipelines.placement import NODE_NAME, RUN_ID, SCRATCH, TMP
from pipelines.pods import resources, variables_from
from simipu_core.errors import SimipuError
from simipu_core.stages.attempts import NODE

_INPUTS, _OUTPUTS = "/inputs", "/outputs"
_RESULT = "result"
"""Output parameter with everything that a component returned."""
_REFUSED = 1
"""Exit code of a step that ends by itself with an error."""
_RESULT_FILE = f"{_OUTPUTS}/executor_output.json"


def workflow(documents: Sequence[dict[str, Any]], title: str, cluster: Cluster) -> dict[str, Any]:
    """A resource of kind Workflow, whose parameters are those of the form in Kubeflow.

    Args:
        documents: the pipeline as Kubeflow IR, compiled for this cluster.
        title: of the experiment or the sweep.
        cluster: where the steps run.

    Raises:
        SimipuError: training is to be on several nodes.
    """
    if several := [name for name in TRAINING if cluster.step(name).nodes > 1]:
        raise SimipuError(f"steps.{several[0]}.nodes: only Kubeflow's pipelines train on several nodes; set it to 1.")
    pipeline, *_ = documents
    name, root = pipeline["pipelineInfo"]["name"], pipeline["root"]
    tasks = root["dag"]["tasks"]
    metadata: dict[str, Any] = {"generateName": f"{name}-{_dns(title)}-"}
    if cluster.namespace:
        metadata["namespace"] = cluster.namespace
    form = root["inputDefinitions"]["parameters"]
    kept = (
        "secondsAfterCompletion",
        "secondsAfterSuccess",
        "secondsAfterFailure",
    )  # the last two win where both are set
    spec: dict[str, Any] = {
        "entrypoint": name,
        "arguments": {"parameters": [_parameter(key, field) for key, field in form.items()]},
        "podMetadata": {"labels": {"app.kubernetes.io/part-of": name, **cluster.labels}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.run_as.user,
            "fsGroup": cluster.run_as.group or cluster.run_as.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "ttlStrategy": dict.fromkeys(kept, cluster.keep_finished),
        "templates": [
            {"name": name, "dag": {"tasks": [_task(task, tasks) for task in tasks.values()]}},
            *(_template(task, pipeline, cluster) for task in tasks.values()),
        ],
    }
    if cluster.pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in cluster.pull_secrets]
    if cluster.service_account:
        spec["serviceAccountName"] = cluster.service_account
        # only Argo's own container of a pod gets a token, from the secret NAME.service-account-token
        spec["automountServiceAccountToken"] = False
        spec["executor"] = {"serviceAccountName": cluster.service_account}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": spec}


def _parameter(name: str, field: Mapping[str, Any]) -> dict[str, Any]:
    value = field.get("defaultValue", "")
    choices = {"enum": field["literals"]} if "literals" in field else {}
    return {
        "name": name,
        "description": field["description"],
        "value": value if isinstance(value, str) else json.dumps(value),
        **choices,
    }


def _task(task: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": _name(task), "template": _name(task)}
    if above := task.get("dependentTasks"):
        outputs = {producer: f"tasks.{_name(tasks[producer])}.outputs" for producer in above}
        made["dependencies"] = [_name(tasks[producer]) for producer in above]
        made["arguments"] = {
            "parameters": [
                {"name": producer, "value": f"{{{{{outputs[producer]}.parameters.{_RESULT}}}}}"}
                for producer in _producers(task)
            ],
            "artifacts": [
                {
                    "name": name,
                    "from": f"{{{{{outputs[source['producerTask']]}.artifacts.{source['outputArtifactKey']}}}}}",
                }
                for name, source in _artifacts(task).items()
            ],
        }
    return made


def _template(task: Mapping[str, Any], pipeline: Mapping[str, Any], cluster: Cluster) -> dict[str, Any]:
    component = pipeline["components"][task["componentRef"]["name"]]
    container = pipeline["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    name = settings_of(container["args"][-1])
    settings = cluster.step(name)
    made = component["outputDefinitions"]
    volumes: list[dict[str, Any]] = [{"name": "outputs", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "outputs", "mountPath": _OUTPUTS}, {"name": "tmp", "mountPath": TMP}]
    if settings.shm:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shm}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    if settings.scratch:
        volumes.append({"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch}})
        mounts.append({"name": "scratch", "mountPath": SCRATCH})
    fields = {RUN_ID: "metadata.labels['workflows.argoproj.io/workflow']", NODE: NODE_NAME}
    own = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    template: dict[str, Any] = {
        "name": _name(task),
        "inputs": {
            "parameters": [{"name": producer} for producer in _producers(task)],
            # readable also where Argo's executor has a user of its own
            "artifacts": [
                {"name": name, "path": f"{_INPUTS}/{name}", "mode": 0o755, "recurseMode": True}
                for name in _artifacts(task)
            ],
        },
        "outputs": {
            "parameters": [{"name": _RESULT, "valueFrom": {"path": _RESULT_FILE}}],
            "artifacts": [
                {"name": name, "path": f"{_OUTPUTS}/{name}", "archive": {"none": {}}}
                for name in made.get("artifacts", {})
            ],
        },
        "activeDeadlineSeconds": settings.timeout,
        "retryStrategy": {
            "limit": settings.retry.times,
            "retryPolicy": "Always",
            "expression": f"lastRetry.exitCode != '{_REFUSED}'",
            # without maxDuration, which from the second attempt on Argo takes for the pod's deadline
            "backoff": {"duration": f"{settings.retry.wait}s", "factor": settings.retry.factor},
        },
        "volumes": volumes,
        "container": {
            "image": container["image"],
            "imagePullPolicy": cluster.pull_policy,
            "command": container["command"],
            "args": [_message(task, component) if word == "{{$}}" else word for word in container["args"]],
            "env": [*container["env"], *own, *variables_from(name, cluster)],
            "resources": resources(settings),
            "volumeMounts": mounts,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        },
    }
    if settings.labels:
        template["metadata"] = {"labels": settings.labels}
    if settings.node_selector:
        template["nodeSelector"] = settings.node_selector
    if settings.tolerations:
        template["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in settings.tolerations]
    return template


def _message(task: Mapping[str, Any], component: Mapping[str, Any]) -> str:
    """What Kubeflow's launcher would hand the component, as JSON in which Argo puts the values of parameters."""
    parameters = task.get("inputs", {}).get("parameters", {})
    kinds = component["inputDefinitions"]["parameters"]
    texts = {name: _value(source, kinds.get(name)) for name, source in parameters.items()}
    in_list = re.compile(r'"\{\{\$\.inputs\.parameters\[\'(.+?)\'\]\}\}"')
    values = ", ".join(
        f"{json.dumps(name)}: {in_list.sub(lambda found: texts[found[1]], text)}" for name, text in texts.items()
    )
    read = _places(component["inputDefinitions"].get("artifacts", {}), _INPUTS)
    written = _places(component["outputDefinitions"].get("artifacts", {}), _OUTPUTS)
    outputs = json.dumps({"artifacts": written, "outputFile": _RESULT_FILE})
    return f'{{"inputs": {{"parameterValues": {{{values}}}, "artifacts": {json.dumps(read)}}}, "outputs": {outputs}}}'


def _value(source: Mapping[str, Any], definition: Mapping[str, Any] | None) -> str:
    """A parameter as JSON, or as an expression that Argo turns into JSON."""
    if "runtimeValue" in source:
        return json.dumps(source["runtimeValue"]["constant"])
    if made := source.get("taskOutputParameter"):
        path = f"$.parameterValues.{made['outputParameterKey']}"
        return f"{{{{=toJson(jsonpath(inputs.parameters['{made['producerTask']}'], '{path}'))}}}}"
    name = source["componentInputParameter"]
    is_text = definition is not None and definition["parameterType"] == "STRING"
    return f"{{{{=toJson(workflow.parameters['{name}'])}}}}" if is_text else f"{{{{workflow.parameters.{name}}}}}"


def _places(artifacts: Mapping[str, Any], folder: str) -> dict[str, Any]:
    return {
        name: {"artifacts": [{"name": name, "type": each["artifactType"], "uri": f"{folder}/{name}", "metadata": {}}]}
        for name, each in artifacts.items()
    }


def _artifacts(task: Mapping[str, Any]) -> dict[str, Any]:
    inputs = task.get("inputs", {}).get("artifacts", {})
    return {name: source["taskOutputArtifact"] for name, source in inputs.items()}


def _producers(task: Mapping[str, Any]) -> list[str]:
    """Tasks that hand this one parameters."""
    sources = task.get("inputs", {}).get("parameters", {}).values()
    made = [source["taskOutputParameter"] for source in sources if "taskOutputParameter" in source]
    return list(dict.fromkeys(each["producerTask"] for each in made))


def _name(task: Mapping[str, Any]) -> str:
    return _dns(task["taskInfo"]["name"])


def _dns(name: str) -> str:
    return name.replace("_", "-").lower()
