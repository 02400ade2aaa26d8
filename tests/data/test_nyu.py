from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from simipu_core.config import PairConfig
from simipu_core.data import splits
from simipu_core.data.catalogue import examine, read_frames
from simipu_core.data.frames import BrokenFrameError, Frame, Rejected
from simipu_core.data.images import decode_depth, decode_image
from simipu_core.data.shards import Shards
from simipu_core.data.sources import nyu, nyu_labelled
from simipu_core.data.sources.nyu_labelled import NyuLabelled
from simipu_core.errors import SimipuError
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from tests.data import files
from tests.sources import any_source
from tests.worlds import nyu_labelled as writer

SIZE = (48, 64)
SCENES = ["kitchen_0004", "kitchen_0004", "office_0002", "den_0001"]


def listing(root: Path, kind: str = "nyu_labelled", **changes: Any) -> list[Frame | Rejected]:
    return any_source(kind=kind, **changes).list_frames(root)


def sound(root: Path, kind: str = "nyu_labelled", **changes: Any) -> list[Frame]:
    found = listing(root, kind, **changes)
    assert not [each for each in found if isinstance(each, Rejected)]
    return [each for each in found if isinstance(each, Frame)]


def content(count: int = 4) -> tuple[list[Any], list[Any]]:
    """Images and depth maps with a jump down the middle."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(count)]
    depths = [rng.uniform(1, 1.05, SIZE) + np.where(np.arange(SIZE[1]) < 30, 0, 6) for _ in range(count)]
    return images, depths


def labelled(root: Path, scenes: list[str] = SCENES) -> Path:
    file = root / "nyu_labelled" / nyu_labelled.FILE
    file.parent.mkdir(parents=True)
    writer.write(file, scenes, *content(len(scenes)))
    return file


# -- the labelled file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["", "nyu_labelled"])
def test_labelled_images_are_listed_in_the_order_of_the_file(tmp_path: Path, at: str) -> None:
    file = labelled(tmp_path)
    frames = sound(tmp_path / at)
    expected = [f"nyu_labelled/{scene}/{index:04d}" for index, scene in enumerate(SCENES)]
    assert [frame.sample_id for frame in frames] == expected
    assert [frame.sequence for frame in frames] == SCENES
    assert frames[2].image == Path(f"{file}#0002.images")
    assert frames[2].depth == Path(f"{file}#0002.rawDepths")
    assert (frames[2].intrinsics, frames[2].depth_scale) == (nyu.INTRINSICS, 1000)


@pytest.mark.parametrize("kind", ["raw", "in_painted"])
def test_pixels_are_those_that_were_written(tmp_path: Path, kind: str) -> None:
    labelled(tmp_path)
    images, depths = content()
    for index, frame in enumerate(sound(tmp_path, depth=kind)):
        np.testing.assert_array_equal(decode_image(NyuLabelled.read_file(frame.image)), images[index])
        assert frame.depth is not None
        read = decode_depth(NyuLabelled.read_file(frame.depth), 1000)
        kept = read > 0 if kind == "raw" else np.ones(SIZE, bool)
        np.testing.assert_allclose(read[kept], depths[index][kept], atol=0.00051)
        assert 0.3 < kept[8:-8, 10:-10].mean() <= 1
        assert (read[:, 29:31] > 0).any() == (kind == "in_painted")  # nothing is measured at the jump


def test_labelled_images_become_depth_rows_of_the_official_split(tmp_path: Path) -> None:
    labelled(tmp_path, [f"room_{index:04d}" for index in range(10)])
    settings = any_source(kind="nyu_labelled", root=str(tmp_path), split="nyu_official")
    assert ingest(settings, tmp_path / "catalogue").licence == "NYU Depth v2 (no licence stated)"
    rows = read_frames(tmp_path / "catalogue")
    assert [row["sample_id"][-4:] for row in rows if row["split"] == "eval"] == ["0000", "0001", "0008"]
    assert rows[3]["image"] == f"nyu_labelled/{nyu_labelled.FILE}#0003.images"
    manifest = pair(tmp_path / "catalogue", PairConfig(), "depth", tmp_path / "depth")
    assert (manifest.counts["train"], manifest.counts["eval"]) == (7, 3)
    row = Shards(tmp_path / "depth", "depth", "eval").row(2)
    np.testing.assert_array_equal(decode_image(row["image"]), content(10)[0][8])


def test_the_official_split_is_795_and_654_of_the_1449() -> None:
    found: list[Frame | Rejected] = [
        Rejected(f"nyu_labelled/x/{index:04d}", "x", Path("x.mat"), "") for index in range(1449)
    ]
    assigned = any_source(kind="nyu_labelled", split="nyu_official").assign(found)
    assert (assigned.count("train"), assigned.count("eval")) == (795, 654)
    assert [index for index, split in enumerate(assigned) if split == "eval"] == splits.nyu_test()


def no_user_block(file: Path) -> None:
    file.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(600))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def replace(name: str, **dataset: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with h5py.File(file, "r+") as hdf5:
            del hdf5[name]
            hdf5.create_dataset(name, **dataset)

    return change


def link_elsewhere(file: Path) -> None:
    other = file.with_name("other.h5")
    with h5py.File(other, "w") as hdf5:
        hdf5["images"] = np.zeros((4, 3, 64, 48), np.uint8)
    with h5py.File(file, "r+") as hdf5:
        del hdf5["images"]
        hdf5["images"] = h5py.ExternalLink(str(other), "images")


def virtual(file: Path) -> None:
    layout = h5py.VirtualLayout((4, 3, 64, 48), "u1")
    layout[:] = h5py.VirtualSource("/elsewhere.h5", "images", (4, 3, 64, 48))
    with h5py.File(file, "r+") as hdf5:
        del hdf5["images"]
        hdf5.create_virtual_dataset("images", layout)


def external(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        del hdf5["images"]
        hdf5.create_dataset("images", (4, 3, 64, 48), "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "old MATLAB": (no_user_block, "cannot be read as HDF5 .damaged, or a MATLAB file before 7.3"),
    "truncated": (truncate, "cannot be read as HDF5"),
    "other depths": (replace("rawDepths", data=np.zeros((4, 64, 47), "f4")), "do not fit one another"),
    "doubles": (replace("rawDepths", data=np.zeros((4, 64, 48))), "rawDepths is float64"),
    "no axes": (replace("images", data=np.zeros(4, "u1")), "not a NYU variable"),
    "endless": (replace("images", shape=(1 << 40, 3, 64, 48), dtype="u1", chunks=(1, 3, 64, 48)), "not a NYU variable"),
    "wide": (replace("images", shape=(4, 3, 1 << 40, 48), dtype="u1", chunks=(1, 3, 64, 48)), "not a NYU variable"),
    "big chunk": (
        replace("images", shape=(40_000, 3, 64, 48), dtype="u1", chunks=(40_000, 3, 64, 48)),
        "not a NYU variable",
    ),
    "linked": (link_elsewhere, "has no variable images"),
    "virtual": (virtual, "has no variable images"),
    "external": (external, "has no variable images"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_file_that_is_no_labelled_nyu_is_refused(tmp_path: Path, damage: str) -> None:
    change, reason = BROKEN[damage]
    change(labelled(tmp_path))
    with pytest.raises(SimipuError, match=rf"nyu_depth_v2_labeled.mat: .*{reason}.*; download"):
        listing(tmp_path)


def test_a_broken_image_breaks_its_frame_only(tmp_path: Path) -> None:
    file = labelled(tmp_path)
    with h5py.File(file, "r") as hdf5:
        start, length = (getattr(hdf5["images"].id.get_chunk_info(1), name) for name in ("byte_offset", "size"))
    data = bytearray(file.read_bytes())
    data[start + 20 : start + length - 20] = np.random.default_rng(0).bytes(length - 40)
    file.write_bytes(data)
    with h5py.File(file, "r+") as hdf5:
        hdf5["rawDepths"][2, 20, 20] = np.nan
        hdf5["rawDepths"][3, 20, 20] = 70
    results = [examine(tmp_path, frame) if isinstance(frame, Frame) else frame for frame in listing(tmp_path)]
    assert [each.reason if isinstance(each, Rejected) else None for each in results] == [
        None,
        "cannot be read from the HDF5 file (damaged or truncated)",
        "holds depths outside 0–65 m",
        "holds depths outside 0–65 m",
    ]
    with pytest.raises(BrokenFrameError, match="has no image 4"):
        NyuLabelled.read_file(Path(f"{file}#0004.images"))


def test_an_image_without_a_scene_name_is_of_an_unknown_scene(tmp_path: Path) -> None:
    file = labelled(tmp_path)
    with h5py.File(file, "r+") as hdf5:
        hdf5["#refs#/scenes1"][:] = ord("/")
        hdf5["scenes"][0, 2] = h5py.Reference()
    assert [frame.sequence for frame in sound(tmp_path)] == ["kitchen_0004", "unknown", "unknown", "den_0001"]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_crash_nothing(tmp_path: Path, seed: int) -> None:
    file = labelled(tmp_path)
    data, rng = bytearray(file.read_bytes()), np.random.default_rng(seed)
    for start in rng.integers(600, len(data) - 100, 5):
        data[start : start + 64] = rng.bytes(64)
    file.write_bytes(data)
    try:
        found = listing(tmp_path)
    except SimipuError:
        return
    assert len(found) == 4
    for each in found:
        assert isinstance(each, Frame)
        examine(tmp_path, each)


# -- lists of the sync folders ---------------------------------------------------------------------------------------


def synced(root: Path) -> Path:
    """The published layout with its two lists."""
    folder = root / "nyu"
    files.nyu(folder, {"sync/kitchen_0001": [0, 10, 20], "official_splits/test/bath": [45]})
    train = [f"/kitchen_0001/rgb_{i:05d}.jpg /kitchen_0001/sync_depth_{i:05d}.png 518.8579" for i in (20, 0)]
    files.write(folder / "nyudepthv2_train_files_with_gt.txt", "\n".join(train))
    files.write(
        folder / "nyudepthv2_test_files_with_gt.txt", "bath/rgb_00045.jpg bath/sync_depth_00045.png 518.8579\r\n"
    )
    return folder


def test_lists_name_the_frames_that_train_and_evaluate(tmp_path: Path) -> None:
    synced(tmp_path)
    lists = [f"nyudepthv2_{part}_files_with_gt.txt" for part in ("train", "test")]
    frames = sound(tmp_path, "nyu", lists=lists, split="folders")
    assert [frame.sample_id for frame in frames] == [
        "nyu/sync/kitchen_0001/rgb_00020",
        "nyu/sync/kitchen_0001/rgb_00000",
        "nyu/official_splits/test/bath/rgb_00045",
    ]
    source = any_source(kind="nyu", split="folders")
    assert source.assign(frames) == ["train", "train", "eval"]
    assert len(sound(tmp_path, "nyu")) == 4


def test_a_list_may_be_a_csv_with_other_names(tmp_path: Path) -> None:
    files.write(tmp_path / "data/nyu2_test/00000_colors.png", files.image())
    files.write(tmp_path / "data/nyu2_test/00000_depth.png", files.depth())
    files.write(tmp_path / "nyu2_test.csv", "data/nyu2_test/00000_colors.png,data/nyu2_test/00000_depth.png\n\n")
    (frame,) = sound(tmp_path, "nyu", lists=["nyu2_test.csv"])
    assert frame.depth == tmp_path / "data/nyu2_test/00000_depth.png"
    assert cv2.imdecode(np.frombuffer(nyu.Nyu.read_file(frame.image), np.uint8), cv2.IMREAD_COLOR) is not None


def test_a_listed_frame_that_is_not_there_is_rejected(tmp_path: Path) -> None:
    folder = synced(tmp_path)
    (folder / "sync/kitchen_0001/rgb_00020.jpg").unlink()
    (folder / "sync/kitchen_0001/sync_depth_00000.png").unlink()
    found = listing(tmp_path, "nyu", lists=["nyudepthv2_train_files_with_gt.txt"])
    assert [each.reason for each in found if isinstance(each, Rejected)] == [
        "the image is missing",
        "the image rgb_00000.jpg has no such depth map",
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("../../a.jpg b.png", "line 2 names no image and depth map below the folder"),
        ("a.jpg", "line 2 names no image and depth map"),
        ("/ /", "line 2 names no image and depth map"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path: Path, line: str, sentence: str) -> None:
    folder = synced(tmp_path)
    files.write(folder / "l.txt", f"\n{line}\n")
    with pytest.raises(SimipuError, match=rf"l.txt: {sentence}"):
        listing(tmp_path, "nyu", lists=["l.txt"])
    files.write(folder / "l.txt", b"\xff")
    with pytest.raises(SimipuError, match=r"l.txt: this list of frames cannot be read"):
        listing(tmp_path, "nyu", lists=["l.txt"])
