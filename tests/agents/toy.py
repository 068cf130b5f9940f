"""A market whose optimum is known: a toy with the environment's interface.

Every slot shows a signal; buying YES pays 1 where it is up, buying NO pays 1 where it is down, everything else pays
nothing. A fifth of the time the paying action is forbidden. Episodes are truncated after `episode_length` steps, or
terminated with the chance `crash` per step. With `late` the signal is shown one step too early: whoever remembers it earns.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.actions import Action
from kalshi_jax.attribution import PARTS, Attribution
from kalshi_jax.features import HOLDING_FEATURES, OVERALL_FEATURES, Observation

FEATURES = ("yes_mid", "spread", "imbalance_1", "momentum_10s")  # the signal shows as the first, the others are 1
OPTIMUM = 0.8  # reward per slot and step
VALUE_UNIT = 1024.0  # dollars, of the portfolio value in the observation; a power of 2, so nothing is rounded


@struct.dataclass
class ToyState:
    key: jax.Array
    time: jax.Array  # i32[]
    signal: jax.Array  # f32[M], -1 or 1
    following: jax.Array  # f32[M], the signal of the next step
    forbidden: jax.Array  # bool[M], the paying action is
    value: jax.Array  # f32[], $


@struct.dataclass
class ToyParams:
    episode_length: jax.Array | int = 10
    initial_cash: jax.Array | int = 1_000_000
    crash: jax.Array | float = 0.0
    prize: jax.Array | float = 1.0


@dataclass(frozen=True)
class Toy:
    max_markets: int = 2
    orders_per_market: int = 1
    num_actions: int = 9
    late: bool = False
    feature_names = FEATURES  # no field

    def initial_state(self, key, params):
        nothing, cash = jnp.zeros(self.max_markets), jnp.float32(params.initial_cash / 10_000)
        return self._draw(ToyState(key, jnp.int32(0), nothing, nothing, nothing > 0, cash))

    def restart(self, done, key, state, params):
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), self.initial_state(key, params), state)

    def start(self, params, markets, start_ms):
        state = self.initial_state(jax.random.key(start_ms), params)
        return self.observation(state, params), state

    def observation(self, state, params):
        filler = jnp.ones((self.max_markets, len(FEATURES) - 1))
        actions = jnp.arange(self.num_actions)
        paying = (actions == self._paying(state)[:, None]) & state.forbidden[:, None]
        mask = jnp.broadcast_to(~paying[:, None], (self.max_markets, self.orders_per_market, self.num_actions))
        figures = len(HOLDING_FEATURES) + 3 * self.orders_per_market
        portfolio = jnp.zeros(figures * self.max_markets + len(OVERALL_FEATURES)).at[-3].set(state.value / VALUE_UNIT)
        shown = state.following if self.late else state.signal
        return Observation(jnp.column_stack([shown, filler]), portfolio, mask)

    def transition(self, state, action, params):
        return self.explain(state, action, params)[:5]

    def explain(self, state, action, params):
        earned = params.prize * (action[:, 0] == self._paying(state))
        nothing = jnp.zeros(self.max_markets, jnp.int32)
        parts = dict.fromkeys(PARTS, nothing) | {"holding": jnp.int32(10_000 * earned)}
        return *self._step(state, action, params), Attribution(parts, nothing, nothing)

    def _step(self, state, action, params):
        reward = params.prize * jnp.sum(action[:, 0] == self._paying(state))
        state = self._draw(state.replace(time=state.time + 1, value=state.value + reward))
        terminated = jax.random.uniform(jax.random.fold_in(state.key, 1)) < params.crash
        info = {
            "portfolio_value": state.value,
            "trades": jnp.sum(action > 0),
            "taker_contracts": 10 * jnp.sum((action > 0) & (action < 5)),
            "maker_contracts": 10 * jnp.sum(action >= 5),
            "fees": jnp.float32(0.0),
        }
        return state, jnp.float32(reward), terminated, state.time >= params.episode_length, info

    def _draw(self, state):
        key, signal, forbidden = jax.random.split(state.key, 3)
        new = jax.random.rademacher(signal, (self.max_markets,), jnp.float32)
        return state.replace(
            key=key,
            signal=state.following if self.late else new,
            following=new,
            forbidden=jax.random.bernoulli(forbidden, 1 - OPTIMUM, (self.max_markets,)),
        )

    def _paying(self, state):
        return jnp.where(state.signal > 0, Action.BUY_YES_NOW, Action.BUY_NO_NOW)
