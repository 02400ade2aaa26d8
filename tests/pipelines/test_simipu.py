import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.options import chosen
from pipelines.package import write
from pipelines.simipu import pipeline
from pipelines.tasks import OUTPUTS, outputs
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment
from simipu_core.parameters import from_parameter

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
    found = {(name[above], name[key]) for key, task in tasks.items() for above in task.get("dependentTasks", [])}
    assert {below for above, below in found if above == "configure"} == set(name.values()) - {"configure"}
    return {edge for edge in found if "configure" not in edge}


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
    assert inputs == {"data_depth", "model_name", "promotion", "result_name", "settings"}
    assert set(compiled["root"]["outputDefinitions"]["artifacts"]) == set(outputs(chosen)._fields)
    assert set(outputs(chosen)._fields) == {"depth_catalogue", "depth", "model", "control", "report", "metrics"}


@pytest.mark.parametrize("start", ["kaiming_zero_gamma", "torch_default"])
def test_a_scratch_run_is_its_own_control(start: str) -> None:
    compiled = spec(load_experiment(ROOT / "params.yaml", [f"finetune.init={start}"]))
    assert "finetune_scratch" not in {step for edge in edges(compiled) for step in edge}
    assert "control" not in compiled["root"]["outputDefinitions"]["artifacts"]


def test_the_control_is_left_out_on_request(demo: Experiment) -> None:
    without = demo.model_copy(update={"finetune": demo.finetune.model_copy(update={"scratch_control": False})})
    compiled = spec(without)
    assert edges(compiled) == {edge for edge in edges(spec(demo)) if "finetune_scratch" not in edge}
    assert "control" not in compiled["root"]["outputDefinitions"]["artifacts"]


def test_a_sweep_whose_steps_would_share_a_name_is_refused(demo: Experiment) -> None:
    rows = [demo.model_copy(update={"experiment": name}) for name in ("x", "scratch_x")]
    with pytest.raises(SimipuError, match="control of x would be called like one of scratch_x; rename one"):
        pipeline(rows)


def test_every_step_hands_out_its_artifact(demo: Experiment) -> None:
    compiled = spec(demo)
    tasks = compiled["root"]["dag"]["tasks"]
    made_by = {
        output: tasks[chosen["artifactSelectors"][0]["producerSubtask"]]["taskInfo"]["name"]
        for output, chosen in compiled["root"]["dag"]["outputs"]["artifacts"].items()
    }
    assert made_by == {output: step for output, (step, *_) in OUTPUTS.items()}
    assert set(made_by.values()) == {task["taskInfo"]["name"] for task in tasks.values()} - {"configure"}


def test_a_step_gets_its_own_section_and_nothing_of_the_form(demo: Experiment) -> None:
    tasks = {task["taskInfo"]["name"]: task for task in spec(demo)["root"]["dag"]["tasks"].values()}
    read = {
        name: {
            key: given["taskOutputParameter"]["outputParameterKey"]
            if "taskOutputParameter" in given
            else given["runtimeValue"]["constant"]
            for key, given in task["inputs"]["parameters"].items()
        }
        for name, task in tasks.items()
        if name != "configure"
    }
    assert read == {
        "ingest_pretrain": {"section": "ingest_pretrain"},
        "pair_pretrain": {"section": "pair", "target": "pairs"},
        "pretrain": {"section": "pretrain"},
        "ingest_depth": {"section": "ingest_depth"},
        "pair_depth": {"section": "pair", "target": "depth"},
        "finetune": {"section": "finetune"},
        "finetune_scratch": {"section": "finetune_scratch"},
        "evaluate": {"section": "evaluate"},
    }


def test_the_form_carries_the_experiments_values_and_says_what_they_mean(demo: Experiment) -> None:
    compiled = spec(demo)
    inputs = compiled["root"]["inputDefinitions"]["parameters"]
    assert {name: given["defaultValue"] for name, given in inputs.items()} == {
        "data_depth": "",
        "data_pretrain": "",
        "model_name": demo.tracking.model_name,
        "promotion": demo.tracking.promotion.mode,
        "result_name": "demo",
        "settings": "",
    }
    assert all(len(given["description"]) > 20 for given in inputs.values())
    assert "experiment" not in inputs  # Kubeflow's form has a field of that name
    given = compiled["root"]["dag"]["tasks"]["configure"]["inputs"]["parameters"]
    assert {key: value["componentInputParameter"] for key, value in given.items() if key != "experiment"} == {
        name: name for name in inputs
    }


def test_the_whole_experiment_is_compiled_in(demo: Experiment) -> None:
    given = spec(demo)["root"]["dag"]["tasks"]["configure"]["inputs"]["parameters"]["experiment"]
    whole = from_parameter(Experiment, given["runtimeValue"]["constant"], "experiment")
    assert whole.model_copy(update={"synthetic": demo.synthetic}) == demo


def test_no_name_is_a_yaml_boolean(demo: Experiment) -> None:
    """Kubeflow's API server reads unquoted keys such as `n` and `y` as booleans."""
    compiled = spec(demo)
    definitions = [compiled["root"], *compiled["components"].values()]
    names = {
        name
        for part in definitions
        for kind in ("inputDefinitions", "outputDefinitions")
        for name in part.get(kind, {}).get("parameters", {})
    }
    assert len(names) > 10
    assert names.isdisjoint({"n", "y", "no", "yes", "on", "off"})


def test_steps_run_in_the_given_image_and_install_nothing(demo: Experiment) -> None:
    for executor in spec(demo)["deploymentSpec"]["executors"].values():
        assert "python" in executor["container"]["image"]
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_the_address_of_data_is_plain_text(demo: Experiment) -> None:
    for address in ("/a #b", "/a: {b", "1e3", "null", "s3://bucket/ü"):
        (row,) = chosen("demo", ["depth_data.every=2"], data=address)
        assert (row.pretrain_data.root, row.depth_data.root, row.depth_data.every) == (address, address, 2)


def test_a_file_that_cannot_be_written_is_named(
    demo: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.package._documents", lambda *_, **__: [{}])
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file/x.yaml"):
        with pytest.raises(SimipuError, match=r"cannot be written \((Is a directory|File exists)\)"):
            write(demo, place)


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
