"""PPO finds a known optimum, and its advantages are those of the definition."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import OPTIMUM, VALUE_UNIT, Toy, ToyParams

from agents.networks import ActorCritic, forward, log_probability, unroll
from agents.ppo import ENVS, HyperParameters, Layout, advantages, collect, init_learner, learner_sharding, make_update

ENV = Toy()
NETWORK = ActorCritic(ENV.num_actions, width=16)
LAYOUT = Layout(num_envs=32, rollout_length=8, epochs=2, minibatches=2)
MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ENVS)
start = jax.jit(partial(init_learner, ENV, NETWORK, LAYOUT), out_shardings=learner_sharding(MESH))


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


class Accountant:
    """In place of a network: acts evenly, and values an observation at the portfolio value that the toy shows in it."""

    memory = 0

    def init(self, key, observation, memory):
        return {}

    def apply(self, weights, observation, memory):
        return jnp.where(observation.action_mask, 0.0, -1e9), observation.portfolio[..., -3], memory


@pytest.mark.parametrize(("length", "slots"), [(9, 1), (8, 1), (3, 3), (1, 8)])
def test_what_follows_a_step_is_valued_in_its_own_episode(length, slots):
    """Whatever ends there: the value after a step is the value before it plus the reward, never that of a new episode."""
    params = ToyParams(episode_length=length, crash=0.05)
    layout = replace(LAYOUT, final_slots=slots)
    learner = jax.jit(partial(init_learner, ENV, Accountant(), layout))(jax.random.key(0), params)
    play = jax.jit(partial(collect, ENV, Accountant(), layout))
    _, rollout, next_value = play(learner, params, jax.random.key(1))
    assert int(rollout.truncated.sum(axis=0).max()) == slots
    assert np.asarray(rollout.terminated).any()
    going_on = ~np.asarray(rollout.terminated)
    expected = np.asarray(rollout.value + rollout.reward / VALUE_UNIT)
    np.testing.assert_array_equal(np.asarray(next_value)[going_on], expected[going_on])


def test_with_a_memory_what_follows_a_step_is_what_a_second_look_at_it_would_give():
    """One value call after the rollout equals one at every step; and unrolling the rollout gives what was played."""
    network, layout, key = (
        ActorCritic(ENV.num_actions, width=16, memory=4),
        replace(LAYOUT, final_slots=3),
        jax.random.key(1),
    )
    params = ToyParams(episode_length=3, crash=0.05)
    learner = jax.jit(partial(init_learner, ENV, network, layout))(jax.random.key(0), params)
    learner = replace(learner, memory=jax.random.normal(jax.random.key(5), learner.memory.shape))
    _, rollout, next_value = jax.jit(partial(collect, ENV, network, layout))(learner, params, key)

    @jax.jit
    def naive(states, memory, action, key):
        *_, memory = forward(network, learner.weights, jax.vmap(ENV.observation, (0, None))(states, params), memory)
        states, _, terminated, truncated, _ = jax.vmap(ENV.transition, (0, 0, None))(states, action, params)
        seen = jax.vmap(ENV.observation, (0, None))(states, params)
        _, worth, _ = forward(network, learner.weights, seen, memory)
        done, keys = terminated | truncated, jax.random.split(key, layout.num_envs)
        states = jax.vmap(ENV.restart, (0, 0, 0, None))(done, keys, states, params)
        return states, jnp.where(done[:, None, None], 0.0, memory), worth

    states, memory = learner.env_states, learner.memory
    for t, reset_key in enumerate(jax.random.split(jax.random.split(key)[1], layout.rollout_length)):
        states, memory, worth = naive(states, memory, rollout.action[t], reset_key)
        goes_on = ~np.asarray(rollout.terminated[t])
        np.testing.assert_allclose(next_value[t][goes_on], worth[goes_on], rtol=1e-5, atol=1e-6)
    done = rollout.terminated | rollout.truncated
    assert np.asarray(done).any(axis=0).all()
    logits, value = unroll(network, learner.weights, rollout.observation, learner.memory, done)
    np.testing.assert_allclose(value, rollout.value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_probability(logits, rollout.action), rollout.log_prob, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "low", "high"), [(0, 0.3, 0.55), (8, 0.75, 0.83)])
def test_only_a_memory_earns_from_what_was_shown_a_step_ago(memory, low, high):
    env, network = Toy(late=True), ActorCritic(ENV.num_actions, width=16, memory=memory)
    begin = jax.jit(partial(init_learner, env, network, LAYOUT), out_shardings=learner_sharding(MESH))
    learner, params = begin(jax.random.key(0), toy_params()), toy_params()
    step = jax.jit(make_update(env, network, LAYOUT, MESH))
    hyper = as_arrays(HyperParameters(learning_rate=2e-2, entropy_weight=0.0003))
    rewards = []
    for _ in range(60):
        learner, figures = step(learner, hyper, params)
        rewards.append(float(figures["reward"]) / env.max_markets)
    assert low < np.mean(rewards[-10:]) < high


@pytest.fixture(scope="module")
def update():
    """The training step, compiled once for all tests: hyper-parameters and parameters are arguments."""
    chex.clear_trace_counter()
    step = make_update(ENV, NETWORK, LAYOUT, MESH)
    return jax.jit(chex.assert_max_traces(lambda *arguments: step(*arguments), n=1))


def as_arrays(tree):
    return jax.tree.map(jnp.float32, tree)


def toy_params(**values):
    params = ToyParams(**values)
    return replace(as_arrays(params), episode_length=jnp.int32(params.episode_length))


def test_episodes_shorter_than_the_rollout_are_counted(update):
    learner = start(jax.random.key(0), ToyParams())
    for length, expected in ((8, False), (3, True)):
        _, figures = update(learner, as_arrays(HyperParameters()), toy_params(episode_length=length))
        assert (float(figures["lost_truncations"]) > 0) == expected


def test_ppo_finds_the_optimum_of_the_toy(update):
    params = toy_params(prize=0.003)  # rewards of any size are learned from alike
    learner = start(jax.random.key(0), params)
    hyper = as_arrays(HyperParameters(learning_rate=5e-3, anneal_updates=120.0, entropy_weight=0.003))
    rewards = []
    for _ in range(120):
        learner, figures = update(learner, hyper, params)
        rewards.append(float(figures["reward"]) / 0.003 / ENV.max_markets)
    assert rewards[0] < 0.2
    assert np.mean(rewards[-10:]) > 0.97 * OPTIMUM
    assert float(figures["learning_rate"]) == pytest.approx(5e-3 / 120, rel=1e-3)


def test_an_update_ends_once_its_policy_has_come_too_far(update):
    learner, params = start(jax.random.key(0), toy_params()), toy_params()
    used = []
    for target in (0.0, 1e-9, 1e9):
        after, figures = update(learner, as_arrays(HyperParameters(learning_rate=1e-2, target_kl=target)), params)
        used.append(float(figures["minibatches_used"]) * LAYOUT.epochs * LAYOUT.minibatches)
        moments = jax.tree.leaves(after.optimizer)[0]  # Adam counts its steps
        assert int(moments) == used[-1]
    assert used == [4, 1, 4]  # the first minibatch still is the policy that played


def test_rates_go_linearly_to_their_final_values(update):
    hyper = HyperParameters(entropy_weight=0.1, final_entropy_weight=0.02, final_learning_rate=1e-4, anneal_updates=4.0)
    learner, params = start(jax.random.key(0), toy_params()), toy_params()
    seen = []
    for done in range(6):
        _, figures = update(replace(learner, updates=learner.updates + done), as_arrays(hyper), params)
        seen.append((float(figures["entropy_weight"]), float(figures["learning_rate"])))
    np.testing.assert_allclose([e for e, _ in seen], [0.1, 0.08, 0.06, 0.04, 0.02, 0.02], rtol=1e-5)
    np.testing.assert_allclose([r for _, r in seen], [5e-4, 4e-4, 3e-4, 2e-4, 1e-4, 1e-4], rtol=1e-5)


def test_the_shares_of_actions_add_up_where_there_is_a_choice(update):
    _, figures = update(start(jax.random.key(0), toy_params()), as_arrays(HyperParameters()), toy_params())
    assert figures["actions"].shape == (ENV.num_actions,)
    assert float(figures["actions"].sum()) == pytest.approx(1.0, abs=1e-5)
    assert (figures["actions"] > 0.05).all()


@pytest.mark.parametrize("broken", ["reward", "weights"])
def test_figures_that_are_not_finite_are_found(update, broken):
    params = toy_params(prize=np.nan if broken == "reward" else 1.0)
    hyper = as_arrays(HyperParameters(learning_rate=np.inf if broken == "weights" else 1e-3))
    _, figures = update(start(jax.random.key(0), params), hyper, params)
    finite = {name: float(figures[f"finite_{name}"]) for name in ("reward", "gradient", "weights")}
    assert finite[broken] < 1
    assert (finite["reward"] == 1) == (broken == "weights")


def test_hyper_parameters_may_be_vmapped():
    learner = start(jax.random.key(0), ToyParams())
    rates = HyperParameters(learning_rate=jnp.array([0.0, 1e-3]))
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, rates)
    many = jax.jit(jax.vmap(make_update(ENV, NETWORK, LAYOUT, MESH), (None, axes, None)))
    after, _ = many(learner, rates, ToyParams())
    pairs = list(zip(jax.tree.leaves(after.weights), jax.tree.leaves(learner.weights), strict=True))
    assert all((new[0] == old).all() for new, old in pairs)
    assert any((new[1] != old).any() for new, old in pairs)


def test_environments_begin_at_different_stages_of_the_episode():
    learner = start(jax.random.key(0), ToyParams())
    assert len(np.unique(learner.env_states.time)) > 5


def test_a_layout_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="num_envs 10 must be a multiple of minibatches 4"):
        Layout(num_envs=10, minibatches=4)
    with pytest.raises(ValueError, match="num_envs 3 must be a multiple of minibatches 1 x 2 devices"):
        make_update(ENV, NETWORK, Layout(num_envs=3, minibatches=1), _Mesh(size=2))


class _Mesh:
    def __init__(self, size):
        self.size = size
