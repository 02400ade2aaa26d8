"""KITTI depth: images of KITTI raw with the official semi-dense ground truth (docs/method.md, "Frames").

``kitti_depth/[train/ or val/]<drive>/proj_depth/groundtruth/image_02/0000000005.png`` beside ``kitti_raw/``; the folder
names of the published tools (``data_depth_annotated``, ``gt_depth``; ``input`` for the images) do as well. A flat
sample, ``kitti_depth/{rgb, groundtruth}/<same name>.png``, comes without calibration and gets `DEFAULT_INTRINSICS`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from simipu_core.config.data import SyntheticConfig
from simipu_core.data.frames import IMAGE_SUFFIXES, BrokenFrameError, Files, Frame, Listing, attempt, files_by_stem
from simipu_core.data.sources.base import OUTDOOR, Benchmark, Found, Official
from simipu_core.data.sources.kitti_raw import Drive, drives
from simipu_core.data.sources.kitti_shared import KittiSource, count_listed, eigen_benchmark
from simipu_core.data.splits import eigen_test, eigen_train

DEPTH_SCALE = 256.0
DEFAULT_INTRINSICS = (721.5377, 0.0, 609.5593, 0.0, 721.5377, 172.854, 0.0, 0.0, 1.0)
"""Left colour camera on 2011_09_26, the date of most drives."""

_TRUTH_FOLDERS = ("kitti_depth", "data_depth_annotated", "gt_depth")
_TRUTH = "*_sync/proj_depth/groundtruth/image_02"


class KittiDepth(KittiSource):
    """KITTI depth, kitti_depth/ beside kitti_raw/: drives with official semi-dense ground truth."""

    kind: Literal["kitti_depth"] = "kitti_depth"

    expected: ClassVar = "kitti_depth/<drive>_sync/proj_depth/groundtruth/image_02 beside kitti_raw"
    plausible_depth: ClassVar = OUTDOOR
    least_valid_share: ClassVar = 0.08  # the improved ground truth has some 16 %

    def find(self, root: Path) -> Path | None:
        """The root, if it or a folder in it holds ground truth of this layout."""
        folder = _truth_folder(root)
        return root if (folder / "groundtruth").is_dir() or any(_truth_of_drives(folder)) else None

    def each_frame(self, folder: Path) -> Listing:
        """All frames with ground truth, sorted, with their scan if they have one.

        Args:
            folder: holds the ground-truth folder and the folder of KITTI raw, or is both of them.
        """
        truth_folder = _truth_folder(folder)
        if (truth_folder / "groundtruth").is_dir():
            yield from self._flat_frames(truth_folder)
            return
        raw = next((folder / name for name in ("kitti_raw", "input") if (folder / name).is_dir()), folder)
        by_name = {drive.name: drive for drive in drives(raw)}
        for truth in _truth_of_drives(truth_folder):
            name = truth.parts[-4]
            for stem, depth in files_by_stem(truth, ".png").items():
                make = partial(self._frame, raw, by_name.get(name), stem, depth)
                yield attempt(f"{self.kind}/{name}/{stem}", name, make)

    def _frame(self, raw: Path, drive: Drive | None, stem: str, depth: Path) -> Frame:
        if drive is None:
            name = depth.parts[-5]
            raise BrokenFrameError(raw / name[:10] / name, f"the ground truth {depth.name} has no such drive")
        return replace(drive.frame(self.kind, stem), depth=depth, depth_scale=DEPTH_SCALE)

    def _flat_frames(self, folder: Path) -> Listing:
        images = files_by_stem(folder / "rgb", *IMAGE_SUFFIXES)
        for stem, depth in files_by_stem(folder / "groundtruth", ".png").items():
            make = partial(self._flat_frame, folder, images, depth)
            yield attempt(f"{self.kind}/flat/{stem}", "flat", make)

    def _flat_frame(self, folder: Path, images: Files, depth: Path) -> Frame:
        image = images.find(depth.stem)
        if image is None:
            raise BrokenFrameError(folder / "rgb" / depth.name, "the ground truth has no such image")
        return Frame(
            sample_id=f"{self.kind}/flat/{depth.stem}",
            source=self.kind,
            sequence="flat",
            image=image,
            intrinsics=DEFAULT_INTRINSICS,
            depth=depth,
            depth_scale=DEPTH_SCALE,
        )

    def official(self, found: Found, root: Path) -> list[Official]:
        """Frames of the Eigen split that have ground truth."""
        if self.every > 1:
            return []
        lists = {"training": eigen_train(), "test (with ground truth)": eigen_test()}
        with_depth = [frame for frame in found if isinstance(frame, Frame) and frame.depth]
        return [
            Official(f"Eigen {name} frames", len(each), count_listed(each, with_depth)) for name, each in lists.items()
        ]

    def published(self) -> tuple[int, int] | None:
        """Frames of the Eigen split."""
        return (len(eigen_train()), len(eigen_test())) if self.split == "eigen" and self.every == 1 else None

    def rendered(self, world: SyntheticConfig) -> list[str]:
        """Of what `simipu synthesize` writes."""
        return self.rendered_drives(world)

    @classmethod
    def benchmark(cls) -> Benchmark:
        """The test drives of the Eigen split."""
        return eigen_benchmark()


def _truth_folder(root: Path) -> Path:
    return next((root / name for name in _TRUTH_FOLDERS if (root / name).is_dir()), root)


def _truth_of_drives(folder: Path) -> list[Path]:
    found = [path for prefix in ("", "train/", "val/") for path in folder.glob(prefix + _TRUTH)]
    return sorted(found, key=lambda path: path.parts[-4])
