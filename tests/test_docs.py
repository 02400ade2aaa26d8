"""What the documents say is done as they say it."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from simipu_core.artifacts import read_manifest
from simipu_core.cli import app
from simipu_core.data.formats.log_calibration import LogCalibration
from simipu_core.data.frames import Rejected
from simipu_core.data.sources import SOURCES, Source, nuscenes, waymo
from simipu_core.data.sources.mixed import Mixed
from simipu_core.experiment import load_experiment
from simipu_core.project import experiment_file
from tests.data import files, test_bags
from tests.sources import any_source
from tests.worlds import World, synthesize

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
    world = World(
        object_frames=4, drives=2, frames_per_drive=3, rooms=3, waymo_segments=2, waymo_frames=2,
        nuscenes_scenes=2, nuscenes_frames=2, labelled_images=8, image_size=(96, 320), lidar_points=20000,
    )  # fmt: skip
    synthesize(world, tmp_path / "raw", workers=0)
    for folder in ("kitti", "waymo", "nuscenes", "nyu"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / folder).symlink_to(tmp_path / "raw")
    rows = re.findall(r"^\| \[.*\| `(simipu|make) (.+)` \|$", DATA, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| \[", DATA, re.MULTILINE))
    table = [shlex.split(words) for program, words in rows if program == "simipu" and "FILE" not in words]
    sections = re.split(r"^## ", DATA[: DATA.index("## Several together")], flags=re.MULTILINE)[1:]
    assert [commands(section)[0][1] for section in sections] == ["check"] * len(sections)
    checks = [words[1:] for words in commands(DATA[: DATA.index("## Own logs")])]
    assert table
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
    assert set(experiment.pretrain.source_weights) == {part.kind for part in experiment.pretrain_data.parts}


def test_the_settings_in_the_document_are_those_that_there_are() -> None:
    named = re.findall(r"`camera: ([^`]+)`((?: · `\w+`)*)", DATA)
    cameras = [{first, *re.findall(r"\w+", rest)} for first, rest in named]
    assert cameras == [set(get_args(each)) for each in (waymo.Camera, nuscenes.Camera)]
    assert f"`lidars: [{', '.join(get_args(waymo.Lidar))}]`" in DATA
    common = set(Source.model_fields) - {"split", "every"}
    for source in SOURCES:
        kind = source.model_fields["kind"].default
        assert f"`{kind}`" in DATA or f"`kind: {kind}`" in DATA, kind
        for name in set(source.model_fields) - common:
            assert f"{name}:" in DATA, (kind, name)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_the_counts_in_the_document_are_those_that_check_and_plan_expect(source: type[Source]) -> None:
    if source is Mixed:
        return
    splits = get_args(source.model_fields["split"].annotation)
    kind = source.model_fields["kind"].default
    published = [count for split in splits for count in any_source(kind, split=split).published() or ()]
    official = any_source(kind).official([Rejected("a/0", "a", Path("a/b.png"), "")], Path("root"))
    for count in (*published, *(each.number for each in official)):
        assert count == 0 or re.search(rf"(?<![\d,]){count:,}(?![\d,])", DATA), count


def test_every_experiment_in_the_document_exists() -> None:
    named = set(re.findall(r"EXPERIMENT=([\w/]+)", DATA))
    assert len(named) >= 5
    assert all(experiment_file(name).is_file() for name in named)


def test_the_example_of_a_new_source_runs(tmp_path: Path) -> None:
    """One file and one list are touched, in a copy of the package; check, ingest and pair then know the source."""
    (code,) = blocks((ROOT / "docs/new_source.md").read_text(encoding="utf-8"), "python")
    sources = tmp_path / "simipu_core/data/sources"
    shutil.copytree(ROOT / "simipu_core", tmp_path / "simipu_core", ignore=shutil.ignore_patterns("__pycache__"))
    files.write(sources / "tram.py", code)
    text = (sources / "__init__.py").read_text(encoding="utf-8")
    for line, added in (
        ("from simipu_core.data.sources.waymo import Waymo\n", "from simipu_core.data.sources.tram import Tram\n"),
        ("    | Mixed\n", "    | Tram\n"),
    ):
        assert text.count(line) == 1
        text = text.replace(line, added + line)
    files.write(sources / "__init__.py", text)

    drive = tmp_path / "raw/tram/line_4"
    pose = [0, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    files.write(drive / "rig.json", json.dumps({"K": files.P2[:, :3].ravel().tolist(), "T_camera_lidar": pose}))
    files.write(drive / "index.csv", "image,scan\na.png,a.bin\nb.png,b.bin\nc.png,../../../secret.bin\n")
    for index, name in enumerate("abc"):
        files.write(drive / f"{name}.png", files.image(index))
        files.write(drive / f"{name}.bin", files.scan(index).tobytes())
    experiment = "experiment: tram\npretrain_data: {kind: tram, max_broken_share: 0.5}\npair: {min_points: 1}\n"
    files.write(tmp_path / "secret.bin", files.scan().tobytes())
    files.write(tmp_path / "tram.yaml", experiment)
    files.write(tmp_path / "params.yaml", experiment)

    def simipu(*words: str) -> str:
        command = [sys.executable, "-c", "from simipu_core.cli import main; main()", *words, "-e", "tram.yaml"]
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    assert "3 frames in 1 sequence" in simipu("check", "--root", "raw")
    simipu("ingest", "pretrain", "--root", "raw", "--out", "frames", "--no-track")
    manifest = read_manifest(tmp_path / "frames", "catalogue")
    assert (manifest.licence, manifest.counts["frames"], manifest.counts["broken"]) == ("the tram company's", 2, 1)
    simipu("pair", "pretrain", "frames", "--out", "pairs", "--no-track")
    assert read_manifest(tmp_path / "pairs", "pairs").counts["frames"] == 2


def test_nothing_but_its_file_and_the_list_knows_a_source() -> None:
    """By module, class and name; the importer of bags and the synthetic world write layouts, and say which."""
    modules = {source.__module__ for source in SOURCES}
    classes = {source.__name__ for source in SOURCES}
    kinds = {source.model_fields["kind"].default for source in SOURCES}
    writers = ("data/sources/", "synthetic/", "data/bags.py", "cli/logs.py")
    knowing: list[tuple[str, object]] = []
    for path in sorted((ROOT / "simipu_core").rglob("*.py")):
        name = path.relative_to(ROOT / "simipu_core").as_posix()
        if name.startswith(writers):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported = {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
                knowing += [(name, each) for each in imported & modules]
            elif isinstance(node, ast.Name | ast.Attribute):
                used = node.id if isinstance(node, ast.Name) else node.attr
                knowing += [(name, used)] * (used in classes)
            elif isinstance(node, ast.Constant):
                knowing += [(name, node.value)] * (node.value in kinds)
    crops = [(name, "nyu") for name in ("config/depth.py", "experiment.py", "planning/plan.py")]  # so a crop is called
    assert [each for each in knowing if each not in crops] == []
