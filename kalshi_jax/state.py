"""What an environment is made of: parameters that hold the tape, and a state that holds only cursors, money and orders."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.ledger import Ledger
from kalshi_jax.tape import Tape


@struct.dataclass
class Fees:
    """Fee schedules per market of the tape: a quadratic rate in 1/10,000 and a flat part in 0.01 cent a contract.

    Where no market charges resting orders, as on most series, nothing of their fee is computed.
    """

    taker_rate: jax.Array  # i32[n_markets]
    taker_flat: jax.Array  # i32[n_markets]
    maker_rate: jax.Array | None  # i32[n_markets]; None with the next: 0 everywhere
    maker_flat: jax.Array | None  # i32[n_markets]


@struct.dataclass
class ShapingWeights:
    """Weights of the optional parts of the reward, see `reward.shape`."""

    risk: jax.Array  # f32[]
    timing: jax.Array  # f32[]
    discovery: jax.Array  # f32[]


@struct.dataclass
class EnvParams:
    """Everything that may change without a recompile, and six choices (not leaves) that select another program."""

    tape: Tape
    fees: Fees
    market_weights: jax.Array  # f32[n_markets], cumulative; market m opens an episode with probability w[m] - w[m-1]
    initial_cash: jax.Array  # i32[], 0.01 cent
    episode_length: jax.Array  # i32[], steps
    decision_interval_ms: jax.Array  # i32[]; unused on the event clock
    latency_ms: jax.Array  # i32[], from a decision to the arrival of its orders; unused unless `delayed`
    start_offset: jax.Array  # i32[], changes at the head of a market in which no episode begins
    hold_cancels: jax.Array  # bool[], HOLD takes a resting order out of the book
    queue_table: jax.Array  # i32[...], what the queue model looks up
    shaping_weights: ShapingWeights  # unused unless `shaped`
    event_clock: bool = struct.field(pytree_node=False, default=True)  # a step ends at the next change of any market
    mark: str = struct.field(pytree_node=False, default="mid")  # "mid" or "exit"
    queue_model: str = struct.field(pytree_node=False, default="risk_averse")  # a key of QUEUE_MODELS
    certain_fill: str = struct.field(pytree_node=False, default="whole")  # or "displayed"
    delayed: bool = struct.field(pytree_node=False, default=False)  # orders take time to arrive
    shaped: bool = struct.field(pytree_node=False, default=False)  # the reward has optional parts


@struct.dataclass
class Orders:
    """Resting orders, one per market and order slot. A price of 0 means there is none."""

    price: jax.Array  # i32[M, O], bid price on its own side, 0.01 cent
    direction: jax.Array  # i32[M, O], +1 rests as a YES bid, -1 as a NO bid
    reduces: jax.Array  # bool[M, O]
    remaining: jax.Array  # i32[M, O], contracts
    filled: jax.Array  # i32[M, O], contracts
    front: jax.Array  # i32[M, O], contracts ahead in the queue
    fall: jax.Array  # i32[M, O], the next fall of its level that the order will meet: see `Tape.falls`


@struct.dataclass
class Taken:
    """Displayed liquidity that this account has taken and the recording has not refreshed: C places, a column i32[M] each.

    What was taken of a level counts until the level changes again.
    """

    entry: tuple[jax.Array, ...]  # the level's last change when it was taken from
    contracts: tuple[jax.Array, ...]  # 0 for a free place


@struct.dataclass
class Shaping:
    """What the optional parts of the reward remember of an episode."""

    mean: jax.Array  # f32[], exponential mean of the base reward
    square: jax.Array  # f32[], of its square
    tried: jax.Array  # i32[M], a bit for every cell seen: see `reward.shape`


@struct.dataclass
class EnvState:
    """One episode between two steps."""

    time: jax.Array  # i32[], steps taken
    now_ms: jax.Array  # i32[], ms since the session's start
    end_ms: jax.Array  # i32[], last change of any market of the episode
    session: jax.Array  # i32[], session of the tape
    markets: jax.Array  # i32[M], market of the tape per slot, -1 for an unused slot
    row: jax.Array  # i32[M], the row that holds the book now, NO_ROW before a market's first change
    ledger: Ledger
    orders: Orders
    taken: Taken
    value: jax.Array  # i32[], portfolio value at the last mark, 0.01 cent
    shaping: Shaping | None = None  # only where the reward has optional parts


def no_orders(markets: int, per_market: int) -> Orders:
    """Make an empty order book of our own for [markets, per_market] slots."""
    zero = jnp.zeros((markets, per_market), jnp.int32)
    return Orders(zero, zero, zero.astype(bool), zero, zero, zero, zero)


def nothing_taken(markets: int, places: int) -> Taken:
    """Make an empty memory of taken liquidity for `markets` slots and `places` levels each."""
    zero = jnp.zeros(markets, jnp.int32)
    return Taken((zero,) * places, (zero,) * places)
