"""The catalogue: which sessions of a source are wanted, and in what order they are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Literal, get_args

from loaders.events import DataError
from loaders.index import SessionInfo
from loaders.quality import UNFIT, marks_of

if TYPE_CHECKING:
    from loaders.postgres import SessionRow

UNKNOWN = "unknown"  # how a filter names the status or environment of a source that does not say
Status = Literal["active", "closed", "error", "unknown"]
Environment = Literal["local", "production", "paper", "test", "unknown"]
Synthetic = Literal["any", "none", "only"]
Sort = Literal["start", "session", "duration", "markets", "changes", "activity", "spread", "volatility", "quality"]
SLACK_MS = 60_000  # by which a database's times of a session and those of its changes may differ
SORTS: dict[Sort, Callable[[SessionInfo], float | str]] = {  # the largest first, but for names and times
    "start": lambda info: info.started_at_ms,
    "session": lambda info: info.session_id,
    "duration": lambda info: -info.seconds,
    "markets": lambda info: -len(info.tickers),
    "changes": lambda info: -info.deltas,
    "activity": lambda info: -info.statistics.activity,
    "spread": lambda info: _spread(info),
    "volatility": lambda info: -(info.statistics.volatility or 0.0),
    "quality": lambda info: -info.quality.score,
}


@dataclass(frozen=True)
class SessionFilter:
    """Which sessions of a source are wanted: those that meet every condition given."""

    status: tuple[Status, ...] = ()
    """Only sessions of these statuses; recordings and simulated sessions have none, which is "unknown"."""
    environment: tuple[Environment, ...] = ()
    """Only sessions recorded in these environments."""
    since: str | None = None
    """Only sessions that begin at this time or later: 2026-05-13, 2026-05-13T14:30 (UTC unless it says otherwise), or ms
    since 1970."""
    until: str | None = None
    """Only sessions that begin before this time."""
    least_changes: int = 0
    """Only sessions with at least so many changes of single levels."""
    least_markets: int = 0
    """Only sessions in which at least so many markets show a book."""
    most_markets: int | None = None
    """Only sessions in which no more markets show a book."""
    most_spread: float | None = None
    """Only sessions whose mean spread, over time, is at most so many cents."""
    least_activity: float = 0.0
    """Only sessions with at least so many changes a second and market."""
    least_quality: float = 0.0
    """Only sessions whose quality score, 0 to 1, is at least this."""
    synthetic: Synthetic = "any"
    """Sessions of the simulated exchange: listed with the others, left out, or alone."""
    skip_marked: bool = False
    """Leave out sessions that are marked: empty, no book, test."""

    def __post_init__(self) -> None:
        for name, allowed in (("status", get_args(Status)), ("environment", get_args(Environment))):
            for value in getattr(self, name):
                if value not in allowed:
                    raise DataError(f"{name} {value!r}: expected one of {', '.join(allowed)}")
        if self.synthetic not in get_args(Synthetic):
            raise DataError(f"synthetic {self.synthetic!r}: expected any, none or only")
        for name in ("least_changes", "least_markets", "most_markets", "most_spread", "least_activity"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and isfinite(value)):
                raise DataError(f"{name} {value}: expected a number that is 0 or more")
        if not 0 <= self.least_quality <= 1:
            raise DataError(f"least_quality {self.least_quality}: expected 0 to 1, as quality scores are")
        if self.most_markets is not None and self.most_markets < self.least_markets:
            raise DataError(
                f"most_markets {self.most_markets}: no session passes, for least_markets is {self.least_markets}"
            )
        if self.since_ms >= self.until_ms:
            raise DataError(
                f"since {self.since!r} is not before until {self.until!r}: no session passes; exchange the two"
            )

    @property
    def since_ms(self) -> float:
        """The earliest start, epoch ms."""
        return -float("inf") if self.since is None else parse_time(self.since)

    @property
    def until_ms(self) -> float:
        """The first start that is too late, epoch ms."""
        return float("inf") if self.until is None else parse_time(self.until)

    def passes(self, info: SessionInfo) -> bool:
        """Tell whether a session is wanted."""
        return self.meets(info) and not self.skips(info)

    def skips(self, info: SessionInfo) -> bool:
        """Tell whether a session is left out for its marks."""
        return self.skip_marked and any(mark in UNFIT for mark in info.marks)

    def meets(self, info: SessionInfo) -> bool:
        """Tell whether a session meets the conditions, whatever its marks."""
        return (
            self._passes_labels(info.status, info.environment, info.synthetic)
            and self.since_ms <= info.started_at_ms < self.until_ms
            and info.deltas >= self.least_changes
            and self.least_markets <= len(info.tickers)
            and (self.most_markets is None or len(info.tickers) <= self.most_markets)
            and (self.most_spread is None or _spread(info) <= self.most_spread)
            and info.statistics.activity >= self.least_activity
            and info.quality.score >= self.least_quality
        )

    def may_pass(self, row: SessionRow) -> bool:
        """Tell from what a database lists of a session whether it can be wanted, so that others need not be read."""
        ended_at_ms = float("inf") if row.ended_at_ms is None else row.ended_at_ms
        marks = marks_of(row.deltas, row.snapshots + row.deltas, row.environment, row.synthetic)
        return (
            self._passes_labels(row.status, row.environment, row.synthetic)
            and self.since_ms <= max(ended_at_ms, row.started_at_ms) + SLACK_MS
            and row.started_at_ms - SLACK_MS < self.until_ms
            and row.deltas >= self.least_changes
            and not (self.skip_marked and any(mark in UNFIT for mark in marks))
        )

    @property
    def rules_out_unread(self) -> bool:
        """Whether `may_pass` can rule out any session."""
        labels = (self.status, self.environment, self.since, self.until, self.least_changes, self.skip_marked)
        return any(labels) or self.synthetic != "any"

    def __str__(self) -> str:
        """Name the conditions that are set, as they are written in Python."""
        given = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(given) or "no condition"

    def _passes_labels(self, status: str, environment: str, synthetic: bool) -> bool:
        return (
            (not self.status or (status or UNKNOWN) in self.status)
            and (not self.environment or (environment or UNKNOWN) in self.environment)
            and (self.synthetic == "any" or synthetic == (self.synthetic == "only"))
        )


def sort_sessions(sessions: Iterable[SessionInfo], by: Sort = "start", reverse: bool = False) -> list[SessionInfo]:
    """Sort sessions by a key of `SORTS`, the largest first but for names, times and spreads; equal ones stay as they are.

    Raises:
        DataError: no such key.
    """
    if by not in SORTS:
        raise DataError(f"sort {by!r}: expected one of {', '.join(SORTS)}")
    return sorted(sessions, key=SORTS[by], reverse=reverse)  # type: ignore[arg-type]


def parse_time(text: str) -> int:
    """Read a moment as epoch ms: ISO 8601, UTC where it names no zone, or ms since 1970.

    Those must have 11 digits or more, so that no year and no date is taken for them.

    Raises:
        DataError: it is neither.
    """
    if text.isdecimal() and len(text) >= 11:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(f"time {text!r}: expected 2026-05-13, 2026-05-13T14:30:00 or milliseconds since 1970") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _spread(info: SessionInfo) -> float:
    spread = info.statistics.spread_cents
    return float("inf") if spread is None else spread
