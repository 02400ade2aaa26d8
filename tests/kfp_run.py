"""A run on the server: the process that executes it, and its tasks as nodes of an Argo workflow."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp_server_api as kfp
import yaml

ROOT = Path(__file__).parents[1]


class Execution:
    """A run's process, and the state of its tasks."""

    def __init__(
        self, folder: Path, spec: dict[str, Any], arguments: dict[str, Any], environment: dict[str, str]
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.tasks: dict[str, Any] = spec["root"]["dag"]["tasks"]
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
        self.cancelled = False
        self.over = threading.Event()
        threading.Thread(target=self._await, daemon=True).start()

    def _await(self) -> None:
        self.process.wait()
        self.finished_at = datetime.now(UTC)
        self.over.set()

    def cancel(self) -> None:
        """Stop the process and its steps: first with a chance to tidy up, as Kubernetes does."""
        self.cancelled = True
        self._signal(signal.SIGTERM)
        threading.Thread(target=self._insist, daemon=True).start()

    def _insist(self) -> None:
        if not self.over.wait(5):
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
        if not self.over.is_set():
            return "CANCELING" if self.cancelled else "RUNNING"
        return "CANCELED" if self.cancelled else "SUCCEEDED" if self.process.returncode == 0 else "FAILED"

    def details(self, run_id: str) -> list[Any]:
        """The nodes of the workflow, as the API server reports them."""
        file = self.folder / "nodes.jsonl"
        notes = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        nodes = [self._node(run_id, "root-driver", "SUCCEEDED", self.started_at, self.started_at)]
        nodes.append(
            self._node(run_id, "root", self.state, self.started_at, self.finished_at, children=list(self.tasks))
        )
        for task in self.tasks:
            told = [note for note in notes if note["task"] == task]
            if not told:
                continue
            begin, last = datetime.fromtimestamp(told[0]["time"], UTC), told[-1]
            end = datetime.fromtimestamp(last["time"], UTC) if len(told) > 1 else self.finished_at
            state = last["state"] if len(told) > 1 else self.state
            nodes.append(self._node(run_id, f"{task}-driver", "SUCCEEDED", begin, begin))
            nodes.append(self._node(run_id, task, state, begin, end, children=[f"{task}.executor"]))
            pod = "SKIPPED" if last.get("cached") else state
            nodes.append(self._node(run_id, f"{task}.executor", pod, begin, end))
        return nodes

    def _node(
        self,
        run_id: str,
        name: str,
        state: str,
        begin: datetime,
        end: datetime | None,
        children: list[str] | None = None,
    ) -> Any:
        return kfp.V2beta1PipelineTaskDetail(
            run_id=run_id,
            display_name="executor" if name.endswith(".executor") else name,
            state=state,
            create_time=self.started_at,
            start_time=begin,
            end_time=end or datetime(1970, 1, 1, tzinfo=UTC),
            pod_name=pod_name(run_id, name),
            child_tasks=[kfp.PipelineTaskDetailChildTask(pod_name=_node_id(run_id, child)) for child in children or []],
        )

    def log(self, run_id: str, pod: str) -> bytes | None:
        """What the pod has printed; None where the run has no such pod, or it has printed nothing yet."""
        for task in self.tasks:
            file = self.folder / "logs" / task
            if pod == pod_name(run_id, f"{task}.executor") and file.is_file():
                return b"".join(re.sub(rb"^ {4}", b"", line) for line in file.read_bytes().splitlines(keepends=True))
        return None


def _node_id(run_id: str, name: str) -> str:
    return f"simipu-{run_id[:5]}-{zlib.crc32(name.encode())}"


def pod_name(run_id: str, name: str) -> str:
    """Argo's name for the pod of a node: template and hash."""
    template = "system-container-impl" if name.endswith(".executor") else "system-container-executor"
    return f"simipu-{run_id[:5]}-{template}-{zlib.crc32(name.encode())}"
