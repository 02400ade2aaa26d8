"""A whole experiment, and how it is read and checked."""

import shlex
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from simipu_core.config.data import PairConfig, SyntheticConfig
from simipu_core.config.depth import EvaluateConfig, FinetuneConfig
from simipu_core.config.presets import PRESETS, Preset, merge, with_preset
from simipu_core.config.pretrain import PretrainConfig
from simipu_core.config.section import ANY_SIZE, Section, SizeRange
from simipu_core.config.tracking import TrackingConfig
from simipu_core.config.training import OPTIMIZERS
from simipu_core.config.validation import validate
from simipu_core.data.sources import DEFAULT, SOURCES, AnySource, Source, class_of
from simipu_core.errors import SimipuError
from simipu_core.geometry.crops import KB_FRAMES, KB_SIZE, NYU_CROP, NYU_FRAMES
from simipu_core.yaml_files import parse_yaml, read_yaml

SHORTHANDS = {"seed": ("pretrain.seed", "finetune.seed")}
"""Settings of one name that stand for several."""
_KINDS: tuple[type[Section], ...] = (*SOURCES, *OPTIMIZERS)


class Experiment(Section):
    """One experiment: everything that decides its numbers."""

    experiment: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name, shown in tables and in MLflow."""
    preset: Preset = "improved"
    """Set of switches that all other keys start from: `improved`, or `reference`, the published computation."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Synthetic world (used only by sources under data/raw)."""
    pretrain_data: AnySource = DEFAULT
    """Source of the unlabelled image-LiDAR pairs."""
    depth_data: AnySource = DEFAULT
    """Source of the depth frames for fine-tuning and evaluation."""
    pair: PairConfig = PairConfig()
    """Packing."""
    pretrain: PretrainConfig = PretrainConfig()
    """Pre-training."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Fine-tuning."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Evaluation."""
    tracking: TrackingConfig = TrackingConfig()
    """Tracking."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, values: Any) -> Any:
        preset = values.get("preset", "improved") if isinstance(values, dict) else None
        return with_preset(values, preset) if isinstance(preset, str) and preset in PRESETS else values

    @model_validator(mode="before")
    @classmethod
    def _frame_as_the_camera(cls, values: Any) -> Any:
        return merge(_framed(values.get("depth_data")), values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.pretrain.image_encoder.name != self.finetune.encoder_name:
            raise ValueError(
                f"finetune.encoder_name is {self.finetune.encoder_name} but pretrain.image_encoder.name is "
                f"{self.pretrain.image_encoder.name}: set both to the same architecture"
            )
        _ = self.depth_frames
        if self.finetune.start == "encoder_and_decoder":
            self._check_decoder()
        deciding = self.tracking.promotion.protocol
        if deciding is not None and deciding not in self.evaluate.protocols:
            raise ValueError(f"tracking.promotion.protocol is {deciding}: add it to evaluate.protocols")
        return self

    @property
    def depth_frames(self) -> Source:
        """`depth_data`, which takes images only that the crops of fine-tuning and evaluation fit.

        Raises:
            ValueError: the crops do not fit each other.
        """
        ranges: list[SizeRange] = [self.depth_data.image_sizes]
        if "garg_kb_crop" in self.evaluate.protocols:
            ranges.append(KB_FRAMES)
        if "eigen_nyu" in self.evaluate.protocols:
            ranges.append(NYU_FRAMES)
        ranges += self._trained_sizes() if self.finetune.epochs else []
        least, largest = np.array(ranges).max(axis=0)[0], np.array(ranges).min(axis=0)[1]
        if (least > largest).any():
            crops = self.finetune.augment
            raise ValueError(
                f"no image fits finetune.augment (fixed_crop {crops.fixed_crop}, crop {crops.crop}) and "
                f"evaluate.protocols {', '.join(self.evaluate.protocols)}: take those of one camera"
            )
        return self.depth_data.model_copy(update={"image_sizes": (tuple(least.tolist()), tuple(largest.tolist()))})

    def _trained_sizes(self) -> list[SizeRange]:
        """Images that the crops of fine-tuning take."""
        augment = self.finetune.augment
        fixed: list[SizeRange] = {"none": [], "kb": [KB_FRAMES], "nyu": [NYU_FRAMES]}[augment.fixed_crop]
        if augment.crop is None:
            return fixed
        room = {"none": ANY_SIZE[1], "kb": KB_SIZE, "nyu": NYU_CROP.size}[augment.fixed_crop]
        if augment.crop[0] > room[0] or augment.crop[1] > room[1]:
            raise ValueError(
                "finetune.augment.crop {}×{} is larger than what fixed_crop leaves, {}×{}: lower it or set it to "
                "null".format(*augment.crop, *room)
            )
        return [*fixed, (augment.crop, ANY_SIZE[1])]

    def _check_decoder(self) -> None:
        if not self.pretrain.has_decoder:
            raise ValueError(
                "finetune.start is encoder_and_decoder, but pretrain.objective contrastive trains no decoder: set the "
                "latter to lidar_depth or both"
            )
        given, wanted = self.pretrain.lidar_depth, self.finetune
        for name, one, other in (
            ("decoder_channels", given.decoder_channels, wanted.decoder_channels),
            ("max_depth", given.max_depth, wanted.max_depth),
        ):
            if one != other:
                raise ValueError(f"pretrain.lidar_depth.{name} is {one} but finetune.{name} is {other}: set both alike")
        if given.image_scale != wanted.input_scale:
            raise ValueError(
                f"pretrain.lidar_depth.image_scale is {given.image_scale:g} but finetune.input_scale is "
                f"{wanted.input_scale:g}: set both alike"
            )


def _framed(depth_data: Any) -> dict[str, Any]:
    """Crops and protocols that belong to the camera of a source, as it is written in an experiment."""
    parts = depth_data.get("sources") if isinstance(depth_data, dict) else getattr(depth_data, "parts", None)
    kinds = {_kind(part) for part in parts} if isinstance(parts, list | tuple) and parts else {_kind(depth_data)}
    framings = {class_of(kind).framing for kind in kinds}
    fixed_crop, crop, protocols = framings.pop() if len(framings) == 1 else Source.framing
    augment = {"fixed_crop": fixed_crop, "crop": crop}
    return {"finetune": {"augment": augment}, "evaluate": {"protocols": protocols}}


def _kind(source: Any) -> str:
    kind = source.get("kind") if isinstance(source, dict) else getattr(source, "kind", None)
    return kind if isinstance(kind, str) else DEFAULT.kind


def load_experiment(path: Path, overrides: list[str] | None = None) -> Experiment:
    """Read and validate one experiment file.

    Its `include` may name files, relative to itself, with sections that several experiments share; a later one's values
    go over an earlier one's, and the file's own over all. Included files include nothing further.

    Args:
        path: YAML file, e.g. ``params.yaml`` or ``experiments/kitti_sample.yaml``.
        overrides: ``a.b=value`` settings applied on top; the value is read as YAML. ``seed=value`` sets both seeds, and
            a new ``kind`` drops the options that only the old one has.

    Raises:
        SimipuError: a file is missing or not YAML, or a key or value is refused; the message names it.
    """
    own = _read(path, "see experiments/ for the ready ones")
    names = own.pop("include", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
        raise SimipuError(f"{path}: `include` must be a list of files, e.g. [../common/depth_kitti.yaml].")
    values: dict[str, Any] = {}
    for file in [path.parent / name for name in names]:
        shared = _read(file, f"mend `include` of {path}")
        if "include" in shared:
            raise SimipuError(f"{file}: is itself included and must not include others; name them in {path}.")
        values = merge(values, shared)
    values = merge(values, own)
    for override in overrides or []:
        _apply(values, override, f"--set {override}")
    return validate(Experiment, values, str(path))


def _read(path: Path, hint: str) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise SimipuError(f"{path}: no such experiment file; {hint}.") from None
    except SimipuError as error:
        raise SimipuError(f"{path}: {error}; mend the file.") from None
    if not isinstance(values, dict):
        raise SimipuError(f"{path}: must hold `key: value` lines; copy params.yaml to begin.")
    return values


def apply_settings(values: dict[str, Any], text: str) -> None:
    """Change plain values of an experiment in place, as a line of settings says.

    Args:
        values: plain values of an experiment.
        text: ``finetune.epochs=20 seed=1``: what ``--set`` takes, apart by spaces; a value with spaces is quoted.

    Raises:
        SimipuError: one of them is no setting.
    """
    try:
        settings = shlex.split(text)
    except ValueError:
        raise SimipuError(f"settings {text}: a quote is not closed.") from None
    for setting in settings:
        _apply(values, setting, f"settings {setting}")


def _apply(values: dict[str, Any], setting: str, where: str) -> None:
    name, separator, text = setting.partition("=")
    if not separator or not all(name.split(".")):
        raise SimipuError(f"{where}: write it as section.key=value, e.g. finetune.epochs=3.")
    try:
        value = parse_yaml(text)
    except SimipuError:
        raise SimipuError(
            f"{where}: the value is not YAML; close its brackets, and quote it where it holds spaces or special "
            "characters."
        ) from None
    for key in SHORTHANDS.get(name, (name,)):
        *path, last = key.split(".")
        node = values
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise SimipuError(f"{where}: `{part}` is a value, not a section.")
        if path and last == "kind":
            _drop_options(node, value)
        node[last] = value


def _drop_options(section: dict[str, Any], kind: Any) -> None:
    """Drop what only the old kind of a section has; its new kind would refuse it."""
    known = next((each.model_fields for each in _KINDS if each.model_fields["kind"].default == kind), section)
    for option in section.keys() - known.keys():
        del section[option]
