"""How large the workflow of a run becomes on a real Kubeflow Pipelines.

The server repeats a step's component, task and settings in the nodes of its driver, and the patch of its pod, which
holds them once more with all values, in six nodes. A recorded run of nine steps had 881,290 bytes, of which this finds
98 %. Beyond a megabyte Argo compresses the nodes, and if that is not enough the run breaks off.
"""

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.kfp_workflow import DRIVER, Task, Workflow

LARGEST = 2**20
"""Bytes of a workflow that Argo keeps."""
_ID = "c902ebeb-2ed9-4c26-b0fb-e108267fabcd"
_ROOT = f"s3://simipu/pipelines/simipu/{_ID}"
_SESSION = {
    "Provider": "s3",
    "Params": {
        "accessKeyKey": "access-key",
        "disableSSL": "true",
        "endpoint": "seaweedfs.kubeflow.svc.cluster.local:9000",
        "forcePathStyle": "true",
        "fromEnv": "false",
        "maxRetries": "5",
        "region": "us-east-1",
        "secretKeyKey": "secret-key",
        "secretName": "simipu-object-store",
    },
}
_LAUNCHER = (
    f"/kfp-launcher/launch --pipeline_name simipu --run_id {_ID} --execution_id 27 --pod_name $(KFP_POD_NAME) "
    "--pod_uid $(KFP_POD_UID) --ml_pipeline_server_address ml-pipeline.kubeflow.svc.cluster.local "
    "--ml_pipeline_server_port 8887 --mlmd_server_address metadata-grpc-service.kubeflow.svc.cluster.local "
    "--mlmd_server_port 8080 --publish_logs true --publish_logs true --executor_input --component_spec --"
)
_TEMPLATES = 9000  # of drivers and executors, the same for all pipelines
_METADATA = 1300
_OF_A_NODE = {
    "templateScope": "local/simipu-8r7zc",
    "progress": "1/1",
    "resourcesDuration": {"cpu": 0, "memory": 3},
    "nodeFlag": {"retried": True},
    "outboundNodes": ["simipu-8r7zc-4046665205"],
}
_OF_AN_EXECUTOR = {
    "cached-decision": "false",
    "pod-metadata-label-key": "app.kubernetes.io/part-of",
    "pod-metadata-label-val": "simipu",
    "retry-max-count": "3",
    "retry-backoff-duration": "60",
    "retry-backoff-factor": "2",
    "retry-backoff-max-duration": "1209600",
}

Values = Mapping[tuple[str, str], Any]
"""Output parameters of tasks, by task and output."""


class Size(NamedTuple):
    """Bytes of a workflow of which every step has run."""

    whole: int
    stored: int
    """With compressed nodes."""


def size(documents: Sequence[Mapping[str, Any]], values: Values) -> Size:
    """How large the workflow of a compiled pipeline becomes.

    Args:
        documents: the pipeline and the settings of its platform.
        values: what its tasks hand to others.
    """
    spec, platform = documents
    tasks = spec["root"]["dag"]["tasks"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    now = datetime.now(UTC)
    done = {key: Task("Succeeded", now, now) for key in tasks}
    nodes = Workflow("simipu-8r7zc", _ID, "kubeflow", "Succeeded", now, now, spec, platform, done).nodes()
    carried = {key: _carried(spec, settings, key, values) for key in tasks}
    root = _parameters({"component": _json(spec["root"]), "runtime-config": "{}", "driver-type": "ROOT_DAG"})
    for node in nodes.values():
        node.update(_OF_A_NODE)
        step = re.match(r"simipu-8r7zc\(0\)\.root\(0\)\.(.+?)(-driver)?(\(0\).*)?$", node["name"])
        if step and step[1] in carried:
            driver, patch = carried[step[1]]
            own = {"pod-spec-patch": patch, **_OF_AN_EXECUTOR}
            node["inputs"] = _parameters(driver if node["templateName"] == DRIVER else own)
            if node["templateName"] == DRIVER:
                node["outputs"] = _parameters({"pod-spec-patch": patch, "cached-decision": "false", "condition": ""})
        elif "root-driver" in node["name"]:
            node["inputs"] = root
    form = {"components-root": _json(spec["root"])}
    dag = []
    for key, (driver, _) in carried.items():
        shared = {name: f"{name}s-{key:64}" for name in ("component", "container", "kubernetes-config")}
        form |= {place: driver[name] for name, place in shared.items()}
        named = {name: f"{{{{workflow.parameters.{place}}}}}" for name, place in shared.items()}
        handed_on = {name: f"{{{{tasks.{key}-driver.outputs.parameters.{name}}}}}" for name in _OF_AN_EXECUTOR}
        dag += [{"arguments": _parameters(driver | named)}, {"arguments": _parameters(handed_on)}]
    plain = len(_json([dag, _parameters(form)])) + _TEMPLATES + _METADATA
    text = _json(dict(sorted(nodes.items())))
    return Size(plain + len(text), plain + len(base64.b64encode(gzip.compress(text.encode()))))


def _carried(
    spec: Mapping[str, Any], settings: Mapping[str, Any], key: str, values: Values
) -> tuple[dict[str, str], str]:
    """What the driver of a step is given, and the patch of the pod that it makes."""
    task = spec["root"]["dag"]["tasks"][key]
    component = spec["components"][task["componentRef"]["name"]]
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    own = settings.get(component["executorLabel"], {})
    driver = {
        "component": _json(component),
        "task": _json(task),
        "container": _json(container),
        "task-name": key,
        "parent-dag-id": "21",
        "iteration-index": "-1",
        "kubernetes-config": _json(own),
    }
    environment = [*container["env"]]
    for kind, reference, place, name in (
        ("secretAsEnv", "secretKeyRef", "secretKey", "secretName"),
        ("configMapAsEnv", "configMapKeyRef", "configMapKey", "configMapName"),
    ):
        for source in own.get(kind, []):
            environment += [
                {"name": one["envVar"], "valueFrom": {reference: {"name": source[name], "key": one[place]}}}
                for one in source["keyToEnv"]
            ]
    command = [*_LAUNCHER.split(), _json(_executor_input(task, component, key, values)), driver["component"]]
    main = {"image": container["image"], "command": command, "args": container["command"] + container["args"]}
    more = {"resources": container["resources"], "env": environment}
    return driver, _json({"volumes": own.get("emptyDirMounts", []), "containers": [{"name": "main", **main, **more}]})


def _executor_input(task: Mapping[str, Any], component: Mapping[str, Any], key: str, values: Values) -> dict[str, Any]:
    given = task.get("inputs", {})
    resolved = {}
    for name, source in given.get("parameters", {}).items():
        made = source.get("taskOutputParameter")
        constant = source.get("runtimeValue", {}).get("constant", f"{_ROOT}/raw")
        resolved[name] = values[made["producerTask"], made["outputParameterKey"]] if made else constant
    place = f"{_ROOT}/{key}/{_ID}"
    metadata = {"display_name": key, "store_session_info": _json(_SESSION)}
    read = {name: {"type": {"instanceSchema": ""}, "metadata": metadata} for name in given.get("artifacts", {})}
    kinds = component.get("outputDefinitions", {}).get("artifacts", {}) | {
        "executor-logs": {"artifactType": "system.Artifact"}
    }
    return {
        "inputs": {
            "parameterValues": resolved,
            "artifacts": {name: _artifact(name, place, read[name]) for name in read},
        },
        "outputs": {
            "artifacts": {name: _artifact(name, place, {"type": kind["artifactType"]}) for name, kind in kinds.items()},
            "outputFile": f"/{place}/output_metadata.json",
        },
    }


def _artifact(name: str, place: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"artifacts": [{"name": name, "uri": f"{place}/{name}", **more}]}


def _parameters(values: Mapping[str, str]) -> dict[str, Any]:
    return {"parameters": [{"name": name, "value": value} for name, value in values.items()]}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
