"""Further attempts at an interrupted training, made within its step: no server's retry policy decides on them.

What the step cannot survive itself, such as the loss of its pod, is a matter of the server, which may start the step
again. So that its attempts do not multiply those in here, all attempts at a step in a pipeline run are counted
together, beside the checkpoints, which all pods must see for that. A server that starts a step again says so in the
name of the workflow's node: ``step(0)`` is what a run, or a person by KFP's Retry, begins with, and ``step(1)`` comes
after it.
"""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simipu_core import project
from simipu_core.errors import InterruptionError, SimipuError, StoppedError
from simipu_core.termination import termination
from simipu_core.training.stores import Store, open_store

RETRY = "SIMIPU_RETRY"
"""Environment variable with a `Retry` as JSON; unset, there is one attempt."""
NODE = "SIMIPU_WORKFLOW_NODE"
"""Environment variable with the name of the workflow's node, e.g. ``simipu-ab1cd(0).root(0).pretrain(1).executor(0)``.
"""
_FILE = "attempts.json"
_SLICE_S = 0.2


class _Known(BaseModel):
    """What the file says."""

    begun: int = Field(ge=0)
    first: float


class Retry(BaseModel):
    """How often and when an interrupted training is begun again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    times: int = Field(ge=0, le=20)
    """Further attempts."""
    wait: float = Field(ge=0)
    """Seconds before the first of them."""
    factor: float = Field(ge=1, le=100)
    """By which each wait is longer than the one before."""
    within: float = Field(gt=0)
    """Seconds after the begin of the first attempt, later than which no other one begins."""


def requested() -> Retry | None:
    """What `SIMIPU_RETRY` asks for.

    Raises:
        SimipuError: it cannot be read.
    """
    text = os.environ.get(RETRY)
    if not text:
        return None
    try:
        return Retry.model_validate_json(text)
    except ValidationError:
        raise SimipuError(f'{RETRY}={text}: write {{"times": 2, "wait": 60, "factor": 2, "within": 604800}}.') from None


def repeat(attempt: Callable[[], object], name: str, pause: Callable[[float], object] | None = None) -> None:
    """Call `attempt` until it returns: after an `InterruptionError` again, as often as `SIMIPU_RETRY` says.

    Args:
        attempt: trains, and goes on from the last checkpoint if there is one.
        name: of what is trained, for messages.
        pause: waits for some seconds, and raises a `SimipuError` where a signal asks to end; None for our own.

    Raises:
        SimipuError: what `attempt` raises and no further attempt can mend, it was asked to end, or how often pods of
            before have tried is not known.
        InterruptionError: there was none to retry, or no attempt is left.
    """
    retry = requested()
    if retry is None:
        attempt()
        return
    count = _Count.of_this_run()
    if count.begun > retry.times:
        raise InterruptionError(
            f"{name}: {count.begun} attempts were interrupted in this run, all that retry.times {retry.times} allows; "
            "start the run again, which goes on from the last checkpoint."
        )
    while True:
        count.begin()
        try:
            attempt()
        except StoppedError:
            raise
        except InterruptionError as error:
            seconds = retry.wait * retry.factor ** (count.begun - 1)
            if count.begun > retry.times or time.time() + seconds > count.first + retry.within:
                raise
            print(f"{name}: {error}", flush=True)
            print(f"{name}: attempt {count.begun + 1} of {retry.times + 1} begins in {seconds:g} s", flush=True)
            (pause or partial(_sleep, name=name))(seconds)
        else:
            count.forget()
            return


def _sleep(seconds: float, name: str) -> None:
    until = time.monotonic() + seconds
    with termination() as ending:
        while (left := until - time.monotonic()) > 0:
            if ending.is_asked:
                sentence = f"{name}: stopped by {ending.name} between two attempts; run it again to go on."
                raise StoppedError(sentence, ending.signal)
            time.sleep(min(_SLICE_S, left))


@dataclass
class _Count:
    """Attempts at this step in this run, those in earlier pods included."""

    store: Store | None
    """Where the count outlives the pod; None where there is no run."""
    begun: int = 0
    first: float = 0.0
    """When the first one began, in seconds since 1970."""

    @classmethod
    def of_this_run(cls) -> "_Count":
        """The count as it stands when this pod begins.

        Raises:
            SimipuError: there were pods before, and their checkpoints' folder is not this pod's: attempts would
                multiply.
        """
        run, step = os.environ.get("SIMIPU_PIPELINE_RUN"), os.environ.get("SIMIPU_STEP", "train")
        if not run:
            return cls(None)
        root = project.checkpoints()
        store = open_store(f"{root}/attempts/{run}/{step}" if isinstance(root, str) else root / "attempts" / run / step)
        earlier = sum(int(number) for number in re.findall(r"\((\d+)\)", os.environ.get(NODE, "")))
        if not earlier:
            return cls(store)
        try:
            known = _Known.model_validate_json(store.read(_FILE) or b"")
        except ValidationError:
            if isinstance(root, str):  # where all pods look: those of before were lost before they began
                return cls(store, earlier)
            raise SimipuError(
                f"{step}: how often pods of before have tried does not stand in {root}; set SIMIPU_CHECKPOINTS to a "
                "place that all pods see, such as s3://bucket/prefix, or start the run again."
            ) from None
        return cls(store, max(known.begun, earlier), known.first)

    def begin(self) -> None:
        """Count one more, before it begins: whoever is killed has no time to."""
        self.begun += 1
        self.first = self.first or time.time()
        if self.store:
            self.store.write(_FILE, json.dumps({"begun": self.begun, "first": self.first}).encode())

    def forget(self) -> None:
        """Leave nothing behind."""
        if self.store:
            self.store.keep(set())
