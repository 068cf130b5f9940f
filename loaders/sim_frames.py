"""A simulated session as a recording: the frames that the exchange would have sent."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from kalshi_jax.tape import DOLLAR, NO, YES
from loaders.events import HUNDREDTHS, Events, Kind
from loaders.exchange_sim import SimSession, simulate_session
from loaders.sim_config import SimConfig

ORDERBOOK, TRADE, TICKER, LIFECYCLE = 1, 2, 3, 4  # subscriptions


def write_frames(config: SimConfig, path: str | Path, session: int = 0) -> SimSession:
    """Write one session as a recording: exchange frames of the fixed-point generation, gzipped, one JSON a line.

    The first line is an acknowledgement whose message says that the session is simulated, and how. Besides snapshots
    and deltas there are trade frames, and ticker frames once a second for books that changed.

    Args:
        config: what to simulate.
        path: the file, `*.jsonl.gz`.
        session: which session of the configuration.

    Returns:
        The session that was written; `true_queue.write_orders` writes whose orders its deltas are.
    """
    simulated = simulate_session(config, session)
    head = {"type": "ok", "msg": {"simulated": config.spec, "session": session}}
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(orjson.dumps({"recv_ms": int(simulated.events.time_ms[0])} | head) + b"\n")
        for frame in _frames(simulated.events):
            file.write(orjson.dumps(frame) + b"\n")
    return simulated


def _frames(events: Events) -> Iterator[dict[str, Any]]:
    """Give the frames of a session in the order of their time: changes, then their trades, then tickers."""
    tape = _Frames(events)
    trades = events.trades
    next_trade, next_second = 0, (int(events.time_ms[0]) // 1000 + 1) * 1000
    columns = (events.market, events.time_ms, events.kind, events.side, events.price, events.size)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    for market in range(len(events.tickers)):
        yield tape.lifecycle(market, rows[0][1], "created")
    position = 0
    while position < len(rows):
        now = rows[position][1]
        while next_trade < len(trades.market) and trades.time_ms[next_trade] < now:
            yield tape.trade(next_trade)
            next_trade += 1
        if now > next_second:
            yield from tape.tickers(next_second)
            next_second = (now - 1) // 1000 * 1000 + 1000
        end = position + 1
        if rows[position][2] == Kind.CLEAR:
            while end < len(rows) and rows[end][0] == rows[position][0] and rows[end][2] == Kind.SET:
                end += 1
            yield tape.snapshot(rows[position:end])
        else:
            yield tape.delta(rows[position])
        position = end
    for market in range(len(events.tickers)):
        yield tape.lifecycle(market, rows[-1][1], "determined")


class _Frames:
    """Numbers the messages of each subscription and keeps the books that tickers quote."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.books: list[tuple[dict[int, int], dict[int, int]]] = [({}, {}) for _ in events.tickers]
        self.changed: set[int] = set()
        self.last_trade = [(0, 0)] * len(events.tickers)  # YES price, size
        self.volume = [0] * len(events.tickers)
        self.sequence = {ORDERBOOK: 0, TRADE: 0, TICKER: 0, LIFECYCLE: 0}

    def snapshot(self, rows: list[tuple[int, ...]]) -> dict[str, Any]:
        """Make the frame of a CLEAR and its SETs."""
        market, now = rows[0][:2]
        self.books[market] = ({}, {})
        for _, _, _, side, price, size in rows[1:]:
            self.books[market][side][price] = size
        levels = {
            f"{name}_dollars_fp": [[_dollars(price), _contracts(size)] for price, size in sorted(book.items())]
            for name, book in zip(("yes", "no"), self.books[market], strict=True)
            if book
        }
        return self._frame(ORDERBOOK, "orderbook_snapshot", now, market, levels)

    def delta(self, row: tuple[int, ...]) -> dict[str, Any]:
        """Make the frame of an ADD."""
        market, now, _, side, price, size = row
        book = self.books[market][side]
        book[price] = book.get(price, 0) + size
        self.changed.add(market)
        change = {"price_dollars": _dollars(price), "delta_fp": _contracts(size), "side": ("yes", "no")[side]}
        return self._frame(ORDERBOOK, "orderbook_delta", now, market, change | {"ts_ms": now})

    def trade(self, number: int) -> dict[str, Any]:
        """Make the frame of a trade."""
        trades = self.events.trades
        market, now, price, size = (
            int(column[number]) for column in (trades.market, trades.time_ms, trades.yes_price, trades.size)
        )
        self.last_trade[market] = (price, size)
        self.volume[market] += size
        message = {
            "trade_id": f"{self.events.session_id}-{number}",
            "yes_price_dollars": _dollars(price),
            "no_price_dollars": _dollars(DOLLAR - price),
            "count_fp": _contracts(size),
            "taker_side": ("yes", "no")[trades.taker_side[number]],
            "ts_ms": now,
        }
        return self._frame(TRADE, "trade", now, market, message)

    def lifecycle(self, market: int, now: int, event: str) -> dict[str, Any]:
        """Make the frame that tells of a market's close time, and once it is determined of its result."""
        facts = self.events.facts[self.events.tickers[market]]
        assert facts.close_ms is not None, "the simulated exchange knows when its markets close"
        message: dict[str, Any] = {"event_type": event, "close_ts": facts.close_ms // 1000}
        if event == "determined":
            message["result"] = "yes" if facts.result == DOLLAR else "no"
        return self._frame(LIFECYCLE, "market_lifecycle_v2", now, market, message)

    def tickers(self, now: int) -> Iterator[dict[str, Any]]:
        """Make the frames of the markets that changed since the last ones."""
        for market in sorted(self.changed):
            best = [max((p for p, size in book.items() if size), default=0) for book in self.books[market]]
            sizes = [_contracts(book.get(price, 0)) for book, price in zip(self.books[market], best, strict=True)]
            last_price, last_size = self.last_trade[market]
            message = {
                "price_dollars": _dollars(last_price),
                "last_trade_size_fp": _contracts(last_size),
                "volume_fp": _contracts(self.volume[market]),
                "yes_bid_dollars": _dollars(best[YES]),
                "yes_ask_dollars": _dollars(DOLLAR - best[NO]),
                "yes_bid_size_fp": sizes[YES],
                "yes_ask_size_fp": sizes[NO],
                "no_bid_size_fp": sizes[NO],
                "no_ask_size_fp": sizes[YES],
                "ts_ms": now,
            }
            yield self._frame(TICKER, "ticker", now, market, message)
        self.changed.clear()

    def _frame(self, sid: int, kind: str, now: int, market: int, message: dict[str, Any]) -> dict[str, Any]:
        self.sequence[sid] += 1
        ticker = self.events.tickers[market]
        message = {"market_ticker": ticker, "market_id": f"id-{ticker}"} | message
        return {"recv_ms": now, "type": kind, "sid": sid, "seq": self.sequence[sid], "msg": message}


def _dollars(price: int) -> str:
    return f"{price / DOLLAR:.4f}"


def _contracts(size: int) -> str:
    return f"{size / HUNDREDTHS:.2f}"
