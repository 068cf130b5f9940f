"""`check_env`: whether an environment with this interface keeps every promise that a training loop relies on.

The environment is played twice with the same keys and actions, many episodes side by side, half of them by legal actions and half
by any; what was seen is then judged on the host, so that a message can name the step, the episode and the element.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kalshi_jax.actions import Action
from kalshi_jax.features import split_portfolio
from kalshi_jax.reward import LIMIT
from kalshi_jax.tape import DOLLAR

EPISODES = 8
EPISODE_LENGTH = 16  # the longest that is played: no length may be needed to see an end
TOLERANCE = 1e-6  # for floats that two programs compute


class EnvCheckError(AssertionError):
    """An environment breaks its contract; the message says what was expected, what was seen, and where."""


def check_env(env: Any, params: Any, key: jax.Array | None = None) -> None:
    """Check an environment; return where it keeps its contract.

    Args:
        env: an environment with the interface of `MarketAgnosticKalshiEnv`.
        params: its parameters. Episodes longer than EPISODE_LENGTH steps are cut to that, which is a change of a leaf.
        key: decides episodes and actions; consumed. Default: key 0.

    Raises:
        EnvCheckError: the first promise that is broken.
    """
    key = jax.random.key(0) if key is None else key
    length = min(int(params.episode_length), EPISODE_LENGTH)
    params = replace(params, episode_length=jnp.asarray(length, jnp.int32))
    _check_structure(env, params, key)
    player = _Player(env, params, key)
    first, steps = player.play(length + 2)
    observed = jax.tree.map(lambda x, y: np.concatenate([x[None], y]), first[0], steps.obs)
    _check_observations(env.observation_space(params), observed, "observation")
    _check_observations(env.observation_space(params), steps.final, "info['final_observation']", first_step=1)
    states = jax.tree.map(lambda x, y: np.concatenate([x[None], y]), first[1], steps.state)
    _check_unused_slots(observed, states.markets)
    _check_rewards(steps)
    _check_ends(states, steps, length)
    _check_money(states, steps)
    if player.traces != 1:
        _fail("step", f"traced {player.traces} times", "one trace: a state keeps its dtypes, nothing depends on values")
    again = player.play(length + 2)
    _same(again[0], first, 0.0, "reset with the same keys again")
    _same(again[1], steps, 0.0, "the same keys, states and actions played again")
    player.compare_alone(first, steps)


SEEN = ("action", "obs", "state", "reward", "terminated", "truncated", "info", "observed")


class Steps:
    """What was seen of T steps of E episodes, every leaf [T, E, ...]."""

    def __init__(self, seen: tuple[Any, ...]):
        self.action, self.obs, self.state, self.reward, self.terminated, self.truncated, info, self.observed = seen
        self.final = info["final_observation"]
        self.info = {name: value for name, value in info.items() if name != "final_observation"}
        self.leaves = seen

    @property
    def done(self) -> np.ndarray:
        """Where an episode ended, bool[T, E]."""
        return self.terminated | self.truncated


jax.tree_util.register_pytree_with_keys(
    Steps,
    lambda steps: ([(jax.tree_util.GetAttrKey(n), x) for n, x in zip(SEEN, steps.leaves, strict=True)], None),
    lambda _, leaves: Steps(tuple(leaves)),
)


class _Player:
    """Plays episodes with recorded keys, and counts how often a step is traced."""

    def __init__(self, env: Any, params: Any, key: jax.Array):
        self.env, self.params = env, params
        self.reset_key, self.action_key, self.step_key = jax.random.split(key, 3)
        self.traces = 0
        self.reset = jax.jit(jax.vmap(env.reset, (0, None)))
        self.step = jax.jit(jax.vmap(self._act_and_step, (0, 0, 0, 0, 0, None)))

    def _act_and_step(
        self, episode: jax.Array, action_key: jax.Array, key: jax.Array, obs: Any, state: Any, params: Any
    ) -> tuple[Any, ...]:
        self.traces += 1
        legal = jax.random.categorical(action_key, jnp.where(obs.action_mask, 0.0, jnp.finfo(jnp.float32).min))
        anything = self.env.action_space(params).sample(action_key)
        action = jnp.where(episode % 2 == 0, legal.astype(anything.dtype), anything)
        obs, state, *outcome = self.env.step(key, state, action, params)
        return action, obs, state, *outcome, self.env.observe(key, state, action, params)

    def play(self, steps: int) -> tuple[Any, Steps]:
        """Play from the same beginning: the first (observation, state) [E, ...], and the steps [T, E, ...]; NumPy."""
        first = obs, state = self.reset(jax.random.split(self.reset_key, EPISODES), self.params)
        seen = []
        for t in range(steps):
            keys = (jax.random.split(jax.random.fold_in(k, t), EPISODES) for k in (self.action_key, self.step_key))
            seen.append(self.step(jnp.arange(EPISODES), *keys, obs, state, self.params))
            obs, state = seen[-1][1:3]
        return jax.device_get(first), Steps(jax.tree.map(lambda *x: np.stack(x), *jax.device_get(seen)))

    def compare_alone(self, first: Any, steps: Steps) -> None:
        """Step the first episode alone where it begins and where it first ends, and compare with what the batch gave."""
        alone = jax.jit(self.env.step)
        end = int(steps.done[:, 0].argmax())
        for t in sorted({0, end // 2, end}):
            before = first[1] if t == 0 else jax.tree.map(lambda x, t=t: x[t - 1], steps.state)
            key = jax.random.split(jax.random.fold_in(self.step_key, t), EPISODES)[0]
            state, action = jax.tree.map(lambda x: jnp.asarray(x[0]), (before, steps.action[t]))
            one = jax.device_get(alone(key, state, action, self.params))
            batch = jax.tree.map(lambda x, t=t: x[t, 0], steps.leaves[1:-1])
            _same(one, batch, TOLERANCE, f"step {t} of episode 0 alone under jit against in a batch under vmap")


# -- judgements before anything runs


def _check_structure(env: Any, params: Any, key: jax.Array) -> None:
    if type(env).__hash__ is None or env != env:
        _fail("environment", "not hashable, or not equal to itself", "a static argument of jax.jit")
    action = env.action_space(params).sample(key)
    if not bool(env.action_space(params).contains(action)):
        _fail("action_space", f"sample {np.asarray(action)} is not contained", "samples inside the space")
    if not bool(env.observation_space(params).contains(env.observation_space(params).sample(key))):
        _fail("observation_space", "a sample is not contained", "samples inside the space")
    obs, state = jax.eval_shape(env.reset, key, params)
    after = jax.eval_shape(env.step_env, key, state, action, params)
    if len(after) != 5:
        _fail("step_env", f"{len(after)} values", "observation, state, reward, terminated, info")
    _same_types(after[0], obs, "observation of step_env", "observation of reset")
    _same_types(after[1], state, "state of step_env", "state of reset")
    stepped = jax.eval_shape(env.step, key, state, action, params)
    if len(stepped) != 6:
        _fail("step", f"{len(stepped)} values", "observation, state, reward, terminated, truncated, info")
    _same_types(stepped[0], obs, "observation of step", "observation of reset")
    _same_types(stepped[1], state, "state of step", "state of reset")
    wanted = {"final_observation", "terminated", "truncated", "portfolio_value", "cash"}
    if missing := wanted - set(stepped[5]):
        _fail("info", f"without {sorted(missing)}", f"at least {sorted(wanted)}")
    _same_types(stepped[5]["final_observation"], obs, "info['final_observation']", "observation of reset")
    scalars = dict(zip(("reward", "terminated", "truncated"), stepped[2:5], strict=True))
    for name, x in scalars.items():
        dtype = jnp.float32 if name == "reward" else jnp.bool_
        if x.shape != () or x.dtype != dtype:
            _fail(name, f"{x.dtype}{list(x.shape)}", f"{np.dtype(dtype)}[]")


def _same_types(seen: Any, expected: Any, what: str, like: str) -> None:
    """Compare tree structures, shapes and dtypes (a weak type would trace the step a second time)."""
    structure, wanted = str(jax.tree.structure(seen)), str(jax.tree.structure(expected))
    if structure != wanted:
        _fail(what, structure, f"the structure of the {like}, {wanted}")
    for (path, x), y in zip(jax.tree.leaves_with_path(seen), jax.tree.leaves(expected), strict=True):
        one, other = ((leaf.dtype, leaf.shape, leaf.weak_type) for leaf in (x, y))
        if one != other:
            text = [f"{d}{list(s)}{' (weak type)' if weak else ''}" for d, s, weak in (one, other)]
            _fail(what + jax.tree_util.keystr(path), text[0], f"{text[1]} as in the {like}")


# -- judgements of what was seen


def _check_observations(space: Any, obs: Any, what: str, first_step: int = 0) -> None:
    """Check obs [T, E, ...] against its space; `first_step` is the number of the first one, 0 for that of a reset."""
    if not is_dataclass(obs) or {f.name for f in fields(obs)} != set(space.spaces):
        _fail(what, type(obs).__name__, f"a dataclass with the parts {sorted(space.spaces)}")
    for name, box in space.spaces.items():
        x, part = getattr(obs, name), f"{what}.{name}"
        if x.shape[2:] != tuple(box.shape) or x.dtype != np.dtype(box.dtype):
            _fail(part, f"{x.dtype}{list(x.shape[2:])}", f"{np.dtype(box.dtype)}{list(box.shape)} as in the space")
        if x.dtype != np.bool_:
            _all(np.isfinite(x), x, part, "a finite number", first_step)
            _all((x >= box.low) & (x <= box.high), x, part, f"{box.low} to {box.high} as in the space", first_step)
    mask = obs.action_mask
    if mask.dtype != np.bool_:
        _fail(f"{what}.action_mask", str(mask.dtype), "bool")
    hold = mask[..., Action.HOLD]
    _all(hold, hold, f"{what}.action_mask of HOLD", "True: HOLD is always legal", first_step)


def _check_unused_slots(obs: Any, markets: np.ndarray) -> None:
    """Check that slots without a market (markets i32[T, E, M] below 0) are zero and can only HOLD."""
    unused = markets < 0
    per_market, _ = split_portfolio(obs.portfolio, markets.shape[-1])
    mask = obs.action_mask.copy()
    mask[..., Action.HOLD] = False
    for name, x in (("market", obs.market), ("portfolio by slot", per_market), ("action_mask", mask)):
        silent = ~unused.reshape(*unused.shape, *[1] * (x.ndim - unused.ndim)) | (x == 0)
        _all(
            silent, x, f"observation.{name}", "0 in an unused slot" if x is not mask else "only HOLD in an unused slot"
        )


def _check_rewards(steps: Steps) -> None:
    _all(np.isfinite(steps.reward), steps.reward, "reward", "a finite number", 1)
    _all(np.abs(steps.reward) <= LIMIT, steps.reward, "reward", f"{-LIMIT} to {LIMIT}", 1)
    for name, x in steps.info.items():
        _all(np.isfinite(x), x, f"info[{name!r}]", "a finite number", 1)


def _check_ends(states: Any, steps: Steps, length: int) -> None:
    """Check time, truncation and auto-reset; states [T + 1, E, ...] begin with the one of the reset."""
    done, time = steps.done, states.time
    _all(time[0] == 0, time[0], "state.time after reset", "0", 0, axes=("episode",))
    following = np.where(done, 0, time[:-1] + 1)
    expected = "one more than before, and 0 where an episode ended: it begins anew in the same step"
    _all(time[1:] == following, time[1:], "state.time", expected, 1)
    running = ~done
    passed = states.now_ms[1:] >= states.now_ms[:-1]
    _all(~running | passed, states.now_ms[1:], "state.now_ms", "no earlier than a step before", 1)
    late = (time[:-1] + 1 >= length) & ~done
    _all(~late, steps.truncated, "truncated", f"True at step {length} of an episode, its length, at the latest", 1)
    for name in ("terminated", "truncated"):
        flag = getattr(steps, name)
        _all(steps.info[name] == flag, steps.info[name], f"info[{name!r}]", f"what step returned as {name}", 1)
    _same(steps.observed, steps.obs, TOLERANCE, "observe(state) against the observation of step")
    still = jax.tree.map(lambda x: x[running], (steps.final, steps.obs))
    _same(still[0], still[1], TOLERANCE, "final_observation against the observation, where no episode ended")


def _check_money(states: Any, steps: Steps) -> None:
    cash = states.ledger.cash
    _all(cash >= 0, cash, "state.ledger.cash", "0 or more: cash never goes negative")
    _all(steps.info["cash"] >= 0, steps.info["cash"], "info['cash']", "0 or more: cash never goes negative", 1)
    for name, x in (("portfolio_value", states.value), ("cash", cash)):
        dollars = (x[1:] / DOLLAR).astype(np.float32)
        told = np.isclose(steps.info[name], dollars, rtol=TOLERANCE, atol=0)
        _all(steps.done | told, steps.info[name], f"info[{name!r}]", f"the state's {name} in dollars", 1)
    fresh = steps.done & (states.ledger.position[1:] != 0).any(-1)
    _all(~fresh, states.ledger.position[1:], "state.ledger.position", "0 at the beginning of an episode", 1)


# -- messages


def _all(
    holds: np.ndarray,
    x: Any,
    what: str,
    expected: str,
    first_step: int = 0,
    axes: tuple[str, ...] = ("step", "episode"),
) -> None:
    """Fail at the first element where `holds` [T, E, ...] is False, and show that of `x`."""
    if holds.all():
        return
    index = tuple(int(i) for i in np.argwhere(~holds)[0])
    numbers = list(index[: len(axes)])
    if axes[0] == "step":
        numbers[0] += first_step
    where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, numbers, strict=True))
    element = f", element {list(index[len(axes) :])}" if index[len(axes) :] else ""
    broken = f"{int((~holds).sum())} of {holds.size} break this"
    _fail(what, f"{np.asarray(x)[index]}", f"{expected} ({broken})", f"{where}{element}")


def _same(seen: Any, expected: Any, tolerance: float, what: str) -> None:
    """Compare two trees: bit for bit, or floats within a tolerance."""
    for (path, x), y in zip(jax.tree.leaves_with_path(seen), jax.tree.leaves(expected), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        close = tolerance > 0 and np.issubdtype(x.dtype, np.floating)
        equal = np.isclose(x, y, tolerance, tolerance, equal_nan=True) if close else (x == y) | ((x != x) & (y != y))
        if not equal.all():
            index = tuple(int(i) for i in np.argwhere(~equal)[0])
            _fail(what, f"{x[index]} at {jax.tree_util.keystr(path)}{list(index)}", f"{y[index]}, equal values")


def _fail(what: str, seen: str, expected: str, where: str = "") -> None:
    raise EnvCheckError(f"{what}: expected {expected}; seen {seen}{f' at {where}' if where else ''}")
