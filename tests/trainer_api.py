"""The part of Kubernetes' API that a waiting step sees: TrainJobs, and the pods that they make.

Bodies are checked against the fields of the published type (trainjob_types.go). A job with `execute` runs its container
command once a node, in real processes with the variables that Kubeflow Trainer's torch runtime sets; otherwise the test
says what becomes of it.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes_schema import differences

ROOT = Path(__file__).parents[1]
_JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team-a/trainjobs"
_PODS = "/api/v1/namespaces/team-a/pods"
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


class TrainerApi:
    """The server's state.

    Attributes:
        jobs: by name.
        logs: what the pods of a job have printed, by pod; all are shown as failed.
        created: bodies that were posted, in order.
        deleted: names, in order.
        fault: status and message that every request gets.
        on_create: called with each new job.
    """

    def __init__(self, folder: Path) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.fault: tuple[int, str] | None = None
        self.on_create: Callable[[dict[str, Any]], None] = lambda job: None
        self.folder = folder
        handler = type("Handler", (_Handler,), {"api": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        context = {"cluster": "test", "user": "test", "namespace": "team-a"}
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

    def settle(self, name: str, state: str, message: str = "") -> None:
        """Give a job a condition that holds."""
        conditions = self.jobs[name].setdefault("status", {}).setdefault("conditions", [])
        conditions.append({"type": state, "status": "True", "reason": "Test", "message": message})

    def execute(self, job: dict[str, Any]) -> None:
        """Run the job's nodes here, in a thread; their output becomes the logs."""
        threading.Thread(target=self._execute, args=(job,), daemon=True).start()

    def _execute(self, job: dict[str, Any]) -> None:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        plain = {variable["name"]: variable["value"] for variable in trainer["env"] if "value" in variable}
        nodes = []
        for rank in range(trainer["numNodes"]):
            home = self.folder / f"{name}-{rank}"
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
                    command, env=environment, cwd=home, stdout=pipe, stderr=subprocess.STDOUT, text=True, bufsize=1
                )
            )
        outputs = [node.communicate()[0] for node in nodes]
        for rank, output in enumerate(outputs):
            self.logs[f"{name}-node-0-{rank}"] = output
        self.settle(name, "Complete" if all(node.returncode == 0 for node in nodes) else "Failed")


@contextmanager
def trainer_api(folder: Path) -> Iterator[TrainerApi]:
    """Serve; the kubeconfig for it is an attribute."""
    api = TrainerApi(folder)
    try:
        yield api
    finally:
        api.http.shutdown()
        api.http.server_close()


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
    return found


class _Handler(BaseHTTPRequestHandler):
    api: TrainerApi

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if log := re.fullmatch(rf"{_PODS}/([^/]+)/log", path):
            self._answer(200, self.api.logs[log[1]].encode())
        elif path == _PODS:
            owner = re.search(r"jobset-name%3D([-a-z0-9]+)", query)
            assert owner
            items = [
                {"metadata": {"name": pod}, "status": {"phase": "Failed"}}
                for pod in self.api.logs
                if pod.startswith(owner[1])
            ]
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": items})
        else:
            name = path.removeprefix(f"{_JOBS}/")
            if name in self.api.jobs:
                self._answer(200, self.api.jobs[name])
            else:
                self._refuse(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path.partition("?")[0] == _JOBS
        if wrong := problems(job):
            self._refuse(422, "; ".join(wrong))
        elif job["metadata"]["name"] in self.api.jobs:
            self._refuse(409, "already exists")
        else:
            self.api.created.append(job)
            self.api.jobs[job["metadata"]["name"]] = job
            self.api.on_create(job)
            self._answer(201, job)

    def do_DELETE(self) -> None:
        name = self.path.partition("?")[0].removeprefix(f"{_JOBS}/")
        if self.api.jobs.pop(name, None) is None:
            self._refuse(404, "not found")
        else:
            self.api.deleted.append(name)
            self._answer(200, {"kind": "Status", "status": "Success"})

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"kind": "Status", "status": "Failure", "message": message, "code": status})

    def _answer(self, status: int, body: Any) -> None:
        if self.api.fault is not None:
            status, message = self.api.fault
            body = (
                {"kind": "Status", "status": "Failure", "message": message, "code": status} if message else b"404 page"
            )
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
