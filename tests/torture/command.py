"""The command."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from simipu_core.errors import plain_errors

NAMES = ("kills", "corruptions", "fuzz", "faults")
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run campaigns for a while, and report all that they have found so far; code 1 if a promise was broken."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch: what is forked must run no threads
    with plain_errors():
        sys.exit(_run(_arguments()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for all campaigns together")
    parser.add_argument("--campaign", choices=NAMES, action="append", help="may be repeated; all if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, default=ROOT / "build/torture.json", help="counts, to go on from")
    return parser.parse_args()


def _run(given: argparse.Namespace) -> int:
    from tests.torture import campaign as campaigns
    from tests.torture import corruptions, faults, fuzz, kills
    from tests.torture.record import Record

    known = {each.CAMPAIGN.name: each.CAMPAIGN for each in (kills, corruptions, fuzz, faults)}
    names = given.campaign or NAMES
    record = Record.load(given.state, given.seed)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="simipu-torture-") as work:
            campaigns.run(known[name], record, given.state, Path(work), 60 * given.minutes / len(names))
    print(record.table())
    for campaign, targets in record.campaigns.items():
        for target, counts in targets.items():
            for note in counts.notes:
                print(f"{campaign}, {target}, {note}\n", file=sys.stderr)
    return 1 if record.broken() else 0
