"""Commands about settings."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union, get_args, get_origin

import typer

from simipu_core.cli.options import ExperimentOption, SetOption, load, place

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.table import Table

    from simipu_core.planning import Device, Plan, StagePlan


class Explained(NamedTuple):
    """A setting in words."""

    key: str
    """Dotted; ends in a colon where a section begins."""
    type: str
    default: str
    meaning: str


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
        from rich.console import Console
        from rich.text import Text

        from simipu_core.experiment import Experiment

        console = Console(highlight=False)
        for key, kind, default, meaning in explained(Experiment):
            console.print(Text.assemble((key, "bold"), f"  {kind}{default}"), soft_wrap=True)
            console.print(Text(f"    {meaning}"), soft_wrap=True)
        return
    import yaml

    values = load(experiment, overrides).model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


def plan(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="`demo`, a NAME in experiments/, or a YAML file.")
    ] = "demo",
    overrides: SetOption = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A known GPU: a100, h100, h200, l4 or l40s, at 31 % of its bf16 peak."),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="Throughput of one device in the stages' precision, TFLOP/s; by default an H100's: 300 in bf16, 30 in "
            "fp32.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=1e-3, help="Memory of one device, GB; by default 80, or that of --gpu.", show_default=False),
    ] = None,
    efficiency: Annotated[
        float, typer.Option(min=1e-6, max=1, help="Share of it that training reaches, where it is a peak value.")
    ] = 1.0,
    devices: Annotated[int, typer.Option(min=1, help="Devices that share every batch.")] = 1,
    cores: Annotated[
        int | None,
        typer.Option(min=1, help="Processor cores beside them all: what the loader has.", show_default=False),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of an hour of one device, in any currency.", show_default=False)
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=place, help="Pre-training shards or catalogue, to count what is there."),
    ] = None,
    depth: Annotated[
        Path | None, typer.Option(metavar="FOLDER", parser=place, help="The same for the depth frames.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers in plain units as JSON.")] = False,
) -> None:
    """Say what an experiment will take before it runs: steps, FLOPs, memory, time, disk, and what limits it.

    Needs no data: without --pairs and --depth it takes the data sets' official numbers of frames.

    Example: `simipu plan reference/kitti_kitti --gpu h100 --devices 8 --cores 128 --price 2.5`
    """
    chosen = load(experiment, overrides)
    from rich.console import Console
    from rich.text import Text

    from simipu_core.planning import plan as make

    device = _device(gpu, tflops, memory)
    device = replace(device, efficiency=efficiency, num=devices, cores=cores, price=price)
    made = make(chosen, device, pairs=pairs, depth=depth)
    if as_json:
        print(json.dumps(asdict(made), indent=2))
        return
    console = Console(highlight=False)
    console.print(_table(made))
    for note in made.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)


def _device(gpu: str | None, tflops: float | None, memory: float | None) -> "Device":
    from simipu_core.planning import GPUS, Device

    if gpu is None:
        return Device(tflops, memory or 80.0)
    if (name := gpu.lower()) not in GPUS:
        raise typer.BadParameter(f"{gpu} is not known; write one of {', '.join(GPUS)}, or --tflops and --memory.")
    known = Device.named(name)
    if tflops is not None:
        raise typer.BadParameter("--tflops and --gpu both say how fast it is; give one of them.")
    return known if memory is None else replace(known, memory_gb=memory)


_ROWS: dict[str, "Callable[[StagePlan], str]"] = {
    "samples": lambda stage: f"{stage.samples:,}",
    "batch": lambda stage: f"{stage.batch_size}",
    "steps per epoch": lambda stage: f"{stage.steps_per_epoch:,}",
    "steps": lambda stage: f"{stage.steps:,}",
    "image": lambda stage: "×".join(map(str, stage.image_size)),
    "largest image": lambda stage: "×".join(map(str, stage.largest_image_size)),
    "parameters": lambda stage: f"{stage.parameters:,}",
    "FLOPs per step": lambda stage: _amount(stage.flops_per_step, "FLOP"),
    "precision": lambda stage: f"{stage.precision} at {stage.tflops:g} TFLOP/s",
    "activations per step": lambda stage: _amount(stage.activation_bytes, "B"),
    "fits the memory": lambda stage: "yes" if stage.fits else "NO",
    "weights and optimiser": lambda stage: _amount(stage.state_bytes, "B"),
    "checkpoints": lambda stage: _amount(stage.checkpoint_bytes, "B"),
    "weights handed on": lambda stage: _amount(stage.result_bytes, "B"),
    "FLOPs": lambda stage: _amount(stage.flops, "FLOP"),
    "computed": lambda stage: f"{stage.device_samples:.3g} samples/s",
    "loaded by a core": lambda stage: f"{stage.core_samples:.3g} samples/s",
    "cores needed": lambda stage: f"{stage.cores_needed}",
    "read": lambda stage: f"{_amount(stage.bytes_per_second, 'B')}/s",
    "what limits": lambda stage: stage.limit,
    "time": lambda stage: _duration(stage.seconds),
    "price": lambda stage: "" if stage.price is None else f"{stage.price:,.2f}",
}


def _table(made: "Plan") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(made.experiment, box=SIMPLE_HEAD, pad_edge=False)
    for stage in [*(stage.stage for stage in made.stages), "in all"]:
        table.add_column(stage, justify="right")
    totals = {
        "steps": f"{made.steps:,}",
        "FLOPs": _amount(made.flops, "FLOP"),
        "time": _duration(made.seconds),
        "disk": _amount(made.disk_bytes, "B"),
        "price": "" if made.price is None else f"{made.price:,.2f}",
    }
    for name, value in _ROWS.items():
        if name == "price" and made.price is None:
            continue
        table.add_row(name, *(value(stage) for stage in made.stages), totals.get(name, ""))
    for use, size in made.shard_bytes.items():
        table.add_row(f"{use} shards", *("" for _ in made.stages), _amount(size, "B"))
    table.add_row("disk, checkpoints included", *("" for _ in made.stages), totals["disk"])
    return table


def _amount(value: float, unit: str) -> str:
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while value >= 999.5 and len(prefixes) > 1:
        value, prefixes = value / 1000, prefixes[1:]
    return f"{value:.3g} {prefixes[0]}{unit}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def explained(model: "type[BaseModel]", prefix: str = "") -> Iterator[Explained]:
    """Every setting below a section."""
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        key, kind = f"{prefix}{name}", field.annotation
        meaning = " ".join((field.description or "").split())
        sections = [item for item in get_args(kind) if isinstance(item, type) and issubclass(item, BaseModel)]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield Explained(f"{key}:", "", "", meaning)
            yield from explained(kind, f"{key}.")
        elif field.discriminator:
            kind = field.get_default().kind
            yield Explained(f"{key}:", "", "", meaning)
            yield Explained(
                f"{key}.kind", "str", _default(kind), "One of the kinds below; each has options of its own."
            )
            yield from _kinds(sections, f"{key}.")
        else:
            default = _default(field.get_default(call_default_factory=False))
            yield Explained(key, _type_name(kind), default, meaning)
            for section in sections:
                yield from explained(section, f"{key}[].")


def _kinds(sections: "list[type[BaseModel]]", prefix: str) -> Iterator[Explained]:
    """Settings of sections that `kind` tells apart: those that all have, then what is special about each."""
    listed = [list(explained(section, prefix)) for section in sections]
    common = [line for line in listed[0] if all(line in lines for lines in listed)]
    yield from common
    for section, lines in zip(sections, listed, strict=True):
        kind = section.model_fields["kind"].default
        yield Explained(f"{prefix}kind: {kind}", "", "", (section.__doc__ or "").partition("\n")[0])
        for line in lines:
            if line not in common and line.key != f"{prefix}kind":
                yield line._replace(key=f"{line.key} (kind: {kind})")


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    return re.sub(r"typing\.|simipu_core(\.\w+)*\.", "", str(_plain(kind))).replace("None", "null")


def _plain(kind: Any) -> Any:
    """An annotation without what pydantic hangs on it."""
    origin, parts = get_origin(kind), tuple(map(_plain, get_args(kind)))
    if origin is Annotated:
        return parts[0]
    if origin in (Union, UnionType):
        return reduce(or_, parts)
    return origin[parts] if origin in (tuple, dict) else kind


def _default(value: Any) -> str:
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    if value is PydanticUndefined:
        return ", required"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return f", default {len(value)} entries"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return f", default {json.dumps(value)}"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Settings, results and models")(config)
    app.command(rich_help_panel="Settings, results and models")(plan)
