"""Stage: monocular depth fine-tuning on depth shards."""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from simipu_core.artifacts import Manifest, read_manifest, write_artifact
from simipu_core.config import FinetuneConfig
from simipu_core.data.depth_views import DepthBatch, DepthViews
from simipu_core.data.loader import SampleOrder, batches
from simipu_core.data.shards import Shards
from simipu_core.losses.sig_loss import sig_loss
from simipu_core.models.depth_net import build_depth_net, save_depth_net
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.checkpoint import TrainingState, checkpoints_for
from simipu_core.training.loop import fit, pick_device
from simipu_core.training.optimizers import finetuning_optimizer


def finetune(
    depth: Path,
    config: FinetuneConfig,
    out: Path,
    *,
    encoder: Path | None,
    run: Run = SilentRun(),
    checkpoints: Path | None = None,
) -> Manifest:
    """Fine-tune a depth net (``model.safetensors``) on the training split.

    Args:
        depth: artifact of kind `depth`.
        config: the experiment's `finetune` section.
        out: artifact directory to write, kind `depth_net`.
        encoder: artifact of kind `encoder` to start from; None is the scratch control.
        run: where the run is recorded.
        checkpoints: folder for checkpoints; a killed run with the same inputs goes on from there.

    Raises:
        SimipuError: the inputs do not fit each other, or training diverged.
    """
    source = read_manifest(depth, "depth")
    start = read_manifest(encoder, "encoder") if encoder else None
    inputs = {"depth": source.digest} | ({"encoder": start.digest} if start else {})
    run.log_params(config.model_dump() | {"start": "pre-trained" if start else "scratch"})
    run.log_input("depth", source.digest, "training")
    device = pick_device(config.device)
    shards = Shards(depth, "depth", "train")
    order = SampleOrder(shards.group_sizes, config.batch_size, config.seed, config.max_frames)
    steps = order.steps_per_epoch * config.epochs

    torch.manual_seed(config.seed)
    net = build_depth_net(config, encoder / "encoder.safetensors" if encoder else None).to(device)
    optimizer, schedule = finetuning_optimizer(net, config, steps)
    state = TrainingState(net, [optimizer], [schedule])
    store = checkpoints_for(checkpoints, "finetune", config, inputs)

    def compute(batch: DepthBatch) -> dict[str, Tensor]:
        prediction = F.interpolate(net(batch.images), size=batch.depth.shape[-2:], mode="bilinear", align_corners=True)
        return {"loss": sig_loss(prediction, batch.depth, config.sig_lambda)}

    fit(
        "finetune" if encoder else "finetune from scratch",
        state,
        lambda steps: batches(
            shards, order, DepthViews(config.augment, config.input_scale), steps=steps, workers=config.workers
        ),
        compute,
        config,
        steps=steps,
        device=device,
        run=run,
        checkpoints=store,
        clip_norm=config.clip_norm,
    )
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
