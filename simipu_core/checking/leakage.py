"""Does training see what evaluation is scored on?"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.checking.pictures import STILL
from simipu_core.checking.report import Finding, Severity, ok, problem
from simipu_core.checking.survey import FrameFacts, Survey, thumbnail
from simipu_core.data import splits
from simipu_core.data.images import decode_image
from simipu_core.data.sources import kitti_object, kitti_raw
from simipu_core.data.sources.base import BrokenFrameError
from simipu_core.data.sources.reading import read_bytes
from simipu_core.errors import SimipuError
from simipu_core.parallel import map_frames

_MAPPING, _ORDER = "train_mapping.txt", "train_rand.txt"
_MAPPING_FOLDERS = ("", "mapping", "devkit/mapping", "training", "kitti_object", "kitti_object/mapping")
_BLOCK = 256


def check(found: Survey) -> Iterator[Finding]:
    """Sequences and pictures on both sides of the split, and frames of Eigen test drives among the training ones."""
    yield from _between_splits(found)
    objects = [facts for facts in found.facts if facts.row["source"] == kitti_object.NAME and facts.split == "train"]
    if found.is_synthetic:
        return
    drives = {drive for drive, _ in splits.eigen_test()}
    raw = [facts for facts in found.facts if facts.split == "train" and facts.sequence in drives]
    if raw:
        names = sorted({facts.sequence for facts in raw})
        what = f"{len(raw)} training frames come from {len(names)} test drives of the Eigen split"
        mend = "Set split: eigen, or do not score what is trained here on the Eigen test frames."
        yield problem("leakage", Severity.WARNING, what, names, mend)
    if objects:
        yield _object_drives(found, objects, drives)


def mapped_drives(root: Path) -> list[str] | None:
    """Raw drive of each KITTI object training frame by its number, from the development kit's two mapping files.

    Line n of ``train_mapping.txt`` is ``date drive frame``; ``train_rand.txt`` holds, for each frame, its 1-based line.

    Returns:
        Drives, ``2011_09_26_drive_0005_sync``; None where the files are not beside the data.

    Raises:
        SimipuError: they are there but do not fit each other.
    """
    places = [root / folder for folder in _MAPPING_FOLDERS] + [root.parent / "mapping"]
    place = next((each for each in places if (each / _MAPPING).is_file() and (each / _ORDER).is_file()), None)
    if place is None:
        return None
    try:
        lines = (place / _MAPPING).read_text(encoding="ascii").split("\n")
        order = [int(number) for number in (place / _ORDER).read_text(encoding="ascii").replace(",", " ").split()]
        if min(order, default=1) < 1:
            raise ValueError
        return [lines[number - 1].split()[1] for number in order]
    except (OSError, ValueError, IndexError):
        raise SimipuError(
            f"{place}: {_MAPPING} and {_ORDER} do not fit each other; take both from KITTI's object development kit."
        ) from None


def _between_splits(found: Survey) -> Iterator[Finding]:
    sides: dict[str, list[FrameFacts]] = defaultdict(list)
    for facts in found.facts:
        sides[facts.split].append(facts)
    if not sides["train"] or not sides["eval"]:
        yield ok("leakage", f"all frames are for {'training' if sides['train'] else 'evaluation'}; nothing to compare")
        return
    seen = {facts.row["image_sha256"]: facts.sample_id for facts in sides["train"]}
    same = [
        f"{facts.sample_id} = {seen[facts.row['image_sha256']]}"
        for facts in sides["eval"]
        if facts.row["image_sha256"] in seen
    ]
    if not same:
        pictures = _pictures(sides["train"])
        nearest = _nearest(_pictures(sides["eval"]), pictures)
        same = [
            f"{facts.sample_id} ≈ {sides['train'][other].sample_id}"
            for facts, (other, apart) in zip(sides["eval"], nearest, strict=True)
            if apart < STILL
        ]
    sequences = sorted({facts.sequence for facts in sides["train"]} & {facts.sequence for facts in sides["eval"]})
    if same:
        what = f"{len(same)} evaluation images are training images too, or look the same"
        yield problem("leakage", Severity.FAULT, what, same, "Remove them from one side, or split by_sequence.")
    if sequences:
        what = f"{len(sequences)} sequences are on both sides of the split ({found.source.split})"
        mend = "Neighbouring frames look alike, so scores are flattering; split by_sequence to be strict."
        yield problem("leakage", Severity.WARNING, what, sequences, mend)
    if not same and not sequences:
        yield ok("leakage", "training and evaluation share no sequence and no image")


def _object_drives(found: Survey, objects: list[FrameFacts], drives: set[str]) -> Finding:
    """Say which object frames come from Eigen test drives, as far as that can be told."""
    mend = "Leave these frames out of pre-training, or say beside the scores that test drives were seen."
    if mapped := mapped_drives(found.root):
        known = [facts for facts in objects if "testing" not in facts.sample_id]
        inside = [
            f"{facts.sample_id} ({mapped[number]})"
            for facts in known
            if (number := int(facts.sample_id.rpartition("/")[2])) < len(mapped) and mapped[number] in drives
        ]
        what = f"{len(inside)} of {len(known)} KITTI object frames come from Eigen test drives, says {_MAPPING}"
        return problem("leakage", Severity.WARNING, what, inside, mend) if inside else ok("leakage", what)
    raw = next((folder for place in (found.root, found.root.parent) if (folder := kitti_raw.find(place))), None)
    images = _test_drive_images(raw, drives) if raw else []
    if not images:
        what = (
            f"whether KITTI object frames come from Eigen test drives cannot be told: neither {_MAPPING} and {_ORDER} "
            "nor these drives of kitti_raw are beside the data"
        )
        mend = "Put the mapping folder of KITTI's object development kit beside the data."
        return problem("leakage", Severity.WARNING, what, [], mend)
    with closing(map_frames(_read_thumbnail, images, "check leakage")) as thumbnails:
        pictures = [(image, each) for image, each in zip(images, thumbnails, strict=True) if each]
    if not pictures:
        return ok("leakage", "the images of the Eigen test drives beside the data cannot be read")
    nearest = _nearest(_pictures(objects), _stack([each for _, each in pictures]))
    inside = [
        f"{facts.sample_id} ({pictures[other][0].parts[-4]})"
        for facts, (other, apart) in zip(objects, nearest, strict=True)
        if apart < STILL
    ]
    here = len({image.parts[-4] for image, _ in pictures})
    what = (
        f"{len(inside)} of {len(objects)} KITTI object frames show a frame of the {here} Eigen test drives (of "
        f"{len(drives)}) that are beside the data"
    )
    return problem("leakage", Severity.WARNING, what, inside, mend) if inside else ok("leakage", what)


def _test_drive_images(raw: Path, drives: set[str]) -> list[Path]:
    return [image for drive in kitti_raw.drives(raw) if drive.name in drives for image in drive.images.values()]


def _read_thumbnail(image: Path) -> bytes | None:
    try:
        return thumbnail(decode_image(read_bytes(image)))
    except (BrokenFrameError, SimipuError):
        return None


def _pictures(frames: list[FrameFacts]) -> NDArray[np.float32]:
    return _stack([facts.thumbnail for facts in frames])


def _stack(thumbnails: list[bytes]) -> NDArray[np.float32]:
    return np.array([np.frombuffer(each, np.uint8) for each in thumbnails], np.float32)


def _nearest(pictures: NDArray[np.float32], others: NDArray[np.float32]) -> list[tuple[int, float]]:
    """Index of the nearest of the others to each picture, and their mean absolute difference.

    The nearest is found by Euclidean distance, with one matrix product a block.
    """
    found = []
    squares = (others**2).sum(axis=1)
    for start in range(0, len(pictures), _BLOCK):
        block = pictures[start : start + _BLOCK]
        index = (squares - 2 * np.einsum("ik,jk->ij", block, others, optimize=True)).argmin(axis=1)
        apart = np.abs(block - others[index]).mean(axis=1)
        found += list(zip(index.tolist(), apart.tolist(), strict=True))
    return found
