"""Machines that lack something: memory, processes, files, room, a home. One sentence with the mend, or it works."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch

from simipu_core import parallel
from simipu_core.errors import InterruptionError, SimipuError, machine_errors, plain_errors
from simipu_core.workers import starting

ROOT = Path(__file__).parents[1]
GPU = "The GPU's memory ran out; set a smaller batch_size or a larger accumulate (`simipu plan` says what fits)."
FILES = "Too many files are open; raise the limit (ulimit -n 65536) or set fewer workers, and run it again."
SHM = (
    "The shared memory of this machine, /dev/shm, is too small; enlarge it (`shm` of cluster.yaml, docker run "
    "--shm-size 2g) or set workers to 0."
)
KILLED = (
    "A loader process was killed, most likely for want of memory or of /dev/shm; give more of them or set fewer "
    "workers, and run it again: it goes on from its last checkpoint."
)
PROCESSES = (
    "No further process or thread can be started; raise their limit (ulimit -u, docker run --pids-limit) or set fewer "
    "workers, and run it again."
)
MEMORY = (
    "Memory ran out; free some, use a larger machine, or set a smaller batch_size or fewer workers, and run it again."
)
DISK = "The disk of the outputs, of build/ or of TMPDIR: the disk is full; free space and run it again."
IN_WORKER = "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\nOSError: {}"
SAID: list[tuple[Exception, str]] = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), GPU),
    (RuntimeError("CUDA error: out of memory"), GPU),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), GPU),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a/file"), FILES),
    (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), FILES),
    (RuntimeError("received 0 items of ancdata"), FILES),
    (RuntimeError("unable to open shared memory object </torch_1_2>: Too many open files (24)"), FILES),
    (OSError(IN_WORKER.format("[Errno 24] Too many open files: 'a'")), FILES),
    (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"), SHM),
    (RuntimeError("unable to write to file </torch_12_34_0>: No space left on device (28)"), SHM),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
                  "are out of shared memory. Please try to raise your shared memory limit."), SHM),
    (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), KILLED),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), KILLED),
    (RuntimeError("can't start new thread"), PROCESSES),
    (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), PROCESSES),
    (MemoryError(), MEMORY),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), MEMORY),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), MEMORY),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DISK),
    (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), DISK),
    (OSError(IN_WORKER.format("[Errno 28] No space left on device")), DISK),
    (OSError("AF_UNIX path too long"), "The name of the folder for temporary files is too long for sockets; set TMPDIR "
                                       "to a shorter one, such as /tmp."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "sentence"), SAID, ids=lambda value: "" if isinstance(value, str) else repr(value)[:60]
)
def test_what_a_library_says_becomes_one_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(SimipuError) as told, machine_errors():
        raise error
    assert str(told.value) == sentence
    assert isinstance(told.value, InterruptionError) == (sentence == KILLED)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))), machine_errors():
        raise error


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENOTCONN])
def test_a_mount_or_permission_that_fails_is_told_with_the_folder(code: int) -> None:
    sentence = (
        rf"^error: data/own: cannot be read or written \({os.strerror(code)}\); look at its permissions, its disk"
    )
    with pytest.raises(SystemExit, match=sentence), plain_errors():
        raise OSError(code, os.strerror(code), Path("data/own"))
    with pytest.raises(FileNotFoundError), plain_errors():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "data/own")


def test_what_the_encoding_of_the_output_lacks_is_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, "latin-1"))
    with plain_errors():
        print("3/4 · 5 s → out", flush=True)
    assert written.getvalue() == b"3/4 \xb7 5 s \\u2192 out\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EOFError("unexpected EOF"), "the fork server ended"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "[Errno 1] Operation not permitted"),
        (OSError(errno.ENOSYS, "Function not implemented"), "[Errno 38] Function not implemented"),
    ],
)
def test_processes_that_cannot_be_started_are_told(error: Exception, reason: str) -> None:
    with pytest.raises(SimipuError) as told, starting():
        raise error
    assert str(told.value) == (
        f"No process can be started here ({reason}); allow `fork`, and raise the limit of processes (ulimit -u, docker "
        "run --pids-limit)."
    )


def run(
    code: str, *, before: Callable[[], object] | None = None, shell: str = "", **environment: str
) -> tuple[int, str, str]:
    """Run a program: its exit code and what it writes; `shell` is done before, in a world of mounts of its own."""
    program = "from simipu_core.errors import plain_errors\nwith plain_errors():\n" + "".join(
        f"    {line}\n" for line in code.splitlines()
    )
    command = [sys.executable, "-c", program]
    if shell:
        command = ["unshare", "--mount", "sh", "-ec", f'{shell}\nexec "$@"', "sh", *command]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def limit(kind: int, value: int) -> Callable[[], object]:
    return lambda: resource.setrlimit(kind, (value, value))


@pytest.fixture
def mounts() -> None:
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("file systems cannot be mounted here")


def test_too_few_file_handles_are_told() -> None:
    code = "kept = [open('/dev/null') for _ in range(64)]"
    assert run(code, before=limit(resource.RLIMIT_NOFILE, 32)) == (1, "", f"error: {FILES}\n")


def test_too_little_memory_is_told() -> None:
    code = "import numpy\nnumpy.ones(1 << 33)"
    assert run(code, before=limit(resource.RLIMIT_DATA, 1 << 32)) == (1, "", f"error: {MEMORY}\n")


def test_a_long_name_of_the_temporary_folder_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    code = "from simipu_core.parallel import map_frames\nprint(list(map_frames(abs, [-1, 2], 'x', workers=1)))"
    ended, said, _ = run(code, TMPDIR=str(folder))
    assert (ended, said.splitlines()[-1]) == (0, "[1, 2]")


def test_without_any_short_folder_the_long_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, parent: Path) -> None:
        assert parent == Path("/tmp")
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    folder = "/" + 52 * "d"
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setattr(parallel, "temporary_folder", refuse)
    with pytest.raises(SimipuError) as told:
        parallel.keep_sockets.__wrapped__()
    assert str(told.value) == (
        f"{folder}: is too long a name for the sockets of worker processes, and /tmp cannot be written; set TMPDIR to "
        "a folder of at most 52 characters."
    )


@pytest.mark.slow
def test_where_neither_code_nor_home_can_be_written_is_compiled_all_the_same(tmp_path: Path, mounts: None) -> None:
    shell = f"mount --bind {ROOT} {ROOT}; mount -o remount,bind,ro {ROOT}; mount -t tmpfs -o ro tmpfs {tmp_path}"
    code = (
        "import numpy\nfrom simipu_core.data.formats.pcd import lzf_decompress\n"
        "made = numpy.empty(1, 'u1')\nprint(lzf_decompress(numpy.array([0, 7], 'u1'), made), made)"
    )
    assert run(code, shell=shell, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)) == (0, "1 [7]\n", "")


LOADER = """
import os, signal, sys
import torch
from simipu_core.data.loader import SampleOrder, batches
sys.path.insert(0, {folder!r})
from rows import Rows, make
for batch in batches(Rows(), SampleOrder([8], 2, 0), make, steps=range(4), workers=2): pass
"""
ROWS = """
import os, signal
import torch
class Rows:
    group_sizes = [8]
    def row(self, index): return index
    def expect(self, indices): pass
def make(rows, rngs):
    {what}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "shell", "sentence"),
    [
        ("return torch.ones(1 << 20)", "mount -t tmpfs -o size=1m tmpfs /dev/shm", SHM),
        ("os.kill(os.getpid(), signal.SIGKILL)", "", KILLED),
        ("return [open('/dev/null') for _ in range(1 << 20)]", "", FILES),
    ],
)
def test_loader_processes_that_lack_something_are_told(
    tmp_path: Path, mounts: None, what: str, shell: str, sentence: str
) -> None:
    (tmp_path / "rows.py").write_text(ROWS.format(what=what))
    code, _, said = run(LOADER.format(folder=str(tmp_path)), shell=shell, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert f"error: {sentence}" in said.splitlines()


NO_FORK = """
import errno, os, sys
if any("forkserver" in word for word in sys.orig_argv):
    def fork(): raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    os.fork = fork
"""


@pytest.mark.slow
def test_a_fork_server_that_cannot_fork_is_told(tmp_path: Path) -> None:
    (tmp_path / "numba_without_fork.py").write_text(NO_FORK)  # the fork server loads what is called so
    code = "import numba_without_fork\nfrom simipu_core.parallel import map_frames\n"
    code += "list(map_frames(abs, [1], 'x', workers=1))"
    ended, _, said = run(code, PYTHONPATH=str(tmp_path))
    assert (ended, said.splitlines()[-1]) == (
        1,
        "error: No process can be started here (the fork server ended); allow `fork`, and raise the limit of processes "
        "(ulimit -u, docker run --pids-limit).",
    )
