"""The ledger: cash, positions, cost and realized P&L in exact integers of 0.01 cent.

A position is signed: +YES, -NO. Buying NO is selling YES at one dollar minus the price, so a holding of both nets at once and
every pair returns a dollar. A NO holding of n has n dollars of collateral; cash is what is left to spend.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.tape import DOLLAR

MAX_WEALTH = 2_000_000_000  # cash plus a dollar for every contract held or bid for: everything stays in int32


@struct.dataclass
class Ledger:
    """The account of one episode. All amounts in 0.01 cent."""

    cash: jax.Array  # i32[]
    position: jax.Array  # i32[M], contracts, +YES, -NO
    cost_basis: jax.Array  # i32[M], what the open contracts cost
    realized_pnl: jax.Array  # i32[M], before fees
    fees_paid: jax.Array  # i32[M]


@struct.dataclass
class Trade:
    """The fills of one order in one step, per market. A trade of 0 contracts changes nothing."""

    direction: jax.Array  # i32[M], +1 buys YES or sells NO, -1 sells YES or buys NO
    contracts: jax.Array  # i32[M]
    gross: jax.Array  # i32[M], sum over fills of contracts * YES price
    closing_gross: jax.Array  # i32[M], the same over the contracts that close a holding (the first ones filled)
    fee: jax.Array  # i32[M]


def open_account(cash: jax.Array, markets: int) -> Ledger:
    """Open a ledger with `cash` (i32[], 0.01 cent) and no position in any of `markets` slots."""
    zero = jnp.zeros((markets,), jnp.int32)
    return Ledger(jnp.asarray(cash, jnp.int32), zero, zero, zero, zero)


def closing_contracts(position: jax.Array, direction: jax.Array, contracts: jax.Array) -> jax.Array:
    """Count the contracts of a trade that close the holding it goes against, i32[...]."""
    return jnp.clip(-position * direction, 0, contracts)


def collateral(position: jax.Array) -> jax.Array:
    """Compute the dollars that a NO holding stands for: 10,000 * max(-q, 0), i32[...] in 0.01 cent."""
    return DOLLAR * jnp.maximum(-position, 0)


def cash_change(position: jax.Array, trade: Trade) -> jax.Array:
    """Compute what a trade does to cash, fee and netting included, i32[M]."""
    after = position + trade.direction * trade.contracts
    return -trade.direction * trade.gross - (collateral(after) - collateral(position)) - trade.fee


def book_trades(ledger: Ledger, trade: Trade) -> Ledger:
    """Book one trade per market. Cash moves by the sum over markets of `cash_change`."""
    q, d, n = ledger.position, trade.direction, trade.contracts
    close = closing_contracts(q, d, n)
    opening = n - close
    opening_gross = trade.gross - trade.closing_gross
    cost_closed = multiply_divide(ledger.cost_basis, close, jnp.maximum(jnp.abs(q), 1))
    cost_opened = jnp.where(d > 0, opening_gross, DOLLAR * opening - opening_gross)
    proceeds = jnp.where(q > 0, trade.closing_gross, DOLLAR * close - trade.closing_gross)
    return Ledger(
        cash=ledger.cash + cash_change(q, trade).sum(),
        position=q + d * n,
        cost_basis=ledger.cost_basis - cost_closed + cost_opened,
        realized_pnl=ledger.realized_pnl + proceeds - cost_closed,
        fees_paid=ledger.fees_paid + trade.fee,
    )


def settle(ledger: Ledger, settled: jax.Array, result: jax.Array) -> Ledger:
    """Pay out the holdings of markets that have settled.

    Args:
        ledger: the account.
        settled: bool[M].
        result: i32[M], what a YES pays, 0 to 10,000 in 0.01 cent; below 0 (void) a holding returns what it cost.
    """
    q, cost = ledger.position, ledger.cost_basis
    proceeds = jnp.where(settled, jnp.where(result < 0, cost, collateral(q) + q * result), 0)
    return Ledger(
        cash=ledger.cash + proceeds.sum(),
        position=jnp.where(settled, 0, q),
        cost_basis=jnp.where(settled, 0, cost),
        realized_pnl=ledger.realized_pnl + jnp.where(settled, proceeds - cost, 0),
        fees_paid=ledger.fees_paid,
    )


def portfolio_value(ledger: Ledger, mark: jax.Array) -> jax.Array:
    """Compute cash plus positions at `mark` (i32[M], YES price in 0.01 cent), i32[]."""
    return ledger.cash + (collateral(ledger.position) + ledger.position * mark).sum()


def unrealized_pnl(ledger: Ledger, mark: jax.Array) -> jax.Array:
    """Compute what the holdings are worth at `mark` above their cost, i32[M]."""
    return collateral(ledger.position) + ledger.position * mark - ledger.cost_basis


def multiply_divide(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """Compute floor(a * b / c) exactly in int32, for 0 <= a <= 2e9 and 0 <= b <= c <= 200,000, c > 0.

    The product does not fit, so: a float32 estimate (off by less than 400), its remainder in wrapping arithmetic (exact, for
    the true remainder is small), a second estimate from that, and a last correction by one.
    """
    estimate = (a.astype(jnp.float32) * b.astype(jnp.float32) / c.astype(jnp.float32)).astype(jnp.int32)
    remainder = a * b - estimate * c
    step = jnp.floor(remainder.astype(jnp.float32) / c.astype(jnp.float32)).astype(jnp.int32)
    remainder = remainder - step * c
    return estimate + step + jnp.where(remainder < 0, -1, jnp.where(remainder >= c, 1, 0))
