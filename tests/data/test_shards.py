import pickle
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simipu_core.artifacts import Kind, write_artifact
from simipu_core.data.schema import CATALOGUE, DEPTH, PAIRS, CatalogueRow, DepthRow, PairRow
from simipu_core.data.shards import Shards, ShardWriter
from simipu_core.errors import SimipuError


def pairs_row(index: int) -> PairRow:
    rng = np.random.default_rng(index)
    return {
        "sample_id": f"kitti_object/{index:06d}",
        "source": "kitti_object",
        "sequence": f"drive_{index % 2}",
        "timestamp_us": index if index % 2 else None,
        "image": rng.bytes(50_000),
        "height": 24,
        "width": 80,
        "points": rng.bytes(160),
        "intrinsics": [float(value) for value in range(9)],
        "lidar_to_camera": np.eye(4).ravel().tolist(),
        "visible": b"\xff\xc0",
    }


def depth_row(index: int) -> DepthRow:
    row = {name: value for name, value in pairs_row(index).items() if name in DEPTH.names}
    return cast(DepthRow, {**row, "depth": bytes([index]), "depth_scale": 256.0, "depth_origin": "official"})


def write_pairs(out: Path, count: int, rows_per_group: int = 4, shard_mb: int = 1) -> Path:
    kind: Kind = "pairs"
    with (
        write_artifact(out, kind, inputs={}, parameters={}, licence="none") as draft,
        ShardWriter(draft.path, "pairs", PAIRS, rows_per_group=rows_per_group, shard_mb=shard_mb) as writer,
    ):
        for index in range(count):
            writer.write(pairs_row(index))
    return out


def test_rows_come_back_across_groups_and_files(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs", 50)
    shards = Shards(path, "pairs")
    assert len(list(path.glob("pairs-*.parquet"))) == 3  # 2.5 MB in files of 1 MB, cut at row groups of 0.2 MB
    assert shards.group_sizes == [4] * 12 + [2]
    assert len(shards) == 50
    for index in (49, 0, 3, 4, 25, 0):
        assert shards.row(index) == pairs_row(index)
    assert shards.column("sample_id") == [pairs_row(index)["sample_id"] for index in range(50)]
    for index in (-1, 50):
        with pytest.raises(IndexError):
            shards.row(index)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"visible": b"\xff"}, "1 bytes of `visible` for 160 of `points`"),
        ({"visible": b"\xff\xc0\0"}, "3 bytes of `visible` for 160 of `points`"),
        ({"points": b"\0" * 161}, "2 bytes of `visible` for 161 of `points`"),
    ],
)
def test_a_bitmap_that_does_not_fit_its_points_is_named(tmp_path: Path, changes: Any, named: str) -> None:
    with (
        write_artifact(tmp_path / "pairs", "pairs", inputs={}, parameters={}, licence="none") as draft,
        ShardWriter(draft.path, "pairs", PAIRS, rows_per_group=4, shard_mb=1) as writer,
    ):
        for row in (pairs_row(0), cast(PairRow, pairs_row(1) | changes)):
            writer.write(row)
    shards = Shards(tmp_path / "pairs", "pairs")
    assert shards.row(0) == pairs_row(0)
    with pytest.raises(SimipuError, match=rf"pairs-00000\.parquet: kitti_object/000001 has {named}"):
        shards.row(1)


def test_keeps_only_so_many_groups_and_reads_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards(write_pairs(tmp_path / "pairs", 20), "pairs", cached_groups=2)
    reads = []
    original = pq.ParquetFile.read_row_group

    def counting(file: pq.ParquetFile, group: int, **settings: Any) -> pa.Table:
        reads.append(group)
        return original(file, group, **settings)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    for index in (0, 1, 4, 2, 5, 8, 3, 9, 4):
        shards.row(index)
    assert reads == [0, 1, 2, 0, 1]


def test_a_row_group_holds_one_source(tmp_path: Path) -> None:
    with (
        write_artifact(tmp_path / "pairs", "pairs", inputs={}, parameters={}, licence="none") as draft,
        ShardWriter(draft.path, "pairs", PAIRS, rows_per_group=4, shard_mb=1) as writer,
    ):
        for index in range(12):
            writer.write({**pairs_row(index), "source": "kitti_object" if index < 5 else "waymo"})
    shards = Shards(tmp_path / "pairs", "pairs")
    assert shards.group_sizes == [4, 1, 4, 3]
    assert shards.group_sources == ["kitti_object", "kitti_object", "waymo", "waymo"]


def test_pickles_without_open_files(tmp_path: Path) -> None:
    shards = Shards(write_pairs(tmp_path / "pairs", 9), "pairs")
    shards.row(5)
    copy = pickle.loads(pickle.dumps(shards))
    assert copy.row(8) == pairs_row(8)
    assert copy.group_sizes == shards.group_sizes


def test_depth_shards_are_read_by_split(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "depth", "depth", inputs={}, parameters={}, licence="none") as draft:
        for split, indices in {"train": range(5), "eval": range(5, 7)}.items():
            with ShardWriter(draft.path, split, DEPTH, rows_per_group=3, shard_mb=1) as writer:
                for index in indices:
                    writer.write(depth_row(index))
    assert Shards(tmp_path / "depth", "depth", "train").group_sizes == [3, 2]
    assert Shards(tmp_path / "depth", "depth", "eval").row(1) == depth_row(6)
    with pytest.raises(SimipuError, match="holds depth, but pairs is needed"):
        Shards(tmp_path / "depth", "pairs")


def test_layout_is_uncompressed_with_statistics_of_id_and_source_only(tmp_path: Path) -> None:
    metadata = pq.read_metadata(write_pairs(tmp_path / "pairs", 4) / "pairs-00000.parquet")
    assert metadata.metadata[b"simipu.format"] == b"3"
    group = metadata.row_group(0)
    columns = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"UNCOMPRESSED"}
    assert {name for name, column in columns.items() if column.is_stats_set} == {"sample_id", "source"}
    dictionaries = {name for name, column in columns.items() if column.has_dictionary_page}
    assert dictionaries == {"source", "sequence"}


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    one, two = write_pairs(tmp_path / "one", 9), write_pairs(tmp_path / "two", 9)
    assert (one / "pairs-00000.parquet").read_bytes() == (two / "pairs-00000.parquet").read_bytes()


@pytest.mark.parametrize(("row", "schema"), [(CatalogueRow, CATALOGUE), (PairRow, PAIRS), (DepthRow, DEPTH)])
def test_rows_are_typed_as_they_are_stored(row: type, schema: pa.Schema) -> None:
    assert sorted(get_type_hints(row)) == sorted(schema.names)
    assert row.__required_keys__ == set(schema.names)  # type: ignore[attr-defined]
    for name, kind in get_type_hints(row).items():
        assert (type(None) in get_args(kind)) == schema.field(name).nullable, name


def test_shards_of_an_older_format_are_refused_with_the_command_that_makes_them(tmp_path: Path) -> None:
    older = PAIRS.with_metadata({"simipu.format": "2", "simipu.kind": "pairs"})
    with (
        write_artifact(tmp_path / "pairs", "pairs", inputs={}, parameters={}, licence="none") as draft,
        ShardWriter(draft.path, "pairs", older, rows_per_group=2, shard_mb=1) as writer,
    ):
        writer.write(pairs_row(0))
    refusal = r"pairs-00000\.parquet: written in another format .* `simipu pair pretrain`, or run the pipeline again\.$"
    with pytest.raises(SimipuError, match=refusal):
        Shards(tmp_path / "pairs", "pairs")


def test_no_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match="holds no pairs shards"):
        Shards(write_pairs(tmp_path / "pairs", 0), "pairs")
