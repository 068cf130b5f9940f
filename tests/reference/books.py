"""Order books of one recording, replayed frame by frame: what every market showed after each of its changes.

Sizes are integers of 0.01 contract while replaying, prices integers of 0.01 cent, times integer ms since the session's
first event.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

SIDES = ("yes", "no")
OPPOSITE = {"yes": "no", "no": "yes"}
DOLLAR = 10_000  # money and prices are integers of 0.01 cent
HUNDREDTHS = 100  # exact sizes are integers of 0.01 contract
DEPTH = 10  # levels of a side that the environment sees
VOID = -1  # the result of a market whose holdings are returned at their cost

Side = str  # "yes" or "no"
Level = tuple[Side, int]  # a bid level: side, price in 0.01 cent
Shown = tuple[tuple[int, int], ...]  # displayed levels of a side, best first: (price in 0.01 cent, whole contracts)


@dataclass(frozen=True)
class Close:
    """When a market closes and what it then pays, as far as it is known."""

    close_ms: int | None = None  # epoch ms
    result: int | None = None  # what a YES pays in 0.01 cent, or VOID


@dataclass
class Market:
    """One market of a session: its rows in time order. Row -1 is the empty book before its first change."""

    ticker: str
    result: int | None = None  # what a YES pays in 0.01 cent, or VOID; None if it is not known
    closed_row: int | None = None  # the close row, always the last one; None if the market is open to the end
    times: list[int] = field(default_factory=list)  # per row: ms since the session's first event
    changes: list[dict[Level, int]] = field(default_factory=list)  # per row: levels that changed -> exact size after it
    before: list[dict[Level, int]] = field(default_factory=list)  # per row: the same levels -> exact size before it
    traded: list[dict[Level, int]] = field(
        default_factory=list
    )  # per row: level -> part of its decrease that was traded
    shown: list[dict[Side, Shown]] = field(default_factory=list)  # per row: the displayed book after it
    quoted: list[tuple[int, int]] = field(default_factory=list)  # per row: (bid, ask) of the marks
    restarts: list[bool] = field(default_factory=list)  # per row: nobody knows what happened since the row before
    changed_in: defaultdict[Level, list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )  # level -> the rows in which it changed

    def row_at(self, now: int) -> int:
        """Find the last row with time <= now; -1 if there is none."""
        return bisect_right(self.times, now) - 1

    def book(self, row: int) -> dict[Side, Shown]:
        """Read the displayed book after a row."""
        return self.shown[row] if row >= 0 else {"yes": (), "no": ()}

    def bid_and_ask(self, row: int) -> tuple[int, int]:
        """Read the best YES bid and ask that marks use: 0 and 10,000 if missing, the last quoted ones if both are."""
        return self.quoted[row] if row >= 0 else (0, DOLLAR)

    def size(self, row: int, level: Level) -> int:
        """Read the exact size of any level after a row, however deep in the book."""
        rows = self.changed_in.get(level, [])
        changes = bisect_right(rows, row)  # how often the level has changed until then
        return self.changes[rows[changes - 1]][level] if changes else 0

    def last_change(self, row: int, level: Level) -> int:
        """Find the last row up to a row in which a level changed; -1 if there is none."""
        rows = self.changed_in.get(level, [])
        changes = bisect_right(rows, row)
        return rows[changes - 1] if changes else -1

    def closed(self, row: int) -> bool:
        """Whether the market is closed at a row."""
        return self.closed_row is not None and row >= self.closed_row

    def settled(self, row: int) -> bool:
        """Whether the market is closed at a row and its result known."""
        return self.closed(row) and self.result is not None


@dataclass
class Session:
    """One recording: its markets in order of first appearance."""

    markets: dict[str, Market]


def best_price(levels: Shown) -> int:
    """Price of the best displayed bid, 0 if the side is empty."""
    return levels[0][0] if levels else 0


def read_closes(path: Path) -> dict[str, Close]:
    """Read when markets close, and their results, from a JSON object of market metadata."""
    return {ticker: close_of(about) for ticker, about in json.loads(path.read_text()).items()}


def close_of(about: Mapping[str, Any]) -> Close:
    """When the market of this metadata closes, and its result: yes, no, scalar, void, or anything else: not known."""
    close_ms = epoch_ms(about["close_time"]) if about.get("close_time") else None
    results = {"yes": DOLLAR, "no": 0, "void": VOID}
    if about.get("result") == "scalar" and about.get("settlement_value_dollars"):
        return Close(close_ms, exact(about["settlement_value_dollars"], DOLLAR))
    return Close(close_ms, results.get(about.get("result")))


def read_session(path: Path, closes: Mapping[str, Close] | None = None) -> Session:
    """Replay one recording (`.jsonl` or `.jsonl.gz`)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as lines:
        return replay((json.loads(line) for line in lines), closes)


def replay(frames: Iterable[dict[str, Any]], closes: Mapping[str, Close] | None = None) -> Session:
    """Replay recorded frames in the order given: deltas and snapshots change books, every other type is passed over."""
    by_market: dict[str, list[dict[str, Any]]] = {}
    prints: list[dict[str, Any]] = []
    for frame in frames:
        if frame["type"] in ("orderbook_snapshot", "orderbook_delta"):
            by_market.setdefault(frame["msg"]["market_ticker"], []).append(frame)
        if frame["type"] == "trade" and not frame["msg"].get("is_block_trade", False):
            prints.append(frame)
    times = {ticker: event_times(events) for ticker, events in by_market.items()}
    last = max(market_times[-1] for market_times in times.values())
    for ticker, close in (closes or {}).items():
        if ticker in by_market and close.close_ms is not None and close.close_ms <= last:
            end_at(close.close_ms, times[ticker], by_market[ticker])
    used = [ticker for ticker in by_market if times[ticker]]
    zero = min((times[ticker][0] for ticker in used), default=0)
    markets = {}
    for ticker in used:
        close = (closes or {}).get(ticker, Close())
        markets[ticker] = replay_market(ticker, [time - zero for time in times[ticker]], by_market[ticker])
        markets[ticker].result = close.result
        if (close.close_ms is None or close.close_ms <= last) and is_empty_snapshot(by_market[ticker][-1]):
            markets[ticker].closed_row = len(markets[ticker].times) - 1
    for frame in sorted(prints, key=print_time):
        if frame["msg"]["market_ticker"] in markets:
            explain(markets[frame["msg"]["market_ticker"]], frame["msg"], print_time(frame) - zero)
    return Session(markets)


def end_at(close_ms: int, times: list[int], events: list[dict[str, Any]]) -> None:
    """Let the events of a market end with an empty snapshot at its close, and with none if none was before it."""
    before = bisect_left(times, close_ms)
    del times[before:], events[before:]
    if before > 0:
        times.append(close_ms)
        events.append({"type": "orderbook_snapshot", "msg": {}})


def is_empty_snapshot(event: dict[str, Any]) -> bool:
    return event["type"] == "orderbook_snapshot" and not list(snapshot_levels(event["msg"]))


def print_time(frame: dict[str, Any]) -> int:
    """Epoch ms of a trade print: `ts_ms`, else the recorder's clock (the older `ts` has whole seconds only)."""
    return frame["msg"].get("ts_ms", frame["recv_ms"])


def explain(market: Market, message: dict[str, Any], time: int) -> None:
    """Let a trade print explain decreases of the level it hit, the earliest first, within 100 ms of it."""
    side = "yes" if message["taker_side"] == "no" else "no"
    price = message["yes_price"] * 100 if "yes_price" in message else exact(message["yes_price_dollars"], DOLLAR)
    level = (side, price if side == "yes" else DOLLAR - price)
    left = message["count"] * HUNDREDTHS if "count" in message else exact(message["count_fp"], HUNDREDTHS)
    for row in range(market.row_at(time - 101) + 1, market.row_at(time + 100) + 1):
        if level in market.changes[row]:
            decrease = max(market.before[row][level] - market.changes[row][level], 0)
            part = min(left, decrease - market.traded[row].get(level, 0))
            market.traded[row][level] = market.traded[row].get(level, 0) + part
            left -= part


def event_times(events: list[dict[str, Any]]) -> list[int]:
    """Epoch ms of each event of one market, in order.

    A delta has the exchange's time. A snapshot has none: it is no later than its receipt and no later than the next
    delta. Times never run backwards.
    """
    times: list[int] = []
    for i, event in enumerate(events):
        if event["type"] == "orderbook_delta":
            time = delta_time(event)
        else:
            next_delta = next((e for e in events[i + 1 :] if e["type"] == "orderbook_delta"), None)
            time = event["recv_ms"] if next_delta is None else min(event["recv_ms"], delta_time(next_delta))
        times.append(max(time, times[-1]) if times else time)
    return times


def delta_time(event: dict[str, Any]) -> int:
    """Epoch ms of a delta: `ts_ms`, else the ISO time `ts` (fractions of a ms cut off), else the recorder's clock."""
    message = event["msg"]
    if "ts_ms" in message:
        return message["ts_ms"]
    if "ts" in message:
        return epoch_ms(message["ts"])
    return event["recv_ms"]


def epoch_ms(iso: str) -> int:
    """Epoch ms of an ISO time, fractions of a ms cut off."""
    return (datetime.fromisoformat(iso) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def replay_market(ticker: str, times: list[int], events: list[dict[str, Any]]) -> Market:
    """Replay one market: all its events of one ms are one row."""
    market = Market(ticker)
    levels: dict[Level, int] = {}  # exact sizes, all above zero
    i = 0
    while i < len(events):
        before, time, first = dict(levels), times[i], i
        while i < len(events) and times[i] == time:
            apply(levels, events[i])
            i += 1
        has_snapshot = any(event["type"] == "orderbook_snapshot" for event in events[first:i])
        market.restarts.append(first > 0 and has_snapshot)
        market.times.append(time)
        market.changes.append({level: levels.get(level, 0) for level, _ in before.items() ^ levels.items()})
        market.before.append({level: before.get(level, 0) for level in market.changes[-1]})
        market.traded.append({})
        for level in market.changes[-1]:
            market.changed_in[level].append(len(market.changes) - 1)
        last = market.book(len(market.shown) - 1)
        market.shown.append({side: displayed(levels, side, last[side]) for side in SIDES})
        market.quoted.append(quote(market.shown[-1], market.quoted[-1] if market.quoted else (0, DOLLAR)))
    return market


def apply(levels: dict[Level, int], event: dict[str, Any]) -> None:
    """Apply one snapshot or delta to the exact sizes of a market."""
    message = event["msg"]
    if event["type"] == "orderbook_snapshot":
        levels.clear()
        levels.update(snapshot_levels(message))
        return
    level = (message["side"], delta_price(message))
    size = levels.pop(level, 0) + delta_size(message)
    if size < 0:
        raise ValueError(f"{message}: the level would hold {size} hundredths; the oracle reads clean recordings only")
    if size > 0:
        levels[level] = size


def snapshot_levels(message: dict[str, Any]) -> Iterator[tuple[Level, int]]:
    """Read the levels of a snapshot of either generation; an empty side has no key, and a size of zero is no level."""
    for side in SIDES:
        old = [((side, cents * 100), contracts * HUNDREDTHS) for cents, contracts in message.get(side, [])]
        new = [
            ((side, exact(dollars, DOLLAR)), exact(contracts, HUNDREDTHS))
            for dollars, contracts in message.get(f"{side}_dollars_fp", [])
        ]
        yield from ((level, size) for level, size in old + new if size > 0)


def delta_price(message: dict[str, Any]) -> int:
    return message["price"] * 100 if "price" in message else exact(message["price_dollars"], DOLLAR)


def delta_size(message: dict[str, Any]) -> int:
    return message["delta"] * HUNDREDTHS if "delta" in message else exact(message["delta_fp"], HUNDREDTHS)


def exact(text: str, scale: int) -> int:
    """Read a decimal string as a whole number of 1/scale."""
    scaled = Decimal(text) * scale
    if scaled != int(scaled):
        raise ValueError(f"{text} is not a whole number of 1/{scale}")
    return int(scaled)


def displayed(levels: dict[Level, int], side: Side, last: Shown) -> Shown:
    """The best ten bids of a side, sizes floored to whole contracts; `last` itself if equal, to save memory."""
    prices = sorted((price for at, price in levels if at == side), reverse=True)[:DEPTH]
    shown = tuple((price, levels[side, price] // HUNDREDTHS) for price in prices)
    return last if shown == last else shown


def quote(book: dict[Side, Shown], last: tuple[int, int]) -> tuple[int, int]:
    """(bid, ask) of the marks after a row, given those after the row before."""
    if not book["yes"] and not book["no"]:
        return last
    return best_price(book["yes"]), DOLLAR - best_price(book["no"])
