"""Strictness: what `SessionConfig.strict` refuses, which other loading repairs, counts and shows."""

from __future__ import annotations

from loaders.closes import AFTER_CLOSE
from loaders.events import DataError, Report

REPAIRS = {  # counters of a report that tell of a fault, in words
    "sequence_gaps": "sequence gaps",
    "times_repaired": "times that ran backwards",
    "levels_repaired": "deltas whose old size contradicts the book",
    "snapshots_repaired": "snapshots with levels in the wrong columns",
    "negative_sizes": "changes below a size of zero",
    "crossed_after": "crossed books",
}


def faults_of(report: Report) -> dict[str, int]:
    """Give what was missing, left out or repaired in a session, by name.

    Not among them: books that are crossed only inside a timestamp, for all changes of one timestamp are one change; trade prints
    that no decrease explains; and changes after the known close of their market, which are as they should be.
    """
    counted = {name: getattr(report, name) for name in REPAIRS} | report.dropped
    return {name: count for name, count in counted.items() if count and name != AFTER_CLOSE}


def refuse_repairs(session_id: str, report: Report) -> None:
    """Check a session that must need no repair.

    Raises:
        DataError: it did; session, faults and, where it is known, the first row of each are named.
    """
    found = [
        f"{count} {REPAIRS.get(name, name)}" + (f" (first: {place})" if (place := report.first.get(name)) else "")
        for name, count in faults_of(report).items()
    ]
    if found:
        raise DataError(
            f"session {session_id}: {'; '.join(found)}: expected nothing to leave out or repair; mend the source, or load "
            "it without strict to have this repaired and counted"
        )
