"""Is the simulated exchange like the recorded one? The same statistics of real recordings and of the presets fitted to them.

Every statistic is measured by one function, from the replayed events of a session, for recordings and simulation alike. Counted
are the times at which a market quotes both sides between 10 and 90 cents, where every source has a tick of a cent, and not the
times without a book.

- *spread*: ask less bid; *at the best*, *best 5 levels*: contracts of a side; all weighted by time
- *changes*: moments at which a market's book changes (rows of the tape); *gap*: from one to the next
- *joining*: contracts by which the size of a best level grows
- *queue gone*: since a size joined a best level, as many contracts have left this level as then rested there, itself included. A
  size counts if its market is recorded for another 60 s
- *traded*: contracts traded of all that leave the book, by trade prints, or where there are none by the exchange's own volume
- *mid moves*: root mean square over 10 s

    python -m benchmarks.fit_simulation                       # the recordings beside the repository, and both presets
    python -m benchmarks.fit_simulation --only crypto --sessions 2
    python -m benchmarks.fit_simulation --save benchmarks/results/fit_simulation.md
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import tyro

from benchmarks.measure import RECORDINGS
from loaders.events import HUNDREDTHS, Events
from loaders.exchange_sim import synthetic_events
from loaders.recordings import read_recordings
from loaders.replay import PRICES, Replay, replay, top_entries
from loaders.sim_config import SimConfig

CENT = 100  # 0.01 cent
LOW, HIGH = 10 * CENT, 90 * CENT
LEVELS = 5
OBSERVED_MS = 60_000
MOVE_MS = 10_000
FILES = {
    "crypto": "kxbtc15m-20260513*.jsonl.gz",
    "index": "inxd-*.jsonl.gz",
}  # preset -> the recordings it is fitted to


@dataclass(frozen=True)
class Config:
    """Measure recordings and the simulated exchange's presets, and print them side by side."""

    only: tuple[Literal["crypto", "index"], ...] = ("crypto", "index")
    """The presets to measure, beside the recordings where those are at hand."""
    sessions: int = 4
    """Simulated sessions of each preset."""
    json: bool = False
    """Print JSON instead of the table."""
    save: Path | None = None
    """Also write the table to a file."""


@dataclass
class Sample:
    """What was seen of one session, as columns to be pooled with other sessions'."""

    seconds: float  # market time that counts
    changes: int
    spread: np.ndarray  # f64[r], cents
    shown_ms: np.ndarray  # i64[r], how long each stood: the gap to the next change
    depth: np.ndarray  # f64[2, S * r], contracts of a side at its best, and over its best 5 levels
    joining: np.ndarray  # f64[j], contracts
    life_ms: np.ndarray  # i64[j'], until the queue has gone, OBSERVED_MS or more: later
    moves: np.ndarray  # f64[m], cents
    left: float  # contracts that left the book
    traded: float  # contracts, NaN: not known


# -- one session


def observe(events: Events, volume: float | None = None) -> Sample:
    """Look at one session; `volume` (contracts) is what was traded in it where it has no prints."""
    replayed = replay(events)
    rows = len(replayed.time_ms)
    market = np.repeat(np.arange(len(replayed.markets)), np.diff(replayed.first_row))
    closing = (replayed.first_row[1:] - 1)[replayed.ends]
    begins = replayed.restart.copy()
    begins[replayed.first_row[:-1]] = True
    begins[closing] = False
    snapshot = begins.copy()  # what it takes from the book, nobody took
    snapshot[closing] = True
    runs = np.append(np.flatnonzero(begins), rows)  # a market between two snapshots
    run = np.cumsum(begins) - 1
    last = np.zeros(rows, bool)
    last[runs[1:] - 1] = True
    best = replayed.best.astype(np.int64)
    quoted = np.all((best >= LOW) & (best <= HIGH), axis=0)
    stands = np.append(np.diff(replayed.time_ms), 0)
    use = np.flatnonzero(quoted & ~last)

    entries = replayed.entries
    fell = np.maximum(entries.before - entries.size, 0) * ~snapshot[entries.step]
    traded = events.trades.size.sum() / HUNDREDTHS if len(events.trades.size) else volume
    mid = (best[0] + PRICES - best[1]) / 2 / CENT
    return Sample(
        seconds=stands[use].sum() / 1000,
        changes=len(use),
        spread=(PRICES - best.sum(axis=0))[use] / CENT,
        shown_ms=stands[use],
        depth=_depths(replayed, use),
        joining=_joining(replayed, quoted & ~begins),
        life_ms=_queue_lives(replayed, quoted & ~begins, replayed.time_ms[runs[1:] - 1][run]),
        moves=_moves(replayed.time_ms, mid, quoted, market, run),
        left=fell.sum() / HUNDREDTHS,
        traded=np.nan if traded is None else traded,
    )


def _depths(replayed: Replay, use: np.ndarray) -> np.ndarray:
    """Add up contracts of each side at its best bid and over its best levels, f64[2, S * len(use)], rows of YES first."""
    depth = np.zeros((2, 2, len(replayed.time_ms)))
    size = np.append(0, replayed.entries.size) / HUNDREDTHS
    for row, side, top in top_entries(replayed, LEVELS):
        depth[0, side, row] = size[top[:, 0]]
        depth[1, side, row] = size[top].sum(axis=1)
    return depth[:, :, use].reshape(2, -1)


def _joins(replayed: Replay, use: np.ndarray) -> np.ndarray:
    """Find the entries by which a best level grows in one of the rows `use` (bool[R]), i64[j]."""
    entries = replayed.entries
    side, price = np.divmod(entries.level, PRICES)
    at_best = replayed.best[side % 2, entries.step] == price
    return np.flatnonzero(at_best & use[entries.step] & (entries.size > entries.before))


def _joining(replayed: Replay, use: np.ndarray) -> np.ndarray:
    joins = _joins(replayed, use)
    return (replayed.entries.size - replayed.entries.before)[joins] / HUNDREDTHS


def _queue_lives(replayed: Replay, use: np.ndarray, end_ms: np.ndarray) -> np.ndarray:
    """Measure how long queues last, i64[j] ms: from a join until all that then rested at the level has left it.

    Contracts that left are added up over all levels, one after the other, so that one search finds each queue's end.

    Args:
        replayed: the session.
        use: bool[R], rows in which a join counts.
        end_ms: i64[R], until when a row's market is recorded.
    """
    entries = replayed.entries
    joins = _joins(replayed, use)
    joins = joins[end_ms[entries.step[joins]] - replayed.time_ms[entries.step[joins]] >= OBSERVED_MS]
    left = np.cumsum(np.maximum(entries.before - entries.size, 0))
    gone = np.searchsorted(left, left[joins] + entries.size[joins])
    level_end = np.searchsorted(entries.level, entries.level[joins], side="right")
    known = gone < level_end
    life = np.full(len(joins), OBSERVED_MS, np.int64)
    then, now = entries.step[gone[known]], entries.step[joins[known]]
    life[known] = np.minimum(replayed.time_ms[then] - replayed.time_ms[now], OBSERVED_MS)
    return life


def _moves(time_ms: np.ndarray, mid: np.ndarray, quoted: np.ndarray, market: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Measure moves of the mid over MOVE_MS, f64[m] cents, one after the other within each market's runs."""
    if not len(time_ms):
        return np.zeros(0)
    start = int(time_ms.min())
    span = int(time_ms.max()) - start + 2 * MOVE_MS
    clock = market * span + time_ms - start  # ascends over all rows
    looks = np.arange(market[-1] + 1)[:, None] * span + np.arange(0, span - MOVE_MS, MOVE_MS)
    row = np.searchsorted(clock, looks, side="right") - 1
    same = (row[:, 1:] >= 0) & (run[row[:, 1:]] == run[row[:, :-1]]) & (row[:, 1:] != row[:, :-1])
    use = same & quoted[row[:, 1:]] & quoted[row[:, :-1]]
    return (mid[row[:, 1:]] - mid[row[:, :-1]])[use]


# -- many sessions


def summarize(samples: Sequence[Sample]) -> dict[str, float]:
    """Pool sessions: name of a statistic -> its value; NaN where it is not known."""
    pooled = {
        name: np.concatenate([getattr(sample, name) for sample in samples], axis=-1)
        for name in ("spread", "shown_ms", "depth", "joining", "life_ms", "moves")
    }
    spread, shown, life = (pooled[name] for name in ("spread", "shown_ms", "life_ms"))
    twice = np.concatenate([np.tile(sample.shown_ms, 2) for sample in samples])
    result = {"spread, cents: mean": float(np.average(spread, weights=shown))}
    result |= {f"spread, cents: {q}%": _quantile(spread, shown, q) for q in (10, 50, 90)}
    for depth, name in zip(pooled["depth"], ("at the best", "best 5 levels"), strict=True):
        result |= {f"{name}, contracts: mean": float(np.average(depth, weights=twice))}
        result |= {f"{name}, contracts: {q}%": _quantile(depth, twice, q) for q in (10, 50, 90)}
    result["changes a second"] = sum(s.changes for s in samples) / sum(s.seconds for s in samples)
    result |= {f"gap, ms: {q}%": float(np.percentile(shown, q)) for q in (10, 50, 90, 99)}
    result |= {f"joining, contracts: {q}%": float(np.percentile(pooled["joining"], q)) for q in (10, 50, 90)}
    result |= {f"queue gone within {s} s, %": 100 * float((life <= s * 1000).mean()) for s in (1, 10)}
    result["queue gone within 60 s, %"] = 100 * float((life < OBSERVED_MS).mean())
    result["traded, % of what leaves"] = 100 * sum(s.traded for s in samples) / sum(s.left for s in samples)
    result["mid moves in 10 s, cents"] = float(np.sqrt(np.mean(pooled["moves"] ** 2)))
    return result


def _quantile(values: np.ndarray, weights: np.ndarray, percent: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] * percent / 100)])


def recorded(paths: Sequence[Path]) -> Iterator[Sample]:
    """Look at recordings one by one."""
    for path, events in zip(paths, read_recordings(list(paths)), strict=True):
        yield observe(events, traded_volume(path))


def traded_volume(path: Path) -> float | None:
    """Take from a recording's ticker frames how many contracts were traded while it ran; None without such frames."""
    seen: dict[str, list[float]] = {}
    with gzip.open(path) as file:
        for line in file:
            if b'"ticker"' in line and (frame := orjson.loads(line))["type"] == "ticker":
                message = frame["msg"]
                seen.setdefault(message["market_ticker"], []).append(float(message["volume_fp"]))
    return sum(max(volumes) - min(volumes) for volumes in seen.values()) if seen else None


def run(config: Config) -> dict[str, Any]:
    """Measure every preset and what it is fitted to: its specification, the number of recordings, and the statistics of both."""
    report: dict[str, Any] = {}
    for name in config.only:
        preset = SimConfig.preset(name, sessions=config.sessions)
        paths = sorted(RECORDINGS.glob(FILES[name]))
        report[name] = {
            "preset": preset.spec,
            "recordings": len(paths),
            "measured": summarize(list(recorded(paths))) if paths else {},
            "fitted": summarize([observe(events) for events in synthetic_events(preset)]),
        }
    return report


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown, measured beside fitted."""
    kinds: list[tuple[str, dict[str, float]]] = []
    for name, part in report.items():
        kinds += [(f"{name}: {kind}", part[kind]) for kind in ("measured", "fitted") if part[kind]]
    lines = ["| | " + " | ".join(title for title, _ in kinds) + " |", "|---|" + "--:|" * len(kinds)]
    for statistic in next(iter(report.values()))["fitted"]:
        cells = [_number(found[statistic]) for _, found in kinds]
        lines.append(f"| {statistic} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {name}: {part['recordings']} recordings; `{part['preset']}`" for name, part in report.items())]
    return "\n".join(lines)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    config = tyro.cli(Config, args=arguments, description=__doc__)
    report = run(config)
    print(json.dumps(report, indent=2) if config.json else table(report))
    if config.save:
        config.save.write_text(f"# The simulated exchange beside recordings\n\n{table(report)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
