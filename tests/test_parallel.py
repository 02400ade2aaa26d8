import os
from collections.abc import Generator
from contextlib import closing

import pytest

from simipu_core.errors import SimipuError
from simipu_core.parallel import _chunks, map_frames


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
