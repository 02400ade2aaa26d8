"""Executes one submitted pipeline by kfp.local, in a process of its own: ``python -m tests.kfp_execution FOLDER``.

The folder holds ``pipeline.yaml`` and ``arguments.json``. Every change of a task's state becomes a line of
``nodes.jsonl``; what a task prints becomes ``logs/TASK``. Exit code 0 tells that the pipeline succeeded.
"""

import json
import logging
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # the runner's own lines are not in the log of a pod
    from kfp import components, local
    from kfp.local import executor_input_utils, task_dispatcher
    from kfp.local.orchestrator import task_executor
    from kfp.local.status import Status

    artifact_list = executor_input_utils.dsl_artifact_to_artifact_list
    execute_task, run_container = task_executor.execute_single_task, task_dispatcher.run_single_task_implementation
    ran: list[bool] = []
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

    def noted_container(*given: Any, **named: Any) -> Any:
        ran.append(True)
        return run_container(*given, **named)

    def noted_task(task_name: str, **given: Any) -> Any:
        note(task_name, "RUNNING")
        ran.clear()
        with (folder / "logs" / task_name).open("w", buffering=1) as log, redirect_stdout(log):
            outputs, status = execute_task(task_name=task_name, **given)
        note(task_name, "SUCCEEDED" if status == Status.SUCCESS else "FAILED", cached=not ran)
        return outputs, status

    executor_input_utils.dsl_artifact_to_artifact_list = without_schema
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
