"""The steps of a pipeline, without saying what runs them: Kubeflow and Argo both take them from here.

::

    ingest → pair → pretrain ─╮
    ingest → pair ────────────┴→ finetune → evaluate

Without pre-training (`finetune.init` other than `pretrained`) there is no upper branch. In a sweep every row has this
shape; steps that two rows have in common (the same code, settings and inputs) exist once, and a table comes last.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.form import dials, handed_singly, uri_names, value_of
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment
from simipu_core.parameters import to_parameter

CONTROL_START = "torch_default"
MOST_ROWS = 16
"""Inputs of the table component."""


@dataclass(frozen=True)
class Source:
    """An output of an earlier step."""

    step: str
    output: str


@dataclass(frozen=True)
class Step:
    """One step: a component and where each of its inputs comes from."""

    name: str
    """Unique in the pipeline."""
    component: str
    row: Experiment
    """Experiment whose settings it follows; of a shared step, the first."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Inputs that are compiled in."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Inputs that are pipeline parameters."""
    artifacts: Mapping[str, Source] = field(default_factory=dict)
    """Inputs that other steps make."""
    branch: str = ""
    """Of ingest and pair: `pretrain` or `depth`."""

    @property
    def key(self) -> str:
        """What decides its result: steps of equal key are one."""
        sources = {name: (source.step, source.output) for name, source in self.artifacts.items()}
        return json.dumps([self.component, self.constants, self.parameters, sources], sort_keys=True)


def steps(rows: Sequence[Experiment]) -> list[Step]:
    """All steps, each after those that it reads.

    Args:
        rows: one experiment, or those of a sweep.

    Raises:
        SimipuError: two rows of one name, or more rows than one table takes.
    """
    names = [row.experiment for row in rows]
    if len(set(names)) < len(names) or len(names) > MOST_ROWS:
        raise SimipuError(f"sweep {', '.join(names)}: take up to {MOST_ROWS} experiments of different names.")
    road = _Road(rows)
    for row in rows:
        road.add_row(row)
    if len(rows) > 1:
        reports = {f"report_{place}": Source(f"evaluate_{name}", "report") for place, name in enumerate(names, 1)}
        road.add("table", "table", rows[0], {"rows": names}, artifacts=reports)
    return list(road.steps.values())


class _Road:
    """Steps so far, by key."""

    def __init__(self, rows: Sequence[Experiment]) -> None:
        self.steps: dict[str, Step] = {}
        self.is_sweep = len(rows) > 1
        self.dial = {key: field.name for field in dials(rows) for key in field.keys}
        self.uri = {root: name for name, root in uri_names(rows).items()}

    def add(
        self,
        name: str,
        component: str,
        row: Experiment,
        constants: Mapping[str, Any],
        parameters: Mapping[str, str] | None = None,
        artifacts: Mapping[str, Source] | None = None,
        branch: str = "",
    ) -> str:
        """Add a step, if there is none like it; gives its name."""
        full = f"{name}_{row.experiment}" if self.is_sweep and component != "table" else name
        step = Step(full, component, row, constants, parameters or {}, artifacts or {}, branch)
        return self.steps.setdefault(step.key, step).name

    def add_row(self, row: Experiment) -> None:
        encoder = {}
        if row.finetune.needs_pretraining:
            pairs = self._shards("pretrain", "pairs", row)
            constants, parameters = self._section("pretrain", row)
            made = self.add("pretrain", "pretrain", row, constants, parameters, {"pairs": pairs})
            encoder["encoder"] = Source(made, "encoder")
        depth = self._shards("depth", "depth", row)
        constants, parameters = self._section("finetune", row)
        net = self.add("finetune", "finetune", row, constants, parameters, {"depth": depth, **encoder})
        nets = {"model": Source(net, "model")}
        if row.finetune.needs_control:
            constants = {**constants, "init": CONTROL_START}
            scratch = self.add("finetune_scratch", "finetune", row, constants, parameters, {"depth": depth})
            nets["control"] = Source(scratch, "model")
        constants, parameters = self._section("tracking", row, "tracking")
        constants |= {"config": to_parameter(row.evaluate)}
        if self.is_sweep:
            constants["experiment"] = row.experiment
        else:
            parameters["experiment"] = "experiment"
        self.add("evaluate", "evaluate", row, constants, parameters, {**nets, "depth": depth})

    def _shards(self, branch: str, target: str, row: Experiment) -> Source:
        source = row.pretrain_data if branch == "pretrain" else row.depth_data
        uri = self.uri[source.root] if self.is_sweep else f"{branch}_uri"
        settings = {"source": to_parameter(source, without=["root"])}
        frames = self.add(f"ingest_{branch}", "ingest", row, settings, {"uri": uri}, branch=branch)
        constants: dict[str, Any] = {"target": target, "config": to_parameter(row.pair)}
        catalogue = {"catalogue": Source(frames, "catalogue")}
        shards = self.add(f"pair_{branch}", "pair", row, constants, {}, catalogue, branch)
        return Source(shards, "shards")

    def _section(self, name: str, row: Experiment, as_input: str = "config") -> tuple[dict[str, Any], dict[str, str]]:
        single = handed_singly(name)
        constants: dict[str, Any] = {as_input: to_parameter(getattr(row, name), without=single.values())}
        parameters = {}
        for given, key in single.items():
            if dial := self.dial.get(f"{name}.{key}"):
                parameters[given] = dial
            else:
                constants[given] = value_of(row, f"{name}.{key}")
        return constants, parameters
