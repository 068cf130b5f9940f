"""Run by test_env in a process with 8 simulated devices: a sharded rollout equals the one on a single device."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kalshi_jax import MarketAgnosticKalshiEnv
from loaders import load_tape
from tests.reference.frames import random_frames, write_recording


def main() -> None:
    """Compare every leaf of 30 steps of 16 episodes."""
    assert jax.device_count() == 8
    with tempfile.TemporaryDirectory() as folder:
        tape, _ = load_tape(write_recording(Path(folder) / "random.jsonl", random_frames(6, ("A", "B"), 400)))
    env = MarketAgnosticKalshiEnv(max_markets=2, sequence_features=False, remembered_levels=8)
    params = env.make_params(tape, episode_length=12)

    def rollout(keys, params):
        obs, state = jax.vmap(env.reset, (0, None))(keys, params)

        def body(carry, i):
            obs, state = carry
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            action = jax.vmap(lambda k, mask: jax.random.categorical(k, jnp.where(mask, 0.0, -1e9)))(
                step_keys, obs.action_mask
            )
            obs, state, *rest = jax.vmap(env.step, (0, 0, 0, None))(step_keys, state, action, params)
            return (obs, state), (obs, state, rest)

        return jax.lax.scan(body, (obs, state), jnp.arange(30))[1]

    keys = jax.random.split(jax.random.key(0), 16)
    mesh = Mesh(np.array(jax.devices()), ("episodes",))
    sharded = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("episodes")))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    one, eight = jax.jit(rollout)(keys, params), jax.jit(rollout)(sharded, everywhere)
    assert len(eight[2][0].sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, one, eight)
    print("8 devices agree")


if __name__ == "__main__":
    main()
