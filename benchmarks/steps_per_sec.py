"""Environment steps per second: the environment alone, and PPO end to end, beside gymnax's CartPole-v1 under the same harness.

Each slice varies one thing, and is a table of its own:

    episodes  parallel episodes
    changes   recorded changes that a step passes, for each queue model, with orders that rest all the time
    markets   market slots, on a source whose sessions have so many
    features  tier 1 alone, with tier 2, with all
    actions   random, resting, or the policy's network sampled
    clocks    the event clock, and fixed ones
    ppo       PPO's whole update, beside the same PPO and network on CartPole
    compile   compile times of the environment's steps and of PPO's update, without and with what a cache on disk holds

Every row is compiled apart and runs once unmeasured; then it and CartPole repeat in turns, so that what else the machine does
hits both. The ratio is of medians, to CartPole at the same number of episodes, on the same devices, with random actions; in the
slices `changes` and `markets` there is also the speed relative to the first row (of the same queue model). A fixed clock is
told by the recorded changes of a market in a step: its interval is computed from the source's own rate, and what steps really
passed is counted and printed beside it. The share of the copy bandwidth is explained in benchmarks/rollouts.py.

    python -m benchmarks.steps_per_sec
    python -m benchmarks.steps_per_sec '../shared/data/recordings/kxbtc15m-20260513*' --only changes --plot speed.png
    python -m benchmarks.steps_per_sec synthetic:sessions=2 --only episodes ppo --episodes 64 1024 --devices 1 --json
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from benchmarks import measure
from benchmarks.measure import Rows, require

if TYPE_CHECKING:
    from benchmarks.rollouts import Program, Setting, World

Slice = Literal["episodes", "changes", "markets", "features", "actions", "clocks", "ppo", "compile"]
Features = Literal["book", "time", "all"]
Actions = Literal["random", "wait", "policy"]
QueueModel = Literal["risk_averse", "power", "log", "optimistic"]
LONGEST, SHORTEST = 1000, 16  # steps of one run


@dataclass(frozen=True)
class Config:
    """Measure environment steps per second."""

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")] = ()
    """Recordings, a store, or "synthetic:..."; by default the crypto recordings beside the repository."""
    many: str = "synthetic:sessions=2,markets=10,seconds=600,rate=25"
    """Source of the slice `markets`: one whose sessions have as many markets as there are slots."""
    only: tuple[Slice, ...] = get_args(Slice)
    """Slices to measure."""
    episodes: tuple[int, ...] = tuple(4**i for i in range(9))
    """Parallel episodes of the slice `episodes`."""
    markets: tuple[int, ...] = (1, 5, 10)
    """Market slots of the slice `markets`."""
    changes: tuple[int, ...] = (1, 10, 100)
    """Recorded changes of a market in a step of a fixed clock, of the slices `changes` and `clocks`."""
    features: tuple[Features, ...] = get_args(Features)
    """Tier 1 (`book`), with tier 2 (`time`), with tier 3 (`all`)."""
    actions: tuple[Actions, ...] = get_args(Actions)
    """Who acts in the slice `actions`."""
    queue_models: tuple[QueueModel, ...] = get_args(QueueModel)
    """Of the slice `changes`."""
    at_episodes: int = 2048
    """Parallel episodes of the slices `changes`, `markets`, `features`, `actions` and `clocks`."""
    ppo_episodes: int = 4096
    """Parallel episodes of the slices `ppo` and `compile`."""
    at_changes: int = 10
    """Recorded changes in a step of the other slices; 0 is the event clock."""
    episode_length: int = 200
    """Steps of an episode."""
    transitions: int = 1_000_000
    """Environment steps of a repetition; no more than 1,000 and no fewer than 16 of each episode."""
    repetitions: int = 5
    """Measured runs of each row."""
    devices: int = 0
    """Devices to divide the episodes among; 0 takes all. On a CPU every core is one."""
    copy_mb: int = 256
    """Size of the array that is copied to measure the memory's bandwidth."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print JSON instead of tables."""
    plot: Path | None = None
    """Draw steps per second against episodes and against changes per step into a PNG."""

    def __post_init__(self) -> None:
        sizes = ("at_episodes", "episode_length", "transitions", "repetitions", "copy_mb")
        lists = ("episodes", "markets", "changes")
        measure.require_least(self, **dict.fromkeys(sizes + lists, 1), at_changes=0, devices=0)
        for name in ("only", "features", "actions", "queue_models"):
            require(len(getattr(self, name)) > 0, name, getattr(self, name), "at least one")
        fits = self.ppo_episodes >= 4 and self.ppo_episodes % 4 == 0
        require(fits, "ppo_episodes", self.ppo_episodes, "a multiple of PPO's 4 minibatches")
        drawn = self.plot is None or {"episodes", "changes"} & set(self.only)
        require(bool(drawn), "plot", self.plot, "the slice episodes or changes among those measured")


def slices(config: Config) -> dict[Slice, list[Setting]]:
    """Plan the rows of each slice; PPO's and the compiler's are one."""
    from benchmarks.rollouts import Setting

    base = Setting(config.at_episodes, changes=config.at_changes, episode_length=config.episode_length)
    resting, learning = replace(base, actions="wait"), replace(base, episodes=config.ppo_episodes)
    each: dict[Slice, list[Setting]] = {
        "episodes": [replace(base, episodes=x) for x in config.episodes],
        "changes": [replace(resting, queue=q, changes=x) for q in config.queue_models for x in config.changes],
        "markets": [replace(base, markets=x) for x in config.markets],
        "features": [replace(base, features=x) for x in config.features],
        "actions": [replace(base, actions=x) for x in config.actions],
        "clocks": [replace(base, changes=x) for x in (0, *config.changes)],
        "ppo": [learning],
        "compile": [learning],
    }
    return {name: settings for name, settings in each.items() if name in config.only}


def run(config: Config) -> dict[str, Any]:
    """Measure all slices: the report that `--json` prints."""
    from benchmarks import rollouts
    from loaders import load_tape

    source = list(config.source) or measure.default_source()
    planned, tapes = slices(config), {}
    if set(planned) - {"markets"}:
        tapes["source"] = load_tape(source)[0]
    if "markets" in planned:
        tapes["many"] = load_tape(config.many)[0]
    bandwidth = rollouts.copy_bandwidth(config.copy_mb, config.repetitions, config.devices)

    def prepare(world: World, episodes: int) -> Program:
        steps = min(max(config.transitions // episodes, SHORTEST), LONGEST)
        return rollouts.prepare_steps(world, episodes, steps, config.devices, config.seed)

    @cache
    def cartpole(episodes: int) -> Program:
        return prepare(rollouts.cartpole_world(), episodes)

    @cache  # rows that occur in several slices are measured once
    def steps(setting: Setting, tape: str) -> dict[str, Any]:
        world = rollouts.kalshi_world(tapes[tape], setting, config.seed)
        program = prepare(world, setting.episodes)
        ours, theirs = rollouts.time_programs([program, cartpole(setting.episodes)], config.repetitions)
        row = {"world": "kalshi", **asdict(setting), **ours, **rollouts.counts(world, program), **beside(ours, theirs)}
        row["rows_per_s"] = row["rows_per_step"] * row["steps_per_s"]
        row["bandwidth_share"] = row["step_bytes"] * row["steps_per_s"] / bandwidth
        return row

    def ppo(setting: Setting) -> dict[str, Any]:
        training = replace(rollouts.train_config(tapes["source"], setting), num_envs=setting.episodes)
        programs = [rollouts.prepare_ppo(training, x, config.devices, config.seed) for x in (tapes["source"], None)]
        ours, theirs = rollouts.time_programs(programs, config.repetitions)
        return {"world": "kalshi", **asdict(setting), **ours, **beside(ours, theirs)}

    found: dict[str, Rows] = {}
    with measure.progress_bar() as bar:
        task = bar.add_task("", total=sum(map(len, planned.values())))
        for name, settings in planned.items():
            found[name] = []
            for setting in settings:
                bar.update(task, description=f"{name}: {' '.join(map(str, asdict(setting).values()))}")
                if name == "ppo":
                    found[name].append(ppo(setting))
                elif name == "compile":
                    with TemporaryDirectory() as folder:
                        compiled = rollouts.compile_programs(tapes["source"], setting, folder, config.devices)
                    found[name] += [{"program": program, **seconds} for program, seconds in compiled.items()]
                else:
                    found[name].append(steps(setting, "many" if name == "markets" else "source"))
                bar.advance(task)
            if name in RELATIVE:
                found[name] = relative(found[name])
    return {
        "machine": measure.machine(),
        "settings": measure.settings_of(config, source) | {"many": measure.describe_source([config.many])},
        "changes_per_s": {name: rollouts.changes_per_second(tape) for name, tape in tapes.items()},
        "copy_bytes_per_s": bandwidth,
        "slices": found,
    }


def beside(ours: dict[str, Any], cartpole: dict[str, Any]) -> dict[str, Any]:
    """Give CartPole's figures, for a row of ours."""
    figures = {f"cartpole_{name}": cartpole[name] for name in ("steps_per_s", "run_s", "compile_s")}
    return figures | {"cartpole_ratio": ours["steps_per_s"] / cartpole["steps_per_s"]}


def relative(rows: Rows) -> Rows:
    """Compare the speed of each row with the first of the same queue model."""
    first: dict[str, float] = {}
    return [row | {"of_first": row["steps_per_s"] / first.setdefault(row["queue"], row["steps_per_s"])} for row in rows]


# -- what is shown

SUBJECT: dict[str, measure.Cell] = {
    "episodes": lambda r: f"{r['episodes']:,}",
    "changes": lambda r: f"{r['queue']}, {r['changes']}",
    "markets": lambda r: f"{r['markets']} ({r['slots_used']:.1f} used)",
    "features": lambda r: r["features"],
    "actions": lambda r: r["actions"],
    "clocks": lambda r: f"fixed, {r['changes']}" if r["changes"] else "event",
    "ppo": lambda r: f"{r['episodes']:,} episodes",
}
SPEED: dict[str, measure.Cell] = {
    "steps/s": lambda r: f"{r['steps_per_s']:,.0f}",
    "CartPole's": lambda r: f"{r['cartpole_steps_per_s']:,.0f}",
    "ratio": lambda r: f"{r['cartpole_ratio']:.3f}",
}
PASSED: dict[str, measure.Cell] = {
    "interval, ms": lambda r: f"{r['interval_ms']:,}" if r["interval_ms"] else "-",
    "rows a step": lambda r: f"{r['rows_per_step']:.2f}",
    "rows/s": lambda r: f"{r['rows_per_s']:,.0f}",
    "resting": lambda r: f"{r['resting_share']:.0%}",
}
RELATIVE: dict[str, dict[str, measure.Cell]] = {
    name: {f"of first {name}": lambda r: f"{r['of_first']:.3f}"} for name in ("changes", "markets")
}
COSTS: dict[str, measure.Cell] = {
    "compile, s": lambda r: f"{r['compile_s']:.1f}",
    "run, s (min to max)": lambda r: measure.seconds(r["run_s"]),
    "program, MB": lambda r: "-" if r["program_bytes"] is None else f"{r['program_bytes'] / 1e6:,.0f}",
    "memory, MB": lambda r: f"{r['memory_bytes'] / 1e6:,.0f}",
}
ROOF: dict[str, measure.Cell] = {
    "bytes a step": lambda r: f"{r['step_bytes']:,}",
    "of bandwidth": lambda r: f"{r['bandwidth_share']:.1%}",
}
COMPILE: dict[str, measure.Cell] = {
    "program": lambda r: r["program"],
    "cold, s": lambda r: f"{r['cold_s']:.1f}",
    "warm, s": lambda r: f"{r['warm_s']:.1f}",
}


def print_tables(report: dict[str, Any]) -> None:
    copies = f"copies {report['copy_bytes_per_s'] / 1e9:.1f} GB/s"
    print(f"{measure.machine_line(report['machine'])}; {report['settings']['source']}; {copies}")
    for name, rows in report["slices"].items():
        if name == "compile":
            columns = COMPILE
        else:
            counted = {} if name == "ppo" else PASSED | ROOF
            columns = {name: SUBJECT[name]} | SPEED | RELATIVE.get(name, {}) | counted | COSTS
        measure.print_table(name, columns, rows)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw steps per second against episodes, and against recorded changes per step, on logarithmic axes."""
    from matplotlib.figure import Figure

    slices, curves = report["slices"], {}
    if rows := slices.get("episodes"):
        names = {"cartpole_steps_per_s": "CartPole-v1", "steps_per_s": "1 market, all features"}
        curves["parallel episodes"] = {
            label: [(r["episodes"], r[field]) for r in rows] for field, label in names.items()
        }
    if rows := slices.get("changes"):
        curves["recorded changes a step, orders resting"] = {
            queue: [(r["rows_per_step"], r["steps_per_s"]) for r in rows if r["queue"] == queue]
            for queue in dict.fromkeys(r["queue"] for r in rows)
        }
    figure = Figure(figsize=(5.5 * len(curves), 4.5), layout="constrained")
    for axes, (label, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), "o-", label=name)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="steps per second")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    config, report = measure.command(Config, __doc__, run, print_tables)
    if config.plot:
        draw(report, config.plot)
