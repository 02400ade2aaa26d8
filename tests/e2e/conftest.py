import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of the project whose params.yaml is a tiny experiment; nothing has run in it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "simipu_core", folder / "simipu_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("tiny.yaml"), folder / "params.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def python(project: Path) -> Python:
    """Runs ``python -m …`` in the clone, as a user would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SIMIPU_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{project}:{ROOT}",
        "SIMIPU_IMAGE": "simipu-python:test",
        "COLUMNS": "160",
    }

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, "-m", *arguments], environment | variables
        return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)

    return run
