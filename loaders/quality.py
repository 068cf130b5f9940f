"""How far a recorded session can be trusted and what it is worth: a score with its parts, and marks with their reasons."""

from __future__ import annotations

from dataclasses import dataclass

from loaders.closes import AFTER_CLOSE
from loaders.events import Report
from loaders.statistics import SessionStatistics

GAP_WEIGHS = 10_000  # rows of a recording for which one gap halves its completeness
FAULTS_BEARABLE = 0.01  # faults per row read at which nothing of its consistency is left
USUAL_ACTIVITY = 0.1  # changes a second and market that are worth half of what any number could be
USUAL_SECONDS = 300.0  # of duration, likewise
EMPTY, NO_BOOK, TEST, SYNTHETIC = "empty", "no book", "test", "synthetic"  # marks
UNFIT = (EMPTY, NO_BOOK, TEST)  # marks of sessions that training does without


@dataclass(frozen=True)
class Quality:
    """The parts of a session's quality, 0 to 1 each."""

    completeness: float  # share of rows read that were not dropped before a close / (1 + gaps x GAP_WEIGHS / rows read)
    consistency: float  # 1 - (crossed after + negative + repaired) / rows read / FAULTS_BEARABLE, at least 0
    coverage: float  # share of the markets' time with bids on both sides that do not cross
    activity: float  # a / (a + USUAL_ACTIVITY), a: changes a second and market
    duration: float  # s / (s + USUAL_SECONDS), s: seconds from the first change to the last

    @property
    def score(self) -> float:
        """Completeness x consistency x the mean of coverage, activity and duration.

        What is lost or wrong cannot be made good by there being much of it, so soundness multiplies; what there is to
        learn from is a mean.
        """
        return self.completeness * self.consistency * (self.coverage + self.activity + self.duration) / 3


def quality_of(report: Report, statistics: SessionStatistics, seconds: float) -> Quality:
    """Judge a session by what was found while it was read, by its statistics and by how long it is."""
    rows = max(report.rows_read, 1)
    lost = sum(count for reason, count in report.dropped.items() if reason != AFTER_CLOSE)
    faults = report.crossed_after + report.negative_sizes + report.repaired
    return Quality(
        completeness=max(0.0, 1 - lost / rows) / (1 + report.sequence_gaps * GAP_WEIGHS / rows),
        consistency=max(0.0, 1 - faults / rows / FAULTS_BEARABLE),
        coverage=statistics.quoted_share,
        activity=statistics.activity / (statistics.activity + USUAL_ACTIVITY),
        duration=seconds / (seconds + USUAL_SECONDS),
    )


def marks_of(deltas: int, books: int, environment: str, synthetic: bool) -> dict[str, str]:
    """Say what sets a session apart, mark -> reason.

    Args:
        deltas: changes of single levels.
        books: markets that showed a book.
        environment: local, production, paper, test; empty: not known.
        synthetic: it came from the simulated exchange.
    """
    marks = {}
    if deltas == 0:
        marks[EMPTY] = "no change of a book was recorded"
    if books == 0:
        marks[NO_BOOK] = "no market showed a bid"
    if synthetic:
        marks[SYNTHETIC] = "it comes from the simulated exchange"
    elif environment == "test":
        marks[TEST] = "it was recorded in the environment test"
    return marks
