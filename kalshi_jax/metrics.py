"""Figures of finished episodes, as functions of value and trade arrays.

Arrays are time-major: row 0 of `value` is the starting capital, row t + 1 the portfolio value after step t. Episodes that
ended early are marked by `lived` and keep their last value, which changes none of these figures.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

ASSUMED_VOLATILITY = 0.1


def total_return(value: jax.Array) -> jax.Array:
    """Last value minus starting capital, f32[E] in $, of value f32[T + 1, E]."""
    return value[-1] - value[0]


def sharpe_per_step(value: jax.Array, lived: jax.Array) -> jax.Array:
    """Mean over standard deviation of the step changes of value, f32[E]: measured, not annualised.

    Args:
        value: f32[T + 1, E], $.
        lived: bool[T, E], steps the episode really took.

    Returns:
        0 where the value never changed.
    """
    change = jnp.where(lived, jnp.diff(value, axis=0), 0.0)
    steps = jnp.maximum(jnp.sum(lived, axis=0), 1)
    mean = jnp.sum(change, axis=0) / steps
    variance = jnp.sum(jnp.where(lived, (change - mean) ** 2, 0.0), axis=0) / steps
    return jnp.where(variance > 0, mean / jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def sharpe_assumed(value: jax.Array, volatility: float = ASSUMED_VOLATILITY) -> jax.Array:
    """Total return over an assumed volatility, f32[E]: the approximation of this system's first specification.

    It looks at the last value only, so a wild ride and a steady one score alike; `sharpe_per_step` measures.

    Args:
        value: f32[T + 1, E], $.
        volatility: standard deviation of an episode's return, as a share of the starting capital.
    """
    return total_return(value) / value[0] / volatility


def max_drawdown(value: jax.Array) -> jax.Array:
    """Largest fall from an earlier peak, f32[E] in $, of value f32[T + 1, E]."""
    return jnp.max(jax.lax.cummax(value, axis=0) - value, axis=0)


def episode_metrics(
    value: jax.Array, lived: jax.Array, trades: jax.Array, taker: jax.Array, maker: jax.Array, fees: jax.Array
) -> dict[str, jax.Array]:
    """Summarise episodes.

    Args:
        value: f32[T + 1, E], portfolio value in $.
        lived: bool[T, E], steps the episode really took.
        trades: i32[T, E], orders filled in the step.
        taker: i32[T, E], contracts taken in the step.
        maker: i32[T, E], contracts that resting orders got in the step.
        fees: f32[T, E], $ paid in the step.

    Returns:
        name -> f32[E]; amounts in $. `turnover` is contracts traded, each worth at most $1, over the starting capital;
        `maker_share` is NaN for an episode without trades.
    """
    steps = jnp.sum(lived, axis=0)

    def over_episode(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(lived, x, 0), axis=0)

    contracts = over_episode(taker) + over_episode(maker)
    return {
        "total_return": total_return(value),
        "return_percent": 100 * total_return(value) / value[0],
        "sharpe_per_step": sharpe_per_step(value, lived),
        "sharpe_assumed": sharpe_assumed(value),
        "max_drawdown": max_drawdown(value),
        "trades_per_step": over_episode(trades) / jnp.maximum(steps, 1),
        "contracts": contracts,
        "turnover": contracts / value[0],
        "fees": over_episode(fees),
        "maker_share": over_episode(maker) / contracts,  # 0 / 0 is NaN: no share to speak of
        "steps": steps,
    }
