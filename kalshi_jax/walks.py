"""Taking displayed liquidity: a walk of the book, and the memory of what has been taken.

The recording never reacts to us: what we take from a level stays gone until the level changes in the recording.

A walk goes level by level, and each level is a column of its own: i32[M] for all markets; so is each place of the memory.
Compilers turn that into loops over episodes; sums along the short axis of levels they do not.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.actions import taking_side
from kalshi_jax.batching import over_markets
from kalshi_jax.fees import fee_weight, order_fee
from kalshi_jax.ledger import Trade, closing_contracts
from kalshi_jax.state import Fees, Taken
from kalshi_jax.tape import DOLLAR, NO_ROW, ROW, Tape, levels_at, once

Columns = list[jax.Array]


@struct.dataclass
class _Walk:
    """What a walk takes, per displayed level i32[M], best first."""

    price: Columns  # bids
    entry: Columns  # the levels' last changes
    take: Columns  # contracts taken
    further: Columns  # 0 or 1: taken from for the first time since that change
    filled: jax.Array  # i32[M], contracts taken from all of them


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
    own = (row, taken, position, direction, contracts, fees, jnp.broadcast_to(jnp.asarray(limit), row.shape))
    return _walk_book(own, tape)


@over_markets
def _walk_book(own: Any, tape: Tape) -> tuple[Trade, Taken]:
    row, taken, position, direction, contracts, fees, limit = own
    walk, free = _walk(tape, row, taken, taking_side(direction), contracts, limit)
    trade = once(tape, _pay, walk, position, direction, fees)
    return trade, _remember(tape, taken, walk, free)


def _pay(walk: _Walk, position: jax.Array, direction: jax.Array, fees: Fees) -> Trade:
    """Add up what a walk costs; arguments as in `walk_book`."""
    close = closing_contracts(position, direction, walk.filled)
    gross = closing_gross = high = low = jnp.zeros_like(close)
    for price, take in zip(walk.price, walk.take, strict=True):
        yes_price = jnp.where(direction < 0, price, DOLLAR - price)  # -1 takes YES bids
        gross += take * yes_price
        closes = jnp.minimum(take, close)
        closing_gross += closes * yes_price
        close -= closes
        weight_high, weight_low = fee_weight(price)
        high += take * weight_high
        low += take * weight_low
    return Trade(
        direction=direction,
        contracts=walk.filled,
        gross=gross,
        closing_gross=closing_gross,
        fee=order_fee(fees.taker_rate, fees.taker_flat, high, low, walk.filled),
    )


def take_displayed(
    tape: Tape, row: jax.Array, taken: Taken, direction: jax.Array, contracts: jax.Array, limit: jax.Array
) -> tuple[jax.Array, Taken]:
    """Take what comes to a resting order: opposite bids at `limit` or better; arguments as in `walk_book`.

    Returns:
        Contracts taken, i32[M], and the memory with them.
    """
    walk, free = _walk(tape, row, taken, taking_side(direction), contracts, limit)
    return walk.filled, _remember(tape, taken, walk, free)


def deepest_bid(
    tape: Tape, row: jax.Array, taken: Taken, direction: jax.Array, contracts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Find the last level that `walk_book` would take from: its bid i32[M] in 0.01 cent, and whether there is one, bool[M]."""
    walk, _ = _walk(tape, row, taken, taking_side(direction), contracts, 0)
    deepest = jnp.full_like(walk.filled, DOLLAR)
    for price, take in zip(walk.price, walk.take, strict=True):
        deepest = jnp.where(take > 0, price, deepest)
    return deepest, walk.filled > 0


def _walk(
    tape: Tape, row: jax.Array, taken: Taken, side: jax.Array, contracts: jax.Array, limit: jax.Array | int
) -> tuple[_Walk, Columns]:
    """Walk the displayed bids of a side (i32[M]), as far as the memory has places for further levels.

    Returns:
        The walk, and the memory's free places, a column bool[M] each.
    """
    levels = min(len(taken.entry), tape.levels.shape[2])

    def look(row: jax.Array, side: jax.Array, taken: Taken, contracts: jax.Array) -> tuple[jax.Array, Columns]:
        rows = jnp.where(contracts > 0, row, NO_ROW)  # where nobody takes: not all over memory
        free = [
            (gone == 0) | (tape.entries[jnp.where(gone > 0, known + 1, 0), ROW] <= row)
            for known, gone in zip(taken.entry, taken.contracts, strict=True)
        ]
        return levels_at(tape, rows, side, levels), free

    def take(shown: jax.Array, free: Columns, taken: Taken, contracts: jax.Array) -> tuple[Columns, Columns, jax.Array]:
        room, left = sum(x.astype(jnp.int32) for x in free), contracts
        takes, further = [], []
        for price, size, entry in _columns(shown):
            none = jnp.zeros_like(entry)
            gone_here = sum(
                (jnp.where(known == entry, gone, 0) for known, gone in zip(taken.entry, taken.contracts, strict=True)),
                none,
            )
            offered = jnp.where(price >= limit, jnp.maximum(size - gone_here, 0), 0)
            new = (offered > 0) & (gone_here == 0)
            room = room - new
            takes.append(jnp.where(room >= 0, jnp.minimum(left, offered), 0))
            left = left - takes[-1]
            further.append((new & (takes[-1] > 0)).astype(jnp.int32))
        return takes, further, left

    shown, free = once(tape, look, row, side, taken, contracts)
    takes, further, left = once(tape, take, shown, free, taken, contracts)
    price, _, entry = zip(*_columns(shown), strict=True)
    return _Walk(list(price), list(entry), takes, further, contracts - left), free


def _columns(shown: jax.Array) -> list[Columns]:
    """List price, size and entry (i32[M] each) of levels i32[M, L, 3], best first."""
    return [[shown[:, level, word] for word in range(shown.shape[2])] for level in range(shown.shape[1])]


def _remember(tape: Tape, taken: Taken, walk: _Walk, free: Columns) -> Taken:
    """Add what was taken: a level known already keeps its place, another gets the next free one."""

    def remember(taken: Taken, walk: _Walk, free: Columns) -> Taken:
        places = accumulate(x.astype(jnp.int32) for x in free)  # of the free, counted from 1
        entries, contracts = [], []
        for known, gone, is_free, place in zip(taken.entry, taken.contracts, free, places, strict=True):
            kept, now, number = jnp.where(is_free, -1, known), jnp.where(is_free, 0, gone), jnp.zeros_like(gone)
            for entry, take, new in zip(walk.entry, walk.take, walk.further, strict=True):
                number = number + new
                write = ((kept == entry) & (take > 0)) | (is_free & (place == number) & (new > 0))
                known = jnp.where(write, entry, known)
                now = now + jnp.where(write, take, 0)
            entries.append(known)
            contracts.append(now)
        return Taken(tuple(entries), tuple(contracts))

    return once(tape, remember, taken, walk, free)
