"""The environment's contract: gymnax 1.x to the letter, one compile, and the same values however it is run."""

import os
import subprocess
import sys
from pathlib import Path

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment

from kalshi_jax import Action, EnvParams, MarketAgnosticKalshiEnv
from loaders import load_tape
from tests.reference.frames import delta, random_frames, snapshot, write_recording

EPISODES = 16


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = write_recording(tmp_path_factory.mktemp("env") / "random.jsonl", random_frames(5, ("A", "B", "C"), 500))
    return load_tape(path)[0]


@pytest.fixture(scope="module")
def env():
    return MarketAgnosticKalshiEnv(max_markets=2, sequence_features=False, remembered_levels=8)


@pytest.fixture(scope="module")
def params(env, tape):
    return env.make_params(tape, episode_length=20, decision_interval_ms=250)


def legal(key, mask):
    return jax.random.categorical(key, jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min))


def run(env, params, steps, step, seed=0):
    """Step EPISODES episodes by random legal actions; everything seen on the way, time-major."""
    obs, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(seed), EPISODES), params)
    seen = []
    for i in range(steps):
        key = jax.random.fold_in(jax.random.key(seed + 1), i)
        action = legal(key, obs.action_mask)
        obs, state, *rest = step(jax.random.split(key, EPISODES), state, action, params)
        seen.append((obs, state, *rest))
    return jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *seen)


@pytest.mark.slow
def test_own_step_equals_the_step_of_gymnax(env, params):
    def gymnax_step(key, state, action, params):
        return environment.Environment.step(env, key, state, action, params)

    ours = run(env, params, 50, jax.jit(jax.vmap(env.step, (0, 0, 0, None))))
    theirs = run(env, params, 50, jax.jit(jax.vmap(gymnax_step, (0, 0, 0, None))))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    truncated = ours[4]
    assert truncated.sum() >= 2 * EPISODES, "every episode ends at 20 steps, at the latest"


def test_six_values_and_the_metadata_of_the_end(env, params):
    obs, state = env.reset(jax.random.key(0), params)
    for i in range(20):
        values = env.step(jax.random.key(i), state, jnp.zeros((2, 1), jnp.int32), params)
        assert len(values) == 6
        obs, state, reward, terminated, truncated, info = values
        if truncated:
            break
    assert bool(truncated)
    assert not bool(terminated)
    assert int(state.time) == 0, "the next episode has begun"
    time_left = env.portfolio_names.index("time_left")
    assert float(obs.portfolio[time_left]) == 1.0
    assert float(info["final_observation"].portfolio[time_left]) < 1.0
    assert float(info["portfolio_value"]) == 10_000.0, "holding loses nothing"
    assert reward.dtype == jnp.float32
    assert jax.tree.structure(info["final_observation"]) == jax.tree.structure(obs)


def test_eager_jit_and_vmap_agree(env, params):
    """Compiled alone and in a batch everything agrees to the last bit; eagerly the state does, and floats to a few units."""
    obs, states = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 3), params)
    action = legal(jax.random.key(1), obs.action_mask)

    def move(state, action):
        state, *rest = env.transition(state, action, params)
        return state, rest, env.observation(state, params)

    batched = jax.jit(jax.vmap(move))(states, action)
    alone = jax.jit(move)
    for i in range(3):
        of_batch = jax.tree.map(lambda x, i=i: x[i], batched)
        jax.tree.map(
            np.testing.assert_array_equal, alone(*jax.tree.map(lambda x, i=i: x[i], (states, action))), of_batch
        )
    with jax.disable_jit():
        eager = move(*jax.tree.map(lambda x: x[2], (states, action)))
    jax.tree.map(np.testing.assert_array_equal, eager[0], of_batch[0])
    chex.assert_trees_all_close(eager, of_batch, rtol=1e-5, atol=1e-6)


def test_one_compile_whatever_varies(env, tape):
    step = jax.jit(chex.assert_max_traces(env.step, n=1))
    reset = jax.jit(chex.assert_max_traces(env.reset, n=1))
    weights = np.arange(1, tape.num_markets + 1)
    for settings in (
        {"decision_interval_ms": 100, "episode_length": 5, "maker_flat_cents": 0.25},
        {"decision_interval_ms": 5_000, "initial_cash": 50.0, "maker_rate": 175},
        {"decision_interval_ms": 1, "hold_cancels": False, "market_weights": weights, "maker_rate": 350},
    ):
        params = env.make_params(tape, **settings)
        _, state = reset(jax.random.key(0), params)
        for i in range(3):
            _, state, *_ = step(jax.random.key(i), state, jnp.full((2, 1), i), params)


@pytest.mark.slow
def test_eight_devices_agree_with_one():
    """Shards 16 episodes over 8 simulated devices in a process of its own and compares every leaf with one device."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.kalshi_jax.eight_devices"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8 devices agree" in done.stdout


def test_environment_is_static_and_hashable(env):
    same = MarketAgnosticKalshiEnv(max_markets=2, sequence_features=False, remembered_levels=8)
    assert env == same
    assert hash(env) == hash(same)
    assert env != MarketAgnosticKalshiEnv(max_markets=3)
    assert issubclass(MarketAgnosticKalshiEnv, gymnax.environments.environment.Environment)


def test_spaces_sample_and_contain(env, params):
    action = env.action_space(params).sample(jax.random.key(0))
    assert action.shape == (2, 1)
    assert bool(env.action_space(params).contains(action))
    assert not bool(env.action_space(params).contains(jnp.full((2, 1), 9)))
    space = env.observation_space(params)
    assert bool(space.contains(env.reset(jax.random.key(0), params)[0]))
    assert bool(space.contains(space.sample(jax.random.key(0))))


def test_unused_slots_hold_whatever_is_sent(env, params):
    _, state = env.start(params, jnp.array([1, -1]), jnp.int32(0))
    for action in range(1, env.num_actions):
        _, after, _, _, _, info = env.step(jax.random.key(0), state, jnp.array([[0], [action]]), params)
        assert int(after.ledger.position[1]) == int(info["trades"]) == int(info["resting"]) == 0


def test_random_actions_are_equally_likely():
    space = MarketAgnosticKalshiEnv(max_markets=2).action_space()
    drawn = np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 9_000)))
    counts = np.stack([np.bincount(drawn[:, m, 0], minlength=9) for m in range(2)])
    assert counts.shape == (2, 9)
    assert (abs(counts - 1000) < 5 * np.sqrt(1000)).all()  # five standard deviations


def test_numbers_that_are_no_action_hold(env, params):
    _, state = env.start(params, jnp.array([1, 0]), jnp.int32(0))
    for number in (-1, 9, 10**6):
        info = env.step(jax.random.key(0), state, jnp.full((2, 1), number), params)[-1]
        assert int(info["trades"]) == int(info["resting"]) == 0


def test_a_resting_order_keeps_its_place_across_steps(tmp_path):
    frames = [
        snapshot(0, {40: 30}, {50: 20}),
        delta(100, "yes", 40, -10),
        delta(200, "yes", 40, 50),
        delta(300, "no", 60, 5),
    ]
    env = MarketAgnosticKalshiEnv(1, temporal_features=False, sequence_features=False, remembered_levels=4)
    params = env.make_params(load_tape(write_recording(tmp_path / "queue.jsonl", frames))[0])
    _, state = env.start(params, jnp.array([0]), jnp.int32(0))
    wait = jnp.full((1, 1), Action.BUY_YES_WAIT)
    fronts = []
    for _ in range(2):
        state, *_ = env.transition(state, wait, params)
        fronts.append(int(state.orders.front[0, 0]))
    assert fronts == [20, 20], "a decrease may move us forward, an increase never moves us back"
    state, _, _, _, info = env.transition(state, wait, params)
    assert int(info["maker_contracts"]) == 10, "the ask came to 40 cents"
    assert int(state.ledger.position[0]) == 10
    assert int(state.ledger.cost_basis[0]) == 10 * 4_000


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"episode_length": 0}, "episode_length=0"),
        ({"decision_interval_ms": -1}, "decision_interval_ms=-1"),
        ({"queue_model": "lucky"}, "queue_model=lucky"),
        ({"mark": "best"}, "mark=best"),
        ({"initial_cash": 1e9}, "initial_cash=1000000000.0"),
        ({"initial_cash": 0}, "initial_cash=0"),
        ({"taker_rate": -7}, "fee=-7"),
        ({"maker_flat_cents": 0.123}, "fee=0.123"),
        ({"market_weights": np.zeros(3)}, "market_weights"),
        ({"market_weights": np.ones(2)}, "market_weights"),
        ({"start_offset": -1}, "start_offset=-1"),
    ],
)
def test_bad_parameters_are_named(env, tape, settings, named):
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        env.make_params(tape, **settings)


@pytest.mark.parametrize(
    "settings", [{"max_markets": 0}, {"orders_per_market": 0}, {"order_sizes": ()}, {"order_sizes": (10, 100_001)}]
)
def test_bad_environments_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        MarketAgnosticKalshiEnv(**settings)


def test_no_parameters_is_a_clear_error(env):
    with pytest.raises(ValueError, match="make_params"):
        env.reset(jax.random.key(0))


def test_the_tape_is_an_argument_and_never_a_constant(env, params):
    assert isinstance(params, EnvParams)
    jaxpr = jax.make_jaxpr(lambda p: env.reset(jax.random.key(0), p))(params)
    largest = max((np.size(constant) for constant in jaxpr.consts), default=0)
    assert largest < 100
