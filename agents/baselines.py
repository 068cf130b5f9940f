"""Policies that learn nothing: what an agent has to beat.

Each maps a key (consumed), an observation and the names of its market features to legal actions, i32[..., M, O]. What they know
of the account is what the observation shows. Those that trade on purpose use the first order size alone.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kalshi_jax.actions import PRIMITIVES, Action
from kalshi_jax.features import OVERALL_FEATURES, Observation, portfolio_names, split_portfolio

Baseline = Callable[[jax.Array, Observation, tuple[str, ...]], jax.Array]
MOST = 50  # contracts of one side that a policy lets itself hold
MOMENTA = ("momentum_10s", "momentum_60s")
TREND = 0.09  # of both: the mid has moved by nine tenths of a cent


def random_legal(key: jax.Array, observation: Observation, names: tuple[str, ...]) -> jax.Array:
    """Draw every legal action with equal chance."""
    return _draw(key, observation.action_mask)


def hold(key: jax.Array, observation: Observation, names: tuple[str, ...]) -> jax.Array:
    """Never trade."""
    return jnp.full(observation.action_mask.shape[:-1], Action.HOLD, jnp.int32)


def always_take(key: jax.Array, observation: Observation, names: tuple[str, ...]) -> jax.Array:
    """Buy YES or NO at the ask at every step, a random one of what is legal; hold where nothing is."""
    mask = observation.action_mask
    primitive = (jnp.arange(mask.shape[-1]) - 1) % PRIMITIVES + 1
    buys = (primitive == Action.BUY_YES_NOW) | (primitive == Action.BUY_NO_NOW)
    takes = mask & buys
    return jnp.where(jnp.any(takes, axis=-1), _draw(key, takes), Action.HOLD)


def momentum(key: jax.Array, observation: Observation, names: tuple[str, ...]) -> jax.Array:
    """Go with the market: buy YES while the mid has risen over the last 10 s and 60 s, NO while it has fallen, else sell.

    It takes from the book, up to `MOST` contracts of a side. Where the observation leaves tier 2 out it holds.
    """
    if not set(MOMENTA) <= set(names):
        return hold(key, observation, names)
    short, long = (observation.market[..., names.index(name)] for name in MOMENTA)
    rises, falls = (short > TREND) & (long > TREND), (short < -TREND) & (long < -TREND)
    held = contracts_held(observation)
    follow = jnp.where(rises, Action.BUY_YES_NOW, Action.BUY_NO_NOW)
    follow = jnp.where(jnp.where(rises, held, -held) < MOST, follow, Action.HOLD)
    leave = jnp.where(held > 0, Action.SELL_YES_NOW, jnp.where(held < 0, Action.SELL_NO_NOW, Action.HOLD))
    return _only_legal(observation.action_mask, jnp.where(rises | falls, follow, leave))


def market_maker(key: jax.Array, observation: Observation, names: tuple[str, ...]) -> jax.Array:
    """Rest bids for YES and NO at the best prices; what is held is offered at the ask before more of it is bid for.

    With two order slots it quotes both sides: on the side that would enlarge the holding it bids up to `MOST` contracts, on the
    other it sells. With one it quotes the side that reduces the holding; with none, the side on which its order rests already
    (it keeps its place in the queue), or else the side with more contracts at its best bid.
    """
    held = contracts_held(observation)
    for_yes = jnp.where(held < 0, Action.SELL_NO_WAIT, jnp.where(held < MOST, Action.BUY_YES_WAIT, Action.HOLD))
    for_no = jnp.where(held > 0, Action.SELL_YES_WAIT, jnp.where(held > -MOST, Action.BUY_NO_WAIT, Action.HOLD))
    if observation.action_mask.shape[-2] > 1:
        return _only_legal(observation.action_mask, for_yes, for_no)
    resting = of_account(observation, "order_0_resting")
    side = jnp.where(resting != 0, resting, observation.market[..., names.index("imbalance_1")])
    side = jnp.where(held != 0, -held, side)
    return _only_legal(observation.action_mask, jnp.where(side >= 0, for_yes, for_no))


BASELINES: dict[str, Baseline] = {
    "random": random_legal,
    "hold": hold,
    "always take": always_take,
    "momentum": momentum,
    "market maker": market_maker,
}


def contracts_held(observation: Observation) -> jax.Array:
    """Read the holdings off the observation, f32[..., M] whole contracts, +YES, -NO; some hundreds at most."""
    return jnp.rint(100 * jnp.arctanh(jnp.clip(of_account(observation, "position"), -0.999999, 0.999999)))


def of_account(observation: Observation, name: str) -> jax.Array:
    """Read a figure of every market slot's account off the observation, f32[..., M]; named as in `portfolio_names`."""
    markets, orders = observation.action_mask.shape[-3:-1]
    names = portfolio_names(1, orders)[: -len(OVERALL_FEATURES)]
    return split_portfolio(observation.portfolio, markets)[0][..., names.index(f"market_0_{name}")]


def _draw(key: jax.Array, mask: jax.Array) -> jax.Array:
    return jax.random.categorical(key, jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min))


def _only_legal(mask: jax.Array, *by_slot: jax.Array) -> jax.Array:
    """Give actions i32[..., M] of the first order slots, HOLD in the others and wherever one is not legal: i32[..., M, O]."""
    idle = [jnp.full(mask.shape[:-2], Action.HOLD, jnp.int32)] * (mask.shape[-2] - len(by_slot))
    action = jnp.stack([*(x.astype(jnp.int32) for x in by_slot), *idle][: mask.shape[-2]], axis=-1)
    legal = jnp.take_along_axis(mask, action[..., None], axis=-1)[..., 0]
    return jnp.where(legal, action, Action.HOLD)
