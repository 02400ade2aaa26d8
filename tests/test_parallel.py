import os
import signal
import threading
from collections.abc import Generator
from contextlib import closing
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from simipu_core.errors import SimipuError
from simipu_core.parallel import _chunks, in_threads, map_frames


def square(value: int) -> int:
    if value < 0:
        raise SimipuError("negative; give a larger number.")
    return value * value


def die(value: int) -> int:
    os._exit(value)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_keep_the_order_whatever_the_number_of_workers(workers: int) -> None:
    assert list(map_frames(square, range(40), "square", workers)) == [value**2 for value in range(40)]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_arrive_and_leaving_early_stops_the_processes(workers: int) -> None:
    with closing(map_frames(square, [1, 2, 3, 4, -1], "square", workers)) as results:
        assert next(results) == 1
    with pytest.raises(SimipuError, match="negative"):
        list(map_frames(square, [-1], "square", workers))


def setting(name: str) -> str | None:
    return os.environ.get(name)


def test_workers_see_the_present_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    list(map_frames(square, [1], "square", 1))  # the fork server is running
    monkeypatch.setenv("SIMIPU_CACHE", "elsewhere")
    assert list(map_frames(setting, ["SIMIPU_CACHE"], "setting", 1)) == ["elsewhere"]


def test_a_killed_worker_is_told_in_one_sentence() -> None:
    with pytest.raises(SimipuError, match="worker process was killed"):
        list(map_frames(die, [1], "die", 1))


def test_few_items_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Generator[int, None, None]:
        raise AssertionError

    monkeypatch.setattr("simipu_core.parallel._map_processes", refuse)
    assert list(map_frames(square, [3], "square")) == [9]


def where(value: int) -> tuple[int, int]:
    return value, os.getpid()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_belongs_together_goes_to_one_process_in_order(workers: int) -> None:
    results = list(map_frames(where, range(60), "where", workers, group=lambda value: value // 10))
    assert [value for value, _ in results] == list(range(60))
    for start in range(0, 60, 10):
        assert len({process for _, process in results[start : start + 10]}) == 1


def test_a_group_is_shared_out_where_there_are_too_few() -> None:
    parts = [len(chunk) for chunk in _chunks(range(50), 4, lambda _: None)]
    assert parts == [13, 13, 13, 11]
    assert [len(chunk) for chunk in _chunks(range(50), 4, lambda value: value < 20)] == [10, 10, 10, 10, 10]
    assert [len(chunk) for chunk in _chunks(range(9), 4, None)] == [4, 4, 1]


def test_threads_work_side_by_side_and_results_keep_the_order() -> None:
    meeting = threading.Barrier(2)

    def meet(value: int) -> int:
        meeting.wait(timeout=30)  # never alone
        return value

    assert list(in_threads([partial(meet, value) for value in range(6)], 2)) == list(range(6))


def test_the_first_error_drops_what_has_not_begun() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(value: int) -> int:
        begun.append(value)
        if value == 1:
            raise SimipuError("broken; mend it.")
        if value > 1:
            failed.wait(30)  # until the error has arrived
        return value

    results = in_threads([partial(work, value) for value in range(50)], 1)
    assert next(results) == 0
    try:
        with pytest.raises(SimipuError, match="broken"):
            next(results)
    finally:
        failed.set()
    assert max(begun) <= 2


# -- bounds ----------------------------------------------------------------------------------------------------------

HELD: list[bytearray] = []


def cost(what: str) -> str:
    if what == "memory":
        np.ones(1 << 26)
    elif what == "memory of Arrow":
        pa.allocate_buffer(1 << 29)
    elif what == "some memory for ever":
        HELD.append(bytearray(100 << 20))
    elif what == "time":
        while True:
            pass
    elif what == "abort":
        os.abort()
    return what


def note(what: str, reason: str) -> str:
    return f"{what} {reason}"


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_FRAME_MEMORY", "160")
    monkeypatch.setenv("SIMIPU_FRAME_SECONDS", "1")


@pytest.mark.usefixtures("bounded")
def test_what_costs_too_much_is_rejected_alone() -> None:
    work = ["a", "memory", "b", "time", "memory of Arrow", "abort", "c"]
    assert list(map_frames(cost, work, "bounds", rejected=note)) == [
        "a",
        "memory takes more than 160 MiB of memory to read (SIMIPU_FRAME_MEMORY)",
        "b",
        "time takes more than 1 s of processor time to read (SIMIPU_FRAME_SECONDS)",
        "memory of Arrow takes more than 160 MiB of memory to read (SIMIPU_FRAME_MEMORY)",
        "abort takes more than 160 MiB of memory to read (SIMIPU_FRAME_MEMORY), or breaks its reader (SIGABRT)",
        "c",
    ]


@pytest.mark.usefixtures("bounded")
def test_no_item_pays_for_what_others_left_behind() -> None:
    work = ["some memory for ever"] * 4
    assert list(map_frames(cost, work, "bounds", rejected=note)) == work


@pytest.mark.usefixtures("bounded")
def test_errors_and_kills_from_outside_are_no_rejections() -> None:
    with pytest.raises(SimipuError, match="negative"):
        list(map_frames(square, [1, -1], "square", rejected=lambda *_: 0))
    with pytest.raises(SimipuError, match="worker process was killed"):
        list(map_frames(kill_itself, [1], "die", rejected=lambda *_: None))


def kill_itself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_bounds_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_FRAME_MEMORY", "1 GiB")
    with pytest.raises(SimipuError, match="SIMIPU_FRAME_MEMORY: 1 GiB is no whole positive number"):
        list(map_frames(square, [1], "square", rejected=lambda *_: 0))
