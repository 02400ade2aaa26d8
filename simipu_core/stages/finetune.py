"""Stage: monocular depth fine-tuning on depth shards."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from simipu_core.artifacts import Manifest, check_new, local_artifact, read_manifest, write_artifact
from simipu_core.config import FinetuneConfig
from simipu_core.data.batches import DepthBatch
from simipu_core.data.depth_views import DepthViews
from simipu_core.data.loader import SampleOrder
from simipu_core.data.shards import Shards
from simipu_core.losses.sig_loss import sig_loss
from simipu_core.models.depth_net import build_depth_net, save_depth_net
from simipu_core.models.initialise import weights_digest
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.checkpoint import TrainingState, checkpoints_for
from simipu_core.training.distributed import join
from simipu_core.training.loop import Values, fit
from simipu_core.training.networks import prepare
from simipu_core.training.optimizers import finetuning_optimizer
from simipu_core.training.parts import rank_parts


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
    part of one rank and averaged. BatchNorm takes its statistics over the samples of one part of one rank, or over all
    ranks where `sync_norm` says so; what is kept for inference are the first rank's.

    Args:
        depth: artifact of kind `depth`.
        config: the experiment's `finetune` section.
        out: artifact directory to write, kind `depth_net`.
        encoder: artifact of kind `encoder` to start from, where `config.init` is `pretrained`.
        run: where the run is recorded.
        checkpoints: folder or ``s3://bucket/prefix`` for checkpoints; a killed run with the same inputs goes on from
            there.

    Raises:
        SimipuError: the inputs do not fit each other, training diverged, or SIGTERM was received.
    """
    check_new(out)
    encoder = encoder and local_artifact(encoder)
    source = read_manifest(depth, "depth")
    start = read_manifest(encoder, "encoder") if encoder else None
    inputs = {"depth": source.digest} | ({"encoder": start.digest} if start else {}) | weights_digest(config.init_file)
    with join(config.device) as ranks:
        if not ranks.is_first:
            run = SilentRun()
        run.log_params(config.model_dump())
        run.log_input("depth", source.digest, "training", made_by=source.mlflow_run_id)
        if start:
            run.log_input("encoder", start.digest, "training", made_by=start.mlflow_run_id)
        shards = Shards(depth, "depth", "train")
        order = SampleOrder(
            shards.group_sizes,
            config.batch_size,
            config.seed,
            config.max_frames,
            sources=shards.group_sources,
            weights=config.source_weights,
        )
        steps = order.steps_per_epoch * config.epochs

        torch.manual_seed(config.seed)
        net = build_depth_net(config, encoder / "encoder.safetensors" if encoder else None)
        prepare(net, config, ranks)
        network = ranks.share_gradients(net)
        optimizer, schedule = finetuning_optimizer(net, config, steps)
        state = TrainingState(network, [optimizer], [schedule])
        store = checkpoints_for(checkpoints, "finetune", config, inputs)

        def compute(batch: DepthBatch) -> tuple[Tensor, Callable[[], Values]]:
            prediction = network(batch.images).float()
            prediction = F.interpolate(prediction, size=batch.depth.shape[-2:], mode="bilinear", align_corners=True)
            return sig_loss(prediction, batch.depth, config.sig_lambda), dict

        def write() -> Manifest:
            with write_artifact(
                out,
                "depth_net",
                inputs=inputs,
                parameters=config.model_dump(mode="json"),
                licence=source.licence,
                mlflow_run_id=run.run_id,
            ) as draft:
                save_depth_net(net, draft.path / "model.safetensors")
                draft.counts.update(steps=steps, frames=order.num_rows)
            if store:
                store.clear()
            return read_manifest(out, "depth_net")

        fit(
            "finetune" if config.needs_pretraining else f"finetune ({config.init})",
            state,
            rank_parts(shards, order, DepthViews(config.augment, config.input_scale), config, ranks),
            compute,
            config,
            steps=steps,
            run=run,
            ranks=ranks,
            checkpoints=store,
            clip_norm=config.clip_norm,
        )
        return ranks.from_first(write)
