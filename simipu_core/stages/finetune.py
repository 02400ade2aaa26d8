"""Stage: monocular depth fine-tuning on depth shards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from simipu_core.artifacts import Manifest, local_artifact, read_manifest
from simipu_core.config import FinetuneConfig
from simipu_core.data.batches import DepthBatch
from simipu_core.data.depth_views import DepthViews
from simipu_core.data.schema import DepthRow
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from simipu_core.losses.sig_loss import at_size_of, sig_loss
from simipu_core.losses.terms import LossTerm, logged, weighted_sum
from simipu_core.models.depth_net import DepthNet, TrainingCameras, build_depth_net, save_depth_net
from simipu_core.models.initialise import weights_source
from simipu_core.stages.training import Training, begin
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.checkpoint import TrainingState
from simipu_core.training.loop import Values
from simipu_core.training.optimizers import finetuning_optimizer


def finetune(
    depth: Path,
    config: FinetuneConfig,
    out: Path,
    *,
    encoder: Path | None,
    run: Run = SilentRun(),
    checkpoints: str | Path | None = None,
) -> Manifest:
    """Fine-tune a depth net (``model.safetensors``) on the training split.

    Under torchrun every process calls this; the first one writes and records. SigLoss is taken over the pixels of one
    micro-batch of one rank and averaged. BatchNorm takes its statistics over the samples of one micro-batch of one
    rank, or over all ranks where `sync_norm` says so; what is kept for inference are the first rank's.

    Args:
        depth: artifact of kind `depth`.
        config: the experiment's `finetune` section.
        out: artifact directory to write, kind `depth_net`.
        encoder: artifact of kind `encoder` to start from, where `config.init` is `pretrained`.
        run: where the run is recorded.
        checkpoints: folder or ``s3://bucket/prefix`` for checkpoints; a killed run with the same inputs goes on from
            there.

    Raises:
        SimipuError: the inputs do not fit each other, training diverged, or it was asked to end.
    """
    encoder = encoder and local_artifact(encoder)
    shards = Shards(depth, "depth", "train")
    with begin(
        "finetune",
        config,
        shards,
        out,
        encoder=read_manifest(encoder, "encoder") if encoder else None,
        init_file=weights_source(config.encoder_name, config.init, config.init_file),
        max_rows=config.max_frames,
        run=run,
        checkpoints=checkpoints,
    ) as training:
        weights = encoder / "encoder.safetensors" if encoder else None
        net = build_depth_net(config, weights, cameras=cameras_of(training.shards))
        if training.steps:
            _check_scale(depth, shards.manifest, config.max_depth)
            _train(training, net, config)
        return training.write(
            "depth_net",
            lambda folder: save_depth_net(net, folder / "model.safetensors"),
            frames=training.order.num_rows if training.steps else 0,
        )


def cameras_of(shards: Shards[DepthRow]) -> TrainingCameras | None:
    """The cameras that took the frames; None where a frame has no focal length."""
    matrices = np.array(shards.column("intrinsics"), np.float64)
    sizes = np.array([shards.column("height"), shards.column("width")]).T
    fx, fy = matrices[:, 0], matrices[:, 4]
    if not (np.minimum(fx, fy) > 0).all():
        return None
    focal, sides = (fx + fy) / 2, np.sqrt(sizes.prod(axis=1))
    median = np.argsort(focal, kind="stable")[len(focal) // 2]
    return TrainingCameras(
        size=(int(sizes[median, 0]), int(sizes[median, 1])),
        fx=float(fx[median]),
        fy=float(fy[median]),
        focal_range=(float(focal.min()), float(focal.max())),
        side_range=(float(sides.min()), float(sides.max())),
    )


def _train(training: Training[DepthRow], net: DepthNet, config: FinetuneConfig) -> None:
    network = training.network(net)
    optimizer, schedule = finetuning_optimizer(net, config, training.steps)

    def compute(batch: DepthBatch) -> tuple[Tensor, Callable[[], Values]]:
        prediction = at_size_of(batch.depth, network(batch.images))
        beyond = batch.depth > config.max_depth
        labels = batch.depth.masked_fill(beyond, 0.0) if config.ignore_beyond else batch.depth
        terms = {"sig": LossTerm(sig_loss(prediction, labels, config.sig_lambda))}
        share = beyond.sum() / (batch.depth > 0).sum().clamp(min=1)
        return weighted_sum(terms), lambda: logged(terms) | {"share_beyond_max_depth": share}

    training.fit(
        "finetune" if config.needs_pretraining else f"finetune ({config.init})",
        TrainingState(network, [optimizer], [schedule]),
        DepthViews(config.augment, config.input_scale),
        compute,
        clip_norm=config.clip_norm,
    )


def _check_scale(depth: Path, manifest: Manifest, max_depth: float) -> None:
    """Refuse labels of which the net could not answer half."""
    median = manifest.counts["median_depth_train"]
    if median > max_depth:
        raise SimipuError(
            f"{depth}: half of its depth labels lie beyond {median:.3g} m, but finetune.max_depth is {max_depth:g}; "
            "raise it, or mend the scale of the labels."
        )
