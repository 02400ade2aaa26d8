from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from simipu_core.cli.experiment import explained
from simipu_core.config import ContrastConfig, FinetuneConfig, Section, validate
from simipu_core.config.presets import PRESETS, Preset
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, apply_settings, load_experiment
from simipu_core.parameters import from_parameter, to_parameter

ROOT = Path(__file__).parents[1]
READY = [ROOT / "params.yaml", *sorted((ROOT / "experiments").rglob("*.yaml"))]


def write(folder: Path, text: str) -> Path:
    file = folder / "x.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_ready_experiments_are_valid(file: Path) -> None:
    parts = file.relative_to(ROOT).with_suffix("").parts
    assert load_experiment(file).experiment == ("demo" if parts == ("params",) else "_".join(parts[1:]))


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
        ("experiment: a\npreset: publishd\n", [], "`preset`: Input should be 'improved' or 'reference'"),
        ("experiment: a\nfinetune: {init: checkpoint}\n", [], "name the weights in init_file"),
        ("experiment: a\ndepth_data: {kind: mixed}\n", [], "kind: mixed and a list of sources go together"),
        ("experiment: a\ndepth_data: {kind: mixed, sources: [{root: b}]}\n", [], "no root of their own"),
        ("experiment: a\ndepth_data: {kind: mixed, sources: [{}, {}]}\n", [], "of different kinds"),
        ("experiment: a\nfinetune: {source_weights: {nyu: 0}}\n", [], "`finetune.source_weights.nyu`"),
        ("experiment: a\npretrain: {image_encoder: {init: pretrained}}\n", [], "`pretrain.image_encoder.init`"),
    ],
)
def test_bad_settings_end_in_one_sentence(tmp_path: Path, text: str, overrides: list[str], named: str) -> None:
    with pytest.raises(SimipuError) as caught:
        load_experiment(write(tmp_path, text), overrides)
    message = str(caught.value)
    assert named in message
    assert "\n" not in message
    assert message.endswith(".")


def test_one_seed_sets_both(tmp_path: Path) -> None:
    changed = load_experiment(write(tmp_path, "experiment: a\n"), ["seed=7", "finetune.seed=8"])
    assert (changed.pretrain.seed, changed.finetune.seed) == (7, 8)


def test_a_line_of_settings_is_what_set_takes(tmp_path: Path) -> None:
    values: dict[str, Any] = {"experiment": "a"}
    apply_settings(values, "finetune.epochs=3 seed=1 pair.depth_range='[1, 2]' finetune.augment.crop=null")
    settings = ["finetune.epochs=3", "seed=1", "pair.depth_range=[1, 2]", "finetune.augment.crop=null"]
    assert validate(Experiment, values, "x") == load_experiment(write(tmp_path, "experiment: a\n"), settings)
    apply_settings(values, "  ")
    for text, message in (("epochs", "settings epochs: write it as"), ("a='b", "a quote is not closed")):
        with pytest.raises(SimipuError, match=message):
            apply_settings(values, text)


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


# -- presets ---------------------------------------------------------------------------------------------------------

PUBLISHED = {
    # reference section 1: data and views
    "pretrain.points.num_points": 16384,
    "pretrain.points.point_range": (0.0, -40.0, -3.0, 70.4, 40.0, 1.0),
    "pretrain.points.rotation_deg": 90.0,
    "pretrain.points.scale": (0.75, 1.25),
    "pretrain.points.flip": 0.5,
    "pretrain.image.long_side": (640, 2400),
    "pretrain.image.short_side": (192, 720),
    "pretrain.image.pad_multiple": 32,
    "pretrain.image.colour": 0.0,
    "pretrain.input.channels": "bgr",
    "pretrain.input.mean": (103.53, 116.28, 123.675),
    "pretrain.input.std": (1.0, 1.0, 1.0),
    "pretrain.contrast.pairing": "hungarian",
    "pretrain.contrast.feature_sampling": "align_corners",
    "pretrain.contrast.sampling_extent": "image",
    "pretrain.contrast.drop_invisible": False,
    # reference section 2: networks
    "pretrain.point_encoder.sampling": "feature_halves",
    "pretrain.point_encoder.inherited_split": True,
    "pretrain.point_encoder.ring": True,
    "pretrain.point_encoder.neighbours": "first",
    "pretrain.point_encoder.coordinates": "none",
    "pretrain.point_encoder.input_features": "reflectance",
    "pretrain.image_encoder.name": "resnet50",
    "pretrain.image_encoder.init": "torch_default",
    "pretrain.image_encoder.norm_eps": 1e-3,
    "pretrain.image_encoder.norm_momentum": 0.01,
    "pretrain.sync_norm": "image_encoder",
    "pretrain.contrast.feature_strides": (32,),
    "pretrain.heads.point_hidden": 1024,
    "pretrain.heads.image_hidden": 2048,
    "pretrain.heads.out_channels": 128,
    "pretrain.contrast.momentum_keys": None,
    "pretrain.contrast.queue_size": 0,
    "pretrain.ema": None,
    # reference section 3: losses
    "pretrain.contrast.temperature": 0.07,
    "pretrain.contrast.intra_weight": 1.0,
    "pretrain.contrast.inter_weight": 1.0,
    "pretrain.contrast.symmetric_intra": False,
    "pretrain.contrast.symmetric_inter": False,
    "pretrain.contrast.stop_point_gradient": True,
    "pretrain.contrast.group_size": 4,
    "pretrain.contrast.gather_negatives": False,
    # reference section 4: schedule; 50 epochs for the table (section 9, row 2)
    "pretrain.batch_size": 32,
    "pretrain.epochs": 50,
    "pretrain.precision": "fp32",
    "pretrain.seed": 0,
    "pretrain.lr_decay": 0.99,
    "pretrain.point_optimizer": {"kind": "adamw", "lr": 1e-3, "betas": (0.95, 0.99), "weight_decay": 0.01},
    "pretrain.image_optimizer": {"kind": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4},
    "pretrain.head_optimizer": {"kind": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4},
    # reference sections 4 and 5.4: weights of one input convention go into a net of another
    "finetune.input.channels": "rgb",
    "finetune.input.std": (58.395, 57.12, 57.375),
    "finetune.allow_input_mismatch": True,
}


def value_at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def preset(name: str, **values: Any) -> Experiment:
    return validate(Experiment, {"experiment": "a", "preset": name} | values, "x.yaml")


def test_the_reference_preset_is_the_published_computation() -> None:
    made = preset("reference").model_dump()
    assert {key: value_at(made, key) for key in PUBLISHED} == PUBLISHED
    assert {key for key, _ in leaves(PRESETS["reference"])} <= set(PUBLISHED)


def test_improved_is_the_default_and_differs_from_reference() -> None:
    defaults, published = preset("improved").model_dump(), preset("reference").model_dump()
    assert validate(Experiment, {"experiment": "a"}, "x.yaml").model_dump() == defaults
    switched = {key for (key, one), (_, two) in zip(leaves(defaults), leaves(published), strict=True) if one != two}
    assert {"preset", "pretrain.contrast.pairing", "pretrain.input.channels"} <= switched
    assert switched - {"preset"} <= {key for key, _ in leaves(PRESETS["reference"])}


def test_improved_shows_both_stages_the_same_input() -> None:
    made = preset("improved")
    assert made.pretrain.input == made.finetune.input
    assert not made.finetune.allow_input_mismatch
    assert made.pretrain.image_encoder.norm_eps == 1e-5  # that of every depth net


def test_own_values_win_over_the_preset(tmp_path: Path) -> None:
    own = {"contrast": {"drop_invisible": True}, "input": {"channels": "rgb"}}
    made = preset("reference", pretrain=own).pretrain
    assert (made.contrast.drop_invisible, made.contrast.pairing) == (True, "hungarian")
    assert (made.input.channels, made.input.std) == ("rgb", (1, 1, 1))
    file = write(tmp_path, "experiment: a\npreset: reference\npretrain: {contrast: {feature_strides: [8]}}\n")
    changed = load_experiment(file, ["pretrain.contrast.sampling_extent=batch"]).pretrain.contrast
    assert (changed.feature_strides, changed.sampling_extent, changed.pairing) == ((8,), "batch", "hungarian")
    assert load_experiment(file, ["preset=improved"]).pretrain.contrast.pairing == "index"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_back_from_a_dump(tmp_path: Path, name: Preset) -> None:
    made = preset(name, pretrain={"image_encoder": {"norm_eps": 1e-4}})
    assert validate(Experiment, made.model_dump(), "x") == made
    assert load_experiment(write(tmp_path, yaml.safe_dump(made.model_dump(mode="json")))) == made


def test_a_misspelt_key_of_a_preset_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "reference", {"pretrain": {"contrast": {"paring": "hungarian"}}})
    with pytest.raises(SimipuError, match=r"unknown key `pretrain\.contrast\.paring`"):
        preset("reference")


# -- one source of truth for the command line, DVC and the pipeline --------------------------------------------------


def watched_by_dvc() -> list[tuple[Path, list[str]]]:
    """Files of settings and the sections of them that the stages watch."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    watched = [(ROOT / "params.yaml", stages["raw"]["params"])]
    for stage in (stages["pairs"], stages["depth"]):
        for item in stage["foreach"].values():
            (params,) = stage["do"]["params"]
            watched += [(ROOT / item["file"], sections) for sections in params.values()]
    assert len(watched) == 5
    return watched


def test_dvc_watches_experiment_sections_only() -> None:
    assert {name for _, sections in watched_by_dvc() for name in sections} <= set(Experiment.model_fields)


def test_what_dvc_watches_is_written_out() -> None:
    """DVC sees the files, not the defaults: the world's every key must stand there."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert set(values["synthetic"]) == set(load_experiment(ROOT / "params.yaml").synthetic.model_dump())
    for file, sections in watched_by_dvc():
        assert set(sections) <= set(yaml.safe_load(file.read_text(encoding="utf-8")))


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
