"""What all layouts of KITTI have in common."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from simipu_core.config.data import SyntheticConfig
from simipu_core.data import splits
from simipu_core.data.sources.base import Benchmark, Found, Framing, Source
from simipu_core.data.splits import Split, eigen_test


class KittiSource(Source):
    """A layout of KITTI; its drives can be split as the Eigen split does."""

    split: Literal["none", "within_sequence", "by_sequence", "eigen"] = "none"  # type: ignore[assignment]
    """`none`: all frames train · `within_sequence`: the first `train_share` of each sequence trains, the rest
    evaluates · `by_sequence`: whole sequences · `eigen`: the Eigen split of KITTI raw."""

    framing: ClassVar = Framing("kb", (352, 704), ("garg_kb_crop", "garg_full_frame"))
    licence: ClassVar = "CC BY-NC-SA 3.0 (KITTI)"
    usual_share: ClassVar = (0.08, 0.30)  # KITTI's own scans have 13–21 %
    dates: ClassVar = {
        (375, 1242): ("2011_09_26", 721.5377),
        (370, 1224): ("2011_09_28", 707.0493),
        (374, 1238): ("2011_09_29", 718.3351),
        (370, 1226): ("2011_09_30", 707.0912),
        (376, 1241): ("2011_10_03", 718.856),
    }

    def assign(self, found: Found) -> list[Split | None]:
        """Say which frames train and which evaluate."""
        return splits.eigen(found) if self.split == "eigen" else super().assign(found)

    def rendered_drives(self, world: SyntheticConfig) -> list[str]:
        """Sequence of each rendered frame of a drive; none is a drive of the Eigen split."""
        if self.split == "eigen":
            return []
        return [f"{drive:04d}" for drive in range(world.drives) for _ in range(world.frames_per_drive)]


def eigen_benchmark() -> Benchmark:
    """The test drives of the Eigen split."""
    return Benchmark("Eigen", frozenset(drive for drive, _ in eigen_test()))


def count_listed(frames: Iterable[tuple[str, int]], found: Found) -> int:
    """How many frames of a list of drives and frame indices were found."""
    here = {(frame.sequence, frame.sample_id.rpartition("/")[2]) for frame in found}
    return sum((drive, f"{index:010d}") in here for drive, index in frames)
