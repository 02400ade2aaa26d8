import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simipu_core.data.loader import SampleOrder, batches
from simipu_core.errors import SimipuError


@dataclass
class CountingRows:
    group_sizes: list[int]

    def row(self, index: int) -> Mapping[str, Any]:
        return {"index": index}

    def expect(self, indices: Iterable[int]) -> None:
        self.expected = list(indices)


def make(rows: Sequence[Mapping[str, Any]], rngs: Sequence[np.random.Generator]) -> list[tuple[int, float]]:
    if any(row["index"] == 99 for row in rows):
        raise SimipuError("row 99 is broken.")
    return [(row["index"], rng.random()) for row, rng in zip(rows, rngs, strict=True)]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 99))
def test_every_epoch_is_a_new_permutation(groups: list[int], batch_size: int, seed: int) -> None:
    batch_size = min(batch_size, sum(groups))
    order = SampleOrder(groups, batch_size, seed)
    for epoch in (0, 1):
        seen = []
        for position in range(order.steps_per_epoch):
            rows = order.rows(epoch * order.steps_per_epoch + position)
            assert len(rows) == batch_size
            seen += rows
        assert len(set(seen)) == len(seen) == sum(groups) // batch_size * batch_size
        assert set(seen) <= set(range(sum(groups)))


def test_epochs_and_seeds_differ() -> None:
    orders = [SampleOrder([16] * 8, 128, seed).rows(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_few_rows_are_spread_evenly() -> None:
    order = SampleOrder([10] * 10, 5, 0, max_rows=10)
    rows = sorted(order.rows(0) + order.rows(1))
    assert rows == list(range(0, 100, 10))


@given(
    st.lists(st.tuples(st.integers(1, 20), st.sampled_from("abc")), min_size=1, max_size=30),
    st.tuples(*[st.floats(0.1, 10)] * 3),
    st.integers(0, 99),
)
def test_sources_fill_their_share_of_every_epoch(groups: list[tuple[int, str]], shares: Any, seed: int) -> None:
    sizes, sources = [size for size, _ in groups], [source for _, source in groups]
    weights = {source: share for source, share in zip("abc", shares, strict=True) if source in sources}
    order = SampleOrder(sizes, 1, seed, sources=sources, weights=weights)
    source_of = np.repeat(sources, sizes)
    total = len(source_of)
    for epoch in (0, 1):
        drawn = [order.rows(step)[0] for step in range(epoch * total, (epoch + 1) * total)]
        for source, weight in weights.items():
            rows = [row for row in drawn if source_of[row] == source]
            assert abs(len(rows) - total * weight / sum(weights.values())) < 1 + 1e-6
            repeats = np.bincount(rows, minlength=total)[source_of == source]
            assert repeats.max() - repeats.min() <= 1  # none comes again before all have come


def test_weights_name_the_sources_that_are_there() -> None:
    with pytest.raises(SimipuError, match=r"^source_weights names a, b, but the shards hold a; name exactly these.$"):
        SampleOrder([4], 2, 0, sources=["a"], weights={"a": 1, "b": 1})


def test_a_repeated_row_is_augmented_anew() -> None:
    rows = CountingRows([3, 30])
    order = SampleOrder(rows.group_sizes, 33, 0, sources=["few", "many"], weights={"few": 10, "many": 1})
    (batch,) = batches(rows, order, make, steps=range(1), workers=0)
    assert len({index for index, _ in batch}) < 10
    assert len({value for _, value in batch}) == 33


def test_batches_do_not_depend_on_workers_or_on_where_they_start() -> None:
    rows = CountingRows([7, 9, 4])
    order = SampleOrder(rows.group_sizes, 4, 0)
    whole = list(batches(rows, order, make, steps=range(10), workers=0))
    assert list(batches(rows, order, make, steps=range(6, 10), workers=0)) == whole[6:]
    assert list(batches(rows, order, make, steps=range(10), workers=1)) == whole
    assert len({value for batch in whole for _, value in batch}) == 40


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 3), (2, 1), (2, 3), (6, 2)])
def test_the_micro_batches_of_all_ranks_are_together_what_one_process_sees(world_size: int, accumulate: int) -> None:
    rows = CountingRows([7, 9, 14])
    order = SampleOrder(rows.group_sizes, 12, 0)
    whole = list(batches(rows, order, make, steps=range(4), workers=0))
    shares = [
        list(
            batches(rows, order, make, steps=range(4), workers=0, rank=r, world_size=world_size, accumulate=accumulate)
        )
        for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        micro_batches = [
            micro_batch for share in shares for micro_batch in share[step * accumulate : (step + 1) * accumulate]
        ]
        assert {len(each) for each in micro_batches} == {12 // (world_size * accumulate)}
        assert [row for each in micro_batches for row in each] == batch
    again = batches(
        rows, order, make, steps=range(2, 4), workers=1, rank=0, world_size=world_size, accumulate=accumulate
    )
    assert list(again) == shares[0][2 * accumulate :]


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    rows = CountingRows([100])
    micro_batches = batches(
        rows, SampleOrder([100], 12, 0), make, steps=range(1), workers=0, rank=1, world_size=4, accumulate=2
    )
    refusal = r"^batch_size 12 cannot be cut into 4 ranks times accumulate=2 equal micro-batches;"
    with pytest.raises(SimipuError, match=refusal):
        next(micro_batches)


@pytest.mark.parametrize("end", ["SIGTERM to the group", "SIGKILL", "an error"])
def test_workers_end_with_the_trainer_and_not_before(end: str) -> None:
    """torchrun sends SIGTERM to whole groups: the trainer finishes its step and saves, so workers must live on."""
    script = (
        "import signal, sys\n"
        "from simipu_core.data.loader import SampleOrder, batches\n"
        "from tests.data.test_loader import CountingRows, make\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
        "    rows = CountingRows([60])\n"
        "    micro_batches = batches(rows, SampleOrder([60], 4, 0), make, steps=range(60), workers=1)\n"
        "    print(len(next(micro_batches)), flush=True)\n"
        "    if input() == 'an error':\n"
        "        raise KeyError(micro_batches)\n"
        "    print(1 + sum(1 for _ in micro_batches), flush=True)\n"
    )
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as trainer:
        assert trainer.stdout
        assert trainer.stdout.readline() == "4\n"
        if end == "SIGTERM to the group":
            os.killpg(trainer.pid, signal.SIGTERM)
            assert trainer.stdout.readline() == "told\n"
        elif end == "SIGKILL":
            trainer.kill()
        # returns only once the workers, which hold the same pipes, have ended
        rest, errors = trainer.communicate("an error\n" if end == "an error" else "go on\n", timeout=60)
    expected = {"SIGTERM to the group": (0, "60\n"), "SIGKILL": (-signal.SIGKILL, ""), "an error": (1, "")}
    assert (trainer.returncode, rest) == expected[end], errors


def test_a_broken_row_and_too_few_rows_are_told_in_one_sentence() -> None:
    rows = CountingRows([100])
    order = SampleOrder(rows.group_sizes, 100, 0)
    for workers in (0, 1):
        with pytest.raises(SimipuError, match=r"^row 99 is broken.$") as kept:
            list(batches(rows, order, make, steps=range(1), workers=workers))
        assert multiprocessing.active_children() == []  # although the traceback holds every frame
        assert kept.tb
    with pytest.raises(SimipuError, match="3 training samples do not fill one batch of 4"):
        SampleOrder([3], 4, 0)
