"""Hand-made and random sessions in both message generations. Prices in cents, sizes in contracts, times in ms."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.reference.books import Close, replay
from tests.reference.environment import ReferenceEnv

Frame = dict[str, Any]
Number = int | float | Decimal

HOLD = 0
BUY_YES, SELL_YES, BUY_NO, SELL_NO = 1, 2, 3, 4  # NOW; add WAIT to rest
WAIT = 4


def begin(
    frames: list[Frame],
    tickers: tuple[str | None, ...] = ("A",),
    start_ms: int = 0,
    closes: Mapping[str, Close] | None = None,
    **params: Any,
) -> ReferenceEnv:
    """Start the oracle on markets of hand-made frames."""
    session = replay(frames, closes)
    env = ReferenceEnv(**params)
    env.start([session.markets[ticker] if ticker else None for ticker in tickers], start_ms)
    return env


def act(env: ReferenceEnv, *actions: int) -> dict[str, Any]:
    """Take one step with one action per market slot, for one order slot."""
    return env.step([[action] for action in actions])


def snapshot(
    at: int, yes: Mapping[Number, Number], no: Mapping[Number, Number], ticker: str = "A", fixed=False
) -> Frame:
    """A snapshot received at a time: price -> size per side; the fixed-point generation if `fixed`."""
    message: dict[str, Any] = {"market_ticker": ticker}
    for side, levels in (("yes", yes), ("no", no)):
        if levels and fixed:
            message[f"{side}_dollars_fp"] = [[dollars(p), f"{levels[p]:.2f}"] for p in sorted(levels)]
        elif levels:
            message[side] = [[int(p), int(levels[p])] for p in sorted(levels)]
    return {"recv_ms": at, "type": "orderbook_snapshot", "sid": 1, "msg": message}


def delta(at: int, side: str, price: Number, change: Number, ticker: str = "A", ts_ms: int | None = None) -> Frame:
    """A delta received at a time; the fixed-point generation if it has the exchange's time `ts_ms`."""
    message: dict[str, Any] = {"market_ticker": ticker, "side": side}
    if ts_ms is None:
        message |= {"price": int(price), "delta": int(change)}
    else:
        message |= {"price_dollars": dollars(price), "delta_fp": f"{change:.2f}", "ts_ms": ts_ms}
    return {"recv_ms": at, "type": "orderbook_delta", "sid": 1, "msg": message}


def print_of(at: int, side: str, price: Number, size: Number, ticker: str = "A", ts_ms: int | None = None) -> Frame:
    """The print of a trade that hit a bid; the fixed-point generation if it has the exchange's time `ts_ms`."""
    yes = price if side == "yes" else 100 - price
    message: dict[str, Any] = {"market_ticker": ticker, "taker_side": "no" if side == "yes" else "yes"}
    if ts_ms is None:
        message |= {"yes_price": int(yes), "no_price": int(100 - yes), "count": int(size), "ts": at // 1000}
    else:
        message |= {"yes_price_dollars": dollars(yes), "no_price_dollars": dollars(100 - yes)}
        message |= {"count_fp": f"{size:.2f}", "ts_ms": ts_ms}
    return {"recv_ms": at, "type": "trade", "sid": 2, "msg": message}


def dollars(cents: Number) -> str:
    return f"{Decimal(cents) / 100:.4f}"


def resting(after: dict[str, Any], k: int = 0, slot: int = 0) -> tuple[str, int, int, int] | None:
    """The side, price, remaining and front of a resting order in a report."""
    order = after["orders"][slot][k]
    return order and (order["side"], order["price"], order["remaining"], order["front"])


def again(at: int, book: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same snapshots received at another time."""
    return [frame | {"recv_ms": at} for frame in book]


def numbered(frames: Iterable[Frame]) -> list[Frame]:
    """The frames with the sequence numbers of one subscription."""
    count = itertools.count(1)
    return [frame if frame["type"] == "trade" else frame | {"seq": next(count)} for frame in frames]


def write_recording(path: Path, frames: Iterable[Frame]) -> Path:
    """Write frames as a recording, one JSON object a line."""
    path.write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    return path


def random_frames(seed: int, tickers: Iterable[str] = ("A",), moments: int = 300, fixed: bool = False) -> list[Frame]:
    """A random session: books that are never crossed after a moment, with trades through, new snapshots and empty books.

    The fixed-point generation has tenths of a cent, fractional contracts and an exchange clock that at times runs backwards.
    """
    rng = random.Random(seed)
    tick, unit = (Decimal("0.1"), Decimal("0.01")) if fixed else (Decimal(1), Decimal(1))
    books: dict[str, dict[str, dict[Any, Any]]] = {ticker: {"yes": {}, "no": {}} for ticker in tickers}
    now = 1_700_000_000_000
    frames = []

    def change(ticker: str, side: str, price: Decimal, size: Decimal, ts_ms: int) -> None:
        levels = books[ticker][side]
        frames.append(delta(now, side, price, size, ticker, ts_ms if fixed else None))
        if size < 0 and rng.random() < 0.6:  # a print explains some of what goes, at its time or not
            part = (-size * rng.choice([10, 10, 3]) / 10).quantize(unit)
            if part > 0:
                late = rng.choice([0, 20, 20, 90, 400])
                frames.append(print_of(now + late, side, price, part, ticker, ts_ms + late if fixed else None))
        levels[price] = levels.get(price, Decimal(0)) + size
        if levels[price] == 0:
            del levels[price]

    for ticker, book in books.items():
        middle = rng.randrange(20, 80)
        for side, best in (("yes", middle - 1), ("no", 100 - middle - 1)):
            book[side] |= {best - i * tick: rng.randrange(1, 4000) * unit for i in range(rng.randrange(15))}
        frames.append(snapshot(now, book["yes"], book["no"], ticker, fixed))
    for _ in range(moments):
        now += rng.choice([0, 1, 1, 7, 60, 400])
        ticker, ts_ms = rng.choice(list(books)), now + rng.choice([0, 0, 0, -3, 3])
        book = books[ticker]
        if rng.random() < 0.03:
            if rng.random() < 0.4:
                book["yes"], book["no"] = {}, {}
            frames.append(snapshot(now, book["yes"], book["no"], ticker, fixed))
            continue
        for _ in range(rng.randrange(1, 4)):
            side = rng.choice(["yes", "no"])
            other = "no" if side == "yes" else "yes"
            if book[side] and rng.random() < 0.5:  # a level shrinks or goes
                price = rng.choice(sorted(book[side])[-4:])
                size = book[side][price]
                part = size if rng.random() < 0.6 else (size * rng.randrange(1, 9) / 10).quantize(unit)
                if part > 0:
                    change(ticker, side, price, -part, ts_ms)
                continue
            top = max(book[side], default=Decimal(rng.randrange(20, 60)))
            price = min(max(top + rng.randrange(-4, 4) * tick, tick), 100 - tick)
            for crossed in [p for p in book[other] if p + price >= 100]:  # it trades with what it crosses
                change(ticker, other, crossed, -book[other][crossed], ts_ms)
            change(ticker, side, price, rng.randrange(1, 3000) * unit, ts_ms)
    return numbered(frames)


# YES bids 40 (20), 39 (30); NO bids 50 (5), 49 (8), 48 (100): YES is bid 40, asked 50
BOOK = [snapshot(0, {40: 20, 39: 30}, {50: 5, 49: 8, 48: 100})]
LATER = delta(1000, "yes", 1, 1)  # something far from the touch, so that time has somewhere to go
DEEP = snapshot(0, {40: 50}, {50: 50})
