"""Honest fills from recorded books: taking displayed liquidity, and waiting in the queue of a level.

The recording never reacts to us, so the rules err on the exchange's side: what we take is gone until the level changes in the
recording; a resting order fills when the opposite side comes to its price, or when trades reach it in the queue, never because
a level shrinks.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from kalshi_jax.actions import resting_side, taking_side
from kalshi_jax.fees import fee_weight, order_fee
from kalshi_jax.ledger import Ledger, Trade, closing_contracts
from kalshi_jax.queues import QueueModel
from kalshi_jax.state import Fees, Orders, Taken
from kalshi_jax.tape import DOLLAR, NO, YES, Tape, highest_bid


def walk_book(
    tape: Tape,
    row: jax.Array,
    taken: Taken,
    position: jax.Array,
    direction: jax.Array,
    contracts: jax.Array,
    fees: Fees,
) -> tuple[Trade, Taken]:
    """Take up to `contracts` from the displayed levels, best first.

    Args:
        tape: the tape.
        row: i32[M].
        taken: what this account has taken before.
        position: i32[M], holdings before the trade (they decide which contracts close).
        direction: i32[M], +1 takes NO bids, -1 takes YES bids.
        contracts: i32[M], 0 where nothing is to be taken.
        fees: schedules gathered per slot, i32[M].

    Returns:
        The trade, and the memory if it is accepted.
    """
    side = taking_side(direction)
    price = tape.price[row, side].astype(jnp.int32)  # [M, K]
    stamp = tape.stamp[row, side].astype(jnp.int32) & 0xFFFF
    level = jnp.where(side[:, None] == YES, price, -price) << 16 | stamp
    known, gone = _recall(taken, level)
    offered = jnp.maximum(tape.size[row, side] - gone, 0)
    before = jnp.cumsum(offered, axis=-1) - offered
    take = jnp.clip(contracts[:, None] - before, 0, offered)

    filled = take.sum(-1)
    close = closing_contracts(position, direction, filled)
    take_closing = jnp.clip(close[:, None] - before, 0, take)
    yes_price = jnp.where(side[:, None] == YES, price, DOLLAR - price)
    high, low = fee_weight(price)
    trade = Trade(
        direction=direction,
        contracts=filled,
        gross=(take * yes_price).sum(-1),
        closing_gross=(take_closing * yes_price).sum(-1),
        fee=order_fee(fees.taker_rate, fees.taker_flat, (take * high).sum(-1), (take * low).sum(-1), filled),
    )
    return trade, _remember(taken, level, take, known)


def _recall(taken: Taken, level: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Look displayed levels (i32[M, K], as in `Taken`) up in the memory.

    One place after the other, like `_remember` one level after the other: XLA makes one pass of that, where a comparison of all
    levels with all places is written out to memory.

    Returns:
        bool[M, K], the level has a place; i32[M, K], contracts gone since its last change.
    """
    known, gone = jnp.zeros(level.shape, bool), jnp.zeros_like(level)
    for place in range(taken.level.shape[-1]):
        there, contracts = taken.level[:, place, None], taken.contracts[:, place, None]
        known |= there >> 16 == level >> 16
        gone += jnp.where(there == level, contracts, 0)
    return known & (level >> 16 != 0), gone


def _remember(taken: Taken, level: jax.Array, take: jax.Array, known: jax.Array) -> Taken:
    """Add what was taken per displayed level [M, K] to the ring [M, C]; a level known already keeps its place."""
    places = taken.level.shape[-1]
    fresh = (take > 0) & ~known
    place = (taken.oldest[:, None] + jnp.cumsum(fresh, axis=-1) - fresh) % places
    new_level, contracts, overwritten = taken.level, taken.contracts, jnp.zeros(taken.level.shape, bool)
    for k in range(level.shape[-1]):
        level_k, take_k = level[:, k, None], take[:, k, None]
        here = taken.level >> 16 == level_k >> 16
        write = (take_k > 0) & jnp.where(known[:, k, None], here, jnp.arange(places) == place[:, k, None])
        new_level = jnp.where(write, level_k, new_level)
        contracts = jnp.where(write, take_k + jnp.where(taken.level == level_k, taken.contracts, 0), contracts)
        overwritten |= write & ~here
    return Taken(
        level=new_level,
        contracts=contracts,
        oldest=(taken.oldest + fresh.sum(-1)) % places,
        forgotten=taken.forgotten + (overwritten & (taken.level != 0)).sum(-1),
    )


def maker_fee(fees: Fees, price: jax.Array, contracts: jax.Array) -> jax.Array:
    """Compute the whole fee of a resting order once `contracts` (i32[M, ...]) have filled at `price`, i32[M, ...]."""
    high, low = fee_weight(price)
    shape = (-1,) + (1,) * (price.ndim - 1)
    rate, flat = fees.maker_rate.reshape(shape), fees.maker_flat.reshape(shape)
    return order_fee(rate, flat, contracts * high, contracts * low, contracts)


def reserved_cash(orders: Orders, fees: Fees) -> jax.Array:
    """Compute what each resting order holds back of cash: its price (BUY) and its fees still to come, i32[M, O]."""
    final = orders.filled + orders.remaining
    fee = maker_fee(fees, orders.price, final) - maker_fee(fees, orders.price, orders.filled)
    cost = jnp.where(orders.reduces, 0, orders.price * orders.remaining)
    return jnp.where(orders.price > 0, cost + fee, 0)


def advance_queue(
    tape: Tape, orders: Orders, row: jax.Array, model: QueueModel, table: jax.Array
) -> tuple[Orders, jax.Array]:
    """Let every resting order meet the changes of its own level up to `row` (i32[M]), in order.

    What trades took of a decrease comes off the front first and, beyond it, fills us; of the rest the queue model says how much
    was ahead of us. Of several orders at one level the earlier slot fills first.

    Returns:
        The orders further ahead in their queues, and i32[M, O]: contracts that trades have filled.
    """
    resting = orders.price > 0
    upto = row[:, None]
    slots = orders.price.shape[1]
    same_level = (orders.price[:, :, None] == orders.price[:, None, :]) & (
        orders.direction[:, :, None] == orders.direction[:, None, :]
    )
    Carry = tuple[jax.Array, jax.Array, jax.Array]

    def behind(carry: Carry) -> jax.Array:
        return (resting & (tape.entry_row[carry[0] + 1] <= upto)).any()

    def meet(carry: Carry) -> Carry:
        entry, front, filled = carry
        due = resting & (tape.entry_row[entry + 1] <= upto)
        size, after = tape.entry_size[entry], tape.entry_size[entry + 1]
        traded = jnp.minimum(tape.entry_traded[entry + 1], jnp.maximum(size - after, 0))
        reaching = jnp.where(due, jnp.maximum(traded - front, 0), 0)
        got: list[jax.Array] = []
        for o in range(slots):
            earlier = sum((jnp.where(same_level[:, o, p], got[p], 0) for p in range(o)), jnp.zeros_like(row))
            got.append(jnp.clip(reaching[:, o] - earlier, 0, orders.remaining[:, o] - filled[:, o]))
        ahead = jnp.maximum(front - traded, 0)
        rest = jnp.maximum(size - traded - after, 0)
        moved = model(ahead, jnp.maximum(size - traded - ahead, 0), rest, table)
        front = jnp.where(due, jnp.clip(ahead - moved, 0, after), front)
        return entry + due, front, filled + jnp.stack(got, axis=1)

    entry, front, filled = jax.lax.while_loop(behind, meet, (orders.entry, orders.front, jnp.zeros_like(orders.front)))
    return replace(orders, entry=entry, front=front), filled


def reached(tape: Tape, orders: Orders, before: jax.Array, after: jax.Array) -> jax.Array:
    """Tell which resting orders the opposite side came to in rows before + 1 .. after (i32[M]), bool[M, O]."""
    opposite = jnp.where(resting_side(orders.direction) == YES, NO, YES)
    best = highest_bid(tape, opposite, before[:, None], after[:, None])
    return (orders.price > 0) & (best >= DOLLAR - orders.price)


def fill_resting(ledger: Ledger, orders: Orders, fees: Fees, slot: int, wanted: jax.Array) -> tuple[Trade, Orders]:
    """Fill up to `wanted` (i32[M], at most the remainder) of order slot `slot` at its own price; a SELL no more than the holding.

    Returns:
        The trade per market, and the orders less what has filled; what a SELL could not fill for lack of a holding is cancelled.
    """
    price, direction = orders.price[:, slot], orders.direction[:, slot]
    remaining, filled = orders.remaining[:, slot], orders.filled[:, slot]
    close = closing_contracts(ledger.position, direction, wanted)
    contracts = jnp.where(orders.reduces[:, slot], close, wanted)
    yes_price = jnp.where(direction > 0, price, DOLLAR - price)
    fee = maker_fee(fees, price, filled + contracts) - maker_fee(fees, price, filled)
    trade = Trade(direction, contracts, contracts * yes_price, close * yes_price, fee)
    over = (wanted > 0) & ((contracts < wanted) | (contracts == remaining))
    orders = replace(
        orders,
        price=orders.price.at[:, slot].set(jnp.where(over, 0, price)),
        remaining=orders.remaining.at[:, slot].add(-contracts),
        filled=orders.filled.at[:, slot].add(contracts),
    )
    return trade, orders
