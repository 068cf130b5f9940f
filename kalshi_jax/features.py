"""The observation: bounded, named features that never tell which market they come from.

`build_observation` serves training and a live trader alike: it needs a tape (a live trader keeps a short one), the rows that hold
the books now, the time, and the account. The past that features look at is the recording's, not the episode's, so the first
step of a window is as well informed as its last. Everything stays an integer up to its last operation: the same history gives
the same bits, whichever program computes it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.actions import DIRECTION, PRIMITIVES, REDUCES, WAITS, num_actions, resting_side, taking_side
from kalshi_jax.ledger import collateral
from kalshi_jax.sequences import SEQUENCE_FEATURES, sequence_features
from kalshi_jax.state import EnvState, Orders
from kalshi_jax.tape import CENT, DOLLAR, END_OF_TIME, NO, NO_ROW, YES, Tape, locate

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
FEATURE_NAMES = BOOK_FEATURES + TIME_FEATURES + SEQUENCE_FEATURES
ORDER_FEATURES = ("resting", "distance", "queue_ahead")
HOLDING_FEATURES = ("position", "average_cost", "unrealized_pnl", "time_to_close")
OVERALL_FEATURES = ("cash", "value", "exposure", "time_left")

BURST_MS, ACTIVE_MS, QUIET_MS = 100, 5_000, 30_000
WINDOWS_MS = (10_000, 60_000)


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
        free_cash: i32[], cash less what resting orders hold back.
        mark: i32[M], the mark of each slot.
        initial_cash: i32[], starting capital.
        episode_length: i32[], steps.
        order_sizes: contracts per size.
        temporal: include tier 2.
        sequence: include tier 3.
    """
    used = state.markets >= 0
    row = jnp.where(used, state.row, NO_ROW)
    tiers = [book_features(tape, row)]
    if temporal:
        tiers.append(time_features(tape, state.session, state.markets, row, state.now_ms))
    if sequence:
        tiers.append(sequence_features(tape, state.markets, row))
    return Observation(
        market=jnp.where(used[:, None], jnp.concatenate(tiers, axis=-1), 0.0),
        portfolio=portfolio_features(tape, state, row, mark, initial_cash, episode_length),
        action_mask=legal_actions(tape, row, state.ledger.position, free_cash, used, state.orders, order_sizes),
    )


def book_features(tape: Tape, row: jax.Array) -> jax.Array:
    """Compute tier 1 from rows i32[M], f32[M, 12] in the order of BOOK_FEATURES. A missing bid counts as 0, an ask as 100."""
    bid, ask = tape.mark[row, 0].astype(jnp.int32), tape.mark[row, 1].astype(jnp.int32)
    yes, no = bid + ask, 2 * DOLLAR - bid - ask  # twice the mids: exact
    spread = ask - bid
    size = tape.size[row]  # [M, S, K]
    depth = size[:, :, :5].sum(-1)
    top = size[:, :, 0]
    imbalance_1 = _imbalance(top[:, YES], top[:, NO])
    log_depth = jnp.log1p(depth.sum(-1).astype(jnp.float32))
    return jnp.stack(
        [
            yes / (2 * DOLLAR),
            no / (2 * DOLLAR),
            jnp.abs(yes - DOLLAR) / DOLLAR,
            jnp.minimum(2 * spread / jnp.maximum(yes, 2 * CENT), 2),
            jnp.minimum(2 * spread / jnp.maximum(no, 2 * CENT), 2),
            _imbalance(depth[:, YES], depth[:, NO]),
            jnp.minimum(yes, no) / DOLLAR,
            jnp.abs(yes + no - 2 * DOLLAR) / (2 * DOLLAR),
            spread / DOLLAR,
            imbalance_1,
            jnp.minimum(log_depth / 15, 1),
            imbalance_1
            / 2,  # (bid * ask size + ask * bid size) / both sizes lies half an imbalance of the spread from mid
        ],
        axis=-1,
    )


def time_features(tape: Tape, session: jax.Array, markets: jax.Array, row: jax.Array, now_ms: jax.Array) -> jax.Array:
    """Compute tier 2 at `now_ms` (i32[]) for rows i32[M] of `markets` (i32[M]), f32[M, 16] in the order of TIME_FEATURES."""
    track = jnp.concatenate([tape.num_markets + session[None], jnp.maximum(markets, 0)])
    back = jnp.asarray((0, *WINDOWS_MS))
    count = locate(
        tape, track[:, None], now_ms - back
    )  # [1 + M, 1 + windows], positions by now and by the windows' beginnings
    rhythm = _track_features(tape, track, count, now_ms)
    of_session = jnp.broadcast_to(rhythm[:1], rhythm[1:].shape)

    begin = tape.track_start[track[1:], None]
    then = jnp.where(count[1:, 1:] > 0, begin + count[1:, 1:] - 1, NO_ROW)
    mid = tape.mark[row].astype(jnp.int32).sum(-1, keepdims=True)  # twice the mid: exact
    moved = jnp.where(then == NO_ROW, 0, mid - tape.mark[then].astype(jnp.int32).sum(-1))
    momenta = jnp.tanh(moved.astype(jnp.float32) / (2 * 10 * CENT))
    return jnp.concatenate([of_session, rhythm[1:], momenta], axis=-1)


def _track_features(tape: Tape, track: jax.Array, count: jax.Array, now_ms: jax.Array) -> jax.Array:
    """Describe the rhythm of tracks i32[N], f32[N, 7].

    `count` (i32[N, 1 + windows]) positions of them lie at or before now and at or before the windows' beginnings.
    """
    by_now = count[:, :1]
    back = jnp.asarray((0, 1, 10, 20))
    place = tape.track_start[track, None] + jnp.maximum(by_now - 1 - back, 0)
    last, one, ten, twenty = jnp.moveaxis(jnp.where(by_now > back, tape.time_ms[place], 0), -1, 0)
    gap = now_ms - jnp.where(last < now_ms, last, one)  # since the last change strictly before now
    changes = by_now - count[:, 1:]
    rates = [
        changes[:, i] / (window / 1000) for i, window in enumerate(WINDOWS_MS)
    ]  # by an array, programs round differently
    recent, before = last - ten, ten - twenty
    speeding = (recent - before).astype(jnp.float32) / jnp.maximum(before, 1)
    return jnp.stack(
        [
            jnp.minimum(jnp.log1p(gap / 1000.0) / 10, 1),
            (gap < BURST_MS).astype(jnp.float32),
            (gap < ACTIVE_MS).astype(jnp.float32),
            (gap > QUIET_MS).astype(jnp.float32),
            *(jnp.minimum(jnp.log1p(rate) / 7, 1) for rate in rates),
            jnp.where(by_now[:, 0] > 20, jnp.tanh(speeding), 0.0),
        ],
        axis=-1,
    )


def portfolio_features(
    tape: Tape, state: EnvState, row: jax.Array, mark: jax.Array, initial_cash: jax.Array, episode_length: jax.Array
) -> jax.Array:
    """Describe the account: per market slot its holding and resting orders, then the whole, f32[P]."""
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
            jnp.where(known, jnp.minimum(jnp.log1p(left / 1000.0) / 14, 1), 1.0),
        ],
        axis=-1,
    )
    here = jnp.take_along_axis(tape.price[row, :, 0].astype(jnp.int32), resting_side(orders.direction), axis=1)
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
    per_market = jnp.concatenate([per_holding, per_order.reshape(per_order.shape[0], -1)], axis=-1)
    return jnp.concatenate([per_market.reshape(-1).astype(jnp.float32), overall])


def legal_actions(
    tape: Tape,
    row: jax.Array,
    position: jax.Array,
    free_cash: jax.Array,
    used: jax.Array,
    orders: Orders,
    order_sizes: tuple[int, ...],
) -> jax.Array:
    """Tell which actions make sense: a book to trade with, a holding to sell, free cash for the best price, bool[M, O, A]."""
    best = tape.price[row, :, 0].astype(jnp.int32)  # [M, S]
    direction = jnp.tile(jnp.asarray(DIRECTION), len(order_sizes))
    waits, reduces = (jnp.tile(jnp.asarray(x), len(order_sizes)) for x in (WAITS, REDUCES))
    sizes = jnp.repeat(jnp.asarray(order_sizes, jnp.int32), PRIMITIVES)
    there = best[:, jnp.where(waits, resting_side(direction), taking_side(direction))]  # [M, A - 1]
    price = jnp.where(waits, there, DOLLAR - there)
    sells = position[:, None] * direction < 0
    affordable = sizes * price <= free_cash
    legal = used[:, None] & (there > 0) & jnp.where(reduces, sells, affordable)
    mask = jnp.concatenate([jnp.ones((row.shape[0], 1), bool), legal], axis=-1)
    return jnp.broadcast_to(mask[:, None, :], (row.shape[0], orders.price.shape[1], num_actions(order_sizes)))


def _imbalance(yes: jax.Array, no: jax.Array) -> jax.Array:
    return (yes - no) / jnp.maximum(yes + no, 1)
