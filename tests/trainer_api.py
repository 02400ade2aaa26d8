"""The part of a cluster that a waiting step sees: Kubernetes' API with TrainJobs, and what becomes of them.

Behaves as Kubeflow Trainer 2.3 with JobSet 0.12 did: admission errors are answers with status 403; pods that fail are
deleted where the runtime does not say `restartPolicy: Never`, which JobSet's webhook then makes `OnFailure`; a deletion
takes its time; one in the foreground makes Trainer start the job again; where old pods are still there, new ones of the
same name hang. Bodies are checked against the fields of the published type (trainjob_types.go).

A job with `execute` runs its container command once a node, in real processes with the variables that Kubeflow
Trainer's torch runtime sets; otherwise the test says what becomes of it.
"""

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kubernetes_schema import differences

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "stages" / "train_jobs"
"""Answers of a real cluster, trimmed."""
NAMESPACE = "team-a"
_JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_SPEC = {"runtimeRef", "trainer", "activeDeadlineSeconds", "suspend", "managedBy", "initializer", "runtimePatches"}
_TRAINER = {
    "image": "str",
    "command": "list[str]",
    "args": "list[str]",
    "env": "list[V1EnvVar]",
    "numNodes": "int",
    "numProcPerNode": "int",
    "resourcesPerNode": "V1ResourceRequirements",
}
_POD_PATCH = {
    "serviceAccountName",
    "volumes",
    "initContainers",
    "containers",
    "imagePullSecrets",
    "securityContext",
    "nodeSelector",
    "affinity",
    "tolerations",
    "schedulingGates",
}
_RESERVED = re.compile(r"PET_\w+")
_BOX = "jobset.sigs.k8s.io/jobset-name"


class TrainerApi:
    """The cluster's state.

    Attributes:
        jobs: TrainJobs, by name.
        pods: by name.
        logs: what pods have printed, by pod.
        runtime: the TrainingRuntime that is installed; None for none.
        unknown: fields of a TrainJob's spec that the cluster's version does not know, and drops without a word.
        created: bodies that were posted, in order.
        deleted: names and propagation policies, in order.
        restarted: names of jobs that Trainer started again while they were being deleted.
        hung: names of jobs whose pods never began, as older ones of the same name were still there.
        fault: status and message that every request gets, or, of a mapping, requests by that method.
        grace: seconds that pods take to end once they are deleted.
        slow: seconds that answers to GET take.
        on_create: called with each new job.
    """

    def __init__(self, folder: Path) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.runtime: dict[str, Any] | None = yaml.safe_load((ROOT / "deploy" / "trainer" / "runtime.yaml").read_text())
        self.unknown: set[str] = set()
        self.created: list[dict[str, Any]] = []
        self.deleted: list[tuple[str, str]] = []
        self.restarted: list[str] = []
        self.hung: list[str] = []
        self.fault: tuple[int, str] | Mapping[str, tuple[int, str]] | None = None
        self.grace, self.slow = 0.1, 0.0
        self.on_create: Callable[[dict[str, Any]], None] = lambda job: None
        self.folder = folder
        self.lock = threading.RLock()
        self._nodes: dict[str, list[subprocess.Popen[str]]] = {}
        handler = type("Handler", (TrainerHandler,), {"api": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        context = {"cluster": "test", "user": "test", "namespace": NAMESPACE}
        server = {"server": f"http://127.0.0.1:{self.http.server_address[1]}"}
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": context}],
                    "clusters": [{"name": "test", "cluster": server}],
                    "users": [{"name": "test", "user": {"token": "token"}}],
                }
            )
        )

    # -- what becomes of jobs ----------------------------------------------------------------------------------------

    def pods_of(self, name: str) -> list[str]:
        """Names of a job's pods, in the order of the nodes."""
        return [pod for pod, body in self.pods.items() if body["metadata"]["labels"][_BOX] == name]

    def settle(self, name: str, state: str, reason: str = "Test", message: str = "") -> None:
        """Give a job a condition that holds."""
        with self.lock:
            conditions = self.jobs[name].setdefault("status", {}).setdefault("conditions", [])
            conditions.append({"type": state, "status": "True", "reason": reason, "message": message})

    def complete(self, name: str) -> None:
        """All pods have ended well."""
        with self.lock:
            for pod in self.pods_of(name):
                self.pods[pod]["status"] = {"phase": "Succeeded"}
            self.settle(name, "Complete", "AllJobsCompleted", "jobset completed successfully")

    def fail(self, name: str, *logs: str, status: Mapping[str, Any] | None = None) -> None:
        """All pods have failed.

        Args:
            name: the job.
            logs: what each pod has printed; the kubelet hands its end on as the container's message.
            status: of the pods; by default that the container ended with exit code 1.
        """
        with self.lock:
            for pod, log in zip(self.pods_of(name), [*logs, *[""] * 64], strict=False):
                message = {"message": log[-2048:]} if log and self._falls_back_to_logs() else {}
                ended = container_status(terminated={"exitCode": 1, "reason": "Error", **message})
                self.pods[pod]["status"] = dict(status or {"phase": "Failed", "containerStatuses": [ended]})
                self.logs[pod] = log
                if self._restart_policy() != "Never":  # the Job controller starts the container again, then gives up
                    del self.pods[pod], self.logs[pod]
            recorded = (RECORDED / "status.failed.json").read_text()
            self.jobs[name]["status"] = json.loads(recorded.replace("simipu-pretrain-6be6a09c21b23136", name))

    def hold(self, name: str, status: Mapping[str, Any]) -> None:
        """Pods cannot start."""
        with self.lock:
            for pod in self.pods_of(name):
                self.pods[pod]["status"] = dict(status)

    def execute(self, job: dict[str, Any]) -> None:
        """Run the job's nodes here, in a thread; their output becomes the logs."""
        threading.Thread(target=self._execute, args=(job,), daemon=True).start()

    def kill(self, name: str, rank: int) -> None:
        """Kill one of the job's running nodes, with all its processes."""
        with self.lock:
            node = self._nodes[name][rank]
        for process in reversed(_tree(node.pid)):
            os.kill(process, signal.SIGKILL)

    def _execute(self, job: dict[str, Any]) -> None:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        plain = {variable["name"]: variable["value"] for variable in trainer["env"] if "value" in variable}
        nodes = []
        for rank in range(trainer["numNodes"]):
            home = self.folder / f"{name}-{rank}-{len(self.created)}"
            home.mkdir()
            environment = os.environ | plain | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
            environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            environment["PET_NNODES"] = str(trainer["numNodes"])
            environment |= {"PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]), "PET_NODE_RANK": str(rank)}
            environment |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port), "PET_RDZV_BACKEND": "static"}
            command = [*trainer["command"], *trainer.get("args", [])]
            pipe = subprocess.PIPE
            nodes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    cwd=home,
                    stdout=pipe,
                    stderr=subprocess.STDOUT,
                    text=True,
                    bufsize=1,
                )
            )
        with self.lock:
            self._nodes[name] = nodes
        outputs = [node.communicate()[0] for node in nodes]
        with self.lock:
            if name not in self.jobs:
                return
            if all(node.returncode == 0 for node in nodes):
                self.logs.update(zip(self.pods_of(name), outputs, strict=True))
                self.complete(name)
            else:
                self.fail(name, *outputs)

    # -- what the controllers do -------------------------------------------------------------------------------------

    def start(self, job: dict[str, Any]) -> None:
        """Make the job's pods, as JobSet and the Job controller do."""
        name = job["metadata"]["name"]
        patch = _pod_patch(job["spec"])
        for rank in range(job["spec"]["trainer"]["numNodes"]):
            pod = f"{name}-node-0-{rank}-{uuid.uuid4().hex[:5]}"
            labels = {**patch.get("metadata", {}).get("labels", {}), _BOX: name}
            account = self._pod_spec().get("serviceAccountName", "default")
            spec = {"restartPolicy": self._restart_policy(), "serviceAccountName": account, **patch.get("spec", {})}
            self.pods[pod] = {
                "metadata": {"name": pod, "labels": labels},
                "spec": {"containers": [{"name": "node"}], **spec},
                "status": {"phase": "Running"},
            }

    def delete(self, name: str, policy: str) -> None:
        """Delete a job; its pods go when they have ended."""
        job = self.jobs[name]
        if "deletionTimestamp" in job["metadata"]:
            return
        self.deleted.append((name, policy))
        pods = self.pods_of(name)
        for pod in pods:
            self.pods[pod]["metadata"]["deletionTimestamp"] = "2026-11-26T22:47:09Z"
        for node in self._nodes.pop(name, []):
            if node.poll() is None:
                node.terminate()
        if policy == "Foreground":  # Trainer takes no notice, and makes a new JobSet, whose pods hang
            job["metadata"]["deletionTimestamp"] = "2026-11-26T22:47:09Z"
            self.restarted.append(name)
            threading.Timer(20 * self.grace, self._forget, (job, pods)).start()
            return
        del self.jobs[name]
        threading.Timer(self.grace, self._forget, (job, pods)).start()

    def _forget(self, job: dict[str, Any], pods: Sequence[str]) -> None:
        with self.lock:
            for pod in pods:
                self.pods.pop(pod, None)
                self.logs.pop(pod, None)
            if self.jobs.get(job["metadata"]["name"]) is job:
                del self.jobs[job["metadata"]["name"]]

    def _pod_spec(self) -> dict[str, Any]:
        assert self.runtime is not None
        (job,) = self.runtime["spec"]["template"]["spec"]["replicatedJobs"]
        spec: dict[str, Any] = job["template"]["spec"]["template"]["spec"]
        return spec

    def _restart_policy(self) -> str:
        return str(self._pod_spec().get("restartPolicy", "OnFailure"))

    def _falls_back_to_logs(self) -> bool:
        (container,) = self._pod_spec()["containers"]
        return bool(container.get("terminationMessagePolicy") == "FallbackToLogsOnError")


@contextmanager
def trainer_api(folder: Path) -> Iterator[TrainerApi]:
    """Serve; the kubeconfig for it is an attribute."""
    api = TrainerApi(folder)
    try:
        yield api
    finally:
        api.http.shutdown()
        api.http.server_close()


def _tree(process: int) -> list[int]:
    """A process and all below it; torchrun's are in sessions of their own."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(below for child in children for below in _tree(int(child)))]


def container_status(**state: Mapping[str, Any]) -> dict[str, Any]:
    """Status of a pod's container: `running`, `waiting` or `terminated`."""
    image = {"image": "registry.example/simipu", "imageID": ""}
    return {"name": "node", "ready": False, "restartCount": 0, "started": False, "state": state, **image}


def problems(job: dict[str, Any]) -> list[str]:
    """What is wrong with a TrainJob."""
    found = [f"{key}: unknown" for key in job.keys() - {"apiVersion", "kind", "metadata", "spec"}]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job["metadata"]["name"]):
        found.append("metadata.name: no DNS label")
    found += differences(job["metadata"], "V1ObjectMeta", "metadata")
    found += [f"spec.{key}: unknown" for key in job["spec"].keys() - _SPEC]
    found += [
        f"spec.runtimeRef.{key}: unknown" for key in job["spec"]["runtimeRef"].keys() - {"name", "apiGroup", "kind"}
    ]
    for key, value in job["spec"]["trainer"].items():
        found += differences(value, _TRAINER[key], f"trainer.{key}") if key in _TRAINER else [f"trainer.{key}: unknown"]
    patch = _pod_patch(job["spec"])
    found += differences(patch.get("metadata", {}), "V1ObjectMeta", "runtimePatches.metadata")
    found += [f"runtimePatches.spec.{key}: unknown" for key in patch.get("spec", {}).keys() - _POD_PATCH]
    found += differences({"containers": [], **patch.get("spec", {})}, "V1PodSpec", "runtimePatches.spec")
    return found


def _pod_patch(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's patches change in its pods."""
    pods: dict[str, Any] = {}
    for patch in spec.get("runtimePatches", []):
        assert patch.keys() == {"manager", "trainingRuntimeSpec"}
        (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        assert job["name"] == "node"
        pods |= job["template"]["spec"]["template"]
    return pods


class TrainerHandler(BaseHTTPRequestHandler):
    """Kubernetes' API over HTTP."""

    api: TrainerApi

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        time.sleep(self.api.slow)
        with self.api.lock:
            if url.path == _PODS:
                label, _, value = query["labelSelector"][0].partition("=")
                items = [pod for pod in self.api.pods.values() if pod["metadata"]["labels"].get(label) == value]
                self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": items})
            else:
                name = url.path.removeprefix(f"{_JOBS}/")
                if name in self.api.jobs:
                    self._answer(200, self.api.jobs[name])
                else:
                    self._refuse(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert urlsplit(self.path).path == _JOBS
        name = job["metadata"]["name"]
        with self.api.lock:
            if self._fault():
                self._answer(503, None)
            elif wrong := problems(job):
                self._refuse(422, "; ".join(wrong))
            elif denial := self._denial(job):
                self._refuse(403, denial)
            elif name in self.api.jobs:
                self._refuse(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
            else:
                self._make(job)

    def do_DELETE(self) -> None:
        url = urlsplit(self.path)
        name = url.path.removeprefix(f"{_JOBS}/")
        with self.api.lock:
            if self._fault():
                self._answer(503, None)
            elif name not in self.api.jobs:
                self._refuse(404, "not found")
            else:
                self.api.delete(name, parse_qs(url.query).get("propagationPolicy", ["Background"])[0])
                self._answer(200, {"kind": "Status", "status": "Success"})

    def _make(self, job: dict[str, Any]) -> None:
        api, name = self.api, job["metadata"]["name"]
        api.created.append(copy.deepcopy(job))
        for field in api.unknown:
            job["spec"].pop(field, None)
        job["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": NAMESPACE}
        api.jobs[name] = job
        if api.pods_of(name):
            api.hung.append(name)
        else:
            api.start(job)
            api.on_create(job)
        self._answer(201, job)

    def _denial(self, job: dict[str, Any]) -> str:
        """What an admission webhook says against a job."""
        recorded = json.loads((RECORDED / "refusals.json").read_text())
        name = job["spec"]["runtimeRef"]["name"]
        if self.api.runtime is None or self.api.runtime["metadata"]["name"] != name:
            return str(recorded["no-runtime"].replace('"nope"', f'"{name}"'))
        if taken := [v["name"] for v in job["spec"]["trainer"]["env"] if _RESERVED.fullmatch(v["name"])]:
            start = recorded["no-runtime"].partition("spec.runtimeRef")[0]
            quoted = json.dumps(job["spec"]["trainer"]["env"])
            return f"{start}spec.trainer.env: Invalid value: {quoted}: must not have envs that are reserved: {taken}"
        return ""

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"kind": "Status", "status": "Failure", "message": message, "code": status})

    def _fault(self) -> tuple[int, str] | None:
        fault = self.api.fault
        return fault.get(self.command) if isinstance(fault, Mapping) else fault

    def _answer(self, status: int, body: Any) -> None:
        if fault := self._fault():
            status, message = fault
            body = (
                {"kind": "Status", "status": "Failure", "message": message, "code": status} if message else b"404 page"
            )
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
