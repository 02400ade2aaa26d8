"""A disk that is really full: one sentence, nothing half-written, and what was there before stays."""

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from simipu_core.artifacts import write_artifact
from simipu_core.errors import SimipuError, plain_errors
from simipu_core.files import disk_errors, write_file
from simipu_core.models.weights import save_tensors
from simipu_core.storage.cache import cached
from simipu_core.training.checkpoint import Checkpoints, TrainingState
from tests.samples import pair_row, write_shards


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def state(size: int) -> TrainingState:
    """Four times as many bytes as the square of the size."""
    return TrainingState(nn.Linear(size, size), [], [])


def net(disk: Path) -> None:
    with write_artifact(disk / "net", "depth_net", inputs={}, parameters={}, licence="CC0") as draft:
        save_tensors({"weight": torch.zeros(600, 600)}, draft.path / "model.safetensors", None)


def shards(disk: Path) -> None:
    write_shards(disk / "pairs", "pairs", pairs=[pair_row(seed, 60_000) for seed in range(2)])


def checkpoint(disk: Path) -> None:
    Checkpoints(disk / "checkpoints").save(6, state(600))


def file(disk: Path) -> None:
    with disk_errors(disk / "file"):
        write_file(disk / "file", bytes(2 << 20))


def download(disk: Path) -> None:
    cached("entry", lambda folder: write_file(folder / "file", bytes(2 << 20)))


@pytest.mark.parametrize("write", [net, shards, checkpoint, file, download])
def test_a_full_disk_is_told_and_nothing_is_lost(
    disk: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMIPU_CACHE", str(disk / "cache"))
    Checkpoints(disk / "checkpoints").save(3, state(10))
    (disk / "file").write_text("before")
    before = {path for path in disk.rglob("*") if path.is_file()}
    with pytest.raises(SimipuError, match=r"cannot be written \((the disk is full|No space left on device)\)") as told:
        write(disk)
    assert str(told.value).startswith(str(disk))
    assert "\n" not in str(told.value)
    after = {path for path in disk.rglob("*") if path.is_file()}
    assert after - {disk / "cache/.entry.lock", disk / "checkpoints/step-00000006.safetensors"} == before
    assert (disk / "file").read_text() == "before"
    assert Checkpoints(disk / "checkpoints").resume(state(10)) == 3


def test_what_nobody_has_foreseen_ends_in_one_sentence_too() -> None:
    with (
        pytest.raises(SystemExit, match=r"^error: some/file: the disk is full; free space and run it again\.$"),
        plain_errors(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "some/file")
    with pytest.raises(PermissionError), plain_errors():
        raise PermissionError(errno.EPERM, "not permitted")
