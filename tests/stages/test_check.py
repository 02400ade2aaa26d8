import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from simipu_core.artifacts import read_manifest
from simipu_core.checking.report import Report, Severity
from simipu_core.config import PairConfig, SyntheticConfig
from simipu_core.data.catalogue import examine
from simipu_core.data.frames import Frame
from simipu_core.data.pairing import Packed, pack_depth
from simipu_core.data.schema import DepthRow
from simipu_core.data.sources import Source
from simipu_core.errors import SimipuError
from simipu_core.stages.check import check, check_sample
from simipu_core.stages.ingest import ingest
from simipu_core.synthetic import synthesize
from simipu_core.tracking.run import SilentRun
from tests.checking import made
from tests.data import files
from tests.sources import any_source


def source(root: Path, **settings: Any) -> Source:
    return any_source(**{"kind": "kitti_object", "root": str(root), **settings})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SyntheticConfig(object_frames=4, drives=1, frames_per_drive=2, image_size=(96, 320), lidar_points=20000)
    out = tmp_path_factory.mktemp("check") / "raw"
    synthesize(config, out, workers=0)
    return out


def test_a_sound_set_has_no_finding_but_ok(world: Path, tmp_path: Path) -> None:
    report = check(source(world), PairConfig(), tmp_path / "out")
    assert {finding.severity for finding in report.findings} == {Severity.OK}
    assert (report.frames, report.broken, report.has_faults) == (4, (), False)
    assert Report.model_validate_json((tmp_path / "out/check.json").read_text()) == report
    assert report.statistics["image_sizes"] == {"96×320": 4}


def test_drives_have_times_and_depth_to_look_at(world: Path) -> None:
    report = check(source(world, kind="kitti_depth"), PairConfig())
    checks = {finding.check for finding in report.findings}
    assert {"timestamps", "synchronisation", "depth scale", "depth density", "depth and scan"} <= checks
    assert 0 < report.statistics["sync_error_ms"]["p50"] < 10
    assert report.statistics["depth"]["agreement"] > 0.9
    assert not report.has_faults


def test_all_parts_of_a_mixed_source_are_looked_at(world: Path) -> None:
    parts = [{"kind": "kitti_object"}, {"kind": "kitti_depth", "split": "within_sequence"}]
    report = check(source(world, kind="mixed", sources=parts), PairConfig())
    assert (report.kind, report.frames, report.has_faults) == ("mixed", 6, False)
    (count,) = (finding for finding in report.findings if finding.check == "count")
    assert count.what.startswith("6 frames in 2 sequences (5 train, 1 eval)")
    assert "depth scale" in {finding.check for finding in report.findings}


def test_the_page_needs_nothing_else(world: Path, tmp_path: Path) -> None:
    check(source(world), PairConfig(), tmp_path)
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 4
    for word in ("<script", "http", "<link", "@import"):
        assert word not in page
    assert "kitti_object/000003" in page


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    files.nyu(tmp_path / "nyu", {"<b>den": [0, 1, 2]})
    files.write(tmp_path / "nyu/<b>den/rgb_00001.jpg", b"")
    check(source(tmp_path, kind="nyu"), PairConfig(), tmp_path / "out")
    page = (tmp_path / "out/check.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "nyu/&lt;b&gt;den/rgb_00001.jpg" in page


def test_the_report_does_not_depend_on_the_number_of_processes(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = check(source(world, kind="kitti"), PairConfig())
    monkeypatch.setattr("simipu_core.parallel._FEWEST", 1)
    assert check(source(world, kind="kitti"), PairConfig()) == alone


def test_a_broken_frame_is_a_warning_where_the_settings_allow_it(tmp_path: Path) -> None:
    training = files.kitti_object(tmp_path, 4)
    files.write(training / "velodyne/000001.bin", b"123")

    def broken(**settings: object) -> Severity:
        report = check(source(tmp_path, **settings), PairConfig(), tmp_path / "out")
        (entry,) = report.broken
        assert entry.sample_id == "kitti_object/000001"
        assert entry.file == "kitti_object/training/velodyne/000001.bin"
        assert "truncated" in entry.reason
        assert entry.reason in (tmp_path / "out/check.html").read_text()
        assert json.loads((tmp_path / "out/check.json").read_text())["broken"][0]["reason"] == entry.reason
        return report.findings[0].severity

    assert broken() is Severity.FAULT
    assert broken(max_broken_share=0.25) is Severity.WARNING


def test_a_set_of_broken_frames_only_is_reported(tmp_path: Path) -> None:
    for scan in (files.kitti_object(tmp_path, 3) / "velodyne").iterdir():
        scan.unlink()
    report = check(source(tmp_path), PairConfig(), tmp_path / "out")
    assert (report.frames, len(report.broken), report.has_faults) == (0, 3, True)


def test_what_the_system_refuses_to_read_is_reported(tmp_path: Path) -> None:
    image = files.kitti_object(tmp_path, 3) / "image_2/000001.png"
    image.unlink()
    image.symlink_to(image)
    report = check(source(tmp_path), PairConfig())
    assert [each.reason for each in report.broken] == ["cannot be read (Too many levels of symbolic links)"]


def test_nothing_to_check_and_nowhere_to_write_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match="holds no nyu frames"):
        check(source(world, kind="nyu"), PairConfig())
    files.write(tmp_path / "file", "")
    with pytest.raises(SimipuError, match=r"cannot be written .*choose another place"):
        check(source(world), PairConfig(), tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_mirrored_calibration_is_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "kitti_object", tmp_path / "kitti_object")
    file = tmp_path / "kitti_object/training/calib/000002.txt"
    lines = file.read_text().splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith("Tr_velo_to_cam: "))
    numbers = [float(value) for value in lines[index].split()[1:]]
    lines[index] = "Tr_velo_to_cam: " + " ".join(str(value) for value in [*(-n for n in numbers[:4]), *numbers[4:]])
    file.write_text("\n".join(lines))
    (broken,) = check(source(tmp_path), PairConfig()).broken
    assert broken.reason == "the calibration from this scan to its camera mirrors it"


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["kitti_depth", "nyu"])
def test_real_depth_maps_are_found_sound(real_data: Path, kind: str) -> None:
    report = check(any_source(kind=kind), PairConfig(), root=str(real_data))
    assert not report.has_faults
    assert {each.severity for each in report.findings if each.check.startswith("depth")} == {Severity.OK}


def test_projected_scans_in_place_of_the_ground_truth_are_told(world: Path, tmp_path: Path) -> None:
    for name in ("kitti_raw", "kitti_depth"):
        shutil.copytree(world / name, tmp_path / name)
    settings = source(tmp_path, kind="kitti_depth")
    pair = PairConfig(depth_from="projected_lidar")
    for frame in settings.list_frames(tmp_path):
        assert isinstance(frame, Frame)
        assert frame.depth
        row = examine(tmp_path, frame)
        assert isinstance(row, dict)
        packed = pack_depth(tmp_path, pair, "official", {**row, "split": "train"})
        assert isinstance(packed, Packed)
        frame.depth.write_bytes(cast(DepthRow, packed.row)["depth"])
    (density,) = [each for each in check(settings, PairConfig()).findings if each.check == "depth density"]
    assert density.severity is Severity.WARNING
    assert "look like single raw scans" in density.what


# -- the quick part, as ingest runs it -------------------------------------------------------------------------------


class Logging(SilentRun):
    """Keeps the files that are recorded."""

    page = "http://mlflow/#/experiments/1/runs/2"

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def log_file(self, path: Path, folder: str = "", name: str = "") -> None:
        self.files[folder + name] = path.read_text(encoding="utf-8")


def exchange_centres(training: Path) -> None:
    """Write cy for cx in all calibrations, and cx for cy."""
    for file in (training / "calib").iterdir():
        words = [line.split(" ") for line in file.read_text().splitlines()]
        for line in words:
            if line[0] == "P2:":
                line[3], line[7] = line[7], line[3]
        file.write_text("\n".join(map(" ".join, words)))


def test_a_sound_set_passes_ingest_with_its_page(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Logging()
    manifest = ingest(source(world), tmp_path / "frames", run=run, page=tmp_path / "page")
    assert run.files == {"check.html": (tmp_path / "page").read_text(encoding="utf-8")}
    assert "4 sound frames, 0 broken. Images, scans and depth maps were measured" in run.files["check.html"]
    assert run.files["check.html"].count('src="data:image/jpeg;base64,') == 4
    assert not re.search("warning|fault", capsys.readouterr().out)
    unchecked = ingest(source(world, allow_faults=["duplicates"]), tmp_path / "unchecked")
    assert unchecked.digest == manifest.digest


def test_a_fault_stops_ingest_unless_it_is_allowed(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "kitti_object", tmp_path / "raw/kitti_object")
    exchange_centres(tmp_path / "raw/kitti_object/training")
    what = "of 4 frames cx and cy are exchanged: the principal point 44, 157 in images of 96×320"
    run, page = Logging(), tmp_path / "page"
    for recorded, place in ((SilentRun(), str(page)), (run, f"check.html of {run.page}")):
        with pytest.raises(SimipuError) as stopped:
            ingest(source(tmp_path / "raw"), tmp_path / "frames", run=recorded, page=page)
        assert str(stopped.value) == (
            f"{tmp_path}/raw: these frames should not be trained on (image centre: {what}); look at {place}, and mend "
            "the data, or set allow_faults: [image_centre] in pretrain_data or depth_data."
        )
        assert what in page.read_text(encoding="utf-8")
        assert not (tmp_path / "frames").exists()
    assert what in run.files["check.html"]
    page.unlink()
    allowed = source(tmp_path / "raw", allow_faults=["image_centre"])
    assert ingest(allowed, tmp_path / "frames", page=page) == read_manifest(tmp_path / "frames")
    assert what in page.read_text(encoding="utf-8")
    assert f"fault: image centre: {what}\n" in capsys.readouterr().out
    with pytest.raises(SimipuError, match=r"set allow_faults: \[image_centre\] in"):
        ingest(source(tmp_path / "raw", allow_faults=["duplicates"]), tmp_path / "again", page=page)


def test_frames_that_are_not_in_the_sample_are_no_finding(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers, times and splits are looked at in all frames."""
    monkeypatch.setattr("simipu_core.checking.survey._SAMPLE", (2, 2))
    parts = [{"kind": "kitti_object", "split": "within_sequence"}, {"kind": "kitti_depth"}]
    settings = source(world, kind="mixed", sources=parts)
    listed = [(frame, split) for frame, split in settings.split_frames(world) if split]
    rows = [row for frame, _ in listed if isinstance(frame, Frame) and isinstance(row := examine(world, frame), dict)]
    assert len(rows) == 6
    page = tmp_path / "page"
    report = check_sample(settings, world, listed, rows, [], page)
    whole = check(settings, PairConfig())
    assert not report.has_faults
    assert [each for each in report.findings if each.check in ("count", "timestamps", "leakage")] == [
        each for each in whole.findings if each.check in ("count", "timestamps", "leakage")
    ]
    told = "6 sound frames, 0 broken. Images, scans and depth maps were measured, and the calibration was tried, in 2"
    assert told in page.read_text(encoding="utf-8")


def test_of_a_sample_a_share_must_be_sure() -> None:
    """Two dark images of twelve say little about the share of all; eight of them do."""
    measured = [made.facts(index) for index in range(12)]
    whole = made.survey(measured)
    part = replace(whole, sound=[made.facts(index) for index in range(1000)])
    assert [whole.by_share(number, 12, 0.05) for number in (0, 2)] == [Severity.WARNING, Severity.FAULT]
    assert [part.by_share(number, 12, 0.05) for number in (0, 2, 8)] == [
        Severity.WARNING,
        Severity.WARNING,
        Severity.FAULT,
    ]


def test_a_mixed_source_allows_faults_itself() -> None:
    part = {"kind": "kitti_object", "allow_faults": ["duplicates"]}
    with pytest.raises(SimipuError, match="`allow_faults` is an option of the mixed source"):
        any_source(kind="mixed", sources=[part])
    assert any_source(kind="mixed", sources=[{"kind": "kitti_object"}], allow_faults=["duplicates"])
