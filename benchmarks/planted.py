"""Does PPO find a planted pattern, on markets that it has not seen, by the features that show it, and nothing where nothing is?

For each preset of the simulated exchange that plants a pattern (`loaders.patterns`), agents of several seeds are trained, and as
many again without the tier of features that shows it; on the preset without one, agents are trained once. All are judged on
sessions of another seed of the exchange (unseen) and on their own (seen), beside policies that learn nothing. A return is the
mean over agents and windows, $ an episode; its interval is a bootstrap over markets.

    python -m benchmarks.planted --runs runs/planted
    python -m benchmarks.planted --patterns imbalance --seeds 2 --steps 1_000_000 --json

Runs that `--runs` has already are not trained again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console

from agents.evaluation import Outcome, all_windows, compare_seen, dollars, evaluate
from agents.runs import RunFolder, TrainConfig, make_environment
from agents.training import train
from benchmarks import measure
from loaders import load_tape

Pattern = Literal["imbalance", "bursts", "reversion", "control"]
WITHOUT = {  # of each pattern, the features that show it
    "imbalance": {"sequence_features": False},
    "bursts": {"temporal_features": False},
    "reversion": {"sequence_features": False},
}
# News takes half a minute and more to come: who decides every second has sold again before.
PACES: dict[str, dict[str, int]] = {"bursts": {"decision_interval_ms": 5000, "episode_length": 120}}
BASELINES = ("random", "hold", "always take", "momentum", "market maker")


@dataclass(frozen=True)
class Config:
    """Train agents on planted patterns and judge them on unseen markets."""

    runs: Path
    """Folder of the runs."""
    patterns: tuple[Pattern, ...] = get_args(Pattern)
    """Presets of the simulated exchange; `control` has no pattern."""
    seeds: int = 5
    """Agents of each kind."""
    steps: int = 4_000_000
    """Environment steps of each agent's training."""
    sessions: int = 40
    """Sessions to train on, and as many to judge on; each has three markets of ten minutes."""
    json: bool = False
    """Print JSON instead of the table."""

    def __post_init__(self) -> None:
        measure.require_least(self, seeds=1, steps=1, sessions=2)


def settings(config: Config, pattern: str, **features: Any) -> TrainConfig:
    """Give the settings of the agents of a pattern."""
    return TrainConfig(
        source=(f"synthetic:like={pattern},sessions={config.sessions},seed=1",),
        out=config.runs / (pattern + "-without" * bool(features)),
        total_steps=config.steps,
        seeds=config.seeds,
        num_envs=256,
        rollout_length=128,
        epochs=4,
        minibatches=8,
        discount=0.97,
        learning_rate=1e-3,
        evaluate_every=1000,
        checkpoint_every=40,
        **({"decision_interval_ms": 1000, "episode_length": 300} | PACES.get(pattern, {}) | features),
    )


def judge(config: TrainConfig, source: str, policies: tuple[str, ...]) -> list[Outcome]:
    """Play the agents of all seeds, as one policy, and others on all windows of a source."""
    tape, _ = load_tape(source)
    env, params, network = make_environment(config, tape)
    windows = all_windows(tape, config.max_markets, config.episode_length, config.decision_interval_ms)
    assert config.out is not None, "settings() names a folder"
    folder = RunFolder(config.out)
    agents = folder.of_seeds(config.seeds_used) if config.seeds > 1 else [folder]
    played = [
        evaluate(env, network, agent.restore_weights(), params, windows, ("agent",), seeds=1)[0] for agent in agents
    ]
    metrics = {name: np.concatenate([one.metrics[name] for one in played]) for name in played[0].metrics}
    others = evaluate(env, network, agents[0].restore_weights(), params, windows, policies, seeds=1) if policies else []
    return [replace(played[0], metrics=metrics), *others]


def measure_pattern(config: Config, pattern: Pattern, console: Console) -> dict[str, Any]:
    """Train and judge the agents of a pattern: a row of the table."""
    whole = settings(config, pattern)
    kinds = [whole] + ([settings(config, pattern, **WITHOUT[pattern])] if pattern in WITHOUT else [])
    for kind in kinds:
        there = kind.out is not None and (kind.out / "config.json").exists()
        train(replace(kind, resume=there), console)
    seen_source = whole.source[0]
    unseen_source = seen_source.replace("seed=1", "seed=2")
    unseen, seen = judge(whole, unseen_source, BASELINES), judge(whole, seen_source, ())
    returns = {outcome.policy: outcome.summary()["total_return"] for outcome in unseen}
    row: dict[str, Any] = {
        "pattern": pattern,
        "agent": returns.pop("agent"),
        "of_each_seed": unseen[0].metrics["total_return"].mean(axis=1).tolist(),
        "others": returns,
        "seen": seen[0].summary()["total_return"],
        "kept": {name: None if x != x else x for name, x in vars(compare_seen(unseen, seen)["agent"]).items()},  # NaN
        "windows": unseen[0].metrics["total_return"].shape[1],
    }
    if len(kinds) > 1:
        row["without"] = judge(kinds[1], unseen_source, ())[0].summary()["total_return"]
        row["left_out"] = next(iter(WITHOUT[pattern]))
    return row


def run(config: Config) -> dict[str, Any]:
    """Measure all patterns: the report that `--json` prints."""
    console, rows = Console(stderr=True), []
    for pattern in config.patterns:
        rows.append(measure_pattern(config, pattern, console))
        print_tables({"rows": rows[-1:]}, file=sys.stderr)  # also here, should the run be stopped
    return {"machine": measure.machine(), "settings": measure.settings_of(config, ["synthetic:like=..."]), "rows": rows}


def print_tables(report: dict[str, Any], file: Any = None) -> None:
    def money(figure: dict[str, float]) -> str:
        return f"{dollars(figure['mean'])} ({dollars(figure['low'])} to {dollars(figure['high'])})"

    columns: dict[str, measure.Cell] = {
        "pattern": lambda r: r["pattern"],
        "agents, unseen (95%)": lambda r: money(r["agent"]),
        "by seed": lambda r: ", ".join(f"{x:,.0f}" for x in r["of_each_seed"]),
        **{name: lambda r, n=name: money(r["others"][n]) for name in BASELINES},  # type: ignore[misc]
        "agents, seen": lambda r: money(r["seen"]),
        "kept": lambda r: r["kept"]["reason"] or f"{r['kept']['ratio']:.0%}",
        "without the tier that shows it": lambda r: money(r["without"]) if "without" in r else "-",
    }
    for row in report["rows"]:  # one below the other: too wide for a table
        for name, cell in columns.items():
            print(f"{name:>32}  {cell(row)}", file=file)
        print(file=file)


if __name__ == "__main__":
    measure.command(Config, __doc__, run, print_tables)
