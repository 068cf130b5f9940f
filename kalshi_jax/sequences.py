"""Tier 3 of the observation: what a market did over its last changes, from running sums kept in the tape.

A window costs two look-ups, however long it is: its sum is the difference of two running sums. Those wrap around in int32, and
their differences are exact nevertheless, because no sum over the longest window leaves int32 (the bounds stand beside each
column). So a live trader's short tape of at least `HISTORY` rows a market gives the same bits as the whole recording. In floating
point no product is added to anything and nothing is divided by a root or a quotient: compilers rewrite those at will, and then
round differently.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from kalshi_jax.tape import CENT, NO, NO_ROW, YES, Tape

STEPS = (1, 2, 4, 8, 16, 32)
WINDOWS = (8, 32, 128)
DEPTHS = (1, 3, 5, 10)
HISTORY = WINDOWS[-1] + 2  # rows on which the features of a row depend: the oldest sign has a predecessor of its own

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

# Columns of Tape.sums; in brackets a bound of their sum over 128 rows. Mids and their changes are doubled: exact integers.
MID, SPREAD, SPREAD_SQUARE, CHANGE_SQUARE, PATH, SIGNS, FLOW, TOP_DEPTH = range(8)
LARGEST_MOVE = 4095  # 0.01 cent; larger spreads, and (of the doubled mid) changes that are squared, count as this
LARGEST_TOP = 2**22  # contracts; more than this at a best bid count as this many
LARGEST_LEVEL = 2**26  # contracts; the same for a level in a depth imbalance
_SIGN = 1 << 16  # SIGNS holds two numbers: moves * 2**16 + products of the signs of neighbours
FEWEST_MOVES = 4  # below this a market is neither trending nor mean-reverting


def running_sums(price: np.ndarray, size: np.ndarray, mark: np.ndarray, first_rows: np.ndarray) -> np.ndarray:
    """Build `Tape.sums` from the rows of a tape; host code.

    Args:
        price: i16[R, S, K], as in the tape; so are the next two.
        size: i32[R, S, K].
        mark: i16[R, 2].
        first_rows: i[n_markets], the first row of each market; it changes nothing.

    Returns:
        i32[R, 8], sums over rows 0..r, modulo 2**32.
    """
    bid, ask = mark[:, 0].astype(np.int32), mark[:, 1].astype(np.int32)
    spread = np.clip(ask - bid, 0, LARGEST_MOVE)
    change = np.diff(bid + ask, prepend=np.int32(0))
    change[first_rows] = 0
    sign, clipped = np.sign(change), np.clip(change, -LARGEST_MOVE, LARGEST_MOVE)
    signs = np.abs(sign) * _SIGN
    signs[1:] += sign[1:] * sign[:-1]
    top = np.minimum(size[:, :, 0], LARGEST_TOP)
    flow = np.zeros_like(change)
    flow[1:] = _added(price, top, YES) - _added(price, top, NO)
    flow[first_rows] = 0
    sums = np.empty((len(mark), 8), np.int32)
    for column, values in (
        (MID, bid + ask),  # [128 * 20,000]
        (SPREAD, spread),  # [128 * 4,095]
        (SPREAD_SQUARE, spread * spread),  # [128 * 4,095**2 = 2**31 - 1,048,448]
        (CHANGE_SQUARE, clipped * clipped),  # [the same]
        (PATH, np.abs(change)),  # [128 * 20,000]
        (SIGNS, signs),  # [128 * (2**16 + 1)]
        (FLOW, flow),  # [128 * 2 * 2**22 = 2**30]
        (TOP_DEPTH, top.sum(-1, dtype=np.int32)),  # [the same]
    ):
        sums[:, column] = np.cumsum(values, dtype=np.int32)
    return sums


def _added(price: np.ndarray, top: np.ndarray, side: int) -> np.ndarray:
    """Contracts that a change adds at the best bid of a side, i32[R - 1]: all of a better bid, less all of one that is gone."""
    best, there = price[:, side, 0], top[:, side]
    return there[1:] * (best[1:] >= best[:-1]) - there[:-1] * (best[1:] <= best[:-1])


def sequence_features(tape: Tape, markets: jax.Array, row: jax.Array) -> jax.Array:
    """Compute tier 3 for rows i32[M] of `markets` (i32[M]), f32[M, 24] in the order of SEQUENCE_FEATURES.

    A change is a row of the market. Where there are fewer than a window's, what there is counts; where there is none, 0.
    """
    count = jnp.where(row == NO_ROW, 0, row - tape.track_start[jnp.maximum(markets, 0)] + 1)[:, None]  # rows so far
    before = row[:, None] - jnp.clip(count - 1, 0, jnp.asarray((*STEPS, WINDOWS[-1])))
    mid = tape.mark[row].astype(jnp.int32).sum(-1, keepdims=True)
    change = mid - tape.mark[before].astype(jnp.int32).sum(-1)  # [M, 7], the last over 128 changes
    rows = jnp.minimum(count, jnp.asarray(WINDOWS))  # [M, W]
    sums = tape.sums[row][:, None] - tape.sums[row[:, None] - rows]  # [M, W, 8]
    changes = jnp.maximum(jnp.minimum(count - 1, jnp.asarray(WINDOWS)), 1)
    rows = jnp.maximum(rows, 1)
    mean_square = sums[..., CHANGE_SQUARE] / changes
    # the change of price, in ticks, that Cont, Kukanov and Stoikov (2014) expect of this flow: over twice a side's mean depth
    impact = sums[..., FLOW].astype(jnp.float32) * rows / jnp.maximum(sums[..., TOP_DEPTH], 1)
    ahead = (mid * rows - sums[..., MID])[:, 1:] / rows[:, 1:]
    products = ((sums[..., SIGNS] + _SIGN // 2) & (_SIGN - 1)) - _SIGN // 2
    moves = (sums[..., SIGNS] - products) >> 16
    return jnp.concatenate(
        [
            jnp.tanh(change[:, : len(STEPS)] * _per_root(STEPS, 2 * CENT)),
            jnp.tanh(jnp.sqrt(mean_square) * np.float32(1 / (2 * CENT))),
            _depth_imbalances(tape.size[row]),
            jnp.tanh(impact * _per_root(WINDOWS, 0.5)),
            jnp.tanh(_spread_scores(tape.mark[row], sums[:, 1:], rows[:, 1:]) / 2),
            jnp.tanh(ahead * _per_root(WINDOWS[1:], CENT)),
            (products / jnp.maximum(moves, 1))[:, -1:],
            _regimes(jnp.abs(change[:, -1]), sums[..., PATH], moves[:, -1], changes),
        ],
        axis=-1,
    )


def _per_root(windows: tuple[int, ...], scale: float) -> np.ndarray:
    """Factors that bring moves over windows to one size, as a random walk's grow with the root of its length, f32[W]."""
    return np.array([1 / (scale * math.sqrt(window)) for window in windows], np.float32)


def _depth_imbalances(size: jax.Array) -> jax.Array:
    """(YES - NO) / (YES + NO) of i32[M, S, K] contracts over the best levels, f32[M, 4]."""
    size = jnp.minimum(size, LARGEST_LEVEL)
    depth = jnp.stack([size[:, :, :levels].sum(-1) for levels in DEPTHS], axis=-1)
    yes, no = depth[:, YES], depth[:, NO]
    return (yes - no) / jnp.maximum(yes + no, 1)


def _spread_scores(mark: jax.Array, sums: jax.Array, rows: jax.Array) -> jax.Array:
    """Standard deviations of the spread above its mean over windows, f32[M, W]; 0 where it never changed.

    Squares are taken about the whole part of the mean, in wrapping integers: nothing is lost to cancellation.
    """
    spread = jnp.clip(mark[:, 1:].astype(jnp.int32) - mark[:, :1], 0, LARGEST_MOVE)  # [M, 1]
    total = sums[..., SPREAD]
    whole = total // rows
    rest = total - whole * rows  # the mean is whole + rest / rows
    squares = sums[..., SPREAD_SQUARE] - 2 * whole * total + whole * whole * rows
    variation = jnp.where(squares > 0, squares - (rest * rest) / rows, 1.0)  # sum of squares about the mean
    above = (spread * rows - total).astype(jnp.float32)
    return jnp.sign(above) * jnp.sqrt(above * above / (variation * rows))


def _regimes(net: jax.Array, path: jax.Array, moves: jax.Array, changes: jax.Array) -> jax.Array:
    """Trending, mean-reverting and volatile, each 0 or 1, f32[M, 3].

    Args:
        net: i32[M], how far the mid came over the longest window.
        path: i32[M, W], the way it went.
        moves: i32[M], changes of the mid over the longest window.
        changes: i32[M, W], changes of any kind.
    """
    enough = moves >= FEWEST_MOVES
    trending = enough & (2 * net >= path[:, -1])
    mean_reverting = enough & (4 * net <= path[:, -1])
    volatile = path[:, 1] * changes[:, -1] > 2 * path[:, -1] * changes[:, 1]  # at most 2 * 128 * 20,000 * 32
    return jnp.stack([trending, mean_reverting, volatile], axis=-1).astype(jnp.float32)
