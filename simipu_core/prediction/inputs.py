"""What is predicted on: pictures, folders, videos, catalogues, shards."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from simipu_core import storage
from simipu_core.artifacts import MANIFEST, local_artifact, read_manifest
from simipu_core.data.catalogue import RAW_DATA_GONE, read_frames
from simipu_core.data.formats.files import read_file
from simipu_core.data.frames import IMAGE_SUFFIXES, BrokenFrameError, is_hidden, natural
from simipu_core.data.images import decode_image, decode_whole, orientation, upright
from simipu_core.data.lenses import through_pinhole
from simipu_core.data.pairing import read_catalogued_image
from simipu_core.data.schema import CatalogueRow, DepthRow, PairRow
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from simipu_core.prediction import videos
from simipu_core.prediction.intrinsics import Intrinsics
from simipu_core.storage import S3Path, place
from simipu_core.storage.downloads import is_safe

STDIN = "-"


@dataclass(frozen=True)
class Clip:
    """The video that a frame is of."""

    name: str
    """Of its outputs, without suffix."""
    source: str
    """Its file, for people."""
    rate: float
    """Frames a second."""


@dataclass(frozen=True)
class Frame:
    """A picture to predict on, not decoded yet."""

    name: str
    """Of its outputs, without suffix; may have folders."""
    source: str
    """Where it comes from, for people."""
    read: Callable[[], NDArray[np.uint8]]
    """(H, W, 3) RGB. Raises SimipuError with a reason to be put after the source."""
    intrinsics: Intrinsics | None = None
    """As the source states them."""
    clip: Clip | None = None


@dataclass(frozen=True)
class Broken:
    """What cannot be predicted on, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Source:
    """What one argument stands for, or a part of it."""

    count: int
    """Frames, as far as is known without reading them."""
    frames: Callable[[], Iterable[Frame | Broken]]


def find(arguments: Sequence[str], out: Path | None = None) -> list[Source]:
    """The sources that arguments stand for: files, folders, globs, artifacts, `-` for one picture on stdin.

    Names of outputs are those of files without suffix, with the folders below the one that is given. Where several
    folders are given, each has its own name in front. What is not there is a source of one broken frame.

    Args:
        arguments: what is given.
        out: where depths are written; below a folder that is given, pictures in it are none of the input.

    Raises:
        SimipuError: an artifact that is damaged, or holds no pictures; a folder that is `out` itself.
    """
    sources: list[Source] = []
    for argument in arguments:
        sources += _of(argument, out, is_alone=len(arguments) == 1)
    return sources


def _of(argument: str, out: Path | None, *, is_alone: bool) -> list[Source]:
    if argument == STDIN:
        return [Source(1, lambda: [Frame("stdin", "stdin", lambda: _decoded(sys.stdin.buffer.read()))])]
    path = place(argument)
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return _of_artifact(path)
        prefix = PurePosixPath() if is_alone else PurePosixPath(path.name)
        files = [file for file in sorted(path.rglob("*"), key=_order) if _is_wanted(file.relative_to(path))]
        if out and not isinstance(path, S3Path) and (out := out.resolve()).is_relative_to(folder := path.resolve()):
            if out == folder:
                raise SimipuError(f"{out}: holds the pictures, to which depths would be added; choose another --out.")
            files = [file for file in files if not (folder / file.relative_to(path)).is_relative_to(out)]
        if not files:
            return [_broken(argument, "holds neither pictures (.png, .jpg) nor videos")]
        return [_of_file(file, prefix / file.relative_to(path).as_posix()) for file in files]
    if not path.is_file() and has_magic(argument) and not isinstance(path, S3Path):
        names = sorted(glob(argument, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        found = [Path(name) for name in names if Path(name).is_file()]
        if found:
            return [_of_file(file, PurePosixPath(file.name)) for file in found]
    if not path.is_file():
        return [_broken(argument, "no such file or folder")]
    return [_of_file(path, PurePosixPath(path.name))]


def _broken(source: str, reason: str) -> Source:
    return Source(1, lambda: [Broken(source, reason)])


def _order(file: Path) -> list[tuple[list[tuple[int, str]], str]]:
    return [natural(part) for part in file.parts]


def _is_wanted(file: Path) -> bool:
    is_seen = not any(is_hidden(Path(part)) for part in file.parts)
    return is_seen and file.suffix.lower() in (*IMAGE_SUFFIXES, *videos.SUFFIXES)


def _of_file(file: Path, name: PurePosixPath) -> Source:
    bare = name.with_suffix("").as_posix()
    if file.suffix.lower() in videos.SUFFIXES:
        if isinstance(file, S3Path):
            return _broken(str(file), "is a video in S3; copy it to a local disk")
        return Source(max(1, videos.num_frames(file)), partial(_video, file, bare))
    return Source(1, lambda: [Frame(bare, str(file), lambda: _decoded(_read(file)))])


def _read(file: Path) -> bytes:
    try:
        return read_file(file)
    except BrokenFrameError as error:
        raise SimipuError(error.reason) from None


def _decoded(data: bytes) -> NDArray[np.uint8]:
    return upright(decode_whole(data), orientation(data))


def _video(file: Path, name: str) -> Iterator[Frame | Broken]:
    try:
        for number, (image, rate) in enumerate(videos.read_frames(file)):
            frame = partial(_same, image)
            yield Frame(f"{name}/{number:06d}", f"{file}, frame {number}", frame, clip=Clip(name, str(file), rate))
    except SimipuError as error:
        yield Broken(str(file), str(error))


def _same(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image


def _of_artifact(path: Path) -> list[Source]:
    kind = read_manifest(path, "catalogue", "pairs", "depth").kind
    if kind == "catalogue":
        folder = local_artifact(path)
        rows, origin = read_frames(folder), read_manifest(folder).origin
        if origin is None:
            raise SimipuError(f"{path}: does not say where its raw data lies; run ingest again.")
        return [Source(len(rows), partial(_catalogued, storage.resolve(origin, mend=RAW_DATA_GONE), rows))]
    if kind == "pairs":
        pairs = Shards(path, "pairs")
        return [Source(len(pairs), partial(_packed, path, pairs))]
    parts = [Shards(path, "depth", "train"), Shards(path, "depth", "eval")]
    return [Source(len(shards), partial(_packed, path, shards)) for shards in parts]


def _catalogued(root: Path, rows: Sequence[CatalogueRow]) -> Iterator[Frame | Broken]:
    for row in rows:
        size = row["height"], row["width"]
        yield _named(row["sample_id"], row["image"], partial(_read_row, root, row), row["intrinsics"], size)


def _read_row(root: Path, row: CatalogueRow) -> NDArray[np.uint8]:
    try:
        return through_pinhole(decode_image(read_catalogued_image(root, row)), row)
    except BrokenFrameError as error:
        raise SimipuError(error.reason) from None


def _packed(path: Path, shards: Shards[PairRow] | Shards[DepthRow]) -> Iterator[Frame | Broken]:
    try:
        for index in range(len(shards)):
            shards.expect(range(index, min(index + 64, len(shards))))
            row = shards.row(index)
            size = row["height"], row["width"]
            where = f"{row['sample_id']} in {path}"
            yield _named(row["sample_id"], where, partial(decode_image, row["image"]), row["intrinsics"], size)
    except SimipuError as error:
        yield Broken(str(path), str(error))


def _named(
    name: str,
    source: str,
    read: Callable[[], NDArray[np.uint8]],
    matrix: Sequence[float],
    size: tuple[int, int],
) -> Frame | Broken:
    if not is_safe(name):
        return Broken(source, "has a sample_id that is no file name; run ingest again")
    try:
        return Frame(name, source, read, Intrinsics.of(matrix, size))
    except SimipuError:
        return Frame(name, source, read)
