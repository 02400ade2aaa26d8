"""Campaigns must be able to find what they look for: each is shown what is broken, and tells it."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from simipu_core.errors import SimipuError
from simipu_core.files import write_file
from tests.data import parsers
from tests.torture import campaign, fuzz, kills
from tests.torture.campaign import Campaign
from tests.torture.corruptions import Written
from tests.torture.ground import Ground
from tests.torture.kills import Command, Killed, Reference
from tests.torture.record import Fault, Record, Trial

CONTENT = b"content" * 100


class Scripted:
    """A target that notes what it is given."""

    def __init__(self, name: str, blows: int, *broken: tuple[Fault, str]) -> None:
        self.name = name
        self.trial = Trial(blows, {"seen": 1}, broken)
        self.drawn: list[float] = []

    def attack(self, rng: Random) -> Trial:
        self.drawn.append(rng.random())
        return self.trial


def test_campaigns_go_on_where_they_stopped(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    one, other = Scripted("one", 3), Scripted("other", 1, (Fault.LOST, "it is gone"))

    @contextmanager
    def targets(_: Path) -> Iterator[Sequence[Scripted]]:
        yield [one, other]

    for _ in range(4):
        record = Record.load(state, 7)
        campaign.run(Campaign("c", 4, targets), record, state, tmp_path, 0)
    found = Record.load(state, 7)
    one_counts, other_counts = (found.of("c", name) for name in ("one", "other"))
    assert one_counts.next + other_counts.next == 4
    assert (one_counts.blows, other_counts.blows) == (3 * one_counts.next, other_counts.next)
    assert len(set(one.drawn + other.drawn)) == 4
    assert found.broken() == other_counts.next == len(other_counts.notes) >= 1
    assert f"| c | other | {other_counts.next} | {other_counts.next} | {other_counts.next} | 0 |" in found.table()
    with pytest.raises(SimipuError, match="is of seed 7"):
        Record.load(state, 8)
    write_file(state, b"{")
    with pytest.raises(SimipuError, match="remove it to begin anew"):
        Record.load(state, 7)


def whole() -> int:
    """A command that writes its result at once."""
    write_file(Path("out/result"), CONTENT)
    return 0


def torn() -> int:
    """One that writes it piece by piece, and goes on from nothing."""
    for piece in range(4):
        with Path("out/result").open("wb" if piece == 0 else "ab") as file:
            file.write(CONTENT[:175])
            time.sleep(0.01)
    return 0


def deserted() -> int:
    """One whose worker outlives it."""
    if os.fork() == 0:
        time.sleep(60)
    return whole()


def refusing() -> int:
    """One that cannot be repeated after a kill."""
    with Path("tmp/mark").open("x"):
        return whole()


def read(ground: Ground) -> str | None:
    file = ground.out / "result"
    if not file.exists():
        return None
    assert len(file.read_bytes()) == 700
    return "whole"


class Nothing(Reference):
    """Commands that read nothing."""

    def copy_to(self, ground: Ground, command: Command) -> None:
        assert not command.inputs
        ground.copy_of(ground)


@pytest.mark.parametrize(
    ("work", "fault"),
    [(whole, None), (torn, Fault.LOST), (deserted, Fault.HUNG), (refusing, Fault.TRACEBACK)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_kills_break_is_told(
    work: Callable[[], int], fault: Fault | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "settled", lambda _: iter(()))
    monkeypatch.setattr(kills, "_GRACE", 0.2)
    command = Command("made up", work, read, makes="out")
    killed = Killed(command, Nothing(tmp_path / "reference"), tmp_path / "ground")
    trials = [killed.attack(Random(seed)) for seed in range(3)]
    assert sum(trial.blows for trial in trials) > 0 or work is deserted
    found = {each for trial in trials for each, _ in trial.broken}
    assert fault in found if fault else not found, trials


def test_what_is_left_is_seen(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "ground")
    ground.make()
    assert ground.left() == []
    (ground.temporary / "draft").mkdir()
    (ground.out / ".net.12345678.partial").mkdir()
    assert ground.left() == ["out/.net.12345678.partial", "tmp/draft"]


@pytest.mark.parametrize(
    ("is_checked", "what"), [("by its checksum", None), ("not", Fault.DIFFERENT), ("badly", Fault.TRACEBACK)]
)
def test_what_damage_changes_in_silence_is_told(is_checked: str, what: Fault | None, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).digest()

    def read(folder: Path) -> bytes:
        data = (folder / "file").read_bytes()
        if hashlib.sha256(data).digest() != digest:
            if is_checked == "badly":
                raise ValueError
            if is_checked != "not":
                raise SimipuError("file: its content differs.")
        return data

    written = Written("made up", lambda folder: (folder / "file").write_bytes(CONTENT), read, tmp_path / "work")
    trial = written.attack(Random(0))
    assert trial.blows == sum(trial.seen.values()) + len(trial.broken)
    assert {fault for fault, _ in trial.broken} == ({what} if what else set())


def test_what_a_parser_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> None:
        if data[:7] != b"content":
            raise SimipuError("no content.")
        if len(data) < 700:
            raise IndexError

    monkeypatch.setitem(parsers.PARSERS, "made up", lambda _: [parsers.Case(CONTENT, read)])
    outcomes = list(fuzz._inputs("made up", tmp_path / "parser", 0, 0, 50))
    assert len(outcomes) == 50
    assert {was_taken for was_taken, _ in outcomes} == {True, False}
    assert any("IndexError" in problem for _, problem in outcomes)
