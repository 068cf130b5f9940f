"""From actions to the exchange's orders: what a live trader sends so that the account does what the environment would do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from kalshi_jax.actions import Intent, decode
from kalshi_jax.env import MarketAgnosticKalshiEnv
from kalshi_jax.ledger import Ledger
from kalshi_jax.orders import keep_orders, place_orders, send_orders
from kalshi_jax.state import EnvParams, EnvState, Orders, Taken
from kalshi_jax.tape import CENT, DOLLAR, quote_at
from kalshi_jax.walks import walk_book


class Tickers(Protocol):
    """Whatever names the markets of a tape, such as the index that comes with it."""

    @property
    def tickers(self) -> Sequence[str]:
        """Ticker of market m of the tape."""


class LiveOrders(NamedTuple):
    """What to send, in this order; all lists are in the environment's own booking order.

    A resting order is named by its `market_slot` and `order_slot`, for each pair holds at most one; whoever sends the orders
    keeps the exchange's id of the one that rests there.
    """

    cancels: list[dict[str, Any]]  # ticker, market_slot, order_slot, side, and the order's price as in `orders`
    decreases: list[dict[str, Any]]  # the same and reduce_to, contracts: a smaller size keeps its place in the queue
    orders: list[dict[str, Any]]  # new orders, as the exchange takes them


@struct.dataclass
class _Plan:
    """What `env.transition` does before time moves, per market and order slot."""

    count: jax.Array  # i32[M, O], contracts of a new order, 0 where there is none
    yes_price: jax.Array  # i32[M, O], its limit, 0.01 cent
    intent: Intent
    cancelled: jax.Array  # bool[M, O], the resting order goes
    remaining: jax.Array  # i32[M, O], what is left of the resting order; as before where it was cancelled


def decode_orders(
    action: Any,
    state: EnvState,
    index: Tickers,
    *,
    env: MarketAgnosticKalshiEnv,
    params: EnvParams,
    client_order_id: Callable[[int, int], str],
) -> LiveOrders:
    """Say what to send to the exchange for an action, exactly as `env.transition` would carry it out.

    A NOW order is an immediate-or-cancel limit as deep as the displayed levels that it would walk, for the contracts that they
    offer; a WAIT order is a post-only limit at the best bid that it joins. What the environment would refuse or cannot fill is
    not sent. An order is priced on its own side: `yes_price_dollars` or `no_price_dollars`, and in integer cents `yes_price` or
    `no_price`, left out where the price is not a whole cent.

    Args:
        action: i32[M, O].
        state: one episode, with the account's ledger and resting orders.
        index: names the markets of `params.tape`.
        env: the environment.
        params: its parameters.
        client_order_id: gives the id of a new order from its market slot and order slot; a fresh one at every call.

    Raises:
        ValueError: an action of another shape, or an index of another tape.
    """
    shape = (env.max_markets, env.orders_per_market)
    if np.shape(action) != shape:
        raise ValueError(
            f"action of shape {np.shape(action)}: expected {shape}, markets by orders; decode one episode at a time"
        )
    if len(index.tickers) != params.tape.num_markets:
        raise ValueError(
            f"index of {len(index.tickers)} markets, tape of {params.tape.num_markets}: pass the index that came with the tape"
        )
    plan, resting, markets = jax.device_get(
        (_plan(env, params, state, jnp.asarray(action, jnp.int32)), state.orders, state.markets)
    )
    sent = LiveOrders([], [], [])
    for o, m in np.ndindex(shape[::-1]):
        at, ticker = (m, o), index.tickers[markets[m]]
        if resting.price[at] > 0:
            bid, rests_yes = int(resting.price[at]), resting.direction[at] > 0
            yes_price = bid if rests_yes else DOLLAR - bid
            side = _side(resting.direction[at], resting.reduces[at])
            order = {"ticker": ticker, "market_slot": m, "order_slot": o, "side": side, **_price(side, yes_price)}
            if plan.cancelled[at]:
                sent.cancels.append(order)
            elif plan.remaining[at] < resting.remaining[at]:
                sent.decreases.append({**order, "reduce_to": int(plan.remaining[at])})
        if plan.count[at] > 0:
            count, waits = int(plan.count[at]), bool(plan.intent.waits[at])
            reduces = bool(plan.intent.reduces[at])
            side = _side(plan.intent.direction[at], reduces)
            sent.orders.append(
                {
                    "ticker": ticker,
                    "action": "sell" if reduces else "buy",
                    "side": side,
                    "type": "limit",
                    "count": count,
                    "count_fp": f"{count}.00",
                    **_price(side, int(plan.yes_price[at])),
                    "time_in_force": "good_till_canceled" if waits else "immediate_or_cancel",
                    "post_only": waits,
                    "reduce_only": reduces,
                    "client_order_id": client_order_id(m, o),
                }
            )
    return sent


@partial(jax.jit, static_argnums=0)
def _plan(env: MarketAgnosticKalshiEnv, params: EnvParams, state: EnvState, action: jax.Array) -> _Plan:
    """Cancel and place by the environment's own functions, one order slot after the other, and note what each order did."""
    tape = params.tape
    fees = jax.tree.map(lambda x: x[jnp.maximum(state.markets, 0)], params.fees)
    intent = decode(action, env.order_sizes, state.markets >= 0)
    here = quote_at(tape, state.row)
    orders, affirmed = keep_orders(state.orders, intent, here, params.hold_cancels)
    kept = orders
    sent = send_orders(tape, here, intent, affirmed)

    def place(carry: tuple[Ledger, Orders, Taken], o: jax.Array) -> tuple[tuple[Ledger, Orders, Taken], Any]:
        ledger, orders, taken = carry
        size = jnp.where(jnp.arange(env.orders_per_market) == o, sent.intent.size, 0)
        only = replace(sent, intent=replace(sent.intent, size=size))
        after, orders, taken_after, _ = place_orders(params, here, ledger, orders, taken, only, fees)
        direction = intent.direction[:, o]
        filled = (after.position - ledger.position) * direction
        # the last contract taken has the deepest price: what the whole costs more than all but one
        contracts = jnp.stack([filled, jnp.maximum(filled - 1, 0)])
        walks, _ = jax.vmap(lambda n: walk_book(tape, state.row, taken, ledger.position, direction, n, fees))(contracts)
        bid = orders.price[:, o]
        joined = (bid > 0) & (kept.price[:, o] == 0)
        count = jnp.where(joined, orders.remaining[:, o], filled)
        limit = jnp.where(joined, jnp.where(direction > 0, bid, DOLLAR - bid), walks.gross[0] - walks.gross[1])
        return (after, orders, taken_after), (count, limit)

    account = (state.ledger, orders, state.taken)
    _, (count, limit) = jax.lax.scan(place, account, jnp.arange(env.orders_per_market))
    return _Plan(
        count=count.T,
        yes_price=limit.T,
        intent=intent,
        cancelled=(state.orders.price > 0) & (kept.price == 0),
        remaining=kept.remaining,
    )


def _side(direction: int, reduces: bool) -> str:
    """Name the contract: a direction of +1 buys YES or sells NO."""
    return "yes" if (direction > 0) != reduces else "no"


def _price(side: str, yes_price: int) -> dict[str, Any]:
    """Write a limit (YES price in 0.01 cent) as the price of the order's own side, in dollars and, if whole, in cents."""
    price = yes_price if side == "yes" else DOLLAR - yes_price
    cents = {} if price % CENT else {f"{side}_price": price // CENT}
    return {**cents, f"{side}_price_dollars": f"{price // DOLLAR}.{price % DOLLAR:04d}"}
