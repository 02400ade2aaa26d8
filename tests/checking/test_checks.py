from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simipu_core.checking import calibrations, clocks, counts, depths, leakage, pictures, returns, scans
from simipu_core.checking.calibrations import misplaced_centre
from simipu_core.checking.report import Finding, Severity, by_share
from simipu_core.checking.survey import DepthFacts, FrameFacts, evenly, thumbnail
from simipu_core.config import PairConfig
from simipu_core.data.formats.scans import Dropped
from simipu_core.data.images import decode_image
from simipu_core.data.sources.kitti_object import mapped_drives
from simipu_core.errors import SimipuError
from simipu_core.stages.check import check
from tests.checking.made import facts, survey
from tests.data import files
from tests.sources import any_source

TEST_DRIVE = "2011_09_26_drive_0002_sync"
SOUND = DepthFacts(0.2, 12.0, 60.0)


def bad(findings: list[Finding]) -> list[tuple[str, Severity, int]]:
    return [(each.check, each.severity, each.count) for each in findings if each.severity is not Severity.OK]


def one(findings: list[Finding], check: str) -> Finding:
    (found,) = [each for each in findings if each.check == check]
    return found


# -- severity and counts ---------------------------------------------------------------------------------------------


def test_a_few_frames_warn_and_many_are_a_fault() -> None:
    assert by_share(5, 100, 0.05) is Severity.WARNING
    assert by_share(6, 100, 0.05) is Severity.FAULT


@pytest.mark.parametrize(
    ("settings", "total", "words"),
    [
        ({}, 7_481, "complete: all 7,481 KITTI object frames"),
        ({}, 7_480, "partial: 7,480 of 7,481 KITTI object frames"),
        ({}, 7_482, "7,482 KITTI object frames (training), more than the official 7,481"),
        ({"frames": "train_half"}, 3_712, "complete: all 3,712"),
        ({"kind": "waymo", "every": 5}, 31_617, "complete: all 31,617 Waymo training frames of one camera, every 5th"),
        ({"kind": "waymo"}, 158_081, "complete: all 158,081 Waymo training frames"),
        ({"kind": "nyu"}, 24_231, "complete: all 24,231 NYU training frames"),
        ({"kind": "kitti"}, 3, "no official number is known for this kind"),
    ],
)
def test_counts_are_compared_with_the_official_ones(settings: dict[str, object], total: int, words: str) -> None:
    findings = list(counts.check(survey([facts(0)], total, **settings)))
    assert any(words in each.what for each in findings), findings


def test_eigen_frames_are_counted_by_drive_and_number() -> None:
    drive = "2011_09_26_drive_0001_sync"  # trains on frames 5 to 102
    frames = [facts(0, sequence=drive, sample_id=f"kitti_raw/{drive}/{index:010d}") for index in (4, 5, 102, 103)]
    findings = [each.what for each in counts.check(survey(frames, kind="kitti_raw"))]
    assert "partial: 2 of 23,158 Eigen training frames" in findings
    assert "none of the 697 Eigen test frames" in findings


def test_skipped_numbers_are_told_where_numbering_is_regular() -> None:
    regular = [facts(index) for index in (0, 2, 4, 8, 10)]
    hole = one(list(counts.check(survey(regular))), "numbering")
    assert (hole.severity, hole.names) == (Severity.WARNING, ("made/drive/drive (4 is followed by 8)",))
    assert "numbering" not in {
        each.check for each in counts.check(survey([facts(i) for i in (0, 3, 4, 9, 15, 16, 30)]))
    }


# -- times -----------------------------------------------------------------------------------------------------------


def test_sound_times_are_ok() -> None:
    findings = list(clocks.check(survey([facts(index) for index in range(5)])))
    assert bad(findings) == []
    assert "4.0 ms apart (median; 99 %: 4.0 ms, most: 4.0 ms)" in one(findings, "synchronisation").what


def test_disorder_repetition_and_gaps_are_told_apart() -> None:
    times = [0, 100, 200, 200, 150, 250, 900]
    frames = [facts(i, timestamp_us=1000 * t, points_timestamp_us=None) for i, t in enumerate(times)]
    found = {each.what.split(" at ")[0][:24]: each for each in clocks.check(survey(frames))}
    assert found["time runs backwards"].names == ("made/drive/0004",)
    assert found["1 frames have the time o"].names == ("made/drive/0003",)
    assert found["1 gaps of more than 3 us"].names == ("made/drive/0006 (after 0.65 s, usual 0.10 s)",)


def test_cameras_of_one_sequence_may_share_times() -> None:
    frames = [facts(i, sample_id=f"logs/run/{camera}/{i:04d}") for i in range(4) for camera in ("left", "right")]
    assert bad(list(clocks.check(survey(frames)))) == []


def test_scans_far_from_their_images_are_counted() -> None:
    frames = [
        facts(i, points_timestamp_us=1_100_000 + 100_000 * i if i == 3 else 1_000_000 + 100_000 * i) for i in range(4)
    ]
    late = one(list(clocks.check(survey(frames))), "synchronisation")
    assert (late.severity, late.count, late.names) == (Severity.FAULT, 1, ("made/drive/0003",))
    assert "pair.max_sync_ms=50" in late.what


@pytest.mark.parametrize(("late_s", "hours"), [(3600, "1 h"), (19_801, "5.5 h"), (86_400, "24 h"), (3000, None)])
@pytest.mark.parametrize("since", [0, 2])
def test_clocks_that_differ_by_a_time_zone_are_told(late_s: int, hours: str | None, since: int) -> None:
    frames = [
        facts(i, points_timestamp_us=1_000_000 * late_s * (i >= since) + 100_000 * i + 1_004_000) for i in range(4)
    ]
    late = one(list(clocks.check(survey(frames))), "synchronisation")
    assert (f"differ by {hours}: is one in another time zone" in late.mend) is (hours is not None)


# -- depth -----------------------------------------------------------------------------------------------------------


def with_depth(*maps: DepthFacts, source: str = "kitti_depth") -> list[Finding]:
    return list(depths.check(survey([facts(i, depth=each, source=source) for i, each in enumerate(maps)])))


def test_sound_depth_is_ok() -> None:
    assert bad(with_depth(SOUND, SOUND)) == []
    assert bad(with_depth(DepthFacts(0.7, 2.5, 8.0), source="nyu")) == []


@pytest.mark.parametrize(
    ("depth", "source", "mend"),
    [
        (
            DepthFacts(0.2, 47.0, 250.0, 900, 3.9, 0.0),
            "kitti_depth",
            "written in steps of 1/1000 m and read as 1/256 m",
        ),
        (
            DepthFacts(0.2, 3.1, 15.0, 900, 0.256, 0.0),
            "kitti_depth",
            "written in steps of 1/256 m and read as 1/1000 m",
        ),
        (DepthFacts(0.2, 12000.0, 60000.0, 900, 1000.0, 0.0), "logs", "millimetres read as metres"),
        (DepthFacts(0.7, 9.8, 31.0), "nyu", "written in steps of 1/1000 m and read as 1/256 m"),
        (DepthFacts(0.7, 0.6, 2.0), "nyu", "written in steps of 1/256 m and read as 1/1000 m"),
        (DepthFacts(0.7, 2500.0, 8000.0), "nyu", "millimetres read as metres"),
    ],
)
def test_a_mistaken_scale_is_guessed(depth: DepthFacts, source: str, mend: str) -> None:
    wrong = one(with_depth(depth, depth, source=source), "depth scale")
    assert wrong.severity is Severity.FAULT
    assert mend in wrong.mend


def test_raw_depth_is_told_from_the_improved_one() -> None:
    assert "single raw scans" in one(with_depth(replace(SOUND, valid_share=0.045)), "depth density").what
    assert "single raw scans" in one(with_depth(replace(SOUND, num_common=900, copied=0.99)), "depth density").what


def test_depth_of_another_frame_disagrees_with_the_scan() -> None:
    other = replace(SOUND, num_common=900, ratio=1.05, agreement=0.3)
    fitting = replace(SOUND, num_common=900, agreement=0.97)
    assert bad(with_depth(fitting, fitting)) == []
    assert one(with_depth(fitting, other), "depth and scan").names == ("made/drive/0001 (30 % agree)",)


def test_single_maps_that_are_much_nearer_are_named() -> None:
    near = DepthFacts(0.7, 0.9, 2.6)
    rest = [DepthFacts(0.7, 2.8, 8.0)] * 5
    assert one(with_depth(*rest, near, source="nyu"), "unusual depth").names == ("made/drive/0005 (median 0.9 m)",)


# -- images ----------------------------------------------------------------------------------------------------------


def test_other_sizes_with_the_same_intrinsics_are_odd() -> None:
    frames = [*(facts(i) for i in range(4)), facts(4, height=370)]
    assert one(list(pictures.check(survey(frames))), "image size").names == ("made/drive/0004",)


def test_black_grey_misnamed_and_linked_images_are_named() -> None:
    frames = [
        replace(facts(0), contrast=0.0),
        replace(facts(1), is_grey=True),
        replace(facts(2), is_misnamed=True),
        replace(facts(3), outside=True),
    ]
    checks = [(each.check, each.names[0][-1]) for each in pictures.check(survey(frames)) if each.names]
    assert checks == [("image content", "0"), ("image content", "1"), ("file format", "2"), ("links", "3")]


def test_images_of_one_colour_from_some_row_down_are_told() -> None:
    def cut(index: int, rows: int) -> FrameFacts:
        image = np.random.default_rng(index).integers(0, 256, (160, 320, 3), np.uint8)
        image[160 - rows :] = 128
        return replace(facts(index), thumbnail=thumbnail(image))

    found = one(list(pictures.check(survey([cut(0, 0), cut(1, 10), cut(2, 53), cut(3, 80)]))), "image content")
    assert found.names == ("made/drive/0002", "made/drive/0003")


def test_scans_that_are_zeros_in_part_among_others_without_are_told() -> None:
    def scanned(index: int, zeros: int) -> FrameFacts:
        return replace(facts(index, num_points=1000 - zeros), dropped=Dropped(0, zeros, 0))

    frames = [scanned(0, 0), scanned(1, 0), scanned(2, 500), scanned(3, 400)]
    cut = one(list(returns.check(survey(frames))), "scan points")
    assert cut.names == ("made/drive/0002", "made/drive/0003")
    no_returns = [scanned(index, 300 + 50 * index) for index in range(4)]
    assert bad(list(returns.check(survey(no_returns)))) == []


def test_a_folder_of_links_is_no_problem() -> None:
    assert bad(list(pictures.check(survey([replace(facts(i), outside=True) for i in range(3)])))) == []


def test_copies_and_a_standing_vehicle_are_told() -> None:
    still = [replace(facts(i), thumbnail=bytes(512)) for i in range(4)]
    assert "75 % of the frames show the same" in one(list(pictures.check(survey(still))), "duplicates").what
    copies = [facts(0), facts(1, image_sha256="drive0"), facts(2)]
    assert one(list(pictures.check(survey(copies))), "duplicates").names == ("made/drive/0000 = made/drive/0001",)


def test_cameras_of_a_rig_share_their_scans() -> None:
    rig = [
        facts(
            i, sample_id=f"logs/run/{camera}/{i}", image_sha256=f"{camera}{i}", points=f"{i}.bin", points_sha256=f"{i}"
        )
        for i in range(3)
        for camera in ("left", "right")
    ]
    assert "duplicates" not in {check for check, *_ in bad(list(pictures.check(survey(rig))))}
    copy = facts(3, points="3.bin", points_sha256="0")
    assert one(list(pictures.check(survey([*rig, copy]))), "duplicates").names == ("logs/run/left/0 = made/drive/0003",)


# -- calibration -----------------------------------------------------------------------------------------------------


def test_an_odd_calibration_in_a_sequence_is_named() -> None:
    sound = (0.0, -1, 0, 0, 0, 0, -1, -0.1, 1, 0, 0, -0.2, 0, 0, 0, 1)
    moved = (0.0, -1, 0, -0.54, 0, 0, -1, -0.1, 1, 0, 0, -0.2, 0, 0, 0, 1)
    frames = [
        replace(facts(i, points="p", lidar_to_camera=moved if i == 2 else sound), num_in_image=9999, share_in_image=0.2)
        for i in range(5)
    ]
    odd = one(list(calibrations.check(survey(frames))), "odd calibration")
    assert odd.names == ("made/drive/0002",)


# -- leakage ---------------------------------------------------------------------------------------------------------


def test_images_and_sequences_on_both_sides_are_told() -> None:
    apart = [facts(0), facts(0, "eval", "other")]
    assert bad(list(leakage.check(survey(apart)))) == []
    same = [facts(0), facts(1, "eval", "other", image_sha256="drive0")]
    assert bad(list(leakage.check(survey(same)))) == [("leakage", Severity.FAULT, 1)]
    alike = [facts(0), replace(facts(1, "eval", "other"), thumbnail=facts(0).thumbnail)]
    assert bad(list(leakage.check(survey(alike)))) == [("leakage", Severity.FAULT, 1)]
    shared = [facts(0), facts(1, "eval")]
    assert bad(list(leakage.check(survey(shared)))) == [("leakage", Severity.WARNING, 1)]


def object_leakage(root: Path) -> Finding:
    report = check(any_source(kind="kitti_object", root=str(root)), PairConfig())
    return [each for each in report.findings if each.check == "leakage"][-1]


def test_the_mapping_tells_the_drives_of_object_frames(tmp_path: Path) -> None:
    files.kitti_object(tmp_path, 3)
    drives = ["2011_09_26_drive_0001_sync", TEST_DRIVE, "2011_09_28_drive_0001_sync"]
    lines = "".join(f"{drive[:10]} {drive} 0000000007\n" for drive in drives)
    files.write(tmp_path / "mapping/train_mapping.txt", lines)
    files.write(tmp_path / "mapping/train_rand.txt", "2,1,3")
    told = object_leakage(tmp_path)
    assert told.severity is Severity.WARNING
    assert told.names == (f"kitti_object/000000 ({TEST_DRIVE})",)
    files.write(tmp_path / "mapping/train_rand.txt", "4,1,3")
    with pytest.raises(SimipuError, match="do not fit each other"):
        mapped_drives(tmp_path)


def test_raw_drives_beside_the_data_tell_by_their_images(tmp_path: Path) -> None:
    files.kitti_object(tmp_path, 3)
    files.kitti_raw(tmp_path, {TEST_DRIVE: [5, 6]})
    assert "0 of 3 KITTI object frames show a frame of the 1 Eigen test drives (of 28)" in object_leakage(tmp_path).what
    image = tmp_path / "kitti_raw/2011_09_26" / TEST_DRIVE / "image_02/data/0000000005.png"
    files.write(image, files.image(2))  # object frame 2's
    assert object_leakage(tmp_path).names == (f"kitti_object/000002 ({TEST_DRIVE})",)


def test_without_mapping_and_drives_it_is_said_plainly(tmp_path: Path) -> None:
    files.kitti_object(tmp_path, 2)
    assert "cannot be told" in object_leakage(tmp_path).what


def test_raw_training_frames_of_test_drives_are_told(tmp_path: Path) -> None:
    files.kitti_raw(tmp_path, {TEST_DRIVE: [5, 6], "2011_09_26_drive_0001_sync": [5]})
    report = check(any_source(kind="kitti_raw", root=str(tmp_path)), PairConfig())
    told = [each for each in report.findings if each.check == "leakage"][-1]
    assert (told.names, told.what[:46]) == ((TEST_DRIVE,), "2 training frames come from 1 test drives of t")


def test_a_scan_on_both_sides_of_the_split_is_told() -> None:
    rig = [facts(0, points_sha256="scan", points="s"), facts(1, "eval", "other", points_sha256="scan", points="s")]
    assert one(list(leakage.check(survey(rig))), "leakage").names == ("made/other/0001 = made/drive/0000",)


def test_night_and_fog_look_alike_without_being_the_same() -> None:
    dark = [replace(frame, thumbnail=bytes(512)) for frame in (facts(0), facts(1, "eval", "other"))]
    assert bad(list(leakage.check(survey(dark)))) == []


# -- units and conventions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cx", "cy", "size", "words"),
    [
        (609.6, 172.9, (375, 1242), None),  # KITTI
        (816.3, 491.5, (900, 1600), None),  # nuScenes
        (960.0, 240.0, (886, 1920), None),  # cropped at the top
        (491.5, 816.3, (900, 1600), "cx and cy are exchanged: the principal point 492, 816 in images of 900×1600"),
        (408.1, 245.8, (900, 1600), "the intrinsics are those of images 0.53 times as large"),
        (609.6, 172.9, (187, 621), "the intrinsics are those of images 1.9 times as large"),
        (60.0, 450.0, (900, 1600), "the principal point lies far from the centre"),
    ],
)
def test_intrinsics_of_other_images_are_told_by_their_centre(
    cx: float, cy: float, size: tuple[int, int], words: str | None
) -> None:
    told = misplaced_centre((700.0, 0.0, cx, 0.0, 700.0, cy, 0.0, 0.0, 1.0), size)
    assert told is None if words is None else told is not None and told.startswith(words)


@pytest.mark.parametrize(
    ("first", "step", "what"),
    [
        (1_532_402_927_612_460, 100_000, None),
        (10_000_000, 100_000, None),  # since the machine was switched on
        (1_532_402_927_612, 100, "times are of the year 1970; 1000 times as large they would be of the year 2018"),
        (1_532_402_927_612_460_000, 10**8, "times are of no year; 0.001 times as large they would be of the year 2018"),
        (10_000, 100, "frames follow each other every 0.0001 s, as no camera's do"),
    ],
)
def test_times_in_another_unit_are_told(first: int, step: int, what: str | None) -> None:
    frames = [facts(i, timestamp_us=first + step * i, points_timestamp_us=None) for i in range(5)]
    told = [each.what for each in clocks.check(survey(frames)) if each.check == "time unit"]
    assert told == ([what] if what else [])


@pytest.mark.parametrize(
    ("reflectance", "farthest", "check", "severity"),
    [
        (0.9, 75.0, None, None),
        (1 / 255, 75.0, "reflectance", Severity.FAULT),
        (0.0, 75.0, "reflectance", Severity.WARNING),
        (0.9, 75_000.0, "scan range", Severity.FAULT),
        (0.9, 0.075, "scan range", Severity.FAULT),
    ],
)
def test_units_of_scans_are_told(
    reflectance: float, farthest: float, check: str | None, severity: Severity | None
) -> None:
    frames = [replace(facts(i), reflectance=reflectance, farthest=farthest) for i in range(3)]
    told = [(each.check, each.severity) for each in scans.check(survey(frames)) if each.severity is not Severity.OK]
    assert told == ([(check, severity)] if check else [])


def test_a_depth_scale_that_is_wrong_by_ten_per_cent_is_told_by_the_scan() -> None:
    off = replace(SOUND, num_common=900, ratio=1.1)
    assert "1.1 times the scan's depth" in one(with_depth(off, off), "depth scale").names[0]


def test_depths_that_are_codes_are_told() -> None:
    assert one(with_depth(replace(SOUND, capped=0.4)), "depth codes").names == ("made/drive/0000 (40 % of its depths)",)


# -- small parts -----------------------------------------------------------------------------------------------------


def test_thumbnails_tell_pictures_apart() -> None:
    one_, other = (thumbnail(decode_image(files.image(seed))) for seed in (0, 1))
    assert len(one_) == 512
    assert one_ != other


def test_evenly_takes_both_ends() -> None:
    assert evenly(list("abcdefg"), 3) == ["a", "d", "g"]
    assert evenly(["a"], 3) == ["a"]
