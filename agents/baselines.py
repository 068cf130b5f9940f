"""Policies that learn nothing: what an agent has to beat. Each maps a key and a mask to actions; the key is consumed."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kalshi_jax.actions import PRIMITIVES, Action


def random_legal(key: jax.Array, mask: jax.Array) -> jax.Array:
    """Draw every legal action with equal chance: actions i32[..., M, O] for mask bool[..., M, O, A]."""
    return jax.random.categorical(key, jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min))


def hold(key: jax.Array, mask: jax.Array) -> jax.Array:
    """Never trade."""
    return jnp.full(mask.shape[:-1], Action.HOLD, jnp.int32)


def always_take(key: jax.Array, mask: jax.Array) -> jax.Array:
    """Buy YES or NO at the ask at every step, a random one of what is legal; hold where nothing is."""
    primitive = (jnp.arange(mask.shape[-1]) - 1) % PRIMITIVES + 1
    buys = (primitive == Action.BUY_YES_NOW) | (primitive == Action.BUY_NO_NOW)
    takes = mask & buys
    return jnp.where(jnp.any(takes, axis=-1), random_legal(key, takes), Action.HOLD)
