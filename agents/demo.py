"""The demo: the whole chain on a simulated exchange, from database rows to a judged agent."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.judge import evaluate_run
from agents.judgement import print_judgement
from agents.runs import TrainConfig
from agents.training import train
from loaders import SessionConfig
from loaders.embedded import embedded_postgres, write_session
from loaders.exchange_sim import SimConfig, simulate_session


@dataclass(frozen=True)
class DemoConfig:
    """How large the demo is."""

    out: Path | None = None
    """Folder of the run and its report; runs/demo-<date and time> by default."""
    sessions: int = 10
    """Sessions to simulate; a fifth of them, at least one, is held out for the evaluation."""
    minutes: int = 15
    """Length of a session."""
    total_steps: int = 2_000_000
    """Environment steps of the training."""
    seed: int = 0
    """Of the exchange and of the training."""

    def __post_init__(self) -> None:
        if self.sessions < 2:
            raise ValueError(
                f"sessions is {self.sessions}: the demo needs at least 2, one to train on and one to judge on"
            )


def run_demo(config: DemoConfig, console: Console) -> dict[str, Any]:
    """Simulate, store, load, train, evaluate, report; say at each stage what is done.

    Returns:
        the report's path, the run, seconds, and the figures of every policy on the held-out sessions.
    """
    began = time.perf_counter()
    out = config.out or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")

    def stage(number: int, text: str) -> None:
        console.print(f"[bold]{number}/5[/bold] {text} [dim]({time.perf_counter() - began:.0f} s)[/dim]")

    stage(
        1,
        f"Simulating an exchange: {config.sessions} sessions of {config.minutes} minutes, 3 markets each. The order flow is "
        "[bold]synthetic[/bold]: nothing below says how an agent would do on the real exchange.",
    )
    exchange = SimConfig(sessions=config.sessions, markets=3, seconds=60 * config.minutes, seed=config.seed)
    with tempfile.TemporaryDirectory(prefix="kalshi-jax-") as folder, embedded_postgres(Path(folder) / "db") as url:
        stage(2, "Writing what a recorder would have stored into a PostgreSQL server in a temporary folder.")
        ids, changes = [], 0
        for number in range(config.sessions):
            events = simulate_session(exchange, number).events
            ids.append(str(write_session(url, events)))
            changes += len(events.market)
        console.print(
            f"    {changes:,} changes of the book in the tables rl_orderbook_snapshots and rl_orderbook_deltas"
        )

        held_out = max(1, config.sessions // 5)
        stage(3, f"Loading sessions {ids[0]} to {ids[-held_out - 1]} through asyncpg and training an agent on them.")
        settings = TrainConfig(
            source=(url,),
            sessions=tuple(ids[:-held_out]),
            out=out,
            total_steps=config.total_steps,
            episode_length=300,
            evaluate_every=20,
            seed=config.seed,
        )
        (result,) = train(settings, console)

        stage(4, f"Judging it on sessions that it has not seen ({', '.join(ids[-held_out:])}), beside other policies.")
        chosen = SessionConfig(session_pool=tuple(ids[-held_out:]))
        judgement, page = evaluate_run(out, [url], chosen, queue_models=(settings.queue_model,))
    print_judgement(console, judgement)
    stage(5, f"The report, for a browser: {page.absolute()}")
    return {
        "report": str(page.absolute()),
        "run": str(out),
        "seconds": time.perf_counter() - began,
        "steps_per_second": result.steps_per_second,
        "policies": judgement.as_json()["queue_models"][settings.queue_model],
    }
