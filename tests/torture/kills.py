"""SIGKILL at random moments of every command; then the same command must end as if nothing had happened."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from time import monotonic
from types import MappingProxyType
from typing import Any

from rosbags.rosbag2 import StoragePlugin

from tests import clone
from tests.data import test_bags
from tests.torture import forks
from tests.torture.campaign import Campaign
from tests.torture.forks import PATIENCE, Child, simipu
from tests.torture.ground import Ground, artifact, tree
from tests.torture.record import Fault, Trial

_MOST_KILLS = 4
_GRACE = 30.0
"""Seconds in which the other processes of a killed one must have ended."""
_TOPICS = ("--image-topic", f"front={test_bags.IMAGE}", "--points-topic", test_bags.POINTS)
_INFO = ("--camera-info-topic", f"front={test_bags.INFO}")


@dataclass(frozen=True)
class Command:
    """What is killed."""

    name: str
    work: Callable[[], int]
    result: Callable[[Ground], Any]
    """What it has made, comparable; None: nothing yet. Raises where that is half-written."""
    inputs: tuple[str, ...] = ()
    """What it reads of the reference."""
    store: str = "empty"
    """State of MLflow that it begins with: a folder of the reference."""
    makes: str = ""
    """Folder that it makes and, repeated, would refuse to make."""
    is_done: Callable[[Ground], bool] = lambda _: False
    """Whether a repetition would do it twice."""


def _step(name: str, makes: str, *arguments: str, inputs: tuple[str, ...]) -> Command:
    command = simipu(*arguments, "--out", makes)
    return Command(name, command, lambda ground: artifact(ground.folder / makes), inputs, makes=makes)


def _report(ground: Ground) -> Any:
    digest = artifact(ground.out / "report")
    return digest and [digest, ground.registry()]


COMMANDS = (
    _step("ingest", "out/frames", "ingest", "pretrain", "--root", "raw", inputs=("raw",)),
    _step("pair", "out/pairs", "pair", "pretrain", "out/frames", inputs=("raw", "out/frames")),
    _step("pretrain", "out/encoder", "pretrain", "out/pairs", inputs=("out/pairs",)),
    _step(
        "finetune",
        "out/net",
        "finetune",
        "out/depth",
        "--encoder",
        "out/encoder",
        inputs=("out/depth", "out/encoder"),
    ),
    _step("evaluate", "out/scores", "evaluate", "out/net", "out/depth", inputs=("out/net", "out/depth")),
    _step("table", "out/table", "table", "a=out/scores", "b=out/scores", inputs=("out/scores",)),
    Command(
        "evaluate and register",
        simipu("evaluate", "out/net", "out/depth", "--out", "out/report", "--register"),
        _report,
        ("out/net", "out/depth"),
    ),
    Command("promote", simipu("promote", "2", "--reason", "torture"), Ground.registry, store="two"),
    Command(
        "rollback",
        simipu("rollback", "--reason", "torture"),
        Ground.registry,
        store="promoted",
        is_done=lambda ground: (
            ("3", "rollback") in [(str(number), value) for number, value in ground.registry()["log"]]
        ),
    ),
    Command(
        "import-bag",
        simipu("import-bag", "drive", "out", "--sequence", "a", *_TOPICS, *_INFO),
        lambda ground: tree(ground.out / "logs/a"),
        ("drive",),
        makes="out/logs/a",
    ),
    Command(
        "check",
        simipu("check", "--kind", "kitti_object", "--root", "raw", "--out", "out/check"),
        lambda ground: tree(ground.out / "check"),
        ("raw",),
    ),
    Command(
        "predict",
        simipu("predict", "out/net", "out/depth", "--out", "out/depths", "--save", "npy,parquet", "--batch-size", "1"),
        lambda ground: tree(ground.out / "depths"),
        ("out/net", "out/depth"),
    ),
    Command(
        "export",
        simipu("export", "out/net", "--format", "program", "--out", "out/export/depth.pt2"),
        lambda ground: tree(ground.out / "export"),
        ("out/net",),
    ),
)


class Reference:
    """What undisturbed commands make: inputs of those that are killed, and the store at several times."""

    def __init__(self, folder: Path) -> None:
        self.ground = Ground(folder)
        self._stores = folder.parent / "stores"

    def make(self) -> None:
        """Run all steps."""
        self.ground.make()
        test_bags.write(self.ground.folder / "drive", test_bags.drive(), StoragePlugin.MCAP)
        self._run("synthesize", "--out", "raw")
        self._run("tracking", "send")  # makes the store
        self._keep("empty")
        for use, frames, shards in (("pretrain", "frames", "pairs"), ("depth", "depth_frames", "depth")):
            self._run("ingest", use, "--root", "raw", "--out", f"out/{frames}")
            self._run("pair", use, f"out/{frames}", "--out", f"out/{shards}")
        self._run("pretrain", "out/pairs", "--out", "out/encoder")
        self._run("finetune", "out/depth", "--encoder", "out/encoder", "--out", "out/net")
        self._run("evaluate", "out/net", "out/depth", "--out", "out/scores")
        self._run("evaluate", "out/net", "out/depth", "--out", "out/first", "--register")
        self._run("evaluate", "out/net", "out/depth", "--out", "out/second", "--register")
        self._keep("two")
        self._run("promote", "2", "--reason", "torture")
        self._keep("promoted")

    def copy_to(self, ground: Ground, command: Command) -> None:
        """Make the ground that a command needs."""
        ground.copy_of(self.ground, *command.inputs)
        shutil.rmtree(ground.database.parent, ignore_errors=True)
        shutil.copytree(self._stores / command.store, ground.database.parent)

    def _run(self, *arguments: str) -> None:
        child = Child(simipu(*arguments), self.ground.folder, self.ground.environment())
        if not child.wait(PATIENCE) or child.code:
            child.kill(whole=True)
            raise RuntimeError(f"undisturbed, `simipu {' '.join(arguments)}` fails: {child.said()}")

    def _keep(self, name: str) -> None:
        shutil.copytree(self.ground.database.parent, self._stores / name)


class Killed:
    """A command that is killed and repeated."""

    def __init__(self, command: Command, reference: Reference, folder: Path) -> None:
        self.name = command.name
        self._command = command
        self._reference = reference
        self._ground = Ground(folder)

    @cached_property
    def _undisturbed(self) -> tuple[Any, float, int]:
        """Its result, its seconds, and how many of its calls change files."""
        self._reference.copy_to(self._ground, self._command)
        child, begun = self._start(), monotonic()
        if not child.wait(PATIENCE) or child.code:
            child.kill(whole=True)
            raise RuntimeError(f"undisturbed, {self.name} fails: {child.said()}")
        return self._command.result(self._ground), monotonic() - begun, int(child.changes.read_text() or 0)

    def attack(self, rng: Random) -> Trial:
        """Kill it, up to four times, and repeat it until it ends."""
        expected, seconds, changes = self._undisturbed
        self._reference.copy_to(self._ground, self._command)
        seen = {"killed at a call": 0, "killed at a time": 0, "whole already": 0}
        broken: list[tuple[Fault, str]] = []
        for _ in range(rng.randint(1, _MOST_KILLS)):
            by_call = rng.random() < 0.5
            child = self._start(rng.randint(1, max(changes, 1)) if by_call else 0)
            whole = rng.random() < 0.5
            if not child.wait(PATIENCE if by_call else rng.uniform(0, seconds)):
                if by_call:
                    broken.append((Fault.HUNG, child.said()))
                child.kill(whole=whole)
            if child.code and child.code > 0:
                broken += _ended_badly(child)
            if child.is_left(_GRACE):
                broken.append((Fault.HUNG, "processes live on after the one that gave them work"))
            if child.code != -9:
                break
            seen["killed at a call" if by_call else "killed at a time"] += 1
            if self._is_whole(expected, broken):
                seen["whole already"] += 1
                break
        broken += self._finish(expected)
        kills = seen["killed at a call"] + seen["killed at a time"]
        return Trial(kills, seen, tuple(broken))

    def _start(self, blow: int = 0) -> Child:
        return Child(self._command.work, self._ground.folder, self._ground.environment(), blow)

    def _is_whole(self, expected: Any, broken: list[tuple[Fault, str]]) -> bool:
        """Whether a killed command has made its result; a half-written one is a loss."""
        if not self._command.makes:
            return False
        try:
            found = self._command.result(self._ground)
        except Exception as error:
            broken.append((Fault.LOST, f"half-written: {error}"))
            return False
        if found not in (None, expected):
            broken.append((Fault.DIFFERENT, f"after a kill: {str(found)[:500]}"))
        return found is not None

    def _finish(self, expected: Any) -> Iterator[tuple[Fault, str]]:
        """Run it to its end, and look whether all is as if it had not been killed."""
        ground = self._ground
        if self._command.makes:
            shutil.rmtree(ground.folder / self._command.makes, ignore_errors=True)
        arguments = ("models", "--repair") if self._command.is_done(ground) else ()
        child = Child(simipu(*arguments), ground.folder, ground.environment()) if arguments else self._start()
        if not child.wait(PATIENCE):
            child.kill(whole=True)
            yield Fault.HUNG, f"the repetition: {child.said()}"
        elif child.code:
            yield from _ended_badly(child)
        try:
            found = self._command.result(ground)
        except Exception as error:
            yield Fault.LOST, f"after the repetition: {error}"
        else:
            if found != expected:
                yield Fault.LOST if found is None else Fault.DIFFERENT, f"{str(found)[:500]}, not {str(expected)[:500]}"
        yield from settled(ground)


def settled(
    ground: Ground, variables: Mapping[str, str] = MappingProxyType({}), server: Ground | None = None
) -> Iterator[tuple[Fault, str]]:
    """Whether nothing is left of killed commands, once the next one has looked after their runs.

    Args:
        ground: where they worked.
        variables: besides its own.
        server: whose store is used, where it is not the ground's own.
    """
    child = Child(simipu("tracking", "send"), ground.folder, ground.environment(**variables))
    if not child.wait(PATIENCE) or child.code:
        child.kill(whole=True)
        yield Fault.LOST, f"tracking send: {child.said()}"
    if running := (server or ground).running():
        yield Fault.RUNNING, ", ".join(running)
    if left := ground.left():
        yield Fault.LEFT, ", ".join(left)


def _ended_badly(child: Child) -> Iterator[tuple[Fault, str]]:
    said = child.said()
    yield Fault.TRACEBACK if "Traceback" in said else Fault.LOST, f"code {child.code}: {said}"


class WholePipeline:
    """``python -m pipelines local`` with all its processes killed at a random time, and repeated."""

    name = "whole pipeline"

    def __init__(self, folder: Path) -> None:
        self._ground = Ground(folder / "project")
        self._untouched = folder / "untouched"

    @cached_property
    def _undisturbed(self) -> tuple[Any, float]:
        self._ground.make()
        clone.make(self._ground.folder)
        shutil.copytree(self._ground.folder, self._untouched, symlinks=True)
        begun = monotonic()
        code, said = self._run(4 * PATIENCE)
        if code:
            raise RuntimeError(f"undisturbed, the pipeline fails: {said}")
        return self._result(), monotonic() - begun

    def attack(self, rng: Random) -> Trial:
        """Kill it up to three times, and repeat it until it ends."""
        expected, seconds = self._undisturbed
        shutil.rmtree(self._ground.folder)
        shutil.copytree(self._untouched, self._ground.folder, symlinks=True)
        kills = 0
        broken: list[tuple[Fault, str]] = []
        for _ in range(rng.randint(1, 3)):
            code, _ = self._run(rng.uniform(0, seconds))
            if code != -9:
                break
            kills += 1
        code, said = self._run(4 * PATIENCE)
        if code == -9:
            broken.append((Fault.HUNG, said))
        elif code:
            broken.append((Fault.TRACEBACK if "Traceback" in said else Fault.LOST, said))
        elif (found := self._result()) != expected:
            broken.append((Fault.DIFFERENT, f"{found}, not {expected}"))
        broken += settled(self._ground)
        return Trial(kills, {"killed at a time": kills}, tuple(broken))

    def _result(self) -> Any:
        """Scores, and the digests of all that is in the outputs of the steps."""
        summary = json.loads((self._ground.folder / "build/summary.json").read_text(encoding="utf-8"))
        return [summary["metrics"], summary["baselines"]]

    def _run(self, seconds: float) -> tuple[int, str]:
        """Run it for at most so long; its code, -9 where it was killed, and what it said."""
        root = Path(__file__).parents[2]
        environment = self._ground.environment(PYTHONPATH=f"{self._ground.folder}:{root}", SIMIPU_IMAGE="torture")
        del environment["SIMIPU_CACHE"], environment["SIMIPU_CHECKPOINTS"], environment["MLFLOW_TRACKING_URI"]
        log = self._ground.folder.parent / "said.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines", "local"],
                cwd=self._ground.folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            forks.kill_session(process.pid)
            code = process.wait()
        return code, log.read_text(encoding="utf-8", errors="replace")[-1500:]


@contextmanager
def _targets(work: Path) -> Iterator[Sequence["Killed | WholePipeline"]]:
    forks.load()
    reference = Reference(work / "reference")
    reference.make()
    commands = [Killed(command, reference, work / command.name.replace(" ", "_")) for command in COMMANDS]
    yield [*commands, WholePipeline(work / "pipeline")]


CAMPAIGN = Campaign("kills", 100, _targets)
