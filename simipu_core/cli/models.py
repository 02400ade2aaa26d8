"""Commands about registered models, and about runs that MLflow did not take."""

from pathlib import Path
from typing import Annotated

import typer

from simipu_core.cli.options import ExperimentOption, SetOption, load, local_place
from simipu_core.config import TrackingConfig

ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the version.", show_default=False)
]
tracking_app = typer.Typer(help="What is recorded in MLflow.", no_args_is_help=True, rich_markup_mode="markdown")


def _answering(experiment: str, overrides: list[str] | None) -> TrackingConfig:
    """The section, once the registry answers."""
    section = load(experiment, overrides).tracking
    from simipu_core.tracking.mlflow_run import check_answering  # takes seconds

    check_answering()
    return section


def models(
    repair: Annotated[
        bool, typer.Option("--repair", help="Set the aliases as the promotion log says, then list.")
    ] = False,
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
) -> None:
    """List the registered versions: aliases, scores, the gate's word, data, when and by whom.

    It also says when the champion was deleted, its alias moved without `simipu promote`, or the promotion log damaged.

    Example: `simipu models`
    """
    tracking = _answering(experiment, overrides)
    from rich.console import Console

    from simipu_core.tracking import promotion
    from simipu_core.tracking.overview import overview

    if repair:
        promotion.repair(tracking)
    overview(tracking).show(Console())


def promote(
    version: Annotated[int, typer.Argument(min=1, help="Number of the registered version.")],
    reason: ReasonOption = "",
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Make a registered model version the champion; the champion before it becomes `previous`.

    A version that did not pass the gate needs a reason.

    Example: `simipu promote 3 --reason "better at night, which the test drives lack"`
    """
    tracking = _answering(experiment, overrides)
    from simipu_core.tracking import promotion

    made = promotion.promote(version, tracking, reason=reason)
    print(f"{made.name} version {made.version} is now {made.alias}")


def rollback(
    reason: ReasonOption = "",
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Make the champion's predecessor champion again; repeated, it goes back further.

    Example: `simipu rollback --reason "fails in rain"`
    """
    tracking = _answering(experiment, overrides)
    from simipu_core.tracking import promotion

    made, left = promotion.rollback(tracking, reason=reason)
    print(f"{made.name} version {made.version} is {made.alias} again, version {left} no longer")


def fetch(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", parser=local_place, help="File to write.")] = Path(
        "build/champion.safetensors"
    ),
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Write the champion's weights to a file, for serving.

    They are refused where anything is wrong with the promotion log or an alias, where they are not the ones that were
    promoted, and, with SIMIPU_TRUSTED_KEYS set, where no trusted key signed the promotion.

    Example: `simipu fetch --out champion.safetensors`
    """
    tracking = _answering(experiment, overrides)
    from simipu_core.tracking import promotion

    version = promotion.fetch(tracking, out)
    print(f"{out}: weights of {tracking.model_name} version {version}")


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Registered version: `models:/simipu-depth@champion`, `models:/simipu-depth/3`."
        ),
    ] = "models:/simipu-depth@champion",
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5001,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with the network in its memory.")] = 1,
) -> None:
    """Answer requests for depth over HTTP, with MLflow's own server.

    Pictures go to /invocations as base64 of PNG or JPEG files, and come back as 16-bit PNG or as float32 metres
    (docs/serving.md). The version's weights are checked before; its code is run as it is stored, so serve only from a
    registry that you trust. A later champion is served from the next start on.

    Example: `simipu serve models:/simipu-depth@champion --port 5001`
    """
    from simipu_core.tracking.serve import serve as become

    become(model, host=host, port=port, workers=workers)


@tracking_app.command()
def send(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="File that a step left; by default what killed ones left."),
    ] = None,
) -> None:
    """Send what MLflow did not take while a step ran; the file is removed when all has arrived.

    Without a FILE: send what killed steps of this machine left, and mark their runs as killed, as the next step would.

    Example: `simipu tracking send build/encoder/unsent-tracking.jsonl`
    """
    from functools import partial

    from simipu_core.tracking.delivery import deliver
    from simipu_core.tracking.mlflow_run import adopt_left_behind, connect, mlflow_errors
    from simipu_core.tracking.outbox import send_file

    with mlflow_errors():
        if file is None:
            print(f"{adopt_left_behind(connect())} killed processes had left something; it is sent")
            return
        arrived, refused = send_file(file, partial(deliver, connect()))
    file.unlink()
    print(f"{file}: sent in {arrived} requests, {refused} refused; the file is removed")


@tracking_app.command()
def accounts(
    steps: Annotated[Path, typer.Option(metavar="FILE", help="File with the password of simipu-steps.")],
    promoter: Annotated[Path, typer.Option(metavar="FILE", help="File with the password of simipu-promoter.")],
    evaluate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the password of simipu-evaluate; then simipu-steps only records."),
    ] = None,
    serving: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the password of simipu-serving, which reads only.")
    ] = None,
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Make the logins of an MLflow that asks for them: the steps', that of the one that registers, the promoter's.

    It needs an administrator's login in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Repeated, it sets new
    passwords.

    Example: `simipu tracking accounts --steps steps-password --evaluate evaluate-password --promoter promoter-password`
    """
    tracking = _answering(experiment, overrides)
    from simipu_core.tracking.accounts import EVALUATE, PROMOTER, SERVING, STEPS, set_up

    optional = {user: file for user, file in ((EVALUATE, evaluate), (SERVING, serving)) if file}
    set_up(tracking, {STEPS: steps, PROMOTER: promoter, **optional})
    print(f"{EVALUATE if evaluate else STEPS} registers versions of {tracking.model_name}, {PROMOTER} promotes them")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (models, promote, rollback, fetch, serve):
        app.command(rich_help_panel="Settings, results and models")(command)
    app.add_typer(tracking_app, name="tracking", rich_help_panel="Settings, results and models")
