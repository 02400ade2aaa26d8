"""Directories of DVC: a listing of files by their md5, beside which the files lie under theirs."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, draft_folder, put_in_place
from simipu_core.parallel import in_threads
from simipu_core.progress import progress
from simipu_core.storage.cache import cached
from simipu_core.storage.downloads import Wanted, digests, fetch_files, is_safe
from simipu_core.storage.s3_path import S3Path

_DIRECTORY = re.compile(r"(?P<objects>.+)/(?P<head>[0-9a-f]{2})/(?P<tail>[0-9a-f]{30})\.dir")
_OBJECTS = ("files", "md5")
"""Folders of DVC 3; DVC 1 and 2 had none, and other digests of texts."""
_MD5 = re.compile(r"[0-9a-f]{32}")


class DvcDirectory(NamedTuple):
    """``…/files/md5/ab/cdef….dir`` in a DVC cache or remote, ``…/ab/cdef….dir`` by DVC 2; immutable by nature."""

    objects: Path
    """``…/files/md5``, or ``…``."""
    md5: str
    """Of the listing."""

    @property
    def algorithm(self) -> str:
        """Of the files' digests."""
        return "md5" if self.objects.parts[-2:] == _OBJECTS else "md5-dos2unix"

    def object(self, md5: str) -> Path:
        """Where a file's content lies."""
        return self.objects / md5[:2] / md5[2:]

    def entries(self) -> Iterator[tuple[str, str]]:
        """Names of the files and their md5.

        Raises:
            SimipuError: the listing is missing or damaged.
        """
        listing = self.object(self.md5).with_suffix(".dir")
        try:
            data = listing.read_bytes()
        except FileNotFoundError:
            raise missing(listing) from None
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != self.md5:
            raise SimipuError(f"{listing}: its content does not match its name; run `dvc pull` again.")
        try:
            entries = [(str(entry["relpath"]), str(entry["md5"])) for entry in json.loads(data)]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SimipuError(f"{listing}: is no listing of a DVC directory; add the data again.") from None
        for name, md5 in entries:
            if not is_safe(name) or not _MD5.fullmatch(md5):
                raise SimipuError(f"{listing}: the entry {name} leads out of the folder; add it again.")
            yield name, md5


def parse(place: Path) -> DvcDirectory | None:
    """The DVC directory of an address; None where it is another place."""
    found = _DIRECTORY.fullmatch(str(place))
    return DvcDirectory(place.parent.parent, found["head"] + found["tail"]) if found else None


def view(directory: DvcDirectory, workdir: Path) -> Path:
    """A local folder that shows a directory under its own file names: links, or downloads where it lies in S3.

    Every file's md5 is checked when it is linked or downloaded, and again where it was changed since.

    Args:
        directory: what to show.
        workdir: where folders of links are made.

    Raises:
        SimipuError: it is not there, incomplete or damaged.
    """
    if isinstance(directory.objects, S3Path):
        return cached(f"dvc-{directory.md5}", lambda folder: _fetch(directory, folder))
    links = {name: directory.object(md5) for name, md5 in directory.entries()}
    for target in links.values():
        if not target.is_file():
            raise missing(target)
    shown = workdir.absolute() / directory.md5
    if not _shows(shown, links):
        _link(links, shown, directory.algorithm)
    return shown


def missing(file: Path) -> SimipuError:
    """The error for an object that is not there."""
    return SimipuError(f"{file}: this DVC object is missing; run `dvc pull` (or `dvc push` to the remote) first.")


def _fetch(directory: DvcDirectory, folder: Path) -> None:
    wanted = {}
    for name, md5 in directory.entries():
        source = directory.object(md5)
        assert isinstance(source, S3Path)  # noqa: S101 (it is below `objects`)
        wanted[name] = Wanted(source, directory.algorithm, md5)
    try:
        fetch_files(wanted, folder)
    except FileNotFoundError as error:
        raise missing(Path(str(error.filename))) from None


def _link(links: dict[str, Path], view: Path, algorithm: str) -> None:
    with disk_errors(view), draft_folder(view) as draft:
        for name, target in links.items():
            link = draft / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        checks = [partial(_check, target, algorithm) for target in dict.fromkeys(links.values())]
        with closing(in_threads(checks, os.cpu_count() or 1)) as checked, progress("verify", len(checks)) as advance:
            for _ in checked:
                advance()
        shutil.rmtree(view, ignore_errors=True)
        try:
            put_in_place(draft, view)
        except OSError:
            if not _shows(view, links):  # else another process made it meanwhile
                raise


def _check(file: Path, algorithm: str) -> None:
    try:
        with file.open("rb") as stream:
            found = digests(stream, algorithm)
    except OSError as error:
        raise SimipuError(f"{file}: cannot be read ({error.strerror}); mend or restore it.") from None
    if file.parent.name + file.name not in found:
        raise SimipuError(
            f"{file}: its content does not match its name; remove it and run `dvc pull` (or `dvc push` to the remote)."
        )


def _shows(view: Path, links: dict[str, Path]) -> bool:
    return all(_is_checked(view / name, target) for name, target in links.items())


def _is_checked(link: Path, target: Path) -> bool:
    """Whether a link was made after the last change of its target, of whatever kind, and therefore checked."""
    try:
        return link.samefile(target) and target.stat().st_ctime_ns <= link.lstat().st_ctime_ns
    except OSError:
        return False
