"""A depth net, loaded from wherever it lies, and asked for the depth of single images."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simipu_core.artifacts import local_artifact, read_manifest
from simipu_core.errors import SimipuError
from simipu_core.inference import View, fitted_view, focal_factor, predict_views
from simipu_core.models.depth_net import DepthNet, load_depth_net
from simipu_core.models.weights import StoredWeights
from simipu_core.prediction.intrinsics import Intrinsics
from simipu_core.storage import local_place, place
from simipu_core.training.devices import pick_device

Precision = Literal["fp32", "bf16"]
REGISTRY = "models:/"


@dataclass(frozen=True)
class Prepared:
    """A picture, and how a net is shown it."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB, undistorted."""
    view: View
    factor: float
    """What its depths are multiplied by."""


class Predictor:
    """A depth net that is ready to predict."""

    def __init__(self, net: DepthNet, precision: Precision = "fp32") -> None:
        self.net = net
        self.precision = precision
        self._has_warned = False

    def predict(
        self, image: NDArray[np.uint8], intrinsics: Intrinsics | ArrayLike | None = None, *, flip: bool = True
    ) -> NDArray[np.float32]:
        """Predict the depth of an image of any size.

        For an image like those of the training it is what `simipu evaluate` scores. Of other sizes and focal lengths:
        docs/method.md, "Frames of other sizes" and "Other focal lengths".

        Args:
            image: (H, W, 3) uint8 RGB.
            intrinsics: of its camera: fx, fy, cx, cy or a 3×3 matrix, pixels. Left out, it is taken for one of the
                training's, and a warning says so once.
            flip: average with the prediction of the mirrored image.

        Returns:
            (H, W) float32 metres along the optical axis; NaN where the net does not answer.

        Raises:
            SimipuError: no such image, too small, or the intrinsics do not fit it.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise SimipuError(f"the image is {image.dtype} {image.shape}; give (H, W, 3) uint8 RGB.")
        if intrinsics is not None and not isinstance(intrinsics, Intrinsics):
            intrinsics = Intrinsics.of(intrinsics)
        if (note := self.note_on_scale(is_known=intrinsics is not None)) and not self._has_warned:
            self._has_warned = True
            warnings.warn(note, stacklevel=2)
        try:
            prepared = self.prepare(image, intrinsics)
        except SimipuError as error:
            raise SimipuError(f"the image {error}.") from None
        return self.predict_prepared([prepared], flip=flip)[0]

    def note_on_scale(self, *, is_known: bool) -> str | None:
        """A sentence where depths may be wrong by a factor.

        Args:
            is_known: whether the intrinsics of the pictures are.
        """
        cameras = self.net.spec.cameras
        if is_known and cameras is None:
            return (
                "these weights do not say which cameras they were trained with, so depths are not scaled to the "
                "intrinsics; fine-tune again to store them."
            )
        if not is_known and cameras:
            height, width = cameras.size
            return (
                "no intrinsics are given, so depths are right only for a camera like the training's "
                f"(fx {cameras.fx:.0f} pixels at {height}×{width}); those of another are wrong by the ratio of the "
                "focal lengths."
            )
        return None

    def prepare(self, image: NDArray[np.uint8], intrinsics: Intrinsics | None) -> Prepared:
        """Undistort an image (H, W, 3), and scale it to what the net was trained for.

        Raises:
            SimipuError: too small, or the intrinsics do not fit it; a reason to be put after the image's name.
        """
        if intrinsics:
            intrinsics.check(*image.shape[:2])
            image = intrinsics.undistorted(image)
        view = fitted_view(self.net.spec, image)
        factor = focal_factor(self.net.spec, intrinsics.fx, intrinsics.fy, view.scale) if intrinsics else 1.0
        return Prepared(image, view, factor)

    def predict_prepared(self, pictures: Sequence[Prepared], *, flip: bool = True) -> list[NDArray[np.float32]]:
        """Depths (H, W), metres, of pictures whose views are of one size and show parts of one size."""
        views = [picture.view for picture in pictures]
        depths = predict_views(self.net, views, flip=flip, precision=self.precision)
        return [
            depth if picture.factor == 1 else depth * np.float32(picture.factor)
            for picture, depth in zip(pictures, depths, strict=True)
        ]


def load(model: str | Path, *, device: str = "auto", precision: Precision = "fp32") -> Predictor:
    """Load a depth net.

    Args:
        model: weights file, folder that `simipu finetune` wrote (also in S3), or version in the registry:
            ``models:/NAME@champion``, ``models:/NAME/3``.
        device: `auto` (the GPU where there is one), `cpu`, `cuda` or `cuda:1`.
        precision: of the network, `fp32` or `bf16`.

    Raises:
        SimipuError: not a depth net, damaged, not the one that was registered; or there is no such device or registry.
    """
    chosen = str(pick_device(device))
    with stored_weights(model) as found:
        return Predictor(load_depth_net(found.file, chosen), precision)


@contextmanager
def stored_weights(model: str | Path) -> Iterator[StoredWeights]:
    """The weights of a depth net, which may lie in a temporary folder inside the block.

    Args:
        model: as :func:`load` takes it.

    Raises:
        SimipuError: not there, not a depth net's folder, damaged, not what was registered; or there is no registry.
    """
    if str(model).startswith(REGISTRY):
        from simipu_core.tracking.mlflow_run import check_answering  # takes seconds
        from simipu_core.tracking.promotion import registered_weights

        check_answering()
        with registered_weights(str(model)) as found:
            yield found
        return
    path = place(str(model))
    if path.is_dir():
        folder = local_artifact(path)
        licence = read_manifest(folder, "depth_net").licence
        yield StoredWeights(folder / "model.safetensors", licence)
        return
    if not (file := local_place(str(model))).is_file():
        raise SimipuError(
            f"{model}: no such file or folder; give weights, a folder that `simipu finetune` wrote, or "
            "models:/NAME@champion."
        )
    yield StoredWeights(file)
