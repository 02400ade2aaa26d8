from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.dag import parameters
from simipu_core.cli.experiment import explained
from simipu_core.config import ContrastConfig, Experiment, FinetuneConfig, Section, load_experiment
from simipu_core.errors import SimipuError
from simipu_core.parameters import from_parameter, to_parameter

ROOT = Path(__file__).parents[1]
READY = [ROOT / "params.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))]


def write(folder: Path, text: str) -> Path:
    file = folder / "x.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_ready_experiments_are_valid(file: Path) -> None:
    experiment = load_experiment(file)
    assert experiment.experiment == ("demo" if file.name == "params.yaml" else file.stem)


def test_overrides_are_applied_on_top(tmp_path: Path) -> None:
    file = write(tmp_path, "experiment: a\nfinetune: {epochs: 2}\n")
    changed = load_experiment(file, ["finetune.epochs=3", "finetune.augment.crop=null", "pair.depth_range=[1, 2]"])
    assert (changed.finetune.epochs, changed.finetune.augment.crop, changed.pair.depth_range) == (3, None, (1, 2))
    assert load_experiment(file).finetune.epochs == 2


@pytest.mark.parametrize(
    ("text", "overrides", "named"),
    [
        ("experiment: a\nfinetun: {}\n", [], "unknown key `finetun`"),
        ("experiment: a\nfinetune: {epoch: 1}\n", [], "unknown key `finetune.epoch`"),
        ("experiment: a\nfinetune: {epochs: many}\n", [], "`finetune.epochs`"),
        ("experiment: a\nfinetune: {epochs: 0}\n", [], "`finetune.epochs`"),
        ("experiment: A b\n", [], "`experiment`"),
        ("{}", [], "`experiment`"),
        ("- a\n", [], "key: value"),
        ("a: [\n", [], "not readable as YAML"),
        ("experiment: a\n", ["finetune.epochs"], "--set finetune.epochs"),
        ("experiment: a\n", ["finetune..epochs=1"], "--set finetune..epochs=1"),
        ("experiment: a\n", ["experiment.x=1"], "`experiment` is a value"),
        ("experiment: a\n", ["finetune.epochs=["], "not YAML"),
        ("experiment: a\nfinetune: {encoder_name: resnet18}\n", [], "same architecture"),
    ],
)
def test_bad_settings_end_in_one_sentence(tmp_path: Path, text: str, overrides: list[str], named: str) -> None:
    with pytest.raises(SimipuError) as caught:
        load_experiment(write(tmp_path, text), overrides)
    message = str(caught.value)
    assert named in message
    assert "\n" not in message
    assert message.endswith(".")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match=r"nothing\.yaml"):
        load_experiment(tmp_path / "nothing.yaml")


def test_every_setting_is_explained() -> None:
    listed = list(explained(Experiment))
    assert len(listed) > 100
    assert [key for key, _, _, meaning in listed if not meaning] == []


def test_sections_are_frozen_and_closed() -> None:
    def sections(model: type[Section]) -> list[type[Section]]:
        return [inner for below in model.__subclasses__() for inner in (below, *sections(below))]

    for section in sections(Section):
        assert section.model_config["frozen"]
        assert section.model_config["extra"] == "forbid"


# -- one source of truth for the command line, DVC and the pipeline --------------------------------------------------


def dvc_stages() -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return stages


def test_pipeline_parameters_are_the_experiments_fields() -> None:
    fields = set(Experiment.model_fields)
    assert set(parameters(load_experiment(ROOT / "params.yaml"))) == fields - {"synthetic"}


def test_dvc_watches_experiment_sections_only() -> None:
    watched = {name for stage in dvc_stages().values() for name in stage["params"]}
    assert watched <= set(Experiment.model_fields)


def test_what_dvc_watches_is_written_out() -> None:
    """DVC sees params.yaml, not the defaults: the world's every key must stand there."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert set(values["synthetic"]) == set(load_experiment(ROOT / "params.yaml").synthetic.model_dump())
    for stage in dvc_stages().values():
        assert set(stage["params"]) <= set(values)


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_sections_survive_the_pipeline(file: Path) -> None:
    """Kubeflow turns whole numbers into floats and has no null."""

    def as_kubeflow(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: as_kubeflow(item) for key, item in value.items()}
        if isinstance(value, list):
            return [as_kubeflow(item) for item in value]
        assert value is not None
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    experiment = load_experiment(file)
    for name, field in Experiment.model_fields.items():
        section = getattr(experiment, name)
        if isinstance(section, Section):
            assert isinstance(field.annotation, type)
            handed_over = as_kubeflow(to_parameter(section))
            assert from_parameter(type(section), handed_over, name) == section


def test_null_settings_come_back_as_null() -> None:
    section = FinetuneConfig(max_frames=None)
    assert to_parameter(section)["max_frames"] == "null"
    assert from_parameter(FinetuneConfig, to_parameter(section), "finetune").max_frames is None


def test_refused_parameters_name_their_section() -> None:
    with pytest.raises(SimipuError, match="contrast: unknown key `temprature`"):
        from_parameter(ContrastConfig, {"temprature": 0.1}, "contrast")
