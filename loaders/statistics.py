"""Statistics of a replayed session: how busy, how tight, how deep and how restless its books were.

Computed once, when a session is read, and kept with the index; quality, curriculum classes and the catalogue's page are
made of them. Where it says "of the time", a row counts for as long as its book stayed, up to the market's close or the
session's end (each row alike in a session that is over at once).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kalshi_jax.tape import CENT, DOLLAR, NO, YES
from loaders.events import HUNDREDTHS
from loaders.replay import PRICES, Replay

QUIET_S = 30.0  # a longer gap is quiet, as the observation's feature of that name has it
NEAR = 5 * CENT  # levels within five cents of the best one are near it
MOMENTS = 500  # at which depth is read, evenly spread over the time of each market, shared out among the markets
SPANS = 60  # equal parts of the session's time in which changes are counted
SPREAD_EDGES = (0.0, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # cents; a bin holds its upper edge
DEPTH_EDGES = (0, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)  # contracts, likewise; one more bin above
GAP_EDGES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # s, likewise; one more bin above
QUANTILES = (0.1, 0.5, 0.9)
GAP_QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class MarketStatistics:
    """One market of a session."""

    rows: int
    seconds: float  # from its first row to its close or the session's end
    quoted_share: float  # of the time: bids on both sides that do not cross
    spread_cents: float | None  # mean of the quoted time; None: never quoted
    volatility: float | None  # cents per root second, see `_squares`; None: quoted for less than a second


@dataclass(frozen=True)
class SessionStatistics:
    """One session, over all its markets; all zero or None where no market showed a book."""

    activity: float = 0.0  # changes (rows but each market's first) a second and market
    quiet_share: float = (
        0.0  # of the session's time that lies in gaps of more than QUIET_S between changes of any market
    )
    gap_s: tuple[float, ...] = (0.0,) * len(GAP_QUANTILES)  # GAP_QUANTILES of those gaps, each gap counting once
    quoted_share: float = 0.0  # of the markets' time: bids on both sides that do not cross
    spread_cents: float | None = None  # mean of the quoted time
    spread_quantiles: tuple[float, ...] | None = None  # QUANTILES of it, cents
    depth_best: float | None = None  # contracts at a side's best bid, median over moments and sides that have one
    depth_near: float | None = None  # contracts within NEAR of it, likewise
    volatility: float | None = None  # cents per root second, of all markets together
    changes_histogram: tuple[int, ...] = (0,) * SPANS  # rows in each of SPANS equal parts of the session's time
    spread_histogram: tuple[float, ...] = (0.0,) * (len(SPREAD_EDGES) - 1)  # share of the quoted time, by SPREAD_EDGES
    depth_histogram: tuple[int, ...] = (0,) * len(DEPTH_EDGES)  # moments and sides by contracts at the best bid
    gap_histogram: tuple[int, ...] = (0,) * len(GAP_EDGES)  # gaps by length

    @staticmethod
    def from_json(values: dict[str, Any]) -> SessionStatistics:
        """Make them of what `dataclasses.asdict` gave, after a way through JSON."""
        columns: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return SessionStatistics(**columns)


def measure(replayed: Replay) -> tuple[SessionStatistics, list[MarketStatistics]]:
    """Measure a replayed session, and each of its markets in their order."""
    if not len(replayed.time_ms):
        return SessionStatistics(), []
    first_row, time = replayed.first_row, replayed.time_ms
    rows = np.diff(first_row)
    market = np.repeat(np.arange(len(rows)), rows)
    last = first_row[1:] - 1
    stop_ms = np.where(replayed.ends, time[last], time.max())  # of each market
    following = np.append(time[1:], 0)
    following[last] = stop_ms
    held = (following - time).astype(np.float64)
    weight = held if held.any() else np.ones(len(time))

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(market, values, minlength=len(rows))

    spread = DOLLAR - replayed.best.astype(np.int32).sum(axis=0)
    quoted = (replayed.best > 0).all(axis=0) & (spread > 0)
    quoted_weight = np.where(quoted, weight, 0.0)
    seconds, share_of, quoted_time = total(held) / 1000, total(weight), total(quoted_weight)
    spread_sum = total(quoted_weight * np.where(quoted, spread, 0)) / CENT
    squares, elapsed = _squares(replayed, market, quoted)
    markets = [
        MarketStatistics(
            rows=int(rows[m]),
            seconds=float(seconds[m]),
            quoted_share=_ratio(quoted_time[m], share_of[m]) or 0.0,
            spread_cents=_ratio(spread_sum[m], quoted_time[m]),
            volatility=_root(squares[m], elapsed[m]),
        )
        for m in range(len(rows))
    ]

    moments = np.unique(time)
    gaps = np.diff(moments) / 1000
    duration_ms = int(moments[-1] - moments[0])
    spreads = np.bincount(spread[quoted], weight[quoted], minlength=DOLLAR + 1)  # by spread in 0.01 cent
    seen, share = np.cumsum(spreads), spreads.sum()
    depth_best, depth_near = _depths(replayed, time[first_row[:-1]], stop_ms)
    return SessionStatistics(
        activity=_ratio(len(time) - len(rows), seconds.sum()) or 0.0,
        quiet_share=_ratio(gaps[gaps > QUIET_S].sum() * 1000, duration_ms) or 0.0,
        gap_s=tuple(np.quantile(gaps, GAP_QUANTILES).tolist()) if len(gaps) else (0.0,) * len(GAP_QUANTILES),
        quoted_share=_ratio(quoted_time.sum(), weight.sum()) or 0.0,
        spread_cents=_ratio(spread_sum.sum(), share),
        spread_quantiles=tuple((np.searchsorted(seen, np.array(QUANTILES) * share) / CENT).tolist()) if share else None,
        depth_best=float(np.median(depth_best)) if len(depth_best) else None,
        depth_near=float(np.median(depth_near)) if len(depth_near) else None,
        volatility=_root(squares.sum(), elapsed.sum()),
        changes_histogram=tuple(
            np.bincount((time - moments[0]) * SPANS // (duration_ms + 1), minlength=SPANS).tolist()
        ),
        spread_histogram=tuple(
            (np.diff(seen[np.rint(np.array(SPREAD_EDGES) * CENT).astype(int)]) / (share or 1.0)).tolist()
        ),
        depth_histogram=_histogram(depth_best, DEPTH_EDGES),
        gap_histogram=_histogram(gaps, GAP_EDGES),
    ), markets


def _squares(replayed: Replay, market: np.ndarray, quoted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum, for each market, the squared changes of its mid from second to second, and the seconds that passed.

    Of each second with a quoted row the last one counts, so that a book which flickers within a second is not restless;
    a pause is one change. The sum over the seconds is the market's variance a second.

    Returns:
        f64[m], square cents, and f64[m], s.
    """
    at = np.flatnonzero(quoted)
    book, second = market[at], replayed.time_ms[at] // 1000
    last = np.append((book[1:] != book[:-1]) | (second[1:] != second[:-1]), True)[: len(at)]
    at, book = at[last], book[last]
    mid = (replayed.best[YES, at].astype(np.int32) + DOLLAR - replayed.best[NO, at]) / (2 * CENT)
    same = book[1:] == book[:-1]
    count = len(replayed.markets)
    squares = np.bincount(book[1:][same], np.diff(mid)[same] ** 2, minlength=count)
    return squares, np.bincount(book[1:][same], np.diff(replayed.time_ms[at])[same] / 1000, minlength=count)


def _depths(replayed: Replay, start_ms: np.ndarray, stop_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the whole contracts at the best bid and near it, of each market and side at evenly spread moments.

    Args:
        replayed: a session of R rows.
        start_ms, stop_ms: i64[m], between which a market is looked at.

    Returns:
        i64[n] and i64[n], for every moment and side that has a bid.
    """
    entries, count = replayed.entries, len(replayed.markets)
    each = max(1, MOMENTS // count)
    market = np.repeat(np.arange(count), each)
    moment = start_ms[market] + (stop_ms - start_ms)[market] * (2 * np.tile(np.arange(each), count) + 1) // (2 * each)
    origin, span = replayed.time_ms.min(), np.ptp(replayed.time_ms) + 1
    track = np.repeat(np.arange(count), np.diff(replayed.first_row)) * span + replayed.time_ms - origin
    row = np.searchsorted(track, market * span + moment - origin, side="right") - 1

    place = np.flatnonzero(np.append(True, entries.level[1:] != entries.level[:-1])[: len(entries.level)])
    levels = entries.level[place]  # each one's entries begin at its place
    row, book = np.concatenate([row, row]), np.concatenate([market * 2 + YES, market * 2 + NO])
    best = replayed.best[book % 2, row].astype(np.int64)
    row, book, best = (column[best > 0] for column in (row, book, best))
    low = np.searchsorted(levels, book * PRICES + np.maximum(best - NEAR, 0))
    high = np.searchsorted(levels, book * PRICES + best)  # of the best level itself
    width = high - low + 1
    query = np.repeat(np.arange(len(row)), width)
    level = np.arange(width.sum()) - np.repeat(np.cumsum(width) - width - low, width)
    steps = len(replayed.time_ms)
    changed = np.repeat(np.arange(len(levels)), np.diff(place, append=len(entries.level))) * steps + entries.step
    entry = np.searchsorted(changed, level * steps + row[query], side="right") - 1
    contracts = np.where(entry >= place[level], entries.size[entry] // HUNDREDTHS, 0)
    near = np.bincount(query, contracts, minlength=len(row)).astype(np.int64)
    return contracts[np.cumsum(width) - 1], near


def _histogram(values: np.ndarray, edges: tuple[float, ...]) -> tuple[int, ...]:
    """Count values by the first edge above the lowest that they do not exceed; what exceeds all comes last."""
    return tuple(np.bincount(np.searchsorted(edges[1:], values, side="left"), minlength=len(edges)).tolist())


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def _root(squares: float, seconds: float) -> float | None:
    return float(np.sqrt(squares / seconds)) if seconds >= 1 else None
