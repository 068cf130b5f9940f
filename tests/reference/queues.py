"""The queue models of RULES.md: contracts of a decrease that came off the queue ahead of us."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

SHARES = 16_384


def off_the_front(model: str, front: int, back: int, decrease: int, n: int) -> int:
    """How many of the `decrease` contracts that no trade explains were ahead, of `front` ahead and `back` behind."""
    if model == "risk_averse":
        return max(decrease - back, 0)
    if model == "optimistic":
        return min(decrease, front)
    if model == "power":
        halvings = max((front + back).bit_length() - 17, 0)
        place = SHARES * (front >> halvings) // max((front + back) >> halvings, 1)
        return decrease * power_share(place, n) // SHARES
    if model == "log":
        ahead, behind = logarithm(front), logarithm(back)
        return decrease * ahead // max(ahead + behind, 1)
    raise ValueError(f"no queue model {model}")


@cache
def power_share(place: int, n: int) -> int:
    """round(SHARES * u^n / (u^n + (1 - u)^n)) at u = place / SHARES."""
    u = Fraction(place, SHARES)
    return round(SHARES * u**n / (u**n + (1 - u) ** n))


@cache
def logarithm(x: int) -> int:
    """round(1024 * ln(1 + x)) up to 65,535; every halving down to there counts round(1024 * ln 2) = 710."""
    halvings = max(x.bit_length() - 16, 0)
    return round(1024 * math.log1p(x >> halvings)) + 710 * halvings
