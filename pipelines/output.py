"""What a local pipeline run shows: the steps' own lines, without the runner's."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

_ERROR = "error: "
_INDENT = 4


class StepLines(io.TextIOBase):
    """Passes on the lines of steps that kfp.local prints, drops its own, and keeps the last error."""

    def __init__(self, target: TextIO) -> None:
        self.error: str | None = None
        self._target = target
        self._rest = ""
        self._in_input_dump = False

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line[_INDENT:] if line[:_INDENT].isspace() else line)
        return len(text)

    def _line(self, line: str) -> None:
        if self._in_input_dump:
            self._in_input_dump = line != "}"
        elif line.startswith("[KFP Executor"):
            self._in_input_dump = line.endswith("Got executor_input:")
        elif line.startswith(_ERROR):
            self.error = line.removeprefix(_ERROR)
        elif line.strip("- "):
            self._target.write(line + "\n")
            self._target.flush()


@contextmanager
def step_lines() -> Iterator[StepLines]:
    """Quieten kfp.local inside the block; the steps' progress stays visible as it comes."""
    lines = StepLines(sys.stdout)
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(lines), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="kfp")
            yield lines
    finally:
        logging.disable(logging.NOTSET)
