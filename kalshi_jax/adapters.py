"""The same environment for other interfaces: flat observations, five values a step, Gymnasium, Stable-Baselines3.

Everything here only rearranges what the environment gives. `LegacyStepAPIWrapper`, gymnax's own, turns the six values of a step
into the old five (observation, state, reward, done, info).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnax.environments import spaces as gymnax_spaces
from gymnax.wrappers import LegacyStepAPIWrapper
from gymnax.wrappers.purerl import GymnaxWrapper

from kalshi_jax.env import Info, MarketAgnosticKalshiEnv
from kalshi_jax.features import Observation
from kalshi_jax.state import EnvParams, EnvState

__all__ = [
    "FlatObservationWrapper",
    "KalshiGymEnv",
    "KalshiVectorEnv",
    "LegacyStepAPIWrapper",
    "as_stable_baselines3",
    "flatten_observation",
]

Arrays = Any  # NumPy: one array f32[..., D] (flat), or {"market", "portfolio", "action_mask"}


def flatten_observation(obs: Observation) -> jax.Array:
    """Lay market, portfolio and action mask (0 or 1) end to end, f32[D]."""
    return jnp.concatenate([obs.market.ravel(), obs.portfolio.ravel(), obs.action_mask.ravel().astype(jnp.float32)])


class FlatObservationWrapper(GymnaxWrapper):
    """The environment with observations f32[D]; all but `reset`, `start`, `step` and `observe` is the environment's own."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FlatObservationWrapper) and self._env == other._env

    def __hash__(self) -> int:
        return hash((FlatObservationWrapper, self._env))

    @partial(jax.jit, static_argnames=("self",))
    def reset(self, key: jax.Array, params: EnvParams | None = None) -> tuple[jax.Array, EnvState]:
        """Draw an episode; the key is consumed."""
        obs, state = self._env.reset(key, params)
        return flatten_observation(obs), state

    @partial(jax.jit, static_argnames=("self",))
    def start(self, params: EnvParams, markets: jax.Array, start_ms: jax.Array) -> tuple[jax.Array, EnvState]:
        """Begin at a chosen moment; arguments as in the environment."""
        obs, state = self._env.start(params, markets, start_ms)
        return flatten_observation(obs), state

    @partial(jax.jit, static_argnames=("self",))
    def step(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams | None = None
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, Info]:
        """Step with auto-reset; `info["final_observation"]` is flat too."""
        obs, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        info = {**info, "final_observation": flatten_observation(info["final_observation"])}
        return flatten_observation(obs), state, reward, terminated, truncated, info

    def observe(self, key: jax.Array, state: EnvState, action: jax.Array | None, params: EnvParams) -> jax.Array:
        """Observe a state; key and action are not used."""
        return flatten_observation(self._env.observe(key, state, action, params))

    def observation_space(self, params: EnvParams | None = None) -> gymnax_spaces.Box:
        """Give the space f32[D]."""
        parts = self._env.observation_space(params).spaces.values()
        low, high = (
            jnp.concatenate([jnp.full(np.prod(box.shape), getattr(box, end), jnp.float32) for box in parts])
            for end in ("low", "high")
        )
        return gymnax_spaces.Box(low, high, low.shape)


class KalshiVectorEnv(VectorEnv[Arrays, np.ndarray, np.ndarray]):
    """Gymnasium's vector environment over `num_envs` episodes stepped by one compiled program.

    Observation: a Dict of `market`, `portfolio` and `action_mask` (int8), or flat f32[D]. Action: MultiDiscrete, i32[E, M * O],
    market by market. An episode that ends is reset in the same step; its last observation and info are `info["final_obs"]` and
    `info["final_info"]`, as Gymnasium lays them out.
    """

    def __init__(
        self,
        env: MarketAgnosticKalshiEnv,
        params: EnvParams,
        num_envs: int,
        *,
        seed: int | None = None,
        flat: bool = False,
    ):
        """Wrap an environment.

        Args:
            env: the environment.
            params: its parameters.
            num_envs: episodes E side by side, at least 1.
            seed: makes everything up to the first seeded reset reproducible.
            flat: give flat observations.

        Raises:
            ValueError: num_envs below 1.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}: expected at least 1")
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self.num_envs = num_envs
        self.single_observation_space = _observation_space(env, flat)
        self.single_action_space = _action_space(env)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._np_random, self._np_random_seed = seeding.np_random(seed)
        self._env, self._params, self._flat = env, params, flat
        self._state: EnvState | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Begin new episodes in all places.

        Raises:
            ValueError: options; there are none.
        """
        _refuse(options)
        super().reset(seed=seed)
        self._key, obs, self._state = _reset_all(self._env, self.num_envs, self._flat, _draw_key(self), self._params)
        return _to_numpy(obs), {}

    def step(self, actions: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all episodes by actions i32[E, M * O].

        Raises:
            ValueError: actions of another shape.
            gymnasium.error.ResetNeeded: no reset before the first step.
        """
        _require_reset(self._state)
        slots = self._env.max_markets * self._env.orders_per_market
        if np.shape(actions) != (self.num_envs, slots):
            raise ValueError(f"actions have the shape {np.shape(actions)}: expected {(self.num_envs, slots)}")
        outcome, self._key, self._state, final = _step_all(
            self._env, self._flat, self._key, self._state, jnp.asarray(actions, jnp.int32), self._params
        )
        obs, reward, terminated, truncated, info = _to_numpy(outcome)
        return obs, reward, terminated, truncated, _vector_info(info, final, terminated | truncated)


class KalshiGymEnv(gymnasium.Env[Arrays, np.ndarray]):
    """One episode at a time as a plain Gymnasium environment: for its checker and for tools without vector environments."""

    def __init__(self, env: MarketAgnosticKalshiEnv, params: EnvParams, *, flat: bool = False):
        """Wrap an environment; `flat` gives flat observations f32[D] instead of a Dict."""
        self.metadata = {"render_modes": []}
        self.observation_space = _observation_space(env, flat)
        self.action_space = _action_space(env)
        self._env, self._params, self._flat = env, params, flat
        self._state: EnvState | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Begin a new episode.

        Raises:
            ValueError: options; there are none.
        """
        _refuse(options)
        super().reset(seed=seed)
        _, obs, state = _reset_all(self._env, 1, self._flat, _draw_key(self), self._params)
        self._state = jax.tree.map(lambda x: x[0], state)
        return _pick(_to_numpy(obs), 0), {}

    def step(self, action: np.ndarray) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Step by an action i32[M * O], without auto-reset.

        Raises:
            gymnasium.error.ResetNeeded: no reset before the first step.
        """
        _require_reset(self._state)
        outcome, self._state = _step_one(self._env, self._flat, self._state, jnp.asarray(action), self._params)
        obs, reward, terminated, truncated, info = _to_numpy(outcome)
        scalars = {name: value.item() for name, value in info.items()}
        return obs, reward.item(), terminated.item(), truncated.item(), scalars


def as_stable_baselines3(envs: KalshiVectorEnv) -> Any:
    """Present a vector environment as Stable-Baselines3's `VecEnv`: `PPO("MlpPolicy", as_stable_baselines3(envs))`.

    Use "MlpPolicy" for flat observations and "MultiInputPolicy" for the Dict.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
    """
    from stable_baselines3.common.vec_env import VecEnv  # here: an optional package, and a slow import

    class KalshiVecEnv(VecEnv):
        """Stable-Baselines3's contract: `dones`, a list of infos, and the last observation of an episode in its info."""

        def __init__(self) -> None:
            super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

        def reset(self) -> Arrays:
            obs, _ = envs.reset(seed=self._seeds[0])
            self._reset_seeds()
            return obs

        def step_async(self, actions: np.ndarray) -> None:
            self._actions = actions

        def step_wait(self) -> tuple[Arrays, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            obs, reward, terminated, truncated, info = envs.step(self._actions)
            dones = terminated | truncated
            infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
            for i in np.flatnonzero(dones):
                last = {name: x[i] for name, x in info["final_info"].items() if not name.startswith("_")}
                cut = bool(truncated[i] and not terminated[i])
                infos[i] = {**last, "terminal_observation": info["final_obs"][i], "TimeLimit.truncated": cut}
            return obs, reward, dones, infos

        def close(self) -> None:
            envs.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(envs, attr_name)] * len(list(self._get_indices(indices)))

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError(f"set_attr({attr_name!r}): all episodes share one program; make new environments")

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError(f"env_method({method_name!r}): episodes are array elements and have no methods")

        def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
            return [False] * len(list(self._get_indices(indices)))

    return KalshiVecEnv()


# -- on the device


def _present(obs: Observation, flat: bool) -> Any:
    if flat:
        return flatten_observation(obs)
    # int8 as in Gymnasium's MultiBinary
    return {"market": obs.market, "portfolio": obs.portfolio, "action_mask": obs.action_mask.astype(jnp.int8)}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _reset_all(env: MarketAgnosticKalshiEnv, num_envs: int, flat: bool, key: jax.Array, params: EnvParams) -> Any:
    key, reset_key = jax.random.split(key)
    obs, state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, num_envs), params)
    return key, jax.vmap(partial(_present, flat=flat))(obs), state


@partial(jax.jit, static_argnums=(0, 1))
def _step_all(
    env: MarketAgnosticKalshiEnv, flat: bool, key: jax.Array, state: Any, actions: jax.Array, params: EnvParams
) -> Any:
    """Step E episodes: what goes to the host at every step, the key, the state, and the final observations."""
    key, step_key = jax.random.split(key)
    num_envs = actions.shape[0]
    actions = actions.reshape(num_envs, env.max_markets, env.orders_per_market)
    keys = jax.random.split(step_key, num_envs)
    obs, state, *outcome, info = jax.vmap(env.step, (0, 0, 0, None))(keys, state, actions, params)
    present = jax.vmap(partial(_present, flat=flat))
    final = present(info.pop("final_observation"))
    return (present(obs), *outcome, info), key, state, final


@partial(jax.jit, static_argnums=(0, 1))
def _step_one(env: MarketAgnosticKalshiEnv, flat: bool, state: Any, action: jax.Array, params: EnvParams) -> Any:
    action = action.reshape(env.max_markets, env.orders_per_market)
    # the key: a step is deterministic
    obs, state, reward, terminated, info = env.step_env(jax.random.key(0), state, action, params)
    return (_present(obs, flat), reward, terminated, env.is_truncated(state, params), info), state


# -- on the host


def _observation_space(env: MarketAgnosticKalshiEnv, flat: bool) -> spaces.Space[Any]:
    if flat:
        box = FlatObservationWrapper(env).observation_space()
        return spaces.Box(np.asarray(box.low), np.asarray(box.high), dtype=np.float32)
    parts = env.observation_space().spaces
    boxes: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(parts[name].low, parts[name].high, parts[name].shape, np.float32)
        for name in ("market", "portfolio")
    }
    return spaces.Dict({**boxes, "action_mask": spaces.MultiBinary(parts["action_mask"].shape)})


def _action_space(env: MarketAgnosticKalshiEnv) -> spaces.MultiDiscrete:
    return spaces.MultiDiscrete(np.full(env.max_markets * env.orders_per_market, env.num_actions))


def _draw_key(env: KalshiVectorEnv | KalshiGymEnv) -> jax.Array:
    """Draw a key from Gymnasium's own generator, so that a seeded reset decides everything that follows."""
    return jax.random.key(int(env.np_random.integers(2**31)))


def _to_numpy(tree: Any) -> Any:
    return jax.tree.map(np.array, jax.device_get(tree))  # copies: the device's own arrays are read-only


def _pick(obs: Arrays, i: int) -> Arrays:
    return jax.tree.map(lambda x: x[i], obs)


def _vector_info(info: dict[str, np.ndarray], final: Any, done: np.ndarray) -> dict[str, Any]:
    """Lay info out as Gymnasium does: `name` beside the mask `_name`; what belongs to ended episodes under "final_...".

    The final observations stay on the device in the many steps in which no episode ends.
    """

    def masked(values: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
        return {**values, **{f"_{name}": mask.copy() for name in values}}

    running = masked(info, ~done)
    if not done.any():
        return running
    final = _to_numpy(final)
    final_obs = np.full(done.shape, None, object)
    for i in np.flatnonzero(done):
        final_obs[i] = _pick(final, int(i))
    ended = {"final_obs": final_obs, "final_info": masked(info, done)}
    return {**running, **masked(ended, done)}


def _refuse(options: dict[str, Any] | None) -> None:
    if options:
        raise ValueError(f"options={options}: reset takes none; make parameters with env.make_params")


def _require_reset(state: EnvState | None) -> None:
    if state is None:
        raise gymnasium.error.ResetNeeded("step before the first reset: call reset()")
