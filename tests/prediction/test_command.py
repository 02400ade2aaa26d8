"""`simipu predict`, from the command line to files."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simipu_core.cli import main
from simipu_core.data.images import decode_depth, decode_image
from simipu_core.prediction.predictor import Predictor
from tests.prediction.pictures import picture, video
from tests.samples import INTRINSICS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def simipu(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["simipu", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capfd.readouterr()
        code = ended.value.code
        return (1, shown.out, shown.err + code) if isinstance(code, str) else (int(code or 0), shown.out, shown.err)

    return run


def test_pictures_and_videos_to_depth(simipu: Run, model: Path, predictor: Predictor, tmp_path: Path) -> None:
    file = picture(tmp_path / "in/a.png", 3)
    video(tmp_path / "in/drive.mp4", range(2))
    out, camera = tmp_path / "out", "60,60,47.5,20"
    code, shown, warned = simipu("predict", model, tmp_path / "in", "--out", out, "--intrinsics", camera)
    assert (code, warned) == (0, "")
    assert f"{out}: colour, png of 3 frames at " in shown
    expected = predictor.predict(decode_image(file.read_bytes()), INTRINSICS)
    np.testing.assert_allclose(decode_depth((out / "png/a.png").read_bytes(), 256), expected, atol=0.002)
    assert sorted(path.name for path in (out / "colour").rglob("*.jpg")) == ["000000.jpg", "000001.jpg", "a.jpg"]
    code, shown, _ = simipu("predict", model, tmp_path / "in", "--out", out, "--intrinsics", camera)
    assert (code, f"{out}: colour, png of 0 frames · 3 were there\n" in shown) == (0, True)


def test_broken_ones_are_named_at_the_end_with_code_1(simipu: Run, model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png")
    for number in range(25):
        (tmp_path / f"in/{number}.png").write_bytes(b"nonsense")
    weights = model / "model.safetensors"
    code, shown, warned = simipu("predict", weights, tmp_path / "in", "-o", tmp_path / "out", "--save", "npy,ply")
    assert code == 1
    assert "npy, ply of 1 frames" in shown
    assert "no ply of 1 frames: their intrinsics are not known; give --intrinsics" in shown
    assert "warning: no intrinsics are given" in warned
    assert f"skipped: {tmp_path / 'in/0.png'}: not a PNG or JPEG image\n" in warned
    assert "and 5 more were skipped" in warned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "tiff"], "tiff: choose among colour, png, npy, ply, video, parquet"),
        (["--save", ""], "nothing: choose among"),
        (["--intrinsics", "1,2,3"], "write FX,FY,CX,CY in pixels"),
        (["--device", "gpu"], "write auto, cpu, cuda"),
        (["--batch-size", "0"], "should be greater than or equal to 1"),
        (["--precision", "fp16"], "'fp16' is not one of"),
    ],
)
def test_mistaken_options_end_with_code_2(simipu: Run, options: list[str], message: str) -> None:
    code, _, shown = simipu("predict", "model", "x.png", *options)
    assert code == 2
    assert message in " ".join(shown.replace("│", " ").split())


def test_a_missing_model_is_one_sentence(simipu: Run, tmp_path: Path) -> None:
    code, _, shown = simipu("predict", tmp_path / "net", picture(tmp_path / "a.png"), "--out", tmp_path / "out")
    assert code == 1
    assert shown.count("\n") == 0
    assert "no such file or folder; give weights, a folder that `simipu finetune` wrote" in shown
