"""The index of a tape: what its sessions and markets are, and what was found in them.

Tickers, times of day and quality live here, on the host; the device never sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from kalshi_jax.tape import CENT, DOLLAR, END_OF_TIME, NO, NO_RESULT, OPEN, YES, Tape
from loaders.curriculum import Stage, stage_of
from loaders.events import DataError, Events, MarketFacts, Report
from loaders.quality import Quality, marks_of, quality_of
from loaders.replay import Replay
from loaders.statistics import MarketStatistics, SessionStatistics, measure


@dataclass
class MarketInfo:
    """How a market on the tape ends, what it charges and how its book behaved."""

    close_ms: int | None  # scheduled, epoch ms; None: not known
    result: int  # what a YES pays at the last row, 0.01 cent; or VOID, NO_RESULT, OPEN
    fees: tuple[int, int, int, int]  # taker rate and flat part, maker rate and flat part, as in `Tape.market_fee`
    statistics: MarketStatistics


@dataclass
class SessionInfo:
    """A session as people see it."""

    session_id: str
    started_at_ms: int  # epoch ms of its first change; 0 if it has none
    ended_at_ms: int  # epoch ms of its last change
    tickers: list[str]  # of its markets on the tape
    markets: list[MarketInfo]  # the same markets
    unused_tickers: list[str]  # of markets that never showed a book
    rows: int
    status: str  # active, closed, error; empty where the source does not say
    environment: str  # local, production, paper, test; empty where the source does not say
    synthetic: bool
    report: Report
    statistics: SessionStatistics

    @property
    def deltas(self) -> int:
        """Changes of single levels that were used."""
        return self.report.deltas

    @property
    def settled(self) -> int:
        """Markets that close within the recording with a known result."""
        return sum(market.result not in (OPEN, NO_RESULT) for market in self.markets)

    @property
    def seconds(self) -> float:
        """From its first change to its last."""
        return (self.ended_at_ms - self.started_at_ms) / 1000

    @property
    def quality(self) -> Quality:
        """How far it can be trusted and what it is worth."""
        return quality_of(self.report, self.statistics, self.seconds)

    @property
    def marks(self) -> dict[str, str]:
        """What sets it apart (empty, no book, test, synthetic), with the reason."""
        return marks_of(self.deltas, len(self.tickers), self.environment, self.synthetic)

    @property
    def stage(self) -> Stage:
        """The stage of the curriculum that it belongs to."""
        return stage_of(self.statistics, len(self.tickers))

    def narrow(self, tickers: Sequence[str]) -> SessionInfo:
        """Give the session with these of its markets alone; its times, report and statistics stay those of the whole.

        Raises:
            DataError: it has no such market, or none is named.
        """
        unknown = [ticker for ticker in tickers if ticker not in self.tickers]
        if unknown or not tickers:
            said = ", ".join(unknown) or "named"
            raise DataError(f"session {self.session_id}: no market {said}: expected some of {', '.join(self.tickers)}")
        kept = [i for i, ticker in enumerate(self.tickers) if ticker in tickers]
        markets = [self.markets[i] for i in kept]
        rows = sum(market.statistics.rows for market in markets)
        return replace(self, tickers=[self.tickers[i] for i in kept], markets=markets, rows=rows)


@dataclass
class TapeIndex:
    """What the sessions and markets of a tape are."""

    sessions: list[SessionInfo]  # session i of the tape
    tickers: list[str]  # of market m of the tape
    session_of_market: np.ndarray  # i32[n_markets]
    skipped: list[SessionInfo] = field(default_factory=list)  # left out: they show no book, or are marked and unwanted

    @cached_property
    def markets_of(self) -> dict[str, list[int]]:
        """Markets of the tape by ticker, one for each session that recorded it."""
        markets: dict[str, list[int]] = {}
        for market, ticker in enumerate(self.tickers):
            markets.setdefault(ticker, []).append(market)
        return markets


@dataclass
class Book:
    """A market's best levels at a time, best first."""

    yes_bids: list[tuple[float, int]]  # price in cents, whole contracts
    no_bids: list[tuple[float, int]]


def book_at(tape: Tape, index: TapeIndex, ticker: str, time_ms: int) -> Book:
    """Give a market's book after its last change at or before a time.

    Of several sessions with the ticker it takes one that was recording at the time, else the last that began before.

    Args:
        tape: the tape.
        index: its index.
        ticker: of a market.
        time_ms: epoch ms.

    Raises:
        DataError: the tape has no such market, or its first change is later.
    """
    markets = index.markets_of.get(ticker)
    if not markets:
        raise DataError(f"{ticker!r}: no such market on this tape: expected one of its {len(index.markets_of)} tickers")
    times, start, length = (np.asarray(x) for x in (tape.time_ms, tape.track_start, tape.track_length))
    begins = [index.sessions[index.session_of_market[m]].started_at_ms + int(times[start[m]]) for m in markets]
    past = [
        (index.sessions[index.session_of_market[m]], m)
        for m, begin in zip(markets, begins, strict=True)
        if begin <= time_ms
    ]
    if not past:
        raise DataError(
            f"{ticker}: no book at {time_ms}: its first change is at {min(begins)}; ask for that time or later"
        )
    session, market = max(past, key=lambda found: (time_ms <= found[0].ended_at_ms, found[0].started_at_ms))
    track = times[start[market] : start[market] + length[market]]
    row = start[market] + np.searchsorted(track, min(time_ms - session.started_at_ms, END_OF_TIME), side="right") - 1
    sides = []
    for side in (YES, NO):
        price, size = np.asarray(tape.price)[row, side], np.asarray(tape.size)[row, side]
        sides.append([(p / CENT, n) for p, n in zip(price.tolist(), size.tolist(), strict=True) if p > 0])
    return Book(*sides)


def describe(events: Events, replayed: Replay) -> SessionInfo:
    """Describe a replayed session; its report is that of the events and what replay found."""
    times = replayed.time_ms
    report = replace(
        events.report,
        negative_sizes=replayed.negative_sizes,
        crossed_inside=replayed.crossed_inside,
        crossed_after=replayed.crossed_after,
    )
    if report.crossed_after:
        row = int((replayed.best.sum(axis=0, dtype=np.int32) >= DOLLAR).argmax())
        market = replayed.markets[np.searchsorted(replayed.first_row, row, side="right") - 1]
        report.first = report.first | {"crossed_after": f"market {events.tickers[market]} at {times[row]}"}
    statistics, of_markets = measure(replayed)
    used = set(replayed.markets.tolist())
    last_ms = times[replayed.first_row[1:] - 1].tolist()
    return SessionInfo(
        session_id=events.session_id,
        started_at_ms=int(times.min()) if times.size else 0,
        ended_at_ms=int(times.max()) if times.size else 0,
        tickers=[events.tickers[m] for m in sorted(used)],
        markets=[
            _describe_market(events.facts.get(events.tickers[m], MarketFacts()), ends, last, measured)
            for m, ends, last, measured in zip(
                replayed.markets.tolist(), replayed.ends.tolist(), last_ms, of_markets, strict=True
            )
        ],
        unused_tickers=[ticker for m, ticker in enumerate(events.tickers) if m not in used],
        rows=len(times),
        status=events.status,
        environment=events.environment,
        synthetic=events.synthetic,
        report=report,
        statistics=statistics,
    )


def _describe_market(facts: MarketFacts, ends: bool, last_ms: int, statistics: MarketStatistics) -> MarketInfo:
    """Say how a market ends: one whose book is no longer known before its close has not closed."""
    closed = ends and (facts.close_ms is None or facts.close_ms <= last_ms)
    result = NO_RESULT if facts.result is None else facts.result
    fees = (facts.taker_rate, facts.taker_flat, facts.maker_rate, facts.maker_flat)
    return MarketInfo(facts.close_ms, result if closed else OPEN, fees, statistics)
