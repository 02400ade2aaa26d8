"""Stage: an experiment with what the pipeline's form holds, checked as a whole, as a section for each step.

Imports nothing heavy: it runs first, and what it refuses must be refused at once.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from simipu_core.config.depth import FinetuneConfig
from simipu_core.config.validation import describe, key_of, validate
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, apply_settings
from simipu_core.parameters import NULL, plain, to_parameter
from simipu_core.storage import split_pin

FORM = {
    "experiment": "result_name",
    "tracking.model_name": "model_name",
    "tracking.promotion.mode": "promotion",
}
"""Settings that have a field of their own in the form: key → field."""
DATA_FIELDS = {"pretrain_data": "data_pretrain", "depth_data": "data_depth"}
"""The form's fields for addresses of raw frames, where each has one: section → field."""
CONTROL_START = "torch_default"
"""`finetune.init` of the control, the same net without pre-training."""

Sections = dict[str, dict[str, Any]]
"""Sections as parameters of the pipeline, by the step that reads them."""


def configure(
    experiment: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    settings: str = "",
    form: Mapping[str, str] | None = None,
) -> Sections:
    """Check all settings together, before anything is booked, and say what each step gets.

    Args:
        experiment: the whole experiment as a parameter, as it was compiled in.
        data: addresses of the raw frames: of `pretrain_data` and `depth_data`; or, in a sweep, by their `root`.
        settings: changes on top, ``finetune.epochs=20 seed=1``.
        form: what the form's own fields hold, by name; an empty one leaves the experiment's value.

    Returns:
        :func:`sections` of the experiment, with the addresses as roots.

    Raises:
        SimipuError: settings are refused, one line for each, named as in the form; or they ask for other steps than
            the pipeline was compiled with.
    """
    compiled = validate(Experiment, plain(experiment), "the compiled experiment (compile the pipeline with this image)")
    values = compiled.model_dump(mode="json")
    fields = form or {}
    problems = [*_unclear(fields), *_wrong_addresses(compiled, data)]
    for key, field in FORM.items():
        if fields.get(field) not in (None, "", NULL):
            _put(values, key, fields[field])
    try:
        apply_settings(values, settings)
    except SimipuError as error:
        problems.append(str(error))
    try:
        chosen = Experiment.model_validate(values)
    except ValidationError as error:
        problems += [_problem(problem, values) for problem in error.errors()]
    else:
        problems += _of_another_shape(compiled, chosen)
    if problems:
        raise SimipuError("\nerror: ".join(problems))
    return sections(_with_addresses(chosen, data))


def sections(experiment: Experiment) -> Sections:
    """The section that each step reads, and nothing more: what a step does not read must not change its cache key."""
    tuned = experiment.finetune
    random = {"init": CONTROL_START, "init_file": None, "start": "encoder", "epochs": max(1, tuned.epochs)}
    return {
        "ingest_pretrain": to_parameter(experiment.pretrain_data),
        "ingest_depth": to_parameter(experiment.depth_frames),
        "pair": to_parameter(experiment.pair),
        "pretrain": to_parameter(experiment.pretrain),
        "finetune": to_parameter(experiment.finetune),
        "finetune_scratch": to_parameter(FinetuneConfig.model_validate(tuned.model_dump() | random)),
        "evaluate": {
            "experiment": experiment.experiment,
            "evaluate": to_parameter(experiment.evaluate),
            "tracking": to_parameter(experiment.tracking),
        },
    }


def _unclear(given: Mapping[str, str]) -> Iterator[str]:
    """Fields that hold the text by which a parameter without a value is handed on."""
    for name, value in given.items():
        if value == NULL:
            yield f"{DATA_FIELDS.get(name, name)}: `{NULL}` stands for no value; write another."


def _of_another_shape(compiled: Experiment, chosen: Experiment) -> Iterator[str]:
    """Settings that decide which steps there are, or where data lies."""
    for name in ("preset", "synthetic"):
        if getattr(compiled, name) != getattr(chosen, name):
            yield f"settings {name}: counts only when a pipeline is compiled; compile one with it."
    for name in ("pretrain_data", "depth_data"):
        old, new = getattr(compiled, name), getattr(chosen, name)
        if old.root != new.root:
            yield f"settings {name}.root: write the address into the form's field for data instead."
    weights = {
        "pretrain.image_encoder": (compiled.pretrain.image_encoder.init_file, chosen.pretrain.image_encoder.init_file),
        "finetune": (compiled.finetune.init_file, chosen.finetune.init_file),
    }
    for name, (known, file) in weights.items():
        if file and file != known and split_pin(file)[1] is None:
            yield (
                f"settings {name}.init_file: {file} may change under a cached result; write its content's sha256 "
                "behind it (FILE#…), or compile a pipeline with it."
            )
    before, after = compiled.finetune, chosen.finetune
    if (before.needs_pretraining, before.needs_control) != (after.needs_pretraining, after.needs_control):
        yield "settings finetune: init and scratch_control decide which steps there are; compile a pipeline with them."


def _sources(experiment: Experiment) -> list[str]:
    return ["pretrain_data", "depth_data"] if experiment.finetune.needs_pretraining else ["depth_data"]


def _address(experiment: Experiment, name: str, data: Mapping[str, Any]) -> tuple[Any, str]:
    """Address of a section's raw frames, and the form's field that it stands in."""
    address = data.get(name) or data.get(getattr(experiment, name).root)
    return None if address == NULL else address, DATA_FIELDS[name] if name in data else "data"


def _wrong_addresses(experiment: Experiment, data: Mapping[str, Any]) -> list[str]:
    """Fields for raw frames that are empty or hold no address; once where two sections share a field."""
    problems = []
    for name in _sources(experiment):
        source = getattr(experiment, name)
        address, field = _address(experiment, name, data)
        if not address:
            problems.append(f"{field}: give the address of the raw frames that the experiment calls {source.root}.")
            continue
        try:
            validate(type(source), source.model_dump() | {"root": address}, field)
        except SimipuError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _with_addresses(experiment: Experiment, data: Mapping[str, Any]) -> Experiment:
    placed = {
        name: getattr(experiment, name).model_copy(update={"root": _address(experiment, name, data)[0]})
        for name in _sources(experiment)
    }
    return experiment.model_copy(update=placed)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values[part]
    values[last] = value


def _problem(problem: Any, values: Any) -> str:
    key = key_of(problem, values)
    return describe(problem, values, FORM.get(key, key if problem["loc"] else "settings"))
