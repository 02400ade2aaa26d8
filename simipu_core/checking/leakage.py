"""Does training see what evaluation is scored on?"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.checking.pictures import STILL, shows_something
from simipu_core.checking.report import Finding, Severity, ok, problem
from simipu_core.checking.survey import FrameFacts, SoundFrame, Survey, thumbnail
from simipu_core.data.formats.files import read_file
from simipu_core.data.frames import BrokenFrameError
from simipu_core.data.images import decode_image
from simipu_core.data.sources import class_of
from simipu_core.data.sources.base import Benchmark, Origins
from simipu_core.errors import SimipuError
from simipu_core.parallel import map_frames
from simipu_core.storage import StorageError

_BLOCK = 256


def check(found: Survey) -> Iterator[Finding]:
    """Sequences and pictures on both sides of the split, and training frames of sequences that a benchmark scores."""
    yield from _between_splits(found)
    if found.is_synthetic:
        return
    training = [frame for frame in found.sound if frame.split == "train"]
    for name in dict.fromkeys(frame.row["source"] for frame in training):
        source = class_of(name)
        if benchmark := source.benchmark():
            yield from _scored_sequences(benchmark, [frame for frame in training if frame.row["source"] == name])
        if not found.is_sample and (origins := source.origins(found.root)):  # it looks at all frames, and others
            frames = [facts for facts in found.facts if facts.split == "train" and facts.row["source"] == name]
            yield _hidden_sequences(origins, frames)


def _scored_sequences(benchmark: Benchmark, frames: list[SoundFrame]) -> Iterator[Finding]:
    scored = [facts.sequence for facts in frames if facts.sequence in benchmark.sequences]
    if scored:
        names = sorted(set(scored))
        what = f"{len(scored)} training frames come from {len(names)} test drives of the {benchmark.name} split"
        name = benchmark.name
        mend = f"Set split: {name.lower()}, or do not score what is trained here on the {name} test frames."
        yield problem("leakage", Severity.WARNING, what, names, mend)


def _between_splits(found: Survey) -> Iterator[Finding]:
    sides: dict[str, list[SoundFrame]] = defaultdict(list)
    for frame in found.sound:
        sides[frame.split].append(frame)
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
        telling = list(filter(shows_something, found.facts))
        trained, scored = ([facts for facts in telling if facts.split == side] for side in ("train", "eval"))
        if trained and scored:
            nearest = _nearest(_pictures(scored), _pictures(trained))
            same = [
                f"{facts.sample_id} ≈ {trained[other].sample_id}"
                for facts, (other, apart) in zip(scored, nearest, strict=True)
                if apart < STILL
            ]
    scans = {facts.row["points_sha256"]: facts.sample_id for facts in sides["train"] if facts.row["points_sha256"]}
    shared = [
        f"{facts.sample_id} = {scans[scan]}" for facts in sides["eval"] if (scan := facts.row["points_sha256"]) in scans
    ]
    sequences = sorted({facts.sequence for facts in sides["train"]} & {facts.sequence for facts in sides["eval"]})
    if same:
        what = f"{len(same)} evaluation images are training images too, or look the same"
        yield problem("leakage", Severity.FAULT, what, same, "Remove them from one side, or split by_sequence.")
    if sequences:
        what = f"{len(sequences)} sequences are on both sides of the split ({found.source.split})"
        mend = "Neighbouring frames look alike, so scores are flattering; split by_sequence to be strict."
        yield problem("leakage", Severity.WARNING, what, sequences, mend)
    if shared and not same:
        what = f"{len(shared)} evaluation frames have the scan of a training frame, of another camera of the rig"
        yield problem("leakage", Severity.WARNING, what, shared, "Split by_sequence, so that a scan is on one side.")
    if not same and not sequences and not shared:
        yield ok("leakage", "training and evaluation share no sequence and no image")


def _hidden_sequences(origins: Origins, frames: list[FrameFacts]) -> Finding:
    """Say which frames come from sequences that a benchmark scores, as far as that can be told."""
    benchmark, sequences = origins.benchmark, origins.sequences
    drives = f"{benchmark.name} test drives"
    if sequences is not None:
        known = [facts for facts in frames if facts.sample_id in sequences]
        inside = [
            f"{facts.sample_id} ({sequences[facts.sample_id]})"
            for facts in known
            if sequences[facts.sample_id] in benchmark.sequences
        ]
        return _inside(
            inside, f"{len(inside)} of {len(known)} {origins.frames} come from {drives}, says {origins.file}"
        )
    if not origins.images:
        what = f"whether {origins.frames} come from {drives} cannot be told: {origins.why_unknown}"
        return problem("leakage", Severity.WARNING, what, [], origins.mend)
    with closing(
        map_frames(_read_thumbnail, list(origins.images), "check leakage", rejected=_unreadable)
    ) as thumbnails:
        pictures = [(image, each) for image, each in zip(origins.images, thumbnails, strict=True) if each]
    if not pictures:
        return ok("leakage", f"the images of the {drives} beside the data cannot be read")
    nearest = _nearest(_pictures(frames), _stack([each for _, each in pictures]))
    inside = [
        f"{facts.sample_id} ({origins.images[pictures[other][0]]})"
        for facts, (other, apart) in zip(frames, nearest, strict=True)
        if apart < STILL
    ]
    here = len({origins.images[image] for image, _ in pictures})
    what = (
        f"{len(inside)} of {len(frames)} {origins.frames} show a frame of the {here} {drives} (of "
        f"{len(benchmark.sequences)}) that are beside the data"
    )
    return _inside(inside, what)


def _inside(inside: list[str], what: str) -> Finding:
    mend = "Leave these frames out of pre-training, or say beside the scores that test drives were seen."
    return problem("leakage", Severity.WARNING, what, inside, mend) if inside else ok("leakage", what)


def _read_thumbnail(image: Path) -> bytes | None:
    try:
        return thumbnail(decode_image(read_file(image)))
    except StorageError:
        raise
    except (BrokenFrameError, SimipuError):
        return None


def _unreadable(_image: Path, _reason: str) -> None:
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
