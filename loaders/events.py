"""Events: what every source gives, and all that replay needs to know.

A recording, a database and the simulated exchange differ only in how they become `Events`; from here on there is one
code path. Prices and sizes are exact integers here; sizes are floored to whole contracts only when a row is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from kalshi_jax.fees import TAKER_RATE

HUNDREDTHS = 100  # sizes in events are integers of 0.01 contract


class DataError(ValueError):
    """A source holds something that cannot be used. The message names it, says what was expected and what to do."""


@dataclass(frozen=True)
class MarketFacts:
    """What is known of a market besides its book. Money in 0.01 cent, rates in 1/10,000."""

    close_ms: int | None = None  # epoch ms; None: not known
    result: int | None = None  # what a YES pays, 0 to 10,000, or VOID; None: not known
    taker_rate: int = TAKER_RATE
    taker_flat: int = 0  # a contract
    maker_rate: int = 0
    maker_flat: int = 0  # a contract


class Kind(IntEnum):
    """What an event does to the book of its market."""

    CLEAR = 0  # empty both sides: a snapshot begins, or the book is no longer known
    SET = 1  # the level's size becomes `size` (snapshot levels, database deltas)
    ADD = 2  # the level's size changes by `size` (exchange deltas)


@dataclass
class Events:
    """All book changes of one session in recorded order, as columns of n events.

    A snapshot is one CLEAR and a SET per level. Times never decrease within a market: the source has repaired and
    counted what did. Rows that a source had to drop are counted in `report`, never just left out.
    """

    session_id: str
    tickers: list[str]  # of the session's markets, in order of first appearance
    market: np.ndarray  # i32[n], index into tickers
    time_ms: np.ndarray  # i64[n], epoch ms: the exchange's clock where the source has it
    kind: np.ndarray  # i8[n], Kind
    side: np.ndarray  # i8[n], 0 YES, 1 NO (0 for CLEAR)
    price: np.ndarray  # i32[n], 0.01 cent (0 for CLEAR)
    size: np.ndarray  # i64[n], 0.01 contract: absolute for SET, signed for ADD (0 for CLEAR)
    trades: Trades
    report: Report
    status: str = ""  # active, closed, error; empty where the source does not say
    environment: str = ""  # local, production, paper, test; empty where the source does not say
    synthetic: bool = False  # came from the simulated exchange
    facts: dict[str, MarketFacts] = field(
        default_factory=dict
    )  # by ticker; usual fees, nothing else known, where missing


@dataclass
class Trades:
    """Trade prints of one session, as columns of n trades."""

    market: np.ndarray  # i32[n]
    time_ms: np.ndarray  # i64[n], epoch ms
    yes_price: np.ndarray  # i32[n], 0.01 cent
    size: np.ndarray  # i64[n], 0.01 contract
    taker_side: np.ndarray  # i8[n], 0 YES, 1 NO


@dataclass
class Report:
    """What was found while reading and replaying a session. Every row read is either used or counted as dropped."""

    rows_read: int = 0  # frames or database rows
    snapshots: int = 0
    deltas: int = 0
    trades: int = 0
    prints_unmatched: int = 0  # trade prints that the decreases of their level around their time do not add up to
    tickers: int = 0
    other: int = 0  # acknowledgements, errors, subscriptions and other frames that change no book
    epochs: int = 0  # snapshot restarts, reconnects
    sequence_gaps: int = 0
    times_repaired: int = 0  # events whose time ran backwards within their market
    levels_repaired: int = 0  # database deltas whose old size contradicted the book (a row before them was lost)
    snapshots_repaired: int = 0  # database snapshots with levels in the wrong columns
    negative_sizes: int = 0  # changes that would have left a level below zero; set to zero
    crossed_inside: int = 0  # messages that left a book crossed inside one timestamp
    crossed_after: int = 0  # rows that are crossed after all their changes
    read_again: int = 0  # times a database session was begun anew because the server had gone away
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows left out
    first: dict[str, str] = field(default_factory=dict)  # reason or counter -> where it was met first, if known

    def drop(self, reason: str, place: str, count: int = 1) -> None:
        """Count what is left out for a reason, `place` being the first of it; a count of 0 is none."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count
            self.first.setdefault(reason, place)

    @property
    def repaired(self) -> int:
        """Times, levels and snapshots that were repaired."""
        return self.times_repaired + self.levels_repaired + self.snapshots_repaired


def forward_times(market: np.ndarray, time_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raise each time (i64[n], in recorded order) to the latest before it in its market.

    Returns:
        i64[n], and bool[n] of those that were raised.
    """
    if (np.diff(time_ms) >= 0).all():  # over all markets
        return time_ms, np.zeros(len(time_ms), bool)
    time = time_ms.copy()
    order = np.argsort(market, kind="stable")
    back = (market[order][1:] == market[order][:-1]) & (time[order][1:] < time[order][:-1])
    for late in np.unique(market[order][1:][back]):
        at = np.flatnonzero(market == late)
        time[at] = np.maximum.accumulate(time[at])
    return time, time != time_ms
