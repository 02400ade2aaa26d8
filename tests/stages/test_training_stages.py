"""Pre-training, fine-tuning and evaluation on small made-up shards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from simipu_core.artifacts import read_manifest
from simipu_core.config import DepthAugmentConfig, EvaluateConfig, FinetuneConfig, LidarDepthConfig, OneCycleConfig
from simipu_core.data.images import decode_depth, encode_depth
from simipu_core.data.schema import DepthRow
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from simipu_core.evaluation.report import Report
from simipu_core.models import hub
from simipu_core.models.depth_net import DepthNetSpec
from simipu_core.models.weights import read_spec
from simipu_core.stages import training
from simipu_core.stages.evaluate import evaluate
from simipu_core.stages.finetune import cameras_of, finetune
from simipu_core.stages.pretrain import pretrain
from tests.samples import HEIGHT, INTRINSICS, WIDTH, depth_row, pair_row, tiny_pretrain, write_shards
from tests.training.toy import Recorder

FINETUNE = FinetuneConfig(
    epochs=12,
    batch_size=4,
    workers=0,
    encoder_name="resnet18",
    decoder_channels=(32, 16, 16, 8),
    augment=DepthAugmentConfig(fixed_crop="none", crop=None),
    schedule=OneCycleConfig(max_lr=1e-3),
    sig_lambda=1.0,
)
EVALUATE = EvaluateConfig(protocols=("whole_frame", "garg_full_frame"), panels=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def depth(folder: Path) -> Path:
    rows = {"train": [depth_row(i) for i in range(16)], "eval": [depth_row(i) for i in range(100, 105)]}
    return write_shards(folder / "depth", "depth", **rows)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Path:
    pairs = write_shards(folder / "pairs", "pairs", pairs=[pair_row(i) for i in range(8)])
    pretrain(pairs, tiny_pretrain(epochs=2), folder / "encoder")
    return folder / "encoder"


@pytest.fixture(scope="module")
def model(folder: Path, depth: Path, encoder: Path) -> Path:
    finetune(depth, FINETUNE, folder / "model", encoder=encoder)
    return folder / "model"


def test_pretraining_keeps_the_encoder(encoder: Path) -> None:
    manifest = read_manifest(encoder, "encoder")
    assert manifest.counts == {"steps": 8, "samples": 8}
    assert manifest.inputs.keys() == {"pairs"}
    assert len(load_file(encoder / "encoder.safetensors")) == 120


def test_weights_from_the_hub_are_recorded_by_address_and_digest(
    folder: Path, depth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = "1" * 64
    file = hub.HubFile("timm/resnet18.tv_in1k", "0" * 40, "model.safetensors", digest)
    monkeypatch.setattr(hub, "newest", lambda *_: file)
    monkeypatch.setattr(training, "weights_digest", lambda source: {"init_file": source[-64:]})
    monkeypatch.setattr("simipu_core.models.depth_net.initialise", lambda *_, **__: None)
    recorder = Recorder()
    config = FINETUNE.model_copy(update={"init": "imagenet", "epochs": 1, "max_frames": 4})
    manifest = finetune(depth, config, folder / "from_hub", encoder=None, run=recorder)
    assert manifest.inputs["init_file"] == digest
    assert recorder.params["weights_source"] == file.address


def test_same_seed_same_weights_and_every_term_is_logged(folder: Path, encoder: Path) -> None:
    recorder = Recorder()
    pretrain(folder / "pairs", tiny_pretrain(epochs=2), folder / "again", run=recorder)
    assert read_manifest(folder / "again").digest == read_manifest(encoder).digest
    terms = {f"{name}_{value}" for name in ("intra", "inter") for value in ("loss", "top1", "top5")}
    assert {"loss", "gradient_norm", "lr", *terms, "matched_share", "effective_rank"} <= recorder.steps[0].keys()
    assert recorder.steps[0]["loss"] == pytest.approx(sum(recorder.steps[0][f"{n}_loss"] for n in ("intra", "inter")))
    pretrain(folder / "pairs", tiny_pretrain(epochs=2, seed=1), folder / "other")
    assert read_manifest(folder / "other").digest != read_manifest(encoder).digest


def test_the_net_learns_depth_and_is_scored_beside_its_baselines(folder: Path, depth: Path, model: Path) -> None:
    scratch = FINETUNE.model_copy(update={"epochs": 1, "init": "torch_default"})
    recorder = Recorder()
    finetune(depth, scratch, folder / "control", encoder=None, run=recorder)
    assert recorder.steps[0].keys() == {"loss", "share_beyond_max_depth", "gradient_norm", "lr"}
    evaluate(model, depth, EVALUATE, folder / "report", control=folder / "control")
    report = Report.model_validate_json((folder / "report" / "report.json").read_text())
    assert report.num_images == 5
    assert set(report.metrics) == {"whole_frame", "garg_full_frame"}
    assert set(report.baselines) == {"constant_depth", "scratch_control"}
    assert report.abs_rel == report.metrics["whole_frame"]["abs_rel"]
    assert report.abs_rel < report.baselines["constant_depth"]["whole_frame"]["abs_rel"]
    assert report.abs_rel < report.baselines["scratch_control"]["whole_frame"]["abs_rel"]

    table = pq.read_table(folder / "report" / "per_image.parquet").to_pylist()
    chosen = [r["abs_rel"] for r in table if (r["predictor"], r["protocol"]) == ("model", "whole_frame")]
    assert np.mean(chosen) == pytest.approx(report.abs_rel)
    assert len(list((folder / "report" / "panels").iterdir())) == 1


def test_the_constant_predictor_is_what_it_says(folder: Path, depth: Path, model: Path) -> None:
    from simipu_core.data.images import decode_depth

    evaluate(model, depth, EVALUATE, folder / "constant")
    report = json.loads((folder / "constant" / "report.json").read_text())
    expected = []
    for seed in range(100, 105):
        row = depth_row(seed)
        truth = decode_depth(row["depth"], row["depth_scale"])
        truth = truth[truth > 0]
        expected.append(np.mean(np.abs(truth - 12) / truth))
    assert report["baselines"]["constant_depth"]["whole_frame"]["abs_rel"] == pytest.approx(np.mean(expected))
    assert "scratch_control" not in report["baselines"]


LIDAR_DEPTH: dict[str, Any] = {
    "objective": "lidar_depth",
    "lidar_depth": LidarDepthConfig(decoder_channels=FINETUNE.decoder_channels),
}
TAKEN_OVER = FINETUNE.model_copy(update={"start": "encoder_and_decoder"})


@pytest.fixture(scope="module")
def regressed(folder: Path, encoder: Path) -> Path:
    assert encoder.is_dir()  # its pairs are there
    pretrain(folder / "pairs", tiny_pretrain(epochs=2, **LIDAR_DEPTH), folder / "regressed")
    return folder / "regressed"


def test_depth_of_scans_leaves_encoder_and_decoder(folder: Path, regressed: Path) -> None:
    manifest = read_manifest(regressed, "encoder")
    assert manifest.files.keys() == {"encoder.safetensors", "decoder.safetensors"}
    recorder = Recorder()
    pretrain(folder / "pairs", tiny_pretrain(epochs=2, **LIDAR_DEPTH), folder / "regressed2", run=recorder)
    assert read_manifest(folder / "regressed2").digest == manifest.digest
    assert {"loss", "lidar_depth_abs_rel"} <= recorder.steps[0].keys()


def test_both_objectives_leave_both(folder: Path, encoder: Path) -> None:
    recorder = Recorder()
    config = tiny_pretrain(epochs=1, **(LIDAR_DEPTH | {"objective": "both"}))
    manifest = pretrain(folder / "pairs", config, folder / "both", run=recorder)
    assert manifest.files.keys() == {"encoder.safetensors", "decoder.safetensors"}
    assert {"intra_loss", "inter_loss", "lidar_depth_loss", "matched_share"} <= recorder.steps[0].keys()


def test_without_labels_the_net_is_what_the_scans_taught(folder: Path, depth: Path, regressed: Path) -> None:
    config = TAKEN_OVER.model_copy(update={"epochs": 0})
    manifest = finetune(depth, config, folder / "unlabelled", encoder=regressed)
    assert manifest.counts == {"steps": 0, "frames": 0}
    net = load_file(folder / "unlabelled/model.safetensors")
    for part in ("encoder", "decoder"):
        for name, tensor in load_file(regressed / f"{part}.safetensors").items():
            assert net[f"{part}.{name}"].equal(tensor)
    evaluate(folder / "unlabelled", depth, EVALUATE, folder / "unlabelled_report")


def test_fine_tuning_goes_on_from_the_decoder(folder: Path, depth: Path, regressed: Path) -> None:
    first = {}
    for start in ("encoder", "encoder_and_decoder"):
        recorder = Recorder()
        config = FINETUNE.model_copy(update={"start": start, "epochs": 1, "encoder_lr_scale": 0.1})
        finetune(depth, config, folder / f"from_{start}", encoder=regressed, run=recorder)
        first[start] = recorder.steps[0]["loss"]
    assert first["encoder"] != first["encoder_and_decoder"]


def test_a_decoder_that_is_not_there_or_another_is_refused(
    folder: Path, depth: Path, encoder: Path, regressed: Path
) -> None:
    with pytest.raises(SimipuError, match=r"pre-training left no decoder; set finetune\.start to encoder"):
        finetune(depth, TAKEN_OVER, folder / "nothing", encoder=encoder)
    for change in ({"max_depth": 10.0}, {"input_scale": 0.5}, {"decoder_channels": (32, 16, 8, 8)}):
        with pytest.raises(SimipuError, match=r"pre-trained with .* fine-tuning has .*; set both alike"):
            finetune(depth, TAKEN_OVER.model_copy(update=change), folder / "nothing", encoder=regressed)
    assert not [path for path in folder.iterdir() if "nothing" in path.name]


def test_wrong_artifacts_are_refused_and_nothing_is_left(folder: Path, depth: Path, encoder: Path) -> None:
    with pytest.raises(SimipuError, match="holds depth, but pairs is needed"):
        pretrain(depth, tiny_pretrain(), folder / "nothing")
    with pytest.raises(SimipuError, match="holds encoder, but depth_net is needed"):
        evaluate(encoder, depth, EVALUATE, folder / "nothing")
    with pytest.raises(SimipuError, match="smaller than the KITTI benchmark crop"):
        finetune(depth, FinetuneConfig(encoder_name="resnet18", workers=0), folder / "nothing", encoder=encoder)
    assert not [path for path in folder.iterdir() if "nothing" in path.name]


def test_a_killed_stage_goes_on_from_its_checkpoint(folder: Path, depth: Path, model: Path) -> None:
    """Stopped in the middle by a signal that cannot be caught, then started again: the same weights."""
    import subprocess
    import sys
    import time

    store = folder / "checkpoints"
    config = FINETUNE.model_copy(update={"checkpoint_every": 5})
    encoder = folder / "encoder"
    script = (
        "import sys; from pathlib import Path; from simipu_core.config import FinetuneConfig;"
        "from simipu_core.stages.finetune import cameras_of, finetune;"
        "a = [Path(p) for p in sys.argv[1:5]];"
        "finetune(a[0], FinetuneConfig.model_validate_json(sys.argv[5]), a[1], encoder=a[2], checkpoints=a[3])"
    )
    arguments = [str(p) for p in (depth, folder / "killed", encoder, store)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, config.model_dump_json()], stdout=subprocess.DEVNULL
    )
    while not list(store.glob("*/step-*.json")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert list(store.glob("*/step-*.json"))
    assert not (folder / "killed").exists()
    finetune(depth, config, folder / "killed", encoder=encoder, checkpoints=store)
    killed, undisturbed = (load_file(folder / name / "model.safetensors") for name in ("killed", "model"))
    assert all((killed[name] == undisturbed[name]).all() for name in undisturbed)
    assert not list(store.glob("*/step-*"))


def test_the_weights_tell_which_cameras_took_the_frames(folder: Path, depth: Path, encoder: Path, model: Path) -> None:
    cameras = read_spec(model / "model.safetensors", DepthNetSpec).cameras
    assert cameras
    focal, side = float(INTRINSICS[0, 0]), (HEIGHT * WIDTH) ** 0.5
    assert (cameras.size, cameras.fx, cameras.fy) == ((HEIGHT, WIDTH), focal, focal)
    assert (cameras.focal_range, cameras.side_range) == ((focal, focal), (side, side))


def test_of_several_cameras_the_median_and_the_ranges_are_told(tmp_path: Path) -> None:
    def row(seed: int, focal: float, size: tuple[int, int]) -> DepthRow:
        made = depth_row(seed, *size)
        made["intrinsics"] = [focal - 1, 0, 0, 0, focal + 1, 0, 0, 0, 1]
        return made

    rows = [row(0, 50, (48, 96)), row(1, 90, (96, 96)), row(2, 70, (32, 64))]
    shards = write_shards(tmp_path / "depth", "depth", train=rows, eval=[depth_row(5)])
    cameras = cameras_of(Shards(shards, "depth", "train"))
    assert cameras
    assert (cameras.size, cameras.fx, cameras.fy) == ((32, 64), 69.0, 71.0)
    assert cameras.focal_range == (50.0, 90.0)
    assert cameras.side_range == pytest.approx(((32 * 64) ** 0.5, 96.0))
    rows.append(row(3, 0.5, (48, 96)))
    shards = write_shards(tmp_path / "without", "depth", train=rows, eval=[depth_row(5)])
    assert cameras_of(Shards(shards, "depth", "train")) is None


def test_labels_beyond_the_largest_depth_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [depth_row(i) for i in range(4)]
    far, without = ([_with_far_labels(row, metres) for row in rows] for metres in (200.0, 0.0))
    config = FINETUNE.model_copy(update={"epochs": 1, "init": "torch_default"})
    weights, shares = {}, {}
    for name, frames, settings in (
        ("far", far, config),
        ("without", without, config),
        ("published", far, config.model_copy(update={"ignore_beyond": False})),
    ):
        run = Recorder()
        depth = write_shards(tmp_path / f"depth_{name}", "depth", train=frames, eval=frames)
        finetune(depth, settings, tmp_path / name, encoder=None, run=run)
        weights[name] = (tmp_path / name / "model.safetensors").read_bytes()
        shares[name] = next(values for values in run.steps.values() if "share_beyond_max_depth" in values)[
            "share_beyond_max_depth"
        ]
    assert weights["far"] == weights["without"] != weights["published"]
    assert shares["far"] == shares["published"] > 0.1
    assert shares["without"] == 0


def test_labels_of_which_half_are_out_of_reach_are_refused(depth: Path, tmp_path: Path) -> None:
    config = FINETUNE.model_copy(update={"max_depth": 10.0, "init": "torch_default"})
    with pytest.raises(SimipuError, match=r"half of its depth labels lie beyond 12 m, but finetune.max_depth is 10; "):
        finetune(depth, config, tmp_path / "out", encoder=None)


def _with_far_labels(row: DepthRow, metres: float) -> DepthRow:
    depth = decode_depth(row["depth"], 256)
    return {**row, "depth": encode_depth(np.where(depth > 20, np.float32(metres), depth), 256)}
