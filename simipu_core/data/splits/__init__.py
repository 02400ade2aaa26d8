"""Which frames train and which evaluate: the published lists, and splits by sequence (docs/method.md, "Frames")."""

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from simipu_core.data.frames import Frame, Rejected, natural
from simipu_core.errors import SimipuError

Split = Literal["train", "eval"]


def eigen_train() -> list[tuple[str, int]]:
    """Drive and frame index of the Eigen split's 23,158 training frames."""
    return [(drive, frame) for drive, (a, b) in _facts("kitti_eigen")["train"].items() for frame in range(a, b + 1)]


def eigen_test(with_groundtruth: bool = True) -> list[tuple[str, int]]:
    """Drive and frame index of the Eigen split's 697 test frames, or the 652 that have official ground truth."""
    return [
        (drive, frame)
        for drive, facts in _facts("kitti_eigen")["test"].items()
        for frame in facts["frames"]
        if not (with_groundtruth and frame in facts["missing_groundtruth"])
    ]


def nyu_test() -> list[int]:
    """Zero-based indices of the 654 official test images among NYU's 1449 labelled ones."""
    return list(_facts("nyu_official")["test"])


def eigen(found: Sequence[Frame | Rejected]) -> list[Split | None]:
    """The Eigen split of KITTI's drives; None for frames that it does not list.

    Raises:
        SimipuError: it lists none of them.
    """
    listed: dict[tuple[str, str], Split] = {(drive, f"{frame:010d}"): "train" for drive, frame in eigen_train()}
    listed |= {(drive, f"{frame:010d}"): "eval" for drive, frame in eigen_test(with_groundtruth=False)}
    result = [listed.get((frame.sequence, frame.sample_id.rpartition("/")[2])) for frame in found]
    if not any(result):
        raise SimipuError(
            "`split` is eigen, but none of its drives is here; choose another split or add drives of KITTI raw."
        )
    return result


def within_sequence(found: Sequence[Frame | Rejected], train_share: float) -> list[Split | None]:
    """The first `train_share` of each sequence trains, the rest evaluates."""
    sequences: dict[str, list[int]] = defaultdict(list)
    for index, frame in enumerate(found):
        sequences[frame.sequence].append(index)
    result: list[Split | None] = ["train"] * len(found)
    for indices in sequences.values():
        cut = _share(len(indices), train_share)
        scans = [getattr(found[index], "points", None) for index in indices]
        while 0 < cut < len(indices) - 1 and scans[cut] is not None and scans[cut] == scans[cut - 1]:
            cut += 1  # a scan that several cameras share stays on one side
        for index in indices[cut:]:
            result[index] = "eval"
    return result


def by_sequence(found: Sequence[Frame | Rejected], train_share: float) -> list[Split | None]:
    """Whole sequences train or evaluate, in natural order of their names.

    Raises:
        SimipuError: there is one sequence only.
    """
    names = sorted({frame.sequence for frame in found}, key=natural)
    if len(names) < 2:
        raise SimipuError("`split` is by_sequence, but there is one sequence only; choose within_sequence.")
    training = set(names[: _share(len(names), train_share)])
    return ["train" if frame.sequence in training else "eval" for frame in found]


def by_folder(found: Sequence[Frame | Rejected]) -> list[Split | None]:
    """What lies under a folder called `test` evaluates, the rest trains."""
    return ["eval" if "test" in frame.sequence.split("/") else "train" for frame in found]


def _share(count: int, train_share: float) -> int:
    """Number of `count` things that train: the rounded share, but at least one on either side of two or more."""
    return 1 if count == 1 else min(max(round(count * train_share), 1), count - 1)


@cache
def _facts(name: str) -> Any:
    return json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
