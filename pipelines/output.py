"""What a step has printed, without the lines of those that run it."""

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

_ERROR = "error: "
_LOCAL_INDENT = 4
_LAUNCHER = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\.go:\d+\] ?(.*)")
_ARGO = re.compile(r"time=\S+ level=\w+ .*\bargo=true\b.*|Error: exit status \d+")
_FATAL = re.compile(r"failed to execute \w+: (?!exit status \d+$)(.*)")
_LONGEST = 300


class StepLines(io.TextIOBase):
    """Passes on a step's own lines, drops those of its runner, and keeps the last errors.

    Args:
        target: where its own lines go.
        indent: spaces that the runner puts before every line.
    """

    def __init__(self, target: TextIO, indent: int = 0) -> None:
        self.problems: list[str] = []
        """The last of the step's words for a user: a line for each problem, where it found several at once."""
        self.launcher_error: str | None = None
        """Why the step could not even be begun, or its results not be taken."""
        self._target = target
        self._indent = indent
        self._rest = ""
        self._in_dump = False
        self._went_on = False  # since the last error

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line[self._indent :] if line[: self._indent].isspace() else line)
        return len(text)

    def _line(self, line: str) -> None:
        launcher = _LAUNCHER.fullmatch(line)
        if launcher:
            self._in_dump = launcher[2].endswith("{")
            if launcher[1] == "F" and (fatal := _FATAL.fullmatch(launcher[2])):
                self.launcher_error = fatal[1] if len(fatal[1]) <= _LONGEST else f"{fatal[1][:_LONGEST]} …"
        elif line.startswith("[KFP Executor"):
            self._in_dump = line.endswith("Got executor_input:")
        elif self._in_dump:
            self._in_dump = line != "}"
        elif line.startswith(_ERROR):
            if self._went_on:
                self.problems.clear()
            self._went_on = False
            self.problems.append(line.removeprefix(_ERROR))
        elif line.strip("- ") and not _ARGO.fullmatch(line):
            self._went_on = True
            self._target.write(line + "\n")
            self._target.flush()


def show_anything() -> None:
    """Let stdout show a question mark for what its encoding lacks, rather than fail while a run is followed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def step_lines() -> Iterator[StepLines]:
    """Quieten kfp.local inside the block; the steps' progress stays visible as it comes."""
    lines = StepLines(sys.stdout, _LOCAL_INDENT)
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(lines), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="kfp")
            yield lines
    finally:
        logging.disable(logging.NOTSET)
