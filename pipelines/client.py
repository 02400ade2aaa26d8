"""Kubeflow Pipelines from outside: runs, versions of the pipeline, schedules."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import kfp_server_api as kfp
from urllib3.exceptions import HTTPError

from pipelines.api import Api, ApiError
from pipelines.connection import Connection
from pipelines.states import FINISHED
from pipelines.submission import Package

NAME = "simipu"
"""Name of the pipeline, and of the group that holds its runs."""
_DIGEST = "sha256:"
_PAGE = 100
_LOG_TAIL = 2**18
"""Bytes of a log that are kept."""


class Version(NamedTuple):
    """A version of the pipeline on the server."""

    pipeline_id: str
    version_id: str
    name: str
    is_new: bool


class Client:
    """A session with an API server.

    Args:
        connection: address, namespace, credential.

    Raises:
        ApiError: at once, where the server cannot be reached, refuses, or is none of Kubeflow Pipelines.
    """

    def __init__(self, connection: Connection) -> None:
        api = Api(connection)
        self._api = api
        self._connection = connection
        self._experiments = kfp.ExperimentServiceApi(api)
        self._pipelines = kfp.PipelineServiceApi(api)
        self._recurring = kfp.RecurringRunServiceApi(api)
        self._runs = kfp.RunServiceApi(api)
        self.namespace = self._namespace()

    def _namespace(self) -> str | None:
        """The namespace that requests name: only where several users share the server, which then asks for one."""
        asked = self._connection
        try:
            health = self._call(kfp.HealthzServiceApi(self._api).healthz_service_get_healthz)
        except ApiError as error:
            if error.status in (404, 405):
                raise ApiError(
                    f"{asked.host}: there is no Kubeflow Pipelines API below this address; it may lack its path, e.g. "
                    "https://kubeflow.example.com/pipeline.",
                    error.status,
                ) from None
            raise
        if health.multi_user is None:
            raise ApiError(f"{asked.host} is a server, but not of Kubeflow Pipelines; check --host or KFP_ENDPOINT.")
        if health.multi_user and not asked.namespace:
            raise ApiError(f"{asked.host} serves several users: give --namespace, the name of your Kubeflow profile.")
        return asked.namespace if health.multi_user else None

    def submit(self, package: Package, name: str, parameters: dict[str, str]) -> Any:
        """Start a run.

        Args:
            package: the pipeline.
            name: of the run.
            parameters: those without defaults.

        Returns:
            ``V2beta1Run``.

        Raises:
            ApiError: the server refused; or did not answer, and then says that the run may exist.
        """
        group = self._group(make=True)
        run = kfp.V2beta1Run(
            display_name=name,
            experiment_id=group,
            pipeline_spec=package.specification,
            runtime_config=kfp.V2beta1RuntimeConfig(parameters=parameters),
        )
        try:
            return self._call(self._runs.run_service_create_run, run)
        except ApiError as error:
            if not error.transient:
                raise
            raise ApiError(
                f"{error} It is not known whether the run was made: look for “{name}” with `status` before submitting "
                "again.",
                error.status,
            ) from None

    def run(self, run_id: str) -> Any:
        """The run as it is now, a ``V2beta1Run``.

        Raises:
            ApiError: there is none with this id, or the server could not be asked.
        """
        return self._call(self._runs.run_service_get_run, run_id)

    def runs(self, number: int) -> list[Any]:
        """The latest runs, the newest first."""
        group = self._group()
        if group is None:
            return []
        pages = self._pages(
            self._runs.run_service_list_runs,
            "runs",
            experiment_id=group,
            sort_by="created_at desc",
            page_size=min(number, _PAGE),
            **self._in_namespace(),
        )
        return list(islice(pages, number))

    def cancel(self, run_id: str) -> bool:
        """Stop a run.

        Returns:
            whether it was still running.

        Raises:
            ApiError: there is none with this id, or the server refused.
        """
        if self.run(run_id).state in FINISHED:
            return False
        self._call(self._runs.run_service_terminate_run, run_id)
        return True

    def log(self, run_id: str, pod: str) -> str | None:
        """Log of a pod, from the API server or else from the UI's server; None where neither has it."""
        queries = {"podname": pod, "runid": run_id} | ({"podnamespace": self.namespace} if self.namespace else {})
        for path, query in (
            (f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}),
            ("/k8s/pod/logs", queries),
        ):
            try:
                answer = self._api.request(
                    "GET", self._connection.host + path, query_params=list(query.items()), _preload_content=False
                )
            except ApiError:
                continue
            if "html" not in (answer.headers.get("content-type") or ""):
                return _tail(answer)
        return None

    def upload(self, package: Package, name: str) -> Version:
        """Make the package a version of the pipeline; the same content is a version only once.

        Args:
            package: the pipeline.
            name: of the version; the start of the content's digest is added where another content has it.

        Raises:
            ApiError: the server refused.
        """
        pipeline = self._pipeline()
        digest = _DIGEST + package.digest
        names = set()
        for version in self._pages(
            self._pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", pipeline, page_size=_PAGE
        ):
            if digest in (version.description or ""):
                return Version(pipeline, version.pipeline_version_id, _label(version), is_new=False)
            names.add(_label(version))
        if name in names:
            name = f"{name}-{package.digest[:8]}"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(package.text, encoding="utf-8")
            made = self._call(
                kfp.PipelineUploadServiceApi(self._api).upload_pipeline_version,
                str(file),
                name=name,
                pipelineid=pipeline,
                description=digest,
            )
        return Version(pipeline, made.pipeline_version_id, _label(made), is_new=True)

    def schedule(self, version: Version, name: str, parameters: dict[str, str], trigger: "Trigger") -> Any:
        """Start runs of a version again and again, one at a time, without making up for missed ones.

        Args:
            version: of the pipeline.
            name: of the schedule.
            parameters: those without defaults.
            trigger: when.

        Returns:
            ``V2beta1RecurringRun``.

        Raises:
            ApiError: there is a schedule of this name, or the server refused.
        """
        for known in self.schedules():
            if known.display_name == name:
                raise ApiError(
                    f"there is a schedule “{name}” already ({known.recurring_run_id}); remove it with `unschedule`, or "
                    "give --name."
                )
        if trigger.cron is not None:
            when = kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron=trigger.cron))
        else:
            period = kfp.V2beta1PeriodicSchedule(interval_second=str(trigger.every_s))
            when = kfp.V2beta1Trigger(periodic_schedule=period)
        job = kfp.V2beta1RecurringRun(
            display_name=name,
            experiment_id=self._group(make=True),
            pipeline_version_reference=kfp.V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
            ),
            runtime_config=kfp.V2beta1RuntimeConfig(parameters=parameters),
            trigger=when,
            mode=kfp.RecurringRunMode.ENABLE,
            max_concurrency="1",
            no_catchup=True,
            namespace=self.namespace,
        )
        return self._call(self._recurring.recurring_run_service_create_recurring_run, job)

    def schedules(self) -> list[Any]:
        """All schedules, as ``V2beta1RecurringRun``."""
        group = self._group()
        if group is None:
            return []
        listing = self._recurring.recurring_run_service_list_recurring_runs
        pages = self._pages(listing, "recurring_runs", experiment_id=group, page_size=_PAGE, **self._in_namespace())
        return list(pages)

    def unschedule(self, schedule_id: str) -> None:
        """Delete a schedule; runs that it has started go on.

        Raises:
            ApiError: there is none with this id, or the server refused.
        """
        self._call(self._recurring.recurring_run_service_delete_recurring_run, schedule_id)

    def url(self, kind: Literal["runs", "pipelines", "recurringrun"], identity: str) -> str:
        """Page of the UI; within Kubeflow's dashboard where the address is behind it."""
        page = f"#/{kind}/details/{identity}"
        ui = self._connection.ui
        if self.namespace and ui.endswith("/pipeline"):
            return f"{ui.removesuffix('/pipeline')}/_/pipeline/?ns={self.namespace}{page}"
        return f"{ui}/{page}"

    def _group(self, make: bool = False) -> str | None:
        """Id of the group that holds all runs, in Kubeflow's words an experiment."""

        def find() -> str | None:
            found = self._call(
                self._experiments.experiment_service_list_experiments,
                filter=_named(NAME),
                page_size=1,
                **self._in_namespace(),
            )
            return found.experiments[0].experiment_id if found.experiments else None

        if (known := find()) or not make:
            return known
        group = kfp.V2beta1Experiment(display_name=NAME, namespace=self.namespace)
        return self._made_once(self._experiments.experiment_service_create_experiment, group, "experiment_id", find)

    def _pipeline(self) -> str:
        def find() -> str | None:
            found = self._call(
                self._pipelines.pipeline_service_list_pipelines,
                filter=_named(NAME),
                page_size=1,
                **self._in_namespace(),
            )
            return found.pipelines[0].pipeline_id if found.pipelines else None

        if known := find():
            return known
        pipeline = kfp.V2beta1Pipeline(
            name=NAME,
            display_name=NAME,
            namespace=self.namespace,
            description="Label-free pre-training on image-scan pairs, then monocular depth.",
        )
        return self._made_once(self._pipelines.pipeline_service_create_pipeline, pipeline, "pipeline_id", find)

    def _made_once(self, create: Callable[..., Any], body: Any, identity: str, find: Callable[[], str | None]) -> str:
        """Make a thing that has its name for itself; where another client was quicker, take that one's."""
        try:
            return str(getattr(self._call(create, body), identity))
        except ApiError as error:
            if error.status == 409 and (known := find()):
                return known
            raise

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _pages(self, listing: Callable[..., Any], field: str, *given: Any, **query: Any) -> Iterator[Any]:
        token = ""
        while True:
            page = self._call(listing, *given, **query, **({"page_token": token} if token else {}))
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return

    def _call(self, method: Callable[..., Any], *given: Any, **query: Any) -> Any:
        try:
            return method(*given, **query)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ApiError(
                f"{self._connection.host} answers in a way this client does not know ({error}); is it a Kubeflow "
                "Pipelines server with the API v2beta1?"
            ) from error


class Trigger(NamedTuple):
    """When a schedule starts a run: one of both."""

    cron: str | None = None
    every_s: int | None = None


def _tail(answer: Any) -> str:
    """The end of a text, of whatever length it is, as far as it comes."""
    end = b""
    with suppress(HTTPError):
        for part in answer.stream(_LOG_TAIL):
            end = (end + part)[-_LOG_TAIL:]
    return end.decode("utf-8", "replace")


def _label(version: Any) -> str:
    return str(version.display_name or version.name)


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
