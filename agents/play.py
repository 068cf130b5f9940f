"""Playing many episodes side by side with one policy, in one compiled program, and keeping what an evaluation needs of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from agents.baselines import BASELINES, contracts_held
from agents.conditions import CONDITIONS, classify
from agents.networks import ActorCritic, Memory, empty_memory, forward
from agents.windows import Windows
from kalshi_jax.attribution import PARTS

POLICIES = ("agent", "greedy agent", *BASELINES)
CHUNK = 1024  # episodes played at once, at most


@struct.dataclass
class Record:
    """What happened in N episodes, [T, N]. After its end an episode keeps its value and trades no more."""

    value: jax.Array  # f32[T, N], portfolio value in $
    lived: jax.Array  # bool[T, N]
    trades: jax.Array  # i32[T, N]
    taker: jax.Array  # i32[T, N], contracts
    maker: jax.Array  # i32[T, N], contracts
    fees: jax.Array  # f32[T, N], $


@struct.dataclass
class Sums:
    """Sums over the steps of N episodes, each up to its end."""

    parts: dict[str, jax.Array]  # i32[N] by PARTS, 0.01 cent
    decisions: dict[str, jax.Array]  # i32[N, classes] by CONDITIONS, one a step for every market slot in use
    pnl: dict[str, jax.Array]  # i32[N, classes] by CONDITIONS, 0.01 cent made from each decision to the next


@struct.dataclass
class Trace:
    """One episode step by step, T steps."""

    bid: jax.Array  # f32[T, M], of YES when the policy decided, cents
    ask: jax.Array  # f32[T, M]
    position: jax.Array  # i32[T, M], contracts then, +YES, -NO
    taker: jax.Array  # i32[T, M], contracts that NOW orders brought in the step, +YES, -NO
    maker: jax.Array  # i32[T, M], contracts that resting orders brought in the step, +YES, -NO


def play_all(
    env: Any, network: ActorCritic, weights: Any, env_params: Any, windows: Windows, policy: int, seeds: int
) -> tuple[Record, Sums, np.ndarray]:
    """Play all n windows with every seed, N = seeds * n, in equal chunks so that one program serves every chunk.

    Returns:
        what happened, its sums, and i64[A]: how often each action was chosen, over all used slots.
    """
    total, size = len(windows.start_ms), chunk_size(windows)
    records, sums, actions = [], [], np.zeros(env.num_actions, np.int64)
    for seed in range(seeds):
        for begin in range(0, total, size):
            left = slice(min(size, total - begin))
            played = _play_chunk(env, network, weights, env_params, windows, policy, seed, begin)
            record, summed, chosen, _ = jax.tree.map(np.asarray, played)
            records.append(jax.tree.map(lambda x, left=left: x[:, left], record))
            sums.append(jax.tree.map(lambda x, left=left: x[left], summed))
            actions += chosen
    return (
        jax.tree.map(lambda *x: np.concatenate(x, axis=1), *records),
        jax.tree.map(lambda *x: np.concatenate(x), *sums),
        actions,
    )


def replay(
    env: Any,
    network: ActorCritic,
    weights: Any,
    env_params: Any,
    windows: Windows,
    policy: str,
    seed: int,
    window: int,
) -> Trace:
    """Play an episode of `evaluate` again, with equal outcome, and keep its steps up to its end."""
    begin = window - window % chunk_size(windows)
    played = _play_chunk(
        env, network, weights, env_params, windows, POLICIES.index(policy), seed, begin, window - begin
    )
    record, _, _, trace = jax.tree.map(np.asarray, played)
    steps = int(record.lived[:, window - begin].sum())
    bought = trace.taker + trace.maker
    # what is held, unless it has settled: an observation shows some hundreds of contracts at most
    position = np.where(trace.position == 0, 0, np.cumsum(bought, axis=0) - bought)
    return jax.tree.map(lambda x: x[:steps], replace(trace, position=position))


def chunk_size(windows: Windows) -> int:
    """Say how many episodes are played at once: as few chunks as can be, all of one size."""
    total = len(windows.start_ms)
    return -(-total // -(-total // CHUNK))


def _play_chunk(
    env: Any,
    network: ActorCritic,
    weights: Any,
    env_params: Any,
    windows: Windows,
    policy: int,
    seed: int,
    begin: int,
    shown: int = 0,
) -> tuple[Record, Sums, jax.Array, Trace]:
    episodes = np.arange(begin, begin + chunk_size(windows))
    valid = episodes < len(windows.start_ms)
    episodes = np.minimum(episodes, len(windows.start_ms) - 1)
    return play(
        env,
        network,
        int(env_params.episode_length),
        weights,
        env_params,
        windows.markets[episodes],
        windows.start_ms[episodes],
        valid,
        policy,
        jax.random.fold_in(jax.random.key(seed), begin),
        shown,
    )


@partial(jax.jit, static_argnames=("env", "network", "length"))
def play(
    env: Any,
    network: ActorCritic,
    length: int,
    weights: Any,
    env_params: Any,
    markets: jax.Array,
    start_ms: jax.Array,
    valid: jax.Array,
    policy: jax.Array,
    key: jax.Array,
    shown: jax.Array,
) -> tuple[Record, Sums, jax.Array, Trace]:
    """Play N episodes side by side, each to its own end.

    Args:
        env: the environment.
        network: of the agent.
        length: steps T.
        weights: of the network.
        env_params: the parameters.
        markets: i32[N, M].
        start_ms: i32[N].
        valid: bool[N], False for episodes that only fill the chunk.
        policy: i32[], position in POLICIES.
        key: consumed.
        shown: i32[], the episode whose steps are kept.

    Returns:
        what happened; its sums; i32[A]: how often each action was chosen in valid episodes, over all used slots; the
        steps of the episode shown.
    """
    names = env.feature_names

    def agent(key: jax.Array, observation: Any, memory: Memory) -> tuple[jax.Array, Memory]:
        logits, _, memory = forward(network, weights, observation, memory)
        return jax.random.categorical(key, logits), memory

    def greedy(key: jax.Array, observation: Any, memory: Memory) -> tuple[jax.Array, Memory]:
        logits, _, memory = forward(network, weights, observation, memory)
        return jnp.argmax(logits, axis=-1), memory

    def baseline(rule: Any) -> Any:
        return lambda key, observation, memory: (rule(key, observation, names), memory)

    choices = [agent, greedy, *map(baseline, BASELINES.values())]

    def step(carry: tuple[Any, ...], key: jax.Array) -> tuple[tuple[Any, ...], tuple[Record, Trace]]:
        state, memory, value, alive, chosen, sums = carry
        observation = jax.vmap(env.observation, (0, None))(state, env_params)
        action, memory = jax.lax.switch(policy, [_as_int32(choice) for choice in choices], key, observation, memory)
        explain = jax.vmap(env.explain, (0, 0, None))
        after, _, terminated, truncated, info, attribution = explain(state, action, env_params)
        value = jnp.where(alive, info["portfolio_value"], value)
        used = jnp.any(observation.market != 0, axis=-1) & alive[:, None]
        valid_action = (
            jax.nn.one_hot(action, env.num_actions, dtype=jnp.int32) * (used & valid[:, None])[..., None, None]
        )
        chosen += jnp.sum(valid_action, (0, 1, 2))

        def living(x: jax.Array) -> jax.Array:
            return jnp.where(alive, x, 0)

        record = Record(
            value=value,
            lived=alive,
            trades=living(info["trades"]),
            taker=living(info["taker_contracts"]),
            maker=living(info["maker_contracts"]),
            fees=living(info["fees"]),
        )
        sums = _add(sums, classify(observation, names), attribution.parts, used)
        trace = _look(names, *jax.tree.map(lambda x: x[shown], (observation, attribution)))
        return (after, memory, value, alive & ~(terminated | truncated), chosen, sums), (record, trace)

    observation, states = jax.vmap(env.start, (None, 0, 0))(env_params, markets, start_ms)
    count = markets.shape[0]
    by_class = {name: jnp.zeros((count, len(CONDITIONS[name])), jnp.int32) for name in classify(observation, names)}
    start = (
        states,
        empty_memory(network, *markets.shape),
        jnp.zeros(count),
        jnp.ones(count, bool),
        jnp.zeros(env.num_actions, jnp.int32),
        Sums({name: jnp.zeros(count, jnp.int32) for name in PARTS}, by_class, by_class),
    )
    (*_, chosen, sums), (record, trace) = jax.lax.scan(step, start, jax.random.split(key, length))
    return record, sums, chosen, trace


def _add(sums: Sums, classes: dict[str, jax.Array], parts: dict[str, jax.Array], used: jax.Array) -> Sums:
    """Add a step: classes and parts i32[N, M] by name, where used (bool[N, M]: the slot is, and the episode goes on)."""
    parts = {name: jnp.where(used, x, 0) for name, x in parts.items()}
    pnl = sum(parts.values(), jnp.zeros(used.shape, jnp.int32))
    hot = {
        name: jax.nn.one_hot(x, len(CONDITIONS[name]), dtype=jnp.int32) * used[..., None] for name, x in classes.items()
    }
    return Sums(
        parts={name: sums.parts[name] + x.sum(axis=1) for name, x in parts.items()},
        decisions={name: sums.decisions[name] + x.sum(axis=1) for name, x in hot.items()},
        pnl={name: sums.pnl[name] + (x * pnl[..., None]).sum(axis=1) for name, x in hot.items()},
    )


def _look(names: tuple[str, ...], observation: Any, attribution: Any) -> Trace:
    """Note down one step of one episode."""
    mid, spread = (100 * observation.market[:, names.index(name)] for name in ("yes_mid", "spread"))
    return Trace(
        mid - spread / 2,
        mid + spread / 2,
        contracts_held(observation).astype(jnp.int32),
        attribution.taker,
        attribution.maker,
    )


def _as_int32(choice: Any) -> Any:
    def chosen(key: jax.Array, observation: Any, memory: Memory) -> tuple[jax.Array, Memory]:
        action, memory = choice(key, observation, memory)
        return action.astype(jnp.int32), memory

    return chosen
