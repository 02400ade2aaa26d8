"""What one of the processes that train together loads."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from simipu_core.config import LoopConfig
from simipu_core.data.loader import Rows, RowT, SampleOrder, batches
from simipu_core.training.distributed import Ranks

BatchT = TypeVar("BatchT")


def rank_parts(
    rows: Rows[RowT],
    order: SampleOrder,
    make: Callable[[Sequence[RowT], Sequence[np.random.Generator]], BatchT],
    config: LoopConfig,
    ranks: Ranks,
) -> Callable[[range], Iterator[BatchT]]:
    """A function from a range of steps to this rank's parts of their batches; see :func:`batches`."""

    def load(steps: range) -> Iterator[BatchT]:
        return batches(
            rows,
            order,
            make,
            steps=steps,
            workers=config.workers,
            rank=ranks.rank,
            world_size=ranks.world_size,
            accumulate=config.accumulate,
        )

    return load
