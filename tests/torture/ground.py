"""A folder in which the steps of a tiny experiment can run: its settings, its own MLflow store, its own TMPDIR."""

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from simipu_core.artifacts import read_manifest, sha256_file
from tests.samples import verify_files

TINY = Path(__file__).parents[1] / "e2e" / "tiny.yaml"
MODEL = "simipu-depth"
_CHANGES: dict[str, dict[str, Any]] = {
    "pretrain": {"epochs": 2, "checkpoint_every": 1},
    "finetune": {"epochs": 2, "checkpoint_every": 1},
    "tracking": {"model_name": MODEL, "promotion": {"mode": "promote", "max_abs_rel": 100.0}},
}


class Ground:
    """The folder.

    Args:
        folder: of the project.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.temporary = folder / "tmp"
        self.database = folder / "mlruns" / "mlflow.db"

    def make(self) -> None:
        """Make it, empty."""
        for place in (self.folder, self.out, self.temporary):
            place.mkdir(parents=True)
        values = yaml.safe_load(TINY.read_text(encoding="utf-8"))
        for section, changes in _CHANGES.items():
            values[section] = values.get(section, {}) | changes
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    def environment(self, **changes: str) -> dict[str, str]:
        """Variables of commands that run there."""
        ours = ("MLFLOW_", "SIMIPU_", "AWS_")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return plain | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
            "SIMIPU_CACHE": str(self.folder / "cache"),
            "SIMIPU_CHECKPOINTS": str(self.folder / "checkpoints"),
            "SIMIPU_REVISION": "torture",
            "SIMIPU_USER": "ada",
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.database}",
            **changes,
        }

    def running(self) -> list[str]:
        """Names of the runs that are RUNNING."""
        return [name for (name,) in self.ask("select name from runs where status = 'RUNNING'")]

    def registry(self, model: str = MODEL) -> dict[str, list[Any]]:
        """Versions, aliases and entries of the promotion log of a model."""
        log = f"{model}.promotions"
        tags = "select version, value from model_version_tags where name = ? and key in ('action', 'version')"
        return {
            "versions": self.ask("select version from model_versions where name = ? order by 1", model),
            "aliases": self.ask("select alias, version from registered_model_aliases where name = ? order by 1", model),
            "log": self.ask(f"{tags} order by 1, key", log),
        }

    def ask(self, query: str, *values: str) -> list[Any]:
        """Rows of the store's database; none where there is no store yet."""
        if not self.database.is_file():
            return []
        with closing(sqlite3.connect(self.database, timeout=60)) as database:
            try:
                return database.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    def left(self) -> list[str]:
        """What lies in the temporary folder, and drafts and unsent entries anywhere."""
        drafts = [
            path
            for pattern in (".*.partial", "*.outbox.jsonl", "*unsent-tracking.jsonl")
            for path in self.folder.rglob(pattern)
        ]
        return sorted(str(path.relative_to(self.folder)) for path in {*drafts, *self.temporary.iterdir()})

    def copy_of(self, other: "Ground", *names: str) -> None:
        """Make it with another one's store, and links to some of its files and folders."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.make()
        if other.database.is_file():
            shutil.copytree(other.database.parent, self.database.parent)
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).symlink_to(other.folder / name)


def artifact(folder: Path) -> str | None:
    """The digest of an artifact, all of whose bytes are those of its manifest; None where there is nothing.

    Raises:
        SimipuError, AssertionError: it is not whole.
    """
    if not folder.exists():
        return None
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return manifest.digest


def tree(folder: Path) -> dict[str, str] | None:
    """Checksums of all files; None where there is no such folder."""
    if not folder.exists():
        return None
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()}
