from pathlib import Path
from typing import Any

import pytest

from simipu_core.data import splits
from simipu_core.data.frames import Frame, Rejected
from simipu_core.errors import SimipuError
from tests.data import files
from tests.sources import any_source

TEST_DRIVE = "2011_09_26_drive_0048_sync"


def frames(**counts: int) -> list[Frame | Rejected]:
    return [
        Frame(f"nyu/{sequence}/{index:010d}", "nyu", sequence, Path("image.png"), (1.0,) * 9)
        for sequence, count in counts.items()
        for index in range(count)
    ]


def assign(found: list[Frame | Rejected], split: str, **settings: Any) -> list[splits.Split | None]:
    kind = {"folders": "nyu", "eigen": "kitti_raw"}.get(split, "logs")
    return any_source(kind=kind, split=split, **settings).assign(found)


def test_published_counts() -> None:
    assert any_source(kind="kitti_depth", split="eigen").published() == (23158, 652)
    assert len(splits.eigen_train()) == len(set(splits.eigen_train())) == 23158
    assert len(splits.eigen_test()) == len(set(splits.eigen_test())) == 652
    assert any_source(kind="nyu", split="folders").published() == (24231, 654)
    assert any_source(kind="nyu_labelled", split="nyu_official").published() == (795, 654)
    assert len(splits.nyu_test()) == len(set(splits.nyu_test())) == 654


def test_eigen_test_has_45_frames_without_ground_truth() -> None:
    everything = splits.eigen_test(with_groundtruth=False)
    assert len(everything) == 697
    assert set(splits.eigen_test()) < set(everything)
    assert (TEST_DRIVE, 4) in everything
    assert (TEST_DRIVE, 4) not in splits.eigen_test()


def test_eigen_drives_are_33_and_28_and_disjoint() -> None:
    training = {drive for drive, _ in splits.eigen_train()}
    testing = {drive for drive, _ in splits.eigen_test()}
    assert (len(training), len(testing)) == (33, 28)
    assert not training & testing


@pytest.mark.slow
def test_the_whole_of_kitti_is_split_into_the_published_counts(tmp_path: Path) -> None:
    """Empty files under all names of the Eigen split, with ten more frames at both ends of each training drive."""
    train, test = splits.eigen_train(), splits.eigen_test(with_groundtruth=False)
    measured = {*train, *splits.eigen_test()}
    ends = {(drive, frame + step) for drive, frame in train for step in (-5, 5)}
    for date in {drive[:10] for drive, _ in (*train, *test)}:
        files.raw_calibration(tmp_path / "kitti_raw" / date)
    for drive, frame in {*train, *test, *ends}:
        truth = tmp_path / "kitti_depth/train" / drive / f"proj_depth/groundtruth/image_02/{frame:010d}.png"
        folder = tmp_path / "kitti_raw" / drive[:10] / drive
        names = [folder / f"image_02/data/{frame:010d}.png", folder / f"velodyne_points/data/{frame:010d}.bin"]
        for file in [*names, truth] if (drive, frame) in measured else names:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def counts(kind: str) -> tuple[int, int, int]:
        source = any_source(kind=kind, split="eigen")
        assigned = source.assign(source.list_frames(tmp_path))
        return assigned.count("train"), assigned.count("eval"), assigned.count(None)

    assert counts("kitti_depth") == (23_158, 652, 0)
    assert counts("kitti_raw") == (23_158, 697, 33 * 10)


def test_nyu_test_indices_lie_among_the_labelled_images() -> None:
    assert min(splits.nyu_test()) == 0
    assert max(splits.nyu_test()) == 1448


def test_eigen_leaves_out_what_it_does_not_list() -> None:
    found = frames(**{files.DRIVE: 7, TEST_DRIVE: 2, "2011_09_26_drive_9999_sync": 1})
    assert assign(found, "eigen") == [None] * 5 + ["train"] * 2 + ["eval"] * 2 + [None]


def test_eigen_without_any_of_its_drives_is_refused() -> None:
    with pytest.raises(SimipuError, match="none of its drives is here"):
        assign(frames(den=3), "eigen")


def test_none_trains_on_everything() -> None:
    assert assign(frames(a=2, b=1), "none") == ["train"] * 3


def test_within_sequence_cuts_each_sequence() -> None:
    assert assign(frames(a=6, b=1, c=2), "within_sequence") == (
        ["train"] * 4 + ["eval"] * 2 + ["train"] + ["train", "eval"]
    )
    assert assign(frames(a=24), "within_sequence").count("train") == 16


def test_a_broken_frame_keeps_its_place() -> None:
    found = frames(a=6)
    found[0] = Rejected(found[0].sample_id, "a", Path("image.png"), "truncated")
    assert assign(found, "within_sequence") == ["train"] * 4 + ["eval"] * 2


def test_by_sequence_keeps_sequences_whole() -> None:
    assert assign(frames(c=2, a=1, b=2), "by_sequence") == ["eval"] * 2 + ["train"] * 3
    with pytest.raises(SimipuError, match="one sequence only"):
        assign(frames(a=5), "by_sequence")


@pytest.mark.parametrize("train_share", [0.01, 0.99])
def test_neither_side_is_empty(train_share: float) -> None:
    for split in ("within_sequence", "by_sequence"):
        assert set(assign(frames(a=3, b=3, c=3), split, train_share=train_share)) == {"train", "eval"}


def test_folders_called_test_evaluate() -> None:
    found = frames(**{"official_splits/test/bath": 1, "sync/bath": 1, "sync/latest": 1})
    assert assign(found, "folders") == ["eval", "train", "train"]


def test_a_scan_that_cameras_share_stays_on_one_side() -> None:
    found: list[Frame | Rejected] = [
        Frame(f"{camera}{index}", "logs", "a", Path(f"{camera}{index}.png"), (1.0,) * 9, points=Path(f"{index}.bin"))
        for index in range(4)
        for camera in ("left", "right")
    ]
    split = splits.within_sequence(found, 0.6)  # five of the eight frames, which would cut the third scan in two
    assert split == ["train"] * 6 + ["eval"] * 2
