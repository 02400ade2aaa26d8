import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import clone

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of the project whose params.yaml is a tiny experiment; nothing has run in it."""
    folder = tmp_path_factory.mktemp("clone")
    clone.make(folder)
    shutil.copy(Path(__file__).with_name("tiny.yaml"), folder / "params.yaml")
    return folder


@pytest.fixture(scope="module")
def python(project: Path) -> Python:
    """Runs ``python -m …`` in the clone, as a user would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SIMIPU_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{project}:{clone.ROOT}",
        "SIMIPU_IMAGE": "simipu-python:test",
        "COLUMNS": "160",
    }

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, "-m", *arguments], environment | variables
        return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)

    return run
