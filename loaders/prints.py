"""Trade prints explain decreases of resting sizes: which part of what left a level was traded, not cancelled."""

from __future__ import annotations

import numpy as np

from kalshi_jax.tape import NO, YES
from loaders.events import Trades
from loaders.replay import PRICES, Replay

WINDOW_MS = 100  # a level's decrease and its trade print lie at most this far apart, in either order


def match_prints(replayed: Replay, trades: Trades) -> tuple[np.ndarray, int]:
    """Match trade prints with decreases of the level they hit.

    A print whose taker sold YES (`taker_side` NO) hit the YES bid at its price, one whose taker bought YES the NO bid at a
    dollar less its price. In order of time each takes what it needs of the decreases of that level within `WINDOW_MS`, the
    earliest first.

    Args:
        replayed: the session's replay.
        trades: its prints, with `Events.tickers` as market numbers.

    Returns:
        i64[N], how much of each entry's decrease was traded (0.01 contract), and the number of prints that found less than
        their own size.
    """
    entries = replayed.entries
    left = np.maximum(entries.before - entries.size, 0)  # of each decrease, not yet explained
    decrease = left.copy()
    time = replayed.time_ms[entries.step]

    side = np.where(trades.taker_side == NO, YES, NO)
    price = np.where(side == YES, trades.yes_price, PRICES - trades.yes_price)
    market = np.searchsorted(replayed.markets, trades.market)
    known = np.isin(trades.market, replayed.markets)
    level = (market * 2 + side) * PRICES + price
    begin, end = np.searchsorted(entries.level, level), np.searchsorted(entries.level, level, side="right")
    unmatched = int((~known).sum())
    for i in np.flatnonzero(known)[np.argsort(trades.time_ms[known], kind="stable")]:
        first, last = begin[i] + np.searchsorted(
            time[begin[i] : end[i]], (trades.time_ms[i] - WINDOW_MS, trades.time_ms[i] + WINDOW_MS + 1)
        )
        wanted = trades.size[i]
        free = left[first:last]
        part = np.minimum(free, np.maximum(wanted - (np.cumsum(free) - free), 0))
        left[first:last] -= part
        unmatched += int(part.sum() < wanted)
    return decrease - left, unmatched
