"""Folders that appear whole or not at all."""

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simipu_core.errors import SimipuError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Write a folder atomically: `out` appears when the block ends without an error, else nothing stays.

    Args:
        out: folder to make; must not exist, or be empty.

    Yields:
        The temporary folder to write into.

    Raises:
        SimipuError: `out` exists, or the disk is full or not writable.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SimipuError(f"{out}: already exists; remove it or choose another output folder.")
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        draft.mkdir(parents=True)
        yield draft
        if out.exists():
            out.rmdir()
        draft.replace(out)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise SimipuError(f"{out}: cannot be written ({reason}); free space or choose another folder.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
