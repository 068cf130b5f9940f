"""The agent's network: one encoder shared by all market slots, a pooled context, masked categorical heads, a value head."""

from __future__ import annotations

from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from kalshi_jax.features import split_portfolio

Memory = Any  # of a network: f32[.., M, H] of a recurrent one, () of another


class ActorCritic(nn.Module):
    """Maps an `Observation` to masked logits for every market and order slot, and to one value.

    The weights do not know the slot: permuting the market slots permutes the logits and leaves the value. A market
    sees the others only through the context, made from the mean encoding of the slots in use. It is small on purpose: on a
    CPU the network, not the environment, sets the speed of training.

    With `memory` a gated recurrent unit (Cho et al. 2014) for each slot, of the same weights for all, carries what it saw of
    its market from step to step.

    Any batch shape [..] may lead the observation: market f32[.., M, F], portfolio f32[.., P],
    action_mask bool[.., M, O, A].
    """

    num_actions: int  # A
    orders_per_market: int = 1  # O
    width: int = 64  # units of every hidden layer
    memory: int = 0  # units H of the recurrent part; 0: none
    precision: Literal["float32", "bfloat16"] = "float32"  # of all layers but the last ones; weights are float32

    @nn.compact
    def __call__(self, observation: Any, memory: Memory = ()) -> tuple[jax.Array, jax.Array, Memory]:
        """Return logits f32[.., M, O, A], illegal actions at the lowest finite number, value f32[..], and the memory after it."""
        market, mask = observation.market, observation.action_mask
        holding, overall = split_portfolio(observation.portfolio, market.shape[-2])
        used = jnp.any(market != 0, axis=-1, keepdims=True)

        overall = jnp.broadcast_to(overall[..., None, :], (*market.shape[:-1], overall.shape[-1]))
        encoding = nn.relu(self._dense(self.width, "encoder")(jnp.concatenate([market, holding, overall], axis=-1)))
        if self.memory:
            memory, encoding = nn.GRUCell(self.memory, dtype=jnp.dtype(self.precision), name="memory")(memory, encoding)
            memory = memory.astype(jnp.float32)
        mean = jnp.sum(encoding * used, axis=-2) / jnp.maximum(jnp.sum(used, axis=-2), 1)
        context = nn.relu(self._dense(self.width, "context")(mean))

        head = nn.relu(self._dense(self.width, "head")(encoding) + context[..., None, :])
        logits = self._dense(self.orders_per_market * self.num_actions, "logits", scale=0.01, exact=True)(head)
        value = self._dense(1, "value", scale=1.0, exact=True)(context)
        # not -inf: the entropy and its gradient would be NaN
        return jnp.where(mask, logits.reshape(mask.shape), jnp.finfo(logits.dtype).min), value[..., 0], memory

    def _dense(self, units: int, name: str, scale: float = 2**0.5, exact: bool = False) -> nn.Dense:
        dtype = jnp.float32 if exact else jnp.dtype(self.precision)
        return nn.Dense(units, dtype=dtype, kernel_init=nn.initializers.orthogonal(scale), name=name)


def empty_memory(network: ActorCritic, *shape: int) -> Memory:
    """Give the memory of episodes that begin; `shape` is [.., M], the batch and the market slots."""
    return jnp.zeros((*shape, network.memory)) if network.memory else ()


def forget(memory: Memory, begins: jax.Array) -> Memory:
    """Empty the memory, f32[.., M, H], of episodes that begin, bool[..]."""
    return jax.tree.map(lambda x: jnp.where(begins[..., None, None], 0.0, x), memory)


def forward(
    network: ActorCritic, weights: Any, observation: Any, memory: Memory
) -> tuple[jax.Array, jax.Array, Memory]:
    """Apply the network: logits f32[.., M, O, A], value f32[..] and the memory after it."""
    return cast(tuple[jax.Array, jax.Array, Memory], network.apply(weights, observation, memory))


def unroll(
    network: ActorCritic, weights: Any, observation: Any, memory: Memory, done: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Apply the network to sequences of steps as it was applied when they were played.

    Args:
        network: the network.
        weights: of it.
        observation: [T, E, ...].
        memory: f32[E, M, H] before the first step, or ().
        done: bool[T, E], the step was the last of its episode: the memory is empty at the next one.

    Returns:
        logits f32[T, E, M, O, A] and value f32[T, E].
    """
    if not network.memory:
        return forward(network, weights, observation, memory)[:2]

    def step(memory: Memory, now: tuple[Any, jax.Array]) -> tuple[Memory, tuple[jax.Array, jax.Array]]:
        logits, value, memory = forward(network, weights, now[0], memory)
        return forget(memory, now[1]), (logits, value)

    return cast(tuple[jax.Array, jax.Array], jax.lax.scan(step, memory, (observation, done))[1])


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
