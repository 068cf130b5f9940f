"""The two spaces that gymnax lacks: an array of choices, and the observation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from kalshi_jax.features import Observation


class Choices(spaces.Space):
    """An array of `shape`, each element one of `n` choices."""

    def __init__(self, n: int, shape: tuple[int, ...]):
        self.n = n
        self.shape = shape
        self.dtype = jnp.int32

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw every element uniformly, but for n / 2**32; the key is consumed."""
        return (jax.random.bits(key, self.shape) % jnp.uint32(self.n)).astype(jnp.int32)

    def contains(self, x: jax.Array) -> jax.Array:
        """Tell whether every element is one of the choices, bool[]."""
        x = jnp.asarray(x)
        return jnp.all((x >= 0) & (x < self.n)) & (x.shape == self.shape)


class Observations(spaces.Dict):
    """`Observation` as a space; samples are observations too."""

    def __init__(self, market: tuple[int, ...], portfolio: tuple[int, ...], action_mask: tuple[int, ...]):
        super().__init__(
            {
                "market": spaces.Box(-1.0, 2.0, market),
                "portfolio": spaces.Box(-1.0, 1.0, portfolio),
                "action_mask": spaces.Box(0, 1, action_mask, jnp.bool_),
            }
        )

    def sample(self, key: jax.Array) -> Observation:
        """Draw each part uniformly; the key is consumed."""
        return Observation(**super().sample(key))
