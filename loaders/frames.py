"""Frames: what one exchange message says, read in bulk into columns.

Both generations of the format are understood: integer cents and contracts, and fixed-point dollars with fractional
contracts. A frame that makes no sense gets a fault here and is left out and counted by `loaders.recordings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat

import numpy as np

from loaders.events import HUNDREDTHS, Trades

SNAPSHOT, DELTA, TRADE, TICKER, OTHER, UNKNOWN = range(6)
LIFECYCLE = "market_lifecycle_v2"
FRAME_TYPES = {
    "orderbook_snapshot": SNAPSHOT,
    "orderbook_delta": DELTA,
    "trade": TRADE,
    **dict.fromkeys(("ticker", "ticker_v2"), TICKER),
    **dict.fromkeys(("ok", "error", "subscribed", "unsubscribed", "fill", "market_position", "user_order"), OTHER),
    **dict.fromkeys((LIFECYCLE, "event_lifecycle", "multivariate_lookup"), OTHER),
}
SIDES = {"yes": 0, "no": 1}
PRICE_KEYS = (("price_dollars", 10_000), ("price", 100))  # key and its worth in 0.01 cent, newest first
SIZE_KEYS = (("delta_fp", HUNDREDTHS), ("delta", HUNDREDTHS))
TRADE_PRICE_KEYS = (("yes_price_dollars", 10_000), ("yes_price", 100))
TRADE_SIZE_KEYS = (("count_fp", HUNDREDTHS), ("count", HUNDREDTHS))
LEVEL_KEYS = (("_dollars_fp", 10_000), ("_dollars", 10_000), ("", 100))  # after "yes" or "no"
LARGEST = 2.0**40  # of a size in 0.01 contract: sums of millions of them stay exact
LATEST_MS = 2.0**52
NAN = float("nan")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

REASONS = (  # why a frame is left out; its fault is the position here
    "",
    "unknown frame type",
    "no market_ticker",
    "side neither yes nor no",
    "price not a number inside (0, 1) dollars on the 0.01-cent grid",
    "size not a number of hundredths of a contract",
    "no time",
    "snapshot with an unreadable level",
    "delta before a snapshot of its market",
    "delta after a sequence gap, before the next snapshot of its market",
)
BAD_TYPE, NO_MARKET, BAD_SIDE, BAD_PRICE, BAD_SIZE, NO_TIME, BAD_LEVELS, NO_BOOK, AFTER_GAP = range(1, 10)


def message_of(frame: dict) -> dict:
    """Take a frame's message; an empty one where it has none."""
    message = frame.get("msg")
    return message if isinstance(message, dict) else {}


def frame_columns(frames: list[dict], tickers: dict[str, int]) -> dict[str, np.ndarray]:
    """Turn frames into columns of one value a frame.

    Args:
        frames: parsed frames.
        tickers: market numbers by ticker; grows by the markets seen.

    Returns:
        type i8, sid f64 (-1: none), seq f64 (NaN: none), recv_ms i64 and time_ms i64 (-1: none), market i32 (-1: none), side i8
        (-1: none), price i64 in 0.01 cent, size i64 in 0.01 contract, fault i8 (an index into `REASONS`, 0: none).
    """
    messages = [message if type(message := frame.get("msg")) is dict else {} for frame in frames]
    names = [name if type(name := message.get("market_ticker")) is str else None for message in messages]
    types = _codes([frame.get("type") for frame in frames], FRAME_TYPES, UNKNOWN).astype(np.int8)
    for name in dict.fromkeys(name for name, kind in zip(names, types.tolist(), strict=True) if kind != OTHER):
        if name is not None:  # of the exchange's other markets, other frames may speak
            tickers.setdefault(name, len(tickers))
    column = {
        "type": types,
        "sid": np.nan_to_num(_numbers([frame.get("sid", NAN) for frame in frames]), nan=-1.0),
        "seq": _numbers([frame.get("seq", NAN) for frame in frames]),
        "recv_ms": _times(_numbers([frame.get("recv_ms", NAN) for frame in frames])),
        "market": _codes(names, tickers, -1),
        "side": _sides(messages, "side"),
        "time_ms": _times(_numbers([message.get("ts_ms", NAN) for message in messages])),
    }
    delta = column["type"] == DELTA
    missing = np.flatnonzero((column["time_ms"] < 0) & delta)
    column["time_ms"][missing] = [_iso_ms(messages[i].get("ts")) for i in missing]
    column["price"], good_price = _scaled(messages, PRICE_KEYS)
    column["size"], good_size = _scaled(messages, SIZE_KEYS)
    good_price &= (column["price"] > 0) & (column["price"] < 10_000)
    untimed = (column["time_ms"] < 0) & (column["recv_ms"] < 0)
    faults = {
        BAD_TYPE: column["type"] == UNKNOWN,
        NO_MARKET: (column["type"] <= DELTA) & (column["market"] < 0),
        BAD_SIDE: delta & (column["side"] < 0),
        BAD_PRICE: delta & ~good_price,
        BAD_SIZE: delta & ~good_size,
        NO_TIME: delta & untimed,
    }
    column["fault"] = np.select(list(faults.values()), list(faults)).astype(np.int8)
    return column


def snapshot_levels(message: dict) -> np.ndarray | None:
    """Read a snapshot's levels: i64[levels, 3] of side, price and size; None if one cannot be read or is given twice."""
    parts = []
    for name, side in SIDES.items():
        key, unit = next(((name + end, unit) for end, unit in LEVEL_KEYS if message.get(name + end)), ("", 1))
        pairs = message.get(key, [])
        if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
            return None
        price, good_price = _exact(_numbers([pair[0] for pair in pairs]), unit)
        size, good_size = _exact(_numbers([pair[1] for pair in pairs]), HUNDREDTHS)
        fits = good_price & good_size & (price > 0) & (price < 10_000) & (size >= 0)
        if not fits.all() or len(set(price.tolist())) < len(price):
            return None
        parts.append(np.stack([np.full(len(pairs), side), price, size], axis=1))
    return np.concatenate(parts)


def read_trades(frames: list[dict], columns: dict[str, np.ndarray]) -> tuple[Trades, np.ndarray]:
    """Read the trade frames among frames, and mark their faults in `columns["fault"]`.

    Block trades happen off the book and are left out. A time in whole seconds (`ts`) is too coarse to order trades
    among deltas: the recorder's clock stands in for it.

    Returns:
        The trades, and bool[n] of the frames that are block trades.
    """
    at = np.flatnonzero(columns["type"] == TRADE)
    messages = [message_of(frames[i]) for i in at]
    price, good_price = _scaled(messages, TRADE_PRICE_KEYS)
    size, good_size = _scaled(messages, TRADE_SIZE_KEYS)
    side, market, own = _sides(messages, "taker_side"), columns["market"][at], columns["time_ms"][at]
    time = np.where(own >= 0, own, columns["recv_ms"][at])
    off_book = np.array([message.get("is_block_trade") is True for message in messages], bool)
    faults = {
        NO_MARKET: market < 0,
        BAD_SIDE: side < 0,
        BAD_PRICE: ~good_price | (price <= 0) | (price >= 10_000),
        BAD_SIZE: ~good_size | (size <= 0),
        NO_TIME: time < 0,
    }
    fault = np.where(off_book, 0, np.select(list(faults.values()), list(faults)))
    columns["fault"][at] = fault
    use = ~off_book & (fault == 0)
    block_trade = np.zeros(len(frames), bool)
    block_trade[at] = off_book
    return Trades(market[use], time[use], price[use].astype(np.int32), size[use], side[use]), block_trade


def _numbers(values: list) -> np.ndarray:
    """Convert to f64[n]; NaN for whatever is no number, true and false included."""
    try:
        if bool in set(map(type, values)):
            raise TypeError("a truth value is no number")
        return np.fromiter(map(float, values), np.float64, len(values))
    except (TypeError, ValueError):
        return np.array([_number(value) for value in values], np.float64)


def _codes(names: list, codes: Mapping[str, int], unknown: int) -> np.ndarray:
    """Look each name up, i32[n]; whatever is no name is unknown."""
    try:
        return np.fromiter(map(codes.get, names, repeat(unknown)), np.int32, len(names))
    except TypeError:  # a list or an object, which cannot be looked up, stands where a name should
        return np.array([codes.get(name, unknown) if isinstance(name, str) else unknown for name in names], np.int32)


def _number(value: object) -> float:
    try:
        return NAN if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return NAN


def _exact(values: np.ndarray, unit: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale to integers of 1/unit: i64[n], and bool[n] that is false where a value is no such integer (it becomes 0)."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = values * unit
        whole = np.rint(scaled)
        good = (np.abs(scaled - whole) < 1e-3) & (np.abs(whole) < LARGEST)
    return np.where(good, whole, 0).astype(np.int64), good


def _scaled(messages: list[dict], keys: Sequence[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Take each message's number under the first of the keys that has one, as integers: see `_exact`."""
    values, units = np.full(len(messages), NAN), np.ones(len(messages))
    for key, unit in keys:
        missing = np.flatnonzero(np.isnan(values))
        if missing.size:
            chosen = messages if missing.size == len(messages) else [messages[i] for i in missing]
            values[missing] = _numbers([message.get(key, NAN) for message in chosen])
            units[missing] = unit
    return _exact(values, units)


def _sides(messages: list[dict], key: str) -> np.ndarray:
    return _codes([message.get(key) for message in messages], SIDES, -1).astype(np.int8)


def _times(values: np.ndarray) -> np.ndarray:
    return np.where((values >= 0) & (values < LATEST_MS), values, -1).astype(np.int64)


def _iso_ms(text: object) -> int:
    """Convert an ISO date and time to epoch ms, rounded down; -1 if it is none. One without a zone is UTC."""
    if not isinstance(text, str):
        return -1
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return -1
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // timedelta(milliseconds=1)
