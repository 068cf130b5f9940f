"""The agent's network: one encoder shared by all market slots, a pooled context, masked categorical heads, a value head."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from kalshi_jax.features import split_portfolio


class ActorCritic(nn.Module):
    """Maps an `Observation` to masked logits for every market and order slot, and to one value.

    The weights do not know the slot: permuting the market slots permutes the logits and leaves the value. A market
    sees the others only through the context, made from the mean encoding of the slots in use. It is small on purpose: on a
    CPU the network, not the environment, sets the speed of training.

    Any batch shape [..] may lead the observation: market f32[.., M, F], portfolio f32[.., P],
    action_mask bool[.., M, O, A].
    """

    num_actions: int  # A
    orders_per_market: int = 1  # O
    width: int = 64  # units of every hidden layer

    @nn.compact
    def __call__(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Return logits f32[.., M, O, A], illegal actions at the lowest finite number, and value f32[..]."""
        market, mask = observation.market, observation.action_mask
        holding, overall = split_portfolio(observation.portfolio, market.shape[-2])
        used = jnp.any(market != 0, axis=-1, keepdims=True)

        overall = jnp.broadcast_to(overall[..., None, :], (*market.shape[:-1], overall.shape[-1]))
        encoding = nn.relu(self._dense(self.width, "encoder")(jnp.concatenate([market, holding, overall], axis=-1)))
        mean = jnp.sum(encoding * used, axis=-2) / jnp.maximum(jnp.sum(used, axis=-2), 1)
        context = nn.relu(self._dense(self.width, "context")(mean))

        head = nn.relu(self._dense(self.width, "head")(encoding) + context[..., None, :])
        logits = self._dense(self.orders_per_market * self.num_actions, "logits", scale=0.01)(head)
        value = self._dense(1, "value", scale=1.0)(context)
        # not -inf: the entropy and its gradient would be NaN
        return jnp.where(mask, logits.reshape(mask.shape), jnp.finfo(logits.dtype).min), value[..., 0]

    def _dense(self, units: int, name: str, scale: float = 2**0.5) -> nn.Dense:
        return nn.Dense(units, kernel_init=nn.initializers.orthogonal(scale), name=name)


def forward(network: ActorCritic, weights: Any, observation: Any) -> tuple[jax.Array, jax.Array]:
    """Apply the network: logits f32[.., M, O, A] and value f32[..]."""
    logits, value = cast(tuple[jax.Array, jax.Array], network.apply(weights, observation))
    return logits, value


def sample_actions(key: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw an action for every slot; the key is consumed.

    Args:
        key: typed PRNG key.
        logits: f32[.., M, O, A], masked.

    Returns:
        actions i32[.., M, O] and the log probability of all of them together, f32[..].
    """
    actions = jax.random.categorical(key, logits)
    return actions, log_probability(logits, actions)


def log_probability(logits: jax.Array, actions: jax.Array) -> jax.Array:
    """Log probability of actions i32[.., M, O] under logits f32[.., M, O, A], summed over the slots: f32[..]."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], axis=-1)
    return jnp.sum(chosen, axis=(-3, -2, -1))


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy in nats of the action distribution of logits f32[.., M, O, A], summed over the slots: f32[..]."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=(-3, -2, -1))
