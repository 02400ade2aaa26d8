"""The labelled NYU file as a reader of it sees the rooms it was made of."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from simipu_core.data.frames import Frame
from simipu_core.data.images import decode_depth, decode_image
from simipu_core.data.sources.nyu_labelled import NyuLabelled
from simipu_core.synthetic.render import render_depth
from simipu_core.synthetic.room import make_room, nyu_camera
from tests import worlds
from tests.sources import any_source
from tests.worlds import World, nyu_labelled, synthesize

CONFIG = World(object_frames=0, drives=0, labelled_images=5, seed=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "world"
    synthesize(CONFIG, out, workers=0)
    return out


def test_the_file_has_the_variables_of_the_real_one(root: Path) -> None:
    file = root / "nyu_labelled" / nyu_labelled.FILE
    assert file.read_bytes()[:20] == b"MATLAB 7.3 MAT-file,"
    with h5py.File(file, "r") as hdf5:
        shapes = {name: (hdf5[name].dtype.str, hdf5[name].shape) for name in ("images", "depths", "rawDepths")}
        assert shapes == {
            "images": ("|u1", (5, 3, 640, 480)),
            "depths": ("<f4", (5, 640, 480)),
            "rawDepths": ("<f4", (5, 640, 480)),
        }
        assert hdf5["scenes"].shape == (1, 5)


@pytest.mark.parametrize("kind", ["raw", "in_painted"])
def test_depths_are_those_of_the_room(root: Path, kind: str) -> None:
    frames = any_source(kind="nyu_labelled", depth=kind).list_frames(root)
    assert [frame.sequence for frame in frames] == ["room_0000"] * 4 + ["room_0001"]
    last = frames[4]
    assert isinstance(last, Frame)
    assert last.depth is not None
    rng, camera = np.random.default_rng([CONFIG.seed, worlds.LABELLED, 1]), nyu_camera()
    scene, pose = make_room(rng, 4)[0]
    exact = render_depth(scene, camera, pose)
    read = decode_depth(NyuLabelled.read_file(last.depth), 1000)
    known = read > 0
    assert known.all() == (kind == "in_painted")
    assert known.mean() > 0.7
    np.testing.assert_allclose(read[known], exact[known], atol=0.00051)
    assert decode_image(NyuLabelled.read_file(last.image)).shape == (480, 640, 3)
    np.testing.assert_allclose(np.reshape(last.intrinsics, (3, 3)), camera.intrinsics)


def test_the_same_seed_gives_the_same_file(root: Path, tmp_path: Path) -> None:
    synthesize(CONFIG, tmp_path / "again", workers=1)
    name = f"nyu_labelled/{nyu_labelled.FILE}"
    assert (tmp_path / "again" / name).read_bytes() == (root / name).read_bytes()
