"""Loading: recordings and a PostgreSQL database into a tape, the store, and what a recorded change takes on the device.

Every load runs in a process of its own, so that its peak memory is its own. Wall times begin when JAX has started. The database
is an embedded PostgreSQL server in a temporary folder; its sessions are generated, with so many markets and deltas each, in
whole cents and contracts. Writing them is not measured. A row of the tape is all of a market's deltas of one millisecond.
What a load needs beside the tape's arrays must not grow with the deltas: see the column of that name.

    python -m benchmarks.loading
    python -m benchmarks.loading '../shared/data/recordings/inxd-*' --deltas 0
    python -m benchmarks.loading --markets 1000 --deltas 200_000 1_000_000 5_000_000 --json
    python -m benchmarks.loading --sessions 25 --deltas 200_000
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import measure
from kalshi_jax.tape import NO, YES, Tape
from loaders import load_tape, write_store
from loaders.embedded import embedded_postgres, write_session
from loaders.events import HUNDREDTHS, Events, Kind, Report, Trades

LEVELS = {YES: np.arange(30, 45), NO: np.arange(35, 50)}  # cents: no book ever crosses
START_MS = 1_700_000_000_000
DELTA_MS = 7  # of the whole session, between two deltas


@dataclass(frozen=True)
class Config:
    """Measure how long loading takes, and how much memory."""

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")] = ()
    """Recordings, or "synthetic:..."; by default the crypto recordings beside the repository."""
    sessions: int = 1
    """Sessions of each database."""
    markets: int = 1000
    """Markets of each of them."""
    deltas: tuple[int, ...] = (200_000,)
    """Deltas of each of them, over all its markets: one database for each number; 0 leaves it out."""
    repetitions: int = 3
    """Loads of each kind."""
    seed: int = 0
    """Of the generated sessions."""
    json: bool = False
    """Print JSON instead of the tables."""

    def __post_init__(self) -> None:
        measure.require_least(self, sessions=1, markets=1, deltas=0, repetitions=1)


def generate_session(number: int, markets: int, deltas: int, seed: int) -> Events:
    """Draw a session: a snapshot of every market, then deltas of random markets, levels and sizes."""
    draw = np.random.default_rng((seed, number))
    level = np.concatenate([LEVELS[YES], LEVELS[NO]])
    side = np.repeat([YES, NO], [len(LEVELS[YES]), len(LEVELS[NO])])
    book = 1 + len(level)  # events of a snapshot
    chosen = draw.integers(0, len(level), deltas)
    kind = np.concatenate([np.tile([Kind.CLEAR] + [Kind.SET] * len(level), markets), np.full(deltas, Kind.SET)])
    none = (np.zeros(0, dtype) for dtype in (np.int32, np.int64, np.int32, np.int64, np.int8))
    return Events(
        session_id=f"generated-{number}",
        tickers=[f"KXGENERATED-{i:04d}" for i in range(markets)],
        market=np.concatenate([np.repeat(np.arange(markets), book), draw.integers(0, markets, deltas)]).astype(
            np.int32
        ),
        time_ms=START_MS
        + np.concatenate([np.zeros(markets * book), DELTA_MS * (1 + np.arange(deltas))]).astype(np.int64),
        kind=kind.astype(np.int8),
        side=np.concatenate([np.tile([0, *side], markets), side[chosen]]).astype(np.int8),
        price=np.concatenate([np.tile([0, *level], markets), level[chosen]]).astype(np.int32) * 100,
        size=np.where(kind == Kind.CLEAR, 0, draw.integers(1, 500, len(kind)) * HUNDREDTHS),
        trades=Trades(*none),
        report=Report(),
        synthetic=True,
    )


def load(source: list[str], store: str | None) -> dict[str, Any]:
    """Load a source, in a process of its own; perhaps write the store, and move the tape to the device once more."""
    jax.block_until_ready(jnp.zeros(1) + 1)
    before, began = measure.resident_bytes(peak=True), time.perf_counter()
    tape, index = load_tape(source)
    jax.block_until_ready(tape)
    found: dict[str, Any] = {
        "seconds": time.perf_counter() - began,
        "peak_bytes": measure.resident_bytes(peak=True),
        "peak_before_bytes": before,  # Python, JAX and imports alone
        "sessions": tape.num_sessions,
        "markets": tape.num_markets,
        "rows": int(np.asarray(tape.track_length)[: tape.num_markets].sum()),
        "deltas": sum(session.deltas for session in index.sessions),
        "arrays": {name: getattr(tape, name).nbytes for name in Tape.array_names()},
    }
    if store is not None:
        began = time.perf_counter()
        write_store(store, tape, index)
        found["write_store_s"] = time.perf_counter() - began
        host = [np.array(x) for x in jax.tree.leaves(tape)]
        found["to_device_s"] = median(measure.seconds_of(lambda: [jnp.array(x) for x in host], 3))
    return found


def measure_source(source: list[str], repetitions: int) -> dict[str, Any]:
    """Load a source and its store, each as often as asked for."""

    def apart(*arguments: Any) -> dict[str, Any]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(load, *arguments).result()

    with TemporaryDirectory(prefix="kalshi-jax-") as folder:
        store = str(Path(folder) / "store")
        first = apart(source, store)
        loads = [first, *(apart(source, None) for _ in range(repetitions - 1))]
        again = [apart([store], None) for _ in range(repetitions)]
    total = sum(first["arrays"].values())
    peak, before = (max(x[name] for x in loads) for name in ("peak_bytes", "peak_before_bytes"))
    return {
        **{name: first[name] for name in ("sessions", "markets", "rows", "deltas", "write_store_s", "to_device_s")},
        "load_s": measure.spread([x["seconds"] for x in loads]),
        "store_load_s": measure.spread([x["seconds"] for x in again]),
        "peak_bytes": peak,
        "peak_before_bytes": before,
        "beside_arrays_bytes": peak - before - total,
        "store_peak_bytes": max(x["peak_bytes"] for x in again),
        "tape_bytes": total,
        "bytes_per_row": total / first["rows"],
        "bytes_per_delta": total / max(first["deltas"], 1),
        "bytes_per_row_by_array": {name: size / first["rows"] for name, size in first["arrays"].items()},
    }


def run(config: Config) -> dict[str, Any]:
    """Measure all sources: the report that `--json` prints."""
    source = list(config.source) or measure.default_source()
    rows: measure.Rows = []
    databases = [deltas for deltas in config.deltas if deltas]
    with measure.progress_bar() as bar:
        task = bar.add_task("files", total=1 + len(databases))
        rows.append({"source": measure.describe_source(source), **measure_source(source, config.repetitions)})
        bar.advance(task)
        for deltas in databases:
            bar.update(task, description="PostgreSQL")
            with (
                TemporaryDirectory(prefix="kalshi-jax-") as folder,
                embedded_postgres(Path(folder) / "data") as url,
            ):
                for number in range(config.sessions):
                    write_session(url, generate_session(number, config.markets, deltas, config.seed))
                name = f"PostgreSQL, {config.sessions} x {deltas:,} deltas"
                rows.append({"source": name, **measure_source([url], config.repetitions)})
            bar.advance(task)
    return {"machine": measure.machine(), "settings": measure.settings_of(config, source), "rows": rows}


def print_tables(report: dict[str, Any]) -> None:
    columns: dict[str, measure.Cell] = {
        "source": lambda r: r["source"],
        **{name: lambda r, n=name: f"{r[n]:,}" for name in ("sessions", "markets", "rows", "deltas")},  # type: ignore[misc]
        "load, s (min to max)": lambda r: measure.seconds(r["load_s"]),
        "peak (at start), MB": lambda r: f"{r['peak_bytes'] / 1e6:,.0f} ({r['peak_before_bytes'] / 1e6:,.0f})",
        "arrays, MB": lambda r: f"{r['tape_bytes'] / 1e6:,.0f}",
        "beside the arrays, MB": lambda r: f"{r['beside_arrays_bytes'] / 1e6:,.0f}",
        "write store, s": lambda r: f"{r['write_store_s']:.3f}",
        "from the store, s": lambda r: measure.seconds(r["store_load_s"]),
        "to device, s": lambda r: f"{r['to_device_s']:.3f} ({r['tape_bytes'] / r['to_device_s'] / 1e9:.1f} GB/s)",
        "bytes a row": lambda r: f"{r['bytes_per_row']:,.0f}",
        "bytes a delta": lambda r: f"{r['bytes_per_delta']:,.0f}",
    }
    measure.print_table("loading", columns, report["rows"])
    names = list(report["rows"][0]["bytes_per_row_by_array"])
    cells = [{"array": n, "bytes": [row["bytes_per_row_by_array"][n] for row in report["rows"]]} for n in names]
    by_array: dict[str, measure.Cell] = {"array": lambda r: r["array"]}
    for i, row in enumerate(report["rows"]):
        by_array[row["source"]] = lambda r, i=i: f"{r['bytes'][i]:,.1f}"  # type: ignore[misc]
    measure.print_table("bytes on the device a row, padding included", by_array, cells)


if __name__ == "__main__":
    measure.command(Config, __doc__, run, print_tables)
