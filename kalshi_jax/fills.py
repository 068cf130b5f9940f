"""Resting orders: what they hold back, how they wait in the queue of their level, and what fills them.

The recording never reacts to us, so the rules err on the exchange's side: a resting order fills when the opposite side comes to
its price, when trades reach it in the queue or go past its price, never because a level shrinks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.actions import resting_side, taking_side
from kalshi_jax.batching import over_markets, while_any
from kalshi_jax.fees import fee_weight, order_fee
from kalshi_jax.ledger import Ledger, Trade, book_trades, closing_contracts
from kalshi_jax.queues import QUEUE_MODELS, next_fall
from kalshi_jax.state import EnvParams, Fees, Orders, Taken
from kalshi_jax.tape import DOLLAR, ROW, SIZE, TRADED, UNEXPLAINED, Quote, Tape, first_reach, highest_bid
from kalshi_jax.walks import take_displayed


@struct.dataclass
class Met:
    """What resting orders got on their way through some rows."""

    orders: jax.Array  # i32[], that filled at least one contract
    contracts: jax.Array  # i32[]

    def __add__(self, other: Met) -> Met:
        return Met(self.orders + other.orders, self.contracts + other.contracts)


def maker_fee(fees: Fees, price: jax.Array, contracts: jax.Array) -> jax.Array:
    """Compute the whole fee of a resting order once `contracts` (i32[M, ...]) have filled at `price`, i32[M, ...]."""
    if fees.maker_rate is None or fees.maker_flat is None:
        return jnp.zeros_like(contracts)
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


def meet_rows(
    params: EnvParams,
    ledger: Ledger,
    orders: Orders,
    taken: Taken,
    here: Quote,
    after: jax.Array,
    fees: Fees,
) -> tuple[Ledger, Orders, Taken, Met]:
    """Lead every resting order from the rows `here` to `after` (i32[M]) of its market, and book what it gets on the way.

    A row at which a book begins anew, or closes, cancels what still rests there.
    """
    tape, before, restart = params.tape, here.row, here.restart
    until = jnp.minimum(after, restart - 1)
    waits = orders.price > 0
    prints = tape.trades.shape[0] > 0
    if params.certain_fill == "whole":
        due = reached(tape, orders, before, until)
        effective = jnp.broadcast_to(until[:, None], due.shape)
        waits &= prints | ~due  # one that fills whole need not look at its queue
    else:
        opposite = taking_side(orders.direction)
        reach, due = first_reach(tape, opposite, before[:, None], until[:, None], DOLLAR - orders.price)
        due &= orders.price > 0
        effective = jnp.where(due, reach, until[:, None])
    orders, traded = advance_queue(params, orders, waits, until, effective)
    if prints:
        traded = trades_through(tape, orders, before, effective, traded)
    if params.certain_fill == "displayed":
        orders = replace(orders, front=jnp.where(due, 0, orders.front))
    filled = contracts = jnp.zeros((), jnp.int32)
    for slot in range(orders.price.shape[1]):
        wanted = jnp.where(due[:, slot], orders.remaining[:, slot], traded[:, slot])
        most = fillable(ledger, orders, slot, wanted)
        got = most
        if params.certain_fill == "displayed":
            price, direction = orders.price[:, slot], orders.direction[:, slot]
            got = jnp.minimum(traded[:, slot], most)
            brought, after_it = take_displayed(tape, effective[:, slot], taken, direction, most - got, DOLLAR - price)
            came = most > got  # what has not been reached leaves the memory as it was at the rows before
            taken = jax.tree.map(lambda new, old, came=came: jnp.where(came, new, old), after_it, taken)
            got += brought
        trade, orders = fill_resting(ledger, orders, fees, slot, got, most < wanted)
        ledger = book_trades(ledger, trade)
        filled += (trade.contracts > 0).sum()
        contracts += trade.contracts.sum()
    gone = (restart <= after)[:, None]
    return ledger, replace(orders, price=jnp.where(gone, 0, orders.price)), taken, Met(filled, contracts)


def rest_at(tape: Tape, entry: jax.Array, row: jax.Array, rests: jax.Array) -> jax.Array:
    """Find levels' last changes up to `row` (i32[M]) from earlier ones, `entry` (i32[M, O]), where `rests` (bool[M, O])."""

    def behind(entry: jax.Array) -> jax.Array:
        return (rests & (tape.entries[entry + 1, ROW] <= row[:, None])).any()

    def on(entry: jax.Array) -> jax.Array:
        return entry + (rests & (tape.entries[entry + 1, ROW] <= row[:, None]))

    return jax.lax.while_loop(behind, on, entry)


def advance_queue(
    params: EnvParams, orders: Orders, waits: jax.Array, row: jax.Array, effective: jax.Array
) -> tuple[Orders, jax.Array]:
    """Let every order that `waits` (bool[M, O]) meet the falls of its own level up to `row` (i32[M]), in order.

    Falls later than `effective` (i32[M, O]) are passed without effect. What trades took of one comes off the front first and,
    beyond it, fills us; of the rest the queue model says how much was ahead of us. Of several orders at one level the
    earlier slot fills first. An order at the front has nothing more to meet but trades: without any it stays where it was.

    Returns:
        The orders further ahead in their queues, and i32[M, O]: contracts that trades have filled.
    """
    prints, model = params.tape.trades.shape[0] > 0, params.queue_model
    Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]
    Own = tuple[Orders, jax.Array, jax.Array]
    Shared = tuple[Tape, jax.Array]

    def going(changed_at: jax.Array, front: jax.Array, upto: jax.Array) -> jax.Array:
        return (changed_at <= upto) & (prints | (front > 0))

    def goes_on(carry: Carry, own: Own, shared: Shared) -> jax.Array:
        return going(*carry[1:3], own[1]).any()

    def meet(carry: Carry, own: Own, shared: Shared) -> Carry:
        (fall, changed_at, front, filled), (orders, upto, effective), (tape, table) = carry, own, shared
        passes = going(changed_at, front, upto)
        due = passes & (changed_at <= effective)
        after, unexplained, ahead = tape.falls[fall, SIZE], tape.falls[fall, UNEXPLAINED], front
        if filled is not None:
            traded = tape.falls[fall, TRADED]
            ahead = jnp.maximum(front - traded, 0)
            reaching = jnp.where(due, jnp.maximum(traded - front, 0), 0)
            same_level = [
                (p == orders.price) & (d == orders.direction) for p, d in _each(orders.price, orders.direction)
            ]
            filled = filled + _share(reaching, same_level, orders.remaining - filled)
        behind = jnp.maximum(after + unexplained - ahead, 0)
        moved = QUEUE_MODELS[model](ahead, behind, unexplained, table)
        front = jnp.where(due, jnp.clip(ahead - moved, 0, after), front)
        fall = jnp.where(passes, next_fall(tape, model, fall), fall)
        return fall, tape.falls[fall, ROW], front, filled

    upto = jnp.where(waits, row[:, None], -1)
    fall = jnp.where(waits, orders.fall, 0)  # one that nobody needs is not looked up all over memory
    none = jnp.zeros_like(orders.front)
    begin = (fall, params.tape.falls[fall, ROW], orders.front, none if prints else None)
    fall, _, front, filled = _for_each_market(while_any(goes_on, meet))(
        (begin, (orders, upto, effective)), (params.tape, params.queue_table)
    )
    return replace(orders, fall=fall, front=front), filled if prints else none


def trades_through(tape: Tape, orders: Orders, before: jax.Array, effective: jax.Array, filled: jax.Array) -> jax.Array:
    """Give resting orders what trades took from worse bids of their side: those contracts would have come to them first.

    Args:
        tape: the tape.
        orders: resting orders.
        before: i32[M], rows whose trades came before.
        effective: i32[M, O], rows up to which trades count.
        filled: i32[M, O], contracts that they have got at their own level.

    Returns:
        i32[M, O], the contracts with those from trades through. Of one trade, orders in earlier slots get first.
    """
    Carry = tuple[jax.Array, jax.Array]
    Own = tuple[Orders, jax.Array, jax.Array]

    def goes_on(carry: Carry, own: Own, tape: Tape) -> jax.Array:
        return (carry[0] < own[2]).any()

    def meet(carry: Carry, own: Own, tape: Tape) -> Carry:
        (trade, filled), (orders, side, last) = carry, own
        counts = trade < last
        hit, contracts, lower = jnp.moveaxis(tape.trades[jnp.minimum(trade, len(tape.trades) - 1)], -1, 0)
        same_side = [s == side for (s,) in _each(side)]
        worse, best = counts & (hit < orders.price), jnp.zeros_like(hit)
        for same, (price, still) in zip(same_side, _each(orders.price, counts), strict=True):
            worse &= (hit != price) | ~same  # a trade at the level of another order of ours has gone to that one
            best = jnp.where(same & still, jnp.maximum(best, price), best)
        filled = filled + _share(jnp.where(worse, contracts, 0), same_side, orders.remaining - filled)
        following = jnp.where(hit < best, trade + 1, lower)  # until a lower one, all are too good for us
        return jnp.where(counts, following, trade), filled

    side = resting_side(orders.direction)
    last = jnp.where(orders.price > 0, tape.trade_count[effective, side], 0)
    begin = (tape.trade_count[before[:, None], side], filled)
    return _for_each_market(while_any(goes_on, meet))((begin, (orders, side, last)), tape)[1]


def _for_each_market(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of ((carry, own), shared) that runs a loop of `while_any` for each market: each stops by itself."""
    return over_markets(lambda own, shared: jax.vmap(loop, (0, 0, None))(*own, shared))


def _each(*arrays: jax.Array) -> list[tuple[jax.Array, ...]]:
    """List the elements of arrays [O] side by side."""
    return [tuple(x[o] for x in arrays) for o in range(len(arrays[0]))]


def _share(offered: jax.Array, competes: list[jax.Array], room: jax.Array) -> jax.Array:
    """Divide what is offered to orders (i32[O]), i32[O]: an earlier one takes it from those it competes with (bool[O] each)."""
    got: list[jax.Array] = []
    for o in range(len(competes)):
        earlier = sum((jnp.where(competes[p][o], got[p], 0) for p in range(o)), jnp.zeros_like(offered[o]))
        got.append(jnp.clip(offered[o] - earlier, 0, room[o]))
    return jnp.stack(got)


def reached(tape: Tape, orders: Orders, before: jax.Array, after: jax.Array) -> jax.Array:
    """Tell which resting orders the opposite side came to in rows before + 1 .. after (i32[M]), bool[M, O]."""
    best = highest_bid(tape, taking_side(orders.direction), before[:, None], after[:, None])
    return (orders.price > 0) & (best >= DOLLAR - orders.price)


def fillable(ledger: Ledger, orders: Orders, slot: int, wanted: jax.Array) -> jax.Array:
    """Limit what is to fill of order slot `slot` (i32[M]): a SELL no more than the holding, i32[M]."""
    closing = closing_contracts(ledger.position, orders.direction[:, slot], wanted)
    return jnp.where(orders.reduces[:, slot], closing, wanted)


def fill_resting(
    ledger: Ledger, orders: Orders, fees: Fees, slot: int, contracts: jax.Array, ends: jax.Array
) -> tuple[Trade, Orders]:
    """Fill `contracts` (i32[M], at most the remainder) of order slot `slot` at its own price.

    Returns:
        The trade per market, and the orders less what has filled; where an order `ends` (bool[M]), its rest is cancelled.
    """
    price, direction = orders.price[:, slot], orders.direction[:, slot]
    remaining, filled = orders.remaining[:, slot], orders.filled[:, slot]
    yes_price = jnp.where(direction > 0, price, DOLLAR - price)
    close = closing_contracts(ledger.position, direction, contracts)
    fee = maker_fee(fees, price, filled + contracts) - maker_fee(fees, price, filled)
    trade = Trade(direction, contracts, contracts * yes_price, close * yes_price, fee)
    over = ends | ((contracts > 0) & (contracts == remaining))
    this = jnp.arange(orders.price.shape[1]) == slot
    got = jnp.where(this, contracts[:, None], 0)
    orders = replace(
        orders,
        price=jnp.where(this & over[:, None], 0, orders.price),
        remaining=orders.remaining - got,
        filled=orders.filled + got,
    )
    return trade, orders
