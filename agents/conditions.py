"""Conditions of a decision, read off the observation: how busy a market is, how wide its spread, how soon it closes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.baselines import of_account
from kalshi_jax.features import CLOSE_SCALE
from kalshi_jax.tape import CENT, DOLLAR

PACES = ("market_burst", "market_active", "market_quiet")
SPREADS = (1, 2, 5)  # cents
CLOSES = (60, 300, 900)  # s
CONDITIONS = {  # name -> its classes
    "pace": ("burst (under 0.1 s)", "active (under 5 s)", "slow (up to 30 s)", "quiet (above 30 s)"),
    "spread": ("up to 1 cent", "up to 2 cents", "up to 5 cents", "above 5 cents"),
    "time to close": ("up to 1 min", "up to 5 min", "up to 15 min", "above 15 min", "not known"),
}


def classify(observation: Any, names: tuple[str, ...]) -> dict[str, jax.Array]:
    """Tell in which class of CONDITIONS each market slot is, i32[..., M] by condition.

    Args:
        observation: with any batch shape.
        names: of its market features; without tier 2 there is no pace, and no spread where it is not shown.
    """
    shown = {name: observation.market[..., i] for i, name in enumerate(names)}
    classes = {}
    if set(PACES) <= set(names):
        burst, active, quiet = (shown[name].astype(jnp.int32) for name in PACES)
        classes["pace"] = 2 - active - burst + quiet  # a burst is active too
    if "spread" in shown:
        spread = jnp.rint(shown["spread"] * DOLLAR)  # exact again
        classes["spread"] = sum((spread > CENT * most for most in SPREADS), jnp.zeros(spread.shape, jnp.int32))
    left = of_account(observation, "time_to_close")
    edges = (*(np.float32(np.log1p(most + 1e-3) / CLOSE_SCALE) for most in CLOSES), np.float32(1 - 1e-6))
    classes["time to close"] = sum((left > edge for edge in edges), jnp.zeros(left.shape, jnp.int32))
    return classes
