import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks.gpu.agenda import full
from simipu_core.artifacts import write_artifact
from simipu_core.cli import app
from simipu_core.config import (
    ContrastConfig,
    FinetuneConfig,
    ImageViewConfig,
    PairConfig,
    PretrainConfig,
    SyntheticConfig,
)
from simipu_core.data.catalogue import write_frames, write_rejected
from simipu_core.data.schema import FrameRow
from simipu_core.data.sources import Source
from simipu_core.data.views import PairViews
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment
from simipu_core.models.depth_net import build_depth_net
from simipu_core.models.simipu import SimIPU
from simipu_core.planning import Device, plan
from simipu_core.planning.cost import finetuning_cost, pretraining_cost
from simipu_core.planning.frames import frames
from simipu_core.planning.loading import depth_rate, pair_rate
from simipu_core.planning.plan import padded_sizes
from simipu_core.project import experiment_file, experiments
from simipu_core.synthetic import synthesize
from simipu_core.training.checkpoint import TrainingState
from simipu_core.training.optimizers import finetuning_optimizer, pretraining_optimizers
from tests.samples import HEIGHT, INTRINSICS, LIDAR_TO_CAMERA, WIDTH, depth_row, pair_row, tiny_pretrain, write_shards
from tests.sources import any_source

ROOT = Path(__file__).parents[1]
EXPERIMENTS = [name for name in experiments() if name != "demo"]


@pytest.mark.parametrize(("height", "width", "gflop"), [(352, 704, 976), (352, 1120, 1553), (416, 544, 891)])
def test_flops_of_fine_tuning_are_those_measured_on_the_published_net(height: int, width: int, gflop: int) -> None:
    cost = finetuning_cost(FinetuneConfig(), 1, (height, width), (height, width))
    assert cost.flops == pytest.approx(gflop * 1e9, rel=0.001)
    assert cost.parameters == 77_770_689


def test_activations_of_fine_tuning_are_those_measured_on_the_published_net() -> None:
    # measured: 825 MB, with an activation that keeps its input beside its output; ReLU needs its output alone
    inputs_of_relu = (
        2
        * 4
        * sum(width * 352 * 704 / stride**2 for width, stride in zip((1024, 512, 256, 128), (16, 8, 4, 2), strict=True))
    )
    cost = finetuning_cost(FinetuneConfig(), 1, (352, 704), (352, 704))
    assert cost.activation_bytes == pytest.approx(825e6 - inputs_of_relu, rel=0.01)


def test_mixed_precision_halves_most_activations() -> None:
    full, mixed = (
        finetuning_cost(FinetuneConfig(precision=precision), 8, (352, 704), (352, 704))
        for precision in ("fp32", "bf16")
    )
    assert mixed.flops == full.flops
    assert mixed.activation_bytes < 0.6 * full.activation_bytes


def real_step(state: TrainingState, compute: Any) -> tuple[int, int, int, int]:
    """FLOPs, bytes held for the backward pass, of gradients and of the optimisers, of a step that is really run."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*state.model.parameters(), *state.model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = compute()
        loss.backward()
    gradients = sum(p.grad.nbytes for p in state.model.parameters() if p.grad is not None)
    for optimizer in state.optimizers:
        optimizer.step()
    slots = sum(v.nbytes for optimizer in state.optimizers for slot in optimizer.state.values() for v in slot.values())
    held = sum(storage.nbytes() for pointer, storage in saved.items() if pointer not in own)
    return counter.get_total_flops(), held, gradients, slots


@pytest.mark.parametrize(
    "contrast",
    [
        ContrastConfig(drop_invisible=False),
        ContrastConfig(drop_invisible=False, chunk_rows=50, feature_strides=(8, 32)),
        ContrastConfig(drop_invisible=False, symmetric_inter=False, group_size=1),
    ],
)
def test_a_pre_training_step_counts_as_when_it_is_run(contrast: ContrastConfig) -> None:
    config = tiny_pretrain(contrast, batch_size=2)
    batch = PairViews(config)([pair_row(1), pair_row(2)], [np.random.default_rng(seed) for seed in (1, 2)])
    model = SimIPU(config)
    state = TrainingState(model, *pretraining_optimizers(model, config, 1))
    flops, held, gradients, slots = real_step(state, lambda: model(batch).loss)
    height, width = batch.images.shape[-2:]
    cost = pretraining_cost(config, 2, (height, width))
    assert cost.flops == flops
    assert cost.activation_bytes == pytest.approx(held, rel=0.001)
    assert (cost.gradient_bytes, cost.optimizer_bytes) == (gradients, slots)
    saved = sum(tensor.nbytes for name, tensor in state.tensors().items() if name != "random/cpu")
    assert cost.checkpoint_bytes == saved


def test_a_fine_tuning_step_counts_as_when_it_is_run() -> None:
    config = FinetuneConfig(
        encoder_name="resnet18", decoder_channels=(16, 16, 8, 8), init="kaiming_zero_gamma", input_scale=0.5
    )
    net = build_depth_net(config, None)
    optimizer, schedule = finetuning_optimizer(net, config, 10)
    images = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    flops, _, gradients, slots = real_step(TrainingState(net, [optimizer], [schedule]), lambda: net(images).mean())
    cost = finetuning_cost(config, 2, (64, 96), (128, 192))
    assert (cost.flops, cost.gradient_bytes, cost.optimizer_bytes) == (flops, gradients, slots)
    assert cost.result_bytes == sum(tensor.nbytes for tensor in net.state_dict().values())


def test_recomputing_groups_trades_flops_for_memory() -> None:
    def cost(recompute: bool) -> Any:
        encoder = tiny_pretrain().point_encoder.model_copy(update={"recompute_groups": recompute})
        return pretraining_cost(tiny_pretrain(point_encoder=encoder), 2, (64, 96))

    assert cost(True).flops > cost(False).flops
    assert cost(True).activation_bytes < cost(False).activation_bytes


def test_sizes_of_padded_batches() -> None:
    mean, largest = padded_sizes(PretrainConfig(), (375, 1242), 1)
    assert largest == (736, 2400)
    assert mean[0] * mean[1] == pytest.approx(425 * 1370, rel=0.1)
    fuller, _ = padded_sizes(PretrainConfig(), (375, 1242), 8)
    assert fuller[0] * fuller[1] > 1.5 * mean[0] * mean[1]
    fixed = PretrainConfig(image=ImageViewConfig(long_side=(640, 640), short_side=(192, 192)))
    assert padded_sizes(fixed, (375, 1242), 4) == ((192, 640), (192, 640))


@pytest.mark.parametrize(
    ("source", "train", "evaluated"),
    [
        (any_source(kind="kitti_object", root="x"), 7_481, 0),
        (any_source(kind="kitti_object", root="x", frames="train_half"), 3_712, 0),
        (any_source(kind="kitti_object", root="x", frames="train_half_and_testing"), 11_230, 0),
        (any_source(kind="waymo", root="x"), 158_081, 0),
        (any_source(kind="waymo_kitti", root="x", every=5), 31_617, 0),
        (any_source(kind="kitti_depth", root="x", split="eigen"), 23_158, 652),
        (any_source(kind="nyu", root="x", split="folders"), 24_231, 654),
        (any_source(kind="nuscenes", root="x", every=2), 17_075, 0),
        (
            any_source(
                kind="mixed",
                root="x",
                sources=(any_source(kind="kitti_object"), any_source(kind="nyu", split="folders")),
            ),
            7_481 + 24_231,
            654,
        ),
    ],
)
def test_official_counts(source: Source, train: int, evaluated: int) -> None:
    found = frames(Experiment(experiment="x", depth_data=source), "depth", None)
    assert (found.train, found.evaluated) == (train, evaluated)


def test_counts_of_the_synthetic_world_are_those_of_its_files(tmp_path: Path) -> None:
    world = SyntheticConfig(
        object_frames=3, drives=3, frames_per_drive=2, rooms=3, logs=2, image_size=(24, 80), lidar_points=640
    )
    synthesize(world, tmp_path / "raw", workers=0)
    sources = [
        any_source(kind="kitti_object"),
        any_source(kind="kitti"),
        any_source(kind="kitti", drives_only=True, split="within_sequence", train_share=0.5),
        any_source(kind="kitti_raw", every=2),
        any_source(kind="kitti_depth", split="by_sequence"),
        any_source(kind="nyu", split="folders"),
        any_source(kind="logs", split="by_sequence", train_share=0.5),
    ]
    for source in sources:
        assigned = source.assign(source.list_frames(tmp_path / "raw"))
        found = frames(Experiment(experiment="x", synthetic=world, depth_data=source), "depth", None)
        assert (found.train, found.evaluated) == (assigned.count("train"), assigned.count("eval")), source


def test_shards_are_counted(tmp_path: Path) -> None:
    pairs = write_shards(tmp_path / "pairs", "pairs", pairs=[pair_row(seed) for seed in range(5)])
    depth = write_shards(
        tmp_path / "depth", "depth", train=[depth_row(seed) for seed in range(6)], eval=[depth_row(9), depth_row(8)]
    )
    experiment = Experiment(experiment="x")
    found = frames(experiment, "pairs", pairs)
    assert (found.train, found.size) == (5, (HEIGHT, WIDTH))
    assert found.shard_bytes == sum(path.stat().st_size for path in pairs.glob("*.parquet"))
    found = frames(experiment, "depth", depth)
    assert (found.train, found.evaluated) == (6, 2)
    with pytest.raises(SimipuError, match="holds depth, but pairs or catalogue is needed"):
        frames(experiment, "pairs", depth)


def test_a_catalogue_is_counted(tmp_path: Path) -> None:
    row: FrameRow = {
        "sample_id": "", "source": "kitti_object", "sequence": "s", "timestamp_us": None, "points_timestamp_us": None,
        "image": "i",
        "image_sha256": "", "height": 750, "width": 1242, "points": "p", "points_sha256": "",
        "num_points": 9, "depth": None, "depth_sha256": None, "depth_scale": None, "lens": None, "distortion": None,
        "num_dropped": 0,
        "intrinsics": INTRINSICS.ravel().tolist(), "lidar_to_camera": LIDAR_TO_CAMERA.ravel().tolist(),
    }  # fmt: skip
    with write_artifact(tmp_path / "c", "catalogue", inputs={}, parameters={}, licence="") as draft:
        write_frames([{**row, "sample_id": str(n), "split": "train" if n else "eval"} for n in range(4)], draft.path)
        write_rejected([], draft.path, tmp_path)
    found = frames(Experiment(experiment="x"), "pairs", tmp_path / "c")
    assert (found.train, found.evaluated, found.size) == (3, 0, (750, 1242))
    half = frames(Experiment(experiment="x", pretrain_data=any_source(kind="kitti_object", root="x")), "pairs", None)
    assert found.shard_bytes / 3 == pytest.approx(2 * half.shard_bytes / half.train, rel=1e-6)
    with pytest.raises(SimipuError, match="no training frame for depth"):
        frames(Experiment(experiment="x"), "depth", tmp_path / "c")


def test_an_unknown_count_is_asked_for() -> None:
    experiment = load_experiment(experiment_file("kitti_sample"))
    with pytest.raises(SimipuError, match=r"pretrain_data: no count is known .* kitti .* --pairs FOLDER"):
        plan(experiment)
    parts = (any_source(kind="kitti_object"), any_source(kind="kitti_raw", split="eigen"))
    own = Experiment(experiment="x", depth_data=any_source(kind="mixed", root="x", sources=parts))
    with pytest.raises(SimipuError, match=r"depth_data: .* kitti_raw with split eigen; .* --depth FOLDER"):
        frames(own, "depth", None)


def test_the_published_row() -> None:
    made = plan(load_experiment(experiment_file("reference/waymo_kitti")), Device(tflops=100, efficiency=0.5, num=8))
    pretrain, finetune = made.stages
    assert (pretrain.samples, pretrain.steps_per_epoch, pretrain.steps) == (31_617, 1_317, 65_850)
    assert (finetune.samples, finetune.steps_per_epoch, finetune.steps) == (23_158, 1_447, 34_728)
    assert finetune.flops_per_step == pytest.approx(16 * 976e9, rel=0.001)
    assert finetune.activation_bytes == pytest.approx(2 * 706e6, rel=0.01)
    assert finetune.seconds == pytest.approx(24 * 23_152 * 976e9 / (8 * 50e12), rel=0.001)
    assert finetune.checkpoint_bytes == pytest.approx(2 * 3 * 4 * 77_770_689, rel=0.001)
    assert made.seconds == pretrain.seconds + finetune.seconds
    assert made.disk_bytes > sum(made.shard_bytes.values()) > 31_617 * 500_000


def test_the_control_and_missing_pre_training() -> None:
    experiment = load_experiment(experiment_file("demo"))
    assert [stage.stage for stage in plan(experiment).stages] == ["pretrain", "finetune", "control"]
    scratch = load_experiment(experiment_file("demo"), ["finetune.init=kaiming_zero_gamma", "finetune.max_frames=32"])
    (stage,) = plan(scratch).stages
    assert (stage.samples, stage.steps_per_epoch, stage.image_size) == (32, 8, (48, 160))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(SimipuError, match=r"pretrain.batch_size 8 cannot be cut into 3 devices"):
        plan(load_experiment(experiment_file("demo")), Device(num=3))


def test_the_command_prints_a_table_or_json() -> None:
    arguments = ["plan", "demo", "--set", "finetune.init=torch_default"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    for words in ("steps per epoch", "12,813,217", "GFLOP", "synthetic count of kitti_depth"):
        assert words in shown.output
    (stage,) = json.loads(CliRunner().invoke(app, [*arguments, "--json", "--tflops", "0.1"]).output)["stages"]
    assert stage["seconds"] == pytest.approx(stage["flops"] / 1e11)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_plan(name: str, tmp_path: Path) -> None:
    pairs = depth = None
    if name == "kitti_sample" or name.endswith("own_logs"):  # of data that only their owner can count
        pairs = write_shards(tmp_path / "pairs", "pairs", pairs=[pair_row(seed) for seed in range(40)])
        rows = [depth_row(seed, 375, 1242) for seed in range(20)]
        depth = write_shards(tmp_path / "depth", "depth", train=rows, eval=rows[:1])
    experiment = load_experiment(experiment_file(name))
    made = plan(experiment, pairs=pairs, depth=depth)
    assert made.flops > 0
    assert made.seconds > 0
    assert all(stage.steps > 0 for stage in made.stages if experiment.finetune.epochs or stage.stage == "pretrain")


def test_time_is_at_the_rate_of_the_precision() -> None:
    full, mixed = (
        plan(load_experiment(experiment_file("demo"), [f"pretrain.precision={precision}"])).stages[0]
        for precision in ("fp32", "bf16")
    )
    assert (full.precision, full.tflops) == ("fp32", 30)
    assert full.seconds == pytest.approx(full.flops / 30e12)
    assert (mixed.precision, mixed.tflops, mixed.flops) == ("bf16", 300, full.flops)
    # the point encoder and the losses stay fp32
    assert full.seconds / 10 < mixed.seconds < full.seconds


def test_what_does_not_fit_is_said_with_the_accumulate_that_mends_it() -> None:
    settings = ["finetune.scratch_control=false", "finetune.max_frames=8"]
    experiment = load_experiment(experiment_file("demo"), settings)
    pretrain, _ = plan(experiment).stages
    assert pretrain.fits
    held, state = pretrain.activation_bytes / 1e9, pretrain.state_bytes / 1e9
    device = Device(memory_gb=(0.6 * held + state) / 0.78)  # room for a bit more than half of what is held
    made = plan(experiment, device)
    assert (made.stages[0].fits, made.stages[0].accumulate_that_fits) == (False, 2)
    assert made.notes[0] == (
        f"pretrain does not fit: {held + state:.3g} GB in fp32, of {device.memory_gb:g} GB; set pretrain.accumulate=2, "
        f"which needs {held / 2 + state:.3g} GB: BatchNorm then sees {pretrain.batch_size // 2} samples at a time."
    )
    mended = plan(load_experiment(experiment_file("demo"), [*settings, "pretrain.accumulate=2"]), device)
    assert mended.stages[0].fits
    nothing_fits = plan(experiment, Device(memory_gb=0.01))
    assert nothing_fits.stages[0].accumulate_that_fits is None
    assert nothing_fits.notes[0] == (
        f"pretrain does not fit: {held + state:.3g} GB in fp32, of 0.01 GB; use more devices, smaller images, or "
        "pretrain.precision=bf16 and pretrain.point_encoder.recompute_groups=true."
    )


def test_what_is_slowest_decides_the_time_and_the_price() -> None:
    experiment = load_experiment(experiment_file("demo"))
    alone = plan(experiment, Device(num=2, price=2.0))
    fed, starved = (plan(experiment, Device(num=2, price=2.0, cores=n)) for n in (10**6, 8))
    for stage, same, slow in zip(alone.stages, fed.stages, starved.stages, strict=True):
        assert (stage.limit, same.limit, slow.limit) == ("device", "device", "loader")
        assert stage.seconds == same.seconds == stage.steps * stage.batch_size / stage.device_samples
        assert slow.seconds == stage.steps * stage.batch_size / (8 * stage.core_samples)
        assert stage.cores_needed == math.ceil(stage.device_samples / stage.core_samples)
        assert slow.price == pytest.approx(2 * 2.0 * slow.seconds / 3600)
    assert starved.price == pytest.approx(sum(stage.price or 0 for stage in starved.stages))
    assert alone.price is not None


def test_a_known_gpu_reaches_a_third_of_its_peak() -> None:
    device = Device.named("a100")
    assert device.rate("bf16") == pytest.approx(0.31 * 312e12)
    assert device.rate("fp32") == pytest.approx(0.031 * 312e12)


@pytest.mark.slow
def test_rates_and_memory_of_a_gpu_are_those_measured() -> None:
    found = json.loads((ROOT / "benchmarks/results/gpu/h200_2/gpu_throughput.json").read_text())["found"]
    device, sizes = Device.named("h200"), full()
    settings = {"precision": "bf16", "channels_last": True, "compile": True}
    costs = {
        "pretrain": pretraining_cost(sizes.pretrain.model_copy(update=settings), 32, (384, 1280)),
        "finetune": finetuning_cost(sizes.finetune.model_copy(update=settings), 32, (352, 704), (352, 704)),
    }
    for stage, cost in costs.items():
        measured = found[f"{stage} bf16 channels_last compile 32"]
        assert 32 / device.step_seconds(cost, "bf16") == pytest.approx(measured["samples_per_second"], rel=0.05)
        assert measured["gigabytes"] < (cost.activation_bytes + cost.state_bytes) / 0.78e9


def test_rates_of_loading_are_those_measured() -> None:
    measured = json.loads((ROOT / "benchmarks/results/loader.json").read_text())["samples_per_second_and_core"]
    packing = {encoding: PairConfig(image_encoding=encoding) for encoding in ("source", "jpeg", "raw")}
    for encoding, pair in packing.items():
        without = PretrainConfig(objective="lidar_depth")
        assert pair_rate(without, pair, (375, 1242)) == pytest.approx(measured[f"pairs_{encoding}"], rel=0.05)
        assert pair_rate(PretrainConfig(), pair, (375, 1242)) == pytest.approx(
            measured[f"pairs_with_geometry_{encoding}"], rel=0.1
        )
        assert depth_rate(pair, (375, 1242)) == pytest.approx(measured[f"depth_{encoding}"], rel=0.05)
        assert depth_rate(pair, (750, 1242)) == pytest.approx(depth_rate(pair, (375, 1242)) / 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--gpu", "tpu"], "tpu is not known; write one of a100, h100, h200, l4, l40s, or --tflops and --memory"),
        (["--gpu", "h100", "--tflops", "3"], "--tflops and --gpu both say how fast it is"),
    ],
)
def test_gpus_that_are_not_known_are_refused(options: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["plan", "demo", *options], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.replace("│", " ").split())
