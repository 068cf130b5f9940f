"""What the speed benchmarks run: many episodes stepped in one compiled program, and PPO's update, each beside CartPole's.

Bytes that a step must move at least, in a formula of shapes (`step_bytes`):

    2 x state + observation + markets x 2 x (levels + record) + rhythm + look-ups x (5 + 1 + SCAN) x 4

`state` and `observation` are an episode's; a state is read and written. `levels` and `record` are those of one row; orders are
placed at one and meet another. With tier 2 an episode reads one `rhythm` of its session. A look-up finds the row at a time:
five words of the track, a cell of the grid, and SCAN times. There is one a market on the fixed clock, and with tier 2 one an
episode. What resting orders meet on the way is not in it, and a device moves whole cache lines for less: one over the share
of the bandwidth is what a perfect program could gain at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from agents.networks import ActorCritic, forward, sample_actions
from agents.ppo import ENVS, init_learner, learner_sharding, make_update
from agents.runs import TrainConfig, hyper_parameters, make_environment
from agents.training import shortest_episode
from benchmarks.cartpole import ENV as CARTPOLE
from benchmarks.cartpole import CartPoleParams, CartPoleTask
from benchmarks.measure import (
    compile_ahead,
    compile_cache,
    compile_cold,
    in_turns,
    memory_bytes,
    mesh_over,
    seconds_of,
    spread,
)
from kalshi_jax import Action, MarketAgnosticKalshiEnv, Tape
from kalshi_jax.tape import NO_ROW, SCAN

FEATURES = {"book": (False, False), "time": (True, False), "all": (True, True)}  # tiers 2 and 3
SIDE_STEPS = 10  # after which `wait` rests on the other side
COUNTED = ("passed", "going", "resting", "slots")
WORD = 4


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    episodes: int
    markets: int = 1
    changes: int = 10  # recorded changes of a market a step; 0: the event clock
    features: str = "all"
    actions: str = "random"
    queue: str = "risk_averse"
    episode_length: int = 200


@dataclass(frozen=True)
class World:
    """An environment with somebody who acts in it."""

    env: Any  # of gymnax's interface
    inputs: Any  # arguments of the program: the environment's parameters, and perhaps weights
    act: Callable[[jax.Array, Any, Any, Any], jax.Array]  # key, observations, states, inputs -> actions of E episodes
    counted: tuple[str, ...]  # names of what `count` counts
    count: Callable[..., dict[str, jax.Array]]  # states before and after, done, info, inputs -> name -> i32[E]


@dataclass
class Program:
    """Something to run again and again: each run goes on from what the last one gave."""

    jitted: Any  # (carry, *inputs) -> carry and what it found; may take the carry's memory
    carry: Any
    inputs: tuple[Any, ...]
    transitions: int  # of one run
    devices: int
    runs: int = 0
    found: Any = None  # in the last run

    @cached_property
    def cold(self) -> tuple[Any, float]:
        """The program compiled, and in how many seconds."""
        return compile_cold(self.jitted, self.carry, *self.inputs)

    def run(self) -> int:
        """Run once, until the results are there, and tell the transitions."""
        self.carry, self.found = jax.block_until_ready(self.cold[0](self.carry, *self.inputs))
        self.runs += 1
        return self.transitions


def time_programs(programs: Sequence[Program], repetitions: int) -> list[dict[str, Any]]:
    """Run programs in turns, after a run of each that does not count: seconds, speed and memory of each."""
    times: list[list[float]] = [[] for _ in programs]
    for program in programs:
        program.run()
    for i, seconds, _ in in_turns([program.run for program in programs], repetitions):
        times[i].append(seconds)
    return [_figures(*each) for each in zip(programs, times, strict=True)]


def _figures(program: Program, seconds: list[float]) -> dict[str, Any]:
    compiled, compile_s = program.cold
    memory = compiled.memory_analysis()
    names = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    taken = sum(getattr(memory, name) for name in names) - memory.alias_size_in_bytes if memory else None
    return {
        "devices": program.devices,
        "transitions": program.transitions,
        "compile_s": compile_s,
        "run_s": spread(seconds),
        "steps_per_s": program.transitions / spread(seconds)["median"],
        "program_bytes": taken,  # of one device
        "memory_bytes": memory_bytes(),
    }


# -- worlds


def changes_per_second(tape: Tape) -> float:
    """Rows of all markets over their durations."""
    first, rows = (np.asarray(x)[: tape.num_markets] for x in (tape.track_start, tape.track_length))
    time_ms = np.asarray(tape.time_ms)
    return float(rows.sum() / max((time_ms[first + rows - 1] - time_ms[first]).sum() / 1000, 1e-3))


def train_config(tape: Tape, setting: Setting) -> TrainConfig:
    """Set up the environment; the interval is one in which a market changes as often as asked for, 0 for the event clock."""
    temporal, sequence = FEATURES[setting.features]
    interval_ms = max(1, round(1000 * setting.changes / changes_per_second(tape))) if setting.changes else 0
    return TrainConfig(
        source=(),
        max_markets=setting.markets,
        episode_length=setting.episode_length,
        decision_interval_ms=interval_ms,
        temporal_features=temporal,
        sequence_features=sequence,
        queue_model=setting.queue,  # type: ignore[arg-type]
    )


def kalshi_world(tape: Tape, setting: Setting, seed: int = 0) -> World:
    env, params, network = make_environment(train_config(tape, setting), tape)
    if setting.actions != "policy":
        return acting(env, params, _rest if setting.actions == "wait" else _act_at_random)
    weights = jax.jit(network.init)(jax.random.key(seed), env.observation_space().sample(jax.random.key(0)))
    return World(env, (params, weights), partial(_act_by_policy, network), COUNTED, _count)


def cartpole_world() -> World:
    env, params = gymnax.make(CARTPOLE)
    return World(env, (params, None), partial(_act_at_random, env.num_actions, ()), (), lambda *_: {})


def _act_at_random(
    choices: int, shape: tuple[int, ...], key: jax.Array, obs: Any, state: Any, inputs: Any
) -> jax.Array:
    return jax.random.randint(key, (*state.time.shape, *shape), 0, choices)


def acting(env: MarketAgnosticKalshiEnv, params: Any, act: Callable[..., jax.Array] = _act_at_random) -> World:
    shape = (env.max_markets, env.orders_per_market)
    return World(env, (params, None), partial(act, env.num_actions, shape), COUNTED, _count)


def _rest(choices: int, shape: tuple[int, ...], key: jax.Array, obs: Any, state: Any, inputs: Any) -> jax.Array:
    """Rest at the best bid of YES, then of NO, in every market."""
    yes = (state.time // SIDE_STEPS) % 2 == 0
    wait = jnp.where(yes, int(Action.BUY_YES_WAIT), int(Action.BUY_NO_WAIT))
    return jnp.broadcast_to(wait[:, None, None], (*state.time.shape, *shape))


def _act_by_policy(network: ActorCritic, key: jax.Array, obs: Any, state: Any, inputs: Any) -> jax.Array:
    return sample_actions(key, forward(network, inputs[1], obs, ())[0])[0]


def rows_met(state: Any, tape: Tape) -> jax.Array:
    """Count the rows of each market from its first to where it is now, i32[..., M]."""
    first = tape.track_start[jnp.maximum(state.markets, 0)]
    return jnp.where(state.row == NO_ROW, 0, state.row - first + 1)


def _count(before: Any, after: Any, done: jax.Array, info: dict[str, jax.Array], inputs: Any) -> dict[str, jax.Array]:
    """Count recorded changes that steps passed, where no episode ended (what comes after belongs to another), and more."""
    begin, end = (rows_met(state, inputs[0].tape) for state in (before, after))
    used = before.markets >= 0
    return {
        "passed": jnp.where(used & ~done[:, None], end - begin, 0).sum(-1),
        "going": (~done).astype(jnp.int32),
        "resting": info["resting"],
        "slots": used.sum(-1),
    }


# -- the environment alone


def prepare_steps(world: World, episodes: int, steps: int, devices: int = 0, seed: int = 0) -> Program:
    """Make the program that takes so many steps of all episodes, which are divided over the devices.

    It carries (observations, states, totals [E], key), so that every step's observation is really made.
    """
    mesh = mesh_over(ENVS, devices, episodes)
    step_all = jax.vmap(world.env.step, (0, 0, 0, None))
    parts = (P(ENVS), P(ENVS), P(ENVS), P())
    inputs = jax.device_put(world.inputs, NamedSharding(mesh, P()))

    def begin(key: jax.Array, inputs: Any) -> Any:
        key, here = jax.random.split(key)
        obs, state = jax.vmap(world.env.reset, (0, None))(jax.random.split(here, episodes), inputs[0])
        counts = {name: jnp.zeros(episodes, jnp.int32) for name in world.counted}
        carry = (obs, state, {"reward": jnp.zeros(episodes), **counts})
        return *jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), carry), key

    def step(inputs: Any, carry: Any, key: jax.Array) -> tuple[Any, None]:
        obs, state, totals = carry
        act_key, step_key = jax.random.split(key)
        action = world.act(act_key, obs, state, inputs)
        keys = jax.random.split(step_key, len(action))
        obs, after, reward, terminated, truncated, info = step_all(keys, state, action, inputs[0])
        found = {"reward": reward, **world.count(state, after, terminated | truncated, info, inputs)}
        return (obs, after, {name: totals[name] + x for name, x in found.items()}), None

    def run(carry: Any, inputs: Any) -> Any:
        *carry, key = carry
        key, here = jax.random.split(key)
        keys = jax.random.split(jax.random.fold_in(here, jax.lax.axis_index(ENVS)), steps)
        return (*jax.lax.scan(partial(step, inputs), tuple(carry), keys)[0], key), None

    program = jax.shard_map(run, mesh=mesh, in_specs=(parts, P()), out_specs=(parts, P()), check_vma=False)
    places = tuple(NamedSharding(mesh, part) for part in parts)
    carry = jax.jit(begin, out_shardings=places)(jax.random.key(seed), inputs)
    return Program(jax.jit(program, donate_argnums=0), carry, (inputs,), episodes * steps, mesh.size)


def counts(world: World, program: Program) -> dict[str, Any]:
    """Say what all runs of our steps have passed, and what a step must move."""
    totals = {name: int(np.asarray(program.carry[2][name], np.int64).sum()) for name in world.counted}
    return {
        "interval_ms": int(world.inputs[0].decision_interval_ms),
        "rows_per_step": totals["passed"] / max(totals["going"], 1),
        "slots_used": totals["slots"] / (program.transitions * program.runs),
        "resting_share": totals["resting"] / max(totals["slots"], 1),
        "step_bytes": step_bytes(world.env, world.inputs[0]),
    }


def step_bytes(env: MarketAgnosticKalshiEnv, params: Any) -> int:
    """Bytes that a step of one episode must move at least: the formula stands at the head of this file."""
    tape, markets = params.tape, env.max_markets
    shapes = jax.eval_shape(env.reset, jax.random.key(0), params)
    observation, state = (sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) for tree in shapes)
    levels, record, rhythm = (x.nbytes // len(x) for x in (tape.levels, tape.record, tape.rhythm))
    lookups = markets * (not params.event_clock) + env.temporal_features
    known = markets * 2 * (levels + record) + rhythm * env.temporal_features
    return 2 * state + observation + known + lookups * (tape.track.shape[1] + 1 + SCAN) * WORD


def copy_bandwidth(megabytes: int, repetitions: int, devices: int = 0) -> float:
    """Read and write a large array on all devices: bytes a second."""
    mesh = mesh_over(ENVS, devices, devices or jax.device_count())
    size = megabytes * 250_000 // mesh.size * mesh.size
    array = jax.device_put(jnp.zeros(size), NamedSharding(mesh, P(ENVS)))
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run() -> Any:
        nonlocal array
        array = copy(array)
        return array

    return 2 * WORD * size / spread(seconds_of(run, max(repetitions, 3), warm_up=2))["median"]


# -- PPO


def prepare_ppo(config: TrainConfig, tape: Tape | None, devices: int = 0, seed: int = 0) -> Program:
    """Make PPO's update (rollout, advantages and epochs of learning), as in `agents.training`; None: of CartPole."""
    env: Any = CartPoleTask()
    params: Any = CartPoleParams()
    layout, network = config.layout, ActorCritic(env.num_actions, width=config.width)
    if tape is not None:
        env, params, network = make_environment(config, tape)
        layout = replace(layout, final_slots=1 + (config.rollout_length - 1) // shortest_episode(params))
    mesh = mesh_over(ENVS, devices, layout.num_envs // layout.minibatches)
    inputs = jax.device_put((hyper_parameters(config), params), NamedSharding(mesh, P()))
    begin = jax.jit(partial(init_learner, env, network, layout), out_shardings=learner_sharding(mesh))
    learner = begin(jax.random.key(seed), inputs[1])
    update = jax.jit(make_update(env, network, layout, mesh), donate_argnums=0)
    return Program(update, learner, inputs, layout.steps, mesh.size)


# -- compiling


def measure_compiling(program: Any, arguments: Sequence[Any], folder: str) -> dict[str, float]:
    """Compile into an empty folder, then again from what lies there, everything in this process forgotten."""
    with compile_cache(folder):
        return {name: compile_ahead(program, *arguments)[1] for name in ("cold_s", "warm_s")}


def compile_programs(tape: Tape, setting: Setting, folder: str, devices: int = 0) -> dict[str, dict[str, float]]:
    """Compile the environment's steps and PPO's update, cold and warm."""
    training = replace(train_config(tape, setting), num_envs=setting.episodes)
    programs = {
        "env steps": prepare_steps(kalshi_world(tape, setting), setting.episodes, 16, devices),
        "PPO update": prepare_ppo(training, tape, devices),
    }
    return {name: measure_compiling(x.jitted, (x.carry, *x.inputs), folder) for name, x in programs.items()}
