"""Kubeflow Pipelines from outside: runs, versions of the pipeline, schedules."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import kfp_server_api as kfp

from pipelines import versions
from pipelines.answers import read_json
from pipelines.api import ApiError
from pipelines.connection import Connection
from pipelines.limits import within
from pipelines.logs import pod_log
from pipelines.session import Session
from pipelines.states import FINISHED, StepState, steps
from pipelines.submission import Package
from pipelines.workflow import Pod, Workflow
from simipu_core.termination import ended_by_signal

NAME = "simipu"
"""Name of the pipeline, and of the group that holds its runs."""
_DIGEST = "sha256:"
_SOON_S = 1.0
_PAGE = 10
"""Each run and each version holds its whole pipeline, a hundred kilobytes or more."""


class Version(NamedTuple):
    """A version of the pipeline on the server."""

    pipeline_id: str
    version_id: str
    name: str
    is_new: bool


class Cancelled(Enum):
    """What a request to stop a run has found."""

    NOW = "is being stopped"
    BEFORE = "is being stopped already"
    ENDED = "had ended already"


class Client(Session):
    """What is asked of an API server: runs, versions of the pipeline, schedules."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._experiments = kfp.ExperimentServiceApi(self._api)
        self._pipelines = kfp.PipelineServiceApi(self._api)
        self._recurring = kfp.RecurringRunServiceApi(self._api)
        self._runs = kfp.RunServiceApi(self._api)
        self._specifications: dict[str, Any] = {}

    def fitted(self, package: Package) -> tuple[Package, list[str]]:
        """The package as this server understands it, and sentences about what it lacks there."""
        return versions.fitted(package, self.version)

    def submit(
        self,
        package: Package,
        name: str,
        parameters: Mapping[str, Any],
        description: str = "",
        service_account: str | None = None,
    ) -> Any:
        """Start a run.

        Args:
            package: the pipeline.
            name: of the run.
            parameters: values; all of them, so that the run can be cloned and compared in the UI.
            description: that the UI shows with it.
            service_account: of the pods; None takes the server's own.

        Returns:
            ``V2beta1Run``.

        Raises:
            ApiError: the server refused; or did not answer, and then says that the run may exist.
        """
        group = self._group(make=True)
        run = kfp.V2beta1Run(
            display_name=name,
            description=description or None,
            experiment_id=group,
            pipeline_spec=package.specification,
            runtime_config=kfp.V2beta1RuntimeConfig(parameters=dict(parameters)),
            service_account=service_account,
        )
        with _making(f"the run was made: look for “{name}” with `status` before submitting again"):
            return self._call(self._runs.run_service_create_run, run)

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

    def steps(self, run: Any) -> list[StepState]:
        """The run's steps, from its workflow, or from the API's list of tasks where the server does not give that.

        Args:
            run: ``V2beta1Run``.
        """
        return steps(run, self._workflow(run.run_id), self._specification(run))

    def _workflow(self, run_id: str) -> Workflow | None:
        """Only the older API tells it; the newer has no field for it. One that is away is asked once more."""
        url = f"{self._connection.host}/apis/v1beta1/runs/{run_id}"
        for last in (False, True):
            try:
                answer = read_json(self._api.request("GET", url).data)
                return Workflow.read(answer["pipeline_runtime"]["workflow_manifest"])
            except ApiError as error:
                if last or not error.transient:
                    break
                time.sleep(_SOON_S)
            except (LookupError, TypeError):
                break
        return None

    def _specification(self, run: Any) -> Any:
        """Of the version that the run was started from; such a run does not hold it."""
        version = run.pipeline_version_reference
        if run.pipeline_spec or version is None or not version.pipeline_id:
            return None
        identity = version.pipeline_version_id
        if identity not in self._specifications:
            try:
                get = self._pipelines.pipeline_service_get_pipeline_version
                self._specifications[identity] = self._call(get, version.pipeline_id, identity).pipeline_spec
            except ApiError as error:
                if error.transient:
                    return None
                self._specifications[identity] = None  # it was deleted
        return self._specifications[identity]

    def cancel(self, run_id: str) -> Cancelled:
        """Stop a run.

        Raises:
            ApiError: there is none with this id, the server refused, or nothing is left that could be stopped.
        """
        if self.run(run_id).state in FINISHED:
            return Cancelled.ENDED
        try:
            self._call(self._runs.run_service_terminate_run, run_id)
        except ApiError as error:
            if error.status != 400:
                raise
            now = self.run(run_id).state
            if now in FINISHED:
                return Cancelled.ENDED
            if now == "CANCELING":
                return Cancelled.BEFORE
            raise ApiError(
                f"run {run_id} cannot be stopped: its workflow is gone, perhaps with a schedule that was deleted. "
                f"Nothing of it runs any more, though the server shows it as {str(now).lower()}.",
                error.status,
            ) from None
        return Cancelled.NOW

    def log(self, run_id: str, pod: Pod) -> str | None:
        """Log of a pod, also after it is gone; None where there is none, or it does not come in time."""
        namespace = pod.namespace or self.namespace or ""
        with suppress(TimeoutError):
            asked = self._connection
            return within(asked.longest_s, partial(pod_log, self._api, asked.host, run_id, pod, namespace))
        return None

    def upload(self, package: Package, name: str, description: str = "") -> Version:
        """Make the package a version of the pipeline; the same content is a version only once.

        Args:
            package: the pipeline.
            name: of the version; the start of the content's digest is added where another content has it.
            description: that the UI shows with it, before the digest.

        Raises:
            ApiError: the server refused.
        """
        pipeline = self._pipeline()
        digest = _DIGEST + package.digest
        names = set()
        for version in self._pages(
            self._pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline,
            page_size=_PAGE,
            sort_by="created_at desc",  # what is uploaded again is mostly the latest
        ):
            if digest in (version.description or ""):
                return Version(pipeline, version.pipeline_version_id, _label(version), is_new=False)
            names.add(_label(version))
        if name in names:
            name = f"{name}-{package.digest[:8]}"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(package.text, encoding="utf-8")
            with _making("the version was made: do it again, the same content is a version only once"):
                made = self._call(
                    kfp.PipelineUploadServiceApi(self._api).upload_pipeline_version,
                    str(file),
                    name=name,
                    pipelineid=pipeline,
                    description=f"{description} {digest}".strip(),
                )
        return Version(pipeline, made.pipeline_version_id, _label(made), is_new=True)

    def schedule(
        self,
        version: Version,
        name: str,
        parameters: Mapping[str, Any],
        trigger: "Trigger",
        description: str = "",
        service_account: str | None = None,
    ) -> Any:
        """Start runs of a version again and again, one at a time, without making up for missed ones.

        Args:
            version: of the pipeline.
            name: of the schedule.
            parameters: values; all of them, so that runs can be cloned and compared in the UI.
            trigger: when.
            description: that the UI shows with it.
            service_account: of the pods; None takes the server's own.

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
            description=description or None,
            experiment_id=self._group(make=True),
            pipeline_version_reference=kfp.V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
            ),
            runtime_config=kfp.V2beta1RuntimeConfig(parameters=dict(parameters)),
            trigger=when,
            mode=kfp.RecurringRunMode.ENABLE,
            max_concurrency="1",
            no_catchup=True,
            namespace=self.namespace,
            service_account=service_account,
        )
        with _making(f"the schedule was made: look for “{name}” with `schedules`"):
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
            ApiError: there is none with this id, or the server refused; or it would kill runs that go on, as servers
                before 2.16 do: then the schedule is paused only.
        """
        delete = self._recurring.recurring_run_service_delete_recurring_run
        if self.version and self.version >= versions.ORPHANS:
            self._call(delete, schedule_id, propagation_policy="ORPHAN")
            return
        self._call(self._recurring.recurring_run_service_disable_recurring_run, schedule_id)
        if going_on := [run.run_id for run in self._unfinished(schedule_id)]:
            raise ApiError(
                f"schedule {schedule_id} is paused, not deleted: with it this server would kill the runs that it has "
                f"started, {', '.join(going_on)}. Once these have ended, or were cancelled, delete it."
            )
        self._call(delete, schedule_id)

    def _unfinished(self, schedule_id: str) -> Iterator[Any]:
        schedule = self._call(self._recurring.recurring_run_service_get_recurring_run, schedule_id)
        listing = self._runs.run_service_list_runs
        pages = self._pages(
            listing,
            "runs",
            experiment_id=schedule.experiment_id,
            page_size=_PAGE,
            sort_by="created_at desc",
            **self._in_namespace(),
        )
        return (run for run in pages if run.recurring_run_id == schedule_id and run.state not in FINISHED)

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
        return self._made_once(self._experiments.experiment_service_create_experiment, group, find)

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
        return self._made_once(self._pipelines.pipeline_service_create_pipeline, pipeline, find)


class Trigger(NamedTuple):
    """When a schedule starts a run: one of both."""

    cron: str | None = None
    every_s: int | None = None


@contextmanager
def _making(what: str) -> Iterator[None]:
    """Say that something may have been made, where the request for it ends without a clear answer."""
    sentence = f"It is not known whether {what}."
    try:
        with ended_by_signal():
            yield
    except ApiError as error:
        if error.status and not error.transient:
            raise
        raise ApiError(f"{error} {sentence}", error.status) from None
    except (KeyboardInterrupt, SystemExit):
        print(sentence, file=sys.stderr, flush=True)
        raise


def _label(version: Any) -> str:
    return str(version.display_name or version.name)


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
