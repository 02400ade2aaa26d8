"""Another supported Python of this machine: the environment from the lock, every module, one tiny training."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MINORS = (13, 12, 11)
IMPORT_ALL = """
import importlib, pkgutil
for package in ("simipu_core", "components", "pipelines"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""
NO_NETWORK = re.compile(r"error sending request|dns error|Connection refused|Temporary failure in name resolution")


def pythons() -> Iterator[str]:
    """Pythons of other supported versions than this one: the newest, or the oldest where this is the newest, first."""
    others = [minor for minor in MINORS if minor != sys.version_info.minor]
    managed = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for minor in others if sys.version_info.minor < max(others) else reversed(others):
        for python in (Path(f"python3.{minor}"), *managed.glob(f"3.{minor}.*/bin/python")):
            try:
                said = subprocess.run([python, "--version"], capture_output=True, text=True, check=False).stdout
            except FileNotFoundError:
                continue
            if said.startswith(f"Python 3.{minor}."):
                yield str(python)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with an environment that make has made with another Python."""
    python = next(pythons(), None)
    if python is None:
        pytest.skip(f"of the supported Pythons only {sys.version_info.major}.{sys.version_info.minor} is here")
    folder = tmp_path_factory.mktemp("pythons")
    clone.make(folder)
    for name in ("components", "pipelines"):
        shutil.copytree(clone.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE", "requirements.lock", "requirements-build.lock"):
        shutil.copy(clone.ROOT / name, folder)
    shutil.copy(Path(__file__).with_name("tiny.yaml"), folder / "params.yaml")
    done = run(folder, "make", "setup", f"PYTHON={python}", is_checked=False)
    if done.returncode and NO_NETWORK.search(done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path, *command: str, is_checked: bool = True) -> subprocess.CompletedProcess[str]:
    foreign = ("MAKE", "MFLAGS", "MLFLOW_", "PYTHON", "SIMIPU_", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if is_checked:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_another_python_imports_every_module_and_trains(checkout: Path) -> None:
    programs = checkout / ".venv/bin"
    run(checkout, f"{programs}/python", "-c", IMPORT_ALL)
    assert "ingest → pair → pretrain → finetune → evaluate" in run(checkout, f"{programs}/simipu", "--help").stdout
    for arguments in (
        "synthesize --out data/raw",
        "ingest pretrain --root data/raw --out frames --no-track",
        "pair pretrain frames --out pairs --no-track",
        "pretrain pairs --out encoder --no-track --set pretrain.workers=1",
    ):
        run(checkout, f"{programs}/simipu", *arguments.split())
    assert (checkout / "encoder/encoder.safetensors").is_file()
    run(checkout, f"{programs}/python", "-m", "pipelines", "compile", "--experiment", "params.yaml")
