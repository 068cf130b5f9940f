"""The fee of every cell equals the integer formula, and an order is rounded once."""

from fractions import Fraction
from math import ceil

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshi_jax.fees import COMBO_MAKER_RATE, MAX_RATE, fee_weight, maker_fee_cents, order_fee, taker_fee_cents

PRICES, CONTRACTS = np.arange(1, 100), np.arange(1, 2001)
FLOAT_IS_WRONG_AT = (4, 50)  # contracts, cents: 0.07 * 4 * 0.5 * 0.5 rounds up to 8 in float64, 7 is true


def test_fees_equal_the_integer_formula_in_all_198_000_cells():
    c, p = np.meshgrid(CONTRACTS, PRICES)
    assert c.size == 198_000
    assert c.dtype == np.int64
    np.testing.assert_array_equal(taker_fee_cents(c, p), -(-7 * c * p * (100 - p) // 10**4))
    np.testing.assert_array_equal(maker_fee_cents(c, p), -(-175 * c * p * (100 - p) // 10**6))
    np.testing.assert_array_equal(maker_fee_cents(c, p, COMBO_MAKER_RATE), -(-350 * c * p * (100 - p) // 10**6))


@pytest.mark.parametrize("rate", [175, COMBO_MAKER_RATE])
def test_maker_fee_equals_the_integer_formula_beyond_where_int32_overflows(rate):
    c, p = np.meshgrid(np.array([1, 10, 100, 4_908, 4_909, 20_000, 100_000, 200_000], np.int64), PRICES)
    np.testing.assert_array_equal(maker_fee_cents(c, p, rate), -(-rate * c * p * (100 - p) // 10**6))


@pytest.mark.parametrize(
    ("fee", "cents", "golden"),
    [
        (taker_fee_cents, 1, (1, 1, 7)),
        (taker_fee_cents, 5, (1, 4, 34)),
        (taker_fee_cents, 10, (1, 7, 63)),
        (taker_fee_cents, 25, (2, 14, 132)),
        (taker_fee_cents, 50, (2, 18, 175)),
        (taker_fee_cents, 75, (2, 14, 132)),
        (taker_fee_cents, 90, (1, 7, 63)),
        (taker_fee_cents, 95, (1, 4, 34)),
        (taker_fee_cents, 99, (1, 1, 7)),
        (maker_fee_cents, 1, (1, 1, 2)),
        (maker_fee_cents, 5, (1, 1, 9)),
        (maker_fee_cents, 10, (1, 2, 16)),
        (maker_fee_cents, 25, (1, 4, 33)),
        (maker_fee_cents, 50, (1, 5, 44)),
        (maker_fee_cents, 75, (1, 4, 33)),
        (maker_fee_cents, 90, (1, 2, 16)),
        (maker_fee_cents, 95, (1, 1, 9)),
        (maker_fee_cents, 99, (1, 1, 2)),
    ],
)
def test_golden_fees(fee, cents, golden):
    assert tuple(np.asarray(fee(np.array([1, 10, 100]), cents))) == golden


def test_exact_where_floating_point_is_not():
    assert int(taker_fee_cents(*FLOAT_IS_WRONG_AT)) == 7


@given(
    fills=st.lists(st.tuples(st.integers(1, 20_000), st.integers(1, 9_999)), min_size=1, max_size=10),
    rate=st.integers(0, MAX_RATE),
    flat=st.integers(0, 100),
)
def test_the_fills_of_one_order_are_rounded_once(fills, rate, flat):
    contracts, price = (np.array(x, np.int32) for x in zip(*fills, strict=True))
    high, low = fee_weight(price)
    fee = order_fee(
        jnp.int32(rate),
        jnp.int32(flat),
        (contracts * high).sum(),
        (contracts * low).sum(),
        contracts.sum(dtype=np.int32),
    )
    exact = sum(Fraction(rate * c * p * (10_000 - p), 10**8) + flat * c for c, p in fills)
    assert int(fee) == 100 * ceil(exact / 100)
