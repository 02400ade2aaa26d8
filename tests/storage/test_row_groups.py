from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simipu_core.data.loader import SampleOrder, batches
from simipu_core.data.schema import PairRow
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from simipu_core.storage import S3Path
from tests.data.test_shards import pairs_row, write_pairs
from tests.proxy import Fault, Proxy
from tests.storage.conftest import Upload

ROWS, ROWS_PER_GROUP = 48, 4
GROUP_BYTES = ROWS_PER_GROUP * 50_500


@pytest.fixture
def remote(tmp_path: Path, upload: Upload) -> S3Path:
    return upload(write_pairs(tmp_path / "pairs", ROWS, ROWS_PER_GROUP), "pairs")


def ids(rows: Sequence[Any], _: Sequence[np.random.Generator]) -> list[tuple[str, int]]:
    return [(row["sample_id"], len(row["image"])) for row in rows]


def epoch(shards: Shards[PairRow], workers: int = 0) -> list[Any]:
    order = SampleOrder(shards.group_sizes, 4, 0)
    return list(batches(shards, order, ids, steps=range(order.steps_per_epoch), workers=workers))


def data_requests(weed: Proxy) -> int:
    return sum(".parquet" in request for request in weed.requests)


def test_rows_are_those_of_the_local_shards(remote: S3Path, tmp_path: Path) -> None:
    shards, local = Shards(remote, "pairs"), Shards(tmp_path / "pairs", "pairs")
    assert shards.group_sizes == local.group_sizes
    assert shards.group_sources == local.group_sources
    for index in (0, 47, 5, 6):
        assert shards.row(index) == pairs_row(index)
    assert shards.column("sample_id") == local.column("sample_id")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_machine_fetches_each_row_group_once(remote: S3Path, weed: Proxy, tmp_path: Path, workers: int) -> None:
    shards = Shards(remote, "pairs")
    weed.requests.clear()
    expected = epoch(Shards(tmp_path / "pairs", "pairs"))
    assert epoch(shards, workers) == expected
    assert data_requests(weed) == len(shards.group_sizes)
    assert epoch(Shards(remote, "pairs"), workers) == expected  # another run finds them in the cache
    assert data_requests(weed) <= len(shards.group_sizes) + 3 * 3  # and reads and checks the footers


def test_the_cache_stays_small(remote: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_CACHE_GB", str(3.5 * GROUP_BYTES / 1e9))
    shards = Shards(remote, "pairs", cached_groups=2)
    order = SampleOrder(shards.group_sizes, 4, 0)
    largest = 0
    for _ in batches(shards, order, ids, steps=range(2 * order.steps_per_epoch), workers=0):
        with suppress(FileNotFoundError):  # an entry may go while it is looked at
            largest = max(largest, sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.arrow")))
    assert 0 < largest <= 3.5 * GROUP_BYTES + 2 * GROUP_BYTES  # two are being fetched


def test_a_network_that_breaks_for_a_while_is_borne(remote: S3Path, weed: Proxy, tmp_path: Path) -> None:
    shards = Shards(remote, "pairs")
    weed.faults += [Fault("error", ".parquet", 2), Fault("cut", ".parquet", 2)]
    assert epoch(shards) == epoch(Shards(tmp_path / "pairs", "pairs"))


def test_damage_on_the_way_is_an_error(remote: S3Path, weed: Proxy) -> None:
    shards = Shards(remote, "pairs")
    weed.faults.append(Fault("flip", ".parquet", 100))
    with pytest.raises(SimipuError, match=r"pairs-0000\d.parquet"):
        epoch(shards)


def test_a_shard_that_was_replaced_is_an_error(remote: S3Path, tmp_path: Path, upload: Upload) -> None:
    shards = Shards(remote, "pairs")
    upload(write_pairs(tmp_path / "other", ROWS - 1, ROWS_PER_GROUP), "pairs")
    with pytest.raises(SimipuError, match=r"pairs-0000\d.parquet"):
        epoch(shards)
