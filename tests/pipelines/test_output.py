import io
import json
import logging
import sys

import pytest

from pipelines.output import StepLines, step_lines

DUMP = json.dumps({"inputs": {"uri": "error: not this one"}}, indent=4)


def streamed(text: str) -> str:
    """As kfp.local prints a subprocess: every line indented, an empty one at the end, then a rule."""
    return "".join(f"    {line}\n" for line in text.splitlines()) + "    \n\n" + "-" * 80 + "\n"


def test_only_the_steps_own_lines_are_shown() -> None:
    shown = io.StringIO()
    lines = StepLines(shown)
    text = (
        "[KFP Executor 2026-01-01 00:00:00,000 INFO]: Looking for component\n"
        f"[KFP Executor 2026-01-01 00:00:00,000 INFO]: Got executor_input:\n{DUMP}\n"
        "pretrain 3/17 · 5 s\n"
        "  indented · of the step\n"
        "[KFP Executor 2026-01-01 00:00:00,000 INFO]: Wrote executor output file to x.\n"
    )
    for character in streamed(text):  # however the text is cut
        lines.write(character)
    assert shown.getvalue() == "pretrain 3/17 · 5 s\n  indented · of the step\n"
    assert lines.error is None


def test_the_cause_is_kept_for_the_end() -> None:
    shown = io.StringIO()
    lines = StepLines(shown)
    lines.write(streamed("ingest 1/2 · 0 s\nerror: data: no frames; look elsewhere.\n"))
    assert shown.getvalue() == "ingest 1/2 · 0 s\n"
    assert lines.error == "data: no frames; look elsewhere."


def test_everything_is_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout

    def fail() -> None:
        print("    a step's line")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), step_lines():
        fail()
    assert sys.stdout is before
    assert logging.root.manager.disable == logging.NOTSET
    assert capsys.readouterr().out == "a step's line\n"
