"""Commands about settings."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.text import Text

from simipu_core.cli.options import ExperimentOption, SetOption, load
from simipu_core.config import Experiment


def config(
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="List every key with its type, default and meaning instead.")
    ] = False,
) -> None:
    """Print an experiment's settings in full, or explain every setting there is.

    Example: `simipu config --experiment kitti_sample --set finetune.epochs=3`
    """
    if explain:
        console = Console(highlight=False)
        for key, kind, default, meaning in explained(Experiment):
            console.print(Text.assemble((key, "bold"), f"  {kind}{default}"), soft_wrap=True)
            console.print(Text(f"    {meaning}"), soft_wrap=True)
        return
    values = load(experiment, overrides).model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


def explained(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of every setting below a section."""
    for name, field in model.model_fields.items():
        key, kind = f"{prefix}{name}", field.annotation
        meaning = " ".join((field.description or "").split())
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield f"{key}:", "", "", meaning
            yield from explained(kind, f"{key}.")
            continue
        yield key, _type_name(kind), _default(field.get_default(call_default_factory=False)), meaning
        for item in get_args(kind):
            if isinstance(item, type) and issubclass(item, BaseModel):
                yield from explained(item, f"{key}[].")


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    return re.sub(r"typing\.|simipu_core(\.\w+)*\.", "", str(kind)).replace("None", "null")


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return ", required"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return f", default {len(value)} entries"
    return f", default {json.dumps(value)}"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Settings and models")(config)
