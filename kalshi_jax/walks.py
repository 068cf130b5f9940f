"""Taking displayed liquidity: a walk of the book, and the memory of what has been taken.

The recording never reacts to us: what we take from a level stays gone until the level changes in the recording.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kalshi_jax.actions import taking_side
from kalshi_jax.fees import fee_weight, order_fee
from kalshi_jax.ledger import Trade, closing_contracts
from kalshi_jax.state import Fees, Taken
from kalshi_jax.tape import DOLLAR, Tape


def walk_book(
    tape: Tape,
    row: jax.Array,
    taken: Taken,
    position: jax.Array,
    direction: jax.Array,
    contracts: jax.Array,
    fees: Fees,
    limit: jax.Array | int = 0,
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
        limit: i32[M], the lowest bid to take, 0.01 cent.

    Returns:
        The trade, and the memory if it is accepted.
    """
    price, entry, take, before, free = _walk(tape, row, taken, taking_side(direction), contracts, limit)
    filled = take.sum(-1)
    close = closing_contracts(position, direction, filled)
    take_closing = jnp.clip(close[:, None] - before, 0, take)
    yes_price = jnp.where(direction[:, None] < 0, price, DOLLAR - price)  # -1 takes YES bids
    high, low = fee_weight(price)
    trade = Trade(
        direction=direction,
        contracts=filled,
        gross=(take * yes_price).sum(-1),
        closing_gross=(take_closing * yes_price).sum(-1),
        fee=order_fee(fees.taker_rate, fees.taker_flat, (take * high).sum(-1), (take * low).sum(-1), filled),
    )
    return trade, _remember(taken, entry, take, free)


def take_displayed(
    tape: Tape, row: jax.Array, taken: Taken, direction: jax.Array, contracts: jax.Array, limit: jax.Array
) -> tuple[jax.Array, Taken]:
    """Take what comes to a resting order: opposite bids at `limit` or better; arguments as in `walk_book`.

    Returns:
        Contracts taken, i32[M], and the memory with them.
    """
    _, entry, take, _, free = _walk(tape, row, taken, taking_side(direction), contracts, limit)
    return take.sum(-1), _remember(taken, entry, take, free)


def deepest_bid(
    tape: Tape, row: jax.Array, taken: Taken, direction: jax.Array, contracts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Find the last level that `walk_book` would take from: its bid i32[M] in 0.01 cent, and whether there is one, bool[M]."""
    price, _, take, _, _ = _walk(tape, row, taken, taking_side(direction), contracts, 0)
    takes = take > 0
    return jnp.where(takes, price, DOLLAR).min(-1), takes.any(-1)


def _walk(
    tape: Tape, row: jax.Array, taken: Taken, side: jax.Array, contracts: jax.Array, limit: jax.Array | int
) -> tuple[jax.Array, ...]:
    """Walk the displayed bids of a side (i32[M]), as far as the memory has places for further levels.

    Returns:
        Each [M, K]: bid prices, entries, contracts taken, contracts offered before; and bool[M, C], the memory's free places.
    """
    price, entry = tape.price[row, side].astype(jnp.int32), tape.entry[row, side]
    same = taken.entry[:, :, None] == entry[:, None, :]  # [M, C, K]
    gone = jnp.where(same, taken.contracts[:, :, None], 0).sum(1)
    offered = jnp.maximum(tape.size[row, side] - gone, 0)
    offered = jnp.where(price >= jnp.reshape(limit, (-1, 1)), offered, 0)
    changed = tape.entry_row[taken.entry + 1] <= row[:, None]
    free = (taken.contracts == 0) | changed
    further = jnp.cumsum((offered > 0) & (gone == 0), axis=-1)
    offered = jnp.where(further <= free.sum(-1, keepdims=True), offered, 0)
    before = jnp.cumsum(offered, axis=-1) - offered
    return price, entry, jnp.clip(contracts[:, None] - before, 0, offered), before, free


def _remember(taken: Taken, entry: jax.Array, take: jax.Array, free: jax.Array) -> Taken:
    """Add what was taken per displayed level [M, K]: a level known already keeps its place, another gets the next free one."""
    kept = jnp.where(free, 0, taken.contracts)
    takes = take[:, :, None] > 0  # [M, K, C]
    known = takes & (kept > 0)[:, None] & (taken.entry[:, None] == entry[:, :, None])
    new = (take > 0) & ~known.any(-1)
    place = free[:, None] & (jnp.cumsum(free, axis=-1)[:, None] == jnp.cumsum(new, axis=-1)[:, :, None])
    write = known | (place & new[:, :, None])
    return Taken(
        entry=jnp.where(write.any(1), jnp.where(write, entry[:, :, None], 0).sum(1), taken.entry),
        contracts=kept + jnp.where(write, take[:, :, None], 0).sum(1),
    )
