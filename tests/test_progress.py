import pytest

from simipu_core import progress as module
from simipu_core.progress import progress


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_SECONDS", 0.0)
    with progress("count", 3, start=1) as advance:
        advance(note="one more")
        advance()
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("count 2/3 · ")
    assert first.endswith(" · one more")
    assert last.startswith("count 3/3 · ")


def test_quick_work_prints_its_end_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("count", 50) as advance:
        for _ in range(50):
            advance()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("count", 2) as advance:
        advance(2, note="done")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "count" in captured.err
