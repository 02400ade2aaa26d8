"""SimIPU: label-free pre-training of a camera network on pairs of images and LiDAR scans, then depth from one image.

The names below are its public parts, for a loop of one's own (see ``examples/``). Each is imported when it is first
used, so that ``import simipu_core`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names, for type checkers
    from simipu_core.config import FinetuneConfig as FinetuneConfig
    from simipu_core.config import PretrainConfig as PretrainConfig
    from simipu_core.data.depth_views import DepthViews as DepthViews
    from simipu_core.data.images import decode_depth as decode_depth
    from simipu_core.data.images import decode_image as decode_image
    from simipu_core.data.loader import SampleOrder as SampleOrder
    from simipu_core.data.loader import batches as batches
    from simipu_core.data.shards import Shards as Shards
    from simipu_core.data.views import PairViews as PairViews
    from simipu_core.errors import plain_errors as plain_errors
    from simipu_core.evaluation.metrics import METRICS as METRICS
    from simipu_core.evaluation.metrics import depth_metrics as depth_metrics
    from simipu_core.evaluation.protocols import valid_pixels as valid_pixels
    from simipu_core.experiment import Experiment as Experiment
    from simipu_core.experiment import load_experiment as load_experiment
    from simipu_core.inference import predict_depth as predict_depth
    from simipu_core.losses.info_nce import info_nce as info_nce
    from simipu_core.losses.sig_loss import sig_loss as sig_loss
    from simipu_core.models.depth_net import DepthNet as DepthNet
    from simipu_core.models.depth_net import build_depth_net as build_depth_net
    from simipu_core.models.depth_net import load_depth_net as load_depth_net
    from simipu_core.models.depth_net import save_depth_net as save_depth_net
    from simipu_core.models.foreign import read_encoder as read_encoder
    from simipu_core.models.image_branch import save_encoder as save_encoder
    from simipu_core.models.simipu import SimIPU as SimIPU
    from simipu_core.prediction.intrinsics import Intrinsics as Intrinsics
    from simipu_core.prediction.predictor import load as load
    from simipu_core.training.devices import to_device as to_device

_HOMES = {
    "FinetuneConfig": "simipu_core.config",
    "PretrainConfig": "simipu_core.config",
    "DepthViews": "simipu_core.data.depth_views",
    "decode_depth": "simipu_core.data.images",
    "decode_image": "simipu_core.data.images",
    "SampleOrder": "simipu_core.data.loader",
    "batches": "simipu_core.data.loader",
    "Shards": "simipu_core.data.shards",
    "PairViews": "simipu_core.data.views",
    "plain_errors": "simipu_core.errors",
    "METRICS": "simipu_core.evaluation.metrics",
    "depth_metrics": "simipu_core.evaluation.metrics",
    "valid_pixels": "simipu_core.evaluation.protocols",
    "Experiment": "simipu_core.experiment",
    "load_experiment": "simipu_core.experiment",
    "predict_depth": "simipu_core.inference",
    "info_nce": "simipu_core.losses.info_nce",
    "sig_loss": "simipu_core.losses.sig_loss",
    "DepthNet": "simipu_core.models.depth_net",
    "build_depth_net": "simipu_core.models.depth_net",
    "load_depth_net": "simipu_core.models.depth_net",
    "save_depth_net": "simipu_core.models.depth_net",
    "read_encoder": "simipu_core.models.foreign",
    "SimIPU": "simipu_core.models.simipu",
    "save_encoder": "simipu_core.models.image_branch",
    "Intrinsics": "simipu_core.prediction.intrinsics",
    "load": "simipu_core.prediction.predictor",
    "to_device": "simipu_core.training.devices",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
