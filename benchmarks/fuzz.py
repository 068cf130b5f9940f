"""Fuzzing: broken recordings, database rows and metadata files, and what the loaders make of each.

Every input is a sound one of the simulated exchange with a few accidents: lines lost, swapped, halved or joined, bytes flipped or
cut off, gzip streams damaged, values of the wrong type or far out of bounds, times and sequence numbers that jump. It must be
refused with an error that names it, or be used with every row accounted for and books that are possible: see
tests/loaders/verdicts.py. Anything else is printed with the seed that shows it again, and the exit code is 1.

    python -m benchmarks.fuzz
    python -m benchmarks.fuzz --inputs 1000 --seed 7 --json
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import measure
from tests.loaders.verdicts import DATABASE, METADATA, RECORDING, Fuzzer

KINDS = (RECORDING,) * 12 + (DATABASE,) * 7 + (METADATA,)  # of each twenty inputs
OUTCOMES = ("refused", "used with reports", "used")


@dataclass(frozen=True)
class Config:
    """Feed broken inputs to the loaders."""

    inputs: int = 100_000
    """Inputs in all: 60% recordings, 35% rows of the database, 5% metadata files."""
    seed: int = 0
    """Of the first input; each has its own, one more than the one before."""
    json: bool = False
    """Print JSON instead of the tables."""

    def __post_init__(self) -> None:
        measure.require_least(self, inputs=1, seed=0)


def run(config: Config) -> dict[str, Any]:
    """Feed all inputs: the report that `--json` prints."""
    count: dict[str, Counter[str]] = {kind: Counter() for kind in (RECORDING, DATABASE, METADATA)}
    reasons: dict[str, Counter[str]] = {kind: Counter() for kind in count}
    defects = []
    began = time.perf_counter()
    with TemporaryDirectory(prefix="kalshi-jax-") as folder, measure.progress_bar() as bar:
        fuzzer = Fuzzer(Path(folder))
        for seed in bar.track(range(config.seed, config.seed + config.inputs), description="inputs"):
            kind = KINDS[seed % len(KINDS)]
            try:
                outcome = fuzzer.feed(kind, seed)
            except Exception:
                defects.append({"input": kind, "seed": seed, "traceback": traceback.format_exc()})
                count[kind]["defects"] += 1
                continue
            count[kind][outcome.kind] += 1
            reasons[kind].update(outcome.reasons)
    return {
        "machine": measure.machine(),
        "settings": {"inputs": config.inputs, "seed": config.seed},
        "seconds": time.perf_counter() - began,
        "rows": [{"input": kind, "inputs": found.total(), **found} for kind, found in count.items()],
        "reasons": {kind: dict(found.most_common()) for kind, found in reasons.items()},
        "defects": defects,
    }


def print_tables(report: dict[str, Any]) -> None:
    columns: dict[str, measure.Cell] = {"input": lambda r: r["input"]}
    for name in ("inputs", *OUTCOMES, "defects"):
        columns[name] = lambda r, n=name: f"{r.get(n, 0):,}"  # type: ignore[misc]
    measure.print_table(f"fuzzing, {report['seconds']:.0f} s", columns, report["rows"])
    for kind, reasons in report["reasons"].items():
        rows = [{"reason": reason, "inputs": inputs} for reason, inputs in reasons.items()]
        columns = {"reason": lambda r: r["reason"], "inputs": lambda r: f"{r['inputs']:,}"}
        measure.print_table(f"{kind}: what was refused or reported", columns, rows)
    for defect in report["defects"]:
        print(f"{defect['input']}, seed {defect['seed']}:\n{defect['traceback']}")


if __name__ == "__main__":
    _, report = measure.command(Config, __doc__, run, print_tables)
    sys.exit(1 if report["defects"] else 0)
