"""Evaluation: every market and window of a source, played by the agent and by policies that learn nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from agents.baselines import always_take, hold, random_legal
from agents.networks import ActorCritic, Memory, empty_memory, forward
from kalshi_jax.metrics import episode_metrics
from kalshi_jax.tape import DOLLAR, Tape

POLICIES = ("agent", "greedy agent", "random", "hold", "always take")
REPEATABLE = ("greedy agent", "hold")  # the same with every seed
CHUNK = 1024  # episodes played at once, at most
SHORTEST = 0.1  # a window that lacks more than nine tenths of its length at the end of a recording is left out

METRICS = {  # name -> what it says, for tables
    "total_return": "return $",
    "return_percent": "return %",
    "sharpe_per_step": "Sharpe per step",
    "sharpe_assumed": "Sharpe at assumed volatility",
    "max_drawdown": "max drawdown $",
    "trades_per_step": "trades per step",
    "contracts": "contracts",
    "turnover": "turnover",
    "fees": "fees $",
    "maker_share": "maker share",
    "steps": "steps",
}


@dataclass
class Windows:
    """Beginnings of episodes, n of them."""

    markets: np.ndarray  # i32[n, M], tape markets, -1 for an unused slot
    start_ms: np.ndarray  # i32[n], ms since the session's start


@struct.dataclass
class Record:
    """What happened in N episodes, [T, N]. After its end an episode keeps its value and trades no more."""

    value: jax.Array  # f32[T, N], portfolio value in $
    lived: jax.Array  # bool[T, N]
    trades: jax.Array  # i32[T, N]
    taker: jax.Array  # i32[T, N], contracts
    maker: jax.Array  # i32[T, N], contracts
    fees: jax.Array  # f32[T, N], $


@dataclass
class Outcome:
    """One policy on n windows with several seeds."""

    policy: str
    metrics: dict[str, np.ndarray]  # name -> f32[seeds, n]
    value: np.ndarray  # f32[T + 1, seeds * n], $
    actions: np.ndarray  # i64[A], how often each was chosen
    taker: float  # contracts per episode
    maker: float  # contracts per episode

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean over windows with a bootstrap 95% interval, per metric."""
        return {name: interval(x) for name, x in self.metrics.items()}


def all_windows(tape: Tape, slots: int, episode_length: int, decision_interval_ms: int, limit: int = 0) -> Windows:
    """List beginnings so that every market of the tape is played once from its first change to its last.

    The markets of a session are taken in groups of `slots`; a group is played in windows of `episode_length` steps, one
    after another. A remainder shorter than a tenth of a window is left out.

    Args:
        tape: the tape.
        slots: market slots M.
        episode_length: steps of a window.
        decision_interval_ms: 0 for the event clock.
        limit: keep at most this many windows, evenly chosen; 0 keeps all.
    """
    first, length = np.asarray(tape.track_start), np.asarray(tape.track_length)
    time_ms = np.asarray(tape.time_ms)
    begins, counts = np.asarray(tape.session_first_market), np.asarray(tape.session_markets)
    markets: list[np.ndarray] = []
    starts: list[int] = []
    for begin, count in zip(begins.tolist(), counts.tolist(), strict=True):
        for group in np.split(np.arange(begin, begin + count), np.arange(slots, count, slots)):
            times = np.unique(np.concatenate([time_ms[first[m] : first[m] + length[m]] for m in group]))
            for start in _window_starts(times, episode_length, decision_interval_ms):
                markets.append(np.pad(group, (0, slots - len(group)), constant_values=-1))
                starts.append(start)
    if not starts:
        raise ValueError("the tape has no market with two changes: nothing to evaluate on")
    chosen = np.arange(len(starts))
    if limit and len(starts) > limit:
        chosen = np.linspace(0, len(starts) - 1, limit).astype(int)
    return Windows(np.stack(markets)[chosen].astype(np.int32), np.array(starts, np.int32)[chosen])


def _window_starts(times: np.ndarray, episode_length: int, decision_interval_ms: int) -> list[int]:
    if len(times) < 2:
        return []
    if decision_interval_ms == 0:
        positions = np.arange(0, len(times) - 1, episode_length)
        whole = (len(times) - 1 - positions) / episode_length
        starts = times[positions]
    else:
        span = episode_length * decision_interval_ms
        starts = np.arange(int(times[0]), int(times[-1]), span)
        whole = (int(times[-1]) - starts) / span
    keep = whole >= SHORTEST
    keep[0] = True
    return starts[keep].tolist()


def evaluate(
    env: Any,
    network: ActorCritic,
    weights: Any,
    env_params: Any,
    windows: Windows,
    policies: Sequence[str] = POLICIES,
    seeds: int = 3,
) -> list[Outcome]:
    """Play every window with every policy; equal arguments give equal outcomes.

    Args:
        env: the environment.
        network: of the agent.
        weights: of the network.
        env_params: the parameters, with the tape.
        windows: where episodes begin.
        policies: names out of POLICIES.
        seeds: episodes per window, for policies that draw.
    """
    unknown = set(policies) - set(POLICIES)
    if unknown:
        raise ValueError(f"policies {sorted(unknown)} are not known: choose from {', '.join(POLICIES)}")
    outcomes = []
    for name in policies:
        repeats = 1 if name in REPEATABLE else seeds
        played = _play_all(env, network, weights, env_params, windows, POLICIES.index(name), repeats)
        outcomes.append(_outcome(name, *played, repeats, float(env_params.initial_cash) / DOLLAR))
    return outcomes


def _play_all(
    env: Any, network: ActorCritic, weights: Any, env_params: Any, windows: Windows, policy: int, seeds: int
) -> tuple[Record, np.ndarray]:
    """Play all n windows with every seed, [T, seeds * n], in equal chunks so that one program serves every chunk.

    Returns:
        what happened, and i64[A]: how often each action was chosen, over all used slots.
    """
    total = len(windows.start_ms)
    chunks = -(-total // CHUNK)
    size = -(-total // chunks)
    parts, actions = [], np.zeros(env.num_actions, np.int64)
    for seed in range(seeds):
        for begin in range(0, total, size):
            episodes = np.minimum(np.arange(begin, begin + size), total - 1)
            valid = np.arange(begin, begin + size) < total
            record, chosen = play(
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
            )
            parts.append(jax.tree.map(lambda x, valid=valid: np.asarray(x)[:, valid], record))
            actions += np.asarray(chosen)
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts), actions


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
) -> tuple[Record, jax.Array]:
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

    Returns:
        what happened, and i32[A]: how often each action was chosen in valid episodes, over all used slots.
    """

    def agent(key: jax.Array, observation: Any, memory: Memory) -> tuple[jax.Array, Memory]:
        logits, _, memory = forward(network, weights, observation, memory)
        return jax.random.categorical(key, logits), memory

    def greedy(key: jax.Array, observation: Any, memory: Memory) -> tuple[jax.Array, Memory]:
        logits, _, memory = forward(network, weights, observation, memory)
        return jnp.argmax(logits, axis=-1), memory

    def masked(rule: Any) -> Any:
        return lambda key, observation, memory: (rule(key, observation.action_mask), memory)

    choices = [agent, greedy, masked(random_legal), masked(hold), masked(always_take)]

    def step(carry: tuple[Any, ...], key: jax.Array) -> tuple[tuple[Any, ...], Record]:
        state, memory, value, alive, chosen = carry
        observation = jax.vmap(env.observation, (0, None))(state, env_params)
        action, memory = jax.lax.switch(policy, [_as_int32(choice) for choice in choices], key, observation, memory)
        after, _, terminated, truncated, info = jax.vmap(env.transition, (0, 0, None))(state, action, env_params)
        value = jnp.where(alive, info["portfolio_value"], value)
        used = jnp.any(observation.market != 0, axis=-1) & alive[:, None] & valid[:, None]
        chosen += jnp.sum(jax.nn.one_hot(action, env.num_actions, dtype=jnp.int32) * used[..., None, None], (0, 1, 2))

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
        return (after, memory, value, alive & ~(terminated | truncated), chosen), record

    _, states = jax.vmap(env.start, (None, 0, 0))(env_params, markets, start_ms)
    count, nothing = markets.shape[0], jnp.zeros(env.num_actions, jnp.int32)
    start = (states, empty_memory(network, *markets.shape), jnp.zeros(count), jnp.ones(count, bool), nothing)
    (*_, chosen), record = jax.lax.scan(step, start, jax.random.split(key, length))
    return record, chosen


def _as_int32(choice: Any) -> Any:
    def chosen(key: jax.Array, observation: Any, memory: Memory) -> tuple[jax.Array, Memory]:
        action, memory = choice(key, observation, memory)
        return action.astype(jnp.int32), memory

    return chosen


def _outcome(policy: str, record: Record, actions: np.ndarray, seeds: int, capital: float) -> Outcome:
    value = jnp.concatenate([jnp.full((1, record.value.shape[1]), capital), record.value])
    figures = episode_metrics(value, record.lived, record.trades, record.taker, record.maker, record.fees)
    return Outcome(
        policy=policy,
        metrics={name: np.asarray(x).reshape(seeds, -1) for name, x in figures.items()},
        value=np.asarray(value),
        actions=actions,
        taker=float(record.taker.sum(axis=0).mean()),
        maker=float(record.maker.sum(axis=0).mean()),
    )


def dollars(amount: float) -> str:
    """Write an amount of money: -$1,234.50."""
    return f"{'-' if round(amount, 2) < 0 else ''}${abs(amount):,.2f}"


def interval(values: np.ndarray, resamples: int = 2000) -> dict[str, float]:
    """Mean of f32[seeds, n] with its bootstrap 95% interval.

    Seeds of one window are averaged first and windows are resampled, because runs of the same window are no independent
    evidence. Entries that are NaN do not count; with none left all three are NaN.
    """
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    per_window = np.where(known, values, 0).sum(axis=0)[count > 0] / count[count > 0]
    if not len(per_window):
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan")}
    drawn = np.random.default_rng(0).integers(0, len(per_window), (resamples, len(per_window)))
    low, high = np.quantile(per_window[drawn].mean(axis=1), [0.025, 0.975])
    return {"mean": float(per_window.mean()), "low": float(low), "high": float(high)}
