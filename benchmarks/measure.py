"""What the speed benchmarks share: the machine, the devices, compiling apart from running, memory, tables and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "recordings"
SYNTHETIC = "synthetic:sessions=8,markets=3,seconds=600,rate=25"  # where no recordings are at hand
PACKAGES = ("kalshi-jax", "jax", "jaxlib", "flax", "gymnax", "numpy")
Rows = list[dict[str, Any]]
Cell = Callable[[dict[str, Any]], str]


def require(fits: bool, name: str, value: object, expected: str) -> None:
    """Refuse an option's value, by its name."""
    if not fits:
        raise ValueError(f"{name}={value}: expected {expected}")


def require_least(config: Any, **least: int) -> None:
    """Refuse options, numbers or lists of them, that are lower than they may be."""
    for name, lowest in least.items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        expected = f"{'one or more numbers, each ' if isinstance(value, tuple) else ''}at least {lowest}"
        require(len(values) > 0 and min(values) >= lowest, name, value, expected)


def default_source() -> list[str]:
    """Name the crypto recordings beside the repository, or the simulated exchange where there are none."""
    return [str(path) for path in sorted(RECORDINGS.glob("kxbtc15m-*.jsonl.gz"))] or [SYNTHETIC]


def describe_source(source: Sequence[str]) -> str:
    """Name a source without where it lies, or a password."""
    from loaders.postgres import redact  # it imports what touches JAX

    names = [redact(part) if ":" in part else Path(part).name for part in source]
    return names[0] if len(names) == 1 else f"{len(names)} sources, {names[0]} to {names[-1]}"


def settings_of(config: Any, source: Sequence[str]) -> dict[str, Any]:
    """Give what was measured, for a report."""
    options = {name: value for name, value in asdict(config).items() if name not in ("json", "plot")}
    return options | {"source": describe_source(source)}


def cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(devices: int) -> None:
    """Make every core a device, or as many as asked for. Before anything that touches JAX is imported: gymnax does."""
    require(devices >= 0, "devices", devices, "0 for all, or more")
    jax.config.update("jax_num_cpu_devices", devices or cores())


def mesh_over(axis: str, devices: int, parts: int) -> Mesh:
    """Take the devices asked for, 0 for all; no more than divide `parts` evenly."""
    available = jax.devices()
    require(devices <= len(available), "devices", devices, f"at most {len(available)}, which JAX has")
    count = next(count for count in range(devices or len(available), 0, -1) if parts % count == 0)
    return Mesh(np.array(available[:count]), axis)


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Say what the figures were measured on, with which packages (None: not installed), and when."""

    def found(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    device, info = jax.devices()[0], Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "versions": {name: found(name) for name in packages} | {"python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine_line(machine: dict[str, Any]) -> str:
    """Write a machine in one line."""
    return "{devices} x {device} ({cpu}, {cores} cores), {system}".format(**machine)


@contextmanager
def compile_cache(folder: str | Path | None) -> Iterator[None]:
    """Keep compiled programs in a folder, or (None) nowhere, so that every compilation is a cold one."""
    values = {
        "jax_enable_compilation_cache": folder is not None,
        "jax_compilation_cache_dir": None if folder is None else str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in values}
    try:
        _configure(values)
        yield
    finally:
        _configure(before)


def _configure(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it remembers what was configured when it was first asked


def compile_ahead(program: Any, *arguments: Any) -> tuple[Any, float]:
    """Trace, lower and compile a jitted function, with nothing known from before in this process: it, and the seconds."""
    jax.clear_caches()
    began = time.perf_counter()
    compiled = program.lower(*arguments).compile()
    return compiled, time.perf_counter() - began


def compile_cold(program: Any, *arguments: Any) -> tuple[Any, float]:
    """Compile ahead without what a cache on disk holds."""
    with compile_cache(None):
        return compile_ahead(program, *arguments)


def in_turns(
    calls: Sequence[Callable[[], Any]],
    repetitions: int,
    least_s: float = 0.0,
    before: Sequence[Callable[[], Any]] = (),
) -> Iterator[tuple[int, float, Any]]:
    """Time calls, each until its results are there, in turns: what else the machine does hits all of them.

    Args:
        calls: what is timed.
        repetitions: of each.
        least_s: each goes on until it has worked so long.
        before: what each does first, not timed.

    Yields:
        the number of the call, its seconds, and what it returned.
    """
    done, spent = [0] * len(calls), [0.0] * len(calls)
    while waiting := [i for i in range(len(calls)) if done[i] < repetitions or spent[i] < least_s]:
        for i in waiting:
            if before:
                before[i]()
            began = time.perf_counter()
            result = jax.block_until_ready(calls[i]())
            elapsed = time.perf_counter() - began
            done[i] += 1
            spent[i] += elapsed
            yield i, elapsed, result


def seconds_of(
    call: Callable[[], Any], repetitions: int, warm_up: int = 1, before: Callable[[], Any] | None = None
) -> list[float]:
    """Time one call again and again; the first times do not count."""
    turns = in_turns([call], warm_up + repetitions, before=[before] if before else ())
    return [seconds for _, seconds, _ in turns][warm_up:]


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def seconds(spread: dict[str, float]) -> str:
    """Write a spread of seconds."""
    return "{median:.3f} ({min:.3f} to {max:.3f})".format(**spread)


def resident_bytes(peak: bool = False) -> int:
    """Memory of this process now, or at its peak.

    The peak is of this program only: `getrusage` of a fresh process would start at the size of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        field = "VmHWM:" if peak else "VmRSS:"
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_bytes() -> int:
    """Peak memory of the first device so far, or of the process where the device is a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", 0)) or resident_bytes()


def progress_bar() -> Progress:
    """Make a progress bar on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def print_table(title: str, columns: dict[str, Cell], rows: Rows) -> None:
    """Print rows under headings, each cell made by its column."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def print_json(report: dict[str, Any]) -> None:
    """Print a report on standard output; NaN is not JSON."""
    print(json.dumps(report, indent=2, allow_nan=False, default=str))


def command(
    config_type: Any,
    description: str | None,
    run: Callable[[Any], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> tuple[Any, dict[str, Any]]:
    """Read a command line, give JAX its devices, run a benchmark, and print its report as tables or JSON; the options, and it."""
    config = tyro.cli(config_type, description=description, config=(tyro.conf.FlagCreatePairsOff,))
    if hasattr(config, "devices"):
        use_cores(config.devices)
    report = run(config)
    (print_json if config.json else show)(report)
    return config, report
