import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simipu_core.errors import SimipuError
from simipu_core.files import new_file, new_folder

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


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep/out") as draft:
        (draft / "file").touch()
        assert not (tmp_path / "deep/out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep/out/file").is_file()
    with pytest.raises(SimipuError, match="already exists"), new_folder(tmp_path / "deep/out"):
        raise AssertionError


def test_a_file_takes_the_place_of_another_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep/x.yaml"
    for text in ("first", "second"):
        with new_file(file) as draft:
            draft.write_text(text)
            assert draft.suffix == ".yaml"
            assert text == "first" or file.read_text() == "first"

    def stop_half_way() -> None:
        with new_file(file) as draft:
            draft.write_text("half")
            raise SimipuError("stopped")

    with pytest.raises(SimipuError, match="stopped"):
        stop_half_way()
    assert file.read_text() == "second"
    for place, reason in ((tmp_path / "deep", "Is a directory"), (file / "y", "File exists")):
        with pytest.raises(SimipuError, match=rf"{place}: cannot be written \({reason}\)"), new_file(place) as draft:
            draft.touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["deep", "deep/x.yaml"]
