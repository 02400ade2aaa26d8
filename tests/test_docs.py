"""What the documents say is done as they say it."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from simipu_core.artifacts import read_manifest
from simipu_core.checking.counts import OFFICIAL
from simipu_core.cli import app
from simipu_core.config import SourceConfig, SyntheticConfig
from simipu_core.data import catalogue, sources
from simipu_core.data.sources import Frame, Rejected, list_frames
from simipu_core.data.sources.log_calibration import LogCalibration
from simipu_core.data.splits import PUBLISHED_COUNTS
from simipu_core.experiment import load_experiment
from simipu_core.project import experiment_file
from simipu_core.synthetic import synthesize
from tests.checking.made import facts, survey
from tests.data import files, test_bags

ROOT = Path(__file__).parents[1]
DATA = (ROOT / "docs/data.md").read_text(encoding="utf-8")
OWN_LOGS = DATA[DATA.index("## Own logs") :]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(text, "sh") for line in block.splitlines()]


def test_the_commands_for_own_logs_work_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of the project's folder with a bag at the place that the document names."""
    for name in ("params.yaml", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    moving = test_bags.drive(lambda time: test_bags.compressed_image(time, files.image(time // 100_000_000 % 10)))
    test_bags.write(tmp_path / "recorded", moving)
    (mcap,) = (tmp_path / "recorded").glob("*.mcap")
    mcap.rename(tmp_path / "drive.mcap")
    monkeypatch.chdir(tmp_path)
    done = []
    for words in commands(OWN_LOGS):
        if words[0] == "make":
            assert words[1] == "pipeline"
            settings = dict(word.split("=") for word in words[2:])
            assert experiment_file(settings["EXPERIMENT"]).is_file()
            assert (tmp_path / settings["DATA"]).is_dir()
            continue
        assert words[0] == ".venv/bin/simipu"
        ended = CliRunner().invoke(app, words[1:])
        assert ended.exit_code == 0, ended.output
        done.append(words[1])
    assert done == ["synthesize", "ingest", "pair", "import-bag", "check", "ingest", "pair"]
    assert read_manifest(tmp_path / "build/try/pairs", "pairs").counts["frames"] == 6
    counts = read_manifest(tmp_path / "build/own/pairs", "pairs").counts
    assert (counts["frames"], counts["broken"]) == (3, 0)


def test_the_calibration_in_the_document_is_a_sound_one() -> None:
    (text,) = blocks(OWN_LOGS, "yaml")
    calibration = LogCalibration.model_validate(yaml.safe_load(text))
    matrix = calibration.lidar_to_camera("top", "front")
    # the camera looks ahead: x of the LiDAR is its depth; it sits 0.7 m ahead of the LiDAR and 0.5 m below
    np.testing.assert_allclose(matrix[:3, :3], [[0, -1, 0], [0, 0, -1], [1, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(matrix[:3, 3], [0, -0.5, -0.7], atol=1e-9)


@pytest.mark.slow
def test_the_other_commands_work_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On rendered data at the places that the document names; what makes runs of hours or needs S3 is not run."""
    for name in ("params.yaml", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    world = SyntheticConfig(
        object_frames=4, drives=2, frames_per_drive=3, rooms=3, waymo_segments=2, waymo_frames=2,
        nuscenes_scenes=2, nuscenes_frames=2, labelled_images=8, image_size=(96, 320), lidar_points=20000,
    )  # fmt: skip
    synthesize(world, tmp_path / "raw", workers=0)
    for folder in ("kitti", "waymo", "nuscenes", "nyu"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / folder).symlink_to(tmp_path / "raw")
    table = [shlex.split(words) for words in re.findall(r"`simipu (ingest [^`]+)` \|$", DATA, re.MULTILINE)]
    table = [words for words in table if "FILE" not in words]
    checks = [words[1:] for words in commands(DATA[: DATA.index("## Own logs")])]
    assert (len(table), len(checks)) == (3, 7)
    for number, words in enumerate([*table, *checks]):
        words = [word.replace("build/frames", f"build/frames{number}") for word in words]
        ended = CliRunner().invoke(app, [*words, "--no-track"] if words[0] == "ingest" else words)
        assert ended.exit_code == 0, (words, ended.output)
        if words[0] == "ingest":
            assert read_manifest(tmp_path / f"build/frames{number}", "catalogue").counts["broken"] == 0


def test_the_example_of_mixed_sources_is_a_sound_one(tmp_path: Path) -> None:
    (text,) = blocks(DATA[DATA.index("## Several together") : DATA.index("## In S3 and DVC")], "yaml")
    experiment = load_experiment(files.write(tmp_path / "mixed.yaml", f"experiment: mixed\n{text}"))
    assert experiment.pretrain.source_weights is not None
    assert set(experiment.pretrain.source_weights) == {part.kind for part in experiment.pretrain_data.sources}


def test_the_settings_in_the_document_are_those_that_there_are() -> None:
    for kind in get_args(SourceConfig.model_fields["kind"].annotation):
        assert f"`{kind}`" in DATA or f"`kind: {kind}`" in DATA, kind
    named = re.findall(r"`camera: ([^`]+)`((?: · `\w+`)*)", DATA)
    listed = {name for first, rest in named for name in (first, *re.findall(r"\w+", rest))}
    assert listed == {name for each in get_args(SourceConfig.model_fields["camera"].annotation) for name in (each,)}
    assert f"`lidars: [{', '.join(SourceConfig.model_fields['lidars'].default)}]`" in DATA
    for name in ("lists", "depth", "returns", "split", "every", "log_cameras", "log_lidar", "frames", "sources"):
        assert name in SourceConfig.model_fields
        assert f"{name}:" in DATA, name


def test_the_counts_in_the_document_are_the_published_ones() -> None:
    for count in PUBLISHED_COUNTS.values():
        assert f"{count:,}" in DATA


@pytest.mark.parametrize("kind", OFFICIAL)
def test_the_counts_in_the_document_are_those_that_check_expects(kind: str) -> None:
    for official in OFFICIAL[kind](survey([facts(0)], kind=kind)):
        assert re.search(rf"(?<![\d,]){official.number:,}(?![\d,])", DATA), official


def test_every_experiment_in_the_document_exists() -> None:
    named = set(re.findall(r"EXPERIMENT=([\w/]+)", DATA))
    assert len(named) >= 5
    assert all(experiment_file(name).is_file() for name in named)


def test_the_example_of_a_new_source_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks((ROOT / "docs/new_source.md").read_text(encoding="utf-8"), "python")
    module = files.write(tmp_path / "tram.py", code)
    spec = importlib.util.spec_from_file_location("tram", module)
    assert spec is not None
    assert spec.loader is not None
    tram = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tram)
    layout = sources._Layout("tram/<drive>/index.csv", tram.find, lambda folder, _: tram.frames(folder))
    monkeypatch.setitem(sources._LAYOUTS, "tram", layout)

    drive = tmp_path / "raw/tram/line_4"
    rig = {"K": files.P2[:, :3].ravel().tolist(), "T_camera_lidar": np.linalg.inv(np.eye(4)).ravel().tolist()}
    files.write(drive / "rig.json", json.dumps(rig))
    files.write(drive / "index.csv", "image,scan\na.png,a.bin\nb.png,../secret.bin\n")
    for name in "ab":
        files.write(drive / f"{name}.png", files.image())
    files.write(drive / "a.bin", files.scan().tobytes())
    files.write(drive.parent / "secret.bin", files.scan().tobytes())
    source = SourceConfig.model_construct(kind="tram", every=1)  # type: ignore[arg-type]
    sound, broken = list_frames(source, tmp_path / "raw")
    assert isinstance(sound, Frame)
    assert isinstance(broken, Rejected)
    assert broken.reason == "is not there, or outside its drive"
    row = catalogue.examine(tmp_path / "raw", sound)
    assert isinstance(row, dict)
    assert row["num_points"] == 800
