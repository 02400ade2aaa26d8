"""From a data URI to a local folder, checked.

Three forms are understood: a plain path; a pinned path, which names the folder's content as well; and the object of a
DVC directory, which is immutable by nature.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from simipu_core.artifacts import sha256_text
from simipu_core.errors import SimipuError

_PINNED = re.compile(r"(?P<path>.+)#(?P<digest>[0-9a-f]{64})")
_DVC_DIRECTORY = re.compile(r"(?P<objects>.+/files/md5)/(?P<head>[0-9a-f]{2})/(?P<tail>[0-9a-f]{30})\.dir")
_MD5 = re.compile(r"[0-9a-f]{32}")


def pin(path: Path) -> str:
    """Content-addressed URI of a local folder: its absolute path and a digest of its file names, sizes and times.

    Raises:
        SimipuError: no such folder.
    """
    folder = _folder(path)
    return f"{folder}#{_digest(folder)}"


def resolve(uri: str, workdir: Path | None = None) -> Path:
    """Local folder that holds the data of a URI.

    Args:
        uri: a path, the answer of :func:`pin`, or ``…/files/md5/ab/cdef….dir`` in a DVC cache or local remote.
        workdir: where folders of links to DVC objects are made; ``build/dvc-views`` by default.

    Returns:
        Absolute folder; read-only use.

    Raises:
        SimipuError: it is not there, is incomplete, or changed since it was pinned.
    """
    if pinned := _PINNED.fullmatch(uri):
        folder = _folder(Path(pinned["path"]))
        if _digest(folder) != pinned["digest"]:
            raise SimipuError(f"{folder}: its files changed since the run was submitted; submit the run again.")
        return folder
    if directory := _DVC_DIRECTORY.fullmatch(uri):
        md5 = directory["head"] + directory["tail"]
        return _dvc_view(Path(directory["objects"]).absolute(), md5, workdir or Path("build/dvc-views"))
    return _folder(Path(uri))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise SimipuError(
            f"{path}: no such folder; set `root` of pretrain_data or depth_data to the folder that holds the raw data."
        )
    return path.absolute()


def _digest(folder: Path) -> str:
    entries = []
    for parent, _, names in os.walk(folder, followlinks=True):
        for file in (Path(parent, name) for name in names):
            try:
                status = file.stat()
            except OSError as error:
                raise SimipuError(f"{file}: cannot be read ({error.strerror}); mend or remove it.") from None
            entries.append(f"{file.relative_to(folder).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n")
    return sha256_text("".join(sorted(entries)))


def _dvc_view(objects: Path, md5: str, workdir: Path) -> Path:
    """Folder of links that shows a DVC directory under its own file names."""
    links = dict(_dvc_entries(objects, md5))
    view = workdir.absolute() / md5
    if _shows(view, links):
        return view
    draft = view.with_name(f".{md5}.{uuid.uuid4().hex[:8]}.partial")
    try:
        for name, target in links.items():
            link = draft / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        shutil.rmtree(view, ignore_errors=True)
        draft.replace(view)
    except OSError as error:
        if not _shows(view, links):  # else another process made it meanwhile
            raise SimipuError(
                f"{view}: cannot be written ({error.strerror}); free space or make it writable."
            ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return view


def _shows(view: Path, links: dict[str, Path]) -> bool:
    return view.is_dir() and all((view / name).is_file() for name in links)


def _dvc_entries(objects: Path, md5: str) -> Iterator[tuple[str, Path]]:
    listing = _object(objects, md5, ".dir")
    data = listing.read_bytes()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise SimipuError(f"{listing}: its content does not match its name; run `dvc pull` again.")
    for entry in json.loads(data):
        name = PurePosixPath(entry["relpath"])
        if name.is_absolute() or ".." in name.parts or not name.parts or not _MD5.fullmatch(entry["md5"]):
            raise SimipuError(f"{listing}: the entry {entry['relpath']} leads out of the folder; add the data again.")
        yield str(name), _object(objects, entry["md5"])


def _object(objects: Path, md5: str, suffix: str = "") -> Path:
    path = objects / md5[:2] / f"{md5[2:]}{suffix}"
    if not path.is_file():
        raise SimipuError(f"{path}: this DVC object is missing; run `dvc pull` (or `dvc push` to the remote) first.")
    return path
