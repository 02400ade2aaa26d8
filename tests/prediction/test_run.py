"""Many frames: batches, resuming, broken ones, files of many frames."""

import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from simipu_core.data.images import decode_depth
from simipu_core.prediction import run
from simipu_core.prediction.inputs import Frame, Source, find
from simipu_core.prediction.intrinsics import Intrinsics
from simipu_core.prediction.outputs import Save
from simipu_core.prediction.predictor import Predictor
from simipu_core.prediction.run import Outcome, predict_all
from tests.prediction.pictures import picture, pixels, video
from tests.samples import HEIGHT, INTRINSICS, WIDTH, depth_row, write_shards

CAMERA = Intrinsics.of(INTRINSICS)


def predicted(predictor: Predictor, out: Path, *arguments: Path, save: str = "npy", **options: object) -> Outcome:
    kinds = [Save(kind) for kind in save.split(",")]
    options = {"intrinsics": CAMERA, **options}
    return predict_all(predictor, find([str(each) for each in arguments]), out, kinds, **options)  # type: ignore[arg-type]


def written(out: Path) -> list[str]:
    return sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_give_what_single_frames_give(predictor: Predictor, tmp_path: Path, batch_size: int) -> None:
    sizes = [(HEIGHT, WIDTH)] * 4 + [(WIDTH, HEIGHT), (100, 200), (100, 200), (HEIGHT, WIDTH)]
    for number, size in enumerate(sizes):
        picture(tmp_path / f"in/{number}.png", number, size)
    done = predicted(predictor, tmp_path / "out", tmp_path / "in", batch_size=batch_size, intrinsics=None)
    assert (done.predicted, done.kept, done.unknown, done.broken) == (8, 0, 8, [])
    for number, size in enumerate(sizes):
        made = np.load(tmp_path / f"out/npy/{number}.npy")
        expected = predictor.predict_prepared([predictor.prepare(pixels(number, *size), None)])[0]
        np.testing.assert_allclose(made, expected, rtol=1e-5)


def test_all_kinds_of_one_video(predictor: Predictor, tmp_path: Path) -> None:
    file = video(tmp_path / "drive.mp4", range(3))
    predicted(predictor, tmp_path / "out", file, save="colour,png,npy,ply,video,parquet")
    frames = [f"drive/{number:06d}" for number in range(3)]
    kinds = {"colour": "jpg", "png": "png", "npy": "npy", "ply": "ply"}
    expected = [f"{kind}/{name}.{suffix}" for kind, suffix in kinds.items() for name in frames]
    assert written(tmp_path / "out") == sorted([*expected, "video/drive.mp4", "depth.parquet"])
    made = cv2.VideoCapture(str(tmp_path / "out/video/drive.mp4"))
    assert (made.get(cv2.CAP_PROP_FRAME_COUNT), made.get(cv2.CAP_PROP_FPS)) == (3, 12)
    assert made.get(cv2.CAP_PROP_FRAME_WIDTH) == 2 * WIDTH
    rows = pq.read_table(tmp_path / "out/depth.parquet").to_pylist()
    assert [row["name"] for row in rows] == frames
    for row in rows:
        assert (row["height"], row["width"], tuple(row["intrinsics"])) == (HEIGHT, WIDTH, CAMERA.matrix())
        depth = np.load(tmp_path / "out/npy" / f"{row['name']}.npy")
        np.testing.assert_allclose(decode_depth(row["depth"], row["depth_scale"]), depth, atol=0.002)


def test_each_video_has_its_own(predictor: Predictor, tmp_path: Path) -> None:
    for name, length in (("a", 2), ("b", 4)):
        video(tmp_path / f"in/{name}.mp4", range(length))
    picture(tmp_path / "in/c.png")
    predicted(predictor, tmp_path / "out", tmp_path / "in", save="video", batch_size=3)
    assert written(tmp_path / "out") == ["video/a.mp4", "video/b.mp4"]
    for name, length in (("a", 2), ("b", 4)):
        made = cv2.VideoCapture(str(tmp_path / f"out/video/{name}.mp4"))
        assert made.get(cv2.CAP_PROP_FRAME_COUNT) == length


def test_what_is_there_is_left_alone(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        picture(tmp_path / f"in/{number}.png", number)
    (tmp_path / "out/npy").mkdir(parents=True)
    (tmp_path / "out/npy/1.npy").write_bytes(b"from before")
    first = predicted(predictor, tmp_path / "out", tmp_path / "in")
    assert (first.predicted, first.kept) == (2, 1)
    assert (tmp_path / "out/npy/1.npy").read_bytes() == b"from before"
    more = predicted(predictor, tmp_path / "out", tmp_path / "in", save="npy,png")
    assert (more.predicted, more.kept) == (3, 0)
    assert (tmp_path / "out/npy/1.npy").read_bytes() == b"from before"
    again = predicted(predictor, tmp_path / "out", tmp_path / "in", overwrite=True)
    assert (again.predicted, again.kept) == (3, 0)
    assert np.load(tmp_path / "out/npy/1.npy").shape == (HEIGHT, WIDTH)
    monkeypatch.setattr(Predictor, "predict_prepared", None)  # nothing is left to do
    assert predicted(predictor, tmp_path / "out", tmp_path / "in", save="npy,png").kept == 3


def test_broken_frames_are_skipped_and_told(predictor: Predictor, tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"in/{number}.png", number)
    (tmp_path / "in/1.png").write_bytes(b"nonsense")
    picture(tmp_path / "in/2.png", 2, (20, 20))
    picture(tmp_path / "in/3.jpg", 3)
    done = predicted(predictor, tmp_path / "out", tmp_path / "in", tmp_path / "nothing.png", intrinsics=None)
    told = {Path(each.source).name: each.reason for each in done.broken}
    assert told.keys() == {"1.png", "2.png", "3.png", "nothing.png"}
    assert told["1.png"] == "not a PNG or JPEG image"
    assert told["2.png"].startswith("is 20×20 pixels, too small")
    assert told["3.png"].startswith(f"would be written to the files of {tmp_path / 'in/3.jpg'}")
    assert told["nothing.png"] == "no such file or folder"
    assert written(tmp_path / "out") == ["npy/in/0.npy", "npy/in/3.npy"]


def test_intrinsics_of_other_pictures_do_not_fit(predictor: Predictor, tmp_path: Path) -> None:
    camera = CAMERA.model_copy(update={"size": (HEIGHT, WIDTH)})
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", size=(2 * HEIGHT, 2 * WIDTH))
    done = predicted(predictor, tmp_path / "out", tmp_path / "a.png", tmp_path / "b.png", intrinsics=camera)
    assert [each.reason.partition(";")[0] for each in done.broken] == [
        "is 96×192 pixels, but its intrinsics are for 48×96"
    ]
    assert written(tmp_path / "out") == ["npy/a.npy"]


def test_shards_are_scaled_by_their_own_intrinsics_and_nothing_is_warned(predictor: Predictor, tmp_path: Path) -> None:
    wide = {**depth_row(1), "intrinsics": (INTRINSICS * [[0.5], [0.5], [1]]).ravel().tolist()}
    depth = write_shards(tmp_path / "depth", "depth", train=[depth_row(2)], eval=[wide])  # type: ignore[list-item]
    notes: list[str] = []
    predicted(predictor, tmp_path / "out", depth, intrinsics=None, warn=notes.append, flip=False)
    predicted(predictor, tmp_path / "unscaled", depth, flip=False)
    ratios = [
        np.median(np.load(tmp_path / f"out/npy/{name}.npy") / np.load(tmp_path / f"unscaled/npy/{name}.npy"))
        for name in ("frame-1", "frame-2")
    ]
    assert ratios == pytest.approx([0.5, 1])
    assert notes == []


def test_without_intrinsics_one_warning_and_no_cloud(predictor: Predictor, tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"in/{number}.png", number)
    notes: list[str] = []
    done = predicted(
        predictor, tmp_path / "out", tmp_path / "in", save="ply,npy", intrinsics=None, warn=notes.append, batch_size=1
    )
    assert done.unknown == 3
    assert len(notes) == 1
    assert {name.partition("/")[0] for name in written(tmp_path / "out")} == {"npy"}


def test_a_frame_of_which_nothing_can_be_made_is_told(predictor: Predictor, tmp_path: Path) -> None:
    picture(tmp_path / "in/0.png", 0)
    done = predicted(predictor, tmp_path / "out", tmp_path / "in", save="ply,video", intrinsics=None)
    assert (done.predicted, done.kept) == (0, 0)
    assert "a ply needs intrinsics (--intrinsics)" in done.broken[0].reason


def test_only_so_many_frames_are_in_memory(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading waits for the network, and the network for writing."""
    counts, lock, ahead = {"read": 0, "shown": 0}, threading.Lock(), []

    def read() -> np.ndarray:
        with lock:
            counts["read"] += 1
        return pixels(0)

    def frames() -> Iterator[Frame]:
        return (Frame(f"{number}", "made", read) for number in range(60))

    def shown(_: Predictor, pictures: list[object], **_options: object) -> list[np.ndarray]:
        counts["shown"] += len(pictures)
        ahead.append(counts["read"] - counts["shown"])
        return [np.ones((HEIGHT, WIDTH), np.float32)] * len(pictures)

    monkeypatch.setattr(Predictor, "predict_prepared", shown)
    monkeypatch.setattr(run, "_MOST_THREADS", 2)
    done = predict_all(predictor, [Source(60, frames)], tmp_path, [Save.NPY], intrinsics=CAMERA, batch_size=2)
    assert done.predicted == 60
    assert max(ahead) <= 2 + 2 * 2


def test_a_failure_leaves_whole_files_only(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = video(tmp_path / "drive.mp4", range(6))
    seen = 0

    def fail(self: Predictor, pictures: list[object], **_options: object) -> list[np.ndarray]:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise RuntimeError("out of memory")
        return [np.ones((HEIGHT, WIDTH), np.float32)] * len(pictures)

    monkeypatch.setattr(Predictor, "predict_prepared", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        predicted(predictor, tmp_path / "out", file, save="npy,video,parquet", batch_size=1)
    assert written(tmp_path / "out") == ["npy/drive/000000.npy", "npy/drive/000001.npy"]
