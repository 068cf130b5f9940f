"""The laws of the ledger: cash is exact, pairs pay a dollar, and no sequence of trades creates or destroys money."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshi_jax.ledger import (
    Trade,
    book_trades,
    closing_contracts,
    multiply_divide,
    open_account,
    portfolio_value,
    unrealized_pnl,
)

CASH = 100_000_000
book = jax.jit(book_trades)
trades = st.lists(
    st.tuples(st.sampled_from([1, -1]), st.integers(1, 3_000), st.integers(1, 9_999), st.integers(0, 500)), max_size=30
)


def one_price(ledger, direction, contracts, price, fee=0):
    """Make the trade of `contracts` at one YES price in a single market."""
    close = closing_contracts(ledger.position, jnp.int32(direction), jnp.int32(contracts))
    values = (direction, contracts, contracts * price, close * price, fee)
    return Trade(*(jnp.asarray(x, jnp.int32).reshape(1) for x in values))


def run(sequence, cash=CASH):
    ledger = open_account(cash, 1)
    for direction, contracts, price, fee in sequence:
        ledger = book(ledger, one_price(ledger, direction, contracts, price, fee))
    return ledger


def test_ten_yes_then_five_no_leaves_five():
    assert int(run([(1, 10, 4_500, 0), (-1, 5, 5_200, 0)]).position[0]) == 5


def test_netting_pays_a_dollar_per_pair():
    ledger = run([(1, 10, 4_500, 0), (-1, 10, 5_200, 0)])  # YES at 45, then NO at 48
    assert int(ledger.cash) - CASH == 10 * (10_000 - 4_500 - 4_800) == 7_000
    assert int(ledger.realized_pnl[0]) == 7_000
    assert int(ledger.position[0]) == int(ledger.cost_basis[0]) == 0


def test_selling_more_than_held_costs_what_buying_no_costs():
    ledger = run([(1, 5, 4_000, 0), (-1, 20, 4_000, 0)])
    assert int(ledger.position[0]) == -15
    assert int(ledger.cash) == CASH - 15 * 6_000


@given(trades, st.integers(0, 10_000))
def test_value_is_start_plus_realized_plus_unrealized_less_fees(sequence, mark):
    ledger = run(sequence)
    at = jnp.array([mark], jnp.int32)
    value = int(portfolio_value(ledger, at))
    assert value == CASH + int(ledger.realized_pnl[0]) + int(unrealized_pnl(ledger, at)[0]) - int(ledger.fees_paid[0])
    signed = sum(d * n for d, n, _, _ in sequence)
    assert value == CASH - sum(d * n * p + f for d, n, p, f in sequence) + signed * mark
    assert int(ledger.position[0]) == signed


@given(trades, st.integers(1, 3_000), st.integers(1, 9_999), st.sampled_from([1, -1]))
def test_a_free_trade_at_the_mark_leaves_value_unchanged(sequence, contracts, price, direction):
    before = run(sequence)
    after = book(before, one_price(before, direction, contracts, price))
    at = jnp.array([price], jnp.int32)
    assert int(portfolio_value(before, at)) == int(portfolio_value(after, at))


@given(trades)
def test_a_closed_set_of_counterparties_keeps_its_money(sequence):
    free = [(d, n, p, 0) for d, n, p, _ in sequence]
    other = [(-d, n, p, 0) for d, n, p, _ in sequence]
    for settlement in (0, 10_000):
        at = jnp.array([settlement], jnp.int32)
        assert sum(int(portfolio_value(run(side), at)) for side in (free, other)) == 2 * CASH


@given(st.integers(0, 2_000_000_000), st.integers(0, 200_000), st.integers(1, 200_000))
@settings(max_examples=500)
def test_multiply_divide_is_exact(a, b, c):
    b = min(b, c)
    assert int(multiply_divide(jnp.int32(a), jnp.int32(b), jnp.int32(c))) == a * b // c


def test_multiply_divide_is_exact_on_a_million_triples():
    rng = np.random.default_rng(0)
    c = rng.integers(1, 200_001, 1_000_000)
    b = (rng.random(c.size) * (c + 1)).astype(np.int64)
    a = rng.integers(0, 2_000_000_001, c.size)
    got = jax.jit(multiply_divide)(*(jnp.asarray(x, jnp.int32) for x in (a, b, c)))
    np.testing.assert_array_equal(got, a * b // c)


@pytest.mark.parametrize("price", [1, 3_333, 9_999])
def test_cost_basis_carries_the_remainder(price):
    ledger = run([(1, 7, price, 0), (1, 1, 5_000, 0)])
    total = 7 * price + 5_000
    for left in range(7, -1, -1):
        ledger = book(ledger, one_price(ledger, -1, 1, 5_000))
        assert abs(int(ledger.cost_basis[0]) - Fraction(total * left, 8)) < 8
    assert int(ledger.cost_basis[0]) == 0
    assert int(ledger.realized_pnl[0]) == 8 * 5_000 - total
