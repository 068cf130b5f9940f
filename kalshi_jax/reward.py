"""The reward: change of portfolio value, less a price on hectic trading. Fees and spread are in cash and nowhere else."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kalshi_jax.tape import DOLLAR, Tape

PER_DOLLAR = 0.01
FREE_TRADES = 5
PER_EXTRA_TRADE = 0.001
LIMIT = 2.0


def reward(change: jax.Array, trades: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute a step's reward from the change of value (i32[], 0.01 cent) and the orders filled (i32[]).

    Returns:
        The reward, f32[] in [-2, 2], and its two parts before clipping: the change and the (negative) penalty.
    """
    base = change.astype(jnp.float32) * (PER_DOLLAR / DOLLAR)
    penalty = -PER_EXTRA_TRADE * jnp.maximum(trades - FREE_TRADES, 0).astype(jnp.float32)
    return jnp.clip(base + penalty, -LIMIT, LIMIT), base, penalty


def marks(tape: Tape, row: jax.Array, position: jax.Array, kind: str) -> jax.Array:
    """Give the YES price at which each holding is valued, i32[M] in 0.01 cent.

    Args:
        tape: the tape.
        row: i32[M].
        position: i32[M]; only the exit mark depends on it.
        kind: "mid", floor((bid + ask) / 2), or "exit", what the book would pay.
    """
    bid, ask = tape.mark[row, 0].astype(jnp.int32), tape.mark[row, 1].astype(jnp.int32)
    if kind == "mid":
        return (bid + ask) >> 1
    return jnp.where(position >= 0, bid, ask)
