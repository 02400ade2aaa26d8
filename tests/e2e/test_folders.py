"""A whole run in a folder with as odd a name as there may be, by make, stopped by Ctrl-C and taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.local import GO_ON
from tests import clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ODD = "it's 100% \u00fc #1? python3"


@pytest.fixture
def project() -> Iterator[Path]:
    """A checkout in such a folder, whose environment seems to lie there too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # a longer TMPDIR in it would not do for sockets
        folder = Path(short) / ODD
        folder.mkdir()
        _make(folder)
        yield folder


def _make(folder: Path) -> None:
    clone.make(folder)
    shutil.copy(clone.ROOT / "Makefile", folder)
    shutil.copy(Path(__file__).with_name("tiny.yaml"), folder / "params.yaml")
    (folder / ".venv").symlink_to(sys.prefix)


def start(project: Path) -> "subprocess.Popen[str]":
    temporary = project / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SIMIPU_"))}
    environment |= {"PYTHONPATH": str(clone.ROOT), "TMPDIR": str(temporary), "SIMIPU_IMAGE": "simipu-python:test"}
    installed = [f"--assume-old={project}/.venv/{stamp}" for stamp in (".runtime-stamp", "bin/python")]
    return subprocess.Popen(
        [
            "make",
            *(each.replace(f"{project}/", "") for each in installed),
            "pipeline",
            "SET=finetune.scratch_control=false",
        ],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the background ignores it
    )


def at_work_in(folder: Path) -> list[str]:
    """Commands of processes that have this as their folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text(encoding="utf-8"))
        except OSError:
            continue
    return found


def test_a_run_is_stopped_and_taken_up_again_in_any_folder(project: Path) -> None:
    from simipu_core.tracking.mlflow_run import connect

    process = start(project)
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("pair depth"):
            break
    assert process.poll() is None, "".join(said)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (2, -signal.SIGINT), errors  # make's
    assert errors.splitlines()[:2] == ["error: stopped by SIGINT.", GO_ON]
    until = time.monotonic() + 30
    while at_work_in(project) and time.monotonic() < until:
        time.sleep(0.1)
    assert at_work_in(project) == []

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        client = connect()
    (experiment,) = (found for found in client.search_experiments() if found.name == "simipu")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}
    assert [run.info.status for run in runs if "mlflow.parentRunId" not in run.data.tags] == ["KILLED"]

    output, errors = start(project).communicate(timeout=1500)
    summary = json.loads((project / "build" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"]["ingest_depth"]["cached"], errors
    assert not summary["steps"]["finetune"]["cached"]
    assert "simipu-depth version 1" in output
    panels = client.list_artifacts(
        client.search_runs([experiment.experiment_id], "tags.`simipu.step` = 'evaluate'")[0].info.run_id
    )
    assert "panels" in {artifact.path for artifact in panels}
    assert {path.name for path in project.parent.iterdir()} == {ODD}  # nothing went to a folder of half the name
