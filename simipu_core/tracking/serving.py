"""The depth model as MLflow serves it: this file is stored with the weights and run at load ("models from code")."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from simipu_core.inference import predict_depth
from simipu_core.models.depth_net import load_depth_net


class DepthModel(PythonModel):
    """Depth from single images."""

    def load_context(self, context: PythonModelContext) -> None:
        self._net = load_depth_net(Path(context.artifacts["weights"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: np.ndarray,  # the one array type that MLflow leaves to the signature
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        """Estimate depth.

        Args:
            context: unused.
            model_input: B×H×W×3 RGB images, uint8.
            params: unused.

        Returns:
            B×H×W depth, float32 metres along the optical axis.
        """
        return np.stack([predict_depth(self._net, image) for image in model_input])


mlflow.models.set_model(DepthModel())
