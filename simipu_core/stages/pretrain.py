"""Stage: contrastive pre-training of the image encoder on pair shards."""

from pathlib import Path

import torch
from torch import Tensor

from simipu_core.artifacts import Manifest, read_manifest, write_artifact
from simipu_core.config import PretrainConfig
from simipu_core.data.loader import SampleOrder, batches
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairBatch, PairViews
from simipu_core.models.simipu import SimIPU
from simipu_core.models.weights import EncoderSpec, save_weights
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.checkpoint import TrainingState, checkpoints_for
from simipu_core.training.loop import fit, pick_device
from simipu_core.training.optimizers import pretraining_optimizers


def pretrain(
    pairs: Path,
    config: PretrainConfig,
    out: Path,
    *,
    run: Run = SilentRun(),
    checkpoints: Path | None = None,
) -> Manifest:
    """Pre-train and keep the image encoder (``encoder.safetensors``).

    Args:
        pairs: artifact of kind `pairs`.
        config: the experiment's `pretrain` section.
        out: artifact directory to write, kind `encoder`.
        run: where the run is recorded.
        checkpoints: folder for checkpoints; a killed run with the same inputs goes on from there.

    Raises:
        SimipuError: the input does not fit, or training diverged.
    """
    source = read_manifest(pairs, "pairs")
    run.log_params(config.model_dump())
    run.log_input("pairs", source.digest, "training")
    device = pick_device(config.device)
    shards = Shards(pairs, "pairs")
    order = SampleOrder(shards.group_sizes, config.batch_size, config.seed)
    steps = order.steps_per_epoch * config.epochs

    torch.manual_seed(config.seed)
    model = SimIPU(config).to(device)
    state = TrainingState(model, *pretraining_optimizers(model, config, order.steps_per_epoch))
    store = checkpoints_for(checkpoints, "pretrain", config, {"pairs": source.digest})

    def compute(batch: PairBatch) -> dict[str, Tensor]:
        output = model(batch)
        is_matched = batch.match >= 0
        return {
            "loss": output.loss,
            "intra_loss": output.intra.loss,
            "intra_top1": output.intra.top1,
            "intra_top5": output.intra.top5,
            "inter_loss": output.inter.loss,
            "inter_top1": output.inter.top1,
            "inter_top5": output.inter.top5,
            "visible_share": batch.is_visible.float().mean(),
            "matched_share": is_matched.float().mean(),
            "match_distance_m": batch.match_distance[is_matched].mean(),
        }

    fit(
        "pretrain",
        state,
        lambda steps: batches(shards, order, PairViews(config), steps=steps, workers=config.workers),
        compute,
        config,
        steps=steps,
        device=device,
        run=run,
        checkpoints=store,
    )
    with write_artifact(
        out,
        "encoder",
        inputs={"pairs": source.digest},
        parameters=config.model_dump(mode="json"),
        licence=source.licence,
        mlflow_run_id=run.run_id,
    ) as draft:
        encoder = config.image_encoder
        spec = EncoderSpec(name=encoder.name, norm_eps=encoder.norm_eps, input=config.input)
        save_weights(model.image_encoder, draft.path / "encoder.safetensors", spec)
        draft.counts.update(steps=steps, samples=order.num_rows)
    if store:
        store.clear()
    return read_manifest(out, "encoder")
