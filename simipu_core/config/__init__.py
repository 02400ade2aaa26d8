"""The sections of an experiment's configuration: frozen, validated, unknown keys refused.

The defaults are the full-size reference settings (reference: SimIPU, arXiv 2112.04680, and its released
configuration). ``params.yaml`` and every file in ``experiments/`` state only what differs from them.
"""

from simipu_core.config.data import PairConfig, SyntheticConfig
from simipu_core.config.depth import (
    DepthAugmentConfig,
    EvaluateConfig,
    FinetuneConfig,
    OneCycleConfig,
    Protocol,
)
from simipu_core.config.pretrain import (
    ContrastConfig,
    HeadConfig,
    ImageEncoderConfig,
    ImageViewConfig,
    LidarDepthConfig,
    PointEncoderConfig,
    PointViewConfig,
    PretrainConfig,
    ProbeConfig,
    SetAbstractionConfig,
)
from simipu_core.config.section import Section
from simipu_core.config.tracking import PromotionConfig, TrackingConfig
from simipu_core.config.training import AdamWConfig, ColourConfig, InputConfig, LoopConfig, SGDConfig
from simipu_core.config.validation import validate

__all__ = [
    "AdamWConfig",
    "ColourConfig",
    "ContrastConfig",
    "DepthAugmentConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "HeadConfig",
    "ImageEncoderConfig",
    "ImageViewConfig",
    "InputConfig",
    "LidarDepthConfig",
    "LoopConfig",
    "OneCycleConfig",
    "PairConfig",
    "PointEncoderConfig",
    "PointViewConfig",
    "PretrainConfig",
    "ProbeConfig",
    "PromotionConfig",
    "Protocol",
    "SGDConfig",
    "Section",
    "SetAbstractionConfig",
    "SyntheticConfig",
    "TrackingConfig",
    "validate",
]
