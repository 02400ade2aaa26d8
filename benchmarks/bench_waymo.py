"""What pairing Waymo costs when each component is read once, against reading frames in the order of their rows.

Segments are of the real size, 64×2650 pixels of TOP a frame, one row group a component: rendered frames, repeated. In
the order of rows, which is shuffled, the frames before the wanted one are decoded in vain, so that the cost per frame
grows with the segment's length; the real ones have some 200 frames, these fewer.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measure import seconds, single_thread, store
from simipu_core.config import PairConfig
from simipu_core.data import reading_order
from simipu_core.data.sources.waymo import Waymo
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from tests.worlds import World, synthesize, waymo

_TIME, _SEGMENT = "key.frame_timestamp_micros", "key.segment_context_name"


WORLD = World(
    object_frames=0, drives=0, waymo_segments=1, waymo_frames=1, image_size=(640, 960), lidar_points=64 * 2650
)


def segments(rendered: Path, folder: Path, num_segments: int, num_frames: int) -> None:
    """Write segments of so many frames, all of them the rendered one."""
    for name in waymo.SCHEMAS:
        (file,) = (rendered / "waymo/training" / name).iterdir()
        (folder / "waymo/training" / name).mkdir(parents=True)
        for index in range(num_segments):
            segment = waymo.segment_name(index)
            times = [waymo.frame_time_us(index, frame) for frame in range(num_frames)]
            table = _put(pq.read_table(file), _SEGMENT, segment)
            frames = [_put(table, _TIME, time) for time in times] if _TIME in table.schema.names else [table]
            out = folder / "waymo/training" / name / f"{segment}.parquet"
            pq.write_table(pa.concat_tables(frames), out, row_group_size=1 << 20, use_dictionary=False)


def _put(table: pa.Table, column: str, value: object) -> pa.Table:
    position = table.schema.get_field_index(column)
    filled = pc.if_else(pa.array([True] * len(table)), value, table[column])
    return table.set_column(position, column, filled)


def main(num_segments: int = 2, rounds: int = 1) -> None:
    """Measure, print and store."""
    single_thread()
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesize(WORLD, folder / "rendered")
        for num_frames in (4, 16):
            at = folder / str(num_frames)
            segments(folder / "rendered", at / "raw", num_segments, num_frames)
            ingest(Waymo(root=str(at / "raw")), at / "frames")
            tasks = {"by_component": partial(packed, at), "by_row": partial(packed, at, by_row=True)}
            spent = seconds(tasks, rounds, warm_up=False)
            total = num_segments * num_frames
            result[f"{num_frames}_frames_a_segment"] = {
                "processor_ms_a_frame": {name: 1000 * value / total for name, value in spent.items()},
                "times_faster": spent["by_row"] / spent["by_component"],
            }
    store("waymo", result)


def packed(folder: Path, by_row: bool = False) -> None:
    """Pair all frames, reading them by component or in the order of their rows."""
    with tempfile.TemporaryDirectory(dir=folder) as out, ExitStack() as stack:
        if by_row:
            stack.enter_context(patch.object(reading_order, "component", lambda _: None))
        pair(folder / "frames", PairConfig(), "pairs", Path(out) / "pairs")


if __name__ == "__main__":
    main()
