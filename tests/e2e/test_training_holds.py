"""Training as it is run for real: killed again and again, told to end, and in two processes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simipu_core.artifacts import read_manifest
from simipu_core.config import (
    AdamWConfig,
    ContrastConfig,
    DepthAugmentConfig,
    FinetuneConfig,
    ImageViewConfig,
    SGDConfig,
)
from simipu_core.stages.finetune import finetune
from simipu_core.stages.pretrain import pretrain
from simipu_core.tracking.run import SilentRun
from tests.samples import depth_row, pair_row, tiny_pretrain, write_shards
from tests.training.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BIN = Path(sys.executable).parent
TINY = Path(__file__).with_name("tiny.yaml")
PATIENCE = 240.0
NUM_STEPS = 24
COMMON = ["batch_size=4", "epochs=6", "checkpoint_every=1", "keep_checkpoints=3", "log_every=5"]
SETTINGS = {
    "pretrain": [*COMMON, "workers=1", "image.long_side=[64,96]", "image.short_side=[32,48]", "contrast.group_size=2"],
    "finetune": [*COMMON, "init=kaiming_zero_gamma"],
}
WEIGHTS = {"pretrain": "encoder.safetensors", "finetune": "model.safetensors"}
Stage = str


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[Stage, Path]:
    folder = tmp_path_factory.mktemp("shards")
    return {
        "pretrain": write_shards(folder / "pairs", "pairs", pairs=[pair_row(i) for i in range(16)]),
        "finetune": write_shards(
            folder / "depth", "depth", train=[depth_row(i) for i in range(16)], eval=[depth_row(99)]
        ),
    }


Start = Callable[..., "subprocess.Popen[str]"]


def starter(shards: dict[Stage, Path], folder: Path) -> Start:
    """Starts `simipu STAGE`, writing into a folder, its checkpoints too."""

    def run(stage: Stage, out: str, *changes: str, launcher: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SIMIPU_"))
        } | {"OMP_NUM_THREADS": "1", "SIMIPU_CHECKPOINTS": str(folder / "checkpoints"), "GLOO_SOCKET_IFNAME": "lo"}
        command = [*launcher, str(BIN / "simipu"), stage, str(shards[stage]), "--out", str(folder / out)]
        command += ["--experiment", str(TINY), "--no-track"]
        for change in [*SETTINGS[stage], *changes]:
            command += ["--set", f"{stage}.{change}"]
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the background ignores it
        )

    return run


@pytest.fixture
def start(shards: dict[Stage, Path], tmp_path: Path) -> Start:
    return starter(shards, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(shards: dict[Stage, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Stage], Path]:
    """What a stage makes when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")

    @cache
    def made(stage: Stage) -> Path:
        finish(starter(shards, folder)(stage, stage))
        return folder / stage

    return made


def finish(process: "subprocess.Popen[str]") -> None:
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


def saved(folder: Path) -> list[int]:
    """Steps with a checkpoint."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/*/step-*.json"))


def wait_for_step(folder: Path, step: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while max(saved(folder), default=0) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_killed_at_random_steps_it_ends_bit_identical(
    stage: Stage, start: Start, undisturbed: Callable[[Stage], Path], tmp_path: Path
) -> None:
    """SIGKILL, which nothing can catch, several times; the seed of the steps is printed where this fails."""
    seed = random.SystemRandom().randrange(1000)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for step in sorted(rng.sample(range(1, NUM_STEPS - 2), 3)):
        process = start(stage, "killed")
        wait_for_step(tmp_path, step, process)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate(timeout=60)  # returns once the loader's workers have ended too
        assert not (tmp_path / "killed").exists()
    before = max(saved(tmp_path))
    finish(start(stage, "killed"))
    assert before >= 3
    assert saved(tmp_path) == []
    assert (tmp_path / "killed" / WEIGHTS[stage]).read_bytes() == (undisturbed(stage) / WEIGHTS[stage]).read_bytes()
    assert read_manifest(tmp_path / "killed").digest == read_manifest(undisturbed(stage)).digest


@pytest.mark.parametrize(
    ("stage", "sent"), [("pretrain", signal.SIGINT), ("pretrain", signal.SIGHUP), ("finetune", signal.SIGTERM)]
)
def test_a_signal_saves_at_once_and_the_restart_goes_on(
    stage: Stage, sent: signal.Signals, start: Start, undisturbed: Callable[[Stage], Path], tmp_path: Path
) -> None:
    process = start(stage, "stopped", "checkpoint_every=5")
    wait_for_step(tmp_path, 5, process)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + sent, errors
    steps = saved(tmp_path)
    assert f": stopped by {sent.name} after step {steps[-1]} of {NUM_STEPS}, saved in {tmp_path}/checkpoints/" in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    finish(start(stage, "stopped", "checkpoint_every=5"))
    assert (tmp_path / "stopped" / WEIGHTS[stage]).read_bytes() == (undisturbed(stage) / WEIGHTS[stage]).read_bytes()


def torchrun(port: int) -> tuple[str, ...]:
    """Two processes of this machine."""
    where = ["--nnodes", "1", "--rdzv-backend", "static", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    return (str(BIN / "torchrun"), *where, "--nproc-per-node", "2", "--no-python")


def test_torchrun_from_end_to_end(start: Start, tmp_path: Path, free_port: int) -> None:
    """Stopped by SIGTERM to torchrun, which tells whole process groups, and started again."""
    finish(start("pretrain", "undisturbed", launcher=torchrun(free_port)))
    process = start("pretrain", "stopped", "checkpoint_every=5", launcher=torchrun(free_port))
    wait_for_step(tmp_path, 5, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert f"stopped by SIGTERM after step {max(saved(tmp_path))} of {NUM_STEPS}" in errors
    finish(start("pretrain", "stopped", "checkpoint_every=5", launcher=torchrun(free_port)))
    files = [(tmp_path / name / WEIGHTS["pretrain"]).read_bytes() for name in ("stopped", "undisturbed")]
    assert files[0] == files[1]


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Losses(SilentRun):
    """Writes what is logged."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.losses: list[float] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.losses.append(metrics["loss"])
        self.file.write_text(json.dumps(self.losses))


DEPTH = FinetuneConfig(
    epochs=2,
    batch_size=8,
    log_every=1,
    workers=0,
    encoder_name="resnet18",
    init="kaiming_zero_gamma",
    decoder_channels=(16, 16, 8, 8),
    augment=DepthAugmentConfig(fixed_crop="none", crop=None),
)
PAIRS = tiny_pretrain(
    ContrastConfig(group_size=2),
    epochs=2,
    batch_size=8,
    log_every=1,
    image_optimizer=SGDConfig(lr=0.01),
    head_optimizer=SGDConfig(lr=0.01),
)


def train_depth(shards: Path, out: Path, changes: dict[str, Any]) -> None:
    finetune(shards, DEPTH.model_copy(update=changes), out, encoder=None, run=Losses(out.with_suffix(".json")))


def train_pairs(shards: Path, out: Path, changes: dict[str, Any]) -> None:
    pretrain(shards, PAIRS.model_copy(update=changes), out, run=Losses(out.with_suffix(".json")))


def losses(out: Path) -> list[float]:
    values: list[float] = json.loads(out.with_suffix(".json").read_text())
    return values


@pytest.mark.parametrize(("train", "kind"), [(train_depth, "finetune"), (train_pairs, "pretrain")])
def test_two_ranks_equal_one_process_with_two_parts(
    train: Callable[..., None], kind: Stage, shards: dict[Stage, Path], tmp_path: Path
) -> None:
    """BatchNorm per part on both sides; only the statistics kept for inference are one rank's own."""
    train(shards[kind], tmp_path / "one", {"accumulate": 2})
    assert run_ranks(train, shards[kind], tmp_path / "two", {}) == ["", ""]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = (load_file(tmp_path / name / WEIGHTS[kind]) for name in ("one", "two"))
    for name, tensor in one.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-6), name


def test_two_ranks_with_synchronised_norms_pretrain_as_one_process(shards: dict[Stage, Path], tmp_path: Path) -> None:
    """Images of one size, since padding to the largest of a rank's own part would count in the statistics.

    Small learning rates, since large ones amplify the rounding of sums over ranks from step to step. Norms of their own
    change the first loss already, by more than ten times the tolerance.
    """
    changes = {
        "image": ImageViewConfig(long_side=(96, 96), short_side=(48, 48)),
        "point_optimizer": AdamWConfig(lr=1e-4),
        "image_optimizer": SGDConfig(lr=1e-3),
        "head_optimizer": SGDConfig(lr=1e-3),
    }
    train_pairs(shards["pretrain"], tmp_path / "one", changes)
    assert run_ranks(train_pairs, shards["pretrain"], tmp_path / "two", changes | {"sync_norm": "all"}) == ["", ""]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_file(tmp_path / name / WEIGHTS["pretrain"]) for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-3, atol=1e-4), name


def test_a_batch_that_ranks_cannot_share_is_told_by_every_rank(shards: dict[Stage, Path], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "odd", ignore_errors=True)
    said = run_ranks(train_depth, shards["finetune"], tmp_path / "odd", {"batch_size": 5})
    assert any(
        "batch_size 5 cannot be cut into 2 ranks times accumulate=1 equal micro-batches" in text for text in said
    )
    assert all(said)
    assert not (tmp_path / "odd").exists()
