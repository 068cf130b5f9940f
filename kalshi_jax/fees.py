"""The exchange's fees, exactly: one order, one rounding, in int32 without overflow.

A quadratic fee of rate r charges r * C * p * (1 - p) dollars for C contracts at p dollars. With prices P in 0.01 cent and r in
1/10,000 that is r * sum(C * P * (10,000 - P)) / 10^8 units of 0.01 cent: a 64-bit number. It is kept here as two limbs of
base 10,000 that add up over the fills of an order, so nothing is rounded before the order's sum is known.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kalshi_jax.tape import CENT, DOLLAR

TAKER_RATE = 700  # 7% of p * (1 - p), in 1/10,000
MAKER_RATE = 175  # on series with maker fees
COMBO_MAKER_RATE = 350
FEE_TYPES = {  # of a series -> taker rate, maker rate and flat part (0.01 cent a contract) at multiplier 1
    "quadratic": (TAKER_RATE, 0, 0),
    "quadratic_with_maker_fees": (TAKER_RATE, MAKER_RATE, 0),
    "quadratic_with_combo_maker_fees": (TAKER_RATE, COMBO_MAKER_RATE, 0),
    "flat": (0, 0, 70),  # 0.7 cent, for either side of the trade
    "none": (0, 0, 0),
}
MAX_RATE = 10_000
MAX_CONTRACTS = 200_000  # of one order: keeps both limbs below 2**31


def fee_weight(price: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Split P * (10,000 - P) into limbs (high, low) of base 10,000, each i32 of the price's shape.

    Sum `contracts * high` and `contracts * low` over an order's fills and hand both to `order_fee`.
    """
    price = jnp.asarray(price, jnp.int32)
    return _divmod(price * (DOLLAR - price))


def order_fee(rate: jax.Array, flat: jax.Array, high: jax.Array, low: jax.Array, contracts: jax.Array) -> jax.Array:
    """Round the exact fee of all fills of one order up to a whole cent.

    Args:
        rate: i32[...], quadratic rate in 1/10,000, at most `MAX_RATE`.
        flat: i32[...], 0.01 cent a contract.
        high: i32[...], sum over fills of contracts * high limb of `fee_weight`.
        low: i32[...], the same of the low limb.
        contracts: i32[...], filled so far, at most `MAX_CONTRACTS`.

    Returns:
        i32[...], fee in 0.01 cent, a multiple of 100.
    """
    carry, ones = _divmod(low)
    hundreds, tens = _divmod(high + carry)  # sum = hundreds * 10^8 + tens * 10^4 + ones
    carry, rest = _divmod(rate * ones)
    units, middle = _divmod(rate * tens + carry)
    units = rate * hundreds + units + flat * contracts + ((middle > 0) | (rest > 0))
    return jax.lax.div(units + (CENT - 1), jnp.full_like(units, CENT)) * CENT


def taker_fee_cents(contracts: jax.Array, price_cents: jax.Array, rate: int = TAKER_RATE) -> jax.Array:
    """Compute the fee of an order that takes: ceil(7 * C * p * (100 - p) / 10^4) cents, exactly.

    Args:
        contracts: int[...], whole contracts C, 0 to 200,000.
        price_cents: int[...], price p in whole cents, 0 to 100; the same for YES at p and NO at 100 - p.
        rate: quadratic rate in 1/10,000 (700 for a series multiplier of 1).

    Returns:
        i32[...], whole cents.
    """
    contracts = jnp.asarray(contracts, jnp.int32)
    high, low = fee_weight(jnp.asarray(price_cents, jnp.int32) * CENT)
    zero = jnp.zeros((), jnp.int32)
    fee = order_fee(jnp.asarray(rate, jnp.int32), zero, contracts * high, contracts * low, contracts)
    return jax.lax.div(fee, jnp.full_like(fee, CENT))


def maker_fee_cents(contracts: jax.Array, price_cents: jax.Array, rate: int = MAKER_RATE) -> jax.Array:
    """Compute the fee of an order that rested: ceil(175 * C * p * (100 - p) / 10^6) cents, as `taker_fee_cents`."""
    return taker_fee_cents(contracts, price_cents, rate)


def _divmod(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    quotient = jax.lax.div(x, jnp.full_like(x, 10_000))  # truncation is floor here: x is never negative
    return quotient, x - quotient * 10_000
