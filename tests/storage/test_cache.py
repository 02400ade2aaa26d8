import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simipu_core.errors import SimipuError
from simipu_core.storage.cache import cached

HOLD = """
import sys
from simipu_core.storage.cache import cached
cached(sys.argv[1], None)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMIPU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIMIPU_CACHE_GB", "1e-5")  # 10,000 bytes
    monkeypatch.setattr("simipu_core.storage.cache._held", {})
    return tmp_path / "cache"


def filler(size: int) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "data").write_bytes(bytes(size))

    return fill


def let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the end of this process would do."""
    from simipu_core.storage import cache

    for lock in cache._held.values():
        os.close(lock)
    monkeypatch.setattr(cache, "_held", {})


def names(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if not path.name.endswith(".lock")}


@contextmanager
def another_process_holds(name: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def test_an_entry_is_made_once(cache: Path) -> None:
    calls: list[Path] = []
    for _ in range(2):
        folder = cached("a", lambda folder: calls.append(folder))
        assert folder == cache / "a"
        assert folder.is_dir()
    assert len(calls) == 1


def test_what_an_earlier_try_completed_is_there_again(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "first").write_text("whole")
        raise SimipuError("the connection broke off")

    with pytest.raises(SimipuError, match="broke off"):
        cached("a", fail)
    assert names(cache) == {".a.partial"}
    seen: list[bool] = []
    cached("a", lambda folder: seen.append((folder / "first").is_file()))
    assert seen == [True]
    assert names(cache) == {"a"}


def test_room_is_made_of_what_was_used_longest_ago_and_nobody_uses(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("old", "used", "new")):
        cached(name, filler(3000), 3000)
        os.utime(cache / f".{name}.lock", (age, age))
    let_go(monkeypatch)
    with another_process_holds("old"):
        os.utime(cache / ".old.lock", (0, 0))
        cached("more", filler(3000), 3000)
        assert names(cache) == {"old", "new", "more"}
        cached("unannounced", filler(4000))
        assert names(cache) == {"old", "more", "unannounced"}  # `more` is in use here, `old` there
    let_go(monkeypatch)
    cached("again", filler(3000), 3000)
    assert names(cache) == {"more", "unannounced", "again"}


def test_a_partial_entry_counts_and_makes_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        filler(9000)(folder)
        raise SimipuError("stop")

    with pytest.raises(SimipuError, match="stop"):
        cached("half", fail)
    cached("whole", filler(9000), 9000)
    assert names(cache) == {"whole"}


def test_more_than_it_may_hold_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SimipuError, match=r"0\.0 GB are needed, more than the 1e-05 GB .* set SIMIPU_CACHE_GB"):
        cached("a", filler(1), 10_001)
    monkeypatch.setenv("SIMIPU_CACHE_GB", "much")
    with pytest.raises(SimipuError, match="SIMIPU_CACHE_GB: much is no number"):
        cached("a", filler(1))


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIMIPU_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(SimipuError, match=r"file/cache: cannot be written \(Not a directory\)"):
        cached("a", filler(1))


def test_processes_that_want_the_same_entry_make_it_once(cache: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from simipu_core.storage.cache import cached
print(cached("a", lambda folder: (folder / str(os.getpid())).touch()))
"""
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(4)]
    assert {process.communicate()[0].decode().strip() for process in processes} == {str(cache / "a")}
    assert len(list((cache / "a").iterdir())) == 1
