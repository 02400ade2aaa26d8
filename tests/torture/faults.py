"""S3 and MLflow that refuse, fail, break off and dawdle at random, under whole stages."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from tests.proxy import Fault as Broken
from tests.proxy import proxy
from tests.servers import mlflow_server, seaweedfs
from tests.torture import forks
from tests.torture.campaign import Campaign
from tests.torture.forks import PATIENCE, Child, simipu
from tests.torture.ground import Ground
from tests.torture.kills import Reference, settled
from tests.torture.record import Fault, Trial

_ATTEMPTS = 4
"""Repetitions under faults, before one without."""
_S3 = (
    Broken("error"),
    Broken("error", status=500, code="InternalError"),
    Broken("cut"),
    Broken("drop"),
    Broken("slow"),
)
_MLFLOW = (Broken("error"), Broken("error", status=500), Broken("cut"), Broken("drop"), Broken("slow"))
_OUTAGE = 20
"""Requests that all fail, now and then."""


class Chaos:
    """A proxy in a process of its own whose faults are those of a seed.

    Args:
        target: address of the server.
        folder: for what it tells.
        seed: of the faults.
        share: of the requests that have one.
        kinds: of them.
    """

    def __init__(self, target: str, folder: Path, seed: int, share: float, kinds: Sequence[Broken]) -> None:
        self._told = folder / "faults.json"
        self._told.unlink(missing_ok=True)
        reading, writing = os.pipe()
        self._process = Child(lambda: _serve(target, seed, share, kinds, writing, self._told), folder, os.environ)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            self.url = pipe.readline().strip()

    def calm(self) -> None:
        """No more faults from now on."""
        os.kill(self._process.pid, signal.SIGUSR1)

    def stop(self) -> int:
        """End it; how many requests had faults."""
        os.kill(self._process.pid, signal.SIGTERM)
        if not self._process.wait(30):
            self._process.kill(whole=True)
        return int(json.loads(self._told.read_text())) if self._told.is_file() else 0


def _serve(target: str, seed: int, share: float, kinds: Sequence[Broken], ready: int, told: Path) -> int:
    rng = Random(seed)
    count = left = 0
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    is_calm = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: is_calm.set())
    with proxy(target) as made:

        def chance(_: str) -> Broken | None:
            nonlocal count, left
            if is_calm.is_set():
                return None
            if left:
                left -= 1
                count += 1
                return Broken("error")
            if rng.random() >= share:
                return None
            if rng.random() < 0.05:
                left = _OUTAGE
            count += 1
            return rng.choice(kinds)

        made.chance = chance
        os.write(ready, f"{made.url}\n".encode())
        os.close(ready)
        end.wait()
    told.write_text(json.dumps(count))
    return 0


@dataclass(frozen=True)
class Stage:
    """A stage whose storage or tracking is at fault."""

    name: str
    arguments: Callable[[str], tuple[str, ...]]
    """Its command, given the address of a folder that no other trial uses."""
    inputs: tuple[str, ...]


_STAGES = {
    "s3": (
        Stage("ingest", lambda to: ("ingest", "pretrain", "--root", "{s3}/raw", "--out", f"{to}/frames"), ()),
        Stage("pair", lambda to: ("pair", "pretrain", "{s3}/frames", "--out", f"{to}/pairs"), ()),
        Stage("pretrain", lambda _: ("pretrain", "{s3}/pairs", "--out", "out/encoder"), ()),
        Stage("finetune", lambda _: ("finetune", "{s3}/depth", "--encoder", "{s3}/encoder", "--out", "out/net"), ()),
    ),
    "mlflow": (
        Stage("ingest", lambda _: ("ingest", "pretrain", "--root", "raw", "--out", "out/frames"), ("raw",)),
        Stage("pretrain", lambda _: ("pretrain", "out/pairs", "--out", "out/encoder"), ("out/pairs",)),
        Stage(
            "evaluate and register",
            lambda to: (
                "evaluate",
                "out/net",
                "out/depth",
                "--out",
                "out/report",
                "--register",
                "--set",
                f"tracking.model_name={to.replace('/', '-')}",
            ),
            ("out/net", "out/depth"),
        ),
    ),
}


class Shaken:
    """One stage under faults of one service.

    Args:
        service: `s3` or `mlflow`.
        stage: which one.
        reference: what it reads.
        variables: of the servers.
        server: ground whose store is the MLflow server's.
        folder: to work in.
    """

    def __init__(
        self, service: str, stage: Stage, reference: Reference, variables: dict[str, str], server: Ground, folder: Path
    ) -> None:
        self.name = f"{service}: {stage.name}"
        self._service = service
        self._stage = stage
        self._reference = reference
        self._variables = variables
        self._server = server
        self._ground = Ground(folder)
        self._number = 0

    @cached_property
    def _undisturbed(self) -> Any:
        self._prepare()
        code, said = self._run(self._variables)
        if code:
            raise RuntimeError(f"undisturbed, {self.name} fails: {said}")
        return self._result()

    def attack(self, rng: Random) -> Trial:
        """Run it under faults, again while it stops with one sentence, and at last without them."""
        expected = self._undisturbed
        self._prepare()
        seen = {"faults": 0, "stopped": 0, "ended under faults": 0}
        broken: list[tuple[Fault, str]] = []
        name = "AWS_ENDPOINT_URL" if self._service == "s3" else "MLFLOW_TRACKING_URI"
        kinds = _S3 if self._service == "s3" else _MLFLOW
        share = rng.choice((0.03, 0.1, 0.3))
        chaos = Chaos(self._variables[name], self._ground.folder.parent, rng.getrandbits(32), share, kinds)
        disturbed = self._variables | {name: chaos.url}  # one address to the end: what waits is kept by address
        try:
            for attempt in range(_ATTEMPTS + 1):
                if attempt == _ATTEMPTS:
                    chaos.calm()
                code, said = self._run(disturbed)
                if code is None:
                    broken.append((Fault.HUNG, said))
                    break
                if code == 0:
                    seen["ended under faults"] += attempt < _ATTEMPTS
                    break
                seen["stopped"] += 1
                if "Traceback" in said:
                    broken.append((Fault.TRACEBACK, said))
                if attempt == _ATTEMPTS:
                    broken.append((Fault.LOST, said))
            chaos.calm()
            broken += self._look(expected, disturbed)
        finally:
            seen["faults"] = chaos.stop()
        return Trial(1, seen, tuple(broken))

    def _look(self, expected: Any, variables: Mapping[str, str]) -> Iterator[tuple[Fault, str]]:
        """Whether all is as if there had been no faults, once what was not sent is sent."""
        for unsent in self._ground.folder.rglob("*unsent-tracking.jsonl"):
            command = simipu("tracking", "send", str(unsent))
            child = Child(command, self._ground.folder, self._ground.environment(**variables))
            if not child.wait(PATIENCE) or child.code:
                yield Fault.LOST, f"tracking send: {child.said()}"
        yield from settled(self._ground, variables, self._server)
        try:
            found = self._result()
        except Exception as error:
            yield Fault.LOST, str(error)
        else:
            if found != expected:
                yield Fault.DIFFERENT, f"{str(found)[:700]}, not {str(expected)[:700]}"

    def _prepare(self) -> None:
        self._ground.copy_of(self._reference.ground, *self._stage.inputs)
        shutil.rmtree(self._ground.database.parent, ignore_errors=True)
        self._number += 1

    @property
    def _place(self) -> str:
        """Where this trial writes in S3, or how it names its model."""
        own = f"{self._stage.name.replace(' ', '-')}-{self._number}"
        return f"s3://checkpoints/{own}" if self._service == "s3" else own

    def _run(self, variables: dict[str, str]) -> tuple[int | None, str]:
        """Its code, None where it hangs, and what it said."""
        arguments = [each.replace("{s3}", "s3://checkpoints") for each in self._stage.arguments(self._place)]
        own = {"SIMIPU_CHECKPOINTS": f"{self._place}/checkpoints"} if self._service == "s3" else {}
        environment = self._ground.environment(**variables, **own, SIMIPU_PIPELINE_RUN="")
        child = Child(
            simipu(*arguments, "--set", f"tracking.mlflow_experiment={self._experiment}"),
            self._ground.folder,
            environment,
        )
        if not child.wait(2 * PATIENCE):
            child.kill(whole=True)
            return None, child.said()
        child.is_left(30)
        return child.code, child.said()

    @property
    def _experiment(self) -> str:
        return f"{self.name} {self._number}".replace(":", "").replace(" ", "-")

    def _result(self) -> Any:
        """Digests of what it made, and which metrics its finished run has, by step."""
        from simipu_core.artifacts import read_manifest
        from simipu_core.storage import place

        made = self._stage.arguments(self._place)
        out = made[made.index("--out") + 1]
        os.environ.update({name: value for name, value in self._variables.items() if name.startswith("AWS_")})
        digest = read_manifest(place(out) if out.startswith("s3://") else self._ground.folder / out).digest
        points = self._server.ask(
            "select m.key, m.step from metrics m join runs r using (run_uuid) join experiments e using (experiment_id) "
            "where e.name = ? and r.status = 'FINISHED' and m.key not like 'system/%' order by 1, 2",
            self._experiment,
        )
        return digest, points, self._server.registry(self._place)["aliases"]


@contextmanager
def _targets(work: Path) -> Iterator[Sequence[Shaken]]:
    forks.load()
    reference = Reference(work / "reference")
    reference.make()
    server = Ground(work / "server")
    server.make()
    server.database.parent.mkdir()
    (work / "s3").mkdir()
    store, artifacts = f"sqlite:///{server.database}", str(server.folder / "artifacts")
    with seaweedfs(work / "s3") as s3, mlflow_server(work, store, artifacts, {}) as mlflow:
        variables = {
            **s3.environment,
            "MLFLOW_TRACKING_URI": mlflow.uri,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        }
        _upload(reference.ground, s3.environment)
        yield [
            Shaken(service, stage, reference, variables, server, work / service / stage.name.replace(" ", "_"))
            for service, stages in _STAGES.items()
            for stage in stages
        ]


def _upload(ground: Ground, environment: dict[str, str]) -> None:
    """Put what stages read into the bucket; in a process of its own, since clients start threads."""

    def work() -> int:
        from simipu_core.storage import s3

        places = {"raw": ground.folder / "raw", **{path.name: path for path in ground.out.iterdir()}}
        for name, folder in places.items():
            for path in folder.rglob("*"):
                if path.is_file():
                    key = f"{name}/{path.relative_to(folder).as_posix()}"
                    s3.client().upload_file(str(path), "checkpoints", key)
        return 0

    child = Child(work, ground.folder, ground.environment(**environment))
    if not child.wait(PATIENCE) or child.code:
        raise RuntimeError(f"nothing can be uploaded: {child.said()}")


CAMPAIGN = Campaign("faults", 50, _targets)
