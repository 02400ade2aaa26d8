"""`simipu export`: what is written answers as PyTorch does, says what it is, or is not written."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simipu_core.artifacts import sha256_file, write_artifact
from simipu_core.cli import main
from simipu_core.errors import SimipuError
from simipu_core.models.depth_net import DepthNetSpec, load_depth_net
from simipu_core.models.weights import read_spec
from simipu_core.prediction import export as exporting
from simipu_core.prediction.export import METADATA, OPSETS, Exported, ExportedNet, export
from simipu_core.prediction.predictor import Predictor
from tests.prediction.conftest import CAMERAS
from tests.prediction.pictures import picture, pixels
from tests.samples import HEIGHT, INTRINSICS, WIDTH, depth_row, write_shards

ROOT = str(Path(exporting.__file__).parents[2])
"""A folder of this machine, of which what is handed on does not tell."""


def planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) → (1, 3, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The exit code of `simipu export`, or its sentence."""
    monkeypatch.setattr(sys, "argv", ["simipu", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize("half", [False, True])
def test_the_exported_net_is_what_predict_computes(predictor: Predictor, half: bool) -> None:
    image = pixels(1)
    with torch.inference_mode():
        depth = ExportedNet(predictor.net, half=half)(torch.from_numpy(planes(image)))
    assert (depth.shape, depth.dtype) == ((1, HEIGHT, WIDTH), torch.float32)
    bound = exporting.BOUNDS["fp16"] * 80 if half else 1e-4
    expected = predictor.predict(image, INTRINSICS, flip=False)
    np.testing.assert_allclose(depth[0].numpy(), expected, rtol=0, atol=bound)
    assert {parameter.dtype for parameter in predictor.net.parameters()} == {torch.float32}


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_what_answers_otherwise_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    net = ExportedNet(load_depth_net(model / "model.safetensors"))

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            depth: NDArray[np.float32] = net(torch.from_numpy(images)).numpy()
        depth[-1, 0, 0] += wrong
        return depth

    monkeypatch.setattr(exporting, "_program", lambda net: net)
    monkeypatch.setattr(exporting, "_to_bytes", lambda program, metadata: (b"", answer))
    out = tmp_path / "out/depth.pt2"
    with pytest.raises(SimipuError, match=r"is not written, .* by up to (0.1|inf) m, and 0.02 m are allowed"):
        export(model, out, format="program")
    assert not out.parent.exists()
    if wrong == wrong:
        done = export(model, out, format="program", half=True)
        assert (round(done.error, 3), done.bound, out.read_bytes()) == (0.1, 0.8, b"")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.onnx", ["--opset", "11"], "opset 11 is too old: it lacks operators of the network; choose --opset 18 to"),
        ("x.onnx", ["--opset", "99"], "opset 99 is too new to be checked here; choose --opset 18 to 23."),
        ("x.pt2", ["--format", "program", "--check", "no.png"], "no picture can be read (no.png: no such file"),
        ("x.pt2", [], "x.pt2: --format onnx writes .onnx; give another --out or --format."),
        ("x.onnx", ["--format", "tflite"], None),
    ],
)
def test_mistakes_are_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: list[str], message: str | None
) -> None:
    out = tmp_path / name
    said = command(monkeypatch, model, "--out", out, *options)
    assert said == 2 if message is None else message in str(said)
    assert not out.exists()


@pytest.mark.parametrize(("crop", "scale", "told"), [("none", "1", False), ("none", "0.5", True), ("kb", "1", True)])
def test_the_command_tells_what_the_network_must_be_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], crop: str, scale: str, told: bool
) -> None:
    done = Exported({"precision": "fp32", "crop": crop, "input_scale": scale}, 1, 0.0, 0.02, 2)
    monkeypatch.setattr(exporting, "export", lambda *_, **__: done)
    assert command(monkeypatch, "net") == 0
    assert (f"crop {crop}, then shrunk by {scale}" in capsys.readouterr().out) is told


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "encoder", "encoder", inputs={}, parameters={}, licence="made up") as draft:
        (draft.path / "encoder.safetensors").write_bytes(b"")
    with pytest.raises(SimipuError, match="encoder"):
        export(tmp_path / "encoder", tmp_path / "depth.pt2", format="program")


def test_missing_packages_are_told_with_the_mend(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxruntime" else importlib.util)
    with pytest.raises(SimipuError, match=r"^onnxruntime must be installed for ONNX: pip install 'simipu\[export\]'"):
        export(model, tmp_path / "depth.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(("opset", "half"), [(OPSETS[0], False), (OPSETS[-1], False), (OPSETS[0], True)])
def test_onnx_answers_for_any_batch_and_size(
    model: Path,
    predictor: Predictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opset: int,
    half: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import onnx
    import onnxruntime

    out = tmp_path / "new/depth.onnx"
    shards = write_shards(tmp_path / "shards", "depth", train=[depth_row(1)], eval=[depth_row(2), depth_row(3)])
    options = ["--out", out, "--opset", opset, "--check", shards, *(["--half"] if half else [])]
    assert command(monkeypatch, model, *options) == 0
    shown = capfd.readouterr()
    precision = "fp16" if half else "fp32"
    assert f"{out}: onnx, opset {opset}, {precision}, " in shown.out
    assert "on 4 pictures (refused beyond " in shown.out
    assert shown.err == ""
    assert [file.name for file in out.parent.iterdir()] == ["depth.onnx"]
    assert ROOT.encode() not in out.read_bytes()

    proto = onnx.load(out)
    onnx.checker.check_model(proto, full_check=True)
    assert {each.domain: each.version for each in proto.opset_import} == {"": opset}
    sizes: list[Any] = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert sizes == [["batch", 3, "height", "width"], ["batch", "height", "width"]]
    stored = {initializer.data_type for initializer in proto.graph.initializer if len(initializer.raw_data) > 4096}
    assert stored == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}

    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    weights = model / "model.safetensors"
    assert metadata["weights_sha256"] == sha256_file(weights)
    assert (metadata["licence"], metadata["opset"], metadata["precision"]) == ("made up", str(opset), precision)
    assert float(metadata["max_depth"]) == read_spec(weights, DepthNetSpec).max_depth
    assert json.loads(metadata["cameras"]) == CAMERAS.model_dump(mode="json")
    assert metadata["input"].startswith("images: uint8 RGB")
    exact = ExportedNet(predictor.net)
    for count, height, width in ((1, 33, 40), (3, HEIGHT, WIDTH), (1, 97, 130)):
        images = np.concatenate([planes(pixels(seed, height, width)) for seed in range(count)])
        (depth,) = session.run(None, {"images": images})
        with torch.inference_mode():
            expected = exact(torch.from_numpy(images)).numpy()
        assert (depth.shape, depth.dtype) == ((count, height, width), np.float32)
        np.testing.assert_allclose(depth, expected, rtol=0, atol=0.8 if half else 0.02)
        assert np.ptp(expected) > 1


@pytest.mark.slow
def test_a_program_answers_without_this_package(
    model: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "depth.pt2"
    assert command(monkeypatch, model, "--format", "program", "--out", out, "--check", picture(tmp_path / "a.png")) == 0
    assert ROOT.encode() not in out.read_bytes()
    extra = {METADATA: ""}
    program = torch.export.load(out, extra_files=extra).module()
    assert json.loads(extra[METADATA])["weights_sha256"] == sha256_file(model / "model.safetensors")
    for size in ((33, 40), (HEIGHT, WIDTH)):
        images = torch.from_numpy(planes(pixels(2, *size)))
        with torch.inference_mode():
            torch.testing.assert_close(program(images), ExportedNet(predictor.net)(images))
