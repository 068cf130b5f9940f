"""Closes: a market whose close time is known ends there, with an empty book; what was recorded later is counted out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from loaders.events import Events, Kind, MarketFacts
from loaders.replay import begins_message

AFTER_CLOSE = "delta at or after the close of its market"
NEVER = np.iinfo(np.int64).max


def close_markets(events: Events) -> Events:
    """End markets at their close times, where the session's recording reaches that far.

    Such a market's events from then on are left out, and a last one empties its book. A market without an event before its
    close is left out whole. Closing twice changes nothing more.

    Args:
        events: of one session; its report counts the deltas left out (snapshots after a close say nothing and stay counted as
            snapshots).
    """
    known = [events.facts.get(ticker, MarketFacts()).close_ms for ticker in events.tickers]
    last = events.time_ms.max(initial=-1)
    close = np.array([NEVER if ms is None or ms > last else ms for ms in known], np.int64)
    late = events.time_ms >= close[events.market] if len(close) else np.zeros(0, bool)
    if not late.any() and (close == NEVER).all():
        return events
    kept = ~late
    closing = np.intersect1d(np.flatnonzero(close < NEVER), events.market[kept])
    deltas = np.flatnonzero(late & _is_delta(events))
    if len(deltas):
        events.report.deltas -= len(deltas)
        place = f"market {events.tickers[events.market[deltas[0]]]} at {events.time_ms[deltas[0]]}"
        events.report.drop(AFTER_CLOSE, place, len(deltas))
    zero = np.zeros(len(closing), np.int64)
    columns = {
        "market": closing,
        "time_ms": close[closing],
        "kind": np.full(len(closing), Kind.CLEAR),
        **dict.fromkeys(("side", "price", "size"), zero),
    }
    joined: dict[str, Any] = {}
    for name, values in columns.items():
        old = getattr(events, name)
        joined[name] = np.concatenate([old[kept], values.astype(old.dtype)])
    return replace(events, **joined)


def _is_delta(events: Events) -> np.ndarray:
    """Tell which events are deltas, bool[n]: messages that do not empty a book."""
    order = np.argsort(events.market, kind="stable")
    market, time, kind = events.market[order], events.time_ms[order], events.kind[order]
    new_row = np.append(True, (market[1:] != market[:-1]) | (time[1:] != time[:-1]))[: len(order)]
    delta = np.empty(len(order), bool)
    delta[order] = begins_message(kind, new_row) & (kind != Kind.CLEAR)
    return delta
