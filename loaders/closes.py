"""Closes: a market whose close time is known ends there, with an empty book; what was recorded later is counted out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from loaders.events import Events, Kind, MarketFacts

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
    deltas = int((late & _is_delta(events)).sum())
    if deltas:
        events.report.deltas -= deltas
        events.report.dropped[AFTER_CLOSE] = events.report.dropped.get(AFTER_CLOSE, 0) + deltas
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
    """Tell which events are deltas, bool[n]: those that neither begin a snapshot nor are a level of one."""
    kind, market = events.kind, events.market
    order = np.argsort(market, kind="stable")
    head = kind[order] != Kind.SET
    first = np.append(True, market[order][1:] != market[order][:-1])[: len(order)]
    at = np.maximum.accumulate(np.where(head | first, np.arange(len(order)), 0))
    of_snapshot = (kind[order] == Kind.SET) & (kind[order][at] == Kind.CLEAR)
    # a SET in a later moment than the CLEAR before it is a change by itself, not a level of the snapshot
    of_snapshot &= events.time_ms[order] == events.time_ms[order][at]
    delta = np.empty(len(order), bool)
    delta[order] = (kind[order] != Kind.CLEAR) & ~of_snapshot
    return delta
