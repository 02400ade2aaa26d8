"""Artifact directories: what one step hands to the next.

An artifact is a directory with a ``manifest.json``. It is written under a temporary name and renamed when it is
whole, so a killed step leaves nothing half-written behind. In S3 the manifest comes last: without one there is no
artifact.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from simipu_core.errors import SimipuError
from simipu_core.files import check_new_folder, new_folder
from simipu_core.storage import S3Path, forget_listings, uploads
from simipu_core.storage.cache import cached
from simipu_core.storage.downloads import Wanted, fetch_files, is_safe

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_PARQUET = ".parquet"
Kind = Literal["catalogue", "pairs", "depth", "encoder", "depth_net", "report", "table"]


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str
    footer_sha256: str | None = None
    """Of a Parquet file's footer, which says where its pages lie; these have checksums of their own."""


class Manifest(BaseModel):
    """What an artifact is and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    digest: str
    """sha256 over kind, parameters, inputs and files: equal content gives an equal digest."""
    inputs: dict[str, str]
    """Digest of each input artifact, by role."""
    parameters: dict[str, Any]
    counts: dict[str, float]
    licence: str
    """Licence of the data that went in."""
    files: dict[str, FileEntry]
    code_revision: str
    created: str
    mlflow_run_id: str | None = None
    origin: str | None = None
    """Where the raw data of a catalogue lies; a place, not content, so no part of the digest."""
    checksum: str = ""
    """sha256 over all other fields, by which a damaged manifest shows."""

    def summed(self) -> "Manifest":
        """The manifest with its checksum."""
        text = json.dumps(self.model_dump(mode="json", exclude={"checksum"}), sort_keys=True)
        return self.model_copy(update={"checksum": sha256_text(text)})


@dataclass
class Draft:
    """An artifact being written into `path`; fill `counts` and put files there."""

    path: Path
    counts: dict[str, float] = field(default_factory=dict)


@contextmanager
def write_artifact(
    out: Path,
    kind: Kind,
    *,
    inputs: Mapping[str, str],
    parameters: Mapping[str, Any],
    licence: str,
    mlflow_run_id: str | None = None,
    origin: str | None = None,
) -> Iterator[Draft]:
    """Write an artifact atomically: the directory `out` appears, whole, when the block ends without an error.

    Args:
        out: directory to make; must not exist (an empty directory is replaced). An `S3Path` is uploaded to.
        kind: what the artifact is.
        inputs: digests of the artifacts it was made from, by role.
        parameters: JSON-like values that decided its content.
        licence: licence of the data that went in.
        mlflow_run_id: run that made it.
        origin: URI of the raw data that a catalogue describes.

    Raises:
        SimipuError: `out` exists, the disk is full or not writable, or S3 fails.
    """
    writing = uploads.new_remote_folder(out, last=MANIFEST) if isinstance(out, S3Path) else new_folder(out)
    with writing as folder:
        draft = Draft(folder)
        yield draft
        files = {str(path.relative_to(folder)): _entry(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        content = {
            "kind": kind,
            "inputs": dict(inputs),
            "parameters": dict(parameters),
            "files": {name: entry.sha256 for name, entry in files.items()},
        }
        manifest = Manifest(
            **{**content, "files": files},
            digest=sha256_text(json.dumps(content, sort_keys=True)),
            counts=draft.counts,
            licence=licence,
            code_revision=code_revision(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            mlflow_run_id=mlflow_run_id,
            origin=origin,
        )
        (folder / MANIFEST).write_text(manifest.summed().model_dump_json(indent=2) + "\n", encoding="utf-8")


def check_new(out: Path) -> None:
    """Check, before work begins, that an artifact can be written there.

    Raises:
        SimipuError: it exists, or S3 fails.
    """
    if isinstance(out, S3Path):
        uploads.check_new(out, last=MANIFEST)
    else:
        check_new_folder(out)


def local_artifact(path: Path) -> Path:
    """The local folder of an artifact: itself, or, of one in S3, a verified download, which is made once.

    Downloads lie in the cache (see :func:`simipu_core.project.cache`) by the content of their manifest.

    Raises:
        SimipuError: it is no artifact, a file is missing or differs from the manifest, or S3 fails.
    """
    if not isinstance(path, S3Path):
        return path
    manifest, text = _load(path)

    def fetch(folder: Path) -> None:
        try:
            fetch_files(
                {name: Wanted(path / name, "sha256", entry.sha256) for name, entry in manifest.files.items()}, folder
            )
        except FileNotFoundError as error:
            raise SimipuError(f"{error.filename}: missing, but its manifest names it; run the step again.") from None
        (folder / MANIFEST).write_bytes(text)

    size = sum(entry.bytes for entry in manifest.files.values())
    return cached(f"{manifest.kind}-{hashlib.sha256(text).hexdigest()[:32]}", fetch, size)


def read_manifest(path: Path, *kinds: Kind) -> Manifest:
    """Open an artifact and check that it is of the wanted kind, and what was written.

    Every file's size is checked, and in a local folder its sha256, those of shards apart: these are large, and are
    checked while they are read (:class:`simipu_core.data.shards.Shards`). What lies in S3 is checked where it is
    downloaded.

    Raises:
        SimipuError: no manifest, another kind or schema version, or a file missing, outside the folder or of another
            size or content.
    """
    forget_listings()
    manifest, _ = _load(path)
    if kinds and manifest.kind not in kinds:
        raise SimipuError(f"{path}: holds {manifest.kind}, but {' or '.join(kinds)} is needed here.")
    for relative, entry in manifest.files.items():
        file = path / relative
        if not file.is_file() or file.stat().st_size != entry.bytes:
            raise SimipuError(f"{file}: missing or of another size than its manifest says; run the step again.")
        if not isinstance(file, S3Path) and not _is_shard(manifest, relative) and sha256_file(file) != entry.sha256:
            raise SimipuError(f"{file}: its content differs from its manifest; run the step again.")
    return manifest


def check_footer(file: Path, entry: FileEntry) -> None:
    """Check the footer of a Parquet file, here or in S3, against its manifest.

    Raises:
        SimipuError: it differs.
    """
    if entry.footer_sha256 not in (None, _footer_sha256(file)):
        raise SimipuError(f"{file}: its content differs from its manifest; run the step again.")


def _load(path: Path) -> tuple[Manifest, bytes]:
    name = path / MANIFEST
    try:
        text = name.read_bytes()
        manifest = Manifest.model_validate_json(text)
    except FileNotFoundError:
        raise SimipuError(
            f"{path}: not an artifact (no {MANIFEST}); give the folder that a `simipu` step wrote."
        ) from None
    except (ValidationError, OSError) as error:
        raise SimipuError(
            f"{name}: not a readable manifest ({str(error).splitlines()[0]}); run the step again."
        ) from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise SimipuError(
            f"{path}: schema version {manifest.schema_version}, needed {SCHEMA_VERSION}; run the step again."
        )
    for relative in manifest.files:
        if not is_safe(relative):
            raise SimipuError(f"{name}: the file {relative!r} leads out of the folder; run the step again.")
    if manifest.checksum != manifest.summed().checksum:
        raise SimipuError(f"{name}: its content differs from its checksum; run the step again.")
    return manifest, text


def _is_shard(manifest: Manifest, name: str) -> bool:
    return manifest.kind in ("pairs", "depth") and name.endswith(_PARQUET)


def _entry(file: Path) -> FileEntry:
    footer = _footer_sha256(file) if file.suffix == _PARQUET else None
    return FileEntry(bytes=file.stat().st_size, sha256=sha256_file(file), footer_sha256=footer)


def _footer_sha256(file: Path) -> str:
    """The sha256 of a Parquet file's end: its footer, the footer's length (4 bytes) and a magic number (4 bytes)."""
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - 8, 0))
        length = int.from_bytes(stream.read(4), "little") + 8
        stream.seek(max(size - length, 0))
        return hashlib.sha256(stream.read()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex sha256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_revision() -> str:
    """Revision of this code: ``SIMIPU_REVISION`` (set in images), else git's commit, ``+dirty`` if changed."""
    if revision := os.environ.get("SIMIPU_REVISION"):
        return revision
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
        return commit + ("+dirty" if changed.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
