"""A training run: the loop that fills its folder with metrics and checkpoints.

A run that was stopped, by Ctrl-C or by force, goes on from its last checkpoint and ends with the same bits as one that
was never stopped. Several agents with seeds of their own may train side by side in one program, several devices share the
parallel episodes, and so do several processes (`jax.distributed`), of which the first one writes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

from agents.evaluation import Windows, all_windows, evaluate
from agents.journal import Journal, check_figures, progress_bar
from agents.networks import ActorCritic
from agents.ppo import ENVS, Layout, Learner, init_learner, learner_sharding, make_updates
from agents.runs import (
    RunFolder,
    TrainConfig,
    describe_data,
    hyper_parameters,
    make_environment,
    remember_settings,
    settings_of,
)
from kalshi_jax import EnvParams, Tape
from kalshi_jax.params import cumulative_weights, default_weights
from loaders import TapeIndex, load_tape, select_markets, session_weights, split_sessions, stage_at


@dataclass
class RunResult:
    """What the run of one agent has done, in this call and in all."""

    run: Path
    updates: int  # done, of the whole run
    steps: int  # environment steps of those
    finished: bool  # False where Ctrl-C stopped it
    compile_seconds: float
    train_seconds: float  # of this call, in updates only
    steps_per_second: float  # of this call, of all agents together
    first_evaluation: dict[str, Any]  # metric -> mean, low, high, of the untrained agent
    last_evaluation: dict[str, Any]
    best_validation: (
        dict[str, Any] | None
    )  # record of the evaluation whose checkpoint is kept as the best; None: no split

    def improvement(self) -> float:
        """Gain in mean return per episode over the run's own first evaluation, $."""
        return self.last_evaluation["total_return"]["mean"] - self.first_evaluation["total_return"]["mean"]


@dataclass
class Arena:
    """Where agents are judged: parameters with a tape, and the windows that are played on it."""

    params: EnvParams
    windows: Windows


Weights = Callable[[float], jax.Array]  # progress of the run, 0 to 1 -> `EnvParams.market_weights`


def shortest_episode(params: EnvParams) -> int:
    """Bound from below the steps of any episode that is not ended by bankruptcy; one less, for rounded starts."""
    tape = params.tape
    opens = np.diff(np.asarray(params.market_weights), prepend=0) > 0
    first, length = (np.asarray(x)[: tape.num_markets][opens] for x in (tape.track_start, tape.track_length))
    if params.event_clock:
        steps = length - 1
    else:
        time_ms = np.asarray(tape.time_ms)
        steps = (time_ms[first + length - 1] - time_ms[first]) // int(params.decision_interval_ms)
    return max(1, int(min(steps.min(), params.episode_length)) - 1)


def train(config: TrainConfig, console: Console | None = None) -> list[RunResult]:
    """Train agents as configured, one for each seed, and leave everything in the run folder (of several: in folders inside it).

    Raises:
        ValueError: a setting does not fit, or `resume` finds a run with other settings or other data.
        FileExistsError: the folder holds a run and `resume` is off.
        FloatingPointError: a figure stopped being finite; the message says which and where.
    """
    writes = jax.process_index() == 0
    console = console or Console(stderr=True)
    console = console if writes else Console(quiet=True)
    folder = RunFolder(config.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S"), config.keep_checkpoints)
    if writes and folder.config_file.exists() and not config.resume:
        raise FileExistsError(f"{folder.path} holds a run: go on with it by --resume, or choose another --out")
    if config.resume and not folder.config_file.exists():
        raise FileNotFoundError(f"{folder.path} has no config.json: there is no run to resume; leave out --resume")
    console.print(f"Loading {', '.join(settings_of(config)['source'])}")
    tape, index = load_tape(list(config.source), config.session_config(config.sessions, config.filter))
    data, split, held_out = describe_data(tape, index), None, None
    console.print(f"{data['sessions']} sessions, {data['markets']} markets, {data['changes']:,} changes of the book")
    if config.split != "none":
        split = split_sessions(index, config.split, validation=config.validation_share, test=config.test_share)
        held_out = select_markets(tape, index, split.validation)
        tape, index = select_markets(tape, index, split.train)
        sizes = {name: sum(map(len, markets.values())) for name, markets in split.parts.items()}
        console.print(f"Split by {config.split}: markets to {', '.join(f'{k} {v}' for k, v in sizes.items())}")
    env, params, network = make_environment(config, tape)
    folders = folder.of_seeds(config.seeds_used) if config.seeds > 1 else [folder]
    if writes:
        remember_settings(folder, config, data, split)
        for seed, part in zip(config.seeds_used, folders, strict=True) if config.seeds > 1 else ():
            remember_settings(part, replace(config, seed=seed, seeds=1, out=part.path), data, split)
    slots = 1 + (config.rollout_length - 1) // shortest_episode(params)
    layout = replace(config.layout, final_slots=slots)

    def arena(tape: Tape, params: EnvParams) -> Arena:
        sizes = (config.max_markets, config.episode_length, config.decision_interval_ms, config.evaluation_windows)
        return Arena(params, all_windows(tape, *sizes))

    validation = arena(held_out[0], make_environment(config, held_out[0])[1]) if held_out else None
    weights = curriculum(config, tape, index) if config.curriculum else None
    return fit(env, network, params, config, layout, folders, arena(tape, params).windows, console, validation, weights)


def curriculum(config: TrainConfig, tape: Tape, index: TapeIndex) -> Weights:
    """Make the weights of a tape's markets at each stage of the curriculum: see `loaders.curriculum`."""
    usual = default_weights(tape, event_clock=config.decision_interval_ms == 0)
    stages = [session.stage for session in index.sessions]

    def weights(progress: float) -> jax.Array:
        of_sessions = session_weights(stages, stage_at(progress))
        return cumulative_weights(tape, usual * of_sessions[index.session_of_market])

    return weights


def fit(
    env: Any,
    network: ActorCritic,
    params: Any,
    config: TrainConfig,
    layout: Layout,
    folders: Sequence[RunFolder],
    windows: Windows,
    console: Console,
    validation: Arena | None = None,
    weights: Weights | None = None,
) -> list[RunResult]:
    """Train one agent for each folder, whose configuration is written: the loop, its checkpoints, its metrics.

    Args:
        env: the environment.
        network: of the agents.
        params: of the environment, with the tape.
        config: the settings.
        layout: sizes of the training step.
        folders: of the agents, by seed from `config.seed` on.
        windows: of the tape on which progress is told.
        console: for people.
        validation: markets held out, if any: the best checkpoint is that which earned most on them.
        weights: which markets open episodes as the run goes on; None: always those of `params`.
    """
    started, writes = time.perf_counter(), jax.process_index() == 0
    mesh = _choose_devices(config)
    everywhere = NamedSharding(mesh, PartitionSpec())
    arenas = {"evaluation": Arena(params, windows)} | ({"validation": validation} if validation else {})
    params = jax.device_put(params, everywhere)
    hyper = jax.device_put(hyper_parameters(config), everywhere)
    learners, resumed = _begin(env, network, layout, mesh, config, folders, params)
    done = int(learners.updates[0])
    if writes:
        for folder in folders:
            folder.forget_after(done if resumed else -1)
    update = jax.jit(make_updates(env, network, layout, mesh), donate_argnums=0)
    # compiled ahead: arguments of another shape or type are an error, never a second compilation
    compiled = update.lower(learners, hyper, params).compile()
    compile_seconds = time.perf_counter() - started
    console.print(describe_network(learners.weights))
    console.print(f"Compiled in {compile_seconds:.1f} s" + (f"; resuming after update {done}" if resumed else ""))

    spent, finished, before, all_steps = 0.0, done >= config.updates, done, len(folders) * layout.steps
    names = [f" of seed {seed}" for seed in config.seeds_used] if len(folders) > 1 else [""]
    best = [_agreed(folder.best_return() if writes else 0.0) for folder in folders]
    with ExitStack() as stack:
        journals = [
            stack.enter_context(closing(Journal(folder, config, done, console, name)))
            for folder, name in zip(folders if writes else (), names, strict=False)
        ]
        bar, stopping = stack.enter_context(progress_bar(console)), stack.enter_context(_stop_requests())
        task = bar.add_task("", total=config.updates, completed=done, figures="")

        def judge() -> None:
            for i, folder in enumerate(folders):
                learner = jax.tree.map(lambda x, i=i: x[i], learners)
                of_agent = jax.device_get(learner.weights)
                for kind, arena in arenas.items():
                    outcome = evaluate(env, network, of_agent, arena.params, arena.windows, ("agent",), seeds=1)[0]
                    if writes:
                        journals[i].evaluation(kind, done, done * layout.steps, outcome.summary())
                    earned = _agreed(outcome.summary()["total_return"]["mean"])
                    if kind == "validation" and earned > best[i]:
                        best[i] = earned
                        folder.save(learner)  # first, so that a resumed run never is behind the best one
                        folder.save_best(learner)

        if done == 0 and not resumed:
            judge()
        while done < config.updates:
            clock = time.perf_counter()
            if weights:
                drawn = jax.device_put(weights(done / config.updates), everywhere)
                params = replace(params, market_weights=drawn)
            learners, metrics = compiled(learners, hyper, params)
            figures = {name: np.asarray(x) for name, x in jax.device_get(metrics).items()}
            elapsed = time.perf_counter() - clock
            spent += elapsed
            done += 1
            for i in range(len(folders)):
                one = {name: x[i].tolist() for name, x in figures.items()}
                check_figures(one, done)
                if writes:
                    journals[i].update(done, done * layout.steps, all_steps / elapsed, one)
            line = (
                f"{all_steps / elapsed:,.0f} steps/s  reward {figures['reward'].mean():+.5f}  "
                f"entropy {figures['entropy'].mean():.2f}"
            )
            bar.update(task, completed=done, figures=line)
            finished, stop = done == config.updates, stopping()
            if finished or done % config.evaluate_every == 0:
                judge()
            if finished or stop or done % config.checkpoint_every == 0:
                for i, folder in enumerate(folders):
                    folder.save(jax.tree.map(lambda x, i=i: x[i], learners))
            if stop:
                break
    return [
        _result(
            folder,
            updates=done,
            steps=done * layout.steps,
            finished=finished,
            compile_seconds=compile_seconds,
            train_seconds=spent,
            steps_per_second=(done - before) * all_steps / spent if spent else 0.0,
        )
        for folder in folders
    ]


def _result(folder: RunFolder, **figures: Any) -> RunResult:
    records = folder.records()
    judged = [record["metrics"] for record in records if record["kind"] == "evaluation"]
    return RunResult(
        run=folder.path,
        first_evaluation=judged[0],
        last_evaluation=judged[-1],
        best_validation=folder.best_record(),
        **figures,
    )


def _begin(
    env: Any,
    network: ActorCritic,
    layout: Layout,
    mesh: Mesh,
    config: TrainConfig,
    folders: Sequence[RunFolder],
    params: Any,
) -> tuple[Learner, bool]:
    """Make or restore the learners, stacked along a first axis; and say whether they were restored."""
    stacked = learner_sharding(mesh, None)
    first = partial(init_learner, env, network, layout)

    def all_of_them(keys: jax.Array, params: Any) -> Learner:
        return jax.lax.map(lambda key: first(key, params), keys)

    keys = jnp.stack([jax.random.key(seed) for seed in config.seeds_used])
    if not config.resume or any(folder.checkpoints().latest_step() is None for folder in folders):
        return jax.jit(all_of_them, out_shardings=stacked)(keys, params), False

    def place(sharding: NamedSharding, part: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part)

    template = jax.tree.map(place, learner_sharding(mesh), jax.eval_shape(first, keys[0], params))
    newest = min(folder.checkpoints().latest_step() for folder in folders)  # killed while it saved: some are behind
    restored = [folder.restore(template, newest) for folder in folders]
    return jax.jit(lambda *x: jax.tree.map(lambda *y: jnp.stack(y), *x), out_shardings=stacked)(*restored), True


def describe_network(weights: Any) -> str:
    """Say how many parameters one agent has, layer by layer; `weights` are those of several, stacked."""
    layers: dict[str, list[str]] = {}
    count = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        names = [str(getattr(part, "key", part)) for part in path]
        layers.setdefault(names[1], []).append("x".join(map(str, leaf.shape[1:])))
        count += leaf[0].size
    return f"Network of {count:,} parameters: " + "; ".join(f"{name} {', '.join(x)}" for name, x in layers.items())


def _choose_devices(config: TrainConfig) -> Mesh:
    """Take the devices asked for, or as many as divide the environments evenly."""
    available = jax.devices()
    if config.devices > len(available):
        raise ValueError(f"devices is {config.devices}, but JAX has {len(available)}: ask for fewer, or 0 for all")
    parts = config.num_envs // config.minibatches
    most = next(count for count in range(len(available), 0, -1) if parts % count == 0)
    if jax.process_count() > 1 and (config.devices or most) < len(available):
        raise ValueError(
            f"{jax.process_count()} processes have {len(available)} devices, which must all take part: num_envs "
            f"{config.num_envs} must be a multiple of minibatches {config.minibatches} x {len(available)}, and --devices 0"
        )
    return Mesh(np.array(available[: config.devices or most]), ENVS)


def _agreed(figure: float) -> float:
    """Give the first process's figure, so that all processes decide alike."""
    return figure if jax.process_count() == 1 else float(multihost_utils.broadcast_one_to_all(np.float32(figure)))


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a question the loop asks between updates; a second one interrupts.

    If any of several processes was asked to stop, all stop after the same update.
    """
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    def answer() -> bool:
        if jax.process_count() == 1:
            return bool(asked)
        return bool(multihost_utils.process_allgather(np.array(bool(asked))).any())

    before: dict[int, Any] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, ask)
    try:
        yield answer
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
