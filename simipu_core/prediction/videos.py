"""Videos in and out, by OpenCV's FFmpeg."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # it says on stderr what is said here in one sentence
import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.errors import SimipuError
from simipu_core.files import put_in_place

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_USUAL_RATE = 25.0
"""Pictures a second where a video does not say."""
_FASTEST = 1000.0


def num_frames(file: Path) -> int:
    """How many frames a video's header promises; 0 where it cannot be read."""
    return max(0, int(cv2.VideoCapture(str(file)).get(cv2.CAP_PROP_FRAME_COUNT)))


def read_frames(file: Path) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Frames (H, W, 3) RGB of a video, one after the other, each with the video's frames a second.

    Raises:
        SimipuError: it cannot be read, or has no frame; a reason to be put after the file's name.
    """
    if not file.is_file():
        raise SimipuError("no such file")
    video = cv2.VideoCapture(str(file))
    try:
        rate = video.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate <= _FASTEST else _USUAL_RATE
        frame = video.read()[1]
        if frame is None:
            raise SimipuError("is no video with frames that can be decoded; convert it to H.264 in .mp4")
        while frame is not None:
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8), rate
            frame = video.read()[1]
    finally:
        video.release()


class VideoWriter:
    """An .mp4 that appears when the block ends without an error."""

    def __init__(self, file: Path, rate: float) -> None:
        self._file = file
        self._rate = rate
        self._draft = file.with_name(f".{file.stem}.partial{file.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame (H, W, 3) RGB; its last row and column are left out where they are odd.

        Raises:
            SimipuError: this OpenCV writes no .mp4, or the frame has another size than those before.
        """
        height, width = (side // 2 * 2 for side in frame.shape[:2])
        if self._writer is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._size = (width, height)
            self._writer = cv2.VideoWriter(str(self._draft), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, self._size)
        if not self._writer.isOpened() or self._size != (width, height):
            raise SimipuError(f"{self._file}: cannot be written as .mp4; leave out --save video.")
        self._writer.write(np.ascontiguousarray(frame[:height, :width, ::-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if error is None:
            put_in_place(self._draft, self._file)
        else:
            self._draft.unlink(missing_ok=True)
