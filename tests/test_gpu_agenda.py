import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import PARTS
from benchmarks.gpu.agenda import Data, Part, tiny
from benchmarks.gpu.compiling import prepared
from simipu_core.config import LoopConfig
from tests.training.test_networks import Two

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_agenda_runs_on_a_cpu_at_tiny_sizes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = {part: json.loads((tmp_path / f"gpu_{part}.json").read_text()) for part in PARTS}
    for result in results.values():
        assert (result["device"], result["left_out"]) == ("cpu", [])
    correctness = results["correctness"]["found"]
    assert all(entry["holds"] for entry in correctness.values() if "holds" in entry)
    for stage in ("pretrain", "finetune"):
        assert correctness[f"{stage} fp32"]["gradient"] == 0  # the same arithmetic
        assert correctness[f"{stage} bf16"]["gradient"] > 0
        assert correctness[f"{stage} resumed deterministic"] == {"repeated": 0, "resumed": 0}
        kernels = results["kernels"]["found"][stage]
        assert 0 < sum(kernels["kernels"].values()) <= kernels["busy_milliseconds"] * 1.01
        fastest = max(
            entry["samples_per_second"] for name, entry in results["throughput"]["found"].items() if stage in name
        )
        loader = results["loading"]["found"][f"{stage} loader"]
        assert loader["card_samples_per_second"] == fastest
        assert loader["cores_needed"] == pytest.approx(fastest / loader["samples_per_second_and_core"], rel=1e-3)
        assert results["loading"]["found"][f"{stage} fed"]["samples_per_second"] > 0
    assert all(entry["abs_rel"]["8"] > 0 for entry in results["row"]["found"].values())
    assert set(results["row"]["found"]) == {"default_init", "lidar_depth", "contrastive"}


def test_a_part_that_has_no_time_says_what_it_left_out(tmp_path: Path) -> None:
    part = Part("throughput", torch.device("cpu"), tiny(), Data(tmp_path, tmp_path), tmp_path, seconds=100)
    assert part.has_time("short", 50)
    part.keep("short", {"value": 1.23456})
    assert not part.has_time("long", 200)
    written = json.loads((tmp_path / "gpu_throughput.json").read_text())
    assert written["left_out"] == ["long"]
    assert written["found"] == {"short": {"value": 1.235}}


def test_what_fails_is_noted_and_the_others_go_on(tmp_path: Path) -> None:
    part = Part("throughput", torch.device("cpu"), tiny(), Data(tmp_path, tmp_path), tmp_path, seconds=100)
    part.measure("bad", lambda: 1 / 0)
    part.measure("good", lambda: {"value": 2})
    written = json.loads((tmp_path / "gpu_throughput.json").read_text())
    assert written["found"] == {"bad": {"error": "ZeroDivisionError: division by zero"}, "good": {"value": 2}}
    assert part.failed == ["bad"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_models_are_compiled_module_by_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", torch._dynamo.config.recompile_limit)  # put back after
    torch.manual_seed(0)
    model, images = Two(), torch.randn(2, 3, 8, 8)
    expected = model(images)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = prepared(model, LoopConfig(epochs=1, batch_size=2, compile=True), torch.device("cpu"))
    assert torch.allclose(compiled(images), expected, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
