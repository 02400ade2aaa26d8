"""Stage: contrastive pre-training of the image encoder on pair shards."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from simipu_core.artifacts import Manifest, check_new, read_manifest, write_artifact
from simipu_core.config import PretrainConfig
from simipu_core.data.batches import PairBatch
from simipu_core.data.loader import SampleOrder
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairViews
from simipu_core.evaluation.pretraining import collapse, pair_quality
from simipu_core.models.initialise import weights_digest
from simipu_core.models.simipu import SimIPU, SimIPUOutput
from simipu_core.models.weights import EncoderSpec, save_weights
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.checkpoint import TrainingState, checkpoints_for
from simipu_core.training.distributed import join
from simipu_core.training.loop import Values, fit
from simipu_core.training.networks import prepare
from simipu_core.training.optimizers import pretraining_optimizers
from simipu_core.training.parts import rank_parts
from simipu_core.training.probe import DepthProbe, is_probed


def pretrain(
    pairs: Path,
    config: PretrainConfig,
    out: Path,
    *,
    run: Run = SilentRun(),
    checkpoints: str | Path | None = None,
) -> Manifest:
    """Pre-train and keep the image encoder (``encoder.safetensors``).

    Under torchrun every process calls this; the first one writes and records. BatchNorm takes its statistics over the
    samples of one part of one rank, or over all ranks where `sync_norm` says so; what is kept for inference are the
    first rank's.

    Args:
        pairs: artifact of kind `pairs`.
        config: the experiment's `pretrain` section.
        out: artifact directory to write, kind `encoder`.
        run: where the run is recorded.
        checkpoints: folder or ``s3://bucket/prefix`` for checkpoints; a killed run with the same inputs goes on from
            there.

    Raises:
        SimipuError: the input does not fit, training diverged, or SIGTERM was received.
    """
    check_new(out)
    source = read_manifest(pairs, "pairs")
    inputs = {"pairs": source.digest} | weights_digest(config.image_encoder.init_file)
    with join(config.device) as ranks:
        if not ranks.is_first:
            run = SilentRun()
        run.log_params(config.model_dump())
        run.log_input("pairs", source.digest, "training", made_by=source.mlflow_run_id)
        shards = Shards(pairs, "pairs")
        order = SampleOrder(
            shards.group_sizes,
            config.batch_size,
            config.seed,
            sources=shards.group_sources,
            weights=config.source_weights,
        )
        steps = order.steps_per_epoch * config.epochs

        torch.manual_seed(config.seed)
        model = SimIPU(config)
        prepare(model, config, ranks)
        network = ranks.share_gradients(model)
        state = TrainingState(network, *pretraining_optimizers(model, config, order.steps_per_epoch))
        store = checkpoints_for(checkpoints, "pretrain", config, inputs)

        def compute(batch: PairBatch) -> tuple[Tensor, Callable[[], Values]]:
            output: SimIPUOutput = network(batch)
            return output.loss, lambda: {
                "intra_loss": output.intra.loss,
                "intra_top1": output.intra.top1,
                "intra_top5": output.intra.top5,
                "inter_loss": output.inter.loss,
                "inter_top1": output.inter.top1,
                "inter_top5": output.inter.top5,
                **pair_quality(output.centres, output.match_distance, output.is_visible),
                **collapse(output.embeddings),
            }

        probe = DepthProbe(config, shards, len(shards)) if ranks.is_first and config.probe.every_epochs else None

        def after_step(done: int) -> Mapping[str, float]:
            model.update_averages()
            return probe(model) if probe and is_probed(config, done, order.steps_per_epoch) else {}

        def write() -> Manifest:
            with write_artifact(
                out,
                "encoder",
                inputs=inputs,
                parameters=config.model_dump(mode="json"),
                licence=source.licence,
                mlflow_run_id=run.run_id,
            ) as draft:
                encoder = config.image_encoder
                spec = EncoderSpec(name=encoder.name, norm_eps=encoder.norm_eps, input=config.input)
                save_weights(model.final_encoder, draft.path / "encoder.safetensors", spec)
                draft.counts.update(steps=steps, samples=order.num_rows)
            if store:
                store.clear()
            return read_manifest(out, "encoder")

        fit(
            "pretrain",
            state,
            rank_parts(shards, order, PairViews(config), config, ranks),
            compute,
            config,
            steps=steps,
            run=run,
            ranks=ranks,
            checkpoints=store,
            after_step=after_step,
        )
        return ranks.from_first(write)
