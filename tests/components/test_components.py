"""Each component through its plain function: it unpacks what Kubeflow hands over and calls its stage."""

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.dsl.executor import Executor

from components import _default_image
from pipelines.cluster import COMPONENTS, settings_of
from simipu_core.artifacts import Kind, read_manifest, write_artifact
from simipu_core.config import (
    AdamWConfig,
    EvaluateConfig,
    FinetuneConfig,
    PairConfig,
    PretrainConfig,
    PromotionConfig,
    TrackingConfig,
)
from simipu_core.errors import SimipuError
from simipu_core.evaluation.gate import Decision
from simipu_core.evaluation.report import Report
from simipu_core.experiment import load_experiment
from simipu_core.parameters import from_parameter, to_parameter
from simipu_core.stages.release import Release
from simipu_core.stages.table import ReportScores, from_text, read_scores, to_text
from simipu_core.tracking.registry import ModelVersion
from simipu_core.tracking.run import Run, SilentRun
from tests.samples import write_report
from tests.sources import any_source

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

ROOT = Path(__file__).parents[2]
Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


class Seen(SilentRun):
    """A run that a person can look at."""

    page = "http://mlflow/#/experiments/1/runs/2"


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the steps that were tracked."""
    names: list[str] = []
    monkeypatch.setenv("SIMIPU_STEP", "its own name")

    @contextmanager
    def step(name: str, *, out: Path, is_last: bool = False) -> Iterator[Run]:
        assert out.parent == tmp_path
        assert is_last == (os.environ.get("SIMIPU_LAST_STEP") == "true")
        names.append(name)
        yield Seen()

    monkeypatch.setattr("simipu_core.tracking.mlflow_run.step", step)
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return names


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the stages were called with; they write empty artifacts."""
    seen: Calls = []

    def stage(kind: Kind, place: int) -> Callable[..., None]:
        def called(*given: Any, **named: Any) -> None:
            seen.append((given, named))
            write_empty(given[place], kind)

        return called

    stages: dict[str, tuple[Kind, int]] = {
        "ingest": ("catalogue", 1),
        "pair": ("depth", 3),
        "pretrain": ("encoder", 2),
        "finetune": ("depth_net", 2),
    }
    for name, made in stages.items():
        monkeypatch.setattr(importlib.import_module(f"simipu_core.stages.{name}"), name, stage(*made))
    return seen


def write_empty(out: Path, kind: Kind) -> None:
    with write_artifact(out, kind, inputs={"before": "ab12"}, parameters={}, licence="", origin="s3://raw") as draft:
        draft.counts["frames"] = 5


def component(folder: str, name: str | None = None) -> Any:
    return getattr(importlib.import_module(f"components.{folder}.component"), name or folder).python_func


def artifact(kind: type[dsl.Artifact], path: Path) -> dsl.Artifact:
    return kind(uri=str(path))


def test_ingest(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    source = any_source(kind="kitti", drives_only=True, root="data#0")
    out, page = artifact(dsl.Dataset, tmp_path / "out"), artifact(dsl.HTML, tmp_path / "page")
    component("ingest")(section=to_parameter(source), catalogue=out, page=page)
    ((given, named),) = calls
    assert given == (source, tmp_path / "out")
    assert named["page"] == tmp_path / "page"
    assert page.metadata == {"MLflow": Seen.page}
    assert tracked == ["its own name"]


def test_pages_tell_what_an_artifact_is_and_came_from(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    """Through the SDK's executor, whose output is all that Kubeflow reads."""
    name, section = "simipu_core", to_parameter(any_source(kind="kitti"))
    place = {"name": name, "type": {"instanceSchema": ""}, "metadata": {}}
    places = {each: {"artifacts": [{**place, "uri": str(tmp_path / each)}]} for each in ("catalogue", "page")}
    message = {
        "inputs": {"parameterValues": {"section": section}},
        "outputs": {"artifacts": places, "outputFile": str(tmp_path / "outputs.json")},
    }
    Executor(message, component("ingest")).execute()
    (made,), (page,) = (
        each["artifacts"] for each in json.loads((tmp_path / "outputs.json").read_text())["artifacts"].values()
    )
    assert page["metadata"] == {"MLflow": Seen.page}
    manifest = read_manifest(tmp_path / "catalogue")
    assert made["metadata"] == {
        "frames": 5,
        "kind": "catalogue",
        "digest": manifest.digest,
        "code revision": manifest.code_revision,
        "made from before": "ab12",
        "raw data": "s3://raw",
        "MLflow": Seen.page,
    }


def test_pair(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    address = component("pair")(
        target="depth",
        section=to_parameter(PairConfig()),
        catalogue=artifact(dsl.Dataset, tmp_path / "in"),
        shards=artifact(dsl.Dataset, tmp_path / "out"),
    )
    ((given, _),) = calls
    assert given == (tmp_path / "in", PairConfig(), "depth", tmp_path / "out")
    assert address == (str(tmp_path / "out"),)
    assert tracked == ["its own name"]


def test_pretrain(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    config = PretrainConfig(epochs=3, seed=7, image_optimizer=AdamWConfig(lr=0.5))
    component("pretrain")(
        section=to_parameter(config),
        pairs=artifact(dsl.Dataset, tmp_path / "in"),
        encoder=artifact(dsl.Model, tmp_path / "out"),
    )
    ((given, named),) = calls
    assert given == (tmp_path / "in", config, tmp_path / "out")
    assert named["checkpoints"] == tmp_path / "checkpoints"
    assert tracked == ["its own name"]


def test_training_on_nodes_is_told_addresses(
    calls: Calls, tracked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"trainer": {"numNodes": 2}}
    monkeypatch.setenv("SIMIPU_TRAIN_JOB", json.dumps(spec))
    jobs: Calls = []

    def train(*given: Any, **named: Any) -> None:
        jobs.append((given, named))
        write_empty(given[4], "encoder")

    monkeypatch.setattr("simipu_core.stages.train_job.train", train)
    address = component("pretrain", "pretrain_on_nodes")(
        section=to_parameter(PretrainConfig()), pairs="s3://pairs", encoder=artifact(dsl.Model, tmp_path / "encoder")
    )
    assert address == (str(tmp_path / "encoder"),)
    for name, encoder in (("model", "s3://encoder"), ("control", "")):
        component("finetune", "finetune_on_nodes")(
            section=to_parameter(FinetuneConfig()),
            depth="s3://depth",
            encoder=encoder,
            model=artifact(dsl.Model, tmp_path / name),
        )
    assert [given for given, _ in jobs] == [
        (spec, "pretrain", PretrainConfig(), "s3://pairs", tmp_path / "encoder"),
        (spec, "finetune", FinetuneConfig(), "s3://depth", tmp_path / "model"),
        (spec, "finetune", FinetuneConfig(), "s3://depth", tmp_path / "control"),
    ]
    assert [named["encoder"] for _, named in jobs] == [None, "s3://encoder", None]
    assert calls == []


@pytest.mark.parametrize("pretrained", [True, False])
def test_finetune(calls: Calls, tracked: list[str], tmp_path: Path, pretrained: bool) -> None:
    config = FinetuneConfig(epochs=2, seed=5, max_frames=16 if pretrained else None)
    start = {"encoder": artifact(dsl.Model, tmp_path / "encoder")} if pretrained else {}
    component("finetune", "finetune" if pretrained else "finetune_from_start")(
        section=to_parameter(config),
        depth=artifact(dsl.Dataset, tmp_path / "in"),
        model=artifact(dsl.Model, tmp_path / "out"),
        **start,
    )
    ((given, named),) = calls
    assert given == (tmp_path / "in", config, tmp_path / "out")
    assert named["encoder"] == (tmp_path / "encoder" if pretrained else None)
    assert named["checkpoints"] == tmp_path / "checkpoints"
    assert tracked == ["its own name"]


@pytest.mark.parametrize("with_control", [True, False])
def test_evaluate_scores_registers_and_decides(
    tracked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, with_control: bool
) -> None:
    decision = Decision(passed=False, reason="b is worse", protocol="a", abs_rel=0.5, champion_abs_rel=math.nan)
    report = Report(
        headline="a",
        num_images=1,
        flip=False,
        metrics={"a": {"abs_rel": 0.5}, "b": {"abs_rel": math.nan}},
        baselines={},
        model_digest="",
        data_digest="",
        decision=decision,
    )
    version = ModelVersion(name="net", version=3, alias="challenger")
    made = Release(report=report, model=version, promoted=False, outcome="did not pass the gate: b is worse")
    seen: Calls = []

    def release(*given: Any, **named: Any) -> Release:
        seen.append((given, named))
        write_report(given[4], abs_rel=0.1)
        return made

    monkeypatch.setattr("simipu_core.stages.release.release", release)
    tracking = TrackingConfig(model_name="other", promotion=PromotionConfig(mode="off", max_abs_rel=0.25))
    monkeypatch.setenv("SIMIPU_LAST_STEP", "true")
    metrics = artifact(dsl.Metrics, tmp_path / "metrics")
    section = {
        "experiment": "demo",
        "evaluate": to_parameter(EvaluateConfig()),
        "tracking": to_parameter(tracking),
    }
    control = {"control": artifact(dsl.Model, tmp_path / "control")} if with_control else {}
    kinds = {"report": dsl.Artifact, "page": dsl.HTML, "table": dsl.Markdown}
    outputs = {name: artifact(kind, tmp_path / name) for name, kind in kinds.items()}
    (scores,) = component("evaluate", "evaluate_with_control" if with_control else "evaluate")(
        section=section,
        model=artifact(dsl.Model, tmp_path / "model"),
        depth=artifact(dsl.Dataset, tmp_path / "depth"),
        metrics=metrics,
        **outputs,
        **control,
    )
    assert from_text(scores, "demo") == read_scores(tmp_path / "report")
    ((given, named),) = seen
    assert given == (tmp_path / "model", tmp_path / "depth", EvaluateConfig(), tracking, tmp_path / "report")
    assert (named["control"], named["experiment"]) == (tmp_path / "control" if with_control else None, "demo")
    outcome = "did not pass the gate: b is worse"
    digest = read_manifest(tmp_path / "report").digest
    shown = {"MLflow": Seen.page, "report": digest}
    assert metrics.metadata == {"abs_rel a": 0.5, "promoted": 0, "gate": outcome, **shown}
    assert (outputs["page"].metadata, outputs["table"].metadata) == (shown, shown)
    assert outputs["report"].metadata["digest"] == digest
    written = json.loads((tmp_path / "metrics").read_text(), parse_constant=pytest.fail)  # no NaN: it is not JSON
    assert written["abs_rel"] == {"a": 0.5, "b": None}
    assert written["model"] == {"name": "net", "version": 3, "alias": "challenger"}
    assert (written["promoted"], written["outcome"]) == (False, outcome)
    assert (written["decision"]["reason"], written["decision"]["champion_abs_rel"]) == ("b is worse", None)
    for text in ((tmp_path / "page").read_text(), (tmp_path / "table").read_text()):
        places = [text.index(word) for word in ("0.5000", outcome, "net 3, challenger", Seen.page, "abs rel")]
        assert places == sorted(places)
    assert tracked == ["its own name"]


REFERENCE = to_parameter(load_experiment(ROOT / "experiments/reference/kitti_kitti.yaml"))
ADDRESSES = {"data_depth": "s3://depth", "data_pretrain": "s3://pairs"}


def as_kubeflow(value: Any) -> Any:
    """What a struct is when it comes out of the metadata store."""
    if isinstance(value, dict):
        return {key: as_kubeflow(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_kubeflow(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def configured(**given: Any) -> dict[str, Any]:
    function = component("configure")
    values = function(**{"experiment": as_kubeflow(REFERENCE), **ADDRESSES, **given})
    return dict(zip(function.__annotations__["return"]._fields, values, strict=True))


def test_configure_hands_each_step_its_section(capsys: pytest.CaptureFixture[str]) -> None:
    made = configured()
    assert capsys.readouterr().out == "reference_kitti_kitti: settings are in order\n"
    whole = load_experiment(ROOT / "experiments/reference/kitti_kitti.yaml")
    for name, section in (("pair", whole.pair), ("pretrain", whole.pretrain), ("finetune", whole.finetune)):
        assert from_parameter(type(section), as_kubeflow(made[name]), name) == section
    control = from_parameter(FinetuneConfig, made["finetune_scratch"], "finetune")
    assert control == whole.finetune.model_copy(update={"init": "torch_default", "init_file": None})
    assert (made["ingest_depth"]["root"], made["ingest_pretrain"]["root"]) == ("s3://depth", "s3://pairs")
    assert from_parameter(TrackingConfig, made["evaluate"]["tracking"], "tracking") == whole.tracking


def test_configure_takes_what_the_form_holds() -> None:
    made = configured(settings="finetune.epochs=3 seed=4", promotion="promote", model_name="net", result_name="mine")
    assert (made["finetune"]["epochs"], made["finetune"]["seed"], made["pretrain"]["seed"]) == (3, 4, 4)
    assert made["finetune_scratch"]["epochs"] == 3
    assert made["evaluate"]["experiment"] == "mine"
    assert made["evaluate"]["tracking"]["model_name"] == "net"
    assert made["evaluate"]["tracking"]["promotion"]["mode"] == "promote"
    untouched = configured()
    assert [name for name in made if made[name] == untouched[name]] == ["ingest_pretrain", "ingest_depth", "pair"]


def test_configure_finds_a_sweeps_addresses_by_root() -> None:
    made = configured(data={"data/kitti": "s3://kitti", "data/nyu": ""}, data_depth="", data_pretrain="")
    assert (made["ingest_depth"]["root"], made["ingest_pretrain"]["root"]) == ("s3://kitti", "s3://kitti")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"settings": "finetune.schedule.max_lr=-1", "promotion": "always"},
            "error: `finetune.schedule.max_lr`: Input should be greater than 0 (got -1)\n"
            "error: `promotion`: Input should be 'off', 'report' or 'promote' (got 'always')",
        ),
        (
            {"settings": "epochs", "promotion": "always", "model_name": "null", "data_depth": "", "data_pretrain": ""},
            "error: model_name: `null` stands for no value; write another.\n"
            "error: data_pretrain: give the address of the raw frames that the experiment calls data/kitti.\n"
            "error: data_depth: give the address of the raw frames that the experiment calls data/kitti.\n"
            "error: settings epochs: write it as section.key=value, e.g. finetune.epochs=3.\n"
            "error: `promotion`: Input should be 'off', 'report' or 'promote' (got 'always')",
        ),
        (
            {"settings": "preset=improved synthetic.seed=1 depth_data.root=x", "data_depth": ""},
            "error: data_depth: give the address of the raw frames that the experiment calls data/kitti.\n"
            "error: settings preset: counts only when a pipeline is compiled; compile one with it.\n"
            "error: settings synthetic: counts only when a pipeline is compiled; compile one with it.\n"
            "error: settings depth_data.root: write the address into the form's field for data instead.",
        ),
        ({"settings": "finetune.epoch=3"}, "error: unknown key `finetune.epoch` (remove it or check its spelling"),
        ({"settings": "epochs"}, "error: settings epochs: write it as section.key=value, e.g. finetune.epochs=3."),
        ({"result_name": "My run"}, "error: `result_name`: String should match pattern"),
        ({"data_depth": ""}, "error: data_depth: give the address of the raw frames that the experiment calls data/ki"),
        ({"data": {"data/kitti": ""}}, "error: data: give the address of the raw frames that the experiment calls dat"),
        ({"data": {}}, "error: data: give the address of the raw frames that the experiment calls data/kitti."),
        ({"data": {"data/kitti": 3}}, "error: data: `root`: Input should be a valid string (got 3)."),
        ({"data": {"data/kitti": ["s3://a"]}}, "error: data: `root`: Input should be a valid string (got ['s3://a'])."),
        ({"data_depth": "s3://a\ns3://b"}, "error: data_depth: `root`: must be one line of printable characters."),
        (
            {"data_depth": "null"},
            "error: data_depth: give the address of the raw frames that the experiment calls data/",
        ),
        ({"settings": "pair.depth_range=[1, 2]"}, "error: settings pair.depth_range=[1,: the value is not YAML; close"),
        ({"settings": "seed=9007199254740993"}, "error: `pretrain.seed`: Input should be less than or equal to 90071"),
        ({"settings": "depth_data.kind=nyu"}, "error: `depth_data.split`: Input should be 'none', 'within_sequence',"),
        (
            {"settings": "depth_data.root=s3://bucket/x"},
            "error: settings depth_data.root: write the address into the form's",
        ),
        ({"settings": "finetune.init=torch_default"}, "error: settings finetune: init and scratch_control decide"),
        ({"settings": "preset=improved"}, "error: settings preset: counts only when a pipeline is compiled"),
        ({"settings": "synthetic.seed=1"}, "error: settings synthetic: counts only when a pipeline is compiled"),
        (
            {"settings": "pretrain.image_encoder.init=checkpoint pretrain.image_encoder.init_file=w.pth"},
            "error: settings pretrain.image_encoder.init_file: w.pth may change under a cached result",
        ),
        ({"model_name": "null"}, "error: model_name: `null` stands for no value; write another."),
    ],
)
def test_configure_refuses_what_would_stop_a_later_step(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        configured(**given)
    assert message in str(ended.value.code)
    assert all(line.startswith("error: ") and len(line) < 250 for line in str(ended.value.code).splitlines())


def test_configure_loads_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "pyarrow", "scipy", "cv2", "boto3", "h5py", "numba")
    program = f"import sys, simipu_core.stages.configure; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_table_puts_scores_side_by_side_in_order(tracked: list[str], tmp_path: Path) -> None:
    scores = [
        to_text(read_scores(write_report(tmp_path / name, abs_rel))) for name, abs_rel in (("b", 0.1), ("a", 0.2))
    ]
    outputs = {
        "results": artifact(dsl.Artifact, tmp_path / "results"),
        "page": artifact(dsl.HTML, tmp_path / "page"),
        "summary": artifact(dsl.Markdown, tmp_path / "summary"),
    }
    component("table")(names=["b", "a"], scores=scores, **outputs)
    assert tracked == ["its own name"]
    rows = [line for line in (tmp_path / "summary").read_text().splitlines() if "0." in line]
    assert rows == ["| b | &nbsp;0.1000 |", "| a | &nbsp;0.2000 |"]
    assert "<td>0.2000</td>" in (tmp_path / "page").read_text()


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-05, 123456789.125, math.nan, math.inf])
def test_scores_survive_being_put_into_json_as_text(value: float) -> None:
    """Kubeflow's launcher replaces placeholders in the JSON that it hands a component, and escapes nothing."""
    scores = ReportScores(
        headline="a",
        num_images=2,
        metrics={"a": {"abs_rel": value}},
        digest="00e1",
        licence='CC BY-NC-SA 4.0; "it\'s" ours: [a, {b}] · \\ #no',
    )
    text = to_text(scores)
    (handed,) = json.loads('["SCORES"]'.replace("SCORES", text))
    read = from_text(handed, "row")
    assert repr(read.metrics) == repr(scores.metrics)
    assert (read.digest, read.licence) == ("00e1", "CC BY-NC-SA 4.0; 'it's' ours: [a, {b}] · / #no")


def every_component() -> list[Any]:
    found: dict[Any, Any] = {}
    for file in sorted((ROOT / "components").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        found |= {each.python_func: each for each in vars(module).values() if hasattr(each, "python_func")}
    return list(found.values())


@pytest.mark.parametrize("each", every_component(), ids=lambda each: each.name)
def test_components_take_artifacts_as_a_real_backend_sends_them(each: Any, tmp_path: Path) -> None:
    """Without schemaTitle the SDK takes an artifact's class from the annotation, which must therefore be one."""
    inputs = {name: spec for name, spec in (each.component_spec.inputs or {}).items() if "@" in spec.type}
    assert not any(spec.optional for spec in inputs.values())
    sent = {"name": "7", "type": {"instanceSchema": ""}, "uri": "s3://bucket/x", "metadata": {}}
    message = {
        "inputs": {"artifacts": {name: {"artifacts": [sent]} for name in inputs}, "parameterValues": {}},
        "outputs": {"outputFile": str(tmp_path / "outputs.json")},
    }
    read = Executor(message, each.python_func).input_artifacts
    assert {name: f"{type(made).schema_title}@{type(made).schema_version}" for name, made in read.items()} == {
        name: spec.type for name, spec in inputs.items()
    }


def test_every_folder_has_a_component() -> None:
    folders = {folder.name for folder in (ROOT / "components").iterdir() if (folder / "component.py").is_file()}
    assert {settings_of(each.python_func.__name__) for each in every_component()} == folders == set(COMPONENTS)


def test_a_users_problem_fails_the_task_in_one_line(
    tracked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ingest(*_: Any, **__: Any) -> None:
        raise SimipuError("data: no frames here; set root.")

    monkeypatch.setattr(importlib.import_module("simipu_core.stages.ingest"), "ingest", ingest)
    out, page = artifact(dsl.Dataset, tmp_path / "out"), artifact(dsl.HTML, tmp_path / "page")
    with pytest.raises(SystemExit) as ended:
        component("ingest")(section=to_parameter(any_source(kind="kitti")), catalogue=out, page=page)
    assert ended.value.code == "error: data: no frames here; set root."
    assert tracked == ["its own name"]


def test_the_default_image_follows_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "simipu_core"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("simipu_core.__file__", str(package / "__init__.py"))
    before = _default_image()
    assert "python" in before  # kfp.local warns otherwise
    assert _default_image() == before
    (package / "new.py").write_text("x = 1")
    assert _default_image() != before
