"""A training run: a folder with its configuration, metrics and checkpoints, and the loop that fills it.

A run that was stopped, by Ctrl-C or by force, goes on from its last checkpoint and ends with the same bits as one that
was never stopped.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from agents.evaluation import Windows, all_windows, dollars, evaluate
from agents.networks import ActorCritic
from agents.ppo import ENVS, Layout, Learner, init_learner, learner_sharding, make_update
from agents.runs import (
    RunFolder,
    TrainConfig,
    describe_data,
    hyper_parameters,
    make_environment,
    remember_settings,
    settings_of,
)
from kalshi_jax import EnvParams
from loaders import load_tape


@dataclass
class RunResult:
    """What a run has done, in this call and in all."""

    run: Path
    updates: int  # done, of the whole run
    steps: int  # environment steps of those
    finished: bool  # False where Ctrl-C stopped it
    compile_seconds: float
    train_seconds: float  # of this call, in updates only
    steps_per_second: float  # of this call
    first_evaluation: dict[str, Any]  # metric -> mean, low, high, of the untrained agent
    last_evaluation: dict[str, Any]

    def improvement(self) -> float:
        """Gain in mean return per episode over the run's own first evaluation, $."""
        return self.last_evaluation["total_return"]["mean"] - self.first_evaluation["total_return"]["mean"]


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


def train(config: TrainConfig, console: Console | None = None) -> RunResult:
    """Train an agent as configured and leave everything in the run folder.

    Raises:
        ValueError: a setting does not fit, or `resume` finds a run with other settings or other data.
        FileExistsError: the folder holds a run and `resume` is off.
        FloatingPointError: a figure stopped being finite; the message says which and where.
    """
    console = console or Console(stderr=True)
    folder = RunFolder(config.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S"), config.keep_checkpoints)
    if folder.config_file.exists() and not config.resume:
        raise FileExistsError(f"{folder.path} holds a run: go on with it by --resume, or choose another --out")
    if config.resume and not folder.config_file.exists():
        raise FileNotFoundError(f"{folder.path} has no config.json: there is no run to resume; leave out --resume")
    console.print(f"Loading {', '.join(settings_of(config)['source'])}")
    tape, index = load_tape(list(config.source), config.session_config(config.sessions))
    data = describe_data(tape, index)
    console.print(f"{data['sessions']} sessions, {data['markets']} markets, {data['changes']:,} changes of the book")
    env, params, network = make_environment(config, tape)
    remember_settings(folder, config, data)
    slots = 1 + (config.rollout_length - 1) // shortest_episode(params)
    layout = replace(config.layout, final_slots=slots)
    windows = all_windows(
        tape, config.max_markets, config.episode_length, config.decision_interval_ms, config.evaluation_windows
    )
    return fit(env, network, params, config, layout, folder, windows, console)


def fit(
    env: Any,
    network: ActorCritic,
    params: Any,
    config: TrainConfig,
    layout: Layout,
    folder: RunFolder,
    windows: Windows,
    console: Console,
) -> RunResult:
    """Train in a folder whose configuration is written: the loop, its checkpoints, its metrics."""
    started = time.perf_counter()
    mesh = _choose_devices(config)
    everywhere = NamedSharding(mesh, PartitionSpec())
    one_copy, params = params, jax.device_put(params, everywhere)
    hyper = jax.device_put(hyper_parameters(config), everywhere)
    begin = jax.jit(partial(init_learner, env, network, layout), out_shardings=learner_sharding(mesh))
    resumed = config.resume and folder.checkpoints().latest_step() is not None
    key = jax.random.key(config.seed)
    learner = folder.restore(_template(begin, key, params, mesh)) if resumed else begin(key, params)
    done = int(learner.updates)
    folder.forget_after(done if resumed else -1)
    update = jax.jit(make_update(env, network, layout, mesh), donate_argnums=0)
    # compiled ahead: arguments of another shape or type are an error, never a second compilation
    compiled = update.lower(learner, hyper, params).compile()
    compile_seconds = time.perf_counter() - started
    console.print(f"Compiled in {compile_seconds:.1f} s" + (f"; resuming after update {done}" if resumed else ""))

    spent, finished, before = 0.0, done >= config.updates, done
    with _Journal(folder, console, config, done) as journal, _stop_requests() as stopping:

        def judge() -> None:
            weights = jax.device_get(learner.weights)
            outcome = evaluate(env, network, weights, one_copy, windows, policies=("agent",), seeds=1)[0]
            journal.evaluation(done, done * layout.steps, outcome.summary())

        if done == 0:
            judge()
        while done < config.updates:
            clock = time.perf_counter()
            learner, metrics = compiled(learner, hyper, params)
            figures = {name: float(x) for name, x in jax.device_get(metrics).items()}
            elapsed = time.perf_counter() - clock
            spent += elapsed
            done += 1
            _check(figures, done)
            journal.update(done, done * layout.steps, layout.steps / elapsed, figures)
            finished = done == config.updates
            if finished or done % config.evaluate_every == 0:
                judge()
            if finished or stopping() or done % config.checkpoint_every == 0:
                folder.save(learner)
            if stopping():
                break
    evaluations = [record for record in folder.records() if record["kind"] == "evaluation"]
    return RunResult(
        run=folder.path,
        updates=done,
        steps=done * layout.steps,
        finished=finished,
        compile_seconds=compile_seconds,
        train_seconds=spent,
        steps_per_second=(done - before) * layout.steps / spent if spent else 0.0,
        first_evaluation=evaluations[0]["metrics"],
        last_evaluation=evaluations[-1]["metrics"],
    )


def _choose_devices(config: TrainConfig) -> Mesh:
    """Take the devices asked for, or as many as divide the environments evenly."""
    available = jax.devices()
    if config.devices > len(available):
        raise ValueError(f"devices is {config.devices}, but JAX has {len(available)}: ask for fewer, or 0 for all")
    parts = config.num_envs // config.minibatches
    most = next(count for count in range(len(available), 0, -1) if parts % count == 0)
    return Mesh(np.array(available[: config.devices or most]), ENVS)


def _template(begin: Any, key: jax.Array, params: Any, mesh: Mesh) -> Learner:
    """Give the shapes of a learner and where its parts lie, for a checkpoint to be read into."""

    def place(sharding: NamedSharding, part: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part)

    return jax.tree.map(place, learner_sharding(mesh), jax.eval_shape(begin, key, params))


class _Journal:
    """Writes what happens to metrics.jsonl, TensorBoard and the terminal."""

    def __init__(self, folder: RunFolder, console: Console, config: TrainConfig, done: int) -> None:
        self._file = folder.metrics_file.open("a")
        self._board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=done + 1)
        self._console = console
        self._progress = Progress(
            TextColumn("update {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=config.updates, completed=done, figures="")

    def __enter__(self) -> _Journal:
        self._progress.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._progress.stop()
        self._file.close()
        self._board.close()

    def update(self, update: int, steps: int, speed: float, figures: dict[str, float]) -> None:
        """Record one update."""
        self._write({"kind": "update", "update": update, "steps": steps, "steps_per_second": speed, **figures})
        for name, value in figures.items():
            self._board.add_scalar(f"train/{name}", value, update)
        self._board.add_scalar("train/steps_per_second", speed, update)
        line = f"{speed:,.0f} steps/s  reward {figures['reward']:+.5f}  entropy {figures['entropy']:.2f}"
        if "episode_return" in figures:
            line += f"  return {figures['episode_return']:+.3f}"
        self._progress.update(self._task, completed=update, figures=line)

    def evaluation(self, update: int, steps: int, metrics: dict[str, dict[str, float]]) -> None:
        """Record an evaluation."""
        self._write({"kind": "evaluation", "update": update, "steps": steps, "metrics": metrics})
        for name, value in metrics.items():
            self._board.add_scalar(f"evaluation/{name}", value["mean"], update)
        mean, low, high = (dollars(metrics["total_return"][x]) for x in ("mean", "low", "high"))
        self._console.print(
            f"Evaluation after {steps:,} steps: return per episode {mean} (95% {low} to {high}), "
            f"{metrics['trades_per_step']['mean']:.3f} trades per step"
        )

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def _check(figures: dict[str, float], update: int) -> None:
    """Stop the run where its figures stopped being meaningful, and say what failed first."""
    names = ("observation", "reward", "value", "gradient", "weights")
    broken = [name for name in names if figures.pop(f"finite_{name}") < 1]
    if broken:
        raise FloatingPointError(
            f"update {update}: not finite: {', '.join(broken)} (loss {figures['loss']}, gradient norm "
            f"{figures['gradient_norm']}); the newest checkpoint is from before. If the observation or the reward is "
            "in the list, the data or the environment is at fault; otherwise try a lower --learning-rate"
        )
    if figures.pop("lost_truncations"):
        raise ValueError(f"update {update}: episodes were shorter than the rollout: choose a smaller --rollout-length")
    for name in ("episode_return", "final_value"):
        total = figures.pop(name)
        if figures["episodes_per_env"]:
            figures[name] = total / figures["episodes_per_env"]


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a question the loop asks between updates; a second one interrupts."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
