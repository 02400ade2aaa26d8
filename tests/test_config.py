import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from simipu_core import project
from simipu_core.cli.experiment import explained
from simipu_core.config import (
    AdamWConfig,
    ContrastConfig,
    FinetuneConfig,
    PointEncoderConfig,
    Section,
    SGDConfig,
    validate,
)
from simipu_core.config.presets import PRESETS, Preset
from simipu_core.data.sources import AnySource, Source
from simipu_core.data.sources.nyu import Nyu
from simipu_core.data.sources.waymo import Waymo
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, apply_settings, load_experiment
from simipu_core.parameters import from_parameter, to_parameter

ROOT = Path(__file__).parents[1]
READY = [project.experiment_file(name) for name in project.experiments()]


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
        ("experiment: a\nfinetune: {epochs: -1}\n", [], "`finetune.epochs`"),
        ("experiment: a\npretrain: {contrast: {queue_size: 64}}\n", [], "unknown key `pretrain.contrast.queue_size`"),
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
        (
            "experiment: a\npretrain: {image_encoder: {name: vgg}}\n",
            [],
            "`pretrain.image_encoder.name`: Input should be 'resnet18', 'resnet34'",
        ),
        (
            "experiment: a\nfinetune: {batch_size: 8, accumulate: 3}\n",
            [],
            "batch_size 8 cannot be cut into accumulate=3 micro-batches",
        ),
        ("experiment: a\ndepth_data: {drive_only: true}\n", [], "unknown key `depth_data.drive_only`"),
        ("experiment: a\ndepth_data: {every: 0}\n", [], "`depth_data.every`: Input should be greater"),
        (
            "experiment: a\ndepth_data: {kind: mixed, sources: [{every: 0}]}\n",
            [],
            "`depth_data.sources.0.every`: Input should be greater",
        ),
        (
            "experiment: a\npretrain_data: {camera: front, split: none}\n",
            [],
            "`camera` is no option of kitti, which is read where no `kind` is written; write the kind, one of waymo, w",
        ),
        ("experiment: a\npretrain: {point_optimizer: {lr: 0}}\n", [], "`pretrain.point_optimizer.lr`: Input should be"),
        ("experiment: a\npretrain: {point_optimizer: {}}\n", [], "`pretrain.point_optimizer.lr`: Field required."),
        ("experiment: a\npretrain: {head_optimizer: {kind: adam}}\n", [], "there is no 'adam'; there are adamw, sgd"),
        (
            "experiment: a\n",
            ["pair.depth_range=[1, 2"],
            "--set pair.depth_range=[1, 2: the value is not YAML; close its brackets, and quote it where",
        ),
    ],
)
def test_bad_settings_end_in_one_sentence(tmp_path: Path, text: str, overrides: list[str], named: str) -> None:
    with pytest.raises(SimipuError) as caught:
        load_experiment(write(tmp_path, text), overrides)
    message = str(caught.value)
    assert named in message
    assert "\n" not in message
    assert message.endswith(".")


def test_included_sections_come_under_the_files_own(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/a.yaml").write_text("finetune: {epochs: 2, seed: 5, augment: {flip: 0.1}}\n", encoding="utf-8")
    (tmp_path / "shared/b.yaml").write_text("finetune: {seed: 6}\npair: {min_points: 7}\n", encoding="utf-8")
    text = "experiment: a\ninclude: [shared/a.yaml, shared/b.yaml]\nfinetune: {epochs: 3, augment: {crop: null}}\n"
    made = load_experiment(write(tmp_path, text), ["pair.min_points=8"])
    tuning = made.finetune
    assert (tuning.epochs, tuning.seed, tuning.augment.flip, tuning.augment.crop) == (3, 6, 0.1, None)
    assert made.pair.min_points == 8


@pytest.mark.parametrize(
    ("include", "sentence"),
    [
        ("a.yaml", r"x\.yaml: `include` must be a list of files"),
        ("[a.yaml]", r"a\.yaml: is itself included and must not include others; name them in .*x\.yaml\.$"),
        ("[gone.yaml]", r"gone\.yaml: no such experiment file; mend `include` of .*x\.yaml\.$"),
        ("[3]", r"x\.yaml: `include` must be a list of files"),
        ('["a\\0.yaml"]', r"x\.yaml: `include` must be a list of files"),
        ("[b.yaml]", r"b\.yaml: must hold `key: value` lines"),
    ],
)
def test_what_cannot_be_included_is_refused(tmp_path: Path, include: str, sentence: str) -> None:
    (tmp_path / "a.yaml").write_text("include: [b.yaml]\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(SimipuError, match=sentence):
        load_experiment(write(tmp_path, f"experiment: a\ninclude: {include}\n"))


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


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("pair.depth_range=[0.1, .inf]", "`pair.depth_range.1`: Input should be a finite number"),
        ("pair.depth_range=[5, 1]", "`pair.depth_range`: nothing lies between 5.0 and 1.0"),
        ("pair.depth_range=[-1, 1]", "`pair.depth_range.0`: Input should be greater than or equal to 0"),
        ("evaluate.depth_range=[2, 2]", "`evaluate.depth_range`: nothing lies between 2.0 and 2.0"),
        ("finetune.min_depth=90", "min_depth 90 is not below max_depth 80"),
        ("finetune.augment.gamma=[1.1, 0.9]", "`finetune.augment.gamma`: 1.1 to 0.9 is no range"),
        ("pretrain.image.brightness=[0, 1]", "`pretrain.image.brightness.0`: Input should be greater than 0"),
        ("pretrain.points.scale=[2, 1]", "`pretrain.points.scale`: 2.0 to 1.0 is no range"),
        ("pretrain.points.point_range=[0, 0, 0, 1, 0, 1]", "write the minimum of x, y, z, then the maximum"),
        ("pretrain.points.num_points=4000", "picks 4096 of the 4000 points that points.num_points leaves"),
        ("pretrain.image.long_side=[700, 600]", "`pretrain.image.long_side`: 700 to 600 is no range"),
        ("pretrain.point_encoder.levels=[]", "`pretrain.point_encoder.levels`: Tuple should have at least 1 item"),
        ("synthetic.image_size=[0, -4]", "`synthetic.image_size.0`: Input should be greater than or equal to 1"),
        ("finetune.augment.crop=[0, 704]", "`finetune.augment.crop.0`: Input should be greater than or equal to 1"),
        ("finetune.decoder_channels=[8, 8, 8, 0]", "`finetune.decoder_channels.3`: Input should be greater than or"),
        ("finetune.betas=[0.9, 1]", "`finetune.betas.1`: Input should be less than 1"),
        ("finetune.input.std=[1, 1, 0]", "`finetune.input.std.2`: Input should be greater than 0"),
        ("finetune.schedule.max_lr=.nan", "`finetune.schedule.max_lr`: Input should be a finite number"),
        ("depth_data.root=''", "`depth_data.root`: String should have at least 1 character"),
        ('depth_data.root="a\\0b"', "`depth_data.root`: must be one line of printable characters"),
        ('finetune.init_file="a\\nb"', "`finetune.init_file`: must be one line of printable characters"),
        ("seed=9007199254740992", "`pretrain.seed`: Input should be less than or equal to 9007199254740991"),
        ("synthetic.seed=1e40", "`synthetic.seed`"),
    ],
)
def test_numbers_and_addresses_that_no_run_could_use_are_refused(tmp_path: Path, setting: str, sentence: str) -> None:
    with pytest.raises(SimipuError) as caught:
        load_experiment(write(tmp_path, "experiment: a\n"), [setting])
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"mlps": [[]] * 2}, "mlps.0`: Tuple should have at least 1 item"),
        ({"mlps": [[8], [0]]}, "mlps.1.0`: Input should be greater"),
        ({"radii": [], "num_neighbours": [], "mlps": []}, "radii`: Tuple should have at least 1 item"),
        ({"radii": [0, 1]}, "radii.0`: Input should be greater than 0"),
        ({"num_neighbours": [0, 4]}, "num_neighbours.0`: Input should be greater"),
        ({"num_points": 65}, "levels have 64, 65 num_points; none can have more than the one before"),
    ],
)
def test_levels_that_cannot_be_computed_are_refused(section: dict[str, Any], sentence: str) -> None:
    level = {"num_points": 64, "radii": [1, 2], "num_neighbours": [4, 4], "mlps": [[8], [8]], "out_channels": 8}
    assert validate(PointEncoderConfig, {"levels": [level, level]}, "x")
    with pytest.raises(SimipuError) as caught:
        validate(PointEncoderConfig, {"levels": [level, level | section]}, "x")
    assert sentence in str(caught.value)


def test_the_largest_seed_is_a_whole_number_in_json() -> None:
    largest = 9007199254740991
    assert json.loads(json.dumps(float(largest))) == largest == FinetuneConfig(seed=largest).seed


def test_a_new_kind_drops_what_only_the_old_one_has(tmp_path: Path) -> None:
    file = write(tmp_path, "experiment: a\npretrain_data: {root: b, drives_only: true, split: by_sequence, every: 2}\n")
    made = load_experiment(file, ["pretrain_data.kind=waymo", "pretrain_data.camera=side_left"]).pretrain_data
    assert made == Waymo(root="b", split="by_sequence", every=2, camera="side_left")
    with pytest.raises(SimipuError, match=r"unknown key `pretrain_data\.camera`"):
        load_experiment(file, ["pretrain_data.kind=nyu", "pretrain_data.camera=front"])
    with pytest.raises(SimipuError, match=r"`pretrain_data\.kind`: there is no 'nuy'; there are kitti, "):
        load_experiment(file, ["pretrain_data.kind=nuy"])
    with pytest.raises(SimipuError, match=r"x\.yaml: unknown key `kind`"):
        load_experiment(file, ["kind=nyu"])


def test_the_kind_of_an_optimiser_can_be_set_on_a_whole_experiment() -> None:
    values = preset("improved").model_dump(mode="json")
    apply_settings(values, "pretrain.point_optimizer.kind=sgd depth_data.kind=nyu")
    made = validate(Experiment, values, "x")
    assert made.pretrain.point_optimizer == SGDConfig(lr=1e-3, weight_decay=0.01)
    assert made.depth_data == Nyu()


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
    # docs/method.md, "Range and sampling", "Augmentation" and "Image size": data and views
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
    # docs/method.md, "Point encoder", "Image encoder" and "Projection heads": networks
    "pretrain.point_encoder.sampling": "feature_halves",
    "pretrain.point_encoder.inherited_split": True,
    "pretrain.point_encoder.ring": True,
    "pretrain.point_encoder.neighbours": "first",
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
    # docs/method.md, "Losses": losses
    "pretrain.contrast.temperature": 0.07,
    "pretrain.contrast.intra_weight": 1.0,
    "pretrain.contrast.inter_weight": 1.0,
    "pretrain.contrast.symmetric_inter": False,
    "pretrain.contrast.stop_point_gradient": True,
    "pretrain.contrast.group_size": 4,
    # docs/method.md, "Pre-training schedule": schedule; 50 epochs for the table
    "pretrain.batch_size": 32,
    "pretrain.epochs": 50,
    "pretrain.precision": "fp32",
    "pretrain.seed": 0,
    "pretrain.lr_decay": 0.99,
    "pretrain.point_optimizer": {"kind": "adamw", "lr": 1e-3, "betas": (0.95, 0.99), "weight_decay": 0.01},
    "pretrain.image_optimizer": {"kind": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4},
    "pretrain.head_optimizer": {"kind": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4},
    # docs/method.md, "Weights": weights of one input convention go into a net of another
    "finetune.input.channels": "rgb",
    "finetune.input.std": (58.395, 57.12, 57.375),
    "finetune.allow_input_mismatch": True,
    "finetune.ignore_beyond": False,
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
            handed_over = as_kubeflow(to_parameter(section))
            annotation = AnySource if isinstance(section, Source) else field.annotation
            assert from_parameter(annotation, handed_over, name) == section


def test_null_settings_come_back_as_null() -> None:
    section = FinetuneConfig(max_frames=None)
    assert to_parameter(section)["max_frames"] == "null"
    assert from_parameter(FinetuneConfig, to_parameter(section), "finetune").max_frames is None


def test_refused_parameters_name_their_section() -> None:
    with pytest.raises(SimipuError, match="contrast: unknown key `temprature`"):
        from_parameter(ContrastConfig, {"temprature": 0.1}, "contrast")


def test_depth_is_learnt_at_its_own_rate_unless_one_is_named(tmp_path: Path) -> None:
    for objective in ("contrastive", "lidar_depth", "both"):
        named = [f"pretrain.objective={objective}", "pretrain.image_optimizer.lr=0.1"]
        optimizers = [
            load_experiment(write(tmp_path, "experiment: a\n"), named[:n]).pretrain.image_optimizer for n in (1, 2)
        ]
        depth = AdamWConfig(lr=3e-4)
        assert optimizers == [SGDConfig() if objective == "contrastive" else depth, SGDConfig(lr=0.1)]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("tracking.model_name=a/b", "`tracking.model_name`: MLflow takes no / in the name of a model"),
        ("tracking.model_name='it''s:2'", "`tracking.model_name`: MLflow takes no : ' in the name of a model"),
        ("tracking.model_name=..", "`tracking.model_name`: MLflow takes this for a folder; write a name"),
        ("tracking.model_name='  '", "`tracking.model_name`: must be one line of printable characters, without spaces"),
        ("tracking.model_name=''", "`tracking.model_name`: must be one line of printable characters, without spaces"),
        (f"tracking.model_name={'x' * 241}", "`tracking.model_name`: String should have at most 240 characters"),
        ("tracking.mlflow_experiment=' '", "`tracking.mlflow_experiment`: must be one line of printable characters"),
        (f"tracking.mlflow_experiment={'x' * 257}", "`tracking.mlflow_experiment`: String should have at most 256"),
        ("finetune.max_frames=8", "max_frames 8 do not fill one batch of batch_size 16"),
    ],
)
def test_what_a_later_step_would_refuse_is_refused_at_once(tmp_path: Path, setting: str, sentence: str) -> None:
    with pytest.raises(SimipuError) as caught:
        load_experiment(write(tmp_path, "experiment: a\n"), [setting])
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["simipu-depth", "Depth net (v2)", "tiefe_größe.3", "a b+c&d=e"])
def test_other_names_of_models_are_taken(tmp_path: Path, name: str) -> None:
    assert load_experiment(write(tmp_path, "experiment: a\n"), [f"tracking.model_name={name}"])


SINGLE = "leave BatchNorm a feature map of 1×1 at stride"


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        (
            "pretrain",
            {"batch_size": 4, "accumulate": 4, "image": {"long_side": [20, 200], "short_side": [10, 100]},
             "contrast": {"feature_strides": [32]}},
            f"one sample a micro-batch and images of 32×32 pixels {SINGLE} 32, a single value; lower accumulate, or "
            "raise image.long_side and short_side beyond 32 pixels",
        ),
        (
            "finetune",
            {"batch_size": 2, "accumulate": 2, "augment": {"crop": [60, 64]}, "input_scale": 0.5},
            f"images of 30×32 pixels {SINGLE} 32, a single value; lower accumulate, or raise augment.crop or "
            "input_scale beyond 32 pixels",
        ),
        (
            "pretrain",
            {"batch_size": 2, "accumulate": 2, "point_encoder": {"levels": [
                {"num_points": 1, "radii": [1], "num_neighbours": [2], "mlps": [[8]], "out_channels": 8}]}},
            "one sample a micro-batch and num_points 1 at the last of point_encoder.levels leave BatchNorm a single",
        ),
    ],
)  # fmt: skip
def test_a_batch_and_map_of_one_are_refused(section: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SimipuError) as caught:
        validate(Experiment, {"experiment": "a", section: values}, "x")
    assert sentence in str(caught.value)
    validate(Experiment, {"experiment": "a", section: values | {"accumulate": 1}}, "x")


@pytest.mark.parametrize(
    ("levels", "sentence"),
    [
        ([(64, 8), (31, 8)], "level 2 picks 31 num_points in two halves; make it even"),
        ([(64, 8), (16, 80)], "level 2 gathers 80 num_neighbours of the 64 num_points that level 1 leaves"),
    ],
)
def test_levels_fit_what_is_left_for_them(levels: list[tuple[int, int]], sentence: str) -> None:
    listed = [
        {"num_points": num, "radii": [1], "num_neighbours": [near], "mlps": [[8]], "out_channels": 8}
        for num, near in levels
    ]
    with pytest.raises(SimipuError, match=sentence):
        validate(PointEncoderConfig, {"levels": listed, "sampling": "feature_halves"}, "x")
    validate(PointEncoderConfig, {"levels": listed}, "x")
