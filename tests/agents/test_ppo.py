"""PPO finds a known optimum, and its advantages are those of the definition."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import OPTIMUM, Toy, ToyParams

from agents.networks import ActorCritic
from agents.ppo import HyperParameters, Layout, advantages, collect, init_learner, make_update

ENV = Toy()
NETWORK = ActorCritic(ENV.num_actions, width=16)
LAYOUT = Layout(num_envs=32, rollout_length=8, epochs=2, minibatches=2)


def slow_advantages(reward, value, next_value, terminated, truncated, discount, gae_lambda):
    """Sum discounted one-step errors forward from every step until its episode or the rollout ends."""
    steps, envs = reward.shape
    result = np.zeros((steps, envs))
    for e in range(envs):
        for t in range(steps):
            weight = 1.0
            for later in range(t, steps):
                ahead = 0.0 if terminated[later, e] else next_value[later, e]
                result[t, e] += weight * (reward[later, e] + discount * ahead - value[later, e])
                if terminated[later, e] or truncated[later, e]:
                    break
                weight *= discount * gae_lambda
    return result


@pytest.mark.parametrize("ends", ["none", "terminated", "truncated", "both"])
def test_advantages_equal_the_slow_reference(ends):
    random = np.random.default_rng(3)
    reward, value, next_value = random.normal(size=(3, 12, 5))
    terminated = (random.random((12, 5)) < 0.2) & (ends in ("terminated", "both"))
    truncated = (random.random((12, 5)) < 0.2) & (ends in ("truncated", "both"))
    fast = advantages(reward, value, next_value, terminated, terminated | truncated, 0.97, 0.9)
    slow = slow_advantages(reward, value, next_value, terminated, truncated, 0.97, 0.9)
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("final_slot", [True, False])
def test_what_follows_a_step_is_valued_in_its_own_episode(final_slot):
    """Truncated: the final observation's value, not that of the next episode's first one."""
    params = ToyParams(episode_length=9, crash=0.05)
    layout = replace(LAYOUT, rollout_length=9, final_slot=final_slot)
    learner = init_learner(ENV, NETWORK, layout, jax.random.key(0), params)
    _, rollout, next_value = jax.jit(partial(collect, ENV, NETWORK, layout))(learner, params)
    ended = np.asarray(rollout.terminated | rollout.truncated)
    assert np.asarray(rollout.truncated).any()

    states = learner.env_states
    for t in range(layout.rollout_length):
        states, *_ = jax.vmap(ENV.transition, (0, 0, None))(states, rollout.action[t], params)
        observation = jax.vmap(ENV.observation, (0, None))(states, params)
        value = NETWORK.apply(learner.weights, observation)[1]
        lives = ~ended[: t + 1].any(axis=0) | (ended[t] & ~ended[:t].any(axis=0))  # in its first episode until step t
        checked = lives & ~np.asarray(rollout.terminated[t])
        np.testing.assert_allclose(next_value[t][checked], value[checked], rtol=1e-5, atol=1e-6)


def test_both_ways_to_bootstrap_give_the_same_values():
    params = ToyParams(episode_length=9, crash=0.05)
    learner = init_learner(ENV, NETWORK, LAYOUT, jax.random.key(0), params)
    results = [collect(ENV, NETWORK, replace(LAYOUT, final_slot=slot), learner, params) for slot in (True, False)]
    relevant = ~results[0][1].terminated
    np.testing.assert_allclose(results[0][2] * relevant, results[1][2] * relevant, rtol=1e-5, atol=1e-6)


def test_episodes_shorter_than_the_rollout_are_counted():
    params = ToyParams(episode_length=3)
    learner = init_learner(ENV, NETWORK, LAYOUT, jax.random.key(0), params)
    update = jax.jit(make_update(ENV, NETWORK, LAYOUT))
    _, metrics = update(learner, HyperParameters(), params)
    assert int(metrics["lost_truncations"]) == LAYOUT.num_envs  # 8 steps: ends after 3 and 6, one slot


def test_ppo_finds_the_optimum_of_the_toy():
    params = ToyParams(prize=0.003)  # rewards of any size are learned from alike
    update = jax.jit(chex.assert_max_traces(make_update(ENV, NETWORK, LAYOUT), n=1), donate_argnums=0)
    learner = init_learner(ENV, NETWORK, LAYOUT, jax.random.key(0), params)
    hyper = HyperParameters(learning_rate=5e-3, anneal_updates=120.0, entropy_weight=0.003)
    rewards = []
    for _ in range(120):
        learner, metrics = update(learner, hyper, params)
        rewards.append(float(metrics["reward"]) / 0.003 / ENV.max_markets)
    assert rewards[0] < 0.2
    assert np.mean(rewards[-10:]) > 0.97 * OPTIMUM
    assert float(metrics["learning_rate"]) == pytest.approx(5e-3 / 120, rel=1e-3)


def test_hyper_parameters_may_be_vmapped():
    params = ToyParams()
    learner = init_learner(ENV, NETWORK, LAYOUT, jax.random.key(0), params)
    rates = HyperParameters(learning_rate=jnp.array([0.0, 1e-3]))
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, rates)
    update = jax.jit(jax.vmap(make_update(ENV, NETWORK, LAYOUT), (None, axes, None)))
    after, _ = update(learner, rates, params)
    still = jax.tree.map(lambda a, b: bool((a[0] == b).all()), after.weights, learner.weights)
    moved = jax.tree.map(lambda a, b: bool((a[1] != b).any()), after.weights, learner.weights)
    assert all(jax.tree.leaves(still))
    assert any(jax.tree.leaves(moved))


def test_environments_begin_at_different_stages_of_the_episode():
    params = ToyParams()
    learner = init_learner(ENV, NETWORK, LAYOUT, jax.random.key(0), params)
    assert len(np.unique(learner.env_states.time)) > 5


def test_a_layout_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="num_envs 10 must be a multiple of minibatches 4"):
        Layout(num_envs=10, minibatches=4)
