"""What one call costs from Python: a step, a reset, an observation, a policy of a single episode, and the Gymnasium environment.

Nothing is vmapped, and every call waits for its results, so dispatch counts as it does for a live trader. `step` is the whole one
of gymnax: it begins a new episode where one ends, and observes the last state of the old one too; `transition` and
`observation` are what it is made of. `gymnasium step` goes through `kalshi_jax.adapters` and brings everything to NumPy.

    python -m benchmarks.latency
    python -m benchmarks.latency synthetic:sessions=1,markets=5 --calls 5000 --json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from agents.networks import forward, sample_actions
from agents.runs import TrainConfig, make_environment
from benchmarks import measure
from benchmarks.rollouts import FEATURES
from kalshi_jax import Tape
from kalshi_jax.adapters import KalshiGymEnv
from loaders import load_tape

Call = Callable[[], Any]


@dataclass(frozen=True)
class Config:
    """Measure how long single calls take."""

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")] = ()
    """Recordings, a store, or "synthetic:..."; by default the simulated exchange with as many markets as there are slots."""
    markets: tuple[int, ...] = (1, 5)
    """Market slots."""
    intervals_ms: tuple[int, ...] = (0, 1000)
    """Clocks: 0 is the event clock."""
    features: Literal["book", "time", "all"] = "all"
    """Tier 1 (`book`), with tier 2 (`time`), with tier 3 (`all`)."""
    calls: int = 2000
    """Measured calls of each kind."""
    warm_up: int = 100
    """Calls before those."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print JSON instead of the table."""

    def __post_init__(self) -> None:
        # a warm-up at least: the first call compiles
        measure.require_least(self, markets=1, intervals_ms=0, calls=1, warm_up=1)


def calls_of(
    tape: Tape, markets: int, interval_ms: int, features: str, seed: int
) -> dict[str, tuple[Call, Call | None]]:
    """Prepare the calls, and what is done before each: they give what is to be waited for, and steps go on from each other."""
    temporal, sequence = FEATURES[features]
    training = TrainConfig(
        source=(),
        max_markets=markets,
        decision_interval_ms=interval_ms,
        temporal_features=temporal,
        sequence_features=sequence,
    )
    env, params, network = make_environment(training, tape)
    key = jax.random.key(seed)
    obs, state = env.reset(key, params)
    weights = jax.jit(network.init)(key, obs)
    actions = list(jax.random.randint(key, (1000, *env.action_space(params).shape), 0, env.num_actions))
    host_actions = [np.asarray(action).ravel() for action in actions]
    transition, observation = jax.jit(env.transition), jax.jit(env.observation)
    policy = jax.jit(lambda weights, obs, key: sample_actions(key, forward(network, weights, obs, ())[0])[0])
    gym, done, number = KalshiGymEnv(env, params), True, 0

    def step() -> Any:
        nonlocal state, number
        number += 1
        outcome = env.step(key, state, actions[number % len(actions)], params)
        state = outcome[1]
        return outcome

    def gym_step() -> None:
        nonlocal done, number
        number += 1
        outcome = gym.step(host_actions[number % len(actions)])
        done = outcome[2] or outcome[3]

    def gym_reset() -> None:
        if done:
            gym.reset(seed=number)

    return {
        "step": (step, None),
        "transition": (lambda: transition(state, actions[0], params), None),
        "reset": (lambda: env.reset(key, params), None),
        "observation": (lambda: observation(state, params), None),
        "policy": (lambda: policy(weights, obs, key), None),
        "gymnasium step": (gym_step, gym_reset),
        "gymnasium reset": (lambda: gym.reset(seed=seed)[1], None),
    }


def run(config: Config) -> dict[str, Any]:
    """Measure all calls: the report that `--json` prints. Times in microseconds."""
    rows: measure.Rows = []
    with measure.progress_bar() as bar:
        task = bar.add_task("", total=len(config.markets) * len(config.intervals_ms))
        for markets in config.markets:
            source = list(config.source) or [f"synthetic:sessions=2,markets={markets},seconds=600,rate=25"]
            tape, _ = load_tape(source)
            for interval_ms in config.intervals_ms:
                bar.update(task, description=f"{markets} markets, {interval_ms} ms")
                for name, (call, before) in calls_of(tape, markets, interval_ms, config.features, config.seed).items():
                    times = measure.seconds_of(call, config.calls, config.warm_up, before)
                    median, p95, p99 = (float(x) for x in np.percentile(np.array(times) * 1e6, (50, 95, 99)))
                    row = {"call": name, "markets": markets, "interval_ms": interval_ms, "calls": len(times)}
                    rows.append(row | {"median_us": median, "p95_us": p95, "p99_us": p99})
                bar.advance(task)
    settings = measure.settings_of(config, config.source or ["simulated"])
    return {"machine": measure.machine(), "settings": settings, "rows": rows}


def print_tables(report: dict[str, Any]) -> None:
    columns: dict[str, measure.Cell] = {
        "call": lambda r: r["call"],
        "markets": lambda r: str(r["markets"]),
        "clock": lambda r: f"{r['interval_ms']:,} ms" if r["interval_ms"] else "event",
        **{name: lambda r, n=name: f"{r[f'{n}_us']:,.0f} us" for name in ("median", "p95", "p99")},  # type: ignore[misc]
    }
    measure.print_table(f"one call of one episode, {report['machine']['device']}", columns, report["rows"])


if __name__ == "__main__":
    measure.command(Config, __doc__, run, print_tables)
