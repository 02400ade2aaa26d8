"""A campaign attacks its targets in turn until its time is up."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol

from tests.torture.record import Record, Trial


class Target(Protocol):
    """What is attacked."""

    @property
    def name(self) -> str:
        """Tells it from the other targets of the campaign."""

    def attack(self, rng: Random) -> Trial:
        """Make one trial, all of whose choices are the generator's."""


class Campaign(NamedTuple):
    """A kind of attack."""

    name: str
    goal: int
    """Blows that each target is to stand."""
    targets: Callable[[Path], AbstractContextManager[Sequence[Target]]]
    """Its targets, which work in an empty folder while the block runs."""


def run(campaign: Campaign, record: Record, state: Path, work: Path, seconds: float) -> None:
    """Make trials; each target that has not reached the goal gets the same time.

    Args:
        campaign: which one.
        record: counts; trials go on from there.
        state: where they are saved after each trial.
        work: empty folder.
        seconds: no trial begins later; there is at least one.
    """
    with campaign.targets(work) as targets:
        until = time.monotonic() + seconds
        while True:
            unfinished = [each for each in targets if record.of(campaign.name, each.name).blows < campaign.goal]
            target = min(unfinished or targets, key=lambda each: record.of(campaign.name, each.name).seconds)
            counts = record.of(campaign.name, target.name)
            begun = time.monotonic()
            trial = target.attack(Random(f"{record.seed}/{campaign.name}/{target.name}/{counts.next}"))
            counts.add(trial, time.monotonic() - begun)
            record.save(state)
            if time.monotonic() > until:
                return
