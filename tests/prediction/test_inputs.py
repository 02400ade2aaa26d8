"""What arguments stand for, and how pictures are read."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from simipu_core.artifacts import sha256_file, write_artifact
from simipu_core.data.catalogue import write_frames
from simipu_core.data.images import encode_png, upright
from simipu_core.data.schema import CATALOGUE, CatalogueRow
from simipu_core.errors import SimipuError
from simipu_core.prediction.inputs import Broken, Frame, find
from tests.prediction.pictures import picture, pixels, video
from tests.samples import HEIGHT, INTRINSICS, WIDTH, depth_row, pair_row, write_shards


def frames(*arguments: object) -> list[Frame | Broken]:
    return [frame for source in find([str(each) for each in arguments]) for frame in source.frames()]


def names(*arguments: object) -> list[str]:
    return [frame.name if isinstance(frame, Frame) else f"broken: {frame.reason}" for frame in frames(*arguments)]


def only(*arguments: object) -> Frame:
    (frame,) = frames(*arguments)
    assert isinstance(frame, Frame)
    return frame


def test_files_folders_globs_and_what_is_missing(tmp_path: Path) -> None:
    for name in ("a/2.png", "a/10.jpg", "a/deep/1.PNG", "b/2.png", "b/.hidden.png", "b/.cache/3.png", "a/[1].png"):
        picture(tmp_path / name)
    (tmp_path / "a/notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    assert names(tmp_path / "a/2.png") == ["2"]
    assert names(tmp_path / "a") == ["2", "10", "[1]", "deep/1"]
    assert names(tmp_path / "a", tmp_path / "b") == ["a/2", "a/10", "a/[1]", "a/deep/1", "b/2"]
    assert names(tmp_path / "a/[1].png") == ["[1]"]
    assert names(tmp_path / "a/*.png") == ["2", "[1]"]
    assert names(tmp_path / "**/*.PNG") == ["1"]
    assert names(tmp_path / "x*.png") == ["broken: no such file or folder"]
    assert names(tmp_path / "empty") == ["broken: holds neither pictures (.png, .jpg) nor videos"]


def test_what_is_written_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "run/b", "run/build/predictions/colour/a"):
        picture(tmp_path / f"in/{name}.png")
    (tmp_path / "in/loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path / "in/run")
    for folder in (tmp_path / "in", Path("..")):
        (a, b) = find([str(folder)], Path("build/predictions"))
        assert [frame.name for source in (a, b) for frame in source.frames() if isinstance(frame, Frame)] == [
            "a",
            "run/b",
        ]
    with pytest.raises(
        SimipuError, match=r"in: holds the pictures, to which depths would be added; choose another --out"
    ):
        find([".."], tmp_path / "in")


def test_a_picture_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(encode_png(pixels(1))))
    monkeypatch.setattr(sys, "stdin", stream)
    frame = only("-")
    assert frame.name == "stdin"
    np.testing.assert_array_equal(frame.read(), pixels(1))


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bits", "grey jpeg"])
def test_pictures_of_all_kinds_are_read(tmp_path: Path, kind: str) -> None:
    image = pixels(0)
    file = tmp_path / ("x.jpg" if "jpeg" in kind else "x.png")
    stored: NDArray[Any] = image[..., ::-1]
    if "grey" in kind:
        stored = image[..., 0]
    elif kind == "alpha":
        stored = np.dstack([stored, np.full(image.shape[:2], 7, np.uint8)])
    elif kind == "16 bits":
        stored = stored.astype(np.uint16) * 256
    assert cv2.imwrite(str(file), stored)
    made = only(file).read()
    expected = np.repeat(image[..., :1], 3, 2) if "grey" in kind else image
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).max() <= (8 if "jpeg" in kind else 0)


def test_pictures_are_turned_as_viewers_show_them(tmp_path: Path) -> None:
    """A phone held upright stores the picture lying, and says so."""
    stored = cv2.imencode(".jpg", pixels(2)[..., ::-1])[1].tobytes()
    tags = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    (tmp_path / "x.jpg").write_bytes(stored[:2] + b"\xff\xe1" + (len(tags) + 2).to_bytes(2, "big") + tags + stored[2:])
    (tmp_path / "y.jpg").write_bytes(stored)
    made, lying = only(tmp_path / "x.jpg").read(), only(tmp_path / "y.jpg").read()
    np.testing.assert_array_equal(made, np.rot90(lying, -1))


def test_all_orientations_are_those_of_exif() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = {1: image, 2: image[:, ::-1], 3: np.rot90(image, 2), 4: image[::-1], 5: image.T, 6: np.rot90(image, -1)}
    expected |= {7: np.rot90(image, 2).T, 8: np.rot90(image)}
    for number, turned in expected.items():
        np.testing.assert_array_equal(upright(image, number), turned)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"nonsense", "not a PNG or JPEG image"), (encode_png(pixels(0))[:-20], "truncated PNG image")],
)
def test_damaged_pictures_are_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(SimipuError, match=message):
        only(tmp_path / "x.png").read()


def test_frames_of_a_video(tmp_path: Path) -> None:
    (source,) = find([str(video(tmp_path / "drive.mp4", range(5)))])
    found = list(source.frames())
    assert (source.count, len(found)) == (5, 5)
    for number, frame in enumerate(found):
        assert isinstance(frame, Frame)
        assert frame.name == f"drive/{number:06d}"
        assert frame.clip
        assert (frame.clip.name, frame.clip.rate) == ("drive", 12)
        assert np.abs(frame.read().astype(int) - pixels(number)).mean() < 10


def test_videos_without_frames_are_broken(tmp_path: Path) -> None:
    (tmp_path / "nonsense.mp4").write_bytes(b"nonsense")
    video(tmp_path / "empty.mp4", [])
    for name in ("nonsense.mp4", "empty.mp4"):
        assert names(tmp_path / name) == [
            "broken: is no video with frames that can be decoded; convert it to H.264 in .mp4"
        ]


def test_shards_bring_their_intrinsics(tmp_path: Path) -> None:
    depth = write_shards(tmp_path / "depth", "depth", train=[depth_row(1)], eval=[depth_row(2), depth_row(3)])
    pairs = write_shards(tmp_path / "pairs", "pairs", pairs=[pair_row(4)])
    found = frames(depth, pairs)
    assert [frame.name for frame in found if isinstance(frame, Frame)] == ["frame-1", "frame-2", "frame-3", "sample-4"]
    for frame in found:
        assert isinstance(frame, Frame)
        assert frame.intrinsics
        assert frame.intrinsics.matrix() == tuple(INTRINSICS.ravel())
        assert frame.intrinsics.size == frame.read().shape[:2]


def catalogue(root: Path, out: Path, *rows: Mapping[str, object]) -> Path:
    """An artifact as ingest makes it, of pictures below a root."""
    blank: dict[str, Any] = dict.fromkeys(CATALOGUE.names)
    blank |= {"source": "kitti_object", "sequence": "s", "split": "train", "intrinsics": INTRINSICS.ravel().tolist()}
    blank |= {"height": HEIGHT, "width": WIDTH}
    with write_artifact(out, "catalogue", inputs={}, parameters={}, licence="", origin=str(root)) as draft:
        digests = ({"image_sha256": sha256_file(root / str(row["image"]))} for row in rows)
        made = [{**blank, **row, **digest} for row, digest in zip(rows, digests, strict=True)]
        write_frames(cast(list[CatalogueRow], made), draft.path)
    return out


def test_a_catalogue_reads_its_raw_files_and_undoes_the_lens(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"raw/{name}.png", 1)
    lens = {"lens": "plumb_bob", "distortion": [-0.3, 0.1, 0.0, 0.0]}
    rows = {"sample_id": "s/a", "image": "a.png"}, {"sample_id": "s/b", "image": "b.png", **lens}
    first, second = frames(catalogue(tmp_path / "raw", tmp_path / "frames", *rows))
    assert isinstance(first, Frame)
    assert isinstance(second, Frame)
    assert (first.name, second.name) == ("s/a", "s/b")
    assert first.intrinsics
    assert (first.intrinsics.size, first.intrinsics.matrix()) == ((HEIGHT, WIDTH), tuple(INTRINSICS.ravel()))
    np.testing.assert_array_equal(first.read(), pixels(1))
    assert not np.array_equal(second.read(), pixels(1))
    picture(tmp_path / "raw/b.png", 2)
    with pytest.raises(SimipuError, match="changed since it was ingested"):
        second.read()


def test_names_that_lead_out_of_the_folder_are_broken(tmp_path: Path) -> None:
    picture(tmp_path / "raw/a.png")
    made = catalogue(tmp_path / "raw", tmp_path / "frames", {"sample_id": "../../a", "image": "a.png"})
    assert names(made) == ["broken: has a sample_id that is no file name; run ingest again"]


def test_other_artifacts_are_refused(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "report", "report", inputs={}, parameters={}, licence=""):
        pass
    with pytest.raises(SimipuError, match="holds report, but catalogue or pairs or depth is needed here"):
        find([str(tmp_path / "report")])
