"""Stage: pre-training of the image encoder on pair shards, without labels."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from simipu_core.artifacts import Manifest
from simipu_core.config import PretrainConfig
from simipu_core.data.batches import ScanDepthBatch
from simipu_core.data.scan_depth import ScanDepthViews
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairViews
from simipu_core.evaluation.pretraining import collapse, pair_quality
from simipu_core.losses.terms import logged
from simipu_core.models.image_branch import PretrainingOutput, save_decoder, save_encoder
from simipu_core.models.initialise import weights_source
from simipu_core.models.simipu import SimIPUOutput, pretraining_model
from simipu_core.stages.training import begin
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.checkpoint import TrainingState
from simipu_core.training.loop import Values
from simipu_core.training.optimizers import pretraining_optimizers
from simipu_core.training.probe import DepthProbe, is_probed


def pretrain(
    pairs: Path,
    config: PretrainConfig,
    out: Path,
    *,
    run: Run = SilentRun(),
    checkpoints: str | Path | None = None,
) -> Manifest:
    """Pre-train; keep the image encoder (``encoder.safetensors``) and any decoder (``decoder.safetensors``).

    Under torchrun every process calls this; the first one writes and records. BatchNorm takes its statistics over the
    samples of one micro-batch of one rank, or over all ranks where `sync_norm` says so; what is kept for inference are
    the first rank's.

    Args:
        pairs: artifact of kind `pairs`.
        config: the experiment's `pretrain` section.
        out: artifact directory to write, kind `encoder`.
        run: where the run is recorded.
        checkpoints: folder or ``s3://bucket/prefix`` for checkpoints; a killed run with the same inputs goes on from
            there.

    Raises:
        SimipuError: the input does not fit, training diverged, or it was asked to end.
    """
    shards, encoder = Shards(pairs, "pairs"), config.image_encoder
    source = weights_source(encoder.name, encoder.init, encoder.init_file)
    with begin("pretrain", config, shards, out, init_file=source, run=run, checkpoints=checkpoints) as training:
        steps_per_epoch = training.order.steps_per_epoch
        model = pretraining_model(config)
        views = PairViews(config) if config.has_contrast else ScanDepthViews(config)
        network = training.network(model)
        state = TrainingState(network, *pretraining_optimizers(model, config, steps_per_epoch))
        is_probing = training.ranks.is_first and config.probe.every_epochs
        probe = DepthProbe(config, shards, len(shards)) if is_probing else None

        def compute(batch: ScanDepthBatch) -> tuple[Tensor, Callable[[], Values]]:
            output: PretrainingOutput = network(batch)
            return output.loss, lambda: {**logged(output.terms), **_quality(output)}

        def after_step(done: int) -> Mapping[str, float]:
            return probe(model) if probe and is_probed(config, done, steps_per_epoch) else {}

        def save(folder: Path) -> None:
            save_encoder(model, folder / "encoder.safetensors")
            if model.decoder:
                save_decoder(model.decoder, config, folder / "decoder.safetensors")

        training.fit("pretrain", state, views, compute, after_step=after_step)
        return training.write("encoder", save, samples=training.order.num_rows)


def _quality(output: PretrainingOutput) -> Values:
    if not isinstance(output, SimIPUOutput):
        return {}
    quality = pair_quality(output.centres, output.match_distance, output.is_visible)
    return quality | collapse(output.embeddings)
