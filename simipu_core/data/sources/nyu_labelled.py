"""NYU Depth v2, labelled: 1,449 images with depth in one MATLAB file (`formats.nyu_mat`).

An image and its depth map are records of the file; references to them end in ``.mat#0012.images`` and
``.mat#0012.rawDepths``, counted from 0 as the official split counts. They are read as PNG files, images without loss,
depth in millimetres.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from simipu_core.data.frames import BrokenFrameError, Frame, Listing, attempt
from simipu_core.data.sources.base import INDOOR, Found, Official, Source
from simipu_core.data.sources.nyu import DEPTH_SCALE, FRAMING, INTRINSICS, LICENCE, TESTING, TYPICAL
from simipu_core.data.splits import Split, nyu_test
from simipu_core.errors import SimipuError
from simipu_core.parallel import apart
from simipu_core.workers import LostError

FILE = "nyu_depth_v2_labeled.mat"
_DEPTHS = {"raw": "rawDepths", "in_painted": "depths"}
_COUNT = 1_449


class NyuLabelled(Source):
    """NYU Depth v2, labelled, nyu_labelled/: 1,449 images with dense depth, without scans."""

    kind: Literal["nyu_labelled"] = "nyu_labelled"
    split: Literal["none", "within_sequence", "by_sequence", "nyu_official"] = "none"  # type: ignore[assignment]
    """`none`: all frames train · `within_sequence`: the first `train_share` of each scene trains, the rest evaluates ·
    `by_sequence`: whole scenes · `nyu_official`: 795 images train, 654 evaluate."""
    depth: Literal["raw", "in_painted"] = "raw"
    """Depth as measured, with holes, or with its holes filled by the data set's authors."""

    expected: ClassVar = f"nyu_labelled/{FILE}"
    licence: ClassVar = LICENCE
    framing: ClassVar = FRAMING
    typical: ClassVar = TYPICAL
    plausible_depth: ClassVar = INDOOR
    shown_depth: ClassVar = 10.0

    def find(self, root: Path) -> Path | None:
        """Folder of the file, at or below the root, if there."""
        return next((folder for folder in (root / self.kind, root / "nyu", root) if (folder / FILE).is_file()), None)

    def each_frame(self, folder: Path) -> Listing:
        """All images, in the order of the file, by scene name and number.

        Raises:
            SimipuError: the file is no labelled NYU file.
        """
        file, depths = folder / FILE, _DEPTHS[self.depth]
        try:
            scenes = list(apart(_scenes, file, depths))
        except LostError as lost:
            raise SimipuError(f"{file}: {lost.reason}; download {FILE} again.") from None
        for index, scene in enumerate(scenes):
            sample_id = f"{self.kind}/{scene}/{index:04d}"
            yield attempt(sample_id, scene, partial(self._frame, file, sample_id, scene, index, depths))

    def _frame(self, file: Path, sample_id: str, scene: str, index: int, depths: str) -> Frame:
        return Frame(
            sample_id=sample_id,
            source=self.kind,
            sequence=scene,
            image=file.with_name(f"{file.name}#{index:04d}.images"),
            intrinsics=INTRINSICS,
            depth=file.with_name(f"{file.name}#{index:04d}.{depths}"),
            depth_scale=DEPTH_SCALE,
        )

    def assign(self, found: Found) -> list[Split | None]:
        """Say which frames train and which evaluate."""
        if self.split != "nyu_official":
            return super().assign(found)
        testing = {f"{index:04d}" for index in nyu_test()}
        return ["eval" if frame.sample_id.rpartition("/")[2] in testing else "train" for frame in found]

    @classmethod
    def read_file(cls, file: Path) -> bytes:
        """An image or depth map of the file, as PNG."""
        from simipu_core.data.formats.nyu_mat import read_record

        return read_record(file, DEPTH_SCALE)

    def official(self, found: Found, root: Path) -> list[Official]:
        """The file's number of images."""
        return [Official(f"NYU labelled frames ({_COUNT - TESTING} train, {TESTING} test)", _COUNT, len(found))]

    def published(self) -> tuple[int, int] | None:
        """Frames of the official split."""
        return (_COUNT - TESTING, TESTING) if self.split == "nyu_official" and self.every == 1 else None


def _scenes(file: Path, depths: str) -> Iterator[str]:
    """Scene of each image of the file."""
    from simipu_core.data.formats.nyu_mat import open_labelled

    try:
        content = open_labelled(file)
        yield from map(content.scene, range(content.count(depths)))
    except BrokenFrameError as error:
        raise SimipuError(f"{error}; download {FILE} again.") from None
