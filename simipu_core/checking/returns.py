"""Are scans what was measured? Points without a return or there twice are left out by all readers."""

from collections.abc import Iterator

from simipu_core.checking.report import Finding, Severity, ok, problem
from simipu_core.checking.survey import FrameFacts, Survey

_CHECK = "scan points"
_FEW_AT_ORIGIN, _MANY_AT_ORIGIN = 0.001, 0.3
"""Shares of a scan's points."""
_MOST_DROPPED = 0.6
"""Share of a scan's points without a return; a LiDAR that looks into the open sky has some half of them."""


def check(found: Survey) -> Iterator[Finding]:
    """How many points are no measurements; damage where it is one scan's and not the sensor's way of writing."""
    scans = [facts for facts in found.facts if facts.row["num_points"]]
    if not scans:
        return
    problems = list(_odd(scans))
    yield from problems
    if not problems:
        yield ok(_CHECK, _counted(scans))


def _odd(scans: list[FrameFacts]) -> Iterator[Finding]:
    spoilt = [facts.sample_id for facts in scans if facts.dropped.not_finite]
    if 0 < len(spoilt) < len(scans) / 2:  # else it is how this sensor writes that there was no return
        what = f"{len(spoilt)} of {len(scans)} scans hold points that are not finite numbers; {_counted(scans)}"
        mend = "They are left out, but the other scans have none: look for what wrote or damaged these files."
        yield problem(_CHECK, Severity.WARNING, what, spoilt, mend)
    shares = [facts.dropped.at_origin / _stored(facts) for facts in scans]
    if sorted(shares)[len(shares) // 4] < _FEW_AT_ORIGIN:  # this sensor leaves out where there was no return
        zeros = [facts.sample_id for facts, share in zip(scans, shares, strict=True) if share > _MANY_AT_ORIGIN]
        if zeros:
            what = f"{len(zeros)} of {len(scans)} scans are zeros in part, the others hold none; {_counted(scans)}"
            mend = "Zeros stand where a copy was cut off whose room was reserved: copy these files again."
            yield problem(_CHECK, Severity.WARNING, what, zeros, mend)
    empty = [facts.sample_id for facts in scans if sum(facts.dropped) > _MOST_DROPPED * _stored(facts)]
    if empty:
        what = f"{len(empty)} scans consist mostly of points that are no measurements; {_counted(scans)}"
        mend = "Look at how these scans were written; what is left may be too little to learn from."
        yield problem(_CHECK, Severity.WARNING, what, empty, mend)


def _counted(scans: list[FrameFacts]) -> str:
    total = sum(map(_stored, scans))
    kinds = (
        f"{100 * number / total:.2g} % {kind}"
        for number, kind in zip(
            (sum(each) for each in zip(*(facts.dropped for facts in scans), strict=True)),
            ("not finite", "at the origin (no return)", "there before"),
            strict=True,
        )
        if number
    )
    return f"left out of {total:,} points: {', '.join(kinds) or 'none'}"


def _stored(facts: FrameFacts) -> int:
    return (facts.row["num_points"] or 0) + sum(facts.dropped)
