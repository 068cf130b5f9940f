"""From intents to orders: what stays in the book, what is placed, and what cash can cover."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.actions import Intent, resting_side, taking_side
from kalshi_jax.fills import maker_fee, reserved_cash, rest_at
from kalshi_jax.ledger import MAX_WEALTH, Ledger, Trade, book_trades, cash_change, closing_contracts
from kalshi_jax.queues import first_fall
from kalshi_jax.state import EnvParams, Fees, Orders, Taken
from kalshi_jax.tape import DOLLAR, ENTRY, SIZE, Quote, Tape, once
from kalshi_jax.walks import deepest_bid, walk_book


@struct.dataclass
class Placed:
    """What the orders of one step did before time moved."""

    taker_orders: jax.Array  # i32[], NOW orders that filled at least one contract
    taker_contracts: jax.Array  # i32[]
    refused: jax.Array  # i32[], orders that cash or the ledger's bound did not cover


@struct.dataclass
class Sent:
    """New orders as they are sent: an order's price is decided when it is sent, not when it arrives."""

    intent: Intent  # size 0 where nothing is sent
    limit: jax.Array  # i32[M, O], 0.01 cent: the lowest bid that a NOW order takes, the bid that a WAIT order makes
    entry: jax.Array  # i32[M, O], the last change of a WAIT order's level


def keep_orders(orders: Orders, intent: Intent, here: Quote, hold_cancels: jax.Array) -> tuple[Orders, jax.Array]:
    """Cancel every resting order that its slot does not re-affirm.

    Args:
        orders: resting orders.
        intent: what the agent wants now.
        here: what the rows i32[M] quote.
        hold_cancels: bool[].

    Returns:
        The orders that stay (price 0 where cancelled), and bool[M, O]: re-affirmed, so nothing new is to be placed.
    """
    same = intent.waits & (intent.direction == orders.direction) & (intent.reduces == orders.reduces)
    fits = (intent.size > 0) & (intent.size <= orders.filled + orders.remaining)
    affirmed = (orders.price > 0) & same & fits & (here.bid(resting_side(orders.direction)) == orders.price)
    stays = affirmed | ((orders.price > 0) & (intent.size == 0) & ~hold_cancels)
    remaining = jnp.where(affirmed, jnp.minimum(orders.remaining, intent.size), orders.remaining)
    return replace(orders, price=jnp.where(stays, orders.price, 0), remaining=remaining), affirmed


def send_orders(tape: Tape, here: Quote, intent: Intent, kept: jax.Array) -> Sent:
    """Write down the new orders of a decision on the books of rows `here` (i32[M]); nothing new for slots whose order is `kept`.

    A WAIT order is a post-only limit at the best bid of its side. A NOW order takes whatever is displayed.
    """
    side = resting_side(intent.direction)
    best = here.bid(side)
    sends = ~kept & ~(intent.waits & (best == 0))
    return Sent(
        intent=replace(intent, size=jnp.where(sends, intent.size, 0)),
        limit=jnp.where(intent.waits, best, 0),
        entry=tape.levels[here.row[:, None], side, 0, ENTRY],
    )


def limit_orders(tape: Tape, row: jax.Array, ledger: Ledger, taken: Taken, sent: Sent) -> Sent:
    """Limit orders that will arrive later by what the account and the books (rows i32[M]) show when they are sent.

    A NOW order becomes an immediate-or-cancel limit at the last level that it would take from; one that would find nothing, or
    has nothing to sell, is not sent.
    """
    intent = sent.intent
    closing = closing_contracts(ledger.position[:, None], intent.direction, intent.size)
    size = jnp.where(intent.reduces, closing, intent.size)
    now = [
        deepest_bid(tape, row, taken, intent.direction[:, o], jnp.where(intent.waits[:, o], 0, size[:, o]))
        for o in range(size.shape[1])
    ]
    deepest, finds = (jnp.stack(x, axis=1) for x in zip(*now, strict=True))
    size = jnp.where(intent.waits | finds, size, 0)
    return replace(sent, intent=replace(intent, size=size), limit=jnp.where(intent.waits, sent.limit, deepest))


def arrive(tape: Tape, row: jax.Array, sent: Sent, lost: jax.Array) -> Sent:
    """Bring orders to the exchange at later rows (i32[M]): `lost` (bool[M]) markets get none, levels have changed meanwhile."""
    intent = replace(sent.intent, size=jnp.where(lost[:, None], 0, sent.intent.size))
    return Sent(intent, sent.limit, rest_at(tape, sent.entry, row, intent.waits & (intent.size > 0)))


def place_orders(
    params: EnvParams, here: Quote, ledger: Ledger, orders: Orders, taken: Taken, sent: Sent, fees: Fees
) -> tuple[Ledger, Orders, Taken, Placed]:
    """Place new orders: order slot 0 of all markets in slot order, then order slot 1, and so on.

    NOW orders fill or do nothing; WAIT orders join their level behind what rests there. A WAIT order that would cross the book is
    refused, and so is, whole, what cash less reserves cannot cover or what could carry the account past the ledger's bound.
    """
    tape, intent = params.tape, sent.intent
    slots, zero = intent.size.shape[1], jnp.zeros((), jnp.int32)
    placed = Placed(zero, zero, zero)
    reserved = once(tape, reserved_cash, orders, fees).sum()
    for o in range(slots):
        direction, size, waits, reduces = (
            x[:, o] for x in (intent.direction, intent.size, intent.waits, intent.reduces)
        )
        size = jnp.where(reduces, closing_contracts(ledger.position, direction, size), size)

        price, joins = sent.limit[:, o], waits & (size > 0)
        would, trade, taken_if = once(
            tape, _consider, tape, here, ledger, taken, fees, direction, size, waits, reduces, price
        )
        accepted, reserved = once(tape, _accept, would, ledger.cash, reserved, _wealth(ledger, orders))
        ok, waits = once(tape, _side_by_side, accepted), would.waits

        fills = ok & ~waits
        trade = jax.tree.map(lambda x, fills=fills: jnp.where(fills, x, 0), trade)
        ledger = book_trades(ledger, trade)
        taken = jax.tree.map(lambda new, old, fills=fills: jnp.where(fills, new, old), taken_if, taken)
        entry = jnp.where(joins, sent.entry[:, o], 0)
        new = Orders(
            price=price,
            direction=direction,
            reduces=reduces,
            remaining=size,
            filled=jnp.zeros_like(size),
            front=tape.entries[entry, SIZE],
            fall=first_fall(tape, params.queue_model, entry),
        )
        rests = ok & waits
        # a mask: a scatter would have compilers change the layout of all orders
        here_rests = rests[:, None] & (jnp.arange(slots) == o)
        orders = jax.tree.map(lambda old, x, rests=here_rests: jnp.where(rests, x[:, None], old), orders, new)
        placed = Placed(
            taker_orders=placed.taker_orders + fills.sum(),
            taker_contracts=placed.taker_contracts + trade.contracts.sum(),
            refused=placed.refused + (would.wants & ~ok).sum(),
        )
    return ledger, orders, taken, placed


@struct.dataclass
class _Would:
    """What each market's order would do, were it accepted."""

    waits: jax.Array  # bool[M]
    wants: jax.Array  # bool[M], there is one
    crosses: jax.Array  # bool[M]
    reduces: jax.Array  # bool[M]
    hold_back: jax.Array  # i32[M], of a WAIT order
    cash_move: jax.Array  # i32[M], of a NOW order
    more_wealth: jax.Array  # i32[M]


def _consider(
    tape: Tape,
    here: Quote,
    ledger: Ledger,
    taken: Taken,
    fees: Fees,
    direction: jax.Array,
    size: jax.Array,
    waits: jax.Array,
    reduces: jax.Array,
    price: jax.Array,
) -> tuple[_Would, Trade, Taken]:
    """Find what the orders of one order slot would do, i32[M] each; arguments as in `place_orders`."""
    trade, taken_if = walk_book(
        tape, here.row, taken, ledger.position, direction, jnp.where(waits, 0, size), fees, price
    )
    cash_move = cash_change(ledger.position, trade)
    position_if = ledger.position + direction * trade.contracts
    joins = waits & (size > 0)
    opposite = here.bid(taking_side(direction)[:, None])[:, 0]
    more_if = cash_move + DOLLAR * (jnp.abs(position_if) - jnp.abs(ledger.position))
    would = _Would(
        waits=waits,
        wants=jnp.where(waits, joins, trade.contracts > 0),
        crosses=joins & (opposite >= DOLLAR - price),
        reduces=reduces,
        hold_back=jnp.where(reduces, 0, price * size) + maker_fee(fees, price, size),
        cash_move=cash_move,
        more_wealth=jnp.where(waits, DOLLAR * size, more_if),
    )
    return would, trade, taken_if


def _accept(
    would: _Would, cash: jax.Array, reserved: jax.Array, wealth: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """Accept orders in slot order, bool[] each: one sees the cash that those before it left; and what is reserved after that."""
    accepted = []
    for m in range(len(would.waits)):
        each = jax.tree.map(lambda x, m=m: x[m], would)
        covered = jnp.where(each.waits, cash - reserved >= each.hold_back, cash + each.cash_move >= reserved)
        ok = each.wants & ~each.crosses & covered & (each.reduces | (each.more_wealth <= MAX_WEALTH - wealth))
        cash += jnp.where(ok & ~each.waits, each.cash_move, 0)
        reserved += jnp.where(ok & each.waits, each.hold_back, 0)
        wealth += jnp.where(ok & ~(each.waits & each.reduces), each.more_wealth, 0)
        accepted.append(ok)
    return accepted, reserved


def _side_by_side(each: list[jax.Array]) -> jax.Array:
    """Stack masks (bool[] each), bool[M]; `jnp.stack` would have XLA lay out the markets of a batch column by column."""
    stacked, at = jnp.zeros(len(each), bool), jnp.arange(len(each))
    for m, x in enumerate(each):
        stacked |= x & (at == m)
    return stacked


def _wealth(ledger: Ledger, orders: Orders) -> jax.Array:
    """Compute the most that the account could come to hold: cash and a dollar per contract held or bid for, i32[]."""
    bid_for = jnp.where((orders.price > 0) & ~orders.reduces, orders.remaining, 0)
    return ledger.cash + DOLLAR * (jnp.abs(ledger.position).sum() + bid_for.sum())
