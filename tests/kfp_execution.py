"""Executes one submitted pipeline by kfp.local, in a process of its own: ``python -m tests.kfp_execution FOLDER``.

The folder holds ``pipeline.yaml`` and ``arguments.json``. Every change of a task's state becomes a line of
``nodes.jsonl``; what a task prints becomes ``logs/TASK``. Exit code 0 tells that the pipeline succeeded.

Only a lost pod is tried again, as Kubeflow configures Argo: one whose container was killed as a whole. A container that
ends with an error of its own has failed, whatever retries the pipeline states.
"""

import json
import logging
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


class Failed(Exception):  # noqa: N818
    """A container has ended with an error of its own."""


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # the runner's own lines are not in the log of a pod
    from kfp import components, local
    from kfp.local import executor_input_utils, subprocess_task_handler, task_dispatcher
    from kfp.local.orchestrator import task_executor
    from kfp.local.status import Status

    artifact_list = executor_input_utils.dsl_artifact_to_artifact_list
    execute_task, run_container = task_executor.execute_single_task, task_dispatcher.run_single_task_implementation
    run_process = subprocess_task_handler.run_local_subprocess
    under_way: list[str] = []
    codes: list[int] = []
    (folder / "logs").mkdir()

    def note(task: str, state: str, **more: Any) -> None:
        with (folder / "nodes.jsonl").open("a") as file:
            file.write(json.dumps({"task": task, "state": state, "time": time.time(), **more}) + "\n")

    def without_schema(artifact: Any) -> Any:
        """As the backend hands artifacts on: it does not tell their class."""
        made = artifact_list(artifact)
        for one in made.artifacts:
            one.type.instance_schema, one.type.schema_version = "", ""
        return made

    def noted_process(*given: Any, **named: Any) -> int:
        codes.append(run_process(*given, **named))
        return codes[-1]

    def noted_container(*given: Any, **named: Any) -> Any:
        if codes:
            note(under_way[-1], "RUNNING")
        outputs, status = run_container(*given, **named)
        if status != Status.SUCCESS:
            if not codes or codes[-1] >= 0:
                raise Failed
            note(under_way[-1], "LOST")
        return outputs, status

    def noted_task(task_name: str, **given: Any) -> Any:
        note(task_name, "RUNNING")
        under_way.append(task_name)
        codes.clear()
        with (folder / "logs" / task_name).open("w", buffering=1) as log, redirect_stdout(log):
            try:
                outputs, status = execute_task(task_name=task_name, **given)
            except Failed:
                outputs, status = {}, Status.FAILURE
        note(task_name, "SUCCEEDED" if status == Status.SUCCESS else "FAILED", cached=not codes)
        return outputs, status

    executor_input_utils.dsl_artifact_to_artifact_list = without_schema
    subprocess_task_handler.run_local_subprocess = noted_process
    task_executor.execute_single_task = noted_task
    task_dispatcher.run_single_task_implementation = noted_container
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "outputs"),
        enable_caching=True,
        cache_root=str(folder.parent / "cache"),
    )
    pipeline = components.load_component_from_text((folder / "pipeline.yaml").read_text(encoding="utf-8"))
    try:
        pipeline(**json.loads((folder / "arguments.json").read_text(encoding="utf-8")))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
