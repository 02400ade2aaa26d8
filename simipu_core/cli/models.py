"""Commands about registered models."""

from typing import Annotated

import typer

from simipu_core.cli.options import ExperimentOption, SetOption, load


def promote(
    version: Annotated[int, typer.Argument(min=1, help="Number of the registered version.")],
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Make a registered model version the champion; the champion before it becomes `previous`.

    Example: `simipu promote 3`
    """
    tracking = load(experiment, overrides).tracking
    from simipu_core.tracking import registry

    made = registry.promote(version, tracking)
    print(f"{made.name} version {made.version} is now {made.alias}")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Settings and models")(promote)
