"""How fast are others? kalshi-jax and its peers in one run, on this machine, on the same recordings.

`steps`: environment steps by random actions, beside gymnax's CartPole. `ppo`: our PPO, beside itself on CartPole. `scalar`:
environments stepped one by one. `numpy`: a batch in NumPy. `sb3`: Stable-Baselines3's PPO. `replay`: recorded changes passed a
second, beside hftbacktest's one thread, by all our devices and by one core; it meets every change, we look up those that matter.

Repetitions go around the contestants of an item, so that what else the machine does hits all of them; ratios are of medians, of
the item's first to each. What a peer simulates, and what not, stands in its row: no number here says that two do the same work.

Without recordings (`../shared/data/recordings` beside the repository, or SOURCE) the simulated exchange stands in.

    pip install '.[peers]'
    python -m benchmarks.peers
    python -m benchmarks.peers --items steps ppo --json
    python -m benchmarks.peers 'recordings/*.jsonl.gz'
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro
from rich.console import Console

from benchmarks import measure

if TYPE_CHECKING:
    from benchmarks.contests import Contest, Setup

INSTALL = "not installed: pip install '.[peers]'"
OURS = "kalshi-jax"

Item = Literal["steps", "ppo", "scalar", "numpy", "sb3", "replay"]
SIMULATES = {  # what a peer simulates, what of a market it does not, and how it runs
    OURS: "recorded books; queue position, fees, partial fills, exact money; a batch in JAX",
    "gymnax": "no market; a batch in JAX",
    "gymnasium": "no market; a batch in NumPy",
    "mbt_gym": "a stochastic market, no recordings; a batch in NumPy",
    "gym-trading-env": "one price series; fees; no book, queue, partial fills or exact money; one by one",
    "gym-anytrading": "one price series; fees; no book, queue, partial fills or exact money; one by one",
    "stable-baselines3": "nothing: it trains on any environment; PyTorch",
    "hftbacktest": "recorded books; queue position, latency, fees, partial fills; no exact money; one by one, compiled",
}
PACKAGES = (
    *measure.PACKAGES,
    *("gymnasium", "gym-trading-env", "gym-anytrading", "stable-baselines3", "torch", "hftbacktest", "numba"),
)


@dataclass(frozen=True)
class Config:
    """Time kalshi-jax and its peers in one run; what is not installed is a row that says so."""

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")] = ()
    """Recordings, or "synthetic:..."; by default the crypto recordings beside the repository."""
    items: tuple[Item, ...] = get_args(Item)
    """What to time."""
    repetitions: int = 5
    """Of every contestant; median, least and most are reported."""
    episodes: int = 2048
    """Episodes side by side, where an environment is a batch."""
    steps: int = 256
    """Steps of each in one repetition."""
    scalar_steps: int = 2000
    """Steps in one repetition of an environment that is stepped one by one."""
    sb3_seconds: float = 10
    """Least time for each training by Stable-Baselines3, in as many rollouts as it takes."""
    sb3_envs: int = 16
    """Environments side by side for Stable-Baselines3, where they are stepped one by one."""
    num_envs: int = 1024
    """Environments side by side for PPO."""
    rollout_length: int = 32
    """Steps of each between two updates, for every PPO."""
    epochs: int = 2
    """Passes over the data of an update, for every PPO."""
    minibatches: int = 4
    """Parts of a pass, for every PPO."""
    devices: int = 0
    """Devices to divide our episodes among; 0 takes all. On a CPU every core is one."""
    json: bool = False
    """Print JSON instead of the table."""

    def __post_init__(self) -> None:
        sizes = ("repetitions", "episodes", "steps", "scalar_steps", "sb3_envs", "num_envs", "rollout_length")
        measure.require_least(self, **dict.fromkeys((*sizes, "epochs", "minibatches"), 1), devices=0)


def run(config: Config) -> dict[str, Any]:
    """Time everything asked for: the report that `--json` prints."""
    from benchmarks.contests import Setup, read_events

    source, log = list(config.source) or measure.default_source(), Console(stderr=True)
    setup = Setup(read_events(source), config)
    rows: measure.Rows = []
    for item in config.items:
        log.print(f"{item} ...")
        found = time_item(item, setup, config)
        for row in found:  # also here, should the run be stopped
            rate = "" if row["median"] is None else f": {row['median']:,.0f} a second"
            log.print(f"  {row['peer']}: {row['what']}{rate}", soft_wrap=True, markup=False)
        rows += found
    recorded = {"sessions": len(setup.sessions), "markets": len(setup.index.tickers)}
    return {
        "machine": measure.machine(PACKAGES),
        "settings": measure.settings_of(config, source),
        "synthetic": any(events.synthetic for events in setup.sessions),
        "recorded": recorded | {"rows": setup.rows, "changes": setup.changes},
        "rows": rows,
    }


def time_item(item: Item, setup: Setup, config: Config) -> measure.Rows:
    """Make an item's contests and time them in turns; a row for each, and for each peer that cannot be timed."""
    from benchmarks.outsiders import ITEMS

    contests: list[Contest] = []
    missing: measure.Rows = []
    for peer, build in ITEMS[item]:
        try:
            if isinstance(build, str):
                raise ImportError(build)
            contests += build(setup)
        except ImportError as error:
            why = INSTALL if isinstance(error, ModuleNotFoundError) else str(error)
            missing.append({"item": item, "peer": peer, "what": why, "median": None, "simulates": SIMULATES[peer]})
    rates: list[list[float]] = [[] for _ in contests]
    works, before = [contest.work for contest in contests], [contest.prepare for contest in contests]
    least_s = config.sb3_seconds if item == "sb3" else 0.0
    for i, seconds, units in measure.in_turns(works, config.repetitions, least_s, before):
        rates[i].append(units / seconds)
    ours = statistics.median(rates[0])
    timed = [
        {
            "item": item,
            "peer": contest.peer,
            "what": contest.what,
            "unit": contest.unit,
            **measure.spread(each),
            "repetitions": len(each),
            "compile_s": contest.compile_s,
            "ours_to_this": ours / statistics.median(each),
            "simulates": SIMULATES[contest.peer],
            "facts": dict(contest.facts),
        }
        for contest, each in zip(contests, rates, strict=True)
    ]
    return timed + missing


# -- what is shown

TIMED: dict[str, measure.Cell] = {
    "median /s": lambda r: f"{r['median']:,.0f} {r['unit']}",
    "min to max": lambda r: f"{r['min']:,.0f} to {r['max']:,.0f}",
    "compile, s": lambda r: f"{r['compile_s']:.1f}",
    "ours / this": lambda r: f"{r['ours_to_this']:,.3g}",
    "seen": lambda r: ", ".join(f"{name.replace('_', ' ')} {value:,.3g}" for name, value in r["facts"].items()),
}
COLUMNS: dict[str, measure.Cell] = {
    **{name: lambda r, n=name: r[n] for name in ("peer", "what")},  # type: ignore[misc]
    **{name: lambda r, c=cell: "" if r["median"] is None else c(r) for name, cell in TIMED.items()},  # type: ignore[misc]
    "it simulates": lambda r: r["simulates"],
}


def print_tables(report: dict[str, Any]) -> None:
    recorded, machine = report["recorded"], report["machine"]
    label = "SIMULATED EXCHANGE, no recordings" if report["synthetic"] else "recordings"
    print(f"{label}: {report['settings']['source']}")
    print(f"{recorded['markets']} markets, {recorded['changes']:,} changes in {recorded['rows']:,} rows")
    print(measure.machine_line(machine))
    print(", ".join(f"{name} {number or '-'}" for name, number in machine["versions"].items()))
    for item in dict.fromkeys(row["item"] for row in report["rows"]):
        measure.print_table(item, COLUMNS, [row for row in report["rows"] if row["item"] == item])


if __name__ == "__main__":
    measure.command(Config, __doc__, run, print_tables)
