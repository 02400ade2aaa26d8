"""Presets: sets of switches, chosen by an experiment's `preset`.

`improved` is what every field defaults to. `reference` is the published computation, quirk by quirk; each switch
explains itself where it is defined (`simipu config --explain`). Sizes, schedules and optimisers are not part of a
preset: their defaults are the published ones for both.
"""

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["improved", "reference"]

PRESETS: dict[Preset, dict[str, Any]] = {
    "improved": {},
    "reference": {
        "pretrain": {
            "sync_norm": "image_encoder",
            "image": {"colour": 0.0},
            "input": {"channels": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)},
            "point_encoder": {
                "sampling": "feature_halves",
                "inherited_split": True,
                "ring": True,
                "neighbours": "first",
                "input_features": "reflectance",
            },
            "image_encoder": {"init": "torch_default", "norm_eps": 1e-3, "norm_momentum": 0.01},
            "contrast": {
                "pairing": "hungarian",
                "feature_strides": (32,),
                "feature_sampling": "align_corners",
                "sampling_extent": "image",
                "drop_invisible": False,
                "symmetric_inter": False,
                "stop_point_gradient": True,
            },
        },
        "finetune": {"allow_input_mismatch": True, "ignore_beyond": False},
    },
}


def with_preset(values: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """An experiment's own values over those of a preset."""
    return merge(PRESETS[preset], values)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others over them; sections are merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
