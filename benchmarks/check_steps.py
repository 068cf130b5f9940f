"""Check the environment against the oracle: random episodes on real recordings with every option, field by field.

Recordings are read twice, by the loader and by the oracle of tests/reference, which is plain Python written from the exchange's
rules. Random actions, nearly all of them legal, go through both, and cash, positions, cost, fees, value, orders, masks and ends
must be equal at every step. What the episodes covered is listed at the end; the exit status is 1 where something was covered in
fewer than 100 episodes.

    python -m benchmarks.check_steps                      # 2,000 episodes: some twenty minutes on a core
    python -m benchmarks.check_steps --episodes 200 --steps 200
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loaders import load_tape
from tests.reference.books import DOLLAR
from tests.reference.compare import Setting, check_rows, compare, load

NAMES = (
    "mlb-20260807",
    "kxbtc-20260418",
    "inxd-20230410",
    "inxd-20230413",
    *(f"kxbtc15m-{moment}" for moment in ("20260511T0531", "20260513T0552", "20260513T1259", "20260513T1640")),
    *(f"kxbtc15m-{moment}" for moment in ("20260514T0431", "20260514T0438", "20260514T1223")),
)
RESULTS = ("yes", "no", "scalar", "void", None)
GROUP = 40  # episodes of one setting: an option is drawn anew for each group, a program compiled for each
ENOUGH = 100

OPTIONS: dict[str, tuple[Any, ...]] = {  # field of Setting -> what it is drawn from
    "slots": (1, 5),
    "orders_per_market": (1, 2),
    "order_sizes": ((10,), (5, 10, 20), (1, 500)),
    "decision_interval_ms": (0, 100, 1000, 5000),
    "hold_cancels": (True, False),
    "mark": ("mid", "exit"),
    "initial_cash": (10_000 * DOLLAR, 60 * DOLLAR),
    "taker_rate": (None, 350, 0),
    "taker_flat": (0, 70),
    "maker_rate": (0, 175, 350),
    "maker_flat": (0, 25),
    "queue_model": ("risk_averse", "power", "log", "optimistic"),
    "queue_exponent": (1, 2, 3),
    "certain_fill": ("whole", "displayed"),
    "latency_ms": (0, 0, 50, 100),
    "remembered_levels": (8, 4),
}


@dataclass(frozen=True)
class CheckSteps:
    """Compare random episodes of the environment with the oracle, field by field and step by step."""

    folder: Path = Path("../shared/data/recordings")
    """Of the recordings."""
    episodes: int = 2000
    """Random episodes, in groups of 40 with one setting each."""
    steps: int = 500
    """Most steps of an episode."""
    seed: int = 0
    """Of settings, episodes and actions."""
    json: bool = False
    """Print the coverage as JSON."""


def main() -> int:
    config = tyro.cli(CheckSteps, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))
    paths = [config.folder / f"{name}.jsonl.gz" for name in NAMES]
    with tempfile.TemporaryDirectory() as folder:
        metadata = write_closes(Path(folder) / "closes.json", paths, config.folder.parent / "markets.json")
        source = load(paths, metadata)
    console = Console(stderr=True)
    console.print(f"{check_rows(source):,} rows of {len(source.sessions)} sessions equal the oracle's")
    covered: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for setting in track(settings(config), "Episodes", console=console):
        tally = dict(vars(compare(source, range(len(source.sessions)), setting)))
        for name in OPTIONS:
            covered[f"{name} = {getattr(setting, name)}"] += setting.episodes
        covered.update({f"holding settled: {name}": n for name, n in tally.pop("results").items()})
        covered.update({f"ended: {name}": n for name, n in tally.pop("ends").items()})
        covered["restart cancelled an order"] += tally.pop("restarted")
        events.update(tally)
    if config.json:
        print(
            json.dumps({"settings": asdict(config) | {"folder": ""}, "events": events, "episodes": covered}, indent=2)
        )
    else:
        show(covered, events)
    few = {name: n for name, n in covered.items() if n < ENOUGH}
    if few:
        print(f"covered in fewer than {ENOUGH} episodes: {few}", file=sys.stderr)
    return 1 if few else 0


def settings(config: CheckSteps) -> list[Setting]:
    """Draw a setting for each group: the values of every option come round in a random order of their own."""
    rng = np.random.default_rng(config.seed)
    groups = -(-config.episodes // GROUP)
    drawn = {}
    for name, values in OPTIONS.items():
        rounds = [rng.permutation(len(values)) for _ in range(-(-groups // len(values)))]
        drawn[name] = [values[i] for i in np.concatenate(rounds)[:groups]]
    made = []
    for group in range(groups):
        chosen = {name: values[group] for name, values in drawn.items()}
        setting = Setting(episodes=GROUP, steps=config.steps, seed=config.seed + group, near_end=0.6, **chosen)
        interval = setting.decision_interval_ms
        made.append(replace(setting, latency_ms=min(setting.latency_ms, interval or setting.latency_ms)))
    return made


def write_closes(path: Path, paths: list[Path], known: Path) -> Path:
    """Write close times for the markets of recordings: the known ones, and for others a moment before their recording ends.

    Results go round yes, no, scalar, void and unknown, so that each occurs: this is about the rules, not about what happened.
    """
    closes = json.loads(known.read_text())
    _, index = load_tape([str(path) for path in paths])
    for number, (session, ticker) in enumerate((s, ticker) for s in index.sessions for ticker in s.tickers):
        end = session.started_at_ms + 0.8 * (session.ended_at_ms - session.started_at_ms)
        moment = datetime.fromtimestamp(end / 1000, UTC).isoformat(timespec="milliseconds")
        closes[ticker] = {
            "close_time": closes.get(ticker, {}).get("close_time", moment),
            "result": RESULTS[number % len(RESULTS)],
            "settlement_value_dollars": "0.3725",
        }
    path.write_text(json.dumps(closes))
    return path


def show(covered: Counter[str], events: Counter[str]) -> None:
    """Print what happened and what was covered."""
    print(", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in events.items()))
    table = Table("covered", "episodes")
    for name, n in sorted(covered.items()):
        table.add_row(name, f"{n:,}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
