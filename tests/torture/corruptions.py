"""Damage to data sets, and to what steps have written: it is told, or it changes nothing."""

import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cached_property, partial
from io import StringIO
from pathlib import Path
from random import Random
from traceback import format_exc
from types import FrameType
from typing import Any

import numpy as np
import torch

from simipu_core.artifacts import read_manifest, write_artifact
from simipu_core.config import PairConfig
from simipu_core.data.catalogue import read_frames
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from simipu_core.models.weights import read_safetensors, save_tensors
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from simipu_core.training.checkpoint import Checkpoints
from tests import samples
from tests.checking.corruptions import CORRUPTIONS, applies
from tests.checking.datasets import DATA_SETS, DataSet, make_world
from tests.checking.outcomes import NOT_TOLD, UNSEEN, known_findings, outcome
from tests.data import files, parsers
from tests.data.mutations import flip
from tests.sources import any_source
from tests.torture.campaign import Campaign
from tests.torture.record import Fault, Trial

_DAMAGES = 100
"""A trial."""
_PATIENCE = 120
"""Seconds that reading may take."""


class RawData:
    """A data set with one corruption of the table, in either of two frames."""

    def __init__(self, data: DataSet, world: Path, folder: Path) -> None:
        self.name = f"raw {data.name}"
        self._data = data
        self._world = world
        self._folder = folder

    @cached_property
    def _valid(self) -> tuple[frozenset[str], str]:
        """Findings of the valid data set, and the digest of its shards."""
        root = self._copy()
        known = known_findings(self._data, root)
        outcome(self._data, root, self._folder, known)
        return known, read_manifest(self._folder / "shards").digest

    def attack(self, rng: Random) -> Trial:
        """Corrupt it, and run check, ingest and pair."""
        known, digest = self._valid
        data = self._data
        if data.other and rng.random() < 0.5:
            data = replace(data, parts=data.other, other=data.parts)
        corruption = rng.choice([each for each in CORRUPTIONS if applies(each, data)])
        root = self._copy()
        corruption.corrupt(data, root)
        try:
            with _time_limit():
                found = outcome(data, root, self._folder, known)
        except TimeoutError:
            return Trial(1, broken=((Fault.HUNG, corruption.name),))
        except Exception:
            return Trial(1, broken=((Fault.TRACEBACK, f"{corruption.name}: {format_exc()[-1500:]}"),))
        is_told = found.check != UNSEEN or found.ingest != "takes all" or found.pair != "takes all"
        if is_told:
            return Trial(1, {"told": 1})
        if read_manifest(self._folder / "shards").digest == digest:
            return Trial(1, {"changes nothing": 1})
        if corruption.name in NOT_TOLD:
            return Trial(1, {"known as one that cannot be told": 1})
        return Trial(1, broken=((Fault.DIFFERENT, corruption.name),))

    def _copy(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        root = self._folder / "raw"
        for folder in self._data.folders:
            shutil.copytree(self._world / folder, root / folder)
        shutil.copy(self._world / "synthetic.json", root)
        return root


class Written:
    """Files that a step has written, each with any one piece of damage.

    Args:
        name: of what they are.
        make: writes them into a folder.
        read: what is read of them, comparable; None: it was left out, with a warning.
        folder: to work in.
    """

    def __init__(self, name: str, make: Callable[[Path], object], read: Callable[[Path], Any], folder: Path) -> None:
        self.name = name
        self._make = make
        self._read = read
        self._folder = folder

    @cached_property
    def _valid(self) -> tuple[Any, dict[Path, bytes]]:
        self._folder.mkdir(parents=True)
        self._make(self._folder)
        whole = {path: path.read_bytes() for path in sorted(self._folder.rglob("*")) if path.is_file()}
        return self._read(self._folder), whole

    def attack(self, rng: Random) -> Trial:
        """Damage and read it, many times."""
        expected, whole = self._valid
        seen = {"refused": 0, "same": 0}
        broken = []
        for _ in range(_DAMAGES):
            file = rng.choice(list(whole))
            damage = flip(whole[file], rng)
            parsers.replace(file, damage)
            try:
                with _time_limit(), redirect_stderr(StringIO()):
                    found = self._read(self._folder)
                if found is None:
                    seen["refused"] += 1
                elif found == expected:
                    seen["same"] += 1
                else:
                    broken.append((Fault.DIFFERENT, f"{file.name}: {_place(whole[file], damage)}"))
            except SimipuError:
                seen["refused"] += 1
            except TimeoutError:
                broken.append((Fault.HUNG, f"{file.name}: {_place(whole[file], damage)}"))
            except Exception:
                broken.append((Fault.TRACEBACK, f"{file.name}: {format_exc()[-1500:]}"))
            finally:
                parsers.replace(file, whole[file])
        return Trial(_DAMAGES, seen, tuple(broken))


def _place(valid: bytes, damaged: bytes) -> str:
    """Where two files begin to differ."""
    at = next((at for at, (one, other) in enumerate(zip(valid, damaged, strict=False)) if one != other), len(damaged))
    return f"byte {at}: {damaged[max(at - 20, 0) : at + 20]!r}, not {valid[max(at - 20, 0) : at + 20]!r}"


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raises TimeoutError when the block takes too long."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _manifest(folder: Path) -> Any:
    """What counts of a manifest; no step reads when it was written."""
    return read_manifest(folder)


def _shards(folder: Path, kind: str) -> Any:
    made = folder / "shards"
    manifest = _manifest(made)
    opened = Shards(made, "pairs") if kind == "pairs" else Shards(made, "depth", "train")
    return manifest, [opened.row(index) for index in range(len(opened))]


def _make_weights(folder: Path) -> None:
    with write_artifact(folder / "net", "encoder", inputs={}, parameters={}, licence="made up") as draft:
        tensors = {"a": torch.arange(12.0), "b": torch.zeros(5, dtype=torch.int64)}
        save_tensors(tensors, draft.path / "encoder.safetensors", parsers.SPEC)


def _weights(folder: Path) -> Any:
    manifest = _manifest(folder / "net")
    tensors, _ = read_safetensors(folder / "net/encoder.safetensors")
    return manifest, {name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()}


def _make_checkpoint(folder: Path) -> None:
    Checkpoints(folder / "c").save(7, parsers.training_state())


def _checkpoint(folder: Path) -> Any:
    state = parsers.training_state()
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.zero_()
    if Checkpoints(folder / "c").resume(state) == 0:
        return None
    return {name: tensor.tolist() for name, tensor in state.tensors().items()}, state.values()


def _make_report(folder: Path) -> None:
    samples.write_report(folder / "report", 0.25)


def _report(folder: Path) -> Any:
    return _manifest(folder / "report"), (folder / "report/report.json").read_bytes()


def _make_frames(folder: Path) -> None:
    files.kitti_object(folder.parent / f"{folder.name} raw", 3)
    source = any_source(kind="kitti_object", root=str(folder.parent / f"{folder.name} raw"))
    ingest(source, folder / "frames")


def _frames(folder: Path) -> Any:
    return _manifest(folder / "frames"), read_frames(folder / "frames")


def _make_raw(folder: Path) -> None:
    files.kitti_object(folder, 3)
    ingest(any_source(kind="kitti_object", root=str(folder)), folder.parent / f"{folder.name} frames")


def _raw(folder: Path) -> Any:
    """Shards of catalogued frames, or that some were rejected."""
    out = folder.parent / f"{folder.name} shards"
    shutil.rmtree(out, ignore_errors=True)
    settings = PairConfig(min_points=1, max_broken_share=0.7)
    made = pair(folder.parent / f"{folder.name} frames", settings, "pairs", out)
    return None if made.counts["broken"] else made.digest


_WRITTEN: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "checkpoint": (_make_checkpoint, _checkpoint),
    "weights": (_make_weights, _weights),
    "pairs": (partial(parsers.shards, kind="pairs"), partial(_shards, kind="pairs")),
    "depth": (partial(parsers.shards, kind="depth"), partial(_shards, kind="depth")),
    "catalogue": (_make_frames, _frames),
    "report": (_make_report, _report),
    "frames after ingest": (_make_raw, _raw),
}


@contextmanager
def _targets(work: Path) -> Iterator[Sequence[RawData | Written]]:
    np.seterr(all="ignore")
    with redirect_stdout(StringIO()):
        make_world(work / "world")
        yield [
            *(Written(name, make, read, work / name) for name, (make, read) in _WRITTEN.items()),
            *(RawData(data, work / "world", work / data.name) for data in DATA_SETS),
        ]


CAMPAIGN = Campaign("corruptions", 10_000, _targets)
