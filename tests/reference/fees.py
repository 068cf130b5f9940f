"""Fees: exact fractions of what a fill costs, and one rounding per order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

Fill = tuple[int, int]  # (contracts, YES price in 0.01 cent)
CENT = 100  # money is an integer of 0.01 cent


def exact_fee(fills: Iterable[Fill], rate: int, flat: int) -> Fraction:
    """Unrounded fee of fills in 0.01 cent.

    Args:
        fills: (contracts, YES price).
        rate: of the quadratic part, in 1/10,000.
        flat: of a contract, in 0.01 cent.
    """
    return sum((Fraction(rate * n * p * (10_000 - p), 10**8) + flat * n for n, p in fills), Fraction(0))


def charged(fills: Iterable[Fill], rate: int, flat: int) -> int:
    """What has been charged for an order with these fills, in 0.01 cent: their exact fee rounded up to a whole cent."""
    return math.ceil(exact_fee(fills, rate, flat) / CENT) * CENT
