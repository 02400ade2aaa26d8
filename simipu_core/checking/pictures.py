"""Are images of one size, in colour, not black, and not the same again?"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from simipu_core.checking.report import Finding, Severity, by_share, ok, problem
from simipu_core.checking.survey import THUMBNAIL, FrameFacts, SoundFrame, Survey, streams

_NO_CONTRAST = 2.0
"""Standard deviation of grey values, 0–255."""
_TELLING = 8.0
"""Least standard deviation of a thumbnail's grey values, 0–255."""
STILL = 1.0
"""Mean difference of two thumbnails' grey values below which they show the same."""
_CUT_ROWS = 3
"""Of a thumbnail's 16 rows."""
_MUCH_STANDING = 0.2
_Digest = Literal["image_sha256", "points_sha256", "depth_sha256"]


def check(found: Survey) -> Iterator[Finding]:
    """Sizes, colour, content, repetition, and how files are stored."""
    yield _sizes(found)
    yield from _looks(found)
    yield from _duplicates(found)
    yield from _storage(found)
    yield from _bits(found)
    yield from _orientations(found)


def standing_share(found: Survey) -> float:
    """Share of frames that show the same as the frame before them in their sequence."""
    return len(_standing(found)) / max(len(found.facts), 1)


def statistics(found: Survey) -> dict[str, Any]:
    """Sizes and the share of standing frames."""
    sizes = {f"{height}×{width}": number for (height, width), number in _count_sizes(found).most_common()}
    return {"image_sizes": sizes, "standing_share": round(standing_share(found), 4)}


def difference(one: FrameFacts, other: FrameFacts) -> float:
    """Mean absolute difference of two thumbnails, grey values 0–255."""
    left, right = (np.frombuffer(facts.thumbnail, np.uint8).astype(np.int16) for facts in (one, other))
    return float(np.abs(left - right).mean())


def shows_something(facts: FrameFacts) -> bool:
    """Whether a thumbnail shows enough to be told from others: not night, fog or a wall."""
    return float(np.frombuffer(facts.thumbnail, np.uint8).std()) > _TELLING


def _count_sizes(found: Survey) -> Counter[tuple[int, int]]:
    return Counter(map(_size, found.sound))


def _size(facts: SoundFrame) -> tuple[int, int]:
    return facts.row["height"], facts.row["width"]


def _sizes(found: Survey) -> Finding:
    sizes = _count_sizes(found)
    cameras: dict[tuple[float, ...], list[SoundFrame]] = defaultdict(list)
    for facts in found.sound:
        cameras[tuple(facts.row["intrinsics"])].append(facts)
    odd = []
    for frames in cameras.values():
        usual, _ = Counter(map(_size, frames)).most_common(1)[0]
        odd += [facts.sample_id for facts in frames if _size(facts) != usual]
    shown = ", ".join(f"{height}×{width} ({number:,})" for (height, width), number in sizes.most_common(6))
    what = f"{len(sizes)} size{'s' * (len(sizes) != 1)}: {shown}"
    if odd:
        mend = "Check that these images are this camera's; intrinsics hold for one size only."
        severity = by_share(len(odd), len(found.sound), found.source.max_broken_share)
        return problem(
            "image size", severity, f"{what}; {len(odd)} differ from others with the same intrinsics", odd, mend
        )
    return ok("image size", what)


def _looks(found: Survey) -> Iterator[Finding]:
    empty = [facts.sample_id for facts in found.facts if facts.contrast < _NO_CONTRAST]
    grey = [facts.sample_id for facts in found.facts if facts.is_grey and facts.contrast >= _NO_CONTRAST]
    allowed, total = found.source.max_broken_share, len(found.facts)
    if empty:
        what = f"{len(empty)} images are black or of one colour"
        yield problem("image content", found.by_share(len(empty), total, allowed), what, empty, "Remove these frames.")
    if grey:
        what = f"{len(grey)} of {total} images have no colour"
        yield problem("image content", Severity.WARNING, what, grey, "Take the colour camera if there is one.")
    cut = [facts.sample_id for facts in found.facts if facts.contrast >= _NO_CONTRAST and _is_cut(facts)]
    if cut:
        what = f"{len(cut)} of {total} images are of one colour from some row down"
        mend = (
            "Look at them: received in part, or a bar or mask over the vehicle? The network would learn these pixels."
        )
        yield problem("image content", Severity.WARNING, what, cut, mend)
    if not empty and not grey and not cut:
        yield ok("image content", "all images have colour and contrast")


def _is_cut(facts: FrameFacts) -> bool:
    """Whether the lower part of a thumbnail is all of one value."""
    rows = np.frombuffer(facts.thumbnail, np.uint8).reshape(THUMBNAIL)[-_CUT_ROWS:]
    return int(rows.min()) == int(rows.max())


def _duplicates(found: Survey) -> Iterator[Finding]:
    repeated = False
    kinds: tuple[tuple[_Digest, Literal["image", "points", "depth"], str], ...] = (
        ("image_sha256", "image", "the same image"),
        ("points_sha256", "points", "the same scan"),
        ("depth_sha256", "depth", "the same depth map"),
    )
    for digest, part, consequence in kinds:
        of_files: dict[str, dict[str, str]] = defaultdict(dict)  # cameras of one rig share a scan: one file is no copy
        for facts in found.sound:
            if (sha256 := facts.row[digest]) and (file := facts.row[part]):
                of_files[sha256].setdefault(file, facts.sample_id)
        copies = {sha256: list(names.values()) for sha256, names in of_files.items()}
        groups = [" = ".join(names[:3]) for names in copies.values() if len(names) > 1]
        if not groups:
            continue
        repeated = True
        number = sum(len(names) - 1 for names in copies.values())
        severity = by_share(number, len(found.sound), found.source.max_broken_share)
        mend = "Remove the copies; a scan or map that is a copy does not belong to its image."
        yield problem("duplicates", severity, f"{number} frames hold {consequence} as another frame", groups, mend)
    if found.is_sample:  # of frames that follow each other not both are measured
        if not repeated:
            yield ok("duplicates", "no file is there twice")
        return
    standing = _standing(found)
    share = len(standing) / max(len(found.facts), 1)
    if share > _MUCH_STANDING:
        what = f"{100 * share:.0f} % of the frames show the same as the frame before: the vehicle stands"
        mend = "Consider `every`, or leave the standing parts out; they teach nothing new."
        yield problem("duplicates", Severity.WARNING, what, standing, mend)
    elif not repeated:
        yield ok("duplicates", f"no file is there twice; {100 * share:.0f} % of the frames stand still")


def _standing(found: Survey) -> list[str]:
    return [
        after.sample_id
        for frames in streams(found.facts)
        for before, after in pairwise(frames)
        if difference(before, after) < STILL
    ]


def _storage(found: Survey) -> Iterator[Finding]:
    misnamed = [facts.sample_id for facts in found.facts if facts.is_misnamed]
    if misnamed:
        what = f"{len(misnamed)} images are in another format than their names say"
        yield problem("file format", Severity.WARNING, what, misnamed, "Rename them; they are read by content.")
    outside = [facts.sample_id for facts in found.facts if facts.outside]
    if outside and len(outside) < len(found.facts):  # a view of a DVC object consists of links
        what = f"{len(outside)} frames are links to files outside the root"
        yield problem("links", Severity.WARNING, what, outside, "Copy the files in, or the data may change unseen.")


def _bits(found: Survey) -> Iterator[Finding]:
    """Where images have 16 bits, of which the camera's own are told by the brightest pixel."""
    counts = Counter(facts.bits for facts in found.facts)
    if set(counts) == {8}:
        return
    shown = ", ".join(f"{bits} bits ({number:,})" for bits, number in sorted(counts.items()))
    what = f"by their brightest pixels, images hold {shown}; the highest 8 of these are read"
    if len(counts) == 1:
        yield ok("image bits", what)
        return
    usual, _ = counts.most_common(1)[0]
    odd = [facts.sample_id for facts in found.facts if facts.bits != usual]
    mend = "How bright these are among the others cannot be told: save all in 8 bits, scaled alike."
    yield problem("image bits", Severity.WARNING, what, odd, mend)


def _orientations(found: Survey) -> Iterator[Finding]:
    turned = [facts.sample_id for facts in found.facts if facts.orientation != 1]
    if turned:
        what = f"{len(turned)} images carry an EXIF tag by which viewers turn or mirror them; they are read as stored"
        mend = "Check that the calibration is for the pixels as stored, or turn these and remove the tag."
        yield problem("image orientation", Severity.WARNING, what, turned, mend)
