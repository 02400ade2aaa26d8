"""Sends a run's entries in the background, in order, whatever becomes of the server.

Entries are appended to a file on the local disk, from which one thread sends them. So neither a slow server nor one
that is down holds up training or fills the memory, and at the end what could not be sent is simply the file's rest.
"""

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

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


class Outbox:
    """The entries of one run that are on their way.

    Args:
        send: sends one entry, or raises.
        place: name of the server, for messages.
    """

    def __init__(self, send: Callable[[Entry], None], place: str) -> None:
        self._send = send
        self._place = place
        self._folder = Path(tempfile.mkdtemp(prefix="simipu-outbox-"))
        self._file = self._folder / "entries.jsonl"
        self._file.touch()
        self._changed = threading.Condition()
        self._written = 0
        """Bytes in the file."""
        self._sent = 0
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
            if self._sent == self._written and self._sent:
                self._file.write_bytes(b"")
                self._sent = self._written = 0
            with self._file.open("ab") as file:
                file.write(line)
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
            with self._file.open("rb") as file:
                file.seek(self._sent)
                rest = file.read(self._written - self._sent).decode().splitlines(keepends=True)
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._refused:
            _warn(f"MLflow at {self._place} refused {len(self._refused)} entries of this run ({self._refused[0]}).")
        if self._dropped:
            _warn(f"{self._dropped} entries were not recorded: MLflow at {self._place} was away for too long.")
        return rest

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while self._wait_for_work():
            with self._changed, self._file.open("rb") as file:
                file.seek(self._sent)
                lines = list(islice(file, _LINES_A_ROUND))
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


def _warn(sentence: str) -> None:
    print(f"warning: {redacted(sentence)}", file=sys.stderr, flush=True)
