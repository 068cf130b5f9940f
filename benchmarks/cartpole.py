"""gymnax's CartPole-v1 behind the interface of this environment, so that the same PPO and network learn it: a yardstick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.batching import draw_where
from kalshi_jax.env import RESTARTS
from kalshi_jax.features import Observation, portfolio_names

ENV = "CartPole-v1"


@struct.dataclass
class CartPoleParams:
    """What training asks of parameters."""

    episode_length: jax.Array | int = 500


@dataclass(frozen=True)
class CartPoleTask:
    """One slot whose market shows the four numbers of the pole; the portfolio is zeros."""

    max_markets: int = 1
    orders_per_market: int = 1
    num_actions: int = 2

    def initial_state(self, key: jax.Array, params: CartPoleParams) -> Any:
        """Draw an episode; the key is consumed."""
        env, fixed = gymnax.make(ENV)
        return env.reset_env(key, fixed)[1].replace(time=jnp.int32(0))

    def restart(self, done: jax.Array, key: jax.Array, state: Any, params: CartPoleParams) -> Any:
        """Draw a new episode where one is `done` (bool[]); the key is consumed."""
        return draw_where(self.initial_state, RESTARTS)(done, key, state, params)

    def observation(self, state: Any, params: CartPoleParams) -> Observation:
        """Show the state."""
        shown = jnp.array([state.x, state.x_dot, state.theta, state.theta_dot])
        return Observation(shown[None], jnp.zeros(len(portfolio_names(1, 1))), jnp.ones((1, 1, 2), bool))

    def transition(
        self, state: Any, action: jax.Array, params: CartPoleParams
    ) -> tuple[Any, jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Push left or right by action i32[1, 1]. The key is not used: a step is deterministic."""
        env, fixed = gymnax.make(ENV)
        _, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, action[0, 0], fixed)
        truncated = (state.time >= params.episode_length) & ~terminated
        nothing = jnp.float32(0.0)
        info = {"portfolio_value": nothing, "trades": jnp.int32(0), "fees": nothing}
        return state, jnp.float32(reward), terminated, truncated, info
