import io
import json
import logging
import sys

import pytest

from pipelines.output import StepLines, show_anything, step_lines

DUMP = json.dumps({"inputs": {"uri": "error: not this one"}}, indent=4)


def streamed(text: str) -> str:
    """As kfp.local prints a subprocess: every line indented, an empty one at the end, then a rule."""
    return "".join(f"    {line}\n" for line in text.splitlines()) + "    \n\n" + "-" * 80 + "\n"


def test_only_the_steps_own_lines_are_shown() -> None:
    shown = io.StringIO()
    lines = StepLines(shown, indent=4)
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
    assert lines.problems == []


def test_the_cause_is_kept_for_the_end() -> None:
    shown = io.StringIO()
    lines = StepLines(shown, indent=4)
    lines.write(streamed("ingest 1/2 · 0 s\nerror: data: no frames; look elsewhere.\n"))
    assert shown.getvalue() == "ingest 1/2 · 0 s\n"
    assert lines.problems == ["data: no frames; look elsewhere."]


def test_all_problems_that_were_found_at_once_are_kept() -> None:
    lines = StepLines(io.StringIO())
    lines.write("error: of an attempt before\ntrying again\nerror: `promotion`: no\nerror: `result_name`: no\n\ngone\n")
    assert lines.problems == ["`promotion`: no", "`result_name`: no"]


POD = """\
time=2026-11-26T21:01:16.752Z level=INFO msg="capturing logs" argo=true
I1126 21:01:16.793050      14 main.go:67] Setting log level to: '1'
I1126 21:01:16.806000      14 main.go:333] input ComponentSpec:{
  "executorLabel": "exec-finetune"
}
[KFP Executor 2026-11-26 21:01:17,163 INFO]: Got executor_input:
{
    "inputs": {}
}
finetune 1/2 · 5 s
Traceback (most recent call last):
  File "loop.py", line 3, in step
    raise RuntimeError
E1126 21:01:17.177581      14 launcher_v2.go:449] Component failed to execute successfully: exit status 1
F1126 21:01:17.201567      14 main.go:59] failed to execute component: exit status 1
time=2026-11-26T21:01:17.753Z level=INFO msg="sub-process exited" argo=true error="exit status 1"
Error: exit status 1
"""


def test_lines_of_launcher_and_argo_are_dropped() -> None:
    shown = io.StringIO()
    lines = StepLines(shown)
    lines.write(POD)
    assert shown.getvalue().splitlines() == [
        "finetune 1/2 · 5 s",
        "Traceback (most recent call last):",
        '  File "loop.py", line 3, in step',
        "    raise RuntimeError",
    ]
    assert (lines.problems, lines.launcher_error) == ([], None)


def test_what_kept_the_launcher_from_beginning_is_kept() -> None:
    shown = io.StringIO()
    lines = StepLines(shown)
    why = 'failed to download input artifact "depth"'
    lines.write(f"F1126 21:04:29.732091      16 main.go:59] failed to execute component: {why}\n")
    assert (shown.getvalue(), lines.launcher_error) == ("", why)


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


def test_what_an_encoding_lacks_is_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    show_anything()
    print("a · \udcff", flush=True)
    assert shown.getvalue() == b"a ? ?\n"
