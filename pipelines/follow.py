"""Watch a run on Kubeflow until it ends, and say why it failed."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipelines.api import ApiError
from pipelines.client import Client
from pipelines.output import StepLines
from pipelines.states import FINISHED, StepState, duration, steps
from simipu_core.errors import SimipuError

_LAST_LINES = 20
_STYLES = {"running": "cyan", "succeeded": "green", "cached": "green", "failed": "bold red", "canceled": "yellow"}


class Outcome(IntEnum):
    """How a watched run ended, as an exit code."""

    SUCCEEDED = 0
    FAILED = 1
    CANCELED = 3
    UNKNOWN = 4
    """The server could not be asked any more; the run may go on."""


class Pace(NamedTuple):
    """How often the server is asked, and how long its absence is borne, in seconds."""

    poll_s: float = 5.0
    patience_s: float = 600.0


class Cause(NamedTuple):
    """Why a step failed."""

    step: str
    sentence: str | None
    """The step's own words."""
    log: str
    """The end of its log, where it left no sentence."""


def follow(client: Client, run_id: str, console: Console, pace: Pace | None = None) -> Outcome:
    """Show the steps' states until the run has ended, then the cause of a failure.

    A server that goes away is asked again until its absence has lasted longer than `pace` allows.

    Args:
        client: session with the server.
        run_id: the run.
        console: where the states are shown: a table that changes on a terminal, else one line per change.
        pace: how often and how long.

    Returns:
        How it ended.

    Raises:
        KeyboardInterrupt: as it comes, after saying that the run goes on.
    """
    pace = pace or Pace()
    try:
        run = _watch(client, run_id, console, pace)
    except SimipuError as error:
        _say(console, f"error: {error}")
        _say(console, f"How the run ends is not known; it may go on. {_how_to_go_on(run_id)}")
        return Outcome.UNKNOWN
    except KeyboardInterrupt:
        _say(console, f"The run goes on. {_how_to_go_on(run_id)}")
        raise
    if run.state in ("SUCCEEDED", "SKIPPED"):
        _say(console, f"{run.display_name} succeeded.")
        return Outcome.SUCCEEDED
    if run.state == "CANCELED":
        _say(console, f"{run.display_name} was cancelled.")
        return Outcome.CANCELED
    show_failure(client, run, console)
    return Outcome.FAILED


def show_failure(client: Client, run: Any, console: Console) -> None:
    """Say why a run failed: each failed step's own sentence, or else the end of its log."""
    found = list(causes(client, run))
    for cause in found:
        if cause.log:
            _say(console, cause.log)
        _say(console, f"error: {cause.step}: {cause.sentence or 'failed, see the lines above'}")
    if not found:
        said = run.error.message if run.error else None
        _say(
            console, f"error: {run.display_name} failed{f': {said}' if said else ''}; {client.url('runs', run.run_id)}"
        )


def causes(client: Client, run: Any) -> Iterator[Cause]:
    """Why the run's failed steps failed, from their logs where these can be had.

    Args:
        client: session with the server.
        run: ``V2beta1Run`` that failed.
    """
    for step in steps(run):
        if step.state != "failed":
            continue
        log = next((text for pod in step.pods if (text := client.log(run.run_id, pod)) is not None), None)
        sentence, end = _read(log or "")
        if sentence is None and not end:
            namespace = client.namespace or "kubeflow"
            where = f"its log: kubectl logs -n {namespace} -l pipeline/runid={run.run_id} -c main --prefix"
            sentence = f"{step.error or 'failed'}; {where}"
        yield Cause(step.name, sentence, "" if sentence else end)


def steps_table(run: Any) -> Table:
    """The run's steps with states and times."""
    table = Table(
        title=f"{run.display_name} · {str(run.state or 'PENDING').lower()}", title_justify="left", min_width=60
    )
    table.add_column("step")
    table.add_column("state")
    table.add_column("time", justify="right")
    for step in steps(run):
        table.add_row(step.name, f"[{_STYLES.get(step.state, 'dim')}]{step.state}[/]", clock(step.seconds))
    return table


def run_seconds(run: Any) -> float | None:
    """How long the run took, or has taken until now."""
    return duration(run.created_at, run.finished_at, run.state not in FINISHED)


def clock(seconds: float | None) -> str:
    """A duration for people: ``1:02:03``, ``4:05``."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _watch(client: Client, run_id: str, console: Console, pace: Pace) -> Any:
    """Poll until the run has ended; gives the run."""
    lost_since: float | None = None
    with _display(console) as show:
        while True:
            try:
                run = client.run(run_id)
                show(run)
                lost_since = None
                if run.state in FINISHED:
                    return run
            except ApiError as error:
                now = time.monotonic()
                if lost_since is None:
                    lost_since = now
                    if error.transient:
                        _say(console, f"{error} Trying again for {clock(pace.patience_s)} …")
                if not error.transient or now - lost_since > pace.patience_s:
                    raise
            time.sleep(pace.poll_s)


class _Show(Protocol):
    def __call__(self, run: Any) -> None: ...


@contextmanager
def _display(console: Console) -> Iterator[_Show]:
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda run: live.update(steps_table(run))
        return
    before: dict[str, str] = {}

    def show_changes(run: Any) -> None:
        for step in steps(run):
            if step.state != before.get(step.name, "waiting"):
                _say(console, f"{step.name} {step.state}{_after(step)}")
            before[step.name] = step.state

    yield show_changes


def _after(step: StepState) -> str:
    return f" · {clock(step.seconds)}" if step.seconds is not None and step.state != "running" else ""


def _read(log: str) -> tuple[str | None, str]:
    """The step's own sentence, if it left one, and the last of its lines, without those of the runner."""
    shown = io.StringIO()
    lines = StepLines(shown)
    lines.write(log if log.endswith("\n") else log + "\n")
    return lines.error, "\n".join(shown.getvalue().splitlines()[-_LAST_LINES:])


def _how_to_go_on(run_id: str) -> str:
    command = "python -m pipelines"
    return f"Follow it with `{command} status {run_id} --wait`, stop it with `{command} cancel {run_id}`."


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
