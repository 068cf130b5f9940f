"""`check_env` passes on the environment, and says clearly what is wrong with a broken one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kalshi_jax import MarketAgnosticKalshiEnv
from kalshi_jax.check import EnvCheckError, check_env
from loaders import load_tape

SMALL = {"max_markets": 1, "temporal_features": False, "sequence_features": False, "remembered_levels": 2}


@pytest.fixture(scope="module")
def tape():
    return load_tape("synthetic:sessions=1,markets=2,seconds=60,seed=0")[0]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"max_markets": 1, "remembered_levels": 8}, {"decision_interval_ms": 500, "episode_length": 1000}),
        ({"max_markets": 3, "orders_per_market": 2, "remembered_levels": 8}, {"episode_length": 5, "mark": "exit"}),
    ],
)
def test_the_environment_passes(tape, options, settings):
    env = MarketAgnosticKalshiEnv(**options)
    check_env(env, env.make_params(tape, **settings), jax.random.key(7))


class NotANumber(MarketAgnosticKalshiEnv):
    def observation(self, state, params):
        obs = super().observation(state, params)
        return replace(obs, market=obs.market.at[0, 3].set(jnp.where(state.time == 2, jnp.nan, 0.0)))


class MaskOfNumbers(MarketAgnosticKalshiEnv):
    def observation(self, state, params):
        obs = super().observation(state, params)
        return replace(obs, action_mask=obs.action_mask.astype(jnp.float32))


class LargeReward(MarketAgnosticKalshiEnv):
    def transition(self, state, action, params):
        state, reward, *rest = super().transition(state, action, params)
        return state, reward + 3, *rest


class KeepsItsState(MarketAgnosticKalshiEnv):
    def step(self, key, state, action, params):
        state, reward, terminated, truncated, info = self.transition(state, action, params)
        obs = self.observation(state, params)
        info |= {"terminated": terminated, "truncated": truncated, "final_observation": obs}
        return obs, state, reward, terminated, truncated, info


class NeverEnds(MarketAgnosticKalshiEnv):
    def is_truncated(self, state, params):
        return jnp.zeros((), bool)


class Overdraws(MarketAgnosticKalshiEnv):
    def transition(self, state, action, params):
        state, *rest, info = super().transition(state, action, params)
        state = replace(state, ledger=replace(state.ledger, cash=state.ledger.cash - 200_000_000))
        return state, *rest, info


class OtherStructure(MarketAgnosticKalshiEnv):
    def transition(self, state, action, params):
        state, *rest = super().transition(state, action, params)
        return replace(state, time=state.time.astype(jnp.float32)), *rest


class Dice(MarketAgnosticKalshiEnv):
    """Asks the host for a random number, so that the same step gives different values."""

    rng = np.random.default_rng(0)

    def transition(self, state, action, params):
        state, reward, *rest = super().transition(state, action, params)
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        luck = jax.pure_callback(lambda _: np.float32(self.rng.random()), shape, reward, vmap_method="sequential")
        return state, luck, *rest


@jax.custom_batching.custom_vmap
def more_in_a_batch(x):
    return x


@more_in_a_batch.def_vmap
def _(axis_size, in_batched, x):
    return x + 0.01, in_batched[0]


class DependsOnTheBatch(MarketAgnosticKalshiEnv):
    def transition(self, state, action, params):
        state, reward, *rest = super().transition(state, action, params)
        return state, more_in_a_batch(reward), *rest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            NotANumber,
            r"observation\.market: expected a finite number .*; seen nan at step 2, episode 0, element \[0, 3\]",
        ),
        (MaskOfNumbers, r"action_mask: expected bool\[1, 1, 9\] as in the space; seen float32\[1, 1, 9\]"),
        (LargeReward, r"reward: expected -2\.0 to 2\.0 .*; seen [23]\.\d+ at step 1, episode \d"),
        (KeepsItsState, r"state\.time: expected .* 0 where an episode ended.*; seen 6 at step 6, episode 0"),
        (NeverEnds, r"truncated: expected True at step 6 of an episode.*; seen False at step 6"),
        (Overdraws, r"state\.ledger\.cash: expected 0 or more.*; seen -\d+ at step 1, episode 0"),
        (OtherStructure, r"state of step_env\.time: expected int32\[\] as in the state of reset; seen float32\[\]"),
        (Dice, r"the same keys, states and actions played again: expected .*, equal values; seen"),
        (DependsOnTheBatch, r"step 0 of episode 0 alone under jit against in a batch under vmap: expected"),
    ],
)
def test_broken_environments_are_told_what_is_wrong(tape, broken, message):
    env = broken(**SMALL)
    params = env.make_params(tape, episode_length=6, decision_interval_ms=500)
    with pytest.raises(EnvCheckError, match=message) as caught:
        check_env(env, params)
    print(f"{broken.__name__}: {caught.value}")
