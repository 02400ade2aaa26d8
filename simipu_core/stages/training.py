"""What every training stage does around its method: inputs, processes, seed, sample order, loop, artifact."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from simipu_core.artifacts import Kind, Manifest, check_new, read_manifest, write_artifact
from simipu_core.config import LoopConfig
from simipu_core.data.loader import SampleOrder, batches
from simipu_core.data.shards import RowT, Shards
from simipu_core.models.initialise import weights_digest
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.checkpoint import Checkpoints, TrainingState, checkpoints_for
from simipu_core.training.distributed import Ranks, join
from simipu_core.training.loop import Batch, Compute, fit
from simipu_core.training.networks import prepare

BatchT = TypeVar("BatchT", bound=Batch)


@dataclass(frozen=True)
class Training(Generic[RowT]):
    """A training stage under way, as one of its processes sees it."""

    config: LoopConfig
    shards: Shards[RowT]
    order: SampleOrder
    inputs: Mapping[str, str]
    """Digests of all that it reads, by role."""
    out: Path
    run: Run
    ranks: Ranks
    checkpoints: Checkpoints | None

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.order.steps_per_epoch * self.config.epochs

    def network(self, model: nn.Module) -> nn.Module:
        """Make a model ready for this machine, in place; the result is what is trained: the model, or its wrapper."""
        prepare(model, self.config, self.ranks)
        return self.ranks.share_gradients(model)

    def fit(
        self,
        name: str,
        state: TrainingState,
        views: Callable[[Sequence[RowT], Sequence[np.random.Generator]], BatchT],
        compute: Compute[BatchT],
        *,
        clip_norm: float | None = None,
        after_step: Callable[[int], Mapping[str, float]] | None = None,
    ) -> None:
        """Run the loop over this rank's micro-batches, which `views` makes of rows; see :func:`fit`."""

        def load(steps: range) -> Generator[BatchT, None, None]:
            return batches(
                self.shards,
                self.order,
                views,
                steps=steps,
                workers=self.config.workers,
                rank=self.ranks.rank,
                world_size=self.ranks.world_size,
                accumulate=self.config.accumulate,
            )

        fit(
            name,
            state,
            load,
            compute,
            self.config,
            steps=self.steps,
            run=self.run,
            ranks=self.ranks,
            checkpoints=self.checkpoints,
            clip_norm=clip_norm,
            after_step=after_step,
        )

    def write(self, kind: Kind, save: Callable[[Path], None], **counts: float) -> Manifest:
        """Write the artifact, which `save` fills, on the first rank, and remove the checkpoints."""

        def write() -> Manifest:
            with write_artifact(
                self.out,
                kind,
                inputs=self.inputs,
                parameters=self.config.model_dump(mode="json"),
                licence=self.shards.manifest.licence,
                mlflow_run_id=self.run.run_id,
            ) as draft:
                save(draft.path)
                draft.counts.update(steps=self.steps, **counts)
            if self.checkpoints:
                self.checkpoints.clear()
            return read_manifest(self.out, kind)

        return self.ranks.from_first(write)


@contextmanager
def begin(
    stage: Literal["pretrain", "finetune"],
    config: LoopConfig,
    shards: Shards[RowT],
    out: Path,
    *,
    encoder: Manifest | None = None,
    init_file: str | None = None,
    max_rows: int | None = None,
    run: Run,
    checkpoints: str | Path | None,
) -> Iterator[Training[RowT]]:
    """Begin a training stage: join its processes, record what goes in, and set the seed of the weights.

    `config`, `out`, `run` and `checkpoints` are the stage's own arguments. The rows are those of `shards`, or
    `max_rows` of them, evenly spread; the weights may come from the artifact `encoder` or from `init_file`, the answer
    of `weights_source`.

    Raises:
        SimipuError: `out` exists, there is no such file, or the rows do not fill a batch or fit `source_weights`.
        InterruptionError: an equal training uses the same checkpoints.
    """
    check_new(out)
    sources = [shards.manifest, *([encoder] if encoder else [])]
    inputs = {source.kind: source.digest for source in sources} | weights_digest(init_file)
    with join(config.device) as ranks:
        run = run if ranks.is_first else SilentRun()
        run.log_params(config.model_dump() | ({"weights_source": init_file} if init_file else {}))
        for source in sources:
            run.log_input(source.kind, source.digest, "training", made_by=source.mlflow_run_id)
        order = SampleOrder(
            shards.group_sizes,
            config.batch_size,
            config.seed,
            max_rows,
            sources=shards.group_sources,
            weights=config.source_weights,
        )
        store = checkpoints_for(checkpoints, stage, config, inputs)
        torch.manual_seed(config.seed)
        with store.held() if store and ranks.is_first else nullcontext():
            yield Training(config, shards, order, inputs, out, run, ranks, store)
