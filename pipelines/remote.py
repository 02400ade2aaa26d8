"""Commands that run the pipeline on Kubeflow."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.options import ClusterOption, DataImageOption, ImageOption, SweepOption, chosen, placed
from pipelines.rows import Rows, title
from simipu_core.artifacts import code_revision
from simipu_core.cli.options import ExperimentOption, SetOption
from simipu_core.errors import SimipuError

if TYPE_CHECKING:
    from pipelines.client import Client
    from pipelines.cluster import Cluster
    from pipelines.submission import Package

app = typer.Typer()


def _text(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Refuse what is no text, and an id that is empty."""
    name, is_id = parameter.opts[0], parameter.param_type_name == "argument"
    if is_id and value is not None and not value.strip():
        raise SimipuError(f"{name}: it is empty; give the id, as the list shows it.")
    if value and value != value.encode("utf-8", "replace").decode():
        raise SimipuError(f"{name}: it is no text in UTF-8; give another.")
    return value


HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="URL",
        help="Address of Kubeflow Pipelines; KFP_ENDPOINT by default. Credentials come from KFP_TOKEN, KFP_TOKEN_FILE, "
        "KFP_COOKIE, KFP_COOKIE_FILE or, in a pod, its service account.",
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="Your Kubeflow profile; KFP_NAMESPACE by default.", callback=_text
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="Raw frames, s3:// or a folder that all pods see, instead of the experiment's own.", metavar="URI"
    ),
]
AccountOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Account of the pods, e.g. simipu-steps of deploy/; the server's own by default."
    ),
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Run every step, whatever has been computed before.")]
WaitOption = Annotated[
    bool,
    typer.Option("--wait", help="Show the steps until the run ends; exit 0 succeeded, 1 failed, 3 cancelled, 4 lost."),
]


@app.command()
def submit(
    experiment: ExperimentOption = "demo",
    sweep: SweepOption = None,
    data: DataOption = None,
    wait: WaitOption = False,
    no_cache: NoCacheOption = False,
    cluster: ClusterOption = None,
    image: ImageOption = None,
    data_image: DataImageOption = None,
    run_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the run; experiment, revision and time by default.", callback=_text),
    ] = None,
    service_account: AccountOption = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    overrides: SetOption = None,
) -> None:
    """Start a run on Kubeflow."""
    from pipelines.client import Client
    from pipelines.connection import find
    from pipelines.follow import follow
    from pipelines.submission import run_name as usual_name

    rows = chosen(experiment, overrides, sweep=sweep, data=data)
    client = Client(find(host, namespace))  # first, as what follows may take minutes
    package, values = _prepare(client, rows, no_cache, placed(cluster, image, data_image))
    run = client.submit(package, run_name or usual_name(rows), values, _about(rows), service_account)
    print(f"Run      {run.run_id}  {run.display_name}")
    print(f"See      {client.url('runs', run.run_id)}", flush=True)
    if wait:
        raise typer.Exit(follow(client, run.run_id, Console()))


@app.command()
def upload(
    experiment: ExperimentOption = "demo",
    sweep: SweepOption = None,
    version: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the version; experiment and git revision by default.", callback=_text
        ),
    ] = None,
    no_cache: NoCacheOption = False,
    cluster: ClusterOption = None,
    image: ImageOption = None,
    data_image: DataImageOption = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    overrides: SetOption = None,
) -> None:
    """Make the pipeline, or a new version of it, from which runs start in Kubeflow's UI."""
    from pipelines.client import Client
    from pipelines.connection import find
    from pipelines.submission import pack, version_name

    rows = chosen(experiment, overrides, sweep=sweep)
    client = Client(find(host, namespace))
    package = _fitted(client, pack(rows, not no_cache, placed(cluster, image, data_image)))
    made = client.upload(package, version or version_name(rows), _about(rows))
    note = "" if made.is_new else " (the same content is there already, under this name)"
    print(f"Version  {made.version_id}  {made.name}{note}")
    print(f"See      {client.url('pipelines', made.pipeline_id)}/version/{made.version_id}")


@app.command()
def schedule(
    experiment: ExperimentOption = "demo",
    sweep: SweepOption = None,
    cron: Annotated[
        str | None,
        typer.Option(metavar="CRON", help='When, e.g. "30 3 * * 1"; in the cluster\'s time zone, mostly UTC.'),
    ] = None,
    every: Annotated[str | None, typer.Option(metavar="INTERVAL", help="How often, e.g. 6h or 1d.")] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the schedule; the experiment's by default.", callback=_text),
    ] = None,
    data: DataOption = None,
    no_cache: NoCacheOption = False,
    cluster: ClusterOption = None,
    image: ImageOption = None,
    data_image: DataImageOption = None,
    service_account: AccountOption = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    overrides: SetOption = None,
) -> None:
    """Start runs again and again, with the code and data of now: without --no-cache they come from the cache."""
    from pipelines.client import Client, Trigger
    from pipelines.connection import find
    from pipelines.submission import cron_expression, interval_seconds, version_name

    if (cron is None) == (every is None):
        raise SimipuError('give either --cron, e.g. "30 3 * * 1", or --every, e.g. 1d.')
    trigger = Trigger(every_s=interval_seconds(every or "")) if cron is None else Trigger(cron=cron_expression(cron))
    rows = chosen(experiment, overrides, sweep=sweep, data=data)
    client = Client(find(host, namespace))
    package, values = _prepare(client, rows, no_cache, placed(cluster, image, data_image))
    version = client.upload(package, version_name(rows), _about(rows))
    made = client.schedule(version, name or title(rows), values, trigger, _about(rows), service_account)
    print(f"Schedule {made.recurring_run_id}  {made.display_name}, version {version.name}")
    print(f"See      {client.url('recurringrun', made.recurring_run_id)}")


@app.command()
def schedules(host: HostOption = None, namespace: NamespaceOption = None) -> None:
    """List the schedules."""
    from pipelines.client import Client
    from pipelines.connection import find

    client = Client(find(host, namespace))
    rows = [
        (known.recurring_run_id, known.display_name, _when(known.trigger), str(known.status or "").lower())
        for known in client.schedules()
    ]
    Console().print(_table(("schedule", "name", "when", "state"), rows))


@app.command()
def unschedule(
    schedule: Annotated[str, typer.Argument(metavar="SCHEDULE", help="Id, as `schedules` lists it.", callback=_text)],
    host: HostOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Delete a schedule; runs that it has started go on.

    Servers before 2.16 would kill these: there it is only paused while one is under way.
    """
    from pipelines.client import Client
    from pipelines.connection import find

    Client(find(host, namespace)).unschedule(schedule)
    print(f"Schedule {schedule} deleted")


@app.command()
def status(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Id of a run; without it, the latest runs.", callback=_text)
    ] = None,
    wait: WaitOption = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many of the latest runs.")] = 10,
    host: HostOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """List the latest runs on Kubeflow, or show the steps of one."""
    from pipelines.client import Client
    from pipelines.connection import find
    from pipelines.follow import clock, end_tracking, follow, run_seconds, show_failure, steps_table
    from pipelines.states import state

    if wait and not run:
        raise SimipuError("--wait follows one run: give its id, as `status` lists it.")
    client = Client(find(host, namespace))
    console = Console()
    if run and wait:
        raise typer.Exit(follow(client, run, console))
    if run:
        known = client.run(run)
        steps = client.steps(known)
        console.print(steps_table(known, steps))
        print(f"See      {client.url('runs', run)}", flush=True)
        if state(known) == "FAILED":
            show_failure(client, known, steps, console)
        end_tracking(known, console)
        return
    rows = [
        (
            known.run_id,
            known.display_name,
            state(known).lower(),
            clock(run_seconds(known)),
            f"{known.created_at:%Y-%m-%d %H:%M} UTC" if known.created_at else "",
        )
        for known in client.runs(limit)
    ]
    console.print(_table(("run", "name", "state", "time", "started"), rows))


@app.command()
def cancel(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, as `status` lists it.", callback=_text)],
    wait: WaitOption = False,
    host: HostOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Stop a run; what its finished steps made stays in the cache."""
    from pipelines.client import Client
    from pipelines.connection import find
    from pipelines.follow import follow

    client = Client(find(host, namespace))
    print(f"Run {run} {client.cancel(run).value}", flush=True)
    if wait:
        raise typer.Exit(follow(client, run, Console()))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> Table:
    """A list of what the server tells; what is copied or searched for, as an id, is not broken in a narrow terminal."""
    table = Table()
    for column in columns:
        whole = column not in ("name", "when", "started")
        table.add_column(column, overflow="fold", justify="right" if column == "time" else "left", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text(text or "") for text in row))
    return table


def _when(trigger: Any) -> str:
    if trigger and trigger.cron_schedule:
        return str(trigger.cron_schedule.cron or "")
    if trigger and trigger.periodic_schedule:
        return f"every {trigger.periodic_schedule.interval_second} s"
    return ""


def _prepare(
    client: "Client", rows: Rows, no_cache: bool, cluster: "Cluster | None"
) -> "tuple[Package, dict[str, Any]]":
    """The compiled pipeline as the server understands it, and the values of all its parameters."""
    from pipelines.submission import data_addresses, local_addresses, pack

    package = pack(rows, not no_cache, cluster)
    addresses = data_addresses(rows, package)
    for folder in local_addresses(addresses):
        _note(f"every pod must see the folder {folder}; for data in object storage give s3://…")
    return _fitted(client, package), _defaults(package) | addresses


def _defaults(package: "Package") -> dict[str, Any]:
    """Values that the pipeline itself gives its parameters; in the IR all numbers are written as fractions."""
    declared = {name: given for name, given in package.parameters.items() if "defaultValue" in given}
    return {
        name: int(given["defaultValue"]) if given["parameterType"] == "NUMBER_INTEGER" else given["defaultValue"]
        for name, given in declared.items()
    }


def _about(rows: Rows) -> str:
    """What is run, for the lists of the UI, which cut names off."""
    revision, _, changed = code_revision().partition("+")
    return f"{title(rows)}, revision {revision[:12]}{' with uncommitted changes' if changed else ''}."


def _fitted(client: "Client", package: "Package") -> "Package":
    fitted, lacks = client.fitted(package)
    for sentence in lacks:
        _note(sentence)
    return fitted


def _note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)
