"""The adapters give what the environment gives, in the shape that other libraries ask for."""

import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from kalshi_jax import MarketAgnosticKalshiEnv
from kalshi_jax.adapters import (
    FlatObservationWrapper,
    KalshiGymEnv,
    KalshiVectorEnv,
    LegacyStepAPIWrapper,
    as_stable_baselines3,
    flatten_observation,
)
from loaders import load_tape

LENGTH = 6
EPISODES = 3


@pytest.fixture(scope="module")
def env():
    return MarketAgnosticKalshiEnv(max_markets=2, temporal_features=False, sequence_features=False, remembered_levels=4)


@pytest.fixture(scope="module")
def params(env):
    tape, _ = load_tape("synthetic:sessions=1,markets=2,seconds=60,seed=0")
    return env.make_params(tape, episode_length=LENGTH, decision_interval_ms=500)


@pytest.fixture(scope="module")
def vector(env, params):
    return KalshiVectorEnv(env, params, EPISODES, seed=3)


def play(envs, steps, seed):
    """Reset with a seed and step by seeded actions; everything seen on the way."""
    envs.action_space.seed(seed)
    seen = [envs.reset(seed=seed)]
    seen.extend(envs.step(envs.action_space.sample()) for _ in range(steps))
    return seen


def test_flat_observations_hold_every_number_in_order(env, params):
    flat = FlatObservationWrapper(env)
    key, hold = jax.random.key(0), jnp.zeros((2, 1), jnp.int32)
    (obs, state), (rich, same) = flat.reset(key, params), env.reset(key, params)
    jax.tree.map(np.testing.assert_array_equal, state, same)
    expected = np.concatenate([np.ravel(x).astype(np.float32) for x in (rich.market, rich.portfolio, rich.action_mask)])
    np.testing.assert_array_equal(obs, expected)
    space = flat.observation_space(params)
    assert obs.shape == space.shape
    assert obs.dtype == space.dtype == jnp.float32
    assert bool(space.contains(obs))
    assert not bool(space.contains(obs.at[-1].set(2.0))), "the mask's bounds are 0 and 1"
    following, after, _, _, _, info = flat.step(key, state, hold, params)
    assert following.shape == info["final_observation"].shape == obs.shape
    np.testing.assert_array_equal(flat.observe(key, after, hold, params), following)
    begun, _ = flat.start(params, jnp.array([0, -1]), jnp.int32(0))
    np.testing.assert_array_equal(begun, flatten_observation(env.start(params, jnp.array([0, -1]), jnp.int32(0))[0]))
    assert flat == FlatObservationWrapper(env)
    assert hash(flat) == hash(FlatObservationWrapper(env))
    assert flat.num_actions == env.num_actions


def test_five_values_of_the_old_gymnax(env, params):
    old = LegacyStepAPIWrapper(env)
    _, state = old.reset(jax.random.key(0), params)
    done = []
    for i in range(LENGTH):
        _, state, _, ended, info = old.step(jax.random.key(i), state, jnp.zeros((2, 1), jnp.int32), params)
        done.append(bool(ended))
        assert bool(ended) == bool(info["terminated"] | info["truncated"])
    assert done == [False] * (LENGTH - 1) + [True]
    assert int(state.time) == 0


@pytest.mark.parametrize("flat", [False, True])
def test_passes_the_checker_of_gymnasium(env, params, flat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(render|spec).*")
        check_env(KalshiGymEnv(env, params, flat=flat), skip_render_check=True)


def test_single_episodes_end_and_repeat_by_seed(env, params):
    single = KalshiGymEnv(env, params)
    with pytest.raises(gymnasium.error.ResetNeeded):
        single.step(single.action_space.sample())

    def episode(seed):
        obs, _ = single.reset(seed=seed)
        single.action_space.seed(seed)
        truncated, seen = False, [obs]
        while not truncated:
            obs, reward, terminated, truncated, info = single.step(single.action_space.sample())
            assert not terminated
            assert type(info["cash"]) is float
            seen.append((obs, reward))
        return seen

    first = episode(1)
    assert len(first) == LENGTH + 1
    jax.tree.map(np.testing.assert_array_equal, first, episode(1))
    with pytest.raises(ValueError, match=r"options=\{'market': 3\}"):
        single.reset(options={"market": 3})


def test_vector_declares_its_spaces_and_keeps_to_them(vector):
    assert vector.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert vector.single_action_space == gymnasium.spaces.MultiDiscrete([9, 9])
    for obs, *rest in play(vector, 2 * LENGTH, seed=0):
        assert vector.observation_space.contains(obs)
        assert all(x.flags.writeable for x in obs.values())
        for x in rest[:-1]:
            assert x.shape == (EPISODES,)
    assert rest[1].dtype == rest[2].dtype == np.bool_


def test_vector_resets_in_the_same_step_and_hands_out_the_end(vector, env, params):
    seen = play(vector, LENGTH, seed=0)
    for _, _, terminated, truncated, info in seen[1:-1]:
        assert not (terminated | truncated).any()
        assert "final_obs" not in info
        assert info["_cash"].all()
        assert info["cash"].shape == (EPISODES,)
    obs, _, terminated, truncated, info = seen[-1]
    assert truncated.all()
    assert not terminated.any()
    assert info["_final_obs"].all()
    assert info["_final_info"].all()
    assert info["final_info"]["_cash"].all()
    assert not info["_cash"].any(), "a new episode has no info yet"
    time_left = env.portfolio_names.index("time_left")
    np.testing.assert_array_equal(obs["portfolio"][:, time_left], 1.0)
    for last in info["final_obs"]:
        assert vector.single_observation_space.contains(last)
        assert last["portfolio"][time_left] == 0.0


def test_vector_repeats_by_seed_and_differs_without(vector, env, params):
    jax.tree.map(np.testing.assert_array_equal, play(vector, LENGTH, seed=5)[:-1], play(vector, LENGTH, seed=5)[:-1])
    again = KalshiVectorEnv(env, params, EPISODES, seed=3)
    fresh = KalshiVectorEnv(env, params, EPISODES, seed=3)
    first, second = again.reset()[0], again.reset()[0]
    jax.tree.map(np.testing.assert_array_equal, first, fresh.reset()[0])
    assert not np.array_equal(first["market"], second["market"])


def test_vector_equals_the_environment(vector, env, params):
    """Same seed, same actions: the numbers of the adapter are those of `env.step`."""
    obs, _ = vector.reset(seed=9)
    state = vector._state
    actions = np.array([[1, 5], [3, 0], [7, 1]])
    _, step_key = jax.random.split(vector._key)
    keys = jax.random.split(step_key, EPISODES)
    obs, reward, _, _, info = vector.step(actions)
    expected = jax.vmap(env.step, (0, 0, 0, None))(keys, state, jnp.asarray(actions, jnp.int32)[..., None], params)
    np.testing.assert_array_equal(obs["market"], expected[0].market)
    np.testing.assert_array_equal(obs["portfolio"], expected[0].portfolio)
    np.testing.assert_array_equal(reward, expected[2])
    np.testing.assert_array_equal(info["cash"], expected[-1]["cash"])


def test_vector_works_under_wrappers_of_gymnasium(env, params):
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(KalshiVectorEnv(env, params, EPISODES, flat=True))
    assert play(envs, LENGTH, seed=0)[-1][-1]["episode"]["l"].tolist() == [LENGTH] * EPISODES


def test_vector_refuses_what_it_cannot_do(env, params):
    with pytest.raises(ValueError, match="num_envs=0"):
        KalshiVectorEnv(env, params, 0)
    envs = KalshiVectorEnv(env, params, EPISODES)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        envs.step(envs.action_space.sample())
    with pytest.raises(ValueError, match="options="):
        envs.reset(options={"reset_mask": [True]})
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(3, 1\): expected \(3, 2\)"):
        envs.step(np.zeros((3, 1), int))


def test_stable_baselines3_sees_its_contract(vector):
    pytest.importorskip("stable_baselines3", reason="needs stable_baselines3: pip install 'kalshi-jax[sb3]'")
    bridge = as_stable_baselines3(vector)
    bridge.seed(1)
    first = bridge.reset()
    for _ in range(LENGTH):
        _, reward, dones, infos = bridge.step(np.zeros((EPISODES, 2), int))
    assert dones.all()
    assert reward.shape == (EPISODES,)
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert all(vector.single_observation_space.contains(info["terminal_observation"]) for info in infos)
    assert [info["portfolio_value"] for info in infos] == [10_000.0] * EPISODES
    bridge.seed(1)
    jax.tree.map(np.testing.assert_array_equal, first, bridge.reset())
    assert bridge.env_is_wrapped(object) == [False] * EPISODES
    assert bridge.get_attr("num_envs", [0]) == [EPISODES]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "flat", "steps"), [("MlpPolicy", True, 20_000), ("MultiInputPolicy", False, 2_000)])
def test_stable_baselines3_ppo_trains(env, params, policy, flat, steps):
    sb3 = pytest.importorskip("stable_baselines3", reason="needs stable_baselines3: pip install 'kalshi-jax[sb3]'")
    monitor = pytest.importorskip("stable_baselines3.common.vec_env").VecMonitor
    envs = monitor(as_stable_baselines3(KalshiVectorEnv(env, params, 16, seed=0, flat=flat)))
    model = sb3.PPO(policy, envs, n_steps=125, batch_size=500, n_epochs=2, seed=0, device="cpu")
    before = [x.detach().clone() for x in model.policy.parameters()]
    model.learn(steps)
    assert model.num_timesteps == steps
    assert len(model.ep_info_buffer) == 100
    assert {episode["l"] for episode in model.ep_info_buffer} == {LENGTH}
    assert all(bool(x.isfinite().all()) for x in model.policy.parameters())
    assert any(bool((x != y).any()) for x, y in zip(before, model.policy.parameters(), strict=True))
    mean = np.mean([episode["r"] for episode in model.ep_info_buffer])
    print(f"Stable-Baselines3 PPO, {policy}: {model.num_timesteps} steps, mean episode reward {mean:.4f}")
