"""Tier 3 of the observation: what a market did over its last changes. Host code: it is computed once, when a tape is built.

Windows are differences of running sums of integers, exact wherever the sums began. So a live trader's short tape of at least
`HISTORY` rows a market gives the same bits as the whole recording.
"""

from __future__ import annotations

import numpy as np

from kalshi_jax.tape import CENT, NO, YES

STEPS = (1, 2, 4, 8, 16, 32)
WINDOWS = (8, 32, 128)
DEPTHS = (1, 3, 5, 10)
HISTORY = WINDOWS[-1] + 2  # rows on which the features of a row depend: the oldest sign has a predecessor of its own
FEWEST_MOVES = 4  # below this a market is neither trending nor mean-reverting

SEQUENCE_FEATURES = (
    *(f"mid_change_{steps}" for steps in STEPS),
    *(f"volatility_{window}" for window in WINDOWS),
    *(f"depth_imbalance_{depth}" for depth in DEPTHS),
    *(f"order_flow_{window}" for window in WINDOWS),
    *(f"spread_score_{window}" for window in WINDOWS[1:]),
    *(f"average_distance_{window}" for window in WINDOWS[1:]),
    "sign_autocorrelation",
    "trending",
    "mean_reverting",
    "volatile",
)


def sequence_features(price: np.ndarray, size: np.ndarray, mark: np.ndarray, first_rows: np.ndarray) -> np.ndarray:
    """Compute tier 3 for all rows of a tape, f32[R, 24] in the order of SEQUENCE_FEATURES.

    A change is a row of the market. Where there are fewer than a window's, what there is counts; where there is none, 0.

    Args:
        price: i32[R, S, K], as in the tape; so are the next two.
        size: i32[R, S, K].
        mark: i32[R, 2].
        first_rows: i[n_markets], the first row of each market, ascending.
    """
    rows = np.arange(len(mark))
    begin = np.zeros(len(mark), np.int64)
    begin[first_rows] = first_rows
    begin = np.maximum.accumulate(begin)  # first row of the row's market
    bid, ask = mark[:, 0].astype(np.int64), mark[:, 1].astype(np.int64)
    mid, spread = bid + ask, ask - bid  # the mid is doubled: exact
    change = np.diff(mid, prepend=mid[0])
    change[first_rows] = 0
    sign = np.sign(change)
    products = sign * np.append(0, sign[:-1])
    top = size[:, :, 0].astype(np.int64)
    flow = np.append(0, _added(price, top, YES) - _added(price, top, NO))
    flow[first_rows] = 0

    def total(values: np.ndarray, window: int) -> np.ndarray:
        """Sum over the market's last `window` rows, i64[R]."""
        sums = np.append(0, np.cumsum(values, dtype=np.int64))
        return sums[1:] - sums[np.maximum(rows + 1 - window, begin)]

    counts = {window: np.minimum(rows - begin + 1, window) for window in WINDOWS}
    changes = {window: np.clip(rows - begin, 1, window) for window in WINDOWS}
    paths = {window: total(np.abs(change), window) for window in WINDOWS}
    features = np.empty((len(mark), len(SEQUENCE_FEATURES)), np.float32)
    column = iter(features.T)
    for steps in STEPS:
        moved = mid - mid[np.maximum(rows - steps, begin)]
        next(column)[:] = np.tanh(moved / (2 * CENT * np.sqrt(steps)))
    for window in WINDOWS:
        next(column)[:] = np.tanh(np.sqrt(total(change * change, window) / changes[window]) / (2 * CENT))
    for levels in DEPTHS:
        next(column)[:] = imbalance(size, levels)
    for window in WINDOWS:
        # the change of price, in ticks, that Cont, Kukanov and Stoikov (2014) expect of this flow: over twice a side's mean depth
        depth = total(top.sum(-1), window)
        impact = total(flow, window) * counts[window] / np.maximum(depth, 1)
        next(column)[:] = np.tanh(2 * impact / np.sqrt(window))
    for window in WINDOWS[1:]:
        n, sum_of = counts[window], total(spread, window)
        variation = n * total(spread * spread, window) - sum_of**2  # n^2 times the variance: exact
        above = (n * spread - sum_of) / np.sqrt(np.maximum(variation, 1))
        next(column)[:] = np.tanh(above / 2)
    for window in WINDOWS[1:]:
        ahead = mid - total(mid, window) / counts[window]
        next(column)[:] = np.tanh(ahead / (CENT * np.sqrt(window)))
    moves = total(np.abs(sign), WINDOWS[-1])
    next(column)[:] = total(products, WINDOWS[-1]) / np.maximum(moves, 1)
    net, way = np.abs(mid - mid[np.maximum(rows - WINDOWS[-1], begin)]), paths[128]
    next(column)[:] = (moves >= FEWEST_MOVES) & (2 * net >= way)
    next(column)[:] = (moves >= FEWEST_MOVES) & (4 * net <= way)
    next(column)[:] = paths[32] * changes[128] > 2 * way * changes[32]
    return features


def imbalance(size: np.ndarray, levels: int) -> np.ndarray:
    """(YES - NO) / (YES + NO) of i32[R, S, K] contracts over the best levels, f64[R]."""
    yes, no = size[:, :, :levels].sum(-1, dtype=np.int64).T
    return (yes - no) / np.maximum(yes + no, 1)


def _added(price: np.ndarray, top: np.ndarray, side: int) -> np.ndarray:
    """Contracts that a change adds at the best bid of a side, i64[R - 1]: all of a better bid, less all of one that is gone."""
    best, there = price[:, side, 0], top[:, side]
    return there[1:] * (best[1:] >= best[:-1]) - there[:-1] * (best[1:] <= best[:-1])
