import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, new_folder, temporary_folder, write_file

WRITE = """
import sys
from pathlib import Path
from simipu_core.files import new_folder
with new_folder(Path(sys.argv[1])) as draft:
    (draft / "half").write_text("half")
    print(draft.name, flush=True)
    sys.stdin.read()
"""


def writer(out: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process that is writing `out`, and its draft."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, out.parent / process.stdout.readline().strip()


def test_drafts_of_killed_processes_are_removed_by_the_next_and_others_kept(tmp_path: Path) -> None:
    out = tmp_path / "out [1]"
    (tmp_path / ".other.12345678.partial").mkdir()
    (killed, left), (living, kept) = writer(out), writer(out)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (left / "half").is_file()
    with new_folder(out):
        pass
    assert not left.exists()
    assert (kept / "half").is_file()
    living.communicate()
    assert living.returncode == 0
    assert (out / "half").is_file()  # an empty folder is replaced
    assert {path.name for path in tmp_path.iterdir()} == {out.name, ".other.12345678.partial"}


def test_temporary_folders_of_killed_processes_are_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = os.fork()
    if not killed:
        with temporary_folder("ranks") as folder:
            (folder / "file").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    (left,) = tmp_path.iterdir()
    with temporary_folder("ranks") as one, temporary_folder("ranks") as other:
        assert set(tmp_path.iterdir()) == {one, other}
        assert one.stat().st_mode & 0o777 == 0o700
    assert left not in (one, other)
    assert list(tmp_path.iterdir()) == []


def test_a_fork_leaves_the_temporary_folder_to_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    block = ExitStack()
    folder = block.enter_context(temporary_folder("mp"))
    fork = os.fork()
    if not fork:
        block.close()
        os._exit(0)
    os.waitpid(fork, 0)
    assert folder.is_dir()
    with temporary_folder("mp"):
        assert folder.is_dir()  # still locked: not taken for abandoned
    block.close()
    assert not folder.exists()


def test_a_file_is_written_whole_also_beside_what_a_killed_writer_left(tmp_path: Path) -> None:
    file = tmp_path / "deep/file"
    write_file(file, b"first")
    (tmp_path / "deep/.file.partial").write_bytes(b"half of a longer")
    write_file(file, b"second")
    assert file.read_bytes() == b"second"
    assert list(file.parent.iterdir()) == [file]


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    synced: list[tuple[int, bool]] = []
    fsync = os.fsync

    def watched(file: int) -> None:
        synced.append((os.fstat(file).st_ino, out.exists()))
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    with new_folder(out) as draft:
        (draft / "below").mkdir()
        (draft / "below/file").write_text("content")
        (draft / "link").symlink_to("nowhere")
    inodes = {path.stat().st_ino for path in (out, out / "below", out / "below/file")}
    assert {inode for inode, is_named in synced if not is_named} == inodes
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep/out") as draft:
        (draft / "file").touch()
        assert not (tmp_path / "deep/out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep/out/file").is_file()
    with pytest.raises(SimipuError, match="already exists"), new_folder(tmp_path / "deep/out"):
        raise AssertionError


def test_of_two_writers_of_a_folder_the_later_is_told_and_the_first_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    late = new_folder(out)
    (late.__enter__() / "file").write_text("late")
    with new_folder(out) as first:
        (first / "file").write_text("first")
    with pytest.raises(SimipuError, match=r"out: already exists; remove it or choose another"):
        late.__exit__(None, None, None)
    assert [(path.name, path.read_text()) for path in tmp_path.rglob("*") if path.is_file()] == [("file", "first")]


def test_what_stands_in_a_files_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "deep/x.yaml"
    write_file(file, b"first")
    for place, reason in ((tmp_path / "deep", "Is a directory"), (file / "y", "File exists")):
        with pytest.raises(SimipuError, match=rf"{place}: cannot be written \({reason}\)"), disk_errors(place):
            write_file(place, b"other")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["deep", "deep/x.yaml"]


def test_a_draft_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    removed: list[Path] = []

    def remove_first(path: Path, *arguments: int) -> int:
        """As another process does that takes the first draft for abandoned."""
        if not removed:
            removed.append(Path(path))
            Path(path).rmdir()
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", remove_first)
    with new_folder(tmp_path / "out") as draft:
        assert draft not in removed
        (draft / "file").write_bytes(b"content")
    assert removed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_draft_of_a_killed_process_is_removed_whenever_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / ".out.12345678.partial").mkdir()
    with new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
