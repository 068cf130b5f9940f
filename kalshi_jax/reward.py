"""The reward: change of portfolio value, less a price on hectic trading. Fees and spread are in cash and nowhere else.

Three further parts may be given a weight (0 by default): they shape learning, and no money comes or goes with them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kalshi_jax.actions import PRIMITIVES, Intent
from kalshi_jax.state import Shaping, ShapingWeights
from kalshi_jax.tape import DOLLAR, Quote

PER_DOLLAR = 0.01
FREE_TRADES = 5
PER_EXTRA_TRADE = 0.001
LIMIT = 2.0
SHARPE_DECAY = 0.01  # share of the newest step in the moving moments of the differential Sharpe ratio
SMALLEST_VARIANCE = 1e-12
CELLS = 3 * (1 + PRIMITIVES)  # of a market slot: holds NO, nothing or YES, times HOLD and the eight primitives
PARTS = ("risk", "timing", "discovery")


def reward(change: jax.Array, trades: jax.Array, parts: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute a step's reward from the change of value (i32[], 0.01 cent), the orders filled (i32[]) and the weighted parts.

    Returns:
        The reward, f32[] in [-2, 2], and two of its parts before clipping: the change and the (negative) penalty.
    """
    base = change.astype(jnp.float32) * (PER_DOLLAR / DOLLAR)
    penalty = -PER_EXTRA_TRADE * jnp.maximum(trades - FREE_TRADES, 0).astype(jnp.float32)
    return jnp.clip(sum(parts.values(), base + penalty), -LIMIT, LIMIT), base, penalty


def no_parts() -> dict[str, jax.Array]:
    """Give every optional part as 0, f32[] each."""
    return {name: jnp.zeros((), jnp.float32) for name in PARTS}


def new_shaping(slots: int) -> Shaping:
    """Begin an episode: nothing earned, nothing tried."""
    zero = jnp.zeros((), jnp.float32)
    return Shaping(zero, zero, jnp.zeros((slots,), jnp.int32))


def shape(
    before: Shaping, change: jax.Array, timing: jax.Array, position: jax.Array, intent: Intent, weights: ShapingWeights
) -> tuple[Shaping, dict[str, jax.Array]]:
    """Compute the optional parts of a step's reward.

    - risk: the differential Sharpe ratio D = (B dA - A dB / 2) / (B - A^2)^(3/2) of Moody and Saffell (1998), where A and B are
      exponential means of the step's base reward and its square; in [-1, 1].
    - timing: what marks did, after they were filled, to the contracts traded in this step, 0.01 per dollar: money made by the
      moment of a trade, not by holding on.
    - discovery: the share of `CELLS` (what is held times what is wanted, by market slot) that are new in this episode.

    Args:
        before: of the episode so far.
        change: i32[], change of value in 0.01 cent.
        timing: i32[], 0.01 cent.
        position: i32[M], holdings when the agent decided.
        intent: what it decided.
        weights: of the parts.

    Returns:
        What the episode carries on, and the weighted parts.
    """
    earned = change.astype(jnp.float32) * (PER_DOLLAR / DOLLAR)
    to_mean, to_square = earned - before.mean, earned * earned - before.square
    variance = before.square - before.mean * before.mean
    steady = variance > SMALLEST_VARIANCE
    ratio = (before.square * to_mean - before.mean * to_square / 2) / jnp.where(steady, variance, 1.0) ** 1.5
    risk = jnp.where(steady, jnp.clip(ratio, -1.0, 1.0), 0.0)

    wanted = jnp.where(intent.size > 0, 1 + intent.primitive, 0)
    cell = (1 << ((1 + jnp.sign(position))[:, None] * (1 + PRIMITIVES) + wanted)).astype(jnp.int32)
    tried = before.tried
    for o in range(cell.shape[1]):
        tried = tried | cell[:, o]
    new = jax.lax.population_count(tried ^ before.tried).sum()
    parts = {
        "risk": weights.risk * risk,
        "timing": weights.timing * timing.astype(jnp.float32) * (PER_DOLLAR / DOLLAR),
        "discovery": weights.discovery * new.astype(jnp.float32) / (CELLS * tried.shape[0]),
    }
    following = Shaping(before.mean + SHARPE_DECAY * to_mean, before.square + SHARPE_DECAY * to_square, tried)
    return following, parts


def marks(quote: Quote, position: jax.Array, kind: str) -> jax.Array:
    """Give the YES price at which each holding is valued, i32[M] in 0.01 cent.

    Args:
        quote: of the rows i32[M].
        position: i32[M]; only the exit mark depends on it.
        kind: "mid", floor((bid + ask) / 2), or "exit", what the book would pay.
    """
    bid, ask = quote.mark[:, 0], quote.mark[:, 1]
    if kind == "mid":
        return (bid + ask) >> 1
    return jnp.where(position >= 0, bid, ask)
