"""The observation: bounded, named features that never tell which market they come from.

`build_observation` serves training and a live trader alike: it needs a tape (a live trader keeps a short one), the rows that hold
the books now, the time, and the account. The past that features look at is the recording's, not the episode's, so the first
step of a window is as well informed as its last. What depends on a row alone is computed once, by host code, when a tape is
built; what a step computes is an integer up to few last operations: the same history gives the same bits, whichever program
computes it. A short tape knows enough from `sequences.HISTORY` rows and the last minute of each market and of the session on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from kalshi_jax.actions import DIRECTION, REDUCES, WAITS, num_actions, resting_side
from kalshi_jax.ledger import collateral
from kalshi_jax.sequences import SEQUENCE_FEATURES, imbalance, sequence_features
from kalshi_jax.state import EnvState, Orders
from kalshi_jax.tape import (
    CENT,
    DOLLAR,
    END_OF_TIME,
    NO,
    NO_ROW,
    START,
    YES,
    Quote,
    Tape,
    features_of,
    locate,
    once,
)

BOOK_FEATURES = (
    "yes_mid",
    "no_mid",
    "distance_from_even",
    "yes_spread_relative",
    "no_spread_relative",
    "imbalance_5",
    "distance_from_edge",
    "pair_mismatch",
    "spread",
    "imbalance_1",
    "log_depth_5",
    "microprice_offset",
)
_TRACK_FEATURES = ("log_gap", "burst", "active", "quiet", "rate_10s", "rate_60s", "acceleration")
TIME_FEATURES = (
    *(f"session_{name}" for name in _TRACK_FEATURES),
    *(f"market_{name}" for name in _TRACK_FEATURES),
    "momentum_10s",
    "momentum_60s",
)
RHYTHM = 4  # figures of when a track changed: see `rhythm_of`
FEATURE_NAMES = BOOK_FEATURES + TIME_FEATURES + SEQUENCE_FEATURES
ORDER_FEATURES = ("resting", "distance", "queue_ahead")
HOLDING_FEATURES = ("position", "average_cost", "unrealized_pnl", "time_to_close")
OVERALL_FEATURES = ("cash", "value", "exposure", "time_left")

BURST_MS, ACTIVE_MS, QUIET_MS = 100, 5_000, 30_000
WINDOWS_MS = (10_000, 60_000)
ROW_FEATURES = len(BOOK_FEATURES) + len(SEQUENCE_FEATURES) + RHYTHM + len(WINDOWS_MS)  # see `row_features`
CLOSE_SCALE = 14  # of log1p(s) to the close; 1, some two weeks, also where the close is not known


@struct.dataclass
class Observation:
    """What the agent sees. Unused slots are zero and can only HOLD."""

    market: jax.Array  # f32[M, F], feature_names
    portfolio: jax.Array  # f32[P], per market slot the holding and its resting orders, then OVERALL_FEATURES
    action_mask: jax.Array  # bool[M, O, A], True where legal


def feature_names(temporal: bool, sequence: bool) -> tuple[str, ...]:
    """Name the last axis of `Observation.market`: tier 1, then tiers 2 and 3 where they are included."""
    return BOOK_FEATURES + TIME_FEATURES * temporal + SEQUENCE_FEATURES * sequence


def portfolio_names(markets: int, orders_per_market: int) -> tuple[str, ...]:
    """Name the entries of `Observation.portfolio` in order."""
    per_order = tuple(f"order_{o}_{name}" for o in range(orders_per_market) for name in ORDER_FEATURES)
    per_market = (f"market_{m}_{name}" for m in range(markets) for name in HOLDING_FEATURES + per_order)
    return (*per_market, *OVERALL_FEATURES)


def split_portfolio(portfolio: jax.Array, markets: int) -> tuple[jax.Array, jax.Array]:
    """Split f32[..., P] into what belongs to each market slot, f32[..., M, P_market], and the rest, f32[..., P_overall]."""
    per_market, overall = portfolio[..., : -len(OVERALL_FEATURES)], portfolio[..., -len(OVERALL_FEATURES) :]
    return per_market.reshape(*portfolio.shape[:-1], markets, -1), overall


def build_observation(
    tape: Tape,
    state: EnvState,
    quote: Quote,
    record: jax.Array,
    free_cash: jax.Array,
    mark: jax.Array,
    initial_cash: jax.Array,
    episode_length: jax.Array,
    order_sizes: tuple[int, ...],
    temporal: bool,
    sequence: bool,
) -> Observation:
    """Build the observation of a state.

    Args:
        tape: the tape.
        state: the state.
        quote: of its rows.
        record: i32[M, 48], of its rows.
        free_cash: i32[], cash less what resting orders hold back.
        mark: i32[M], the mark of each slot.
        initial_cash: i32[], starting capital.
        episode_length: i32[], steps.
        order_sizes: contracts per size.
        temporal: include tier 2.
        sequence: include tier 3.
    """
    used = state.markets >= 0
    book, sequences = len(BOOK_FEATURES), len(BOOK_FEATURES) + len(SEQUENCE_FEATURES)

    def tiers(state: EnvState, record: jax.Array) -> list[jax.Array]:
        found = [features_of(record, slice(book))]
        if temporal:
            rhythm = features_of(record, slice(sequences, None))
            found.append(time_features(tape, state.session, state.row, rhythm, state.now_ms))
        if sequence:
            found.append(features_of(record, slice(book, sequences)))
        return found

    return Observation(
        market=jnp.where(used[:, None], jnp.concatenate(once(tape, tiers, state, record), axis=-1), 0.0),
        portfolio=portfolio_features(tape, state, quote, mark, initial_cash, episode_length),
        action_mask=legal_actions(tape, quote, state.ledger.position, free_cash, used, state.orders, order_sizes),
    )


def row_features(
    time_ms: np.ndarray, price: np.ndarray, size: np.ndarray, mark: np.ndarray, track: np.ndarray
) -> np.ndarray:
    """Compute the features of `Tape.record`, f32[R, 42]: what observations need of a row and of its market's past; host code.

    Args:
        time_ms: i32[R], as in the tape; so are the next three.
        price: i32[R, S, K].
        size: i32[R, S, K].
        mark: i32[R, 2].
        track: i[n_markets, 2], first row and number of rows of each market.

    Returns:
        By column: tier 1, tier 3, the market's rhythm at the row (`rhythm_of`), and how far the doubled mid has come over
        the last 10 s and 60 s before the row.
    """
    tiers = book_features(size, mark), sequence_features(price, size, mark, track[:, 0])
    rhythm, then = rhythm_of(time_ms, track)
    mid = mark.sum(-1, dtype=np.int32)
    moved = np.where(then == NO_ROW, 0, mid[:, None] - mid[then])
    return np.concatenate([*tiers, rhythm, moved.astype(np.float32)], axis=-1)


def rhythm_of(time_ms: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Describe when things changed on some tracks; host code.

    Args:
        time_ms: i32[N].
        track: i[tracks, 2], first position and number of positions of each.

    Returns:
        f32[N, 4], per position the ms since the one before, the changes of the last 10 s and of the last 60 s, and tanh((recent -
        before) / before) of the ms that the last 10 changes took and the 10 before (0 for the first 20); and i64[N, 2], the
        last position at or before the beginnings of those windows, 0 where there is none.
    """
    rhythm = np.zeros((len(time_ms), 4), np.float32)
    then = np.zeros((len(time_ms), len(WINDOWS_MS)), np.int64)
    for begin, count in track.tolist():
        here = slice(begin, begin + count)
        times = time_ms[here].astype(np.int64)
        rhythm[here, 0] = np.diff(times, prepend=0)
        for i, window in enumerate(WINDOWS_MS):
            old = np.searchsorted(times, times - window, side="right")
            rhythm[here, 1 + i] = np.arange(1, count + 1) - old
            then[here, i] = np.where(old > 0, begin + old - 1, 0)
        recent, before = times[20:] - times[10:-10], times[10:-10] - times[:-20]
        rhythm[begin + 20 : begin + count, 3] = np.tanh((recent - before) / np.maximum(before, 1))
    return rhythm, then


def book_features(size: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """Compute tier 1 from the sizes and marks of rows, f32[R, 12] in the order of BOOK_FEATURES; host code.

    A missing bid counts as 0, an ask as 100.
    """
    bid, ask = mark[:, 0].astype(np.int32), mark[:, 1].astype(np.int32)
    yes, no = bid + ask, 2 * DOLLAR - bid - ask  # twice the mids: exact
    spread = ask - bid
    imbalance_1 = imbalance(size, 1)
    features = (
        yes / (2 * DOLLAR),
        no / (2 * DOLLAR),
        np.abs(yes - DOLLAR) / DOLLAR,
        np.minimum(2 * spread / np.maximum(yes, 2 * CENT), 2),
        np.minimum(2 * spread / np.maximum(no, 2 * CENT), 2),
        imbalance(size, 5),
        np.minimum(yes, no) / DOLLAR,
        np.abs(yes + no - 2 * DOLLAR) / (2 * DOLLAR),
        spread / DOLLAR,
        imbalance_1,
        np.minimum(np.log1p(size[:, :, :5].sum((1, 2), dtype=np.int64)) / 15, 1),
        imbalance_1 / 2,  # (bid * ask size + ask * bid size) / both sizes lies half an imbalance of the spread from mid
    )
    return np.stack(features, axis=-1).astype(np.float32)


def time_features(tape: Tape, session: jax.Array, row: jax.Array, of_rows: jax.Array, now_ms: jax.Array) -> jax.Array:
    """Compute tier 2 at `now_ms` (i32[]) for rows i32[M], f32[M, 16] in the order of TIME_FEATURES.

    What a window has seen is known for the last change. Since then it has seen nothing, and what it saw before is taken to have
    happened evenly: with `gap` of it gone by quietly, a window keeps (window - gap) / window of its changes and of its move.

    Args:
        tape: the tape.
        session: i32[].
        row: i32[M], NO_ROW before a market's first change.
        of_rows: f32[M, 6], rhythm and moves of the rows.
        now_ms: i32[].
    """

    def changes(
        session: jax.Array, row: jax.Array, of_rows: jax.Array, now_ms: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        track = tape.num_markets + session
        count = locate(tape, track, now_ms)
        position = tape.track[track, START] + jnp.maximum(count - 1, 0)
        began = jnp.append(count > 0, row != NO_ROW)
        last = jnp.where(began, tape.time_ms[jnp.append(position, row)], 0)
        of_session = tape.rhythm[position - (tape.time_ms.shape[0] - tape.rhythm.shape[0])]
        return began, last, jnp.concatenate([of_session[None], of_rows[:, :4]])

    began, last, rhythm = once(tape, changes, session, row, of_rows, now_ms)
    rhythm = jnp.where(began[:, None], rhythm, 0.0)
    quiet = now_ms - last
    left = [jnp.maximum(window - quiet, 0).astype(jnp.float32) for window in WINDOWS_MS]
    gap = jnp.where(quiet > 0, quiet.astype(jnp.float32), rhythm[:, 0])  # since the last change strictly before now
    rates = [rhythm[:, 1 + i] * left[i] * np.float32(1000 / window**2) for i, window in enumerate(WINDOWS_MS)]
    rhythm = jnp.stack(
        [
            jnp.minimum(jnp.log1p(gap / 1000.0) / 10, 1),
            (gap < BURST_MS).astype(jnp.float32),
            (gap < ACTIVE_MS).astype(jnp.float32),
            (gap > QUIET_MS).astype(jnp.float32),
            *(jnp.minimum(jnp.log1p(rate) / 7, 1) for rate in rates),
            rhythm[:, 3],
        ],
        axis=-1,
    )
    momenta = [
        jnp.tanh(of_rows[:, 4 + i] * left[i][1:] * np.float32(1 / (window * 2 * 10 * CENT)))
        for i, window in enumerate(WINDOWS_MS)
    ]
    shared = jnp.broadcast_to(rhythm[:1], rhythm[1:].shape)
    return jnp.concatenate([shared, rhythm[1:], jnp.stack(momenta, axis=-1)], axis=-1)


def portfolio_features(
    tape: Tape, state: EnvState, quote: Quote, mark: jax.Array, initial_cash: jax.Array, episode_length: jax.Array
) -> jax.Array:
    """Describe the account: per market slot its holding and resting orders, then the whole, f32[P]."""
    per_holding, per_order, overall = once(
        tape, _account_features, tape, state, quote, mark, initial_cash, episode_length
    )
    per_market = jnp.concatenate([per_holding, per_order.reshape(per_order.shape[0], -1)], axis=-1)
    return jnp.concatenate([per_market.reshape(-1).astype(jnp.float32), overall])


def _account_features(
    tape: Tape, state: EnvState, quote: Quote, mark: jax.Array, initial_cash: jax.Array, episode_length: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute features of the holdings, f32[M, 4], of the resting orders, f32[M, O, 3], and of the whole, f32[4]."""
    ledger, orders = state.ledger, state.orders
    used = state.markets >= 0
    holding = jnp.abs(ledger.position)
    close_ms = jnp.where(used, tape.market_close_ms[state.markets], state.now_ms)
    left = jnp.maximum(close_ms - state.now_ms, 0)
    known = close_ms < END_OF_TIME
    worth = collateral(ledger.position) + ledger.position * mark
    per_holding = jnp.stack(
        [
            jnp.tanh(ledger.position / 100.0),
            ledger.cost_basis / (jnp.maximum(holding, 1) * float(DOLLAR)),
            jnp.tanh((worth - ledger.cost_basis) / (10.0 * DOLLAR)),
            jnp.where(known, jnp.minimum(jnp.log1p(left / 1000.0) / CLOSE_SCALE, 1), 1.0),
        ],
        axis=-1,
    )
    here = quote.bid(resting_side(orders.direction))
    resting = orders.price > 0
    per_order = jnp.stack(
        [
            jnp.where(resting, orders.direction, 0).astype(jnp.float32),
            jnp.where(resting, jnp.tanh((here - orders.price) / (10.0 * CENT)), 0.0),
            jnp.where(resting, jnp.minimum(jnp.log1p(orders.front.astype(jnp.float32)) / 12, 1), 0.0),
        ],
        axis=-1,
    )
    value = jnp.maximum(state.value, 1)
    overall = jnp.stack(
        [
            jnp.clip(ledger.cash / value, 0, 1),
            jnp.tanh((value - initial_cash) / jnp.maximum(initial_cash, 1)),
            jnp.clip(worth.sum() / value, 0, 1),
            jnp.clip((episode_length - state.time) / jnp.maximum(episode_length, 1), 0, 1),
        ]
    ).astype(jnp.float32)
    return per_holding, per_order, overall


def legal_actions(
    tape: Tape,
    quote: Quote,
    position: jax.Array,
    free_cash: jax.Array,
    used: jax.Array,
    orders: Orders,
    order_sizes: tuple[int, ...],
) -> jax.Array:
    """Tell which actions make sense: a book to trade with, a holding to sell, free cash for the best price, bool[M, O, A]."""

    def columns(best: jax.Array, position: jax.Array, free_cash: jax.Array, used: jax.Array) -> list[jax.Array]:
        found = [jnp.ones_like(used)]
        for size in order_sizes:
            for direction, waits, reduces in zip(DIRECTION.tolist(), WAITS.tolist(), REDUCES.tolist(), strict=True):
                there = best[:, YES if (direction > 0) == waits else NO]  # rests on one side, takes from the other
                price = there if waits else DOLLAR - there
                allowed = position * direction < 0 if reduces else size * price <= free_cash
                found.append(used & (there > 0) & allowed)
        return found

    mask = jnp.stack(once(tape, columns, quote.best, position, free_cash, used), axis=-1)
    return jnp.broadcast_to(mask[:, None, :], (*orders.price.shape, num_actions(order_sizes)))
