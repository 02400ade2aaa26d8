"""A copy of the project in which nothing has run."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make(folder: Path) -> None:
    """Copy what a pipeline needs, with what is compiled of it; ``params.yaml`` is the caller's."""
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    half_written = shutil.ignore_patterns("*.pyc.*", "*.tmp.*")  # Python's and Numba's, by other tests
    shutil.copytree(ROOT / "simipu_core", folder / "simipu_core", ignore=half_written)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
