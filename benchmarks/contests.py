"""What `benchmarks.peers` lets compete, part 1: what a contest is, kalshi-jax itself, and gymnax's CartPole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from agents.ppo import ENVS
from agents.runs import TrainConfig, make_environment
from benchmarks.measure import mesh_over
from benchmarks.peers import OURS
from benchmarks.rollouts import Program, World, acting, cartpole_world, prepare_ppo, prepare_steps, rows_met
from kalshi_jax import Action
from kalshi_jax.tape import DOLLAR, once
from loaders import build_tape
from loaders.closes import close_markets
from loaders.events import Events
from loaders.exchange_sim import synthetic_events
from loaders.recordings import find_recordings, read_recordings
from loaders.sim_config import SYNTHETIC

if TYPE_CHECKING:
    from benchmarks.peers import Config

DECISION_MS = 1000
CONTRACTS = 10  # of an order


def read_events(source: Sequence[str]) -> list[Events]:
    """Read the sessions of recordings, or of the simulated exchange; markets end where they close."""
    simulated = [events for part in source if part.startswith(SYNTHETIC) for events in synthetic_events(part)]
    recorded = read_recordings(find_recordings(part for part in source if not part.startswith(SYNTHETIC)))
    return [close_markets(events) for events in (*simulated, *recorded)]


@dataclass
class Contest:
    """One line of the table: work to be timed."""

    peer: str  # the package
    what: str
    unit: str  # counted per second
    work: Callable[[], float]  # does it once, waits for the result, and returns how many units that was
    compile_s: float = 0.0  # of compiling or warming up, not part of any repetition
    facts: dict[str, float] = field(default_factory=dict)  # what else the work found
    prepare: Callable[[], None] = lambda: None  # before each repetition, not timed


class Setup:
    """The recordings, our environment of one market with all features, and the contests of ours that several items share."""

    def __init__(self, sessions: list[Events], config: Config):
        self.sessions, self.config = sessions, config
        self.tape, self.index = build_tape(sessions)
        self.rows = sum(info.rows for info in self.index.sessions)
        self.changes = sum(info.deltas for info in self.index.sessions)
        self.training = TrainConfig(
            source=(),
            order_sizes=(CONTRACTS,),
            decision_interval_ms=DECISION_MS,
            num_envs=config.num_envs,
            rollout_length=config.rollout_length,
            epochs=config.epochs,
            minibatches=config.minibatches,
        )
        self.env, self.params, _ = make_environment(self.training, self.tape)

    @cached_property
    def random_steps(self) -> Contest:
        """Ours by random actions."""
        what = "random actions, 1 market, all features, 1 s decisions"
        return random_steps(OURS, what, acting(self.env, self.params), self.config)

    @cached_property
    def ppo(self) -> Contest:
        """Ours trained by our PPO."""
        what = f"our PPO, 1 market, {self.config.num_envs:,} environments"
        return run_by(prepare_ppo(self.training, self.tape, self.config.devices), OURS, what, "trained steps")

    @cached_property
    def mids(self) -> np.ndarray:
        """The mid of the market that was recorded longest, once a second while both sides quote, f64[n] dollars."""
        tape, markets = self.tape, self.tape.num_markets
        start, length = np.asarray(tape.track_start)[:markets], np.asarray(tape.track_length)[:markets]
        time_ms = np.asarray(tape.time_ms)
        market = int(np.argmax(time_ms[start + length - 1] - time_ms[start]))
        times = time_ms[start[market] : start[market] + length[market]]
        seconds = np.arange(times[0], times[-1], DECISION_MS)
        row = start[market] + np.searchsorted(times, seconds, side="right") - 1
        quoted = (np.asarray(tape.price[:, :, 0])[row] > 0).all(axis=1)
        return np.asarray(tape.mark)[row[quoted]].astype(float).mean(axis=1) / DOLLAR


# -- compiled programs


def run_by(program: Program, peer: str, what: str, unit: str) -> Contest:
    """Let a program compete; its first run does not count."""
    compile_s = program.cold[1]
    program.run()
    return Contest(peer, what, unit, program.run, compile_s, {"devices": program.devices})


def batched_steps(setup: Setup) -> list[Contest]:
    cartpole = random_steps("gymnax", "CartPole-v1, random actions", cartpole_world(), setup.config)
    return [setup.random_steps, cartpole]


def random_steps(peer: str, what: str, world: World, config: Config) -> Contest:
    program = prepare_steps(world, config.episodes, config.steps, config.devices)
    return run_by(program, peer, f"{what}, {config.episodes:,} episodes", "steps")


def ppo(setup: Setup) -> list[Contest]:
    what = f"our PPO, CartPole-v1, {setup.config.num_envs:,} environments"
    return [setup.ppo, run_by(prepare_ppo(setup.training, None, setup.config.devices), "gymnax", what, "trained steps")]


# -- recorded changes passed


def replay_ours(setup: Setup) -> list[Contest]:
    """All our devices, beside the one thread of hftbacktest; and one core with all threads on it, observing or not."""
    alone = [replay_steps(setup, observe, devices=1) for observe in (True, False)]
    for contest in alone:
        contest.what += ", on one core"
        contest.work = on_one_core(contest.work)
    return [replay_steps(setup, observe=True, devices=setup.config.devices), *alone]


def replay_steps(setup: Setup, observe: bool, devices: int) -> Contest:
    """Keep a YES bid at the best price in E episodes for T decisions, and count the changes between them.

    The parts of `env.step`, in its order: what the last step of an episode passed counts too.
    """
    env, episodes, steps = setup.env, setup.config.episodes, setup.config.steps
    mesh = mesh_over(ENVS, devices, episodes)
    params = jax.device_put(setup.params, NamedSharding(mesh, P()))
    waits = jnp.full((episodes // mesh.size, 1, 1), Action.BUY_YES_WAIT)

    def run(states: Any, params: Any) -> tuple[Any, Any]:
        def step(states: Any, key: jax.Array) -> tuple[Any, Any]:
            after, reward, terminated, truncated, info = once(
                params.tape, jax.vmap(env.transition, (0, 0, None)), states, waits, params
            )
            rows = rows_met(after, params.tape) - rows_met(states, params.tape)
            keys = jax.random.split(key, len(waits))
            states = jax.vmap(env.restart, (0, 0, 0, None))(terminated | truncated, keys, after, params)
            seen = jax.vmap(env.observation, (0, None))(states, params) if observe else ()
            found = (rows, info["resting"], info["maker_contracts"])
            return states, [jax.lax.psum(x, ENVS) for x in (*map(jnp.sum, found), total((seen, reward)))]

        key = jax.random.fold_in(jax.random.key(1), jax.lax.axis_index(ENVS))
        return jax.lax.scan(step, states, jax.random.split(key, steps))

    parts = (P(ENVS), P())
    program = jax.shard_map(run, mesh=mesh, in_specs=parts, out_specs=parts, check_vma=False)
    begin = jax.jit(jax.vmap(env.initial_state, (0, None)), out_shardings=NamedSharding(mesh, P(ENVS)))
    states = begin(jax.random.split(jax.random.key(0), episodes), params)
    runner = Program(jax.jit(program, donate_argnums=0), states, (params,), episodes * steps, mesh.size)
    what = f"1 resting order, {'all features' if observe else 'no observation'}, {episodes:,} episodes"
    contest = run_by(runner, OURS, what, "changes")

    def work() -> float:
        decisions = runner.run()
        rows, resting, filled = (int(np.asarray(x, np.int64).sum()) for x in runner.found[:3])
        changes = rows * setup.changes / setup.rows
        contest.facts = {"devices": mesh.size} | replay_facts(changes, decisions, resting, filled)
        return changes

    contest.work = work
    return contest


def total(tree: Any) -> jax.Array:
    """Add up all numbers, so that the compiler may leave none of them out, f32[]."""
    return sum((jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(tree)), start=jnp.float32(0))


def replay_facts(changes: float, decisions: int, resting: int, filled: float) -> dict[str, float]:
    """Say what a replay was like; `resting` counts decisions that found the order of the last one unfilled."""
    return {
        "changes_per_decision": changes / decisions,
        "resting_share": resting / decisions,
        "contracts_per_decision": filled / decisions,
    }


def on_one_core(work: Callable[[], float]) -> Callable[[], float]:
    """Have work done with all threads of this process on one core, those that begin in it too; nothing else but on Linux."""

    def allow(cores: set[int]) -> None:
        for thread in os.listdir("/proc/self/task"):
            try:
                os.sched_setaffinity(int(thread), cores)
            except ProcessLookupError:  # it has ended since
                continue

    def alone() -> float:
        allowed = os.sched_getaffinity(0)
        allow({max(allowed)})
        try:
            return work()
        finally:
            allow(allowed)

    return alone if hasattr(os, "sched_setaffinity") else work
