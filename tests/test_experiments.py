"""The experiment files: their numbers are those of the published sheet, and each of them runs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.models import resnet18

from simipu_core import project
from simipu_core.artifacts import read_manifest
from simipu_core.config import FinetuneConfig
from simipu_core.config.section import ANY_SIZE, SizeRange
from simipu_core.data.loader import SampleOrder
from simipu_core.data.sources import Source
from simipu_core.data.sources.kitti_object import KittiObject
from simipu_core.data.splits import eigen_test, eigen_train
from simipu_core.errors import SimipuError
from simipu_core.evaluation.report import Report
from simipu_core.experiment import Experiment, load_experiment
from simipu_core.parameters import from_parameter
from simipu_core.stages.configure import sections
from simipu_core.stages.evaluate import evaluate
from simipu_core.stages.finetune import finetune
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import Target, pair
from simipu_core.stages.pretrain import pretrain
from tests.data import files
from tests.worlds import World, synthesize

FOLDER = Path(__file__).parents[1] / "experiments"
NAMES = [name for name in project.experiments() if name != "demo"]
TABLE = [name for name in NAMES if name.startswith(("reference/", "improved/", "controls/"))]
OBJECTIVES = [name for name in NAMES if name.startswith("objectives/")]
ROWS = [f"{start}_{data}" for start in ("scratch", "imagenet", "kitti", "waymo") for data in ("kitti", "nyu")]


def load(name: str, overrides: list[str] | None = None) -> Experiment:
    return load_experiment(FOLDER / f"{name}.yaml", overrides)


def starts(name: str) -> str:
    return name.partition("/")[2].partition("_")[0]


# -- what they say ---------------------------------------------------------------------------------------------------


def test_both_tables_are_whole() -> None:
    for preset in ("reference", "improved"):
        assert set(NAMES) >= {f"{preset}/{row}" for row in ROWS}
    assert [name for name in NAMES if name.startswith("improved/")] == sorted(f"improved/{row}" for row in ROWS)


@pytest.mark.parametrize("name", TABLE)
def test_names_and_presets_follow_the_folders(name: str) -> None:
    experiment = load(name)
    assert experiment.experiment == name.replace("/", "_")
    assert experiment.preset == ("improved" if name.startswith("improved/") else "reference")
    assert not experiment.finetune.scratch_control


@pytest.mark.parametrize("name", OBJECTIVES)
def test_other_objectives_hand_on_their_decoder(name: str) -> None:
    experiment = load(name)
    assert experiment.experiment == name.replace("/", "_")
    assert experiment.preset == "improved"
    assert experiment.pretrain.objective == ("both" if "both" in name else "lidar_depth")
    assert experiment.finetune.start == "encoder_and_decoder"
    assert (experiment.finetune.epochs == 0) == ("no_labels" in name)
    control = from_parameter(FinetuneConfig, sections(experiment)["finetune_scratch"], "control")
    assert (control.init, control.start) == ("torch_default", "encoder")


@pytest.mark.parametrize("row", ROWS)
def test_the_presets_are_all_that_sets_the_tables_apart(row: str) -> None:
    reference, improved = (
        yaml.safe_load((FOLDER / preset / f"{row}.yaml").read_text()) for preset in ("reference", "improved")
    )
    for values in (reference, improved):
        values.pop("experiment")
        values.pop("preset", None)
    assert reference == improved


@pytest.mark.parametrize("name", TABLE)
def test_fine_tuning_is_the_published_one(name: str) -> None:
    """docs/method.md, "Depth augmentation", "Fine-tuning schedule" and "Metrics"."""
    experiment = load(name)
    tuning, augment = experiment.finetune, experiment.finetune.augment
    is_nyu = name.endswith("nyu")
    assert (tuning.epochs, tuning.batch_size, tuning.encoder_name) == (24, 16, "resnet50")
    assert (augment.fixed_crop, augment.crop) == (("nyu", (416, 544)) if is_nyu else ("kb", (352, 704)))
    assert augment.brightness == ((0.75, 1.25) if is_nyu else (0.9, 1.1))
    assert (augment.gamma, augment.channel_gain, augment.rotation_deg) == ((0.9, 1.1), (0.9, 1.1), 2.5)
    assert (augment.colour, augment.flip) == (0.5, 0.5)
    cycle = tuning.schedule
    rates = (cycle.max_lr / cycle.start_div, cycle.max_lr, cycle.max_lr / cycle.start_div / cycle.final_div)
    assert rates == pytest.approx((4e-6, 1e-4, 4e-8))
    assert (cycle.warm_share, tuning.betas, tuning.weight_decay, tuning.clip_norm) == (0.3, (0.95, 0.99), 0.01, 35)
    assert (tuning.sig_lambda, tuning.input_scale, tuning.max_frames) == (0.15, 1, None)
    assert tuning.max_depth == experiment.evaluate.depth_range[1] == (10 if is_nyu else 80)
    expected = ("eigen_nyu",) if is_nyu else ("garg_kb_crop", "garg_full_frame")
    assert experiment.evaluate.protocols == expected
    assert experiment.evaluate.flip
    data = experiment.depth_data
    assert (data.kind, data.split) == (("nyu", "folders") if is_nyu else ("kitti_depth", "eigen"))


@pytest.mark.parametrize(("data", "total"), [("kitti", 34_728), ("nyu", 36_336)])
def test_fine_tuning_takes_the_published_number_of_steps(data: str, total: int) -> None:
    experiment = load(f"reference/kitti_{data}")
    published, tuning = experiment.depth_data.published(), experiment.finetune
    assert published is not None
    frames, _ = published
    order = SampleOrder([frames], tuning.batch_size, tuning.seed, tuning.max_frames)
    assert order.steps_per_epoch * tuning.epochs == total


@pytest.mark.parametrize(
    ("name", "frames", "steps"),
    [
        ("kitti_kitti", 3_712, 116),
        ("kitti_7481_kitti", 7_481, 233),  # the published sampler fills the last batch up: 234
        ("kitti_11230_nyu", 11_230, 350),
        ("waymo_nyu", 31_617, 1_317),  # filled up: 1,318 batches of 24, the table's 31,632
    ],
)
def test_pre_training_is_the_published_one(name: str, frames: int, steps: int) -> None:
    """docs/method.md, "Frames" and "Pre-training schedule"."""
    experiment = load(f"reference/{name}")
    training, source = experiment.pretrain, experiment.pretrain_data
    order = SampleOrder([frames], training.batch_size, training.seed)
    assert order.steps_per_epoch == steps
    assert (training.epochs, training.lr_decay, training.points.num_points) == (50, 0.99, 16_384)
    assert (training.point_optimizer.lr, training.image_optimizer.lr, training.head_optimizer.lr) == (1e-3, 0.03, 0.03)
    if name.startswith("waymo"):
        assert (source.kind, source.every, training.batch_size) == ("waymo", 5, 24)
        assert training.contrast.group_size == 3
        assert training.points.point_range == (0.0, -75.0, -2.0, 75.0, 75.0, 4.0)
        assert len(range(0, 158_081, source.every)) == frames
        assert -(-frames // training.batch_size) * training.batch_size == 31_632
    else:
        sets = {3_712: "train_half", 7_481: "training", 11_230: "train_half_and_testing"}
        assert isinstance(source, KittiObject)
        assert (source.frames, training.batch_size) == (sets[frames], 32)
        assert training.contrast.group_size == 4
        assert training.points.point_range == (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)


@pytest.mark.parametrize("name", TABLE)
def test_encoders_start_where_the_name_says(name: str) -> None:
    experiment = load(name)
    expected = {"scratch": "kaiming_zero_gamma", "imagenet": "imagenet", "torch": "torch_default"}
    if name == "controls/imagenet_kitti_kitti":
        assert experiment.pretrain.image_encoder.init == "imagenet"
        assert experiment.finetune.init == "pretrained"
    else:
        assert experiment.finetune.init == expected.get(starts(name), "pretrained")


def test_seeds_are_all_that_sets_the_repeated_runs_apart() -> None:
    for row in ("scratch_kitti", "kitti_kitti"):
        first, second = load(f"controls/{row}_seed1"), load(f"controls/{row}_seed2")
        assert (first.finetune.seed, second.finetune.seed) == (1, 2)
        if first.finetune.needs_pretraining:
            assert (first.pretrain.seed, second.pretrain.seed) == (1, 2)
        plain = load(f"reference/{row}")
        for seeded in (first, second):
            same = {
                "experiment": plain.experiment,
                "pretrain": seeded.pretrain.model_copy(update={"seed": 0}),
                "finetune": seeded.finetune.model_copy(update={"seed": 0}),
            }
            assert seeded.model_copy(update=same) == plain


def test_experiments_are_found_by_folder_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine", "reference/kitti_kitti", "common/depth"):
        files.write(tmp_path / f"experiments/{name}.yaml", "experiment: x\n")
    files.write(tmp_path / "params.yaml", "experiment: demo\n")
    monkeypatch.chdir(tmp_path)
    assert project.experiment_file("reference/kitti_kitti") == tmp_path / "experiments/reference/kitti_kitti.yaml"
    with pytest.raises(SimipuError, match=r"ready ones are demo, mine, reference/kitti_kitti\.$"):
        project.experiment_file("nonsense")
    with pytest.raises(SimipuError, match=r"did you mean reference/kitti_kitti\?$"):
        project.experiment_file("reference/kitty")


# -- and that they run -----------------------------------------------------------------------------------------------

SHRUNK = [
    "pair.min_points=16",
    "pretrain.epochs=1",
    "pretrain.batch_size=2",
    "pretrain.workers=0",
    "pretrain.device=cpu",
    "pretrain.contrast.group_size=2",
    "pretrain.points.num_points=256",
    "pretrain.image.long_side=[64, 96]",
    "pretrain.image.short_side=[32, 64]",
    "pretrain.image_encoder.name=resnet18",
    "pretrain.heads={point_hidden: 16, image_hidden: 16, out_channels: 8}",
    "pretrain.probe.num_samples=4",
    "pretrain.point_encoder.levels=["
    "{num_points: 128, radii: [0.8, 1.6], num_neighbours: [4, 4], mlps: [[8], [8]], out_channels: 8},"
    "{num_points: 64, radii: [1.6, 3.2], num_neighbours: [4, 4], mlps: [[8], [8]], out_channels: 8},"
    "{num_points: 32, radii: [3.2, 6.4], num_neighbours: [4, 4], mlps: [[8], [8]], out_channels: 8}]",
    "finetune.epochs=1",
    "finetune.batch_size=2",
    "finetune.max_frames=4",
    "finetune.workers=0",
    "finetune.device=cpu",
    "finetune.encoder_name=resnet18",
    "pretrain.lidar_depth={decoder_channels: [16, 16, 8, 8], image_scale: 0.125}",
    "finetune.decoder_channels=[16, 16, 8, 8]",
    "finetune.input_scale=0.125",
    "evaluate.device=cpu",
    "evaluate.panels=1",
]
"""Sizes and numbers of steps; no switch."""

Artifacts = Callable[[Experiment, Source, Target], Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every layout that the experiments read, with drives of the Eigen split."""
    root = tmp_path_factory.mktemp("experiments") / "raw"
    config = World(
        object_frames=8,
        drives=2,
        frames_per_drive=4,
        rooms=3,
        waymo_segments=1,
        waymo_frames=16,
        logs=2,
        image_size=(360, 1220),
        lidar_points=3200,
    )
    synthesize(config, root)
    (training, first), (testing, _) = eigen_train()[0], eigen_test()[0]
    chosen = [frame for drive, frame in eigen_test() if drive == testing]
    _rename_drive(root, 0, training, range(first, first + 4))
    _rename_drive(root, 1, testing, chosen[:4])
    shutil.rmtree(root / "kitti_raw/2000_01_01")
    objects = root / "kitti_object"
    shutil.copytree(objects / "training", objects / "testing")
    files.write(objects / "ImageSets/train.txt", "\n".join(f"{index:06d}" for index in range(6)))
    return root


def _rename_drive(root: Path, index: int, name: str, frames: Any) -> None:
    old = f"2000_01_01_drive_{index:04d}_sync"
    date = root / "kitti_raw" / name[:10]
    date.mkdir(exist_ok=True)
    for calibration in (root / "kitti_raw/2000_01_01").glob("*.txt"):
        shutil.copy(calibration, date)
    (root / "kitti_raw/2000_01_01" / old).rename(date / name)
    (root / "kitti_depth/train" / old).rename(root / "kitti_depth/train" / name)
    for timestamps in (date / name).glob("*/timestamps.txt"):
        timestamps.unlink()
    truth = root / "kitti_depth/train" / name
    for old_frame, frame in reversed(list(enumerate(frames))):
        for file in [*(date / name).glob(f"*/data/{old_frame:010d}.*"), *truth.rglob(f"{old_frame:010d}.png")]:
            file.rename(file.with_stem(f"{frame:010d}"))


@pytest.fixture(scope="module")
def packed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """Runs ingest and pair, once for each source."""
    folder = tmp_path_factory.mktemp("packed")
    made: dict[str, Path] = {}

    def pack(experiment: Experiment, source: Source, target: Target) -> Path:
        key = source.model_dump_json() + target + experiment.pair.model_dump_json()
        if key not in made:
            out = folder / str(len(made))
            ingest(source, out / "catalogue", root=str(world))
            pair(out / "catalogue", experiment.pair, target, out / target)
            made[key] = out / target
        return made[key]

    return pack


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as torchvision writes them."""
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), file)
    return file


def shrunk(name: str, imagenet: Path) -> Experiment:
    experiment = load(name, SHRUNK)
    if experiment.finetune.init == "imagenet":
        return load(name, [*SHRUNK, f"finetune.init_file={imagenet}"])
    if experiment.pretrain.image_encoder.init == "imagenet":
        return load(name, [*SHRUNK, f"pretrain.image_encoder.init_file={imagenet}"])
    return experiment


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs_on_tiny_data_of_its_format(
    name: str, packed: Artifacts, imagenet: Path, tmp_path: Path
) -> None:
    experiment = shrunk(name, imagenet)
    encoder = None
    if experiment.finetune.needs_pretraining:
        encoder = tmp_path / "encoder"
        pairs = packed(experiment, experiment.pretrain_data, "pairs")
        pretrain(pairs, experiment.pretrain, encoder)
        assert read_manifest(encoder, "encoder").counts["steps"] >= 2
    depth = packed(experiment, experiment.depth_data, "depth")
    finetune(depth, experiment.finetune, tmp_path / "net", encoder=encoder)
    evaluate(tmp_path / "net", depth, experiment.evaluate, tmp_path / "report")
    report = Report.model_validate_json((tmp_path / "report/report.json").read_text())
    assert report.headline == experiment.evaluate.protocols[0]
    assert 0 < report.abs_rel < 100


# -- crops and protocols are the camera's ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "framing"),
    [
        ({"kind": "logs"}, ("none", (352, 640), ("whole_frame",))),
        ({"kind": "waymo"}, ("none", (352, 640), ("whole_frame",))),
        ({"kind": "kitti_raw"}, ("kb", (352, 704), ("garg_kb_crop", "garg_full_frame"))),
        ({"kind": "nyu_labelled"}, ("nyu", (416, 544), ("eigen_nyu",))),
        (
            {"kind": "mixed", "sources": [{"kind": "kitti_raw"}, {"kind": "waymo"}]},
            ("none", (352, 640), ("whole_frame",)),
        ),
    ],
)
def test_crops_and_protocols_are_by_default_those_of_the_camera(
    source: dict[str, Any], framing: tuple[Any, ...]
) -> None:
    made = Experiment.model_validate({"experiment": "made", "depth_data": source})
    augment = made.finetune.augment
    assert (augment.fixed_crop, augment.crop, made.evaluate.protocols) == framing
    assert Experiment.model_validate(made.model_dump()) == made


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ([], ((352, 640), ANY_SIZE[1])),
        (["finetune.augment.crop=null"], ANY_SIZE),
        (["finetune.augment.fixed_crop=kb"], ((352, 1216), (400, 1300))),
        (["pretrain.objective=lidar_depth", "finetune.start=encoder_and_decoder", "finetune.epochs=0"], ANY_SIZE),
        (["evaluate.protocols=[whole_frame, eigen_nyu]", "finetune.augment.crop=[64, 64]"], ((480, 640), (480, 640))),
    ],
)
def test_crops_and_protocols_say_which_images_fit(settings: list[str], sizes: SizeRange) -> None:
    assert load("own_logs", settings).depth_frames.image_sizes == sizes


def test_crops_of_two_cameras_do_not_go_together() -> None:
    with pytest.raises(SimipuError, match=r"no image fits .* take those of one camera"):
        load("own_logs", ["finetune.augment.fixed_crop=kb", "evaluate.protocols=[eigen_nyu]"])
    with pytest.raises(SimipuError, match="500×640 is larger than what fixed_crop leaves, 352×1216"):
        load("own_logs", ["finetune.augment.fixed_crop=kb", "finetune.augment.crop=[500, 640]"])
