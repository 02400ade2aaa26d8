"""A run on the server: the process that executes it, and its tasks as an Argo workflow."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp_server_api as kfp
import yaml

from tests.kfp_workflow import Task, Workflow

ROOT = Path(__file__).parents[1]
GRACE_S = 0.5
"""What a step has after SIGTERM: the launcher dies of it at once, and with it the pod."""
LAUNCHER_BEGIN = """\
time=2026-11-26T21:00:00.000Z level=INFO msg="capturing logs" argo=true
I1126 21:00:00.000001      14 main.go:67] Setting log level to: '1'
I1126 21:00:00.000002      14 cache.go:89] Connecting to cache endpoint ml-pipeline.kubeflow.svc.cluster.local:8887
"""
LAUNCHER_END = """\
E1126 21:00:01.000001      14 launcher_v2.go:449] Component failed to execute successfully: exit status 1
I1126 21:00:01.000002      14 launcher_v2.go:867] Executing uploadOutputArtifacts attempt: 1
I1126 21:00:01.000003      14 launcher_v2.go:206] publish success.
F1126 21:00:01.000004      14 main.go:59] failed to execute component: exit status 1
time=2026-11-26T21:00:01.500Z level=INFO msg="sub-process exited" argo=true error="exit status 1"
Error: exit status 1
"""


class Execution:
    """A run's process, and the state of its tasks.

    Attributes:
        pods_gone: whether Kubernetes has removed the pods of steps; their logs are in the archive.
        deleted: whether the workflow was deleted under the run: nothing tells its state any more.
        waiting: what Kubernetes says about pods that it cannot start.
    """

    def __init__(
        self,
        folder: Path,
        spec: dict[str, Any],
        platform: dict[str, Any],
        arguments: dict[str, Any],
        environment: dict[str, str],
        name: str,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.name = name
        self.spec, self.platform = spec, platform
        self.pods_gone = self.deleted = False
        self.waiting = ""
        self._task_ids: dict[str, str] = {}
        self._last_details: list[Any] = []
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
        (folder / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.kfp_execution", str(folder)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started_at = datetime.now(UTC)
        self.finished_at: datetime | None = None
        self.history = [self._status("PENDING"), self._status("RUNNING")]
        self.over = threading.Event()
        threading.Thread(target=self._await, daemon=True).start()

    def _await(self) -> None:
        self.process.wait()
        if not self.deleted:
            self.finished_at = datetime.now(UTC)
            cancelled = self.state == "CANCELING"
            self.history.append(self._status("FAILED" if cancelled or self.process.returncode else "SUCCEEDED"))
        self.over.set()

    def _status(self, state: str) -> Any:
        return kfp.V2beta1RuntimeStatus(update_time=datetime.now(UTC), state=state)

    def cancel(self) -> None:
        """Stop the process and its steps, which have less than a second for it."""
        self.history.append(self._status("CANCELING"))
        self._signal(signal.SIGTERM)
        threading.Thread(target=self._insist, daemon=True).start()

    def delete(self) -> None:
        """Lose the workflow, as when the schedule that owns it is deleted."""
        self.deleted = True
        self.kill()

    def _insist(self) -> None:
        if not self.over.wait(GRACE_S):
            self._signal(signal.SIGKILL)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.over.wait(30)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return

    @property
    def state(self) -> str:
        return str(self.history[-1].state)

    def workflow(self, run_id: str) -> Workflow:
        """The workflow as it is now."""
        phase = {"SUCCEEDED": "Succeeded", "FAILED": "Failed"}.get(self.state, "Running")
        return Workflow(
            name=self.name,
            run_id=run_id,
            namespace="kubeflow",
            phase=phase,
            begin=self.started_at,
            end=self.finished_at,
            spec=self.spec,
            platform=self.platform,
            tasks=self._tasks(),
            task_ids=self._task_ids,
        )

    def _tasks(self) -> dict[str, Task]:
        file = self.folder / "nodes.jsonl"
        notes = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        return {
            key: self._task([note for note in notes if note["task"] == key])
            for key in dict.fromkeys(note["task"] for note in notes)
        }

    def _task(self, notes: list[dict[str, Any]]) -> Task:
        times = [datetime.fromtimestamp(note["time"], UTC) for note in notes]
        known = [note["state"] for note in notes]
        lost = [(times[at - 1], times[at]) for at, state in enumerate(known) if state == "LOST"]
        begin = times[max(at for at, state in enumerate(known) if state == "RUNNING")]
        last = known[-1]
        if last in ("RUNNING", "LOST") and self.finished_at is None:
            waiting = bool(self.waiting)
            return Task("Pending" if waiting else "Running", begin, None, message=self.waiting, lost=tuple(lost))
        if known[-2:] == ["LOST", "FAILED"]:  # and was not tried again
            return Task("Error", *lost[-1], message="pod deleted", lost=tuple(lost[:-1]))
        if last in ("SUCCEEDED", "FAILED"):
            phase, end, code = str(last).capitalize(), times[-1], 1
        else:
            phase, end = "Failed", self.finished_at or times[-1]
            code = 143 if any(status.state == "CANCELING" for status in self.history) else 1
        message = f"main: Error (exit code {code})" if phase == "Failed" else ""
        return Task(phase, begin, end, bool(notes[-1].get("cached")), message, tuple(lost))

    def details(self, run_id: str, largest: int) -> list[Any]:
        """The nodes as the API server reports them, which knows none that Argo has compressed."""
        workflow = self.workflow(run_id)
        if not self.deleted and not workflow.manifest(largest)[1]:
            self._last_details = workflow.details()
        return self._last_details

    def log(self, run_id: str, name: str) -> bytes | None:
        """What the pod of that node id or name has printed; None where there is no such pod."""
        for key, identity, pod in self.workflow(run_id).pods():
            if name in (identity, pod):
                return self._printed(key)
        return None

    def archived(self, run_id: str, key: str) -> bytes | None:
        """The log that the launcher has left under a key of the bucket."""
        workflow = self.workflow(run_id)
        return next((self._printed(task) for task in workflow.tasks if workflow.log_key(task) == key), None)

    def _printed(self, task: str) -> bytes | None:
        file = self.folder / "logs" / task
        if not file.is_file():
            return None
        lines = file.read_bytes().splitlines(keepends=True)
        own = b"".join(re.sub(rb"^ {4}", b"", line) for line in lines)
        end = LAUNCHER_END if self.workflow("").tasks[task].phase == "Failed" else ""
        return LAUNCHER_BEGIN.encode() + own + end.encode()
