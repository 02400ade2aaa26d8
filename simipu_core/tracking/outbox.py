"""Sends a run's entries in the background, in order, whatever becomes of the server.

Entries are appended to a file on the local disk, from which one thread sends them. So neither a slow server nor one
that is down holds up training or fills the memory, and at the end what could not be sent is simply the file's rest.

The file is locked until its process ends. One that nobody locks was left by a process that was killed: the next one
sends what it holds, and ends the runs that it names in its first line.
"""

import errno
import fcntl
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from simipu_core.files import lock_file
from simipu_core.redaction import redacted
from simipu_core.tracking.delivery import Entry, is_refusal, merged, read_entries

LIMIT_BYTES = 256 * 2**20
"""Unsent bytes beyond which further training values are dropped."""
SEND_EVERY = 5.0
"""Seconds that entries wait, so that several travel together."""
SEND_AT = 500
"""Entries that do not wait longer."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_LINES_A_ROUND = 500
_NAME = "simipu-outbox"
_SUFFIX = ".outbox.jsonl"


class Outbox:
    """The entries of one run that are on their way.

    Args:
        send: sends one entry, or raises.
        place: name of the server, for messages.
        folder: where the file lies; where it cannot be written the entries wait in memory.
        owned: ids of the runs that end with this process, if it is killed.
    """

    def __init__(self, send: Callable[[Entry], None], place: str, folder: Path, owned: Sequence[str] = ()) -> None:
        self._send = send
        self._place = place
        header = json.dumps(list(owned)).encode() + b"\n"
        self._file, self._descriptor = _make(folder, header)
        self._changed = threading.Condition()
        self._written = self._begin = len(header)
        """Bytes in the file, and before the first entry."""
        self._sent = self._begin
        """Bytes at its beginning that have arrived or were refused."""
        self._waiting = 0
        """Entries behind them."""
        self._oldest = 0.0
        self._deadline: float | None = None
        self._is_away = False
        self._dropped = 0
        self._refused: list[str] = []
        self._thread = threading.Thread(target=self._work, name="simipu-outbox", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Add an entry, without the secrets that its values may hold; returns at once."""
        entry = entry.model_copy(update={"values": {key: redacted(value) for key, value in entry.values.items()}})
        line = entry.line().encode()
        with self._changed:
            if entry.kind in ("metrics", "file") and self._written - self._sent + len(line) > LIMIT_BYTES:
                self._dropped += 1
                return
            if self._sent == self._written:
                os.ftruncate(self._descriptor, self._begin)
                self._sent = self._written = self._begin
            try:
                _write(self._descriptor, line, self._written)
            except OSError:  # the disk is full
                self._move_to_memory()
                _write(self._descriptor, line, self._written)
            self._written += len(line)
            if not self._waiting:
                self._oldest = time.monotonic()
            self._waiting += 1
            self._changed.notify_all()

    def close(self, patience: float) -> list[str]:
        """Send what waits, for at most `patience` seconds, then stop.

        Returns:
            the lines that were not sent; they may have arrived all the same where the server was too slow to say so.
        """
        with self._changed:
            self._deadline = time.monotonic() + patience
            self._changed.notify_all()
        self._thread.join(patience + 1)
        with self._changed:
            rest = [line.decode() for line in self._lines()]
            self._remove()
        if self._refused:
            _warn(f"MLflow at {self._place} refused {len(self._refused)} entries of this run ({self._refused[0]}).")
        if self._dropped:
            _warn(f"{self._dropped} entries were not recorded: MLflow at {self._place} was away for too long.")
        return rest

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while self._wait_for_work():
            with self._changed:
                lines = self._lines(_LINES_A_ROUND)
            try:
                for entry in merged(Entry.model_validate_json(line) for line in lines):
                    self._deliver(entry)
            except Exception as error:
                self._warn_offline(error)
                if not self._rest(pause):
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            self._log_reconnected()
            with self._changed:
                self._sent += sum(map(len, lines))
                self._waiting -= len(lines)
                self._oldest = time.monotonic()

    def _lines(self, most: int | None = None) -> list[bytes]:
        """The first lines that were not sent."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(self._sent)
            lines = islice(file, self._waiting if most is None else min(most, self._waiting))
            return list(lines)

    def _move_to_memory(self) -> None:
        rest = os.pread(self._descriptor, self._written - self._sent, self._sent)
        self._remove()
        self._file, self._descriptor = None, os.memfd_create(_NAME)
        self._begin = self._sent = 0
        self._written = len(rest)
        _write(self._descriptor, rest, 0)

    def _remove(self) -> None:
        if self._file:
            self._file.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _deliver(self, entry: Entry) -> None:
        try:
            self._send(entry)
        except Exception as error:
            if not is_refusal(error):
                raise
            self._refused.append(str(error).strip().splitlines()[0])

    def _wait_for_work(self) -> bool:
        """Whether there is something to send now; False once all is sent and no more comes, or time is up."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._deadline is not None:
                    return self._waiting > 0 and now < self._deadline
                if self._waiting >= SEND_AT or (self._waiting and now - self._oldest >= SEND_EVERY):
                    return True
                self._changed.wait(SEND_EVERY - (now - self._oldest) if self._waiting else None)

    def _rest(self, seconds: float) -> bool:
        """Pause before the next attempt; False when time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._deadline is not None, seconds)
            if self._deadline is None:
                return True
            left = self._deadline - time.monotonic()
        time.sleep(max(0.0, min(_FIRST_PAUSE, left)))
        return left > 0

    def _warn_offline(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            _warn(f"MLflow at {self._place} does not take numbers now ({reason}); they are kept and sent later.")

    def _log_reconnected(self) -> None:
        if self._is_away:
            self._is_away = False
            _warn(f"MLflow at {self._place} takes numbers again.")


@contextmanager
def claim(folder: Path) -> Iterator[str]:
    """A mark for the run that the block makes: unless the block ends well, the next process ends what bears it.

    The server may have made the run although this process was killed, or never got the answer.

    Args:
        folder: where outboxes lie.
    """
    mark = uuid.uuid4().hex
    file, descriptor = _make(folder, json.dumps([mark]).encode() + b"\n")
    try:
        yield mark
        if file:
            file.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def adopt(folder: Path, send: Callable[[Entry], None], end: Callable[[str], None]) -> int:
    """Send what killed processes left in a folder, and end their runs.

    Args:
        folder: where their outboxes lie.
        send: sends one entry, or raises.
        end: ends a run, named by its id or mark, unless it has ended, or raises.

    Returns:
        how many processes left something.

    Raises:
        MlflowException, OSError: the server does not answer; the next try begins where this one stopped.
    """
    adopted = 0
    for file in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            lock = lock_file(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        try:
            with open(lock, "rb", closefd=False) as lines:
                owned = _owned(next(lines, b""))
                for entry in merged(_whole(lines)):
                    with _refusals():
                        send(entry)
            for run_id in owned:
                with _refusals():
                    end(run_id)
            file.unlink()
            adopted += 1
        finally:
            os.close(lock)
    return adopted


def send_file(file: Path, send: Callable[[Entry], None]) -> tuple[int, int]:
    """Send the entries of a file.

    Args:
        file: what a step left behind.
        send: sends one entry, or raises.

    Returns:
        how many requests arrived, and how many were refused for good.

    Raises:
        SimipuError: the file cannot be read.
        MlflowException, OSError: the server does not answer.
    """
    arrived = refused = 0
    for entry in merged(read_entries(file)):
        try:
            send(entry)
            arrived += 1
        except Exception as error:
            if not is_refusal(error):
                raise
            refused += 1
    return arrived, refused


def _make(folder: Path, header: bytes) -> tuple[Path | None, int]:
    """A new locked file and its descriptor, or one in memory."""
    file = folder / f"{uuid.uuid4().hex}{_SUFFIX}"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = lock_file(file)
        try:
            _write(descriptor, header, 0)
        except OSError:
            file.unlink()
            os.close(descriptor)
        else:
            return file, descriptor
    descriptor = os.memfd_create(_NAME)
    _write(descriptor, header, 0)
    return None, descriptor


def _write(descriptor: int, data: bytes, offset: int) -> None:
    if os.pwrite(descriptor, data, offset) < len(data):
        raise OSError(errno.ENOSPC, "the disk is full")


def _owned(header: bytes) -> list[str]:
    with suppress(ValueError, TypeError):
        return [str(run_id) for run_id in json.loads(header)]
    return []


def _whole(lines: Iterable[bytes]) -> Iterator[Entry]:
    """The entries of a file, its last line apart where it is torn."""
    for line in lines:
        with suppress(ValidationError):
            yield Entry.model_validate_json(line)


@contextmanager
def _refusals() -> Iterator[None]:
    """Pass over what the server will never take."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise


def _warn(sentence: str) -> None:
    print(f"warning: {redacted(sentence)}", file=sys.stderr, flush=True)
