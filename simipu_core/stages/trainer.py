"""A TrainJob of Kubeflow Trainer on the cluster: started, watched, and ended with the step that waits for it."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from simipu_core.errors import InterruptionError, SimipuError, StoppedError
from simipu_core.stages import attempts
from simipu_core.termination import Termination, termination

_GROUP = {"group": "trainer.kubeflow.org", "version": "v1alpha1", "plural": "trainjobs"}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_MAKE_RUNTIME = "kubectl apply -k deploy/standalone/trainer, or deploy/multi-user/trainer (docs/kubeflow.md)"
_POLL_S = 5.0
_PATIENCE_S = 900.0  # for an API server or webhook that does not answer, and for pods to end
_RENEWAL_S = 120.0  # for an API server that does not know the token, which may just be renewed
_AT_ONCE_S = (1.0, 2.0)  # to connect and to be answered, while SIGTERM is handled
_MOST_SHOWN = 2  # failed pods
_FINAL = {"DeadlineExceeded", "TrainingRuntimeNotSupported"}
"""Reasons of a job's failure that no further attempt mends."""
_BEGINNING = {"ContainerCreating", "PodInitializing"}


class TrainJob:
    """One TrainJob, by name."""

    def __init__(self, name: str, spec: dict[str, Any], is_done: Callable[[], bool]) -> None:
        """Connect to the cluster, the step's own or that of the kubeconfig.

        Args:
            name: of the job.
            spec: of the job, whole.
            is_done: whether its result is there.
        """
        from kubernetes import client, config

        self.name, self.spec, self._is_done = name, spec, is_done
        try:
            config.load_incluster_config() if _NAMESPACE.is_file() else config.load_kube_config()
        except config.ConfigException:
            raise SimipuError("there is no Kubernetes cluster here to train on; set nodes to 1.") from None
        self.namespace = _namespace()
        settings = client.Configuration.get_default_copy()
        settings.client_side_validation = False  # what newer servers say must not be an error here
        api = client.ApiClient(settings)
        self._jobs, self._pods = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._at_once = client.CustomObjectsApi(client.ApiClient(settings))  # the other may have a request under way
        self._ending = Termination()
        self._may_run = False
        self._shown: set[str] = set()

    def finish(self) -> None:
        """Start the job if it is not there, and wait until its result is, in as many attempts as `SIMIPU_RETRY` says.

        A job that is under way does not outlive the step: where this raises, it is deleted, or the error says that it
        may still run.

        Raises:
            SimipuError: it cannot be started, a pod refused what it is to train, or it was asked to end.
            InterruptionError: it failed for another reason, and no attempt is left.
        """
        with termination(self._delete_at_once) as self._ending:
            try:
                attempts.repeat(self._attempt, f"TrainJob {self.name}", self._pause)
            except SimipuError as error:
                raise self._abandoned(error) from None

    def _attempt(self) -> None:
        """One job, from its begin to its end; however that came, a result that is there is taken."""
        self._begin()
        while (job := self._read()) is not None and not _is_being_deleted(job):
            self._check_ending()
            if _state(job) in ("Complete", "Failed"):
                break
            if _state(job) == "Suspended":
                self._show(f"TrainJob {self.name}: suspended")
            else:
                self._show_pods()
            self._pause(_POLL_S)
        self._check_ending()
        self._may_run = False
        if self._is_done():
            return
        if job is None or _is_being_deleted(job):
            raise InterruptionError(f"TrainJob {self.name}: was deleted; run the step again.")
        if _state(job) == "Complete":
            raise InterruptionError(f"TrainJob {self.name}: is complete, but its result is not there.")
        raise self._failure(_condition(job, "Failed"))

    def remove_ended(self) -> None:
        """Delete the job if it has ended; where the API server refuses, it stays."""
        with suppress(SimipuError):
            job = self._ask(self._jobs.get_namespaced_custom_object, **self._named(), allowed=404)
            if job and _state(job) in ("Complete", "Failed"):
                self._ask(self._jobs.delete_namespaced_custom_object, **self._deletion(), allowed=404)

    def _begin(self) -> None:
        """Make the job, unless it is under way or its result is there; one that has ended without makes room."""
        self._shown.clear()
        job = self._read()
        if job is not None and _is_under_way(job):
            print(f"TrainJob {self.name}: is there already", flush=True)
            self._may_run = True
        elif not self._is_done():
            if job is not None:
                self._delete()
            self._wait_until_gone()
            if not self._is_done():  # another step's job may have written it meanwhile
                self._create()

    def _create(self) -> None:
        labels = {"app.kubernetes.io/part-of": "simipu"}
        if run := os.environ.get("SIMIPU_PIPELINE_RUN"):
            labels["pipeline/runid"] = run
        body = {
            "apiVersion": f"{_GROUP['group']}/{_GROUP['version']}",
            "kind": "TrainJob",
            "metadata": {"name": self.name, "labels": labels},
            "spec": self.spec,
        }
        self._may_run = True
        made = self._call(
            self._jobs.create_namespaced_custom_object, **_GROUP, namespace=self.namespace, body=body, allowed=409
        )
        if made and (dropped := sorted(self.spec.keys() - made["spec"].keys())):
            self._delete()
            raise SimipuError(
                f"this cluster's Kubeflow Trainer does not know {', '.join(dropped)} of a TrainJob; bring it to 2.2 or "
                "newer, or set nodes to 1."
            )
        print(f"TrainJob {self.name}: {'started' if made else 'is there already'}", flush=True)

    def _read(self) -> dict[str, Any] | None:
        job: dict[str, Any] | None = self._call(self._jobs.get_namespaced_custom_object, **self._named(), allowed=404)
        return job

    # -- the end of a job --------------------------------------------------------------------------------------------

    def _named(self) -> dict[str, Any]:
        return {**_GROUP, "namespace": self.namespace, "name": self.name}

    def _deletion(self) -> dict[str, Any]:
        """Arguments of the request; in the foreground the job would stay, and Trainer would start it again."""
        return {**self._named(), "propagation_policy": "Background"}

    def _delete_at_once(self) -> None:
        """Ask for the deletion while SIGTERM is handled: the process may have but tenths of a second."""
        with suppress(Exception):  # it is asked for again, if there is the time
            self._at_once.delete_namespaced_custom_object(**self._deletion(), _request_timeout=_AT_ONCE_S)
            self._may_run = False

    def _delete(self) -> None:
        self._call(self._jobs.delete_namespaced_custom_object, **self._deletion(), allowed=404)

    def _wait_until_gone(self) -> None:
        """Return when neither the job nor a pod of it is there: new pods would hang beside old ones."""
        until = time.monotonic() + _PATIENCE_S
        while self._read() is not None or self._list_pods():
            if time.monotonic() > until:
                raise InterruptionError(
                    f"TrainJob {self.name}: pods of an earlier one do not end; delete them (kubectl --namespace "
                    f"{self.namespace} delete pods --selector {self._selector}) and run the step again."
                )
            self._show(f"TrainJob {self.name}: waits for an earlier one to end")
            self._pause(min(1.0, _POLL_S))

    def _abandoned(self, error: SimipuError) -> SimipuError:
        """Delete the job if it is under way, as nobody waits for it any more.

        Returns:
            the error with which the step ends, which tells where that failed.
        """
        if not self._may_run:
            return error
        try:
            job = self._ask(self._jobs.get_namespaced_custom_object, **self._named(), allowed=404)
            if job is not None and _is_under_way(job):
                self._ask(self._jobs.delete_namespaced_custom_object, **self._deletion(), allowed=404)
        except SimipuError:
            return type(error)(
                f"{error} TrainJob {self.name} may still run; kubectl --namespace {self.namespace} delete trainjob "
                f"{self.name} --cascade=background ends it."
            )
        return error

    def _check_ending(self) -> None:
        if self._ending.is_asked:
            sentence = f"TrainJob {self.name}: stopped by {self._ending.name}; run the step again to go on."
            raise StoppedError(sentence, self._ending.signal)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._check_ending()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(0.2, left))
            self._check_ending()

    # -- what its pods say -------------------------------------------------------------------------------------------

    @property
    def _selector(self) -> str:
        return f"jobset.sigs.k8s.io/jobset-name={self.name}"

    def _list_pods(self) -> list[Any]:
        found = self._call(self._pods.list_namespaced_pod, self.namespace, label_selector=self._selector, allowed=404)
        return list(found.items) if found else []

    def _show(self, line: str) -> None:
        """Print a line, once."""
        if line not in self._shown:
            self._shown.add(line)
            print(line, flush=True)

    def _show_pods(self) -> None:
        """Tell how many pods run, and why others cannot start."""
        pods = self._list_pods()
        running = sum(pod.status.phase == "Running" for pod in pods)
        self._show(f"TrainJob {self.name}: {running} of {self.spec['trainer']['numNodes']} pods running")
        for pod in pods:
            for obstacle in _obstacles(pod):
                self._show(f"{pod.metadata.name}: {obstacle}")

    def _failure(self, condition: Mapping[str, Any]) -> SimipuError:
        """What a pod refused, or else how one died, or else the job's own message."""
        reason, message = condition.get("reason", ""), condition.get("message", "")
        if reason in _FINAL:
            return SimipuError(f"TrainJob {self.name}: {message} ({reason}); mend steps of cluster.yaml.")
        failed = [pod for pod in self._list_pods() if pod.status.phase == "Failed"]
        said = {pod.metadata.name: _last_words(pod) for pod in failed}
        for words in said.values():
            if errors := [line for line in words.splitlines() if line.startswith("error: ")]:
                return SimipuError(f"TrainJob {self.name}: {errors[0].removeprefix('error: ')}")
        for pod, words in [item for item in said.items() if item[1].strip()][:_MOST_SHOWN]:
            print(f"--- {pod}\n{words}", flush=True)
        if deaths := [f"{pod.metadata.name}: {death}" for pod in failed for death in _deaths(pod)]:
            return InterruptionError(f"TrainJob {self.name}: {deaths[0]}")
        if not failed:
            return InterruptionError(
                f"TrainJob {self.name}: failed ({reason}: {message}), and its pods are gone with what they printed: "
                "their nodes were lost, or the runtime lacks restartPolicy: Never (see deploy/trainer/runtime.yaml)."
            )
        see = "; see the lines above" if any(said.values()) else ""
        return InterruptionError(f"TrainJob {self.name}: failed ({reason}: {message}){see}.")

    # -- requests ----------------------------------------------------------------------------------------------------

    def _call(self, method: Any, *arguments: Any, allowed: int, **named: Any) -> Any:
        """Answer of the API server, which is asked again while it is away; None for the status `allowed`."""
        begun = time.monotonic()
        while True:
            try:
                return self._ask(method, *arguments, allowed=allowed, **named)
            except _AwayError as error:
                patience = _RENEWAL_S if isinstance(error, _UnknownError) else _PATIENCE_S
                if time.monotonic() - begun > patience:
                    raise InterruptionError(f"{error}; run the step again, which finds the job.") from None
                self._show(f"{error}; asked again for {patience:g} s")
            self._pause(_POLL_S)

    def _ask(self, method: Any, *arguments: Any, allowed: int, **named: Any) -> Any:
        """Answer of the API server; None where it answers with the status `allowed`."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = method(*arguments, **named, _request_timeout=30)
        except (HTTPError, UnicodeDecodeError) as error:
            raise _AwayError(f"the Kubernetes API server does not answer ({type(error).__name__})") from None
        except ApiException as error:
            if error.status == allowed:
                return None
            message = _message(error.body) or str(error.reason)
            if error.status == 401:
                raise _UnknownError(f"the Kubernetes API server does not know who asks (401 {message})") from None
            if error.status >= 500 or error.status == 429:
                raise _AwayError(f"the Kubernetes API server is failing ({error.status} {message})") from None
            raise SimipuError(self._refusal(error.status, message)) from None
        if isinstance(answer, str):  # what the client makes of an answer that is no JSON
            raise _AwayError("the Kubernetes API server does not answer (its answer is no JSON)")
        return answer

    def _refusal(self, status: int, message: str) -> str:
        if status == 404:
            return (
                "this cluster has no Kubeflow Trainer (no resource trainjobs.trainer.kubeflow.org); install it, or set "
                "nodes to 1."
            )
        if runtime := re.search(r'(\w*TrainingRuntime)\S* "([^"]+)" not found', message):
            return f"{runtime[1]} {runtime[2]} is not in namespace {self.namespace}; make it with {_MAKE_RUNTIME}."
        if status == 403 and "admission webhook" not in message:
            return f"TrainJob: {message}; give the step's service account deploy/trainer/role.yaml."
        return f"TrainJob: refused ({status}): {message}"


class _AwayError(SimipuError):
    """The API server could not be asked."""


class _UnknownError(_AwayError):
    """The API server does not know who asks."""


def _is_being_deleted(job: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in job.get("metadata", {})


def _is_under_way(job: Mapping[str, Any]) -> bool:
    return not _is_being_deleted(job) and _state(job) in ("Running", "Suspended")


def _state(job: Mapping[str, Any]) -> str:
    """`Complete`, `Failed`, `Suspended`, or `Running`."""
    return next((state for state in ("Complete", "Failed", "Suspended") if _condition(job, state)), "Running")


def _condition(job: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The condition, if it holds."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((dict(c) for c in conditions if (c["type"], c["status"]) == (kind, "True")), {})


def _obstacles(pod: Any) -> Iterator[str]:
    """Why a pod has not started."""
    for condition in pod.status.conditions or []:
        if (condition.type, condition.status) == ("PodScheduled", "False"):
            yield f"{condition.reason}: {condition.message}"
    for container in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
        waiting = container.state and container.state.waiting
        if waiting and waiting.reason not in _BEGINNING:
            yield f"{waiting.reason}: {waiting.message}" if waiting.message else str(waiting.reason)


def _deaths(pod: Any) -> Iterator[str]:
    """How a failed pod died, where that says more than its exit code."""
    if pod.status.reason:
        yield f"{pod.status.reason}: {pod.status.message}" if pod.status.message else str(pod.status.reason)
    for container in pod.status.container_statuses or []:
        ended = container.state and container.state.terminated
        if ended and ended.reason == "OOMKilled":
            yield (
                f"OOMKilled (exit code {ended.exit_code}): raise memory_limit, or lower workers, batch_size or shm; it "
                "goes on from its last checkpoint."
            )
        elif ended and (ended.reason not in (None, "Error", "Completed") or ended.exit_code not in (0, 1)):
            yield f"{ended.reason} (exit code {ended.exit_code})"


def _last_words(pod: Any) -> str:
    """What a failed pod's containers left as their message, or the end of their logs (deploy/trainer/runtime.yaml)."""
    ends = [status.state and status.state.terminated for status in pod.status.container_statuses or []]
    return "\n".join(end.message for end in ends if end and end.message)


def _namespace() -> str:
    from kubernetes import config

    if _NAMESPACE.is_file():
        return _NAMESPACE.read_text(encoding="ascii").strip()
    _, active = config.list_kube_config_contexts()
    return str(active["context"].get("namespace", "default"))


def _message(body: Any) -> str:
    """The server's message, without the whole values that webhooks quote."""
    try:
        message = " ".join(str(json.loads(body)["message"]).split())
    except (ValueError, TypeError, KeyError):
        return ""
    return re.sub(r"Invalid value: [\[{].*[\]}]: ", "", message)
