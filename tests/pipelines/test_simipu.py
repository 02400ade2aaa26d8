import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.dag import OUTPUTS, outputs, parameters
from pipelines.package import write
from simipu_core.experiment import Experiment, load_experiment

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def demo() -> Experiment:
    return load_experiment(ROOT / "params.yaml")


def spec(experiment: Experiment) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write(experiment, Path(folder) / "pipeline.yaml")
        compiled: dict[str, Any] = yaml.safe_load((Path(folder) / "pipeline.yaml").read_text(encoding="utf-8"))
    return compiled


def edges(compiled: dict[str, Any]) -> set[tuple[str, str]]:
    tasks = compiled["root"]["dag"]["tasks"]
    name = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    return {(name[above], name[key]) for key, task in tasks.items() for above in task.get("dependentTasks", [])}


def test_two_branches_meet_at_finetune(demo: Experiment) -> None:
    assert edges(spec(demo)) == {
        ("ingest_pretrain", "pair_pretrain"),
        ("pair_pretrain", "pretrain"),
        ("pretrain", "finetune"),
        ("ingest_depth", "pair_depth"),
        ("pair_depth", "finetune"),
        ("pair_depth", "finetune_scratch"),
        ("pair_depth", "evaluate"),
        ("finetune", "evaluate"),
        ("finetune_scratch", "evaluate"),
    }


def test_without_pretraining_there_is_no_upper_branch() -> None:
    chosen = load_experiment(ROOT / "params.yaml", ["finetune.init=imagenet"])
    compiled = spec(chosen)
    assert edges(compiled) == {
        ("ingest_depth", "pair_depth"),
        ("pair_depth", "finetune"),
        ("pair_depth", "finetune_scratch"),
        ("pair_depth", "evaluate"),
        ("finetune", "evaluate"),
        ("finetune_scratch", "evaluate"),
    }
    inputs = set(compiled["root"]["inputDefinitions"]["parameters"])
    assert inputs == {
        "depth_uri",
        "experiment",
        "model_name",
        "promotion",
        "finetune_epochs",
        "finetune_max_lr",
        "finetune_max_frames",
        "seed",
    }
    assert set(compiled["root"]["outputDefinitions"]["artifacts"]) == {*outputs(chosen), "metrics"}


@pytest.mark.parametrize("start", ["kaiming_zero_gamma", "torch_default"])
def test_a_scratch_run_is_its_own_control(start: str) -> None:
    compiled = spec(load_experiment(ROOT / "params.yaml", [f"finetune.init={start}"]))
    assert "finetune_scratch" not in {step for edge in edges(compiled) for step in edge}
    assert "control" not in compiled["root"]["outputDefinitions"]["artifacts"]


def test_only_the_control_starts_otherwise_than_its_section_says(demo: Experiment) -> None:
    tasks = {task["taskInfo"]["name"]: task for task in spec(demo)["root"]["dag"]["tasks"].values()}
    start = tasks["finetune_scratch"]["inputs"]["parameters"]["init"]
    assert start == {"runtimeValue": {"constant": "torch_default"}}
    assert "init" not in tasks["finetune"]["inputs"]["parameters"]


def test_the_control_is_left_out_on_request(demo: Experiment) -> None:
    without = demo.model_copy(update={"finetune": demo.finetune.model_copy(update={"scratch_control": False})})
    compiled = spec(without)
    assert edges(compiled) == {edge for edge in edges(spec(demo)) if "finetune_scratch" not in edge}
    assert "control" not in compiled["root"]["outputDefinitions"]["artifacts"]


def test_every_step_hands_out_its_artifact(demo: Experiment) -> None:
    compiled = spec(demo)
    tasks = compiled["root"]["dag"]["tasks"]
    made_by = {
        output: tasks[chosen["artifactSelectors"][0]["producerSubtask"]]["taskInfo"]["name"]
        for output, chosen in compiled["root"]["dag"]["outputs"]["artifacts"].items()
    }
    assert made_by == {output: step for output, (step, _) in OUTPUTS.items()} | {"metrics": "evaluate"}
    assert set(made_by.values()) == {task["taskInfo"]["name"] for task in tasks.values()}


def test_a_step_gets_only_what_it_depends_on(demo: Experiment) -> None:
    tasks = spec(demo)["root"]["dag"]["tasks"].values()
    taken = {
        task["taskInfo"]["name"]: {
            given["componentInputParameter"]
            for given in task["inputs"].get("parameters", {}).values()
            if "componentInputParameter" in given
        }
        for task in tasks
    }
    assert taken == {
        "ingest_pretrain": {"pretrain_uri"},
        "pair_pretrain": set(),
        "pretrain": {"pretrain_epochs", "pretrain_lr", "seed"},
        "ingest_depth": {"depth_uri"},
        "pair_depth": set(),
        "finetune": {"finetune_epochs", "finetune_max_lr", "finetune_max_frames", "seed"},
        "finetune_scratch": {"finetune_epochs", "finetune_max_lr", "finetune_max_frames", "seed"},
        "evaluate": {"experiment", "model_name", "promotion"},
    }


def test_the_form_carries_the_experiments_values_and_says_what_they_mean(demo: Experiment) -> None:
    inputs = spec(demo)["root"]["inputDefinitions"]["parameters"]
    defaults = {name: given["defaultValue"] for name, given in inputs.items() if "defaultValue" in given}
    assert defaults == parameters(demo)
    assert set(inputs) - set(defaults) == {"pretrain_uri", "depth_uri"}
    assert defaults["pretrain_epochs"] == demo.pretrain.epochs
    assert defaults["finetune_max_frames"] == 0  # all
    assert all(len(given["description"]) > 20 for given in inputs.values())


def test_a_number_of_the_form_stands_nowhere_else(demo: Experiment) -> None:
    tasks = {task["taskInfo"]["name"]: task for task in spec(demo)["root"]["dag"]["tasks"].values()}
    section = tasks["finetune"]["inputs"]["parameters"]["config"]["runtimeValue"]["constant"]
    assert section["batch_size"] == demo.finetune.batch_size
    assert {"epochs", "max_frames", "seed"}.isdisjoint(section)
    assert set(section["schedule"]) == {"start_div", "final_div", "warm_share"}


def test_no_name_is_a_yaml_boolean(demo: Experiment) -> None:
    """Kubeflow's API server reads unquoted keys such as `n` and `y` as booleans."""
    compiled = spec(demo)
    definitions = [compiled["root"], *compiled["components"].values()]
    names = {name for part in definitions for name in part["inputDefinitions"].get("parameters", {})}
    assert len(names) > 10
    assert names.isdisjoint({"n", "y", "no", "yes", "on", "off"})


def test_steps_run_in_the_given_image_and_install_nothing(demo: Experiment) -> None:
    for executor in spec(demo)["deploymentSpec"]["executors"].values():
        assert "python" in executor["container"]["image"]
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_compiling_is_deterministic(tmp_path: Path) -> None:
    texts = []
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.yaml"
        command = [sys.executable, "-m", "pipelines", "compile", "--out", str(file)]
        environment = {"PYTHONHASHSEED": seed, "SIMIPU_IMAGE": "registry/simipu-python@sha256:00"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{file}\n")
        texts.append(file.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    (pipeline,) = yaml.safe_load_all(texts[0])
    images = {executor["container"]["image"] for executor in pipeline["deploymentSpec"]["executors"].values()}
    assert images == {"registry/simipu-python@sha256:00"}
    assert str(ROOT) not in texts[0]
