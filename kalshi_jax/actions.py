"""The nine primitives and what orders they mean.

Everything about a trading primitive follows from three facts: its direction, whether it waits, and whether it only reduces. An
order of direction +1 takes NO bids or rests as a YES bid; one of direction -1 takes YES bids or rests as a NO bid.
"""

from __future__ import annotations

from enum import IntEnum

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from kalshi_jax.tape import NO, YES

PRIMITIVES = 8  # besides HOLD


class Action(IntEnum):
    """The actions of one order slot with a single order size; a further size adds eight more in the same order."""

    HOLD = 0
    BUY_YES_NOW = 1
    SELL_YES_NOW = 2
    BUY_NO_NOW = 3
    SELL_NO_NOW = 4
    BUY_YES_WAIT = 5
    SELL_YES_WAIT = 6
    BUY_NO_WAIT = 7
    SELL_NO_WAIT = 8


# per primitive in enum order, HOLD left out
DIRECTION = np.array([+1, -1, -1, +1] * 2, np.int32)
REDUCES = np.array([False, True] * 4)
WAITS = np.array([False] * 4 + [True] * 4)


@struct.dataclass
class Intent:
    """What an agent wants of each order slot. `size` 0 is HOLD."""

    size: jax.Array  # i32[M, O], contracts
    direction: jax.Array  # i32[M, O], +1 or -1
    waits: jax.Array  # bool[M, O], joins the queue instead of taking
    reduces: jax.Array  # bool[M, O], SELL: never opens or enlarges a holding
    primitive: jax.Array  # i32[M, O], 0..7 in enum order, HOLD left out


def num_actions(order_sizes: tuple[int, ...]) -> int:
    """Count the actions of one order slot."""
    return 1 + PRIMITIVES * len(order_sizes)


def action_names(order_sizes: tuple[int, ...]) -> tuple[str, ...]:
    """Name the actions of one order slot, as `BUY_YES_NOW`, or `BUY_YES_NOW_20` where there are several sizes."""
    suffixes = [f"_{size}" if len(order_sizes) > 1 else "" for size in order_sizes]
    return (Action.HOLD.name, *(action.name + suffix for suffix in suffixes for action in list(Action)[1:]))


def decode(action: jax.Array, order_sizes: tuple[int, ...], used: jax.Array) -> Intent:
    """Turn action numbers into intents.

    Args:
        action: i32[M, O]; anything outside 0 .. A - 1 is HOLD.
        order_sizes: contracts per size, in action order.
        used: bool[M], False for slots without a market, which can only HOLD.
    """
    trades = (action >= 1) & (action < num_actions(order_sizes)) & used[:, None]
    index = jnp.where(trades, action - 1, 0)
    primitive = index % PRIMITIVES
    size = jnp.asarray(order_sizes, jnp.int32)[index // PRIMITIVES]
    return Intent(
        size=jnp.where(trades, size, 0),
        direction=jnp.where(_holds(DIRECTION > 0, primitive), 1, -1),
        waits=_holds(WAITS, primitive),
        reduces=_holds(REDUCES, primitive),
        primitive=primitive,
    )


def _holds(fact: np.ndarray, primitive: jax.Array) -> jax.Array:
    """Tell of which primitives (i32[...]) a fact (bool[8]) holds, bool[...]: as bits of a word, which no gather is needed for."""
    word = int(np.packbits(fact, bitorder="little")[0])
    return (word >> primitive) & 1 == 1


def taking_side(direction: jax.Array) -> jax.Array:
    """Give the side whose bids a NOW order of this direction takes, i32[...]."""
    return jnp.where(direction > 0, NO, YES)


def resting_side(direction: jax.Array) -> jax.Array:
    """Give the side on which a WAIT order of this direction rests as a bid, i32[...]."""
    return jnp.where(direction > 0, YES, NO)
