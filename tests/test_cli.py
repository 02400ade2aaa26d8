import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from simipu_core.artifacts import read_manifest, sha256_file, write_artifact
from simipu_core.checking.report import Report
from simipu_core.cli import app, main
from simipu_core.errors import SimipuError
from simipu_core.project import checkpoints, experiment_file, root
from tests.data import files

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "synthesize": ["--out", "--workers", "--experiment", "--set"],
    "ingest": ["--out", "--root", "--experiment", "--set", "--no-track"],
    "pair": ["--out", "--experiment", "--set", "--no-track"],
    "pretrain": ["--out", "--experiment", "--set", "--no-track"],
    "finetune": ["--out", "--encoder", "--experiment", "--set", "--no-track"],
    "evaluate": ["--out", "--control", "--register", "--experiment", "--set", "--no-track"],
    "predict": ["--out", "--save", "--intrinsics", "--device", "--precision", "--flip", "--batch-size", "--overwrite"],
    "export": ["--out", "--format", "--half", "--opset", "18 to 23", "--check", "0.025 %", "1 %"],
    "import-bag": ["--image-topic", "--points-topic", "--camera-info-topic", "--sequence", "--receive-time"],
    "check": ["--kind", "--root", "--out", "--experiment", "--set"],
    "table": ["--out"],
    "config": ["--explain", "--experiment", "--set"],
    "plan": ["--set", "--tflops", "--efficiency", "--devices", "--pairs", "--depth", "--json"],
    "models": ["--repair", "--experiment"],
    "promote": ["--reason", "--experiment"],
    "rollback": ["--reason", "--experiment"],
    "fetch": ["--out", "--experiment"],
    "serve": ["--host", "--port", "--workers"],
    "tracking send": [],
    "tracking accounts": ["--steps", "--evaluate", "--promoter", "--serving", "--experiment"],
    "weights show": [],
    "weights import": ["--out", "--input"],
    "weights export": ["--out", "--layout", "openmmlab", "prefix="],
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def simipu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["simipu", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        code = ended.value.code
        if isinstance(code, str):  # sys.exit prints it at the very end
            return 1, shown.out, shown.err + code + "\n"
        return int(code or 0), shown.out, shown.err

    return run


def first_words(commands: Iterable[str]) -> set[str]:
    return {command.split()[0] for command in commands}


def test_help_tells_the_story() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for words in ("LiDAR", "without labels", "make pipeline", "simipu ingest depth", *first_words(COMMANDS)):
        assert words in shown.output


@pytest.mark.parametrize(("command", "options"), COMMANDS.items())
def test_each_command_explains_itself(command: str, options: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "Example: " in shown.output
    for option in options:
        assert option in shown.output


def test_the_table_of_commands_is_complete() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for group in app.registered_groups:
        assert group.typer_instance
        for command in group.typer_instance.registered_commands:
            assert command.callback
            names.add(f"{group.name} {command.callback.__name__.rstrip('_')}")
    assert names == set(COMMANDS)


def test_table_wants_a_name_for_every_report(simipu: Run, tmp_path: Path) -> None:
    for reports in (["folder"], ["a=x", "a=y"], ["=x"]):
        code, _, err = simipu("table", *reports, "--out", str(tmp_path / "out"))
        assert (code, err) == (1, "error: table: give NAME=FOLDER for every report, each name once.\n")


def test_config_prints_the_resolved_experiment(simipu: Run) -> None:
    code, out, _ = simipu("config", "--set", "finetune.epochs=7")
    values = yaml.safe_load(out)
    assert code == 0
    assert values["finetune"]["epochs"] == 7
    assert values["tracking"]["model_name"] == "simipu-depth"


def test_config_explains_units(simipu: Run) -> None:
    code, out, _ = simipu("config", "--explain")
    assert code == 0
    assert "finetune.max_depth  float, default 80.0\n    Largest depth the net can answer, metres.\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "-e", "nonsense"], "ready ones are demo, "),
        (["config", "--set", "finetune.epoch=1"], "unknown key `finetune.epoch`"),
        (["config", "--set", "finetune.epochs=two"], "`finetune.epochs`"),
    ],
)
def test_a_users_mistake_is_one_line(simipu: Run, arguments: list[str], message: str) -> None:
    code, out, err = simipu(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_an_interrupt_ends_with_130(simipu: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simipu_core.cli.experiment.load", interrupted)
    code, _, err = simipu("config")
    assert code == 130
    assert "Traceback" not in err


def test_a_stage_gets_its_section_and_reports(simipu: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def ingest(source: Any, out: Path, *, root: str | None, run: Any, page: Path) -> Any:
        seen.update(split=source.split, root=root, run_id=run.run_id, page=page)
        with write_artifact(out, "catalogue", inputs={}, parameters={}, licence="none") as draft:
            draft.counts["frames"] = 3
        from simipu_core.artifacts import read_manifest

        return read_manifest(out)

    monkeypatch.setattr("simipu_core.stages.ingest.ingest", ingest)
    out = tmp_path / "frames"
    code, shown, _ = simipu("ingest", "depth", "--root", "somewhere", "--out", str(out), "--no-track")
    assert code == 0
    assert seen == {"split": "by_sequence", "root": "somewhere", "run_id": None, "page": tmp_path / "frames.html"}
    assert shown == f"{out}: catalogue · frames 3\n"


def test_a_stages_problem_is_one_line(simipu: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ingest(*_: Any, **__: Any) -> None:
        raise SimipuError("000001.bin: the scan is cut short; download it again.")

    monkeypatch.setattr("simipu_core.stages.ingest.ingest", ingest)
    code, _, err = simipu("ingest", "depth", "--out", str(tmp_path / "x"), "--no-track")
    assert (code, err) == (1, "error: 000001.bin: the scan is cut short; download it again.\n")


# -- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """An encoder as the published SimIPU pre-training stores it."""
    import torch

    from simipu_core.models.image_encoder import image_encoder

    tensors = {f"img_backbone.{name}": tensor for name, tensor in image_encoder("resnet18").state_dict().items()}
    torch.save({"state_dict": tensors | {"queue": torch.zeros(3)}}, tmp_path / "SimIPU.pth")
    return tmp_path / "SimIPU.pth"


def test_foreign_weights_are_shown_imported_and_exported(simipu: Run, released: Path, tmp_path: Path) -> None:
    code, out, _ = simipu("weights", "show", str(released))
    assert code == 0
    assert out.splitlines() == [
        "layout        simipu",
        "architecture  resnet18, BatchNorm epsilon 0.001 (usual for its layout)",
        "tensors       120 of the encoder, 1 others",
        "input         bgr, mean (103.53, 116.28, 123.675), std (1.0, 1.0, 1.0) (usual for its layout)",
    ]

    folder = tmp_path / "encoder"
    assert simipu("weights", "import", str(released), "--out", str(folder))[:2] == (
        0,
        f"{folder}: encoder · tensors 120\n",
    )
    manifest = read_manifest(folder, "encoder")
    assert manifest.inputs == {"weights": sha256_file(released)}
    assert manifest.parameters["layout"] == "simipu"
    assert "(stated by the file)" in simipu("weights", "show", str(folder))[1]

    made = tmp_path / "mm.pth"
    code, out, _ = simipu("weights", "export", str(folder), "--layout", "openmmlab", "--out", str(made))
    assert (code, out) == (0, f"{made}: openmmlab layout, 120 tensors\n")
    shown = simipu("weights", "show", str(made))[1]
    assert "layout        openmmlab" in shown
    assert "input         bgr" in shown


def test_an_imported_encoder_can_be_fine_tuned(simipu: Run, released: Path, tmp_path: Path) -> None:
    from simipu_core.config import FinetuneConfig, InputConfig
    from simipu_core.models.depth_net import build_depth_net

    small = FinetuneConfig(encoder_name="resnet18", decoder_channels=(8, 8, 8, 8))
    simipu("weights", "import", str(released), "--out", str(tmp_path / "bgr"))
    with pytest.raises(SimipuError, match="was made on bgr input"):
        build_depth_net(small, tmp_path / "bgr" / "encoder.safetensors")
    bgr = InputConfig(channels="bgr", mean=(103.53, 116.28, 123.675), std=(1, 1, 1))
    build_depth_net(small.model_copy(update={"input": bgr}), tmp_path / "bgr" / "encoder.safetensors")
    simipu("weights", "import", str(released), "--input", "imagenet", "--out", str(tmp_path / "rgb"))
    build_depth_net(small, tmp_path / "rgb" / "encoder.safetensors")


def test_an_unknown_input_convention_must_be_stated(simipu: Run, released: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pth"
    simipu("weights", "export", str(released), "--layout", "timm", "--out", str(bare))
    assert "input         unknown" in simipu("weights", "show", str(bare))[1]
    code, _, err = simipu("weights", "import", str(bare), "--out", str(tmp_path / "x"))
    assert (code, err.count("\n")) == (1, 1)
    assert "state it with --input" in err
    assert not (tmp_path / "x").exists()


def test_help_loads_no_heavy_module() -> None:
    heavy = "{'torch', 'mlflow', 'kfp', 'pyarrow', 'cv2', 'numba', 'dvc'}"
    program = f"import sys, simipu_core.cli; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_project_is_found_from_below(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert root() == tmp_path
    assert experiment_file("demo") == tmp_path / "params.yaml"
    assert experiment_file("mine.yaml") == Path("mine.yaml")
    (tmp_path / "params.yaml").unlink()
    with pytest.raises(SimipuError, match=r"there is no .*params\.yaml; start in the project's folder, or give"):
        experiment_file("demo")


@pytest.mark.parametrize("command", [["check"], ["ingest", "pretrain", "--out", "out"]])
def test_a_root_that_the_shell_left_empty_is_refused(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--root", ""])
    assert done.exit_code == 2
    assert "is empty; is a variable" in done.output


def test_checkpoints_can_lie_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", os.fspath(tmp_path))
    assert checkpoints() == tmp_path
    monkeypatch.delenv("SIMIPU_CHECKPOINTS")
    assert checkpoints() == root() / "build" / "checkpoints"


# -- check -----------------------------------------------------------------------------------------------------------


def test_check_shows_findings_and_ends_with_1_on_a_fault(simipu: Run, tmp_path: Path) -> None:
    files.nyu(tmp_path / "nyu", {"den": [0, 1, 2]})
    (tmp_path / "nyu/den/sync_depth_00001.png").write_bytes(b"")
    arguments = ["check", "--kind", "nyu", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    code, out, _ = simipu(*arguments)
    assert code == 1
    assert "sync_depth_00001.png: empty (0 bytes)" in " ".join(out.split())
    assert "2 faults" in out.splitlines()[-1]  # noise is no plausible depth either
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"check.json", "check.html"}

    files.write(tmp_path / "nyu/den/sync_depth_00001.png", files.depth(1))
    code, out, _ = simipu(*arguments, "--set", "pair.min_points=1")
    assert "broken" in out
    assert "empty" not in out


def test_check_reads_the_experiments_sources(simipu: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    def check(source: Any, pair: Any, out: Path, *, root: str | None) -> Any:
        seen.append((source.kind, root))
        return Report(kind=source.kind, root="r", parameters={}, frames=1, findings=(), broken=(), statistics={})

    monkeypatch.setattr("simipu_core.stages.check.check", check)
    assert simipu("check")[0] == 0
    assert simipu("check", "depth", "--root", "there")[0] == 0
    assert seen == [("kitti_object", None), ("kitti_depth", "there")]
    code, _, err = simipu("check", "--kind", "pigeons")
    assert code == 1
    assert err.startswith("error: --kind: `kind`: ")
