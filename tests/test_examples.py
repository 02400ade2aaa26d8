"""The one-page examples, run as their first lines say, on a tiny world."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

import simipu_core as simipu
from simipu_core.cli import app

ROOT = Path(__file__).parents[1]
EXAMPLES = {file.stem: file for file in (ROOT / "examples").glob("*.py")}


def write_experiment(folder: Path) -> None:
    """A world of 4 street scenes and 2 drives, small enough and learnt quickly enough for a test."""
    values = yaml.safe_load((ROOT / "tests/e2e/tiny.yaml").read_text(encoding="utf-8"))
    values["synthetic"] |= {"frames_per_drive": 12}
    values["finetune"] |= {"batch_size": 4, "schedule": {"max_lr": 2e-3, "warm_share": 0.1}}
    values["finetune"]["augment"] |= {"rotation_deg": 0, "colour": 0}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def run_as_written(name: str, folder: Path, capsys: pytest.CaptureFixture[str], epochs: int) -> str:
    """Run the commands of an example's docstring; the answer is what the example itself printed."""
    printed = ""
    text = ast.get_docstring(ast.parse(EXAMPLES[name].read_text(encoding="utf-8"))) or ""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in re.findall(r"^    (.+)$", text, re.MULTILINE):
            program, *words = command.split()
            words += ["--experiment", "experiment.yaml"]
            if program == "simipu":
                done = CliRunner().invoke(app, words + ["--no-track"] * (words[0] != "synthesize"))
                assert done.exit_code == 0, done.output
            else:
                assert (program, words[0]) == ("python", f"examples/{name}.py")
                patch.setattr(sys, "argv", [*words, "--epochs", str(epochs)])
                capsys.readouterr()
                runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
                printed = capsys.readouterr().out
    return printed


def losses(printed: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"^epoch \d+: loss ([\d.]+)", printed, re.MULTILINE)]


def test_an_encoder_is_pre_trained_and_a_depth_net_fine_tuned_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_experiment(tmp_path)
    printed = run_as_written("pretrain_one_page", tmp_path, capsys, epochs=2)
    assert len(losses(printed)) == 2
    assert losses(printed)[-1] < 0.9 * losses(printed)[0]
    encoder = simipu.read_encoder(tmp_path / "encoder.safetensors")
    assert (encoder.name, encoder.is_stated, len(encoder.tensors)) == ("resnet18", True, 120)

    printed = run_as_written("finetune_one_page", tmp_path, capsys, epochs=10)
    assert losses(printed)[-1] < 0.7 * losses(printed)[0]
    scores = dict(re.findall(r"(\w+) ([\d.]+)(?:,|$)", printed.splitlines()[-1]))
    assert scores.keys() == simipu.METRICS.keys()
    assert 0 < float(scores["abs_rel"]) < 1
    assert len(load_file(tmp_path / "net.safetensors")) == 120 + 20
    net = simipu.load_depth_net(tmp_path / "net.safetensors")
    assert net.spec.encoder_name == "resnet18"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_wrong_folder_ends_in_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path), "--experiment", str(ROOT / "params.yaml")])
    with pytest.raises(SystemExit, match=f"^error: {tmp_path}: not an artifact"):
        runpy.run_path(str(EXAMPLES[name]), run_name="__main__")


@pytest.mark.parametrize("name", EXAMPLES)
def test_they_fit_a_page_and_use_public_parts_only(name: str) -> None:
    text = EXAMPLES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    imported = {
        name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {"argparse", "pathlib", "torch", "torch.nn.functional", "simipu_core"}
