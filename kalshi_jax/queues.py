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
from kalshi_jax.tape import END_OF_TIME, FALL, LOWER, Tape

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


def first_fall(tape: Tape, model: str, entry: jax.Array) -> jax.Array:
    """Find the next fall that can move the queue of an order that joins a level at an entry (i32[...]), i32[...]."""
    return tape.entries[entry, LOWER if model == "risk_averse" else FALL]


def next_fall(tape: Tape, model: str, fall: jax.Array) -> jax.Array:
    """Find the next fall of a level that can move a queue, once a fall (i32[...], not a sentinel) has been met, i32[...]."""
    return tape.falls[fall, LOWER] if model == "risk_averse" else fall + 1


def next_lower(values: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Find what next is lower than each of i32[N], or among `stops` (bool[N]), i32[N], N if there is none; host code."""
    following = np.arange(1, len(values) + 1, dtype=np.int32)
    values, stops = np.append(values, 0), np.append(stops, True)
    looking = np.arange(len(following), dtype=np.int32)
    while looking.size:  # between one and what it follows, none is lower
        ahead = following[looking]
        looking = looking[~stops[ahead] & (values[ahead] >= values[looking])]
        following[looking] = following[following[looking]]
    return following


def is_fall(row: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Tell which entries (i32[N] each, as in `queue_falls`) are falls, bool[N]; host code."""
    ends = row == END_OF_TIME
    falls = ends & ~np.append(False, ends[:-1])  # after the last level's sentinel there are but sentinels
    falls[1:] |= size[1:] < size[:-1]
    return falls


def queue_falls(row: np.ndarray, size: np.ndarray, traded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find what moves queues, the falls of levels, for `Tape.entries` and `Tape.falls`; host code.

    Under the risk-averse model a queue's front is the lowest that its level has been since. Only a fall to fewer contracts than
    the level has shown at some entry can move a queue that has got there, so that those between, if no trade has a part in
    them, are passed over.

    Args:
        row: i32[N], rows of the entries, END_OF_TIME of sentinels; entry 0 and those after the last level's are sentinels too.
        size: i32[N], whole contracts.
        traded: i32[N], those of a decrease that trade prints explain.

    Returns:
        Columns FALL and LOWER of the entries, i32[N, 2], and the falls, i32[N_falls, 5].
    """
    ends, falls = row == END_OF_TIME, is_fall(row, size)
    decrease = np.append(np.int32(0), np.maximum(size[:-1] - size[1:], 0))
    traded = np.minimum(traded, decrease)
    moves = ends | (traded > 0)
    following = np.where(ends, np.arange(len(row)), next_lower(size, moves))
    number = np.cumsum(falls, dtype=np.int32)  # of falls up to an entry: the next one's number
    lower = number[following] - 1
    columns = np.stack([np.where(ends, lower, number), lower], axis=1)
    at = np.flatnonzero(falls)
    return columns, np.stack([x[at] for x in (row, size, decrease - traded, lower, traded)], axis=1)
