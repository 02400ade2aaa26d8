"""The depth model as MLflow serves it: this file is stored with the weights and run at load ("models from code")."""

import base64
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from simipu_core.data.images import decode_whole, orientation, upright
from simipu_core.errors import SimipuError
from simipu_core.prediction.intrinsics import Intrinsics
from simipu_core.prediction.outputs import DEPTH_SCALE, depth_png
from simipu_core.prediction.predictor import load

ENCODINGS = ("png", "zlib")


class DepthModel(PythonModel):
    """Depth from single images."""

    def load_context(self, context: PythonModelContext) -> None:
        self._predictor = load(Path(context.artifacts["weights"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Estimate the depth of pictures of any size from 32×32 on, which may differ.

        Args:
            context: unused.
            model_input: a row a picture: `image`, a PNG or JPEG file in base64, or `pixels`, H×W×3 RGB from 0 to 255.
            params: `encoding` of the answers; `intrinsics` of all pictures, fx, fy, cx, cy in pixels, or none;
                `flip`, to average with the mirrored picture.

        Returns:
            One a picture: `depth` in base64, metres along the optical axis: under `png` a 16-bit PNG, metres = value /
            `scale`, 0 = no answer; under `zlib` compressed little-endian float32, height × width in rows, NaN = no
            answer. With it `encoding`, `height`, `width`, `scale`, and a `note` where metres may be wrong by a factor.

        Raises:
            MlflowException: a request that cannot be answered, with the reason; answered with 400.
        """
        given: Mapping[str, Any] = params or {}
        encoding = str(given.get("encoding", ENCODINGS[0]))
        values = np.asarray(given.get("intrinsics", ()), np.float64)
        if encoding not in ENCODINGS:
            raise _refusal(f"encoding is {encoding!r}; choose {' or '.join(ENCODINGS)}.")
        rows = model_input.to_dict("records")
        if not rows:
            raise _refusal("there is no picture in the request; give image or pixels.")
        try:
            intrinsics = Intrinsics.of(values) if values.size else None
        except SimipuError as error:
            raise _refusal(str(error)) from None
        note = self._predictor.note_on_scale(is_known=intrinsics is not None) or ""
        answers = []
        for number, row in enumerate(rows):
            try:
                prepared = self._predictor.prepare(_picture(row), intrinsics)
            except SimipuError as error:
                raise _refusal(f"picture {number} {error}.") from None
            (depth,) = self._predictor.predict_prepared([prepared], flip=bool(given.get("flip", True)))
            answers.append(_answer(depth, encoding) | {"note": note})
        return answers


def _picture(row: Mapping[Any, Any]) -> NDArray[np.uint8]:
    """The picture of a row, (H, W, 3) RGB.

    Raises:
        SimipuError: a reason to be put after the picture's number.
    """
    image, pixels = row.get("image"), row.get("pixels")
    if isinstance(image, str):
        try:
            data = base64.b64decode("".join(image.split()), validate=True)  # tools break lines
        except ValueError:
            raise SimipuError("is no base64; encode the bytes of a PNG or JPEG file") from None
        try:
            return upright(decode_whole(data), orientation(data))
        except SimipuError as error:
            raise SimipuError(f"cannot be read: {error}") from None
    if isinstance(pixels, list | np.ndarray):
        try:
            values = np.array(pixels, np.float64)
        except (TypeError, ValueError, OverflowError):
            values = np.empty(0)
        with np.errstate(invalid="ignore"):
            decoded = values.astype(np.uint8)
        if values.ndim != 3 or values.shape[2] != 3 or not np.array_equal(decoded, values):
            raise SimipuError("is no picture; give height × width × 3 whole numbers from 0 to 255")
        return decoded
    raise SimipuError("is not there; give image (a PNG or JPEG file in base64) or pixels (height × width × 3)")


def _answer(depth: NDArray[np.float32], encoding: str) -> dict[str, Any]:
    data = depth_png(depth) if encoding == "png" else zlib.compress(depth.astype("<f4").tobytes(), 1)
    return {
        "depth": base64.b64encode(data).decode("ascii"),
        "encoding": encoding,
        "height": depth.shape[0],
        "width": depth.shape[1],
        "scale": DEPTH_SCALE if encoding == "png" else 1.0,
    }


def _refusal(reason: str) -> MlflowException:
    return MlflowException(reason, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(DepthModel())
