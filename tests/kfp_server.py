"""A server that speaks the REST protocol of Kubeflow Pipelines, API v2beta1, and runs what is submitted to it.

It is strict: a body must be a model of ``kfp_server_api`` to the letter, a specification must be valid IR, parameters
must be those of the pipeline. Task states, logs and outcomes are those of real processes.
"""

import email
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kfp_server_api as kfp

from tests.kfp_backend import Backend, Refusal, get, parse

LOGIN_PAGE = "<!DOCTYPE html><html><body>Log in to Your Account</body></html>"
_API = "/apis/v2beta1"
_ID = "([0-9a-f-]{36})"


class KfpServer:
    """The HTTP side of a `Backend`: who may ask, and what goes wrong on the way.

    Attributes:
        token: bearer token that every request must show; None for an open server.
        expired: tokens that were right once.
        cookie: session cookie, without which a request is sent to the login page.
        is_ui: it is the UI's server, which passes the API on but not its logs, and has ways of its own to these.
        fault: called with every request; true where it has dealt with it.
        requests: method and path of all requests so far.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.token: str | None = None
        self.expired: set[str] = set()
        self.cookie: str | None = None
        self.is_ui = False
        self.fault: Callable[[BaseHTTPRequestHandler], bool] | None = None
        self.requests: list[str] = []
        self.closing = threading.Event()
        self._http = self._listen(0)
        self.port: int = self._http.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _listen(self, port: int) -> "_Http":
        handler = type("Handler", (_Handler,), {"kfp": self})
        server = _Http(("127.0.0.1", port), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def stop(self) -> None:
        """Be gone: connections are cut and refused; runs go on."""
        self._http.shutdown()
        self._http.server_close()
        self._http.cut()

    def start(self) -> None:
        """Come back at the same address."""
        self._http = self._listen(self.port)

    def hang(self, _: BaseHTTPRequestHandler) -> bool:
        """A fault: no answer at all."""
        self.closing.wait()
        return True


@contextmanager
def kfp_server(
    folder: Path, namespaces: set[str] | None = None, environment: dict[str, str] | None = None
) -> Iterator[KfpServer]:
    """Serve from a folder; at the end all runs are killed."""
    server = KfpServer(Backend(folder, namespaces, environment))
    try:
        yield server
    finally:
        server.closing.set()
        server.stop()
        server.backend.close()


class Page(Exception):  # noqa: N818
    """An answer that is a web page."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *given: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    kfp: KfpServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server = self.kfp
        parts = urllib.parse.urlsplit(self.path)
        server.requests.append(f"{self.command} {parts.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if server.fault is not None and server.fault(self):
            return
        if server.cookie is not None and self.headers.get("Cookie") != server.cookie:
            self.send(302, b"", "text/html", Location=f"{server.url}/dex/auth?client_id=kubeflow")
            return
        try:
            self._authenticate()
            query = dict(urllib.parse.parse_qsl(parts.path and parts.query))
            made = self._route(self.command, parts.path, query, body)
        except Refusal as refusal:
            self.send_json(refusal.status, refusal.body)
            return
        except Page as page:
            self.send(page.status, str(page).encode(), "text/html; charset=utf-8")
            return
        if isinstance(made, bytes):
            self.send(200, made, "text/plain; charset=utf-8")
        else:
            self.send_json(200, kfp.ApiClient().sanitize_for_serialization(made))

    def _authenticate(self) -> None:
        shown = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.kfp.token is None or shown == self.kfp.token:
            return
        why = (
            "token has expired" if shown in self.kfp.expired else "invalid bearer token" if shown else "no credentials"
        )
        raise Refusal(401, f"Unauthenticated: Failed to authenticate token review: {why} {shown}")

    def _route(self, method: str, path: str, query: dict[str, str], body: bytes) -> Any:
        backend = self.kfp.backend
        log = re.fullmatch(rf"/apis/v1alpha1/runs/{_ID}/nodes/([^/]+)/log", path)
        if self.kfp.is_ui:
            if path == "/k8s/pod/logs":
                return self._pod_log(query)
            if path == "/artifacts/get":
                return self._artifact(query)
            if log:
                raise Page(404, f"<!DOCTYPE html><html><body><pre>Cannot GET {path}</pre></body></html>")
        elif log:
            return self._log(log[1], log[2])
        if method == "GET" and (older := re.fullmatch(rf"/apis/v1beta1/runs/{_ID}", path)):
            return backend.run_v1(older[1])
        call = f"{method} {path.removeprefix(_API)}" if path.startswith(_API + "/") else ""
        match re.sub(_ID, "*", call), re.findall(_ID, call):
            case "GET /healthz", []:
                return self._health()
            case "GET /experiments", []:
                backend.check_namespace(query.get("namespace"))
                return backend.listed(backend.experiments, "experiments", query)
            case "POST /experiments", []:
                return backend.create_experiment(parse(body, "V2beta1Experiment"))
            case "GET /pipelines", []:
                return backend.listed(backend.pipelines, "pipelines", query)
            case "POST /pipelines", []:
                return backend.create_pipeline(parse(body, "V2beta1Pipeline"))
            case "GET /pipelines/*/versions", [pipeline]:
                get(backend.pipelines, pipeline, "pipeline")
                return backend.listed(backend.versions, "pipeline_versions", query, pipeline_id=pipeline)
            case "GET /pipelines/*/versions/*", [pipeline, version]:
                return get(backend.versions, version, "PipelineVersion")
            case "POST /pipelines/upload", []:
                return backend.upload_pipeline(query, self._uploaded(body))
            case "POST /pipelines/upload_version", []:
                return backend.upload_version(query, self._uploaded(body))
            case "GET /runs", []:
                for run_id in backend.runs:
                    backend.run(run_id)
                return backend.listed(backend.runs, "runs", query, experiment_id=query["experiment_id"])
            case "POST /runs", []:
                return backend.create_run(parse(body, "V2beta1Run"))
            case "GET /runs/*", [run]:
                return backend.run(run)
            case "POST /runs/*:terminate", [run]:
                backend.terminate(run)
                return {}
            case "GET /recurringruns", []:
                return backend.listed(backend.recurring, "recurringRuns", query, experiment_id=query["experiment_id"])
            case "POST /recurringruns", []:
                return backend.create_recurring(parse(body, "V2beta1RecurringRun"))
            case "DELETE /recurringruns/*", [schedule]:
                backend.delete_recurring(schedule, query)
                return {}
            case "GET /recurringruns/*", [schedule]:
                return get(backend.recurring, schedule, "Job")
            case "POST /recurringruns/*:disable", [schedule]:
                get(backend.recurring, schedule, "Job").status = "DISABLED"
                return {}
        raise Refusal(404, "Not Found")

    def _health(self) -> dict[str, Any]:
        backend = self.kfp.backend
        version, many = "{}.{}.0".format(*backend.version), bool(backend.namespaces)
        if self.kfp.is_ui:
            known = {"apiServerReady": True, "apiServerTagName": version, "apiServerMultiUser": many}
            return {**known, "frontendTagName": version, "multi_user": many, "pipelineStore": "database"}
        return {"commit_sha": "0f00d", "tag_name": version, "multi_user": many, "pipeline_store": "database"}

    def _log(self, run_id: str, name: str) -> bytes:
        """From the pod or the archive; what it does not find it tells with status 200."""
        log = self.kfp.backend.log(run_id, name)
        if log is not None:
            return log
        said = (
            f"BadRequestError: Failed to read logs for run {run_id}: InternalServerError: Failed to read logs from "
            f"archive {name} due to error fetching the log file: NoSuchKey: The specified key does not exist."
        )
        return json.dumps({"error_message": said, "error_details": said}).encode()

    def _pod_log(self, query: dict[str, str]) -> bytes:
        """From the pod, while it is there, under its name."""
        run_id, name = query["runid"], query["podname"]
        execution = self.kfp.backend.executions.get(run_id)
        names = [pod for _, _, pod in execution.workflow(run_id).pods()] if execution else []
        log = execution.log(run_id, name) if execution and name in names and not execution.pods_gone else None
        if log is None:
            raise Page(500, "Could not get main container logs: S3Error: The specified key does not exist.")
        return log

    def _artifact(self, query: dict[str, str]) -> bytes:
        found = self.kfp.backend.object(query["key"]) if query["bucket"] == "mlpipeline" else None
        if found is None or query["source"] != "minio":
            raise Page(500, "Failed to get object in bucket: NoSuchKey: The specified key does not exist.")
        return found

    def _uploaded(self, body: bytes) -> bytes:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + body)
        if message.get_content_type() != "multipart/form-data":
            raise Refusal(400, "InvalidInputError: the upload is no multipart form")
        for part in message.walk():
            if part.get_param("name", header="content-disposition") == "uploadfile" and part.get_filename():
                return bytes(part.get_payload(decode=True))
        raise Refusal(400, "InvalidInputError: the form has no file uploadfile")

    def send_json(self, status: int, body: Any) -> None:
        self.send(status, json.dumps(body).encode(), "application/json")

    def send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
