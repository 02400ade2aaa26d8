"""Watch a run on Kubeflow until it ends, and say why it failed."""

import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.api import ApiError
from pipelines.client import Client
from pipelines.limits import within
from pipelines.output import StepLines
from pipelines.states import FINISHED, StepState, duration, state
from simipu_core.errors import SimipuError

_MLFLOW_STATUS = {"SUCCEEDED": "FINISHED", "CANCELED": "KILLED"}
_MLFLOW_S = 20.0
"""How long MLflow may take to end what was left open."""
_LAST_LINES = 20
_FEWEST_LINES = 5
_NOTED = ("pending", "running", "retrying")
"""States in which a step's cause tells what it waits for, or why it was begun again."""
_STYLES = {
    "running": "cyan",
    "pending": "yellow",
    "retrying": "yellow",
    "succeeded": "green",
    "cached": "green",
    "failed": "bold red",
    "canceled": "yellow",
}


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
    outage_timeout_s: float = 600.0
    longest_s: float = 30.0
    """Between two questions while nothing changes; an answer is large."""


class Cause(NamedTuple):
    """Why a step failed."""

    step: str
    sentences: Sequence[str]
    """What Kubernetes says, then the step's own words."""
    log: str
    """The end of its log, where there are none."""


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
        KeyboardInterrupt, SystemExit: as it comes, after saying that the run goes on.
    """
    pace = pace or Pace()
    try:
        run, steps = _watch(client, run_id, console, pace)
    except SimipuError as error:
        _say(console, f"error: {error}")
        _say(console, f"How the run ends is not known; it may go on. {_how_to_go_on(run_id)}")
        return Outcome.UNKNOWN
    except (KeyboardInterrupt, SystemExit):
        _say(console, f"The run goes on. {_how_to_go_on(run_id)}")
        raise
    outcome = Outcome.FAILED
    match state(run):
        case "SUCCEEDED" | "SKIPPED":
            _say(console, f"{run.display_name} succeeded.")
            outcome = Outcome.SUCCEEDED
        case "CANCELED":
            _say(console, f"{run.display_name} was cancelled.")
            outcome = Outcome.CANCELED
        case _:
            show_failure(client, run, steps, console)
    end_tracking(run, console)
    return outcome


def end_tracking(run: Any, console: Console) -> None:
    """End in MLflow what killed steps of a run that is over left open, if MLFLOW_TRACKING_URI says where it is.

    Args:
        run: ``V2beta1Run``.
        console: where it is said.
    """
    if run.state not in FINISHED or not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    from simipu_core.tracking.pipeline_run import end_killed

    try:
        ended = within(_MLFLOW_S, partial(end_killed, run.run_id, _MLFLOW_STATUS.get(state(run), "FAILED")))
    except SimipuError as error:
        _say(console, f"warning: {error}")
    except TimeoutError:
        _say(console, f"warning: MLflow does not answer within {_MLFLOW_S:g} s; runs may be left open there.")
    else:
        if ended:
            _say(console, f"Ended in MLflow, where they were left open: {', '.join(ended)}")


def show_failure(client: Client, run: Any, steps: Sequence[StepState], console: Console) -> None:
    """Say why a run failed: what Kubernetes says of each failed step and its own sentences, or the end of its log."""
    found = list(causes(client, run, steps))
    for cause in found:
        if cause.log:
            _say(console, cause.log)
        for sentence in cause.sentences or ["failed, see the lines above"]:
            _say(console, f"error: {cause.step}: {sentence}")
    if not found:
        said = run.error.message if run.error else None
        _say(
            console, f"error: {run.display_name} failed{f': {said}' if said else ''}; {client.url('runs', run.run_id)}"
        )


def causes(client: Client, run: Any, steps: Sequence[StepState]) -> Iterator[Cause]:
    """Why the run's failed steps failed, from Kubernetes and from their logs where these can be had.

    Args:
        client: session with the server.
        run: ``V2beta1Run`` that failed.
        steps: of the run.
    """
    failed = [step for step in steps if step.state == "failed"]
    number = max(_FEWEST_LINES, _LAST_LINES // max(1, len(failed)))
    for step in failed:
        log = next((text for pod in step.pods if (text := client.log(run.run_id, pod)) is not None), "")
        sentences, end = _read(log, number)
        if step.cause:
            sentences = [f"{step.cause}; it said: {said}" for said in sentences] or [step.cause]
        elif not sentences and not end:
            namespace = next((pod.namespace for pod in step.pods), client.namespace or "kubeflow")
            logs = f"kubectl logs -n {namespace} -l pipeline/runid={run.run_id} -c main --prefix"
            sentences = [f"failed; its log: {logs}"]
        yield Cause(step.name, sentences, "" if sentences else end)


def steps_table(run: Any, steps: Sequence[StepState]) -> RenderableType:
    """The run's steps with states and times, and below them what keeps one from going on."""
    title = Text(f"{run.display_name} · {state(run).lower()}", style="italic")
    table = Table(min_width=60)
    table.add_column("step")
    table.add_column("state")
    table.add_column("time", justify="right")
    for step in steps:
        stands = Text().append(step.state, _STYLES.get(step.state, "dim"))
        if step.attempts > 1:
            stands.append(f", attempt {step.attempts}")
        table.add_row(Text(step.name), stands, clock(step.seconds))
    notes = (f"{step.name}: {step.cause}" for step in steps if step.cause and step.state in _NOTED)
    return Group(title, table, *(Text(note) for note in notes))


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


def _watch(client: Client, run_id: str, console: Console, pace: Pace) -> tuple[Any, list[StepState]]:
    """Poll until the run has ended; gives the run and its steps."""
    lost_since: float | None = None
    pause = pace.poll_s
    before: list[tuple[str, int]] = []
    with _display(console) as show:
        while True:
            try:
                run = client.run(run_id)
                steps = client.steps(run)
                show(run, steps)
                lost_since = None
                if run.state in FINISHED:
                    return run, steps
                now = [(step.state, step.attempts) for step in steps]
                pause = pace.poll_s if now != before else min(2 * pause, max(pace.longest_s, pace.poll_s))
                before = now
            except ApiError as error:
                moment = time.monotonic()
                if lost_since is None:
                    lost_since = moment
                    if error.transient:
                        _say(console, f"{error} Trying again for {clock(pace.outage_timeout_s)} …")
                if not error.transient or moment - lost_since > pace.outage_timeout_s:
                    raise
                pause = pace.poll_s
            time.sleep(pause)


class _Show(Protocol):
    def __call__(self, run: Any, steps: Sequence[StepState], /) -> None: ...


@contextmanager
def _display(console: Console) -> Iterator[_Show]:
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda run, steps: live.update(steps_table(run, steps))
        return
    before: dict[str, tuple[str, int]] = {}
    told: set[tuple[str, str]] = set()

    def show_changes(_: Any, steps: Sequence[StepState]) -> None:
        for step in steps:
            now = (step.state, step.attempts if step.attempts > 1 else 1)
            if now != before.get(step.name, ("waiting", 1)):
                again = f", attempt {step.attempts}" if step.attempts > 1 else ""
                _say(console, f"{step.name} {step.state}{again}{_after(step)}")
            before[step.name] = now
            if step.cause and step.state in _NOTED and (step.name, step.cause) not in told:
                told.add((step.name, step.cause))
                _say(console, f"{step.name}: {step.cause}")

    yield show_changes


def _after(step: StepState) -> str:
    return f" · {clock(step.seconds)}" if step.seconds is not None and step.state not in _NOTED else ""


def _read(log: str, number: int) -> tuple[list[str], str]:
    """The step's own sentences or else the launcher's, if there are any, and the last of its lines."""
    shown = io.StringIO()
    lines = StepLines(shown)
    lines.write(log if log.endswith("\n") else log + "\n")
    sentences = lines.problems or ([lines.launcher_error] if lines.launcher_error else [])
    return sentences, "\n".join(shown.getvalue().splitlines()[-number:])


def _how_to_go_on(run_id: str) -> str:
    command = "python -m pipelines"
    return f"Follow it with `{command} status {run_id} --wait`, stop it with `{command} cancel {run_id}`."


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
