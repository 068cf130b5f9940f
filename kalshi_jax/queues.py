"""Queue models: how much of a level's unexplained decrease came off the queue ahead of us.

Each model is one function of the contracts ahead and behind and of the decrease, all whole contracts, and gives whole contracts:
in integers, so that every program agrees. What a trade print explains has come off the front before.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kalshi_jax.ledger import multiply_divide
from kalshi_jax.tape import END_OF_TIME, ROW, SIZE, TRADED

SHARE_BITS = 14
SHARES = 1 << SHARE_BITS  # parts of a whole in which the place in the queue and the share off the front are counted
LOGARITHMS = 1 << 16  # tabulated sizes of the log model
LOG_SCALE = 1024
QueueModel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def risk_averse(front: jax.Array, back: jax.Array, decrease: jax.Array, table: jax.Array) -> jax.Array:
    """All of it was behind us while it can have been: front = min(front, size after), i32[...] off the front."""
    return jnp.maximum(decrease - back, 0)


def optimistic(front: jax.Array, back: jax.Array, decrease: jax.Array, table: jax.Array) -> jax.Array:
    """All of it was ahead of us, i32[...] off the front."""
    return jnp.minimum(decrease, front)


def power(front: jax.Array, back: jax.Array, decrease: jax.Array, table: jax.Array) -> jax.Array:
    """It was behind us with chance b^n / (b^n + f^n): the share off the front from a table over f / (f + b), i32[...]."""
    total = front + back
    shift = jnp.maximum(32 - jax.lax.clz(total) - 17, 0)
    share = table[multiply_divide(jnp.asarray(SHARES), front >> shift, jnp.maximum(total >> shift, 1))]
    return (decrease >> SHARE_BITS) * share + ((decrease & (SHARES - 1)) * share >> SHARE_BITS)


def log(front: jax.Array, back: jax.Array, decrease: jax.Array, table: jax.Array) -> jax.Array:
    """It was behind us with chance ln(1 + b) / (ln(1 + b) + ln(1 + f)), from a table of logarithms, i32[...]."""

    def logarithm(x: jax.Array) -> jax.Array:
        halvings = jnp.maximum(32 - jax.lax.clz(x) - 16, 0)
        return table[x >> halvings] + halvings * round(LOG_SCALE * np.log(2))

    ahead = logarithm(front)
    return multiply_divide(decrease, ahead, jnp.maximum(ahead + logarithm(back), 1))


QUEUE_MODELS: dict[str, QueueModel] = {
    "risk_averse": risk_averse,
    "power": power,
    "log": log,
    "optimistic": optimistic,
}


def queue_table(model: str, exponent: float) -> np.ndarray:
    """Tabulate what a model needs, i32[...]: power, round(SHARES * u^n / (u^n + (1 - u)^n)) at u = i / SHARES; log,
    round(LOG_SCALE * ln(1 + i)); the others nothing.
    """
    if model == "power":
        u = np.arange(SHARES + 1) / SHARES
        return np.rint(SHARES * u**exponent / (u**exponent + (1 - u) ** exponent)).astype(np.int32)
    if model == "log":
        return np.rint(LOG_SCALE * np.log1p(np.arange(LOGARITHMS))).astype(np.int32)
    return np.zeros(1, np.int32)


def queue_stops(model: str, entries: np.ndarray) -> np.ndarray:
    """Find column STOP of `Tape.entries`: for each, the next of its level that can move a queue, or the sentinel; host code.

    Those are the decreases and the trades. Under the risk-averse model a queue's front is the lowest that the level has been
    since: only an entry with fewer contracts than here can move it.

    Args:
        model: of the queue.
        entries: i32[N, 4], as in the tape.

    Returns:
        i32[N].
    """
    row, size, traded = entries[:, ROW], entries[:, SIZE], entries[:, TRADED]
    count = len(row)
    ends = row == END_OF_TIME
    stops = ends | (traded > 0)
    if model != "risk_averse":
        stops[1:] |= size[1:] < size[:-1]
        following = np.where(stops, np.arange(count), count)
        following = np.minimum.accumulate(following[::-1])[::-1]
        return np.where(ends, np.arange(count), np.append(following[1:], count)).astype(np.int32)
    following = np.where(ends, np.arange(count), np.arange(1, count + 1))
    looking = np.flatnonzero(~ends)
    while looking.size:  # between an entry and what it follows, none has fewer contracts
        ahead = following[looking]
        looking = looking[~stops[ahead] & (size[ahead] >= size[looking])]
        following[looking] = following[following[looking]]
    return following.astype(np.int32)
